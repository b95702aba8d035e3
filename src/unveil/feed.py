"""From rows in the data's own units to what a model eats: whole tensors, or a source of batches."""

import numpy as np
import torch
from torch import Tensor

from unveil.data.encode import digests, encode
from unveil.data.read import Rows
from unveil.data.schema import Schema
from unveil.data.stream import Binarized, Source, Stored
from unveil.noise import RowStreams


def to_tensor(schema: Schema, rows: Rows, seed: int) -> Tensor:
    """Rows that fit the schema, in model units, float32 (row, *event); NaN is missing.

    Where cells are probabilities of a 1, each row is drawn once, from its own stream: the same row
    gives the same draw wherever it stands.
    """
    x = torch.from_numpy(encode(schema, rows))
    if not schema.draws_cells:
        return x
    streams = RowStreams(seed, "binarise", digests(rows.values))
    ones = streams.uniform(1, *x.shape[1:])[0] < x
    return torch.where(torch.isnan(x), x, ones.to(x))


def to_source(schema: Schema, rows: Rows) -> Source:
    """The same rows as a source of training batches, resident in their compact type.

    Grey levels of one byte stay one byte; cells that are probabilities are drawn afresh at each
    batch.
    """
    column = schema.columns[0]
    compact = schema.shared and rows.values.dtype == np.uint8
    if schema.draws_cells and compact:
        return Binarized(torch.from_numpy(rows.values), low=column.low, high=column.high)
    if schema.draws_cells:
        return Binarized(torch.from_numpy(encode(schema, rows)), low=0.0, high=1.0)
    if compact:
        return Stored(torch.from_numpy(rows.values), shift=column.shift, unit=column.unit)
    return Stored(torch.from_numpy(encode(schema, rows)))
