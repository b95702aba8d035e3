"""The self-test: models whose answers are known, run through the package's own estimators."""

import math
from collections.abc import Iterator

import torch

from unveil.check import conjugate
from unveil.check.lines import Between, Estimate, Identity, Line, Verdict
from unveil.check.models import (
    CELLS,
    LogNormalWeights,
    every_switch,
    evidence_of_three,
    evidence_of_two_modes,
    factorising,
    linear_vae,
    one_of_three,
    posteriors,
    rotated,
    two_modes,
)
from unveil.diagnostics.calibration import calibrate
from unveil.diagnostics.gap import gap
from unveil.diagnostics.surgery import Between as Sides
from unveil.diagnostics.surgery import surgery
from unveil.evidence.annealing import Schedule, anneal, anneal_back
from unveil.evidence.bounded import bounded_evidence
from unveil.evidence.closed_form import exact_evidence
from unveil.evidence.importance import importance
from unveil.evidence.linear_gaussian import GaussianPosterior, LinearGaussian
from unveil.evidence.quadrature import quadrature
from unveil.evidence.row_bounds import RowBounds, draw_error, lower, row_error, tangent, upper
from unveil.evidence.sandwich import Schedules, certificate, certified, sandwich
from unveil.evidence.simulated import simulate
from unveil.evidence.starts import FromPosterior, FromPrior, Start
from unveil.evidence.tuning import tune
from unveil.latent import VAE, LatentVariableModel
from unveil.noise import generator
from unveil.objectives.elbo import ELBO, SampledELBO
from unveil.shapes import PerRow, PerUnit, Rows
from unveil.tiles import row_digests

ROWS, DRAWS = 200, 1000
# Temperatures from q(z|x) and from p(z).
NEAR, FAR = 20, 60
# The s of log-normal weights, how many each row has, and what a bet on them risks.
SPREAD, WEIGHTS, DELTA = 1.0, 100, 0.05
# Steps by which rows are refined, and what these may leave of the way, nats per row.
CLIMB, UNCLIMBED = 100, 1e-3
# Defensive draws for bets on bounded weights.
BETS = 4000
# A q so much too narrow is rejected on so many simulated rows.
TOO_NARROW, SIMULATIONS = 0.8, 500


def self_test(seed: int = 0) -> Iterator[Line]:
    """Models whose answers are known, run through the package's own estimators, line by line.

    >>> next(self_test()).holds
    True
    """
    yield from _adds_up("orthogonal W", factorising(), seed)
    yield from _adds_up("rotated W", rotated(), seed)
    yield from _by_draws("orthogonal W, mean-field q", factorising(), seed)
    yield from _by_draws("rotated W, mean-field q", rotated(), seed)
    yield from _annealed("rotated W, mean-field q", rotated(), seed)
    yield from _taken_apart("rotated W, poor q", rotated(), seed)
    yield from _with_two_modes("two modes, q sees one", seed)
    yield from _discrete("one of three", seed)
    yield from _conjugate("Beta and Bernoulli", *conjugate.switches(), seed)
    yield from _conjugate("Gamma and Poisson", *conjugate.counts(), seed)
    yield from _of_known_weights("log-normal weights", seed)
    yield from _calibrated("orthogonal W", factorising(), seed)


def _rows(model: LatentVariableModel, seed: int) -> tuple[Rows, PerUnit]:
    """Rows of a linear decoder, and the z behind each."""
    return simulate(model, torch.zeros(ROWS, CELLS, dtype=torch.float64), seed=seed)


# ---- the linear-Gaussian model -----------------------------------------------------------------


def _adds_up(name: str, model: LinearGaussian, seed: int) -> Iterator[Identity]:
    """The identity, by three closed forms that do not know of each other."""
    x, _ = _rows(linear_vae(model, model.mean_field_posterior()), seed)
    for kind, q in posteriors(model).items():
        yield Identity(
            model=name,
            q=kind,
            log_evidence=float(model.log_evidence(x).mean()),
            elbo=float(model.elbo(x, q).mean()),
            kl=float(model.kl_to_exact(x, q).mean()),
        )


def _by_draws(name: str, model: LinearGaussian, seed: int) -> Iterator[Estimate]:
    """The ELBO by every objective that climbs it, log p(x) by draws of q and by none."""
    q = model.mean_field_posterior()
    vae = linear_vae(model, q)
    x, _ = _rows(vae, seed)
    noise = torch.randn(
        (DRAWS, ROWS, vae.num_latents), generator=generator(seed, "check"), dtype=torch.float64
    )
    clock, elbo = torch.ones((), dtype=torch.float64), model.elbo(x, q)
    for objective in (ELBO(num_samples=DRAWS), SampledELBO(num_samples=DRAWS)):
        with torch.no_grad():
            found = objective.scheduled(1, ROWS)(vae, x, noise, clock)
        yield _mean(name, f"{type(objective).__name__}, {DRAWS} draws", elbo, found)
    exact = model.log_evidence(x)
    yield _by_importance(name, vae, x, exact, seed)
    yield _by_closed_form(name, vae, x, exact)


