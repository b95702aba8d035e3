"""Rows resident on the device in their compact type, and batches taken from them."""

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Generator, Tensor


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
        ones = torch.rand(p.shape, generator=generator, device=p.device) < p
        return torch.where(torch.isnan(p), p, ones.to(torch.float32))

    def to(self, device: torch.device) -> "Binarized":
        return Binarized(self.levels.to(device), low=self.low, high=self.high)
