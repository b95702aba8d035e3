"""Whether the model is right: what it would have made, beside the rows that there are.

Two questions. Would rows that the model makes look, all together, like these? And does each cell
stand where the model, told the row's other cells, expects it?
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unveil.diagnostics.uniformity import LEVEL, Uniformity, Words, uniformities
from unveil.distributions import draw
from unveil.evidence.simulated import simulate
from unveil.evidence.weights import nth_row
from unveil.imputation.intervals import TOLD_LEVEL
from unveil.latent import LatentVariableModel
from unveil.noise import generator
from unveil.shapes import Given, PerRow, Rows
from unveil.tiles import ROWS_PER_TILE, RowsAlike, Tile, chunks, floats_per_draw, tiles

QUANTILES = (0.05, 0.5, 0.95)
# A spread below this share of the values is rounding, not spread.
ROUNDING = 1e-9

Columns: TypeAlias = Float[Tensor, "row column"]
# (model, x, given, seed) → rows like x that the model makes.
Replicate: TypeAlias = Callable[[LatentVariableModel, Rows, Given, int], Rows]


# ---- each cell beside the rest of its row -------------------------------------------------------


@final
@dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """Where each cell stands among what the model expects from its row's other cells, by column.

    ``effective_draws`` is, for each column, the median over rows of (Σw)²/Σw²: where it is near 1,
    the values are uniform for want of knowledge, and say little.
    """

    num_draws: int
    columns: Mapping[str, Uniformity]
    effective_draws: Mapping[str, float]

    @property
    def rejected(self) -> tuple[str, ...]:
        """The columns that the model is surely wrong about: at 0.01, by Holm over all of them."""
        return tuple(name for name, test in self.columns.items() if test.rejected)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was found, in words."""
        found = tuple(_told_of_column(name, self.columns[name]) for name in self.rejected)
        return found or (
            f"in {len(self.columns)} columns, values stand where the model expects them from the "
            "rest of their rows, as far as can be seen",
        )

    def document(self) -> dict[str, Any]:
        """The findings as plain JSON."""
        return {
            "num_draws": self.num_draws,
            "columns": {name: test.document() for name, test in self.columns.items()},
            "effective_draws": dict(self.effective_draws),
            "rejected": list(self.rejected),
            "sentences": list(self.sentences),
        }


def leave_one_out(
    model: LatentVariableModel,
    x: Rows,
    given: Given = None,
    *,
    names: Sequence[str] | None = None,
    num_draws: int = 100,
    most_columns: int = 32,
    most_rows: int = 500,
    seed: int = 0,
) -> LeaveOneOut:
    """Hide each cell x_j in turn, and ask where it stands in p(x_j | the row's other cells).

        z_k ~ q(z|x₋ⱼ),   w_k = p(x₋ⱼ, z_k)/q(z_k|x₋ⱼ),   x'_k ~ p(x_j|z_k),   V ~ U(0, 1)
        PIT = Σ_k w̄_k [1{x'_k < x_j} + V 1{x'_k = x_j}],   u = (n PIT + V)/(n + 1)

    With n = (Σw)²/Σw² effective draws, the cell itself counts as one more: u is exactly uniform
    over rows where the model is right and q exact, whatever the number of draws; elsewhere the
    weights make up for q as well as draws can. Missing cells are passed over. ``names`` are those
    of the cells of a row, flattened. Of more than ``most_columns`` or ``most_rows``, so many are
    taken, evenly spread. Rows have noise of their own, equal ones included. Raises ValueError for
    names of another number and for less than one draw, column or row; ArithmeticError for a weight
    that is NaN or +∞.

    >>> import unveil
    >>> from torch import nn
    >>> from unveil.networks.mlp import Encoder, MarksGaps
    >>> gaps = MarksGaps()
    >>> encoder = Encoder((3,), covariates=0, outputs=2, width=8, depth=1, gaps=gaps)
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 3), unveil.Bernoulli(3)),
    ...     posterior=unveil.Conditional(encoder, unveil.DiagonalGaussian(1)),
    ... )
    >>> x, _ = simulate(vae, torch.zeros(40, 3))
    >>> list(leave_one_out(vae, x, names=["a", "b", "c"]).columns)
    ['a', 'b', 'c']
    """
    require_some(draw=num_draws, column=most_columns, row=most_rows)
    names = _names(x, names)
    rows = _spread(len(x), most_rows)
    randomness = generator(seed, "leave one out", device=x.device)
    values: dict[str, PerRow] = {}
    effective: dict[str, float] = {}
    for column in _spread(len(names), most_columns).tolist():
        seen = rows[~torch.isnan(x.flatten(1)[rows, column])]
        if len(seen):
            u, ess = _stands(model, x, given, seen, column, num_draws, randomness)
            values[names[column]], effective[names[column]] = u, float(ess.median())
    return LeaveOneOut(num_draws=num_draws, columns=uniformities(values), effective_draws=effective)


