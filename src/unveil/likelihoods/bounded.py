"""Cells between two ends or on a circle, as a density per unit of the data, kept bounded."""

import math
from abc import ABC
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from unveil.distributions import Cells
from unveil.families import Family, as_shape


class BoundedDensity(Family, ABC):
    """Cells whose density has no spread of its own to be floored, but natural parameters to be
    capped.

    The network gives ``NUMBERS`` per cell. ``unit`` (broadcasting to the event) is the column's
    unit in x = (value − shift)/unit, whose Jacobian −log unit is part of log p.
    """

    NUMBERS: ClassVar[int]
    log_unit: Tensor

    def __init__(
        self,
        event_shape: int | tuple[int, ...],
        *,
        unit: Tensor | float = 1.0,
        floor: float = 0.01,
    ) -> None:
        super().__init__()
        self.event_shape = as_shape(event_shape)
        self.num_parameters = self.NUMBERS * math.prod(self.event_shape)
        self.floor = floor
        self.register_buffer("log_unit", torch.as_tensor(unit, dtype=torch.float64).log())

    def cells(self, base: Distribution, dtype: torch.dtype) -> Cells:
        """Cells with these densities in model units, (..., *event)."""
        log_unit = self.log_unit.to(dtype)
        return Cells(base, event_dims=len(self.event_shape), log_unit=log_unit)