def _annealed(name: str, model: LinearGaussian, seed: int) -> Iterator[Line]:
    """log p(x) by annealing there and back, by the tangent, certified, and by quadrature."""
    vae = linear_vae(model, model.mean_field_posterior())
    x, z = _rows(vae, seed)
    ways = _schedules(vae, x, seed)
    there, far = anneal(vae, x, ways.near, seed=seed), anneal(vae, x, ways.far, seed=seed)
    back = anneal_back(vae, x, z, ways.near, seed=seed)
    near_method, far_method = ways.near.start.method, ways.far.start.method
    for rows in (
        lower(near_method, there.weights, {}),
        lower(far_method, far.weights, {}),
        upper(f"{near_method}, back", "in_expectation", back.weights, {}),
        tangent(f"tangent to {far_method}", there.weights.log_mean, far.weights, {}),
    ):
        yield _by(name, rows, x, model.log_evidence(x))
    found = certificate(vae, x, there, ways.near, seed=seed)
    simulated, _ = simulate(vae, x, seed=seed, purpose="certificate")
    yield _by_quadrature(name, vae, x, model.log_evidence(x))
    yield _within(
        name,
        "log p(x), simulated, certified",
        model.log_evidence(simulated),
        found.lower.value,
        found.upper.value,
    )


def _taken_apart(name: str, model: LinearGaussian, seed: int) -> Iterator[Line]:
    """Both gaps of a q that is wrong, and both parts of its rate."""
    best, q = model.mean_field_posterior(), posteriors(model)["poor q"]
    vae = linear_vae(model, q)
    x, _ = _rows(vae, seed)
    found, log_p = gap(vae, x, steps=CLIMB, seed=seed), model.log_evidence(x)
    lost = model.elbo(x, best) - model.elbo(x, q)
    yield _mean(name, "amortisation gap", lost, found.amortisation, UNCLIMBED)
    lost = log_p - model.elbo(x, best)
    yield _mean(name, "approximation gap", lost, found.approximation(log_p), UNCLIMBED)
    held = surgery(vae, x, seed=seed)
    information, marginal = _of_all_rows(model, q)
    yield _between(name, "mutual information", information, held.mutual_information)
    yield _between(name, "KL(q(z) ‖ p(z))", marginal, held.marginal_kl)


def _of_all_rows(model: LinearGaussian, q: GaussianPosterior) -> tuple[float, float]:
    """I_q(x; z) and KL(q(z)‖p(z)) for x ~ p(x): q(z) = N(0, ACAᵀ + S), C the covariance of x."""
    covariance = model.weight @ model.weight.T
    covariance += model.noise_variance * torch.eye(CELLS, dtype=torch.float64)
    of_all = q.gain @ covariance @ q.gain.T + q.covariance
    log_det = torch.logdet(of_all)
    information = 0.5 * (log_det - torch.logdet(q.covariance))
    return float(information), float(0.5 * (of_all.trace() - len(of_all) - log_det))


def _calibrated(name: str, model: LinearGaussian, seed: int) -> Iterator[Verdict]:
    """Draws of the exact q pass for those of p(z|x), and draws of a narrower one do not."""
    right = model.exact_posterior()
    wrong = GaussianPosterior(gain=right.gain, covariance=TOO_NARROW**2 * right.covariance)
    for kind, q in (("exact q", right), (f"q {1 - TOO_NARROW:.0%} too narrow", wrong)):
        like = torch.zeros(1, CELLS, dtype=torch.float64)
        found = calibrate(linear_vae(model, q), like, num_simulations=SIMULATIONS, seed=seed)
        yield Verdict(
            model=name,
            q=kind,
            exact=q is right,
            rejected=bool(found.rejected),
            pvalue=min(test.adjusted for test in found.tests.values()),
        )


# ---- others ------------------------------------------------------------------------------------


def _with_two_modes(name: str, seed: int) -> Iterator[Line]:
    """log p(x) where half of p(z|x) is hidden from q: no bound may miss it."""
    vae = two_modes()
    x, _ = _rows(vae, seed)
    exact = evidence_of_two_modes(x)
    yield _by_closed_form(name, vae, x, exact)
    yield _by_quadrature(name, vae, x, exact)
    draws = importance(vae, x, num_samples=DRAWS, seed=seed)
    found, _ = sandwich(
        vae, x, lower("IWAE", draws.weights, {}), _schedules(vae, x, seed), seed=seed
    )
    yield _within(name, "log p(x) by annealing", exact, found.lower.value, found.upper.value)


def _discrete(name: str, seed: int) -> Iterator[Line]:
    """log p(x) of every row that there is, where z is one of a few things."""
    vae, x = one_of_three(), every_switch()
    exact = evidence_of_three(x)
    yield _by_importance(name, vae, x, exact, seed)
    yield _by_closed_form(name, vae, x, exact)
    found = bounded_evidence(vae, x, num_samples=BETS, seed=seed)
    yield _within(name, "log p(x) by bounded weights", exact, found.mean_lower, found.mean_upper)