def _stands(
    model: LatentVariableModel,
    x: Rows,
    given: Given,
    rows: Tensor,
    column: int,
    num_draws: int,
    randomness: Generator,
) -> tuple[Tensor, Tensor]:
    """u and the effective draws of a column's cell in some rows of x, float64 (row,) each."""
    rest = x[rows].flatten(1)
    held, parts = rest[:, [column]].clone(), []
    rest[:, column] = torch.nan
    hidden = tiles(rest.view(-1, *x.shape[1:]), None if given is None else given[rows])
    with torch.no_grad(), RowsAlike():
        for tile, place, which in zip(hidden, tiles(held), rows.split(ROWS_PER_TILE), strict=True):
            log_w, made = _expected(model, tile, column, num_draws, randomness)
            _require_weights(log_w[:, : tile.count], which, len(x), column)
            u, ess = _place(log_w, made, place.x[:, 0], randomness)
            parts.append((u[: tile.count].cpu(), ess[: tile.count].cpu()))
    us, effective = (torch.cat(each) for each in zip(*parts, strict=True))
    return us, effective


def _require_weights(
    log_w: Float[Tensor, "sample row"], rows: Tensor, of: int, column: int
) -> None:
    """Refuse weights that are NaN or +∞, by the first row, of so many, that has one."""
    bad = ~(log_w < torch.inf)
    if bool(bad.any()):
        draw_, row = bad.nonzero()[bad.nonzero()[:, 1].argmin()].tolist()
        raise ArithmeticError(
            f"expected finite log-weights, got {float(log_w[draw_, row])} with cell {column} "
            f"hidden in {nth_row(int(rows[row]), of)}; the model's densities overflow there"
        )


def _expected(
    model: LatentVariableModel, tile: Tile, column: int, num_draws: int, randomness: Generator
) -> tuple[Float[Tensor, "sample row"], Float[Tensor, "sample row"]]:
    """Log-weights of draws of q(z|x₋ⱼ), float64, and a value of the hidden cell from each."""
    q, prior = model.posterior(tile.x, tile.given), model.prior(tile.given)
    log_w, made = [], []
    for size in chunks(num_draws, floats_per_draw(model, tile)):
        shape = (size, len(tile.x), model.num_latents)
        noise = torch.randn(shape, generator=randomness, device=tile.x.device, dtype=tile.x.dtype)
        z = q.push(noise)
        likelihood = model.likelihood(z, tile.given)
        log_w.append(prior.log_prob(z) + likelihood.log_prob(tile.x) - q.log_prob(z))
        made.append(draw(likelihood, (), randomness).flatten(2)[..., column])
    return torch.cat(log_w).double(), torch.cat(made)


def _place(
    log_w: Float[Tensor, "sample row"],
    made: Float[Tensor, "sample row"],
    held: PerRow,
    randomness: Generator,
) -> tuple[PerRow, PerRow]:
    """u and the effective draws, from weighted values beside the one that is there."""
    # Where no draw can have made the row, no weight is left, and u is V.
    w = log_w.softmax(0).nan_to_num(nan=0.0)
    ess = w.sum(0) / w.square().sum(0).clamp_min(torch.finfo(w.dtype).tiny)
    v = torch.rand(held.shape, generator=randomness, device=held.device, dtype=w.dtype)
    pit = (w * ((made < held) + v * (made == held))).sum(0)
    return ((ess * pit + v) / (ess + 1)).clamp(0, 1), ess


def _told_of_column(name: str, test: Uniformity) -> str:
    holds = (
        f"its {TOLD_LEVEL:.0%} intervals, from the rest of the row, hold "
        f"{test.intervals_hold(TOLD_LEVEL):.0%} of them"
    )
    return test.in_words(
        Words(
            too_low=f"column {name}: values are higher than the model expects; {holds}",
            too_high=f"column {name}: values are lower than the model expects; {holds}",
            too_narrow=f"column {name}: values are more spread than the model expects; {holds}",
            too_wide=f"column {name}: values are less spread than the model expects; {holds}",
            otherwise=f"column {name}: values have another shape than the model expects; {holds}",
        )
    )


# ---- all rows together --------------------------------------------------------------------------


