"""Rows that the model makes under conditions on their cells: x ~ p(x | x_j = v, a ≤ x_k ≤ b).

A condition is put into model units once, as an interval of which an equality is the narrowest. What
z make it likely is found by weighing draws, and the cells are then drawn from their likelihood, cut
off where the condition says so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.distributions import Distribution

from unveil.data.encode import columns_of, decode
from unveil.data.native import native
from unveil.data.read import Rows, listed
from unveil.data.schema import (
    AMOUNT,
    ANGLE,
    BINARIZED,
    CATEGORY,
    CONSTANT,
    COUNT,
    GRID,
    POSITIVE,
    REAL,
    Column,
    Schema,
)
from unveil.distributions import ROUNDED, Cells, Joined, draw
from unveil.errors import InputError
from unveil.latent import LatentVariableModel
from unveil.likelihoods.start import solve
from unveil.noise import generator

# Draws of z that are weighed: so many for each row that is asked for, within these.
PROPOSALS_PER_ROW = 20
FEWEST_PROPOSALS, MOST_PROPOSALS = 20_000, 200_000
# With fewer effective draws than these the rows say more of chance than of the conditions, and with
# more rows than so many to each of them they would be one z over and over.
FEWEST_EFFECTIVE_TO_SAMPLE = 20.0
MOST_ROWS_PER_EFFECTIVE = 50
AT_ONCE = 4096
# A cell that lies outside of its ends is drawn anew so often before its distribution is inverted.
DRAWN_ANEW = 5

# Kinds of columns whose numbers have a range that was seen.
NUMBERS = {REAL, GRID, POSITIVE, AMOUNT, COUNT}

Ends: TypeAlias = Float[Tensor, " cell"]
Drawn: TypeAlias = Float[Tensor, "row cell"]
OneGiven: TypeAlias = Float[Tensor, "1 covariate"] | None


@final
@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What is asked of the cells of a table's row, in model units, float64.

    ``equal`` holds the value that a cell must have, ``low`` and ``high`` the ends that it must lie
    between; NaN where nothing is asked. On a grid the ends lie half a step outside its points. An
    angle's ends count on after a ``turn``, which is 0 for other cells.
    """

    equal: Ends
    low: Ends
    high: Ends
    turn: Tensor = field(default_factory=lambda: torch.zeros(()))

    @classmethod
    def none(cls, num_cells: int) -> "Conditions":
        """Nothing asked of so many cells."""
        nothing = torch.full((num_cells,), math.nan, dtype=torch.float64)
        return cls(equal=nothing, low=nothing, high=nothing)

    @property
    def between(self) -> Tensor:
        """Which cells must lie between two ends, (cell,)."""
        return ~torch.isnan(self.low)

    def or_else(self, others: "Conditions") -> "Conditions":
        """These, and those of the others on cells that these ask nothing of."""
        asks = self.between | ~torch.isnan(self.equal)

        def both(mine: Tensor, theirs: Tensor) -> Ends:
            return torch.where(asks, mine, theirs)

        return Conditions(
            equal=both(self.equal, others.equal),
            low=both(self.low, others.low),
            high=both(self.high, others.high),
            turn=both(self.turn, others.turn),
        )

    def to(self, device: torch.device) -> "Conditions":
        """The same on a device."""
        return Conditions(
            equal=self.equal.to(device),
            low=self.low.to(device),
            high=self.high.to(device),
            turn=self.turn.to(device),
        )


@final
@dataclass(frozen=True, kw_only=True)
class Conditioned:
    """Rows drawn under conditions, in model units, and by how many effective draws of z.

    ``ess`` is (Σw)²/Σw² of the ``num_proposals`` weighed; ``log_probability`` estimates
    log P(conditions), nats: a density where a cell that has one must equal a value.
    """

    x: Drawn
    ess: float
    num_proposals: int
    log_probability: float


