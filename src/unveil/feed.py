"""From rows in the data's own units to what a model eats: whole tensors, or a source of batches."""

import math
import os

import numpy as np
import torch
from torch import Tensor

from unveil.data.covariates import Covariates
from unveil.data.encode import digests, encode
from unveil.data.read import Rows
from unveil.data.schema import Schema
from unveil.data.sparse import Matrix, SparseCounts
from unveil.data.stream import Binarized, Drawn, Mapped, Source, Stored
from unveil.noise import RowStreams

# Bytes as float32 up to which sparse counts are made dense once and for all, for faster batches.
LARGEST_DENSE = 2.0**28
# The share of the machine's memory that training rows may fill before they are left in their file.
SHARE_OF_MEMORY = 0.25
USUAL_MEMORY = 8 * 2**30  # where a system does not say


def to_tensor(schema: Schema, rows: Rows, seed: int, given: Tensor | None = None) -> Tensor:
    """Rows that fit the schema, in model units, float32 (row, *event); NaN is missing.

    Where cells are probabilities of a 1, each row is drawn once, from its own stream: the same row
    under the same covariates ``given`` gives the same draw wherever it stands.
    """
    x = torch.from_numpy(encode(schema, rows))
    if not schema.draws_cells:
        return x
    keys = digests(rows.values, None if given is None else given.cpu().numpy())
    ones = RowStreams(seed, "binarise", keys).uniform(1, *x.shape[1:])[0] < x
    return torch.where(torch.isnan(x), x, ones.to(x))


def to_given(
    covariates: Covariates, rows: Rows, device: torch.device | str = "cpu"
) -> Tensor | None:
    """The rows' covariates as the networks see them, float32 (row, covariate); None without any.

    Raises InputError for a covariate that is missing or that the model has never seen.

    >>> to_given(Covariates(()), Rows(np.eye(2))) is None
    True
    """
    return torch.from_numpy(covariates.encode(rows)).to(device) if covariates.columns else None


def to_exposures(covariates: Covariates, given: Tensor | None) -> Tensor | None:
    """What the counts of each row are proportional to, (row,) float64; None where that is nothing.

    >>> to_exposures(Covariates(()), None) is None
    True
    """
    if given is None or covariates.exposure is None:
        return None
    return given[:, covariates.exposure].double().cpu()


def to_tensors(
    schema: Schema,
    covariates: Covariates,
    rows: Rows,
    seed: int,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor | None]:
    """What a model sees of rows: x in model units, and what is given with them."""
    given = to_given(covariates, rows)
    x = to_tensor(schema, rows, seed, given)
    return x.to(device), None if given is None else given.to(device)


def digests_of(rows: Rows, covariates: Covariates) -> np.ndarray:
    """What tells rows apart, covariates included, uint64 (row, 2)."""
    return digests(rows.values, covariates.encode(rows) if covariates.columns else None)


def to_source(schema: Schema, rows: Rows, positions: np.ndarray | None = None) -> Source:
    """The same rows, or those at ``positions``, as a source of training batches.

    They are resident in their compact type: grey levels of one byte stay one byte. Rows in a file
    that would fill SHARE_OF_MEMORY stay there, and so do sparse counts above LARGEST_DENSE: each
    batch fetches its own. Cells that are probabilities are drawn afresh at each batch.

    >>> from unveil.data.schema import Column
    >>> schema = Schema((2, 1), (Column("cell", "grid", step=1.0),), gaps=False)
    >>> images = Rows(np.array([[[1], [2]], [[3], [4]]], np.uint8))
    >>> to_source(schema, images, np.array([1])).batch(torch.tensor([0]), torch.Generator())
    tensor([[[3.],
             [4.]]])
    """
    column = schema.columns[0]
    compact = schema.shared and rows.values.dtype == np.uint8 and not column.levels
    kept = len(rows) if positions is None else len(positions)
    if kept * schema.dims * (1 if compact else 4) > _room(rows.values):
        mapped = Mapped(schema, rows, positions)
        return Drawn(mapped) if schema.draws_cells else mapped
    chosen = rows if positions is None else rows.take(positions)
    if schema.draws_cells and compact:
        return Binarized(_resident(chosen.dense), low=column.low, high=column.high)
    if schema.draws_cells:
        return Binarized(torch.from_numpy(encode(schema, chosen)), low=0.0, high=1.0)
    if compact:
        return Stored(_resident(chosen.dense), shift=column.shift, unit=column.unit)
    return Stored(torch.from_numpy(encode(schema, chosen)))


def _resident(values: np.ndarray) -> Tensor:
    """The values in memory of their own, unless they are there already."""
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def _room(values: Matrix) -> float:
    """Bytes that such values may take before they are left as they are."""
    if isinstance(values, SparseCounts):
        return min(LARGEST_DENSE, _memory_to_fill())
    return _memory_to_fill() if isinstance(values, np.memmap) else math.inf


def _memory_to_fill() -> float:
    """Bytes of the machine's memory that training rows may take."""
    if not hasattr(os, "sysconf"):
        return SHARE_OF_MEMORY * USUAL_MEMORY
    return SHARE_OF_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
