"""The self-test notices what is wrong, and its models are what they say they are."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import torch

from oracles import CAUGHT, SURELY_WRONG, chi_square_z, normal, z_score
from unveil.check import run
from unveil.check.conjugate import counts
from unveil.check.lines import Between, Estimate, Identity, Line, Verdict
from unveil.check.models import (
    CELLS,
    LogNormalWeights,
    OneOf,
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
from unveil.diagnostics.means import Mean

ABOUT = {"model": "m", "quantity": "x", "error": 0.01}


# ---- lines -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "holds"),
    [
        (Identity(model="m", q="q", log_evidence=-1.0, elbo=-3.0, kl=2.0), True),
        (Identity(model="m", q="q", log_evidence=-1.0, elbo=-3.0, kl=2.1), False),
        (Estimate(**ABOUT, exact=1.0, estimate=1.04), True),
        (Estimate(**ABOUT, exact=1.0, estimate=0.94), False),
        (Estimate(**ABOUT, exact=1.0, estimate=math.nan), False),
        (Between(**ABOUT, exact=1.0, lower=0.5, upper=1.5), True),
        (Between(**ABOUT, exact=1.0, lower=1.04, upper=None), True),
        (Between(**ABOUT, exact=1.0, lower=1.06, upper=None), False),
        (Between(**ABOUT, exact=1.0, lower=None, upper=0.96), True),
        (Between(**ABOUT, exact=1.0, lower=0.5, upper=0.94), False),
        (Between(**ABOUT, exact=1.0, lower=math.nan, upper=None), False),
        (Between(**ABOUT, exact=1.0, lower=None, upper=math.nan), False),
        (Verdict(model="m", q="q", exact=True, rejected=False, pvalue=0.5), True),
        (Verdict(model="m", q="q", exact=True, rejected=True, pvalue=0.0), False),
        (Verdict(model="m", q="q", exact=False, rejected=False, pvalue=0.5), False),
        (Verdict(model="m", q="q", exact=False, rejected=True, pvalue=0.0), True),
    ],
)
def test_a_line_holds_where_chance_and_rounding_allow(line: Line, holds: bool) -> None:
    assert line.holds is holds


# ---- what is spoiled is noticed ----------------------------------------------------------------


def by_draws(seed: int) -> Iterator[Line]:
    return run._by_draws("m", rotated(), seed)


def annealed(seed: int) -> Iterator[Line]:
    return run._annealed("m", rotated(), seed)


def taken_apart(seed: int) -> Iterator[Line]:
    return run._taken_apart("m", rotated(), seed)


def with_two_modes(seed: int) -> Iterator[Line]:
    return run._with_two_modes("m", seed)


def discrete(seed: int) -> Iterator[Line]:
    return run._discrete("m", seed)


def conjugates(seed: int) -> Iterator[Line]:
    return run._conjugate("m", *counts(), seed)


def of_known_weights(seed: int) -> Iterator[Line]:
    return run._of_known_weights("m", seed)


def calibrated(seed: int) -> Iterator[Line]:
    return run._calibrated("m", factorising(), seed)


def not_divided_by_k(found):
    more = found.weights.log_mean + math.log(found.num_samples)
    return replace(found, weights=replace(found.weights, log_mean=more))


def with_a_lost_tenth(annealed):
    less = annealed.weights.log_mean - 0.1
    return replace(annealed, weights=replace(annealed.weights, log_mean=less))


def not_climbed(gap):
    return replace(gap, refined_elbo=gap.elbo)


def with_all_the_rate_for_the_marginal(surgery):
    end = surgery.rate
    return replace(surgery, marginal_kl=replace(surgery.marginal_kl, lower=end, upper=end))


def with_half_of_what_x_says(surgery):
    half = Mean(value=surgery.mutual_information.upper.value / 2, error=0.01)
    return replace(surgery, mutual_information=replace(surgery.mutual_information, upper=half))


def blind_above(found):
    """The upper bound that draws of q would give, had they seen everything."""
    sandwich, near = found
    return replace(sandwich, upper=sandwich.tried[0]), near


def with_the_mean_for_a_bet(found):
    return replace(found, weights=replace(found.weights, certified=found.weights.log_mean))


def without_its_slack(bound):
    return replace(bound, value=bound.value + 0.1)


def half_as_probable(bounded):
    return replace(bounded, mean_upper=bounded.mean_upper - math.log(2))


def easily_pleased(calibration):
    pleased = replace(calibration.log_posterior, adjusted=1.0)
    return replace(
        calibration,
        latents=(),
        log_likelihood=pleased,
        log_joint=pleased,
        log_posterior=pleased,
        distance=pleased,
    )


def hard_to_please(calibration):
    return replace(calibration, distance=replace(calibration.distance, adjusted=0.0))


def moved(values):
    return values + 1e-6


def moved_inside(grid):
    return replace(grid, log_evidence=grid.log_evidence + 1e-3)


def moved_far_inside(grid):
    return replace(grid, log_evidence=grid.log_evidence + 1e-2)


def raised(certificate):
    lower = certificate.lower
    return replace(certificate, lower=replace(lower, value=lower.value + 0.1))


MUTANTS: list[tuple[str, Callable[[Any], Any], Callable[[int], Iterator[Line]]]] = [
    ("importance", not_divided_by_k, by_draws),
    ("importance", not_divided_by_k, discrete),
    ("importance", not_divided_by_k, of_known_weights),
    ("importance", with_the_mean_for_a_bet, of_known_weights),
    ("importance", not_divided_by_k, conjugates),
    ("anneal", with_a_lost_tenth, conjugates),
    ("quadrature", moved_far_inside, conjugates),
    ("certified", without_its_slack, of_known_weights),
    ("exact_evidence", moved, by_draws),
    ("exact_evidence", moved, discrete),
    ("bounded_evidence", half_as_probable, discrete),
    ("anneal_back", with_a_lost_tenth, annealed),
    ("anneal", with_a_lost_tenth, annealed),
    ("quadrature", moved_inside, annealed),
    ("certificate", raised, annealed),
    ("gap", not_climbed, taken_apart),
    ("surgery", with_all_the_rate_for_the_marginal, taken_apart),
    ("surgery", with_half_of_what_x_says, taken_apart),
    ("sandwich", blind_above, with_two_modes),
    ("calibrate", easily_pleased, calibrated),
    ("calibrate", hard_to_please, calibrated),
]


@pytest.fixture(autouse=True)
def _smaller(monkeypatch) -> None:
    monkeypatch.setattr(run, "ROWS", 100)
    monkeypatch.setattr(run, "NEAR", 10)
    monkeypatch.setattr(run, "FAR", 30)


@pytest.mark.parametrize(
    ("name", "spoil", "part"), MUTANTS, ids=[f"{n}, {f.__name__}" for n, f, _ in MUTANTS]
)
def test_what_is_spoiled_is_noticed(name: str, spoil, part, monkeypatch) -> None:
    for estimator in {estimator for estimator, _, _ in MUTANTS}:
        monkeypatch.setattr(run, estimator, once(part.__name__, estimator))
    whole = getattr(run, name)
    monkeypatch.setattr(run, name, lambda *a, **k: spoil(whole(*a, **k)))
    assert not all(line.holds for line in part(0))


FOUND: dict[tuple[str, str, int], Any] = {}


def once(part: str, name: str) -> Callable[..., Any]:
    """An estimator whose answers to one part are found once, for all mutants."""
    estimator, calls = getattr(run, name), count()

    def answer(*args: Any, **kwargs: Any) -> Any:
        key = part, name, next(calls)
        if key not in FOUND:
            FOUND[key] = estimator(*args, **kwargs)
        return FOUND[key]

    return answer


# ---- the models --------------------------------------------------------------------------------


def test_the_mean_field_family_holds_the_posterior_of_one_and_not_of_the_other() -> None:
    for model, exact in ((factorising(), True), (rotated(), False)):
        q = posteriors(model)
        same = torch.allclose(q["exact q"].covariance, q["mean-field q"].covariance)
        assert same is exact


def test_a_linear_vae_has_the_joint_density_of_its_model() -> None:
    """log p(x) = log p(x, z) − log p(z|x) at any z."""
    model = rotated()
    vae, x, z = (
        linear_vae(model, model.mean_field_posterior()),
        normal(1, 9, CELLS),
        normal(2, 9, 2),
    )
    exact = model.exact_posterior()
    posterior = torch.distributions.MultivariateNormal(
        (x - model.mean) @ exact.gain.T, exact.covariance
    )
    with torch.no_grad():
        found = vae.log_joint(x, z) - posterior.log_prob(z)
    torch.testing.assert_close(found, model.log_evidence(x), rtol=0, atol=1e-10)


def test_the_evidence_of_two_modes_is_the_integral_over_both() -> None:
    vae, x = two_modes(), normal(3, 5, CELLS)
    axis = torch.linspace(-7, 7, 281, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)[:, None].expand(-1, 5, -1)
    with torch.no_grad():
        integral = vae.log_joint(x, z).logsumexp(0) + 2 * math.log(0.05)
        seen = vae.posterior(x).log_prob(z).logsumexp(0) + 2 * math.log(0.05)
    torch.testing.assert_close(evidence_of_two_modes(x), integral, rtol=0, atol=1e-8)
    torch.testing.assert_close(seen, torch.zeros(5).double(), rtol=0, atol=1e-8)


def test_q_of_two_modes_is_the_posterior_under_the_one_and_sees_nothing_of_the_other() -> None:
    """log p(x, z) − log q(z|x) is one number wherever the other mode is not."""
    vae, x = two_modes(), normal(4, 5, CELLS)
    with torch.no_grad():
        q = vae.posterior(x)
        z = q.push(0.5 * normal(5, 30, 5, 2))
        log_w = vae.log_joint(x, z) - q.log_prob(z)
    torch.testing.assert_close(log_w, log_w[:1].expand(30, -1), rtol=0, atol=1e-2)
    assert bool((evidence_of_two_modes(x) - log_w.mean(0) > 0.1).all())


def test_all_switches_together_have_probability_1() -> None:
    x = every_switch()
    assert float(evidence_of_three(x).exp().sum()) == pytest.approx(1, abs=1e-12)
    with torch.no_grad():
        z = one_of_three().prior().enumerate_support()[:, None].expand(-1, len(x), -1)
        summed = one_of_three().log_joint(x, z).logsumexp(0)
    torch.testing.assert_close(evidence_of_three(x), summed, rtol=0, atol=1e-12)


def test_one_of_k_is_pushed_as_often_as_it_is_probable() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, 0.5]).double()
    chosen, noise = OneOf(logits), normal(6, 40_000, 4)
    counts = chosen.push(noise).sum(0)
    assert abs(chi_square_z(counts, logits.softmax(0))) < SURELY_WRONG
    of_normal = torch.nn.functional.one_hot((logits + noise).argmax(-1), 4).double().sum(0)
    assert chi_square_z(of_normal, logits.softmax(0)) > CAUGHT
    torch.testing.assert_close(chosen.log_prob(chosen.enumerate_support()).exp(), logits.softmax(0))


def test_log_normal_weights_have_the_law_they_are_named_after() -> None:
    model, x = LogNormalWeights(1.5), torch.zeros(1, 1).double()
    with torch.no_grad():
        log_w = model.particles(x, normal(7, 100_000, 1, 1)).log_weights[:, 0]
    assert z_score(log_w, -(1.5**2) / 2) < SURELY_WRONG
    assert z_score((log_w + 1.5**2 / 2).square(), 1.5**2) < SURELY_WRONG
    assert z_score(log_w, 0.0) > CAUGHT
