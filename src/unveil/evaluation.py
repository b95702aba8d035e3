"""What a model says about rows, each number with its unit, its guarantee and its error."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unveil.diagnostics.calibration import calibrate
from unveil.diagnostics.criticism import leave_one_out, predictive_checks
from unveil.diagnostics.gap import encoder_gap, gap
from unveil.diagnostics.means import Mean
from unveil.diagnostics.surgery import curve_from_prior, surgery
from unveil.diagnostics.words import in_words
from unveil.evidence.bound import Bound
from unveil.evidence.effort import Effort
from unveil.evidence.importance import Importance, importance
from unveil.evidence.row_bounds import RowBounds, lower
from unveil.evidence.sandwich import (
    Certificate,
    Sandwich,
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
FEWEST_EFFECTIVE_DRAWS = 10
# Beyond this distance from an even chance, real rows are told from simulated ones by their weights.
MOST_UNLIKE = 0.25
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

    ``split`` says which rows; ``khat`` and ``ess`` map quantiles over rows to Pareto k̂ and to
    effective draws; ``baselines`` are mean log-evidences of simpler models on the same rows.
    ``settings`` are all that it takes to get the numbers again. ``bounds`` are all that were
    tried, ``simulated`` the certificate on rows drawn from the model. ``gap``, ``latents``,
    ``calibration`` and ``criticism`` are the diagnostics as plain JSON, and ``words`` what they
    say; all of these are empty where draws of q(z|x) alone were asked for.
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


def evaluate(
    model: LatentVariableModel,
    x: Rows,
    *,
    num_samples: int = 100,
    seed: int = 0,
    given: Given = None,
    split: str = "the rows given",
    counts_cells: bool = False,
    baselines: Mapping[str, float | None] | None = None,
    on_tile: Callable[[float], None] = lambda fraction: None,
) -> Evaluation:
    """Evaluate a model on rows x (row, *event) with ``num_samples`` draws of q(z|x) each.

    Such draws bound log p(x) from below alone, in expectation. ``counts_cells`` says
    that every cell has a true probability, so that bits per dimension mean something. Raises as
    ``importance`` does.
    """
    return _by_draws(model, x, num_samples, seed, given, split, counts_cells, baselines, on_tile)[0]


def examine(
    model: LatentVariableModel,
    x: Rows,
    effort: Effort,
    sizes: Sizes,
    *,
    seed: int = 0,
    given: Given = None,
    training: tuple[Tensor, Tensor | None] | None = None,
    names: Sequence[str] | None = None,
    split: str = "the rows given",
    counts_cells: bool = False,
    baselines: Mapping[str, float | None] | None = None,
    on_part: Callable[[float], None] = lambda fraction: None,
) -> Evaluation:
    """Evaluate a model as ``evaluate`` does, and find out how far its numbers can be trusted.

    log p(x) is bounded from both sides, and on simulated rows with a certificate; the gap to the
    ELBO is taken apart, and so is the rate; q(z|x) is calibrated and the model criticised. All
    that looks at ``effort.rows`` rows at most, chosen by their digests; what they say of the
    evidence is carried over to all rows, in expectation. ``training`` are rows that the model was
    trained on, to set its encoder's gap beside; ``names`` those of the columns. Raises as
    ``anneal`` does.
    """
    plain, result = _by_draws(
        model, x, effort.draws, seed, given, split, counts_cells, baselines, part(on_part, 0.0, 0.1)
    )
    digests, settings = row_digests(x, given), effort.document() | {"seed": seed}
    if effort.rows == 0:
        ends = _at_once(model, x, given, iwae_of(result, seed), effort, digests)
        return replace(plain, settings=settings, lower=ends[0], upper=ends[1])
    everyone = len(x) <= effort.rows
    at = torch.arange(len(x)) if everyone else choose(digests, effort.rows)
    bounds = _bounds(model, x, given, at, result, effort, sizes, seed, on_part)
    some, c = _rows(x, given, at)
    found = _diagnose(
        model, some, c, effort, sizes, bounds.rows_upper, training, names, seed, on_part
    )
    on_part(1.0)
    collapsed = tuple(w for w in plain.warnings if w not in plain.lower.warnings)
    loose = plain.lower.warnings if bounds.lower.method == "IWAE" else ()
    return replace(
        plain,
        lower=replace(bounds.lower, warnings=loose),
        upper=bounds.upper,
        bits_per_dim=_bits(bounds.lower, x) if counts_cells else None,
        bounds=bounds.tried,
        simulated=bounds.simulated,
        settings=settings,
        warnings=collapsed + loose + bounds.warnings,
        **found,
    )


def _by_draws(
    model: LatentVariableModel,
    x: Rows,
    num_samples: int,
    seed: int,
    given: Given,
    split: str,
    counts_cells: bool,
    baselines: Mapping[str, float | None] | None,
    on_tile: Callable[[float], None],
) -> tuple[Evaluation, Importance]:
    """What draws of q(z|x) say, and the draws' figures row by row."""
    result = importance(model, x, num_samples=num_samples, seed=seed, given=given, on_tile=on_tile)
    iwae = iwae_of(result, seed).mean(row_digests(x, given))
    floor = replace(iwae, warnings=few_effective_draws(result))
    active = active_units(result.means)
    collapse, units = collapse_warning(active.tolist(), len(x)), result.rate_per_unit
    evaluation = Evaluation(
        rows=len(x),
        dims=math.prod(x.shape[1:]),
        split=split,
        elbo=float(result.elbo.mean()),
        rate=float(result.rate.mean()),
        distortion=float(result.distortion.mean()),
        lower=floor,
        upper=Bound(
            value=None,
            side="upper",
            reason="draws of q(z|x) alone cannot bound log p(x) from above",
        ),
        bits_per_dim=_bits(floor, x) if counts_cells else None,
        active_units=int(active.sum()),
        kl_per_unit=None if units is None else units.mean(0).tolist(),
        khat=_quantiles(result.weights.khat),
        ess=_quantiles(result.ess) or {},
        baselines=baselines or {"independent": None, "ppca": None},
        settings={"draws": num_samples, "seed": seed},
        bounds=(floor,),
        warnings=(() if collapse is None else (collapse,)) + floor.warnings,
    )
    return evaluation, result


