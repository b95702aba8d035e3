"""log p(x) between two bounds: of every method that a model allows, the strongest that holds.

Draws of q(z|x) alone bound log p(x) from below and never from above: what q does not see has no
weight. So the upper bound comes from where log p(x) is known, from annealing that starts at the
prior, or is called heuristic.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu
from torch import Tensor

from unveil.evidence.annealing import Annealed, Schedule, anneal, anneal_back, anneal_there_and_back
from unveil.evidence.bound import Bound, InversionError, require_order, weaker
from unveil.evidence.bounded import bounded_evidence
from unveil.evidence.closed_form import exact_evidence
from unveil.evidence.quadrature import CannotResolve, log_supremum, quadrature
from unveil.evidence.row_bounds import RowBounds, lower, mean_error, tangent, upper
from unveil.evidence.simulated import simulate
from unveil.evidence.weights import Weights, markov_slack, pareto_khat, tail_size
from unveil.latent import LatentVariableModel
from unveil.shapes import Given, PerRow, Rows
from unveil.tiles import row_digests

# A tangent bound rests on the mean of Y/c over rows: beyond this index of its tail, its error is
# not to be believed (Vehtari et al. 2024).
LARGEST_KHAT_OF_TERMS = 0.5
# Of rows too few for k̂, a term above this leaves the bound some nats too high, and often absurd.
LARGEST_TERM = 10.0
# So many standard errors, and nats per row, that annealing from p(z) finds more than from q(z|x)
# are not chance, and matter.
SURELY_MORE, LEAST_MISSED = 3.0, 0.02
ERRORS_ADDED = 2.0
BEYOND_THE_BOX = (
    "quadrature looks at a box of z alone, and of this prior or likelihood no bound is known on "
    "what lies outside: a mode far from all others would be missed"
)
# Nats from p(x) to the largest p(x|z) that the draws of bounded weights can bridge.
FARTHEST_BOUND = 7.0


@final
@dataclass(frozen=True, kw_only=True)
class Schedules:
    """The two annealings: ``near`` from q(z|x), ``far`` from p(z)."""

    near: Schedule
    far: Schedule

    def doubled(self) -> "Schedules":
        """With twice the temperatures, which halves what they lose."""
        return Schedules(near=self.near.doubled(), far=self.far.doubled())


@final
@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How far simulated rows are like real ones: the chance that a real row's figure is the larger
    of the two, 0.5 where they are alike, for the spread of log-weights, the effective draws and
    the share of accepted moves."""

    log_sd: float
    ess: float
    acceptance: float

    @property
    def furthest(self) -> float:
        """The largest distance from 0.5."""
        return max(abs(p - 0.5) for p in (self.log_sd, self.ess, self.acceptance))


