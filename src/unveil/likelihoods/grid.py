"""Cells a step apart: grey levels, integers, rounded readings, as true probabilities."""

import math
from typing import final

import torch
from torch import Tensor

from unveil import distributions
from unveil.distributions import Cells
from unveil.likelihoods.scale import LocationScale, Scale


@final
class DiscretizedLogistic(LocationScale):
    """Cells on a grid (grey levels, integers, rounded readings), as true probabilities.

    P(x) is the mass that a logistic puts on x ± step/2; ``low`` and ``high`` take their tails.
    ``step``, ``low``, ``high`` are in model units and broadcast to the event. The spread's floor
    is a fiftieth of a step: a mass cannot exceed one, so nothing is lost by going no lower.

    >>> family = DiscretizedLogistic((2, 2), step=1.0, low=0.0, high=16.0)
    >>> bool(family(torch.zeros(1, 4)).log_prob(torch.full((1, 2, 2), 3.0)) < 0)
    True
    """

    step: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self,
        event_shape: int | tuple[int, ...],
        scale: Scale | None = None,
        *,
        step: Tensor | float,
        low: Tensor | float = -math.inf,
        high: Tensor | float = math.inf,
    ) -> None:
        super().__init__(event_shape, scale, floor=torch.as_tensor(step) / 50)
        for name, value in (("step", step), ("low", low), ("high", high)):
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32))

    def cells(self, loc: Tensor, scale: Tensor) -> Cells:
        base = distributions.DiscretizedLogistic(
            loc, scale, step=self.step, low=self.low, high=self.high
        )
        return Cells(base, event_dims=len(self.event_shape))
