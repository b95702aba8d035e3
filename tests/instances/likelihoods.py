"""Every likelihood, with the values that its cells can take."""

from collections.abc import Callable
from dataclasses import dataclass
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
    for a density.
    """

    values: Tensor
    measure: Tensor
    counted: bool


def real(unit: float = 1.0, reach: float = 40.0, step: float = 0.02) -> Cell:
    values = torch.arange(-reach, reach + step / 2, step, dtype=torch.float64)
    return Cell(values=values, measure=torch.full_like(values, step * unit), counted=False)


def counted(values: Tensor) -> Cell:
    return Cell(values=values.double(), measure=torch.ones(len(values)).double(), counted=True)


def grid(step: float, low: int, high: int) -> Cell:
    """The multiples of a step (as float32 holds it) from low·step to high·step."""
    return counted(torch.tensor(step).double() * torch.arange(low, high + 1))


@final
@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """A family of p(x|z), and for every cell of a flattened row the values it can take."""

    name: str
    make: Callable[[], Family]
    cells: tuple[Cell, ...]

    def family(self, dtype: torch.dtype = torch.float64) -> Family:
        return self.make().to(dtype)

    def rows(self, number: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        """Rows of legal values, near 0 in model units."""
        generator = torch.Generator().manual_seed(seed)
        columns = []
        for cell in self.cells:
            near = cell.values[cell.values.abs().argsort()[:200]]
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
        name="columns of three kinds",
        make=_mixed,
        cells=(real(2.0), counted(torch.arange(2)), grid(0.5, -4, 4), real(0.5)),
    ),
)

SCALES: tuple[Scale, ...] = (unveil.FixedScale(0.5), unveil.ColumnScale(2), unveil.CellScale())