def _conjugate(name: str, vae: VAE, x: Rows, exact: PerRow, seed: int) -> Iterator[Line]:
    """log p(x) where p(z|x) is no normal, by a normal q."""
    yield _by_importance(name, vae, x, exact, seed)
    yield _by_quadrature(name, vae, x, exact)
    near = _schedule(vae, x, FromPosterior(), NEAR, seed)
    found = anneal(vae, x, near, seed=seed)
    yield _by(name, lower(near.start.method, found.weights, {}), x, exact)


def _of_known_weights(name: str, seed: int) -> Iterator[Line]:
    """Weights w with E w = 1, whose tails are heavy: their mean, and what is certified by it."""
    model = LogNormalWeights(SPREAD)
    x = torch.linspace(0, 1, ROWS, dtype=torch.float64)[:, None]
    found = importance(model, x, num_samples=WEIGHTS, seed=seed, delta=DELTA)
    nothing = torch.zeros(ROWS, dtype=torch.float64)
    yield _mean(name, "ELBO", nothing - SPREAD**2 / 2, found.elbo)
    yield _mean(name, "E w", nothing + 1, found.weights.log_mean.exp())
    floor = certified([lower("IWAE", found.weights, {})], row_digests(x), DELTA)
    yield _within(name, "log p(x), certified by Markov", nothing, floor.value, None)
    kept = (found.weights.certified <= 0).double()
    # Each row's bet may be lost with probability δ.
    yield Between(
        model=name,
        quantity="rows whose bet holds, share",
        exact=float(kept.mean()),
        lower=1 - DELTA,
        upper=None,
        error=math.sqrt(DELTA * (1 - DELTA) / ROWS),
    )


# ---- lines -------------------------------------------------------------------------------------


def _mean(
    model: str, quantity: str, exact: PerRow, found: PerRow, unfinished: float = 0.0
) -> Estimate:
    """A mean over rows, whose error is how its rows miss, and what a search has left to do."""
    missed = found - exact
    return Estimate(
        model=model,
        quantity=quantity,
        exact=float(exact.mean()),
        estimate=float(found.mean()),
        error=math.hypot(row_error(missed) or 0.0, unfinished),
    )


def _by(model: str, rows: RowBounds, x: Rows, exact: PerRow) -> Estimate:
    """log p(x) by one method, with the error of its draws."""
    return Estimate(
        model=model,
        quantity=f"log p(x) by {rows.method}",
        exact=float(exact.mean()),
        estimate=float(rows.values.mean()),
        error=draw_error(rows.variance, row_digests(x)) or 0.0,
    )


def _by_importance(model: str, vae: VAE, x: Rows, exact: PerRow, seed: int) -> Estimate:
    found = importance(vae, x, num_samples=DRAWS, seed=seed)
    return _by(model, lower(f"IWAE, {DRAWS} draws", found.weights, {}), x, exact)


def _by_closed_form(model: str, vae: VAE, x: Rows, exact: PerRow) -> Estimate:
    form = exact_evidence(vae, x)
    assert form is not None
    return _by(
        model,
        RowBounds(method="closed form", side="lower", guarantee="exact", values=form),
        x,
        exact,
    )


def _by_quadrature(model: str, vae: VAE, x: Rows, exact: PerRow) -> Estimate:
    """Its error is no chance: that which it states of its worst row."""
    grid = quadrature(vae, x)
    return Estimate(
        model=model,
        quantity="log p(x) by quadrature",
        exact=float(exact.mean()),
        estimate=float(grid.log_evidence.mean()),
        error=float(grid.error.max()),
    )


def _within(
    model: str, quantity: str, exact: PerRow, lower: float | None, upper: float | None
) -> Between:
    """Ends that hold as they stand."""
    return Between(
        model=model,
        quantity=quantity,
        exact=float(exact.mean()),
        lower=lower,
        upper=upper,
        error=0.0,
    )


def _between(model: str, quantity: str, exact: float, found: Sides) -> Between:
    """Ends that hold in expectation."""
    return Between(
        model=model,
        quantity=quantity,
        exact=exact,
        lower=found.lower.value,
        upper=found.upper.value,
        error=max(found.lower.error or 0.0, found.upper.error or 0.0),
    )


def _schedules(model: LatentVariableModel, x: Rows, seed: int) -> Schedules:
    """Annealing from q(z|x) and from p(z)."""
    return Schedules(
        near=_schedule(model, x, FromPosterior(), NEAR, seed),
        far=_schedule(model, x, FromPrior(), FAR, seed),
    )


def _schedule(
    model: LatentVariableModel, x: Rows, start: Start, num_temperatures: int, seed: int
) -> Schedule:
    """Annealing with moves of sizes that suit the model."""
    sizes = tune(model, start, x, seed=seed)
    return Schedule(start=start, sizes=sizes, num_temperatures=num_temperatures)