@final
@dataclass(frozen=True, kw_only=True)
class Statistic:
    """One number of a table, in model units, beside the same of tables that the model made.

    ``pvalue`` is two-sided; ``adjusted`` is the same for all statistics together.
    """

    name: str
    observed: float
    expected: float
    sd: float
    pvalue: float
    adjusted: float

    @property
    def rejected(self) -> bool:
        """Whether chance is ruled out, at 0.01."""
        return self.adjusted <= LEVEL

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        return (
            f"the {self.name} is {self.observed:.4g} in these rows, and {self.expected:.4g} "
            f"± {self.sd:.2g} in rows that the model makes"
        )

    def document(self) -> dict[str, Any]:
        """The statistic as plain JSON."""
        return {
            "name": self.name,
            "observed": self.observed,
            "expected": self.expected,
            "sd": self.sd,
            "pvalue": self.pvalue,
            "adjusted": self.adjusted,
            "rejected": self.rejected,
        }


@final
@dataclass(frozen=True, kw_only=True)
class PredictiveChecks:
    """Statistics of the rows beside those of as many rows that the model made, time and again."""

    num_replicates: int
    statistics: tuple[Statistic, ...]

    @property
    def rejected(self) -> tuple[str, ...]:
        """The statistics that the model surely gets wrong: at 0.01 for all of them together."""
        return tuple(s.name for s in self.statistics if s.rejected)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was found, in words."""
        return tuple(s.sentence for s in self.statistics if s.rejected) or (
            f"by {len(self.statistics)} statistics, rows that the model makes look like these",
        )

    def document(self) -> dict[str, Any]:
        """The findings as plain JSON."""
        return {
            "num_replicates": self.num_replicates,
            "statistics": [s.document() for s in self.statistics],
            "rejected": list(self.rejected),
            "sentences": list(self.sentences),
        }


def from_prior(model: LatentVariableModel, x: Rows, given: Given, seed: int) -> Rows:
    """Rows that the model makes by itself: z ~ p(z|c), x' ~ p(x|z, c), with the gaps of x.

    >>> import unveil
    >>> from torch import nn
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 3), unveil.Bernoulli(3)),
    ...     posterior=unveil.Conditional(nn.Linear(3, 2), unveil.DiagonalGaussian(1)),
    ... )
    >>> from_prior(vae, torch.zeros(5, 3), None, 0).shape
    torch.Size([5, 3])
    """
    x_made, _ = simulate(model, x, given, seed=seed, purpose="replicate")
    return x_made


def from_posterior(model: LatentVariableModel, x: Rows, given: Given, seed: int) -> Rows:
    """Rows made again from their own latents: z ~ q(z|x), x' ~ p(x|z, c), with the gaps of x.

    They have seen the rows that they are compared with, so that p-values are too large: what they
    reject is wrong, and what they accept may be so too.

    >>> import unveil
    >>> from torch import nn
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 3), unveil.Bernoulli(3)),
    ...     posterior=unveil.Conditional(nn.Linear(3, 2), unveil.DiagonalGaussian(1)),
    ... )
    >>> from_posterior(vae, torch.zeros(5, 3), None, 0).shape
    torch.Size([5, 3])
    """
    randomness = generator(seed, "from posterior", device=x.device)
    parts = []
    with torch.no_grad():
        for tile in tiles(x, given):
            shape = (len(tile.x), model.num_latents)
            noise = torch.randn(shape, generator=randomness, device=x.device, dtype=x.dtype)
            z = model.posterior(tile.x, tile.given).push(noise)
            made = draw(model.likelihood(z, tile.given), (), randomness).to(x)
            parts.append(torch.where(torch.isnan(tile.x), tile.x, made)[: tile.count])
    return torch.cat(parts)


def predictive_checks(
    model: LatentVariableModel,
    x: Rows,
    given: Given = None,
    *,
    names: Sequence[str] | None = None,
    replicate: Replicate = from_prior,
    num_replicates: int = 99,
    most_columns: int = 16,
    most_rows: int = 1000,
    seed: int = 0,
) -> PredictiveChecks:
    """Compare statistics of the rows with those of tables of the same size, gaps and covariates.

        p = (1 + #{r: |t_r| ≥ |t_0|})/(R + 1),   adjusted: max over statistics of |t_r| for |t_r|

    with t_0 a statistic of the rows and t_r that of replicate r, all R + 1 of them standardised
    together. Statistics are each column's mean, sd, share at its lowest and at its highest value
    and shares up to quantiles of all tables together, and each pair's correlation. If the model is
    right the R + 1 tables are alike, so that of the adjusted p-values, for any number of statistics
    however dependent, one is as small as α with probability α at most; none is below 1/(R + 1). Of
    more than ``most_columns`` or ``most_rows``, so many are taken, evenly spread. Raises ValueError
    as ``leave_one_out`` does.
    Source: Box 1980 (prior predictive checks); Westfall & Young 1993 (max|t|).

    >>> import unveil
    >>> from torch import nn
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 2), unveil.Bernoulli(2)),
    ...     posterior=unveil.Conditional(nn.Linear(2, 2), unveil.DiagonalGaussian(1)),
    ... )
    >>> found = predictive_checks(vae, torch.ones(40, 2), names=["a", "b"])
    >>> "mean of a" in found.rejected, found.statistics[-1].name
    (True, 'correlation of a and b')
    """
    require_some(replicate=num_replicates, column=most_columns, row=most_rows)
    names = _names(x, names)
    rows, columns = _spread(len(x), most_rows), _spread(len(names), most_columns)
    x, given = x[rows], None if given is None else given[rows]
    # A column that none of the rows shows has no statistic.
    columns = columns[(~torch.isnan(x)).flatten(1).any(0).cpu()[columns]]

    def table(rows: Rows) -> Columns:
        return rows.flatten(1)[:, columns].double().cpu()

    # Seeds that no other seed of a person's choosing leads to.
    seeds = [generator(seed, "replicate", r).initial_seed() for r in range(num_replicates)]
    tables = [table(x), *(table(replicate(model, x, given, one)) for one in seeds)]
    cuts = torch.from_numpy(np.nanquantile(torch.cat(tables).numpy(), QUANTILES, axis=0))
    values = torch.stack([_statistics(one, cuts) for one in tables])
    mean, sd = values.mean(0), values.std(0)
    constant = sd <= ROUNDING * values.abs().amax(0)
    t = torch.where(constant, 0.0, (values - mean) / sd).abs()
    pvalues = (t >= t[0]).double().mean(0)
    adjusted = (t.amax(1, keepdim=True) >= t[0]).double().mean(0)
    sds = values[1:].std(0, correction=0)
    figures = torch.stack([values[0], values[1:].mean(0), sds, pvalues, adjusted], dim=1)
    titles = _titles([names[column] for column in columns.tolist()])
    return PredictiveChecks(
        num_replicates=num_replicates,
        statistics=tuple(
            Statistic(name=n, observed=o, expected=e, sd=s, pvalue=p, adjusted=a)
            for n, (o, e, s, p, a) in zip(titles, figures.tolist(), strict=True)
        ),
    )


def _statistics(x: Columns, cuts: Float[Tensor, "cut column"]) -> Float[Tensor, " statistic"]:
    """Each statistic of a table without its NaN cells, by ``_titles``; 0 where undefined.

    An extreme is the table's own: that of the rows would be reached by them and by few replicates.
    """
    observed = ~torch.isnan(x)
    count = observed.sum(0)
    centred = torch.where(observed, x - x.nanmean(0), 0.0)
    low = torch.where(observed, x, torch.inf).amin(0)
    high = torch.where(observed, x, -torch.inf).amax(0)
    per_column = torch.stack(
        [
            x.nanmean(0),
            (centred.square().sum(0) / count).sqrt(),
            (x == low).sum(0) / count,
            (x == high).sum(0) / count,
            *((x <= cut).sum(0) / count for cut in cuts),
        ]
    )
    # A pair's sums run over the rows that show both, about the columns' means.
    both = observed.double()
    scale = centred.square().T @ both
    correlation = (centred.T @ centred) / (scale * scale.T).sqrt()
    first, second = torch.triu_indices(x.shape[1], x.shape[1], offset=1)
    return torch.cat([per_column.T.flatten(), correlation[first, second]]).nan_to_num(
        nan=0.0, posinf=0.0, neginf=0.0
    )


def _titles(names: Sequence[str]) -> list[str]:
    """The name of each statistic."""
    kinds = ["mean", "sd", "share at the lowest value", "share at the highest value"]
    kinds += [f"share up to the {q:.0%} point" for q in QUANTILES]
    pairs = torch.triu_indices(len(names), len(names), offset=1).T.tolist()
    return [f"{kind} of {name}" for name in names for kind in kinds] + [
        f"correlation of {names[i]} and {names[j]}" for i, j in pairs
    ]


# ---- which rows and columns ---------------------------------------------------------------------


def _names(x: Rows, names: Sequence[str] | None) -> list[str]:
    """The names of a row's cells, flattened: by default their numbers."""
    cells = x[0].numel()
    if names is not None and len(names) != cells:
        raise ValueError(f"expected {cells} names, one a cell, got {len(names)}")
    return [str(cell) for cell in range(cells)] if names is None else list(names)


def _spread(number: int, most: int) -> Tensor:
    """All of 0 … number − 1, or as many as ``most`` of them, evenly spread.

    >>> _spread(10, 4).tolist()
    [0, 3, 6, 9]
    """
    return torch.linspace(0, number - 1, min(number, most)).round().long()


def require_some(**numbers: int) -> None:
    """Refuse less than one of anything."""
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"expected at least 1 {name}, got {number}")