def iwae_of(result: Importance, seed: int) -> RowBounds:
    """log (1/K) Σ w_k of each row, a lower bound in expectation (Burda et al. 2016)."""
    settings = {"num_samples": result.num_samples, "seed": seed}
    return lower("IWAE", result.weights, settings)


def few_effective_draws(result: Importance) -> tuple[str, ...]:
    """A warning where the draws of q(z|x) leave the bound of many rows loose."""
    few = float((result.ess < FEWEST_EFFECTIVE_DRAWS).double().mean())
    if result.num_samples < 2 * FEWEST_EFFECTIVE_DRAWS or few < 0.05:
        return ()
    return (
        f"{few:.0%} of rows have fewer than {FEWEST_EFFECTIVE_DRAWS} effective draws of "
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
    model: LatentVariableModel,
    x: Rows,
    given: Given,
    at: Tensor,
    result: Importance,
    effort: Effort,
    sizes: Sizes,
    seed: int,
    on_part: Callable[[float], None],
) -> _Bounds:
    """Bounds by all methods for the rows numbered ``at``, carried over to all rows."""
    some, c = _rows(x, given, at)
    schedules, half, iwae = effort.schedules(sizes), effort.delta / 2, iwae_of(result, seed)
    of_some = replace(
        iwae,
        values=iwae.values[at],
        variance=None if iwae.variance is None else iwae.variance[at],
    )
    found, near = sandwich(
        model,
        some,
        of_some,
        schedules,
        c,
        seed=seed,
        delta=half,
        on_part=part(on_part, 0.1, 0.6),
    )
    simulated = certificate(
        model,
        some,
        near,
        schedules.near,
        c,
        seed=seed,
        delta=effort.delta,
        on_part=part(on_part, 0.6, 0.75),
    )
    floor, ceiling, tried = found.lower, found.upper, found.tried
    rows_upper, keys = found.rows_upper, row_digests(some, c)
    truth = known(model, some, c, most_integrated=effort.integrated)
    if truth is not None:
        ends = between(truth, keys)
        reason = objection(ends[1], truth, found.lower, found.rows_lower, keys)
        tried = (*tried, ends[1] if reason is None else ends[1].withdrawn(reason))
        if reason is None:
            (floor, ceiling), rows_upper = ends, truth
    if len(at) < len(x):
        digests = row_digests(x, given)
        tried = tuple(_about(bound, len(at)) for bound in tried)
        floor, upper = _at_once(model, x, given, iwae, effort, digests)
        if upper.value is not None:
            ceiling = upper
        elif rows_upper is not None:
            ceiling = carried_over(ceiling, rows_upper, at, iwae, digests)
    return _Bounds(
        lower=floor,
        upper=ceiling,
        rows_upper=rows_upper,
        tried=tried,
        simulated=simulated,
        warnings=_doubts(found, simulated),
    )


def _at_once(
    model: LatentVariableModel,
    x: Rows,
    given: Given,
    iwae: RowBounds,
    effort: Effort,
    digests: NDArray[np.uint64],
) -> tuple[Bound, Bound]:
    """Both sides for all rows by what takes no time: a closed form, or the draws of q."""
    exact = known(model, x, given, most_integrated=0)
    if exact is not None:
        return between(exact, digests)
    upper = Bound(value=None, side="upper", reason=TOO_LONG)
    return certified([iwae], digests, effort.delta / 2), upper


def _about(bound: Bound, rows: int) -> Bound:
    """The bound, with how many rows it is about."""
    return replace(bound, settings={**bound.settings, "rows": rows})


