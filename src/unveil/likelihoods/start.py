"""Where a decoder starts, for families whose mean has no inverse in closed form."""

from collections.abc import Callable

import torch
from torch import Tensor

# No raw number starts farther from 0; halved so often, nothing is left of it in float64.
_FARTHEST = 1e6
_HALVINGS = 80


def solve(increasing: Callable[[Tensor], Tensor], target: Tensor) -> Tensor:
    """The t at which an increasing function takes the value ``target``, cell by cell: bisection.

    ``increasing`` takes a tensor of target's shape, in float64, and gives another. Where the target
    is out of reach the nearest end of ±10⁶ is the answer.

    >>> solve(lambda t: t**3, torch.tensor([-8.0, 27.0]))
    tensor([-2.,  3.])
    """
    middle = torch.zeros_like(target, dtype=torch.float64)
    for halving in range(1, _HALVINGS + 1):
        below = increasing(middle) < target
        middle = middle + torch.where(below, _FARTHEST, -_FARTHEST) * 0.5**halving
    return middle.detach().to(target.dtype)