@final
@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What the same annealing makes of rows drawn from the model, whose posteriors are known:
    bounds certified on either side, and how like the real rows they are."""

    lower: Bound
    upper: Bound
    likeness: Likeness

    def document(self) -> dict[str, Any]:
        """The certificate as plain JSON."""
        return {
            "lower": self.lower.document(),
            "upper": self.upper.document(),
            "likeness": asdict(self.likeness),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Certificate":
        """The certificate that ``document`` wrote."""
        return cls(
            lower=Bound.from_document(document["lower"], "lower"),
            upper=Bound.from_document(document["upper"], "upper"),
            likeness=Likeness(**document["likeness"]),
        )


@final
@dataclass(frozen=True, kw_only=True)
class Sandwich:
    """log p(x) of some rows between two bounds.

    ``lower`` and ``upper`` are the strongest means over rows; ``rows_lower`` are each row's values
    by every method from below, ``rows_upper`` those of the upper bound, None where there is none.
    ``tried`` are the means by every method that was tried, withdrawn ones with their reasons.
    ``missed`` is what annealing from p(z) finds beyond that from q(z|x), nats per row, with its
    standard error.
    """

    lower: Bound
    upper: Bound
    rows_lower: Sequence[RowBounds]
    rows_upper: RowBounds | None
    tried: tuple[Bound, ...]
    missed: tuple[float, float]

    @property
    def doubts(self) -> tuple[str, ...]:
        """What to hold against q(z|x), a sentence each."""
        missed, error = self.missed
        if missed < SURELY_MORE * error or missed < LEAST_MISSED:
            return ()
        return (
            f"annealing from p(z) finds {missed:.2f} ± {error:.2f} nats per row more than from "
            "q(z|x): the encoder does not see all of the posterior, and bounds from its draws miss "
            "that; train longer, or take a richer posterior",
        )


def sandwich(
    model: LatentVariableModel,
    x: Rows,
    iwae: RowBounds,
    schedules: Schedules,
    given: Given = None,
    *,
    seed: int = 0,
    delta: float = 0.05,
    on_part: Callable[[float], None] = lambda fraction: None,
) -> tuple[Sandwich, Annealed]:
    """Bounds on log p(x) by draws alone, whatever the model, and the annealing from q(z|x).

    The lower bound is the best of ``iwae`` (by other draws for the same rows) and both annealings,
    certified at 1 − ``delta``. The upper bound is the tangent to annealing from p(z), whose
    expectation needs nothing of q; where it is withdrawn, annealing back from where that from
    q(z|x) ended, which is heuristic. Each is tried once more with twice the temperatures before it
    is given up. Memory is bounded. Raises as ``anneal`` does.
    """
    near = anneal(
        model, x, schedules.near, given, seed=seed, delta=delta, on_tile=part(on_part, 0.0, 0.15)
    )
    far = anneal(
        model, x, schedules.far, given, seed=seed, delta=delta, on_tile=part(on_part, 0.15, 0.5)
    )
    lowers = [
        iwae,
        lower(schedules.near.start.method, near.weights, schedules.near.settings(seed)),
        lower(schedules.far.start.method, far.weights, schedules.far.settings(seed)),
    ]
    ladder = _Ladder(
        model=model,
        x=x,
        given=given,
        schedules=schedules,
        near=near.weights,
        far=far.weights,
        best=_best(lowers),
        seed=seed,
        delta=delta,
        on_part=part(on_part, 0.5, 1.0),
    )
    digests = ladder.digests
    floor = certified(lowers, digests, delta)
    more = far.weights.log_mean - near.weights.log_mean
    missed = float(more.mean()), mean_error(more, digests) or math.inf
    tried, rows_upper = [rows.mean(digests) for rows in lowers], None
    for ceiling, rows_upper in ladder.rungs():
        reason = objection(ceiling, rows_upper, floor, lowers, digests)
        tried.append(ceiling if reason is None else ceiling.withdrawn(reason))
        if reason is None:
            break
    on_part(1.0)
    ceiling = tried[-1]
    return Sandwich(
        lower=floor,
        upper=ceiling,
        rows_lower=lowers,
        rows_upper=None if ceiling.value is None else rows_upper,
        tried=tuple(tried),
        missed=missed,
    ), near


def certified(lowers: Sequence[RowBounds], digests: NDArray[np.uint64], delta: float) -> Bound:
    """The best of several methods' means over rows, certified to lie below that of log p(x).

        max_m [mean_i log w̄_mi − slack(δ/m)]

    Each of m methods may fail with probability δ/m, so that whichever is best does with δ at most.
    """
    mean = _best(lowers).mean(digests)
    assert mean.value is not None
    slack = _slack(lowers, digests, delta / len(lowers))
    return replace(mean, value=mean.value - slack, guarantee="certified", delta=delta)


def _slack(of: Sequence[RowBounds], digests: NDArray[np.uint64], delta: float) -> float:
    """``markov_slack`` of the rows that chance has a part in: one that shows nothing has a weight
    of 1 whatever is drawn."""
    chance = torch.stack([rows.values != 0 for rows in of]).any(0).cpu().numpy()
    share = float(chance.mean())
    return share * markov_slack(digests[chance], delta) if share else 0.0


def _best(lowers: Sequence[RowBounds]) -> RowBounds:
    return max(lowers, key=lambda rows: float(rows.values.mean()))


# An upper bound: its mean over rows, and each row's value.
Ceiling = tuple[Bound, RowBounds]


@final
@dataclass(frozen=True, kw_only=True)
class _Ladder:
    """The ways to an upper bound for rows that have been annealed from ``near`` and from ``far``,
    of whose lower bounds ``best`` is the best."""

    model: LatentVariableModel
    x: Rows
    given: Given
    schedules: Schedules
    near: Weights
    far: Weights
    best: RowBounds
    seed: int
    delta: float
    on_part: Callable[[float], None]

    @cached_property
    def digests(self) -> NDArray[np.uint64]:
        """What tells the rows apart, (row, 2)."""
        return row_digests(self.x, self.given)

    def rungs(self) -> Iterator[Ceiling]:
        """The strongest first, each climbed only when it is asked for; annealing is tried twice."""
        once, twice = self.schedules, self.schedules.doubled()
        yield from self._of_bounded_weights()
        yield self._tangent(once.far, self.far, self.near)
        yield self._tangent(twice.far, self._annealed_again(twice.far), self.near, self.far)
        yield self._there_and_back(once.near)
        yield self._there_and_back(twice.near)

    def _of_bounded_weights(self) -> Iterator[Ceiling]:
        """One, or none where draws cannot reach from p(x) to the bound on their weights."""
        if not bool((log_supremum(self.model, self.x) - self.best.values < FARTHEST_BOUND).all()):
            return
        # It spends half of its delta on a lower side, which is not shown.
        found = bounded_evidence(
            self.model, self.x, self.given, seed=self.seed, delta=2 * self.delta
        )
        if found.mean_upper is None or found.reason is not None:
            return
        rows = RowBounds(
            method="bounded weights",
            side="upper",
            guarantee="certified",
            values=found.upper,
            settings={"num_samples": found.num_samples, "seed": self.seed},
        )
        yield replace(rows.mean(self.digests), value=found.mean_upper, delta=self.delta), rows

    def _tangent(self, schedule: Schedule, fresh: Weights, *pilots: Weights) -> Ceiling:
        # Where the tangent touches is a guess at p(x) that has not heard of the chains it bounds.
        # Of several guesses from below the largest is the nearest.
        guess = torch.stack([pilot.log_mean for pilot in pilots]).amax(0)
        method = f"tangent to {schedule.start.method}"
        return self._raised(tangent(method, guess, fresh, schedule.settings(self.seed)))

    def _annealed_again(self, schedule: Schedule) -> Weights:
        return anneal(
            self.model,
            self.x,
            schedule,
            self.given,
            seed=self.seed,
            purpose="again",
            on_tile=self.on_part,
        ).weights

    def _there_and_back(self, schedule: Schedule) -> Ceiling:
        back = anneal_there_and_back(
            self.model, self.x, schedule, self.given, seed=self.seed, on_tile=self.on_part
        )
        method = f"{schedule.start.method} and back"
        return self._raised(upper(method, "heuristic", back.weights, schedule.settings(self.seed)))

    def _raised(self, rows: RowBounds) -> Ceiling:
        return with_errors(rows.mean(self.digests)), rows


def with_errors(mean: Bound) -> Bound:
    """An upper bound raised by two standard errors of its draws: as it stands, a bound in
    expectation lies below what is expected of it half of the time."""
    assert mean.value is not None
    return replace(mean, value=mean.value + ERRORS_ADDED * (mean.mc_se or 0.0))


def objection(
    ceiling: Bound,
    rows: RowBounds,
    floor: Bound,
    lowers: Sequence[RowBounds],
    digests: NDArray[np.uint64],
) -> str | None:
    """Why an upper bound, whose ``rows`` are these, is not to be shown; or None."""
    try:
        require_order(floor, ceiling, difference_se=0.0)
        for below in lowers:
            apart = mean_error(rows.values - below.values, digests) or 0.0
            require_order(below.mean(digests), ceiling, difference_se=apart)
    except InversionError as crossed:
        return str(crossed)
    khat = math.nan if rows.terms is None else _tail_index(rows.terms)
    if khat > LARGEST_KHAT_OF_TERMS:
        return (
            f"its terms over rows have a heavy tail (k̂ = {khat:.2f}, above "
            f"{LARGEST_KHAT_OF_TERMS}): the rows seen may miss what bounds the mean; take more "
            "temperatures or chains"
        )
    # Too few rows have no tail to look at; a term that large says that the pilot saw little.
    largest = 0.0 if rows.terms is None else float(rows.terms.max())
    if math.isnan(khat) and largest > LARGEST_TERM:
        return (
            f"one of its {len(rows.values)} terms is {largest:.3g}, where about 1 is expected: "
            "what it touches lies far below what it bounds; take more temperatures or chains"
        )
    return None


def _tail_index(terms: PerRow) -> float:
    """k̂ of what a mean over rows averages, all above 0; NaN of fewer than 25 rows."""
    largest = terms.log().sort(descending=True).values[: tail_size(len(terms)) + 1]
    return float(pareto_khat(largest[:, None]))


def certificate(
    model: LatentVariableModel,
    like: Rows,
    real: Annealed,
    schedule: Schedule,
    given: Given = None,
    *,
    seed: int = 0,
    delta: float = 0.05,
    on_part: Callable[[float], None] = lambda fraction: None,
) -> Certificate:
    """Bounds on log p(x) of rows drawn from the model, certified at 1 − δ together.

        mean log w̄ − slack(δ/2) ≤ mean log p(x) ≤ −mean log r̄ + slack(δ/2)

    The rows have the missing cells and covariates of ``like``, whose own annealing by the same
    schedule is ``real``. Where both are alike, what the schedule loses on simulated rows, it loses
    on real ones. Source: Grosse, Ghahramani & Adams 2015; Grosse, Ancha & Roy 2016.
    """
    x, z = simulate(model, like, given, seed=seed, purpose="certificate")
    there = anneal(
        model, x, schedule, given, seed=seed, purpose="simulated", on_tile=part(on_part, 0.0, 0.5)
    )
    back = anneal_back(model, x, z, schedule, given, seed=seed, on_tile=part(on_part, 0.5, 1.0))
    digests, settings = row_digests(x, given), schedule.settings(seed) | {"rows": len(x)}
    below = lower(schedule.start.method, there.weights, settings)
    above = upper(f"{schedule.start.method}, back", "certified", back.weights, settings)
    floor, ceiling = (
        replace(
            mean,
            value=mean.value + sign * _slack([rows], digests, delta / 2),
            guarantee="certified",
            delta=delta / 2,
        )
        for rows, sign in ((below, -1), (above, 1))
        if (mean := rows.mean(digests)).value is not None
    )
    return Certificate(lower=floor, upper=ceiling, likeness=_likeness(real, there))


def _likeness(real: Annealed, simulated: Annealed) -> Likeness:
    """The chance that a real row's figure is the larger of the two, ties halved."""

    def larger(a: Tensor, b: Tensor) -> float:
        return float(mannwhitneyu(a.numpy(), b.numpy()).statistic) / (len(a) * len(b))

    return Likeness(
        log_sd=larger(real.weights.log_sd, simulated.weights.log_sd),
        ess=larger(real.weights.ess, simulated.weights.ess),
        acceptance=larger(real.acceptance, simulated.acceptance),
    )