def _doubts(found: Sandwich, simulated: Certificate) -> tuple[str, ...]:
    """What to hold against the bounds, a sentence each."""
    unlike = simulated.likeness.furthest > MOST_UNLIKE
    sentence = (
        "log-weights of real rows are unlike those of simulated ones (a chance of "
        f"{0.5 + simulated.likeness.furthest:.0%} to tell which is which): what is certified for "
        "simulated rows says less of real ones"
    )
    return (*found.doubts, *((sentence,) if unlike else ()))


def _diagnose(
    model: LatentVariableModel,
    x: Rows,
    given: Given,
    effort: Effort,
    sizes: Sizes,
    rows_upper: RowBounds | None,
    training: tuple[Tensor, Tensor | None] | None,
    names: Sequence[str] | None,
    seed: int,
    on_part: Callable[[float], None],
) -> dict[str, Any]:
    """The diagnostics of some rows: the fields of an evaluation that hold them."""
    shown = (~torch.isnan(x)).flatten(1).any(1).nonzero()[:, 0]
    if len(shown) == 0:  # nothing to be learned of rows that show nothing
        return {}
    if rows_upper is not None:
        values = rows_upper.values[shown.cpu()]
        rows_upper = replace(rows_upper, values=values, variance=None, terms=None)
    x, given = _rows(x, given, shown)
    few, few_given = _rows(x, given, torch.arange(min(len(x), ROWS_PER_TILE)))
    own = gap(model, few, few_given, steps=effort.climb, seed=seed)
    on_part(0.85)
    beyond = None
    if training is not None:
        seen, seen_given = _rows(*training, torch.arange(min(len(training[0]), ROWS_PER_TILE)))
        beyond = encoder_gap(own, gap(model, seen, seen_given, steps=effort.climb, seed=seed))
    on_part(0.9)
    amortisation = Mean.over_rows(own.amortisation)
    sided = rows_upper is not None and rows_upper.guarantee != "heuristic" and own.of_the_family
    approximation = (
        None
        if rows_upper is None
        else Mean.over_rows(own.approximation(rows_upper.values[: len(few)]))
    )
    held = surgery(model, x, given, seed=seed) if len(x) > 1 else None
    far = replace(effort.schedules(sizes).far, num_temperatures=CURVE_TEMPERATURES)
    curve = curve_from_prior(model, few, far, few_given, seed=seed)
    on_part(0.95)
    calibrated = calibrate(model, x, given, seed=seed)
    checks = predictive_checks(model, x, given, names=names, seed=seed)
    alone = (
        leave_one_out(model, x, given, names=names, seed=seed)
        if _knows_gaps(model, x, given)
        else None
    )
    return {
        "gap": {
            "rows": len(few),
            "amortisation": amortisation.document() | {"side": "lower"},
            "approximation": (
                None
                if approximation is None
                else approximation.document() | {"side": "upper" if sided else None}
            ),
            "encoder": None if beyond is None else beyond.document(),
        },
        "latents": (held.document() if held is not None else {})
        | {"rate_distortion": curve.document()},
        "calibration": calibrated.document(),
        "criticism": {
            "predictive_checks": checks.document(),
            "leave_one_out": None if alone is None else alone.document(),
        },
        "words": in_words(
            rows=len(x),
            active_units=0 if held is None else held.active_units,
            latents=model.num_latents,
            amortisation=amortisation,
            approximation=approximation if sided else None,
            encoder_gap=beyond,
            mutual_information=None if held is None else held.mutual_information,
            marginal_kl=None if held is None else held.marginal_kl,
            calibration=[
                # The last sentence of a calibration says which rows it is about.
                *calibrated.sentences[:-1][:MOST_FINDINGS],
                calibrated.sentences[-1],
                *checks.sentences[:MOST_FINDINGS],
                *(() if alone is None else alone.sentences[:MOST_FINDINGS]),
            ],
        ),
    }


def _knows_gaps(model: LatentVariableModel, x: Rows, given: Given) -> bool:
    """Whether a cell can be hidden from the encoder: a network of one's own may not know NaN."""
    hidden = x.clone()
    hidden.flatten(1)[:, 0] = math.nan
    return bool(torch.isfinite(posterior_moments(model, hidden[:1], _first(given))[0]).all())


def _first(given: Tensor | None) -> Tensor | None:
    return None if given is None else given[:1]


def _rows(x: Tensor, given: Tensor | None, at: Tensor) -> tuple[Tensor, Tensor | None]:
    """The rows of these numbers, with their covariates."""
    at = at.to(x.device)
    return x[at], None if given is None else given[at]


def _quantiles(values: PerRow) -> dict[str, float] | None:
    """Quantiles over the rows whose value is known; None where no row's is."""
    known = values[~torch.isnan(values)]
    if len(known) == 0:
        return None
    at = torch.quantile(known, torch.tensor(QUANTILES, dtype=torch.float64))
    return {f"{q:g}": float(value) for q, value in zip(QUANTILES, at, strict=True)}


def _bits(floor: Bound, x: Rows) -> float | None:
    """Bits per cell that is observed."""
    observed = float((~torch.isnan(x)).flatten(1).sum(1).double().mean())
    if floor.value is None or observed == 0:
        return None
    return -floor.value / (observed * math.log(2))
