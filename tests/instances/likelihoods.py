"""Every likelihood, with the values that its cells can take."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

import unveil
from unveil.families import Family
from unveil.likelihoods.scale import Scale


@final
@dataclass(frozen=True, kw_only=True)
class Cell:
    """The values that one cell can take, in model units, and what each of them measures.

    Σ_v measure(v) p(v) = 1: the measure is 1 for a mass, a quadrature weight in the DATA's units
    for a density. ``far`` is as far out as a legal value goes, ``centre`` is a usual one, and
    ``mean`` takes the values and their probabilities.
    """

    values: Tensor
    measure: Tensor
    counted: bool
    far: float
    centre: float = 0.0
    mean: Callable[[Tensor, Tensor], Tensor] = lambda values, p: (values * p).sum()


def real(unit: float = 1.0, reach: float = 40.0, step: float = 0.02) -> Cell:
    values = torch.arange(-reach, reach + step / 2, step, dtype=torch.float64)
    measure = torch.full_like(values, step * unit)
    return Cell(values=values, measure=measure, counted=False, far=1e4)


def positive(unit: float = 1.0) -> Cell:
    """Equal steps of log x, for dx = x d log x."""
    logs = real(unit)
    values = logs.values.exp()
    return Cell(values=values, measure=logs.measure * values, counted=False, far=1e30, centre=1.0)


def amounts(unit: float = 1.0) -> Cell:
    """0 itself, and equal steps of log x above it."""
    above = positive(unit)
    return replace(
        above,
        values=torch.cat([torch.zeros(1).double(), above.values]),
        measure=torch.cat([torch.ones(1).double(), above.measure]),
    )


def between(low: float, high: float, unit: float, number: int = 4000) -> Cell:
    """The middles of equal pieces from low to high."""
    step = (high - low) / number
    values = low + step * (torch.arange(number, dtype=torch.float64) + 0.5)
    return Cell(
        values=values,
        measure=torch.full_like(values, step * unit),
        counted=False,
        far=high,
        centre=(low + high) / 2,
    )


def angle(unit: float = 1.0) -> Cell:
    """Once around the circle; the mean is a direction."""
    return replace(
        between(-math.pi, math.pi, unit),
        far=1e4,
        mean=lambda values, p: torch.atan2((values.sin() * p).sum(), (values.cos() * p).sum()),
    )


def counted(values: Tensor) -> Cell:
    values = values.double()
    return Cell(values=values, measure=torch.ones_like(values), counted=True, far=float(values[-1]))


def grid(step: float, low: int, high: int) -> Cell:
    """The multiples of a step (as float32 holds it) from low·step to high·step."""
    return counted(torch.tensor(step).double() * torch.arange(low, high + 1))


@final
@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """A family of p(x|z), and for every cell of a flattened row the values it can take.

    Raw numbers moved by ``nudge`` make another distribution, near but not the same. The values of a
    row ``have_mean`` unless they are classes.
    """

    name: str
    make: Callable[[], Family]
    cells: tuple[Cell, ...]
    nudge: Tensor | float = 0.8
    have_mean: bool = True

    def family(self, dtype: torch.dtype = torch.float64) -> Family:
        return self.make().to(dtype)

    def rows(self, number: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        """Rows of legal values, near each cell's centre."""
        generator = torch.Generator().manual_seed(seed)
        columns = []
        for cell in self.cells:
            near = cell.values[(cell.values - cell.centre).abs().argsort()[:200]]
            columns.append(near[torch.randint(len(near), (number,), generator=generator)])
        event = self.make().event_shape
        return torch.stack(columns, -1).unflatten(-1, event).to(dtype)

    def raw(self, number: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        """What a network might deliver."""
        generator = torch.Generator().manual_seed(seed)
        width = self.make().num_parameters
        return torch.randn(number, width, generator=generator, dtype=torch.float64).to(dtype)


def _mixed() -> Family:
    return unveil.Columns(
        [
            ((0, 3), unveil.Gaussian(2, unveil.CellScale(), unit=torch.tensor([2.0, 0.5]))),
            ((1,), unveil.Bernoulli(1)),
            ((2,), unveil.DiscretizedLogistic(1, step=0.5, low=-2.0, high=2.0)),
        ]
    )


LIKELIHOODS = (
    Likelihood(
        name="bernoulli",
        make=lambda: unveil.Bernoulli(3),
        cells=(counted(torch.arange(2)),) * 3,
    ),
    Likelihood(
        name="bernoulli image",
        make=lambda: unveil.Bernoulli((2, 2)),
        cells=(counted(torch.arange(2)),) * 4,
    ),
    Likelihood(
        name="gaussian, a spread per column",
        make=lambda: unveil.Gaussian(2),
        cells=(real(), real()),
    ),
    Likelihood(
        name="gaussian, a known spread, in units of 10 and 0.1",
        make=lambda: unveil.Gaussian(
            2, unveil.FixedScale(0.5), unit=torch.tensor([10.0, 0.1], dtype=torch.float64)
        ),
        cells=(real(10.0), real(0.1)),
    ),
    Likelihood(
        name="gaussian image, a spread per cell",
        make=lambda: unveil.Gaussian((1, 2), unveil.CellScale(), unit=3.0),
        cells=(real(3.0), real(3.0)),
    ),
    Likelihood(
        name="discretized logistic on 0 ... 16",
        make=lambda: unveil.DiscretizedLogistic((2, 1), step=1.0, low=0.0, high=16.0),
        cells=(grid(1.0, 0, 16),) * 2,
    ),
    Likelihood(
        name="discretized logistic without ends",
        make=lambda: unveil.DiscretizedLogistic(2, unveil.CellScale(), step=0.3),
        cells=(grid(0.3, -600, 600),) * 2,
    ),
    Likelihood(
        name="discretized logistic with one end",
        make=lambda: unveil.DiscretizedLogistic(1, step=0.5, low=-1.0),
        cells=(grid(0.5, -2, 200),),
    ),
    Likelihood(
        name="discretized logistic, a step far below the spread",
        make=lambda: unveil.DiscretizedLogistic(1, unveil.FixedScale(2.0), step=0.001),
        cells=(grid(0.001, -80_000, 80_000),),
    ),
    Likelihood(
        name="discretized logistic, a step far above the spread",
        make=lambda: unveil.DiscretizedLogistic(
            1, unveil.FixedScale(0.05), step=1.0, low=-3.0, high=3.0
        ),
        cells=(grid(1.0, -3, 3),),
    ),
    Likelihood(
        name="poisson",
        make=lambda: unveil.Poisson(3),
        cells=(counted(torch.arange(200)),) * 3,
    ),
    Likelihood(
        name="negative binomial, a dispersion per column",
        make=lambda: unveil.NegativeBinomial(2),
        cells=(counted(torch.arange(1000)),) * 2,
    ),
    Likelihood(
        name="negative binomial image, a dispersion per cell",
        make=lambda: unveil.NegativeBinomial((1, 2), unveil.CellScale()),
        cells=(counted(torch.arange(5000)),) * 2,
    ),
    Likelihood(
        name="negative binomial, a known dispersion and extra zeros",
        make=lambda: unveil.ZeroInflated(unveil.NegativeBinomial(2, unveil.FixedScale(0.3))),
        cells=(counted(torch.arange(500)),) * 2,
    ),
    Likelihood(
        name="poisson image with extra zeros",
        make=lambda: unveil.ZeroInflated(unveil.Poisson((2, 1))),
        cells=(counted(torch.arange(200)),) * 2,
    ),
    Likelihood(
        name="discretized logistic with extra zeros",
        make=lambda: unveil.ZeroInflated(
            unveil.DiscretizedLogistic(2, step=0.5, low=-2.0, high=2.0)
        ),
        cells=(grid(0.5, -4, 4),) * 2,
    ),
    Likelihood(
        name="classes",
        make=lambda: unveil.Categorical(2, num_classes=3),
        cells=(counted(torch.arange(3)),) * 2,
        nudge=torch.tensor([0.8, 0.0, 0.0, 0.0, 0.0, 0.8]),
        have_mean=False,
    ),
    Likelihood(
        name="an image of two classes",
        make=lambda: unveil.Categorical((1, 2), num_classes=2),
        cells=(counted(torch.arange(2)),) * 2,
        nudge=torch.tensor([0.8, 0.0, 0.0, 0.8]),
        have_mean=False,
    ),
    Likelihood(
        name="ranks",
        make=lambda: unveil.Ordinal(2, num_classes=5),
        cells=(counted(torch.arange(5)),) * 2,
    ),
    Likelihood(
        name="an image of two ranks",
        make=lambda: unveil.Ordinal((2, 1), num_classes=2),
        cells=(counted(torch.arange(2)),) * 2,
    ),
    Likelihood(
        name="student t, a spread per column",
        make=lambda: unveil.StudentT(2),
        cells=(real(reach=80.0),) * 2,
    ),
    Likelihood(
        name="student t image, a known spread, in units of 10 and 0.1",
        make=lambda: unveil.StudentT(
            (1, 2), unveil.FixedScale(0.5), unit=torch.tensor([10.0, 0.1], dtype=torch.float64)
        ),
        cells=(real(10.0), real(0.1)),
    ),
    Likelihood(
        name="log-normal, a spread per column, in units of 10 and 0.1",
        make=lambda: unveil.LogNormal(2, unit=torch.tensor([10.0, 0.1], dtype=torch.float64)),
        cells=(positive(10.0), positive(0.1)),
    ),
    Likelihood(
        name="log-normal image, a spread per cell",
        make=lambda: unveil.LogNormal((1, 2), unveil.CellScale()),
        cells=(positive(), positive()),
    ),
    Likelihood(
        name="spiked log-normal, in units of 10 and 0.1",
        make=lambda: unveil.SpikedLogNormal(2, unit=torch.tensor([10.0, 0.1], dtype=torch.float64)),
        cells=(amounts(10.0), amounts(0.1)),
    ),
    Likelihood(
        name="spiked log-normal on two grids, a spread per cell",
        make=lambda: unveil.SpikedLogNormal(2, unveil.CellScale(), step=torch.tensor([0.25, 1.0])),
        cells=(grid(0.25, 0, 400_000), grid(1.0, 0, 100_000)),
    ),
    Likelihood(
        name="von Mises, in degrees and in radians",
        make=lambda: unveil.VonMises(
            2, unit=torch.tensor([180 / math.pi, 1.0], dtype=torch.float64)
        ),
        cells=(angle(180 / math.pi), angle()),
    ),
    Likelihood(
        name="continuous bernoulli, in percent",
        make=lambda: unveil.ContinuousBernoulli(2, unit=100.0),
        cells=(between(0.0, 1.0, 100.0),) * 2,
    ),
    Likelihood(
        name="continuous bernoulli image",
        make=lambda: unveil.ContinuousBernoulli((2, 1)),
        cells=(between(0.0, 1.0, 1.0),) * 2,
    ),
    Likelihood(
        name="mixture of discretized logistics on 0 ... 16",
        make=lambda: unveil.DiscretizedLogisticMixture((2, 1), 3, step=1.0, low=0.0, high=16.0),
        cells=(grid(1.0, 0, 16),) * 2,
    ),
    Likelihood(
        name="mixture of discretized logistics, with two ends, one and none",
        make=lambda: unveil.DiscretizedLogisticMixture(
            3,
            4,
            step=torch.tensor([0.5, 0.5, 0.3]),
            low=torch.tensor([-1.0, -1.0, -math.inf]),
            high=torch.tensor([2.0, math.inf, math.inf]),
        ),
        cells=(grid(0.5, -2, 4), grid(0.5, -2, 200), grid(0.3, -600, 600)),
    ),
    Likelihood(
        name="columns of three kinds",
        make=_mixed,
        cells=(real(2.0), counted(torch.arange(2)), grid(0.5, -4, 4), real(0.5)),
    ),
)

SCALES: tuple[Scale, ...] = (unveil.FixedScale(0.5), unveil.ColumnScale(2), unveil.CellScale())
