"""p(x|z): what a row may look like once its latent variables are known.

Every family here sums over observed cells only (see ``Cells``) and is measured in the data's own
units: a density per unit of the data for real columns, a true probability for counted ones.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast, final

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from unveil import distributions
from unveil.distributions import Binary, Cells, Joined
from unveil.families import Family, as_shape, positive, split_parameters

# A cell that was always 0 may still be 1 in a new row.
FARTHEST_START = 1e-3


@final
class Bernoulli(Family):
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

    def forward(self, raw: Tensor) -> Cells:
        loc, *predicted = split_parameters(raw, self.event_shape)
        return self.cells(loc, cast(Tensor, self.scale(predicted, self.floor.to(loc.dtype))))

    def start(self, mean: Tensor) -> Tensor:
        spreads = self.num_parameters - mean.numel()
        return torch.cat([mean.flatten(), mean.new_zeros(spreads)])


@final
class Gaussian(LocationScale):
    """Real cells: x_j ~ N(μ_j, σ_j²), as a density per unit of the data.

    ``unit`` (broadcasting to the event) is the column's unit in x = (value − shift)/unit, whose
    Jacobian −log unit is part of log p. ``scale`` is a FixedScale, a ColumnScale (default) or a
    CellScale.

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


@final
class Columns(Family):
    """Columns of several kinds in one row, each kind one family over all its columns at once.

    ``parts`` are pairs (columns, family); the columns name 0 … d−1 once between them.

    >>> mixed = Columns([((0, 2), Gaussian(2)), ((1,), Bernoulli(1))])
    >>> mixed.num_parameters, mixed(torch.zeros(4, 3)).event_shape
    (3, torch.Size([3]))
    """

    def __init__(self, parts: Sequence[tuple[Sequence[int], Family]]) -> None:
        super().__init__()
        indices = [torch.as_tensor(tuple(columns), dtype=torch.long) for columns, _ in parts]
        named = sorted(int(i) for index in indices for i in index)
        if named != list(range(len(named))):
            raise ValueError(f"expected the parts to name columns 0 … d−1 once, got {named}")
        for index, (_, family) in zip(indices, parts, strict=True):
            if family.event_shape != (len(index),):
                raise ValueError(
                    f"expected a family over the {len(index)} columns of its part, got one over "
                    f"{family.event_shape}; give it event shape ({len(index)},)"
                )
        self.families = nn.ModuleList(family for _, family in parts)
        for number, index in enumerate(indices):
            self.register_buffer(f"columns_{number}", index, persistent=False)
        self.event_shape = (len(named),)
        self.num_parameters = sum(family.num_parameters for _, family in parts)

    def forward(self, raw: Tensor) -> Distribution:
        families = cast(Sequence[Family], self.families)
        pieces = torch.split(raw, [family.num_parameters for family in families], dim=-1)
        return Joined(
            [
                (cast(Tensor, getattr(self, f"columns_{number}")), cast(Cells, family(piece)))
                for number, (family, piece) in enumerate(zip(families, pieces, strict=True))
            ]
        )

    def start(self, mean: Tensor) -> Tensor:
        families = cast(Sequence[Family], self.families)
        return torch.cat(
            [
                family.start(mean[cast(Tensor, getattr(self, f"columns_{number}"))])
                for number, family in enumerate(families)
            ]
        )
