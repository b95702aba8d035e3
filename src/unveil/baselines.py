"""What a model has to beat: independent columns, and probabilistic PCA.

Both speak in nats per row of the data's own units, as the model does. Arrays here are rows in
model units, flattened to (row, cell), float64. Where counts are proportional to an exposure, the
independent columns are told it; probabilistic PCA has no use of one, and is left out.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.special import log_ndtr

from unveil.data.encode import digests
from unveil.data.schema import COUNT, Schema
from unveil.distributions import LOG_2PI
from unveil.evidence.linear_gaussian import LinearGaussian, fit_ppca
from unveil.likelihoods.counts import (
    LARGEST_DISPERSION,
    SMALLEST_DISPERSION,
    GammaPoissonCounts,
)
from unveil.noise import RowStreams

# A grid of more values than this is better described by a curve than by a table of counts.
MOST_COUNTED_LEVELS = 1024
MOST_PPCA_CELLS = 4096
ROWS_PER_BLOCK = 4096
# So many cells say enough of how widely each column's counts are spread.
CELLS_FOR_DISPERSIONS = 2**20
# The likeliest dispersion is sought among so many, so often, each time between fewer of them.
DISPERSIONS_TRIED, ROUNDS = 9, 3

Flat = Float[Tensor, "row cell"]
Exposures = Float[Tensor, " row"] | None


@final
@dataclass(frozen=True, kw_only=True)
class Grid:
    """How each modelled cell is measured, in model units: (cell,) each; step is 0 for a real, and
    ``endless`` says which cells are counts."""

    step: Tensor
    low: Tensor
    high: Tensor
    log_unit: Tensor
    endless: Tensor

    @classmethod
    def of(cls, schema: Schema) -> "Grid":
        """The grids of a schema's modelled cells, one after the other."""
        columns = [schema.columns[i] for i in schema.modelled]

        def per_cell(values: Iterator[float]) -> Tensor:
            each = torch.tensor(list(values), dtype=torch.float64)
            return each.repeat_interleave(schema.dims // len(columns))

        return cls(
            step=per_cell(c.spacing for c in columns),
            low=per_cell((c.low - c.shift) / c.unit for c in columns),
            high=per_cell((c.high - c.shift) / c.unit for c in columns),
            log_unit=per_cell(math.log(c.unit) for c in columns),
            endless=per_cell(float(c.kind == COUNT) for c in columns) > 0,
        )

    @property
    def levels(self) -> Tensor:
        """How many values each cell can take, (cell,), infinite where there is no end."""
        return torch.where(self.step > 0, torch.round((self.high - self.low) / self.step) + 1,
                           math.inf)  # fmt: skip

    @property
    def counted(self) -> Tensor:
        """Which cells take few enough values to count them."""
        return self.levels <= MOST_COUNTED_LEVELS

    @property
    def curved(self) -> Tensor:
        """Which cells a curve describes."""
        return ~(self.counted | self.endless)


@final
@dataclass(frozen=True, kw_only=True)
class Independent:
    """Every column on its own: counts with one added where it has few values, a negative binomial
    with mean ``rate`` times the exposure where it counts without an end, else a normal.

    On a grid the normal's mass P(x ± step/2) is taken, elsewhere its density per unit of the data.
    """

    log_table: Float[Tensor, "counted level"]
    mean: Float[Tensor, " curve"]
    sd: Float[Tensor, " curve"]
    rate: Float[Tensor, " endless"]
    dispersion: Float[Tensor, " endless"]

    def log_evidence(
        self, x: Flat, grid: Grid, exposure: Exposures = None
    ) -> Float[Tensor, " row"]:
        """log p(x), nats per row; missing cells count nothing. An exposure is 1 unless given."""
        total = torch.zeros(len(x), dtype=torch.float64)
        for start in range(0, len(x), ROWS_PER_BLOCK):
            rows = x[start : start + ROWS_PER_BLOCK]
            cells = torch.zeros_like(rows)
            cells[:, grid.counted] = self._counted(rows[:, grid.counted], grid)
            cells[:, grid.curved] = self._curve(rows[:, grid.curved], grid)
            e = None if exposure is None else exposure[start : start + ROWS_PER_BLOCK]
            cells[:, grid.endless] = _log_counts(
                rows[:, grid.endless], self.rate, self.dispersion, e
            )
            total[start : start + ROWS_PER_BLOCK] = torch.where(rows.isnan(), 0.0, cells).sum(-1)
        return total

    def _counted(self, x: Tensor, grid: Grid) -> Tensor:
        observed = ~torch.isnan(x)
        level = torch.round((x - grid.low[grid.counted]) / grid.step[grid.counted])
        index = torch.where(observed, level, 0.0).long()
        table = self.log_table.expand(len(x), -1, -1)
        return torch.where(observed, table.gather(-1, index[..., None])[..., 0], 0.0)

    def _curve(self, x: Tensor, grid: Grid) -> Tensor:
        curve = grid.curved
        standard = (x - self.mean) / self.sd
        density = -0.5 * (standard.square() + LOG_2PI) - self.sd.log() - grid.log_unit[curve]
        half = grid.step[curve] / (2 * self.sd)
        # By symmetry the nearer tail is used, where the difference of two masses is well behaved.
        upper, lower = half - standard.abs(), -half - standard.abs()
        ratio = log_ndtr(lower) - log_ndtr(upper)
        mass = log_ndtr(upper) + torch.log(-torch.expm1(ratio))
        return torch.where(grid.step[curve] > 0, mass, density)


def _log_counts(x: Flat, rate: Tensor, dispersion: Tensor, exposure: Exposures) -> Flat:
    """log P of counts, each column a negative binomial; 0 where they are missing."""
    log_mean = rate.log() + (0.0 if exposure is None else exposure.log()[:, None])
    masses = GammaPoissonCounts(log_mean.expand_as(x), dispersion)
    return torch.where(x.isnan(), 0.0, masses.log_prob(x.nan_to_num(nan=0.0)))


def fit_independent(x: Flat, grid: Grid, exposure: Exposures = None) -> Independent:
    """Count or measure every column on its own; counts as proportional to ``exposure``.

    >>> unit = torch.zeros(1, dtype=torch.float64)
    >>> coin = Grid(step=unit + 1, low=unit, high=unit + 1, log_unit=unit, endless=unit > 0)
    >>> ones = torch.ones(8, 1, dtype=torch.float64)
    >>> fit_independent(ones, coin).log_table.exp()         # one added to each count: 1/10, 9/10
    tensor([[0.1000, 0.9000]], dtype=torch.float64)
    """
    levels = int(grid.levels[grid.counted].max()) if grid.counted.any() else 0
    counts = torch.zeros(int(grid.counted.sum()), levels, dtype=torch.float64)
    for start in range(0, len(x), ROWS_PER_BLOCK):
        counts += _counts(x[start : start + ROWS_PER_BLOCK, grid.counted], grid, levels)
    possible = torch.arange(levels) < grid.levels[grid.counted, None]
    smoothed = torch.where(possible, counts + 1, 0.0)
    curve = x[:, grid.curved]
    # A column that these rows never show keeps the schema's centre and unit.
    mean = curve.nanmean(0).nan_to_num(nan=0.0)
    sd = (curve - mean).square().nanmean(0).sqrt().nan_to_num(nan=1.0).clamp(min=1e-6)
    rate, dispersion = _rates(x[:, grid.endless], exposure)
    return Independent(
        log_table=torch.log(smoothed / smoothed.sum(-1, keepdim=True)),
        mean=mean,
        sd=sd,
        rate=rate,
        dispersion=dispersion,
    )


def _rates(x: Flat, exposure: Exposures) -> tuple[Tensor, Tensor]:
    """What each column counts at an exposure of 1, half a count added, and its dispersion of the
    largest likelihood."""
    observed = (~x.isnan()).double()
    exposed = observed.sum(0) if exposure is None else exposure @ observed
    rate = (x.nan_to_num(nan=0.0).sum(0) + 0.5) / exposed.clamp(min=1.0)
    some = slice(None, None, 1 + x.numel() // CELLS_FOR_DISPERSIONS)
    few, e = x[some], None if exposure is None else exposure[some]
    ends = math.log(SMALLEST_DISPERSION), math.log(LARGEST_DISPERSION)
    log_dispersion = torch.full_like(rate, sum(ends) / 2)
    reach = (ends[1] - ends[0]) / 2
    for _ in range(ROUNDS):
        steps = reach * torch.linspace(-1, 1, DISPERSIONS_TRIED, dtype=torch.float64)
        tried = (log_dispersion + steps[:, None]).clamp(*ends)
        found = torch.stack([_log_counts(few, rate, d.exp(), e).sum(0) for d in tried])
        log_dispersion = tried.gather(0, found.argmax(0, keepdim=True))[0]
        reach *= 2 / (DISPERSIONS_TRIED - 1)
    return rate, log_dispersion.exp()


def _counts(x: Tensor, grid: Grid, levels: int) -> Tensor:
    """How often each cell took each level; a probability between two levels counts for both."""
    place = (x - grid.low[grid.counted]) / grid.step[grid.counted]
    observed = (~torch.isnan(place)).double()
    place = place.nan_to_num(nan=0.0).clamp(min=0.0)
    below = torch.floor(place + 1e-4).clamp(max=levels - 1)
    part = ((place - below) * observed).clamp(min=0.0)
    cells = torch.arange(x.shape[1]) * levels
    counts = torch.zeros(x.shape[1] * levels, dtype=torch.float64)
    for level, weight in ((below, observed - part), ((below + 1).clamp(max=levels - 1), part)):
        counts += torch.bincount(
            (cells + level.long()).flatten(), weights=weight.flatten(), minlength=len(counts)
        )
    return counts.reshape(x.shape[1], levels)


def dequantise(x: Flat, grid: Grid, seed: int) -> Flat:
    """x + U(−step/2, step/2), one draw per row of its own stream: a grid made into a density."""
    u = RowStreams(seed, "dequantise", digests(x.numpy())).uniform(1, x.shape[1])[0]
    return x + (u - 0.5) * grid.step


def ppca_log_evidence(model: LinearGaussian, x: Flat, grid: Grid, seed: int) -> Tensor:
    """log p(x) under probabilistic PCA, nats per row.

    For cells on a grid the density is that of the dequantised value times the step, which is in
    expectation a lower bound on the mass (Theis et al. 2016, eq. 12), so it may be set beside one.
    """
    measure = torch.where(grid.step > 0, grid.step.log(), -grid.log_unit).sum()
    return model.log_evidence(dequantise(x, grid, seed)) + measure


@final
@dataclass(frozen=True, kw_only=True)
class Baselines:
    """Both baselines of one set of training rows; ``ppca`` is None where rows have gaps, too many
    cells or an exposure."""

    independent: Independent
    ppca: LinearGaussian | None

    def tensors(self) -> dict[str, Tensor]:
        """What ``from_tensors`` restores them from."""
        alone = {f"independent/{name}": t for name, t in vars(self.independent).items()}
        if self.ppca is None:
            return alone
        return alone | {
            "ppca/weight": self.ppca.weight,
            "ppca/mean": self.ppca.mean,
            "ppca/noise_variance": torch.tensor(self.ppca.noise_variance, dtype=torch.float64),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Baselines":
        """The baselines that ``tensors`` came from."""
        part = {
            name: {k.split("/")[1]: t for k, t in tensors.items() if k.startswith(f"{name}/")}
            for name in ("independent", "ppca")
        }
        ppca = None
        if part["ppca"]:
            noise = float(part["ppca"].pop("noise_variance"))
            ppca = LinearGaussian(**part["ppca"], noise_variance=noise)
        return cls(independent=Independent(**part["independent"]), ppca=ppca)


def fit_baselines(
    expected: Flat,
    drawn: Flat,
    schema: Schema,
    num_latents: int,
    seed: int,
    exposure: Exposures = None,
) -> Baselines:
    """Fit both baselines to training rows, or the one of them that can be told an ``exposure``.

    ``expected`` and ``drawn`` differ for binarised pictures alone: the probability of a 1, which
    the counts can use whole, and one draw of it, which probabilistic PCA needs.
    """
    grid = Grid.of(schema)
    whole = not bool(torch.isnan(drawn).any()) and drawn.shape[1] <= MOST_PPCA_CELLS
    fair = whole and exposure is None
    return Baselines(
        independent=fit_independent(expected, grid, exposure),
        ppca=fit_ppca(dequantise(drawn, grid, seed), num_latents) if fair else None,
    )