def sample_where(
    model: LatentVariableModel,
    conditions: Conditions,
    n: int,
    *,
    seen: Conditions | None = None,
    given: OneGiven = None,
    seed: int = 0,
) -> Conditioned:
    """n rows from the model's conditional distribution, by importance resampling of z.

        z_m ~ ½ p(z) + ½ q(z|equalities),   w_m = p(z_m) P(conditions|z_m)/(½ p(z_m) + ½ q(z_m|·))
        P(conditions|z) = Π_{j equal} p(x_j|z) · Π_{k between} [F_k(high_k|z) − F_k(low_k|z)]

    Then z is drawn anew with probabilities ∝ w, and the cells from p(x|z): one that must equal a
    value is set to it, one between ends is drawn from what of its distribution lies there. Half of
    the proposals come from the prior, so that no weight exceeds 2 P(conditions|z), however wrong q
    is. Exact as the number of proposals grows; ``ess`` says how far along that is. Cells of which
    nothing is asked are drawn between the ends of ``seen``, where it has any; they do not change
    the weights. ``given`` is one row of covariates for all. Raises InputError for
    n < 1, for conditions that the model finds impossible, and where too few effective draws stand
    behind n rows.
    Source: Rubin 1988 (sampling importance resampling); Owen & Zhou 2000 (defensive mixtures).

    >>> import unveil
    >>> from torch import nn
    >>> from unveil.networks.mlp import Encoder, MarksGaps
    >>> gaps = MarksGaps()
    >>> encoder = Encoder((2,), covariates=0, outputs=2, width=8, depth=1, gaps=gaps)
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 2), unveil.Gaussian(2)),
    ...     posterior=unveil.Conditional(encoder, unveil.DiagonalGaussian(1)),
    ... )
    >>> nothing = torch.full((2,), torch.nan).double()
    >>> ends = torch.tensor([0.0, torch.nan]).double()
    >>> above = Conditions(equal=nothing, low=ends, high=ends + 1)
    >>> drawn = sample_where(vae, above, 5)
    >>> drawn.x.shape, bool((drawn.x[:, 0] >= 0).all()), drawn.ess > 1000
    (torch.Size([5, 2]), True, True)
    """
    if n < 1:
        raise InputError(f"expected at least 1 row to sample, but {n} came; give more")
    number = min(MOST_PROPOSALS, max(FEWEST_PROPOSALS, PROPOSALS_PER_ROW * n))
    randomness = generator(seed, "sample where", device=conditions.equal.device)
    with torch.no_grad():
        z, log_w = _proposed(model, conditions, number, given, randomness)
        ess = _effective(log_w)
        _require_enough(ess, n, number)
        z = z[_resampled(log_w, n, randomness)]
        drawn = conditions if seen is None else conditions.or_else(seen)
        x = [_drawn(model, drawn, some, given, randomness) for some in z.split(AT_ONCE)]
    return Conditioned(
        x=torch.cat(x),
        ess=ess,
        num_proposals=number,
        log_probability=float(log_w.logsumexp(0)) - math.log(number),
    )


