"""What a model has to beat: independent columns, and probabilistic PCA.

Both speak in nats per row of the data's own units, as the model does. Arrays here are rows in
model units, flattened to (row, cell), float64.
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
from unveil.data.schema import Schema
from unveil.distributions import LOG_2PI
from unveil.evidence.linear_gaussian import LinearGaussian, fit_ppca
from unveil.noise import RowStreams

# A grid of more values than this is better described by a curve than by a table of counts.
MOST_COUNTED_LEVELS = 1024
MOST_PPCA_CELLS = 4096
ROWS_PER_BLOCK = 4096

Flat = Float[Tensor, "row cell"]


@final
@dataclass(frozen=True, kw_only=True)
class Grid:
    """How each modelled cell is measured, in model units: (cell,) each; step is 0 for a real."""

    step: Tensor
    low: Tensor
    high: Tensor
    log_unit: Tensor

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


@final
@dataclass(frozen=True, kw_only=True)
class Independent:
    """Every column on its own: counts with one added where it has few values, else a normal.

    On a grid the normal's mass P(x ± step/2) is taken, elsewhere its density per unit of the data.
    """

    log_table: Float[Tensor, "counted level"]
    mean: Float[Tensor, " curve"]
    sd: Float[Tensor, " curve"]

    def log_evidence(self, x: Flat, grid: Grid) -> Float[Tensor, " row"]:
        """log p(x), nats per row; missing cells count nothing."""
        total = torch.zeros(len(x), dtype=torch.float64)
        for start in range(0, len(x), ROWS_PER_BLOCK):
            rows = x[start : start + ROWS_PER_BLOCK]
            cells = torch.zeros_like(rows)
            cells[:, grid.counted] = self._counted(rows[:, grid.counted], grid)
            cells[:, ~grid.counted] = self._curve(rows[:, ~grid.counted], grid)
            total[start : start + ROWS_PER_BLOCK] = torch.where(rows.isnan(), 0.0, cells).sum(-1)
        return total

    def _counted(self, x: Tensor, grid: Grid) -> Tensor:
        observed = ~torch.isnan(x)
        level = torch.round((x - grid.low[grid.counted]) / grid.step[grid.counted])
        index = torch.where(observed, level, 0.0).long()
        table = self.log_table.expand(len(x), -1, -1)
        return torch.where(observed, table.gather(-1, index[..., None])[..., 0], 0.0)

    def _curve(self, x: Tensor, grid: Grid) -> Tensor:
        curve = ~grid.counted
        standard = (x - self.mean) / self.sd
        density = -0.5 * (standard.square() + LOG_2PI) - self.sd.log() - grid.log_unit[curve]
        half = grid.step[curve] / (2 * self.sd)
        # By symmetry the nearer tail is used, where the difference of two masses is well behaved.
        upper, lower = half - standard.abs(), -half - standard.abs()
        ratio = log_ndtr(lower) - log_ndtr(upper)
        mass = log_ndtr(upper) + torch.log(-torch.expm1(ratio))
        return torch.where(grid.step[curve] > 0, mass, density)


def fit_independent(x: Flat, grid: Grid) -> Independent:
    """Count or measure every column on its own.

    >>> unit = torch.zeros(1, dtype=torch.float64)
    >>> coin = Grid(step=unit + 1, low=unit, high=unit + 1, log_unit=unit)
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
    curve = x[:, ~grid.counted]
    # A column that these rows never show keeps the schema's centre and unit.
    mean = curve.nanmean(0).nan_to_num(nan=0.0)
    sd = (curve - mean).square().nanmean(0).sqrt().nan_to_num(nan=1.0).clamp(min=1e-6)
    return Independent(
        log_table=torch.log(smoothed / smoothed.sum(-1, keepdim=True)), mean=mean, sd=sd
    )


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
    """Both baselines of one set of training rows; ``ppca`` is None where rows have gaps."""

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
    expected: Flat, drawn: Flat, schema: Schema, num_latents: int, seed: int
) -> Baselines:
    """Fit both baselines to training rows.

    ``expected`` and ``drawn`` differ for binarised pictures alone: the probability of a 1, which
    the counts can use whole, and one draw of it, which probabilistic PCA needs.
    """
    grid = Grid.of(schema)
    whole = not bool(torch.isnan(drawn).any()) and drawn.shape[1] <= MOST_PPCA_CELLS
    return Baselines(
        independent=fit_independent(expected, grid),
        ppca=fit_ppca(dequantise(drawn, grid, seed), num_latents) if whole else None,
    )
