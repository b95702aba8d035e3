"""Cells that are any number, as a density per unit of the data."""

from typing import final

import torch
from torch import Tensor
from torch.distributions import Normal

from unveil.distributions import Cells
from unveil.likelihoods.scale import LocationScale, Scale


@final
class Gaussian(LocationScale):
    """Real cells: x_j ~ N(μ_j, σ_j²), as a density per unit of the data.

    ``unit`` (broadcasting to the event) is the column's unit in x = (value − shift)/unit, whose
    Jacobian −log unit is part of log p. ``scale`` is a FixedScale, a ColumnScale (default) or a
    CellScale.

    >>> from unveil import FixedScale
    >>> family = Gaussian(1, FixedScale(1.0), unit=10.0)     # x = 0 stands for value = shift
    >>> density = family(torch.zeros(1, 1)).log_prob(torch.zeros(1, 1)).exp()
    >>> round(float(density), 5)                             # 1/(10 √2π)
    0.03989
    """

    log_unit: Tensor

    def __init__(
        self,
        event_shape: int | tuple[int, ...],
        scale: Scale | None = None,
        *,
        unit: Tensor | float = 1.0,
        floor: float = 0.01,
    ) -> None:
        super().__init__(event_shape, scale, floor)
        self.register_buffer("log_unit", torch.as_tensor(unit, dtype=torch.float64).log())

    def cells(self, loc: Tensor, scale: Tensor) -> Cells:
        base = Normal(loc, scale.expand_as(loc), validate_args=False)
        log_unit = self.log_unit.to(loc.dtype)
        return Cells(base, event_dims=len(self.event_shape), log_unit=log_unit)