def known(
    model: LatentVariableModel, x: Rows, given: Given = None, *, most_integrated: int = 512
) -> RowBounds | None:
    """log p(x) itself, where it has a closed form; or where there are one to three latents to
    integrate over, for ``most_integrated`` rows at most, and a grid resolves them."""
    exact = exact_evidence(model, x, given)
    if exact is not None:
        return RowBounds(method="closed form", side="lower", guarantee="exact", values=exact)
    if len(x) > most_integrated:
        return None
    try:
        grid = quadrature(model, x, given)
    except CannotResolve:
        return None
    # What may lie outside of the box is an error as well, where it is known.
    unknown = grid.outside == math.inf
    outside = torch.where(unknown, 0.0, grid.outside)
    return RowBounds(
        method="quadrature",
        side="lower",
        guarantee="numerical",
        values=grid.log_evidence,
        settings={"error": float((grid.error + outside.log1p()).max())},
        warnings=(BEYOND_THE_BOX,) if bool(unknown.any()) else (),
    )


def between(truth: RowBounds, digests: NDArray[np.uint64]) -> tuple[Bound, Bound]:
    """The mean over rows of what is known, as a lower and an upper bound: no farther apart than
    its stated error."""
    mean = truth.mean(digests)
    assert mean.value is not None
    error = float(truth.settings.get("error", 0.0))
    floor = replace(mean, value=mean.value - error)
    return floor, replace(mean, value=mean.value + error, side="upper")