def _proposed(
    model: LatentVariableModel,
    conditions: Conditions,
    number: int,
    given: OneGiven,
    randomness: Generator,
) -> tuple[Float[Tensor, "draw latent"], Float[Tensor, " draw"]]:
    """Draws of z, half from p(z) and half from q(z|equalities), and their log-weights, float64."""
    like = next(model.parameters(), conditions.equal)
    q = model.posterior(conditions.equal.to(like)[None], given)
    prior = model.prior(given)
    zs, log_ws = [], []
    for first in range(0, number, AT_ONCE):
        size = min(AT_ONCE, number - first)
        shape = (size, 1, model.num_latents)
        noise = torch.randn(shape, generator=randomness, device=like.device, dtype=like.dtype)
        of_prior = draw(prior, (size,) if prior.batch_shape else (size, 1), randomness).to(like)
        z = torch.cat([q.push(noise[: size // 2]), of_prior[size // 2 :]])
        log_p, log_q = prior.log_prob(z).double(), q.log_prob(z).double()
        proposed = torch.logaddexp(log_p, log_q) - math.log(2)
        likelihood = cast(Cells | Joined, model.likelihood(z, given))
        zs.append(z[:, 0])
        log_ws.append((log_p + _log_probability(likelihood, conditions) - proposed)[:, 0])
    return torch.cat(zs), torch.cat(log_ws)


def _log_probability(likelihood: Cells | Joined, conditions: Conditions) -> Tensor:
    """log P(conditions|z), nats, (...): densities or masses of what is equal, masses between."""
    shape = likelihood.batch_shape
    equal = conditions.equal.expand(*shape, -1)
    log_equal = likelihood.log_prob(equal).double()
    below, above = _ends(likelihood, conditions)
    mass = torch.where(conditions.between, (above - below).clamp(min=0.0), 1.0)
    return log_equal + mass.log().sum(-1)


def _ends(likelihood: Cells | Joined, conditions: Conditions) -> tuple[Tensor, Tensor]:
    """F_k at both ends of each cell, float64 (..., cell); an end at infinity needs no F."""

    def mass(end: Ends, beyond: float) -> Tensor:
        within = torch.isfinite(end)
        cdf = likelihood.cdf_cells(torch.where(within, end, 0.0)).double()
        return torch.where(within, cdf, beyond)

    return mass(conditions.low, 0.0), mass(conditions.high, 1.0)


def _drawn(
    model: LatentVariableModel,
    conditions: Conditions,
    z: Float[Tensor, "row latent"],
    given: OneGiven,
    randomness: Generator,
) -> Drawn:
    """One row x ~ p(x|z, conditions) for each z, float64."""
    c = None if given is None else given.expand(len(z), -1)
    likelihood = cast(Cells | Joined, model.likelihood(z, c))
    x = draw_within(conditions, likelihood, randomness)
    return torch.where(torch.isnan(conditions.equal), x, conditions.equal)


def draw_within(conditions: Conditions, likelihood: Distribution, randomness: Generator) -> Tensor:
    """x ~ p(x|z, low ≤ x ≤ high), float64, of a likelihood of flat rows where ends are asked for.

    A cell outside is drawn anew some times; where none falls between its ends, by the inverse of
    its distribution function there. Either way it has the likelihood's own shape, cut off.
    """
    if not bool(conditions.between.any()):
        return draw(likelihood, (), randomness).double()

    def fresh() -> Tensor:
        x = draw(likelihood, (), randomness).double()
        return torch.where(x < conditions.low, x + conditions.turn, x)

    x = fresh()
    for _ in range(DRAWN_ANEW):
        outside = _outside(x, conditions)
        if not bool(outside.any()):
            return x
        x = torch.where(outside, fresh(), x)
    cells = cast(Cells | Joined, likelihood)
    return torch.where(_outside(x, conditions), _within(cells, conditions, randomness), x)


def _outside(x: Tensor, conditions: Conditions) -> Tensor:
    return (x < conditions.low) | (x > conditions.high)


def _within(likelihood: Cells | Joined, conditions: Conditions, randomness: Generator) -> Tensor:
    """x_k = F_k⁻¹(F_k(low) + u [F_k(high) − F_k(low)]), u ~ U(0, 1), of the cells with ends."""
    below, above = _ends(likelihood, conditions)
    u = torch.rand(below.shape, generator=randomness, device=below.device, dtype=below.dtype)
    asked = conditions.between
    target = torch.where(asked, below + u * (above - below), 0.5)
    x = solve(lambda t: likelihood.cdf_cells(torch.where(asked, t, 0.0)).double(), target)
    return torch.where(asked, torch.maximum(torch.minimum(x, conditions.high), conditions.low), x)


def _effective(log_w: Float[Tensor, " draw"]) -> float:
    """(Σw)²/Σw², 0 where no weight is above 0."""
    if not bool((log_w > -math.inf).any()):
        return 0.0
    return float(torch.exp(2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)))


def _resampled(log_w: Float[Tensor, " draw"], n: int, randomness: Generator) -> Tensor:
    """Places of n draws, independent of each other, with probabilities ∝ w."""
    up_to = log_w.softmax(0).cumsum(0)
    u = torch.rand(n, generator=randomness, device=log_w.device, dtype=log_w.dtype)
    return torch.searchsorted(up_to, u * up_to[-1], right=True).clamp(max=len(log_w) - 1)


def _require_enough(ess: float, n: int, number: int) -> None:
    """Raises InputError where n rows under the conditions would not be what they say they are."""
    if ess == 0:
        raise InputError(
            f"expected conditions that rows can meet, but none of {number} draws of the model "
            "could; correct them, or ask for less at a time"
        )
    if ess < FEWEST_EFFECTIVE_TO_SAMPLE:
        raise InputError(
            f"expected conditions that the model meets often enough, but of {number} draws only "
            f"{ess:.1f} count in effect, where {FEWEST_EFFECTIVE_TO_SAMPLE:.0f} are needed; "
            "widen an interval, or leave a condition out"
        )
    most = int(MOST_ROWS_PER_EFFECTIVE * ess)
    if n > most:
        raise InputError(
            f"expected at most {most} rows under these conditions, which {ess:.0f} effective draws "
            f"stand behind, but {n} came; ask for fewer, or widen the conditions"
        )


# ---- between a person's words and model units ---------------------------------------------------


def conditions(schema: Schema, where: Mapping[str, Any]) -> Conditions:
    """Conditions on named columns of a table: a value, or a pair of ends, both included.

    An end that is None is open. Raises InputError for rows that are no table, a column that is not
    there, a value that it cannot have, and ends that hold nothing between them.

    >>> from unveil.data.schema import Column
    >>> schema = Schema((2,), (Column("age", "grid", 40.0, 10.0, step=1.0), Column("x", "real")),
    ...                 gaps=False)
    >>> conditions(schema, {"age": (20, 40)}).low.tolist()      # half a year below 20
    [-2.05, nan]
    """
    if schema.shared:
        raise InputError(
            "expected a table with named columns to set conditions on, but the model is of cells "
            "that are all alike; leave the conditions out"
        )
    unknown = [name for name in where if name not in schema.names]
    if unknown:
        raise InputError(
            f"expected conditions on the columns of the model ({listed(schema.names)}), but "
            f"{listed(unknown)} came; correct the name, or leave it out"
        )
    x = {name: np.full(len(schema.columns), np.nan) for name in ("equal", "low", "high")}
    x["turn"] = np.array([2 * math.pi if c.kind == ANGLE else 0.0 for c in schema.columns])
    for name, asked in _settled(where).items():
        place = schema.names.index(name)
        column = schema.columns[place]
        _require_conditioned(column)
        if isinstance(asked, tuple | list):
            x["low"][place], x["high"][place] = _edges(column, *_ends_of(column, asked))
        else:
            x["equal"][place] = _in_model_units(column, column.understood(asked))
    modelled = list(schema.modelled)
    return Conditions(**{name: torch.from_numpy(cells[modelled]) for name, cells in x.items()})


def seen_range(schema: Schema, rows: Rows) -> Conditions:
    """Between the least and the largest value of each column of a table that holds numbers.

    >>> from unveil.data.schema import Column
    >>> schema = Schema((1,), (Column("age", "grid", 40.0, 10.0, step=1.0),), gaps=False)
    >>> seen_range(schema, Rows(np.array([[20.0], [60.0]]))).high.tolist()  # half a year above 60
    [2.05]
    """
    if schema.shared:
        return Conditions.none(schema.dims)
    ends = np.full((len(schema.columns), 2), np.nan)
    for place, (column, cells) in enumerate(columns_of(schema, rows.values)):
        there = cells[~np.isnan(cells)]
        if column.kind in NUMBERS and there.size:
            ends[place] = _edges(column, float(there.min()), float(there.max()))
    low, high = torch.from_numpy(ends[list(schema.modelled)]).unbind(1)
    return replace(Conditions.none(schema.dims), low=low.contiguous(), high=high.contiguous())


def values_seen(schema: Schema, seen: Conditions) -> tuple[np.ndarray, np.ndarray]:
    """The ends of ``seen_range`` in the data's own units, float64 (column,), infinite where nothing
    is known; of a grid, its outermost points.

    >>> from unveil.data.schema import Column
    >>> schema = Schema((1,), (Column("age", "grid", 40.0, 10.0, step=1.0),), gaps=False)
    >>> values_seen(schema, seen_range(schema, Rows(np.array([[20.0], [60.0]]))))
    (array([20.]), array([60.]))
    """
    ends = np.tile([[-np.inf], [np.inf]], len(schema.columns))
    outside = torch.stack([seen.low, seen.high]).double().cpu().numpy()
    for cell, place in enumerate(schema.modelled):
        if not np.isnan(outside[:, cell]).any():
            column = schema.columns[place]
            inwards = column.step * np.array([0.5, -0.5])
            ends[:, place] = column.nearest(outside[:, cell] * column.unit + column.shift + inwards)
    return ends[0], ends[1]


def fulfilled(schema: Schema, where: Mapping[str, Any], x: Drawn) -> np.ndarray:
    """Drawn rows in the data's own units, float64 (row, column), the conditions met to the digit.

    >>> from unveil.data.schema import Column
    >>> schema = Schema((2,), (Column("age", "grid", 40.0, 10.0, step=1.0), Column("x", "real")),
    ...                 gaps=False)
    >>> fulfilled(schema, {"x": 0.1}, torch.tensor([[-1.9999, 0.1]]))
    array([[20. ,  0.1]])
    """
    values = decode(schema, x.cpu().numpy())
    for name, asked in _settled(where).items():
        place = schema.names.index(name)
        column = schema.columns[place]
        if isinstance(asked, tuple | list):
            low, high = _ends_of(column, asked)
            settled = column.nearest(values[:, place])
            values[:, place] = np.clip(settled, low, high) if low <= high else settled
        else:
            values[:, place] = column.nearest(np.array([column.understood(asked)]))
    return values


def _settled(where: Mapping[str, Any]) -> dict[str, Any]:
    """The same conditions, two equal ends as the one value that they leave."""

    def settled(asked: Any) -> Any:
        is_pair = isinstance(asked, tuple | list) and len(asked) == 2
        return asked[0] if is_pair and asked[0] == asked[1] is not None else asked

    return {name: settled(asked) for name, asked in where.items()}


def _require_conditioned(column: Column) -> None:
    """Raises InputError for a column of which only probabilities are modelled."""
    if column.kind == BINARIZED:
        raise InputError(
            f"expected conditions on columns whose values are modelled, but those of "
            f"{column.name!r} are read as probabilities; leave it out, or fit with another "
            "likelihood"
        )


def _end(column: Column, asked: Any) -> float:
    """An end that a person wrote, which need be no value of the column."""
    try:
        end = native(column.type, column.words).understand(asked)
    except (TypeError, ValueError, OverflowError):
        end = math.nan
    if math.isnan(end):
        raise InputError(
            f"expected an end such as {column.expected} for column {column.name!r}, but "
            f"{str(asked)!r} came; correct it"
        )
    return end


def _ends_of(column: Column, asked: Sequence[Any]) -> tuple[float, float]:
    """The ends that a column must lie between, an open one as far as the column goes.

    From a higher angle to a lower one is the way through the end of the period. Raises InputError
    for other than two ends, for one that is no number, and for a first one above the second.
    """
    if len(asked) != 2:
        raise InputError(
            f"expected two ends as a condition on column {column.name!r}, but {len(asked)} came; "
            "write for instance (20, 40)"
        )
    if column.kind == CATEGORY:
        raise InputError(
            f"expected a value as a condition on column {column.name!r}, whose classes have no "
            f"order, but the ends {asked[0]} and {asked[1]} came; name one class"
        )
    ends = (column.levels[0], column.levels[-1]) if column.levels else (column.low, column.high)
    low, high = (
        end if one is None else _end(column, one) for one, end in zip(asked, ends, strict=True)
    )
    if column.kind == CONSTANT and not low <= column.shift <= high:
        raise InputError(
            f"expected ends around {column.expected} in column {column.name!r}, but {low:.9g} and "
            f"{high:.9g} came, which is impossible; leave the condition out"
        )
    if low > high and column.kind != ANGLE:
        if None in asked:
            raise InputError(
                f"expected an end that values of column {column.name!r} reach, {column.expected}, "
                f"but {next(end for end in asked if end is not None)!s} came; correct it"
            )
        raise InputError(
            f"expected the lower end first as a condition on column {column.name!r}, but "
            f"{low:.9g} and {high:.9g} came; exchange them"
        )
    return low, high


def _edges(column: Column, low: float, high: float) -> tuple[float, float]:
    """Ends in model units that hold the values from low to high: on a grid, half a step outside.

    Raises InputError where no value lies between them.
    """
    if column.step == 0:
        turn = column.high - column.low if low > high else 0.0
        # An amount has a probability of being exactly 0, which lies between ends from 0 on.
        if column.kind == AMOUNT and low <= 0:
            return -1.0, _in_model_units(column, high)
        return _in_model_units(column, low), _in_model_units(column, high + turn)
    first, last = (_codes_inside if column.levels else _points_inside)(column, low, high)
    if first > last:
        raise InputError(
            f"expected {column.expected} between the ends of a condition on column "
            f"{column.name!r}, but none lies between {low:.9g} and {high:.9g}; widen them"
        )
    below, above = first - column.step / 2, last + column.step / 2
    return (below - column.shift) / column.unit, (above - column.shift) / column.unit


def _points_inside(column: Column, low: float, high: float) -> tuple[float, float]:
    """The first and the last point of a grid between two ends."""
    first, last = map(float, column.nearest(np.array([low, high])))
    slack = ROUNDED * column.step
    return (
        first if first >= low - slack else first + column.step,
        last if last <= high + slack else last - column.step,
    )


def _codes_inside(column: Column, low: float, high: float) -> tuple[float, float]:
    """The codes of the first and the last level between two ends."""
    first = np.searchsorted(column.levels, low, "left")
    return float(first), float(np.searchsorted(column.levels, high, "right") - 1)


def _in_model_units(column: Column, value: float) -> float:
    """x of a value: (value − shift)/unit, or so for its code."""
    (place,) = column.place(np.array([value]))
    return (float(place) - column.shift) / column.unit
