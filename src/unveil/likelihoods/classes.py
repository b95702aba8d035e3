"""Cells that are one of several classes, by their codes 0, 1, …, C − 1."""

import math
from abc import ABC
from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from unveil.distributions import Cells, Plain, draw
from unveil.families import (
    MassFamily,
    as_shape,
    beside_cells,
    positive,
    side_by_side,
    split_parameters,
)

# A rank that no row has had would otherwise close up between its cut points, and a new row that
# has it would be impossible.
SMALLEST_GAP = 1e-4
# A column that was always at one end may still leave it in a new row.
FARTHEST_START = 1e-3


class Codes(Plain, ABC):
    """Codes 0 … C − 1 with log P(k) = ``log_masses``[..., k], (*batch, C).

    A value that is no code (a fraction, a negative number, C or more) has mass 0, log −∞.
    """

    def __init__(self, log_masses: Tensor) -> None:
        self.log_masses = log_masses
        super().__init__(log_masses.shape[:-1], validate_args=False)

    @property
    def codes(self) -> Tensor:
        """0, 1, …, C − 1, in the dtype of the masses."""
        return torch.arange(self.log_masses.shape[-1]).to(self.log_masses)

    def log_prob(self, value: Tensor) -> Tensor:
        is_code = value.unsqueeze(-1) == self.codes
        return torch.where(is_code, self.log_masses, -math.inf).amax(-1)

    def cdf(self, value: Tensor) -> Tensor:
        up_to = self.codes <= value.unsqueeze(-1)
        return torch.where(up_to, self.log_masses.exp(), 0.0).sum(-1)


@draw.register
def _(distribution: Codes, shape: Sequence[int], generator: Generator) -> Tensor:
    p = distribution.log_masses.detach().exp()
    # The last step of the distribution function is 1, whatever the rounding of the others.
    up_to = p.cumsum(-1)[..., :-1]
    u = torch.rand((*shape, *p.shape[:-1]), generator=generator, device=p.device, dtype=p.dtype)
    return (u.unsqueeze(-1) >= up_to).sum(-1).to(p.dtype)


@final
class Classes(Codes):
    """Codes without an order, so that no average of them means anything.

    >>> Classes(torch.tensor([0.2, 0.5, 0.3]).log()).mean
    tensor(1.)
    """

    @property
    def mean(self) -> Tensor:
        """The most probable class, which stands where other cells have a mean."""
        return self.log_masses.argmax(-1).to(self.log_masses.dtype)


@final
class Ranks(Codes):
    """Codes in an order, evenly far apart.

    >>> Ranks(torch.tensor([0.2, 0.5, 0.3]).log()).mean
    tensor(1.1000)
    """

    @property
    def mean(self) -> Tensor:
        """The expected rank Σ_k k P(k)."""
        return (self.codes * self.log_masses.exp()).sum(-1)


def _require_classes(num_classes: int) -> None:
    if num_classes < 2:
        raise ValueError(
            f"expected 2 classes or more, got {num_classes}; leave a column out that has only one"
        )


@final
class Categorical(MassFamily):
    """Cells of C classes without an order: log P(k|z) = raw_k − log Σ_l exp raw_l.

    raw (..., C · cells) holds a logit of every class for each cell, class by class. Values are
    codes 0 … C − 1; anything else has log P = −∞. A class has no mean: where one is asked for, the
    most probable class is given. Raises ValueError for fewer than two classes.

    >>> Categorical(1, num_classes=4)(torch.zeros(1, 4)).log_prob(torch.tensor([[3.0]])).exp()
    tensor([0.2500])
    """

    def __init__(self, event_shape: int | tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        _require_classes(num_classes)
        self.event_shape, self.num_classes = as_shape(event_shape), num_classes
        self.num_parameters = math.prod(self.event_shape) * num_classes

    def forward(self, raw: Tensor) -> Cells:
        logits = beside_cells(raw, self.num_classes, self.event_shape)
        return Cells(Classes(F.log_softmax(logits, dim=-1)), event_dims=len(self.event_shape))

    def start_at(self, x: Tensor) -> Tensor:
        """The classes' log frequencies, each counted once more than it was seen."""
        codes = torch.arange(self.num_classes).to(x)
        return side_by_side(torch.log(1 + (x[..., None] == codes).sum(0)).to(x))


@final
class Ordinal(MassFamily):
    """Cells of C classes in an order: one location m per cell, against cut points per column.

        P(x ≤ k|z) = σ(c_k − m),   c_0 < c_1 < … < c_{C−2}

    (proportional odds). raw (..., cells) holds the locations; the cut points are the family's own
    parameters, evenly spread around 0 at the start. Each mass is computed as
    log σ(c_k − m) + log σ(m − c_{k−1}) + log(1 − e^(c_{k−1} − c_k)), which never subtracts two
    near-equal numbers. Values are codes 0 … C − 1; anything else has log P = −∞. The mean is the
    expected rank. Raises ValueError for fewer than two classes.

    Source: McCullagh 1980.

    >>> Ordinal(1, num_classes=2)(torch.zeros(1, 1)).log_prob(torch.zeros(1, 1)).exp().detach()
    tensor([0.5000])
    """

    def __init__(self, event_shape: int | tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        _require_classes(num_classes)
        self.event_shape, self.num_classes = as_shape(event_shape), num_classes
        self.num_parameters = math.prod(self.event_shape)
        self.raw_cuts = nn.Parameter(torch.zeros(*self.event_shape, num_classes - 1))

    @property
    def _gaps(self) -> Tensor:
        """c_k − c_{k−1}, (*event, C − 2)."""
        return SMALLEST_GAP + positive(self.raw_cuts[..., 1:])

    @property
    def cuts(self) -> Tensor:
        """The cut points c_0 < … < c_{C−2} of every column, (*event, C − 1)."""
        first = self.raw_cuts[..., :1] - (self.num_classes - 2) / 2
        return torch.cat([first, first + self._gaps.cumsum(-1)], dim=-1)

    def forward(self, raw: Tensor) -> Cells:
        (loc,) = split_parameters(raw, self.event_shape)
        beyond = self.cuts - loc.unsqueeze(-1)
        # An end has no cut point on one of its sides, which a log of 0 stands for.
        log_masses = (
            F.pad(F.logsigmoid(beyond), (0, 1))
            + F.pad(F.logsigmoid(-beyond), (1, 0))
            + F.pad(torch.log(-torch.expm1(-self._gaps)), (1, 1))
        )
        return Cells(Ranks(log_masses), event_dims=len(self.event_shape))

    def start(self, mean: Tensor) -> Tensor:
        # Σ_k σ(m − c_k), the expected rank, is nearly an integral over cuts one apart, and that
        # is a difference of two softplus, which has an inverse.
        top = self.num_classes - 1
        rank = mean.flatten().clamp(FARTHEST_START, top - FARTHEST_START)
        log_ratio = torch.log(torch.expm1(-rank) / torch.expm1(rank - top))
        return rank - top / 2 + log_ratio
