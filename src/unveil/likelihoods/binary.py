"""Cells that are 0 or 1."""

import math
from typing import final

import torch
from torch import Tensor

from unveil.distributions import Binary, Cells
from unveil.families import MassFamily, as_shape, split_parameters

# A cell that was always 0 may still be 1 in a new row.
FARTHEST_START = 1e-3


@final
class Bernoulli(MassFamily):
    """Cells that are 0 or 1: log P(x|z) = x log π + (1 − x) log(1 − π), π = sigmoid(raw).

    >>> Bernoulli(3)(torch.zeros(2, 3)).log_prob(torch.ones(2, 3)).exp()
    tensor([0.1250, 0.1250])
    """

    def __init__(self, event_shape: int | tuple[int, ...]) -> None:
        super().__init__()
        self.event_shape = as_shape(event_shape)
        self.num_parameters = math.prod(self.event_shape)

    def forward(self, raw: Tensor) -> Cells:
        (logits,) = split_parameters(raw, self.event_shape)
        return Cells(Binary(logits), event_dims=len(self.event_shape))

    def start(self, mean: Tensor) -> Tensor:
        return torch.logit(mean.flatten().clamp(FARTHEST_START, 1 - FARTHEST_START))
