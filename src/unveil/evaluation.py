"""What a model says about rows, each number with its unit, its guarantee and its error."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unveil.diagnostics.calibration import Calibration, calibrate
from unveil.diagnostics.criticism import (
    LeaveOneOut,
    PredictiveChecks,
    leave_one_out,
    predictive_checks,
)
from unveil.diagnostics.gap import Gap, encoder_gap, gap
from unveil.diagnostics.means import Mean
from unveil.diagnostics.surgery import curve_from_prior, surgery
from unveil.diagnostics.words import in_words
from unveil.evidence.annealing import Schedule
from unveil.evidence.bound import SIDED, Bound, Guarantee, InversionError, Side, require_order
from unveil.evidence.effort import Effort
from unveil.evidence.importance import Importance, importance
from unveil.evidence.row_bounds import RowBounds, lower, row_error
from unveil.evidence.sandwich import (
    Certificate,
    Sandwich,
    Schedules,
    between,
    carried_over,
    certificate,
    certified,
    choose,
    known,
    objection,
    part,
    sandwich,
)
from unveil.evidence.tuning import Sizes
from unveil.latent import LatentVariableModel
from unveil.shapes import Given, PerRow, Rows
from unveil.tiles import ROWS_PER_TILE, row_digests
from unveil.units import active_units, collapse_warning, posterior_moments

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
# Fewer effective draws than this say little about a row's evidence beyond the ELBO.
FEWEST_EFFECTIVE_TO_BOUND = 10
# Beyond this distance from an even chance, real rows are told from simulated ones by their weights.
MOST_UNLIKE = 0.25
# Of few rows so many standard errors are less than that.
SURELY_UNLIKE = 3.0
CURVE_TEMPERATURES = 50
# So many findings of each kind are put into words; the rest stand among the figures.
MOST_FINDINGS = 3
TOO_LONG = (
    "annealing would take longer than it is given; name a longer time with --budget SECONDS, or "
    "more of them"
)


@final
@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The figures of one set of rows, nats per row unless a name says otherwise.

    ``split`` says which rows; ``errors`` are the standard errors over rows of ``elbo``, ``rate``
    and ``distortion``; ``khat`` and ``ess`` map quantiles over rows to Pareto k̂ and to effective
    draws. ``baselines`` are mean log-evidences of simpler models on the same rows, and ``gains``
    how far above them draws of q(z|x) bound log p(x), row by row. ``settings`` are all that it
    takes to get the numbers again. ``bounds`` are all that were tried, ``simulated`` the
    certificate on rows drawn from the model. ``gap``, ``latents``, ``calibration`` and
    ``criticism`` are the diagnostics as plain JSON, and ``words`` what they say; all of these are
    empty where draws of q(z|x) alone were asked for.
    """

    rows: int
    dims: int
    split: str
    elbo: float
    rate: float
    distortion: float
    lower: Bound
    upper: Bound
    bits_per_dim: float | None
    active_units: int
    kl_per_unit: Sequence[float] | None
    khat: Mapping[str, float] | None
    ess: Mapping[str, float]
    baselines: Mapping[str, float | None]
    settings: Mapping[str, Any]
    errors: Mapping[str, float | None] = field(default_factory=dict)
    gains: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    bounds: tuple[Bound, ...] = ()
    simulated: Certificate | None = None
    gap: Mapping[str, Any] | None = None
    latents: Mapping[str, Any] | None = None
    calibration: Mapping[str, Any] | None = None
    criticism: Mapping[str, Any] | None = None
    words: str = ""
    warnings: tuple[str, ...] = field(default_factory=tuple)

    def document(self) -> dict[str, Any]:
        """The evaluation as plain JSON, by the contract of ``unveil evaluate --json``."""
        simulated = self.simulated
        return {"format_version": 1} | {
            **{name.name: getattr(self, name.name) for name in fields(self)},
            "lower": self.lower.document(),
            "upper": self.upper.document(),
            "kl_per_unit": None if self.kl_per_unit is None else list(self.kl_per_unit),
            "bounds": [bound.document() | {"side": bound.side} for bound in self.bounds],
            "simulated": {"lower": None, "upper": None}
            if simulated is None
            else simulated.document(),
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Evaluation":
        """The evaluation that ``document`` wrote."""
        plain = {name: value for name, value in document.items() if name != "format_version"}
        simulated, bounds = document["simulated"], document["bounds"]
        return cls(
            **plain
            | {
                "lower": Bound.from_document(document["lower"], "lower"),
                "upper": Bound.from_document(document["upper"], "upper"),
                "bounds": tuple(
                    Bound.from_document({k: v for k, v in b.items() if k != "side"}, b["side"])
                    for b in bounds
                ),
                "simulated": (
                    None if simulated["lower"] is None else Certificate.from_document(simulated)
                ),
                "warnings": tuple(document["warnings"]),
            }
        )


NO_BASELINES: Mapping[str, PerRow | None] = {"independent": None, "ppca": None}


@final
@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model, the rows x (row, *event) that it is judged by, and the seed of all draws.

    ``split`` says which rows they are. ``counts_cells`` says that every cell has a true
    probability, so that bits per dimension mean something; ``baselines`` are log-evidences of the
    rows (row,) under simpler models; ``names`` are those of the columns. ``training`` is the model
    with rows that it was trained on, to set its encoder's gap beside.
    """

    model: LatentVariableModel
    x: Rows
    given: Given = None
    seed: int = 0
    split: str = "the rows given"
    counts_cells: bool = False
    baselines: Mapping[str, PerRow | None] = field(default_factory=lambda: NO_BASELINES)
    names: Sequence[str] | None = None
    training: "Subject | None" = None

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def digests(self) -> NDArray[np.uint64]:
        """What tells the rows apart, (row, 2)."""
        return row_digests(self.x, self.given)

    def of(self, at: Tensor) -> "Subject":
        """The rows of these numbers alone."""
        here = at.to(self.x.device)
        given = None if self.given is None else self.given[here]
        alone = {
            name: None if of is None else of[at.to(of.device)]
            for name, of in self.baselines.items()
        }
        return replace(self, x=self.x[here], given=given, baselines=alone)

    def first(self, rows: int) -> "Subject":
        """So many of the rows at most, from the first on."""
        return self.of(torch.arange(min(len(self), rows)))


def evaluate(
    subject: Subject,
    *,
    num_samples: int = 100,
    on_tile: Callable[[float], None] = lambda fraction: None,
) -> Evaluation:
    """Evaluate a model with ``num_samples`` draws of q(z|x) for each row.

    Such draws bound log p(x) from below alone, in expectation. Raises as ``importance`` does.
    """
    return _by_draws(subject, num_samples, on_tile).evaluation


def examine(
    subject: Subject,
    effort: Effort,
    sizes: Sizes,
    *,
    on_part: Callable[[float], None] = lambda fraction: None,
) -> Evaluation:
    """Evaluate a model as ``evaluate`` does, and find out how far its numbers can be trusted.

    log p(x) is bounded from both sides, and on simulated rows with a certificate; the gap to the
    ELBO is taken apart, and so is the rate; q(z|x) is calibrated and the model criticised. All
    that looks at ``effort.rows`` rows at most, chosen by their digests; what they say of the
    evidence is carried over to all rows, in expectation. Raises as ``anneal`` does.
    """
    drawn = _by_draws(subject, effort.draws, part(on_part, 0.0, 0.1))
    settings = effort.document() | {"seed": subject.seed}
    if effort.rows == 0:
        floor, ceiling = _at_once(subject, drawn.iwae, effort)
        return replace(
            drawn.evaluation,
            settings=settings,
            lower=floor,
            upper=ceiling,
            warnings=drawn.collapse + floor.warnings,
        )
    at = _chosen(subject, effort.rows)
    schedules = effort.schedules(sizes)
    bounds = _bounds(subject, at, drawn.iwae, effort, schedules, on_part)
    found = _diagnosed(subject.of(at), effort, schedules.far, bounds.rows_upper, on_part)
    on_part(1.0)
    return replace(
        drawn.evaluation,
        lower=bounds.lower,
        upper=bounds.upper,
        bits_per_dim=_bits(bounds.lower, subject),
        bounds=bounds.tried,
        simulated=bounds.simulated,
        settings=settings,
        warnings=drawn.collapse + bounds.lower.warnings + bounds.warnings,
        gap=found.gap,
        latents=found.latents,
        calibration=found.calibration,
        criticism=found.criticism,
        words=found.words,
    )


@final
@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """What draws of q(z|x) say, how they bound each row, and a warning of unused latents or none.

    The evaluation has that warning as well; it stands whatever bounds the evidence in the end.
    """

    evaluation: Evaluation
    iwae: RowBounds
    collapse: tuple[str, ...]


def _by_draws(subject: Subject, num_samples: int, on_tile: Callable[[float], None]) -> _Drawn:
    result = importance(
        subject.model,
        subject.x,
        num_samples=num_samples,
        seed=subject.seed,
        given=subject.given,
        on_tile=on_tile,
    )
    iwae = iwae_of(result, subject.seed)
    floor = iwae.mean(subject.digests)
    active = active_units(result.means)
    collapse = tuple(filter(None, [collapse_warning(active.tolist(), len(subject))]))
    units = result.rate_per_unit
    evaluation = Evaluation(
        rows=len(subject),
        dims=math.prod(subject.x.shape[1:]),
        split=subject.split,
        elbo=float(result.elbo.mean()),
        rate=float(result.rate.mean()),
        distortion=float(result.distortion.mean()),
        lower=floor,
        upper=Bound(
            value=None,
            side="upper",
            reason="draws of q(z|x) alone cannot bound log p(x) from above",
        ),
        bits_per_dim=_bits(floor, subject),
        active_units=int(active.sum()),
        kl_per_unit=None if units is None else units.mean(0).tolist(),
        khat=_quantiles(result.weights.khat),
        ess=_quantiles(result.ess) or {},
        baselines={
            name: None if alone is None else float(alone.mean())
            for name, alone in subject.baselines.items()
        },
        settings={"draws": num_samples, "seed": subject.seed},
        errors={
            name: row_error(values.double())
            for name, values in (
                ("elbo", result.elbo),
                ("rate", result.rate),
                ("distortion", result.distortion),
            )
        },
        gains={name: _gain(iwae, alone) for name, alone in subject.baselines.items()},
        bounds=(floor,),
        warnings=collapse + floor.warnings,
    )
    return _Drawn(evaluation=evaluation, iwae=iwae, collapse=collapse)


def _gain(floor: RowBounds, alone: PerRow | None) -> dict[str, Any] | None:
    """How far rows' bounds lie above what a simpler model makes of them: row by row, so that what
    makes a row hard for both does not count as error. None where one of them is impossible."""
    if alone is None or not bool(torch.isfinite(floor.values - alone).all()):
        return None
    return Mean.over_rows(floor.values - alone).document() | {"method": floor.method}


def iwae_of(result: Importance, seed: int) -> RowBounds:
    """log (1/K) Σ w_k of each row, a lower bound in expectation (Burda et al. 2016)."""
    settings = {"num_samples": result.num_samples, "seed": seed}
    return replace(lower("IWAE", result.weights, settings), warnings=few_effective_draws(result))


def few_effective_draws(result: Importance) -> tuple[str, ...]:
    """A warning where the draws of q(z|x) leave the bound of many rows loose."""
    few = float((result.ess < FEWEST_EFFECTIVE_TO_BOUND).double().mean())
    if result.num_samples < 2 * FEWEST_EFFECTIVE_TO_BOUND or few < 0.05:
        return ()
    return (
        f"{few:.0%} of rows have fewer than {FEWEST_EFFECTIVE_TO_BOUND} effective draws of "
        f"{result.num_samples}: there the bound is loose; take more draws",
    )


@final
@dataclass(frozen=True, kw_only=True)
class _Bounds:
    """Both sides of log p(x), and what stands behind them."""

    lower: Bound
    upper: Bound
    rows_upper: RowBounds | None
    tried: tuple[Bound, ...]
    simulated: Certificate
    warnings: tuple[str, ...]


def _bounds(
    subject: Subject,
    at: Tensor,
    iwae: RowBounds,
    effort: Effort,
    schedules: Schedules,
    on_part: Callable[[float], None],
) -> _Bounds:
    """Bounds by all methods for the rows numbered ``at``, carried over to all rows."""
    some = subject.of(at)
    found, near = sandwich(
        some.model,
        some.x,
        iwae[at],
        schedules,
        some.given,
        seed=some.seed,
        delta=effort.delta / 2,
        on_part=part(on_part, 0.1, 0.6),
    )
    simulated = certificate(
        some.model,
        some.x,
        near,
        schedules.near,
        some.given,
        seed=some.seed,
        delta=effort.delta,
        on_part=part(on_part, 0.6, 0.75),
    )
    floor, ceiling, tried = found.lower, found.upper, found.tried
    rows_upper, keys = found.rows_upper, some.digests
    truth = known(some.model, some.x, some.given, most_integrated=effort.integrated)
    if truth is not None:
        ends = between(truth, keys)
        reason = objection(ends[1], truth, found.lower, found.rows_lower, keys)
        tried = (*tried, ends[1] if reason is None else ends[1].withdrawn(reason))
        if reason is None:
            (floor, ceiling), rows_upper = ends, truth
    if len(at) < len(subject):
        tried = tuple(_about(bound, len(at)) for bound in tried)
        floor, upper = _at_once(subject, iwae, effort)
        if upper.value is not None:
            ceiling = upper
        elif rows_upper is not None:
            ceiling = _in_order(floor, carried_over(ceiling, rows_upper, at, iwae, subject.digests))
    return _Bounds(
        lower=floor,
        upper=ceiling,
        rows_upper=rows_upper,
        tried=tried,
        simulated=simulated,
        warnings=_doubts(found, simulated, len(at)),
    )


def _chosen(subject: Subject, most: int) -> Tensor:
    """The numbers of all rows, or of ``most`` that speak for them."""
    everyone = len(subject) <= most
    return torch.arange(len(subject)) if everyone else choose(subject.digests, most)


def _in_order(floor: Bound, ceiling: Bound) -> Bound:
    """The upper bound, or why it is withdrawn where it lies below the lower one."""
    try:
        require_order(floor, ceiling, difference_se=0.0)
    except InversionError as crossed:
        return ceiling.withdrawn(str(crossed))
    return ceiling


def _at_once(subject: Subject, iwae: RowBounds, effort: Effort) -> tuple[Bound, Bound]:
    """Both sides for all rows by what takes no time: a closed form, or the draws of q."""
    exact = known(subject.model, subject.x, subject.given, most_integrated=0)
    if exact is not None:
        return between(exact, subject.digests)
    upper = Bound(value=None, side="upper", reason=TOO_LONG)
    return certified([iwae], subject.digests, effort.delta / 2), upper


def _about(bound: Bound, rows: int) -> Bound:
    """The bound, with how many rows it is about."""
    return replace(bound, settings={**bound.settings, "rows": rows})


def _doubts(found: Sandwich, simulated: Certificate, rows: int) -> tuple[str, ...]:
    """What to hold against the bounds, a sentence each."""
    # The standard error of Mann and Whitney's share where both kinds of rows are alike.
    chance = math.sqrt((2 * rows + 1) / (12 * rows**2))
    unlike = simulated.likeness.furthest > max(MOST_UNLIKE, SURELY_UNLIKE * chance)
    sentence = (
        "log-weights of real rows are unlike those of simulated ones (a chance of "
        f"{0.5 + simulated.likeness.furthest:.0%} to tell which is which): what is certified for "
        "simulated rows says less of real ones"
    )
    return (*found.doubts, *((sentence,) if unlike else ()))


# ---- the diagnostics ---------------------------------------------------------------------------


@final
@dataclass(frozen=True, kw_only=True)
class _Diagnosed:
    """The diagnostics as an evaluation holds them; none of rows that show nothing."""

    gap: Mapping[str, Any] | None = None
    latents: Mapping[str, Any] | None = None
    calibration: Mapping[str, Any] | None = None
    criticism: Mapping[str, Any] | None = None
    words: str = ""


def _diagnosed(
    subject: Subject,
    effort: Effort,
    far: Schedule,
    rows_upper: RowBounds | None,
    on_part: Callable[[float], None],
) -> _Diagnosed:
    """The diagnostics of some rows, whose log p(x) lies below ``rows_upper`` where that is known:
    of the gap and the curve from p(z) for a tile of them, of all else for all."""
    shown = (~torch.isnan(subject.x)).flatten(1).any(1).nonzero()[:, 0]
    if len(shown) == 0:  # nothing to be learned of rows that show nothing
        return _Diagnosed()
    some = subject.of(shown)
    looked_at = _chosen(some, ROWS_PER_TILE)
    few = some.of(looked_at)
    ceiling = None if rows_upper is None else rows_upper[shown.cpu()[looked_at]]
    lost = _lost(few, effort, ceiling, part(on_part, 0.75, 0.9))
    split = surgery(some.model, some.x, some.given, seed=some.seed) if len(some) > 1 else None
    few_steps = replace(far, num_temperatures=CURVE_TEMPERATURES)
    curve = curve_from_prior(few.model, few.x, few_steps, few.given, seed=few.seed)
    on_part(0.95)
    calibrated = calibrate(some.model, some.x, some.given, seed=some.seed)
    criticised = _criticised(some)
    return _Diagnosed(
        gap=lost.document(),
        latents=({} if split is None else split.document()) | {"rate_distortion": curve.document()},
        calibration=calibrated.document(),
        criticism=criticised.document(),
        words=in_words(
            rows=len(some),
            active_units=0 if split is None else split.active_units,
            latents=some.model.num_latents,
            amortisation=lost.amortisation,
            approximation=lost.approximation if lost.is_sided else None,
            encoder_gap=lost.encoder,
            mutual_information=None if split is None else split.mutual_information,
            marginal_kl=None if split is None else split.marginal_kl,
            calibration=[*_most_telling(calibrated), *criticised.sentences],
        ),
    )


Worth = tuple[Guarantee, Side | None]


@final
@dataclass(frozen=True, kw_only=True)
class _Lost:
    """The parts of the gap of so many rows: what the encoder loses, what its family does, where an
    upper bound is known, and what the encoder loses beyond rows that it was trained on.

    ``is_sided`` says that the family loses at most what is told, in expectation.
    """

    rows: int
    amortisation: Mean
    approximation: Mean | None
    encoder: Mean | None
    is_sided: bool

    def document(self) -> dict[str, Any]:
        """The gap as plain JSON."""
        above: Worth = ("in_expectation", "upper") if self.is_sided else ("heuristic", None)
        return {
            "rows": self.rows,
            "amortisation": _told(self.amortisation, ("in_expectation", "lower")),
            "approximation": _told(self.approximation, above),
            "encoder": _told(self.encoder, ("heuristic", None)),
        }


def _told(mean: Mean | None, worth: Worth) -> dict[str, Any] | None:
    """A mean as plain JSON, with what it is worth; None where it is not known."""
    guarantee, side = worth
    return None if mean is None else mean.document() | {"side": side, "guarantee": guarantee}


def _lost(
    subject: Subject,
    effort: Effort,
    rows_upper: RowBounds | None,
    on_part: Callable[[float], None],
) -> _Lost:
    """Refine rows, and some that the model was trained on, to tell what each part loses."""
    own, seen = _gap(subject, effort), subject.training
    on_part(2 / 3)
    beyond = None if seen is None else encoder_gap(own, _gap(seen.first(ROWS_PER_TILE), effort))
    on_part(1.0)
    return _Lost(
        rows=len(subject),
        amortisation=Mean.over_rows(own.amortisation),
        approximation=(
            None if rows_upper is None else Mean.over_rows(own.approximation(rows_upper.values))
        ),
        encoder=beyond,
        is_sided=rows_upper is not None and rows_upper.guarantee in SIDED and own.of_the_family,
    )


@final
@dataclass(frozen=True, kw_only=True)
class _Criticised:
    """Rows held against replicates, and each column against the others where they can be hidden."""

    checks: PredictiveChecks
    alone: LeaveOneOut | None

    def document(self) -> dict[str, Any]:
        """The criticism as plain JSON."""
        return {
            "predictive_checks": self.checks.document(),
            "leave_one_out": None if self.alone is None else self.alone.document(),
        }

    @property
    def sentences(self) -> list[str]:
        """The findings of each kind that are put into words."""
        alone = () if self.alone is None else self.alone.sentences
        return [*self.checks.sentences[:MOST_FINDINGS], *alone[:MOST_FINDINGS]]


def _criticised(subject: Subject) -> _Criticised:
    model, x, given, seed = subject.model, subject.x, subject.given, subject.seed
    checks = predictive_checks(model, x, given, names=subject.names, seed=seed)
    if not _knows_gaps(subject):
        return _Criticised(checks=checks, alone=None)
    alone = leave_one_out(model, x, given, names=subject.names, seed=seed)
    return _Criticised(checks=checks, alone=alone)


def _most_telling(calibrated: Calibration) -> list[str]:
    """The findings of a calibration that are put into words, and which rows they are about."""
    *findings, about = calibrated.sentences
    return [*findings[:MOST_FINDINGS], about]


def _gap(subject: Subject, effort: Effort) -> Gap:
    return gap(subject.model, subject.x, subject.given, steps=effort.climb, seed=subject.seed)


def _knows_gaps(subject: Subject) -> bool:
    """Whether a cell can be hidden from the encoder: a network of one's own may not know NaN."""
    first = subject.first(1)
    hidden = first.x.clone()
    hidden.flatten(1)[:, 0] = math.nan
    means, _ = posterior_moments(first.model, hidden, first.given)
    return bool(torch.isfinite(means).all())


def _quantiles(values: PerRow) -> dict[str, float] | None:
    """Quantiles over the rows whose value is known; None where no row's is."""
    known = values[~torch.isnan(values)]
    if len(known) == 0:
        return None
    at = torch.quantile(known, torch.tensor(QUANTILES, dtype=torch.float64))
    return {f"{q:g}": float(value) for q, value in zip(QUANTILES, at, strict=True)}


def _bits(floor: Bound, subject: Subject) -> float | None:
    """Bits per cell that is observed, where cells have probabilities."""
    observed = float((~torch.isnan(subject.x)).flatten(1).sum(1).double().mean())
    if floor.value is None or observed == 0 or not subject.counts_cells:
        return None
    return -floor.value / (observed * math.log(2))
