"""Rows resident on the device in their compact type or left in their file, and batches of them."""

from abc import ABC, abstractmethod
from typing import final

import numpy as np
import torch
from torch import Generator, Tensor

from unveil.data.encode import encode
from unveil.data.read import Rows
from unveil.data.schema import Schema


class Source(ABC):
    """Rows that training takes batches from."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, index: Tensor, generator: Generator) -> Tensor:
        """The rows at ``index`` (row,) in model units, float32 (row, *event); NaN is missing."""

    @abstractmethod
    def to(self, device: torch.device) -> "Source":
        """The same rows, resident on a device."""


@final
class Stored(Source):
    """Values kept as they came (grey levels stay bytes): x = (value − shift)/unit at each batch.

    >>> levels = torch.tensor([[0, 16], [8, 8]], dtype=torch.uint8)
    >>> Stored(levels, shift=8.0, unit=8.0).batch(torch.tensor([0]), Generator())
    tensor([[-1.,  1.]])
    """

    def __init__(self, values: Tensor, *, shift: float = 0.0, unit: float = 1.0) -> None:
        self.values, self.shift, self.unit = values, shift, unit

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, index: Tensor, generator: Generator) -> Tensor:
        rows = self.values[index]
        if rows.is_floating_point() and (self.shift, self.unit) == (0.0, 1.0):
            return rows
        return (rows.to(torch.float32) - self.shift) / self.unit

    def to(self, device: torch.device) -> "Stored":
        return Stored(self.values.to(device), shift=self.shift, unit=self.unit)


@final
class Binarized(Source):
    """Grey levels read as probabilities of a 1, drawn afresh at every batch.

    Fresh draws are a model of the grey picture, not of one fixed binarisation of it, and overfit
    less (Burda et al. 2016).

    >>> Binarized(torch.tensor([[0, 255]], dtype=torch.uint8), low=0.0, high=255.0).batch(
    ...     torch.tensor([0]), Generator()
    ... )
    tensor([[0., 1.]])
    """

    def __init__(self, levels: Tensor, *, low: float, high: float) -> None:
        self.levels, self.low, self.high = levels, low, high

    def __len__(self) -> int:
        return len(self.levels)

    def batch(self, index: Tensor, generator: Generator) -> Tensor:
        p = (self.levels[index].to(torch.float32) - self.low) / (self.high - self.low)
        return _ones(p, generator)

    def to(self, device: torch.device) -> "Binarized":
        return Binarized(self.levels.to(device), low=self.low, high=self.high)


@final
class Mapped(Source):
    """Rows that fit the schema, left where they are: a batch fetches its own rows and no others.

    For arrays in their file, larger than memory, and for sparse counts: only a batch is ever read,
    made dense and encoded.

    >>> from unveil.data.schema import Column
    >>> schema = Schema((2,), (Column("a", "real", shift=1.0), Column("b", "real")), gaps=False)
    >>> Mapped(schema, Rows(np.array([[1.0, 2.0], [3.0, 4.0]]))).batch(
    ...     torch.tensor([1, 1]), Generator()
    ... )
    tensor([[2., 4.],
            [2., 4.]])
    """

    def __init__(
        self,
        schema: Schema,
        rows: Rows,
        positions: np.ndarray | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.schema, self.rows, self.device = schema, rows, device
        self.positions = np.arange(len(rows)) if positions is None else positions

    def __len__(self) -> int:
        return len(self.positions)

    def batch(self, index: Tensor, generator: Generator) -> Tensor:
        fetched = self.rows.take(self.positions[index.cpu().numpy()])
        return torch.from_numpy(encode(self.schema, fetched)).to(self.device or index.device)

    def to(self, device: torch.device) -> "Mapped":
        return Mapped(self.schema, self.rows, self.positions, device)


@final
class Drawn(Source):
    """Rows of probabilities of a 1, drawn afresh at every batch, as ``Binarized`` does.

    >>> Drawn(Stored(torch.tensor([[0.0, 1.0]]))).batch(torch.tensor([0]), Generator())
    tensor([[0., 1.]])
    """

    def __init__(self, probabilities: Source) -> None:
        self.probabilities = probabilities

    def __len__(self) -> int:
        return len(self.probabilities)

    def batch(self, index: Tensor, generator: Generator) -> Tensor:
        return _ones(self.probabilities.batch(index, generator), generator)

    def to(self, device: torch.device) -> "Drawn":
        return Drawn(self.probabilities.to(device))


def _ones(p: Tensor, generator: Generator) -> Tensor:
    """1 with probability p, else 0; NaN stays."""
    ones = torch.rand(p.shape, generator=generator, device=p.device) < p
    return torch.where(torch.isnan(p), p, ones.to(torch.float32))
