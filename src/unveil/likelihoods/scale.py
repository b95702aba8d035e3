"""Cells with a location and a spread, and where the spread comes from."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast, final

import torch
from torch import Tensor, nn

from unveil.distributions import Cells
from unveil.families import Family, as_shape, positive, split_parameters


class Scale(nn.Module, ABC):
    """Where a spread comes from: fixed, learned per column, or predicted per row and column."""

    outputs_per_cell: int

    @abstractmethod
    def forward(self, predicted: Sequence[Tensor], floor: Tensor) -> Tensor:
        """The spread, broadcasting to the cells; a learned one stays above ``floor``."""


@final
class FixedScale(Scale):
    """One known spread for every cell, in model units."""

    outputs_per_cell = 0

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        if not value > 0:
            raise ValueError(f"expected a spread above 0, got {value}")
        self.value = value

    def forward(self, predicted: Sequence[Tensor], floor: Tensor) -> Tensor:
        return torch.full_like(floor, self.value)


@final
class ColumnScale(Scale):
    """One learned spread per column (or pixel), the same in every row."""

    outputs_per_cell = 0

    def __init__(self, event_shape: int | tuple[int, ...]) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(as_shape(event_shape)))

    def forward(self, predicted: Sequence[Tensor], floor: Tensor) -> Tensor:
        return floor + positive(self.raw)


@final
class CellScale(Scale):
    """A spread for every cell, predicted from z like the location."""

    outputs_per_cell = 1

    def forward(self, predicted: Sequence[Tensor], floor: Tensor) -> Tensor:
        (raw,) = predicted
        return floor + positive(raw)


class LocationScale(Family, ABC):
    """Cells with a location from the network and a spread from a ``Scale``.

    ``floor`` is the smallest spread, in model units. A density with a learned spread is unbounded
    without one (Mattei & Frellsen 2018), so it is part of the model, saved and reported with it.
    """

    floor: Tensor

    def __init__(
        self, event_shape: int | tuple[int, ...], scale: Scale | None, floor: Tensor | float
    ) -> None:
        super().__init__()
        self.event_shape = as_shape(event_shape)
        self.scale = ColumnScale(self.event_shape) if scale is None else scale
        self.num_parameters = math.prod(self.event_shape) * (1 + self.scale.outputs_per_cell)
        self.register_buffer("floor", torch.as_tensor(floor, dtype=torch.float32))

    @abstractmethod
    def cells(self, loc: Tensor, scale: Tensor) -> Cells:
        """The distribution of the cells, given location and spread of each."""

    @property
    def smallest_scale(self) -> Tensor:
        """The spread that none is below, broadcasting to the cells."""
        lowest = [torch.full_like(self.floor, -math.inf)] * self.scale.outputs_per_cell
        return cast(Tensor, self.scale(lowest, self.floor))

    def forward(self, raw: Tensor) -> Cells:
        loc, *predicted = split_parameters(raw, self.event_shape)
        return self.cells(loc, cast(Tensor, self.scale(predicted, self.floor.to(loc.dtype))))

    def start(self, mean: Tensor) -> Tensor:
        spreads = self.num_parameters - mean.numel()
        return torch.cat([mean.flatten(), mean.new_zeros(spreads)])