def part(on_part: Callable[[float], None], start: float, stop: float) -> Callable[[float], None]:
    """Hears what share of a part is done, and passes on what share of the whole that makes."""
    return lambda fraction: on_part(start + fraction * (stop - start))


def choose(digests: NDArray[np.uint64], most: int) -> Tensor:
    """The places of some rows for all, at most ``most``: distinct ones, chosen by their digests,
    those that are repeated most for certain, and the others in no order of the file's."""
    _, first, number = np.unique(digests, axis=0, return_index=True, return_counts=True)
    certain = number > len(digests) / most
    order = np.lexsort((digests[first, 0], ~certain))
    return torch.from_numpy(first[order[:most]])


def carried_over(
    ceiling: Bound, rows: RowBounds, at: Tensor, everyone: RowBounds, digests: NDArray[np.uint64]
) -> Bound:
    """A method's mean over all rows where it was applied to those that ``choose`` chose.

        (1/N) Σ_i e_i + (1/N) [Σ_certain n_d (b_d − e_d) + D/S Σ_others n_d (b_d − e_d)]

    ``rows`` are the bounds b of the S rows at ``at`` among D others, ``everyone`` those e of a
    cheaper method for all N rows; n_d count equal rows. It holds in expectation over the choice as
    well, and two standard errors of both are added to an upper bound.
    """
    _, which, number = np.unique(digests, axis=0, return_inverse=True, return_counts=True)
    times = torch.from_numpy(number[which.reshape(-1)[at.numpy()]]).double()
    certain = times > len(digests) / len(at)
    apart = times * (rows.values - everyone.values[at])
    others, taken = len(number) - int(certain.sum()), int((~certain).sum())
    factor = others / max(taken, 1)
    more = float(apart[certain].sum() + factor * apart[~certain].sum()) / len(digests)
    spread = float(apart[~certain].std()) if taken > 1 else 0.0
    left_out = math.sqrt(1 - taken / others) if others else 0.0
    error = left_out * others * spread / math.sqrt(max(taken, 1)) / len(digests)
    cheap = everyone.mean(digests)
    assert cheap.value is not None
    mean = replace(
        cheap,
        value=cheap.value + more,
        side="upper",
        guarantee=weaker("in_expectation", rows.guarantee),
        mc_se=math.hypot(cheap.mc_se or 0.0, error),
        method=ceiling.method,
        settings={**ceiling.settings, "rows": len(at)},
        warnings=ceiling.warnings,
    )
    return with_errors(mean)
