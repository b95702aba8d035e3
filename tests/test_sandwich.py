"""log p(x) between two bounds: certified, in expectation, known, carried over, and withdrawn."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import unveil
from oracles import (
    CAUGHT,
    SURELY_WRONG,
    TwoModes,
    a_linear_gaussian,
    a_poor_posterior,
    linear_vae,
    nonlinear_vae,
    seeded,
    z_score,
)
from unveil.distributions import DiagonalNormal
from unveil.evidence import sandwich as module
from unveil.evidence.annealing import Schedule, anneal
from unveil.evidence.bound import Bound
from unveil.evidence.bounded import bounded_evidence
from unveil.evidence.effort import OTHER_PASSES, Effort
from unveil.evidence.importance import importance
from unveil.evidence.quadrature import quadrature
from unveil.evidence.row_bounds import RowBounds, lower, tangent
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
    sandwich,
    with_errors,
)
from unveil.evidence.simulated import simulate
from unveil.evidence.starts import FromPosterior, FromPrior
from unveil.evidence.tuning import tune_both
from unveil.evidence.weights import Tally, Weights
from unveil.feed import digests_of
from unveil.tiles import row_digests


def weights_of(log_w: Tensor) -> Weights:
    tally = Tally(len(log_w), log_w.shape[1], delta=0.05)
    tally.add(log_w)
    return Weights.joined([tally.result(torch.ones(log_w.shape[1], dtype=torch.bool))])


def small_schedules(model, x: Tensor, near: int = 20, far: int = 60) -> Schedules:
    effort = Effort(near=near, far=far, chains=8, leapfrog=3)
    return effort.schedules(tune_both(model, x))


def iwae(model, x: Tensor, draws: int = 100) -> RowBounds:
    return lower("IWAE", importance(model, x, num_samples=draws).weights, {})


def sandwiched(model, x: Tensor, **effort: int) -> Sandwich:
    return sandwich(model, x, iwae(model, x), small_schedules(model, x, **effort))[0]


# ---- the tangent -------------------------------------------------------------------------------


def test_the_tangent_lies_above_in_expectation_wherever_it_touches() -> None:
    """log w ~ N(−½, 1), so that E w = 1: c may be far from it, and the mean still is above 0."""
    generator = np.random.default_rng(0)
    pilot, fresh = (
        weights_of(torch.from_numpy(generator.normal(-0.5, 1.0, (16, 20_000)))) for _ in range(2)
    )
    values = tangent("tangent", pilot.log_mean, fresh, {}).values
    gap = torch.exp(-pilot.log_mean) + pilot.log_mean - 1  # E over Y, with E Y = 1
    assert z_score(values - gap, 0.0) < SURELY_WRONG
    assert float(gap.min()) >= 0.0
    # The mutant: where Y itself says where the line touches, the bound is lost.
    assert z_score(tangent("tangent", fresh.log_mean, fresh, {}).values - gap, 0.0) > CAUGHT


# ---- certificates ------------------------------------------------------------------------------


def test_the_best_of_several_methods_is_certified_at_what_each_may_fail() -> None:
    digests = np.arange(200, dtype=np.uint64).reshape(100, 2)
    values = [torch.full((100,), v, dtype=torch.float64) for v in (-3.0, -2.0)]
    rows = [
        RowBounds(method=str(v), side="lower", guarantee="in_expectation", values=v) for v in values
    ]
    bound = certified(rows, digests, 0.05)
    assert bound.value == pytest.approx(-2.0 - math.log(2 / 0.05) / 100)
    assert (bound.guarantee, bound.delta) == ("certified", 0.05)


def test_a_certificate_on_simulated_rows_holds_the_truth_and_is_narrow() -> None:
    model = a_linear_gaussian(latents=2)
    vae = linear_vae(model, a_poor_posterior(model))
    like = torch.zeros(500, 6, dtype=torch.float64)
    schedule = small_schedules(vae, like, near=40).near
    real = anneal(vae, simulate(vae, like, seed=1)[0], schedule)
    found = certificate(vae, like, real, schedule)
    truth = float(model.log_evidence(simulate(vae, like)[0]).mean())
    assert found.lower.value is not None and found.upper.value is not None
    assert found.lower.value < truth < found.upper.value
    assert found.upper.value - found.lower.value < 0.1
    assert found.lower.delta == found.upper.delta == 0.025
    assert found.likeness.furthest < 0.1
    assert Certificate.from_document(found.document()) == found


def test_real_rows_that_are_unlike_simulated_ones_are_told_from_them() -> None:
    model = a_linear_gaussian(latents=2)
    vae = linear_vae(model, a_poor_posterior(model))
    like = torch.zeros(300, 6, dtype=torch.float64)
    schedule = small_schedules(vae, like).near
    far_off = 4 * simulate(vae, like, seed=1)[0]
    assert certificate(vae, like, anneal(vae, far_off, schedule), schedule).likeness.furthest > 0.25


def test_simulated_rows_have_the_gaps_of_real_ones_and_their_own_noise() -> None:
    vae = nonlinear_vae(unveil.Bernoulli(9)).double()
    like = torch.zeros(600, 9).double()
    like[::2, 3] = math.nan
    x, z = simulate(vae, like)
    assert torch.equal(torch.isnan(x), torch.isnan(like))
    assert len(torch.unique(z, dim=0)) == 600


# ---- both sides --------------------------------------------------------------------------------


def test_the_sandwich_holds_what_is_known() -> None:
    model = a_linear_gaussian(latents=2)
    vae = linear_vae(model, a_poor_posterior(model))
    x, _ = simulate(vae, torch.zeros(300, 6, dtype=torch.float64))
    truth = float(model.log_evidence(x).mean())
    found = sandwiched(vae, x)
    assert found.lower.value is not None and found.upper.value is not None
    assert found.lower.value < truth < found.upper.value
    assert found.upper.value - found.lower.value < 0.5
    assert found.upper.guarantee == "in_expectation"
    assert [bound.method for bound in found.tried[:3]] == [
        "IWAE",
        "AIS from q(z|x)",
        "AIS from p(z)",
    ]


def test_where_q_sees_one_mode_of_two_no_upper_bound_lies_below_the_truth() -> None:
    model, x = TwoModes(), torch.linspace(1, 4, 100, dtype=torch.float64)[:, None]
    truth = float(model.log_evidence(x).mean())
    found = sandwiched(model, x, near=20, far=200)
    for bound in (found.upper, *found.tried):
        assert bound.side == "lower" or bound.value is None or bound.value > truth
    assert found.upper.value is not None
    assert found.upper.value - truth < 0.6  # log 2 − ½ of it where the pilot saw one mode
    assert found.lower.method == "AIS from p(z)"
    assert any("does not see all of the posterior" in doubt for doubt in found.doubts)
    # The mutant: the tangent to draws of q, which knows nothing of the other mode.
    q = [importance(model, x, num_samples=1000, seed=seed).weights for seed in (0, 1)]
    assert float(tangent("tangent", q[0].log_mean, q[1], {}).values.mean()) < truth - 0.6


class Lopsided(TwoModes):
    """p(z) = N(−2, 1): q sees the mode that holds a share e^(−4√x) of p(z|x)."""

    def prior(self, given=None):
        return DiagonalNormal(
            torch.full((1,), -2.0, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        )


def test_a_retry_touches_where_the_better_of_two_pilots_says() -> None:
    model, x = Lopsided(), torch.linspace(2, 4, 20, dtype=torch.float64)[:, None]
    truth = float(model.log_evidence(x).mean())
    found = sandwiched(model, x, near=10, far=100)
    first, again = found.tried[3:5]
    assert first.value is None  # it touches at draws of q, hundreds of times too low
    assert again.value is not None and found.upper == again
    assert 0.0 < again.value - truth < 0.5
    # The mutant: a retry that touches where the first one did.
    near = importance(model, x, num_samples=1000).log_evidence
    fresh = weights_of(model.log_evidence(x).expand(4, -1))
    assert float(tangent("tangent", near, fresh, {}).values.mean()) > truth + 20


def test_a_crossed_bound_is_tried_again_with_twice_the_temperatures_and_then_withdrawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = a_linear_gaussian(latents=2)
    vae = linear_vae(model, a_poor_posterior(model))
    x, _ = simulate(vae, torch.zeros(60, 6, dtype=torch.float64))
    seen = []

    def too_low(method: str, log_c: Tensor, fresh: Weights, settings) -> RowBounds:
        seen.append(settings["num_temperatures"])
        right = tangent(method, log_c, fresh, settings)
        return replace(right, values=right.values - 3.0)

    monkeypatch.setattr(module, "tangent", too_low)
    found = sandwiched(vae, x)
    assert seen == [60, 120]
    withdrawn = [bound for bound in found.tried if bound.value is None]
    assert len(withdrawn) == 2
    assert all("one of the two is wrong" in str(bound.reason) for bound in withdrawn)
    assert found.upper.guarantee == "heuristic"
    assert "heuristic" in str(found.upper)


@pytest.mark.parametrize("spread", [0.0, 30.0])
def test_a_heavy_tail_withdraws_a_tangent_whatever_the_rows_evidence(spread: float) -> None:
    randomness = np.random.default_rng(1)
    log_c = torch.from_numpy(spread * randomness.normal(size=400))
    digests = np.arange(800, dtype=np.uint64).reshape(400, 2)
    floor = Bound(value=-1e9, side="lower", guarantee="certified", method="IWAE")
    reasons = []
    for ratio in (randomness.pareto(1.1, 400), np.exp(0.3 * randomness.normal(size=400))):
        terms = torch.from_numpy(ratio)
        rows = RowBounds(
            method="t", side="upper", guarantee="in_expectation", values=log_c + terms, terms=terms
        )
        reasons.append(objection(rows.mean(digests), rows, floor, [], digests))
    assert "heavy tail" in str(reasons[0])
    assert reasons[1] is None


@pytest.mark.parametrize(("term", "is_shown"), [(2.0, True), (1e6, False)])
def test_a_term_that_the_pilot_did_not_foresee_withdraws_a_tangent_of_few_rows(
    term: float, is_shown: bool
) -> None:
    terms = torch.tensor([1.0, term, 0.9]).double()
    rows = RowBounds(
        method="t", side="upper", guarantee="in_expectation", values=terms - 1, terms=terms
    )
    digests = np.arange(6, dtype=np.uint64).reshape(3, 2)
    floor = Bound(value=-1e9, side="lower", guarantee="certified", method="IWAE")
    reason = objection(rows.mean(digests), rows, floor, [], digests)
    assert (reason is None) is is_shown


def test_rows_that_show_nothing_leave_the_others_their_certificate() -> None:
    """Thirty equal ones among a hundred would else count as one row thirty times over."""
    values = torch.cat([torch.zeros(30), -torch.ones(70)]).double()
    of_shown = np.arange(140, dtype=np.uint64).reshape(70, 2)
    digests = np.concatenate([np.zeros((30, 2), np.uint64) + 999, of_shown])
    rows = RowBounds(method="m", side="lower", guarantee="in_expectation", values=values)
    floor = certified([rows], digests, 0.05)
    assert floor.value == pytest.approx(-0.7 - math.log(20) / 100)
    nothing = replace(rows, values=torch.zeros(3).double())
    assert certified([nothing], digests[:3], 0.05).value == 0.0


def test_digits_in_two_latents_lie_between_the_sampled_bounds() -> None:
    """With closed forms and quadrature unused, over five seeds, at most 0.2 nats apart."""
    fitted = unveil.fit("digits", likelihood="bernoulli", latent=2, epochs=12, seed=0)
    digits = fitted.rows("digits")
    keys = digests_of(digits, fitted.covariates)
    x = fitted.tensor(fitted._rows_to_judge(digits, keys)[0])
    truth = float(quadrature(fitted.vae, x).log_evidence.mean())
    schedules = Effort(near=30, far=60, chains=4, leapfrog=4).schedules(fitted.sizes)
    for seed in range(5):
        drawn = importance(fitted.vae, x, num_samples=200, seed=seed)
        found, _ = sandwich(
            fitted.vae, x, lower("IWAE", drawn.weights, {}), schedules, seed=seed, delta=0.025
        )
        assert found.lower.value is not None and found.upper.value is not None
        assert found.lower.value < truth < found.upper.value
        assert found.upper.value - found.lower.value < 0.2


def test_ten_latents_are_certified_within_three_hundredths_of_a_nat() -> None:
    fitted = unveil.fit("digits", likelihood="bernoulli", latent=10, epochs=25, seed=0)
    vae, like = fitted.vae, fitted.tensor("digits")[:768]
    schedule = Effort().schedules(fitted.sizes).near
    real = anneal(vae, like[:256], schedule)
    found = certificate(vae, like, real, schedule)
    assert found.upper.value is not None and found.lower.value is not None
    assert 0 < found.upper.value - found.lower.value < 0.03


# ---- what is known, and what is carried over ---------------------------------------------------


def test_what_has_a_closed_form_is_exact_and_two_latents_are_numerical() -> None:
    model = a_linear_gaussian()
    vae = linear_vae(model, a_poor_posterior(model))
    x, _ = simulate(vae, torch.zeros(20, 6, dtype=torch.float64))
    exact = known(vae, x)
    assert exact is not None and exact.guarantee == "exact"
    floor, ceiling = between(exact, row_digests(x))
    assert floor.value == ceiling.value == pytest.approx(float(model.log_evidence(x).mean()))
    bits = nonlinear_vae(unveil.Bernoulli(9)).double()
    numerical = known(bits, torch.ones(3, 9).double())
    assert numerical is not None and numerical.guarantee == "numerical"
    floor, ceiling = between(numerical, row_digests(torch.ones(3, 9)))
    assert floor.value is not None and ceiling.value is not None
    assert 0 < ceiling.value - floor.value < 0.01
    assert floor.warnings == ceiling.warnings == ()
    x = torch.tensor([[0.5], [1.0], [2.0]]).double()
    of_unknown_height = known(TwoModes(), x)
    assert of_unknown_height is not None and of_unknown_height.guarantee == "numerical"
    for end in between(of_unknown_height, row_digests(x)):
        assert "a mode far from all others would be missed" in end.warnings[0]
    assert (
        known(nonlinear_vae(unveil.Bernoulli(9), latents=4).double(), torch.ones(3, 9).double())
        is None
    )


def test_what_may_lie_outside_of_the_box_is_part_of_the_error(monkeypatch) -> None:
    def with_more_outside(model, x, given=None):
        zeros = torch.zeros(2).double()
        found = quadrature(model, x, given)
        return replace(found, error=zeros + 0.01, outside=torch.tensor([0.0, 0.5]).double())

    monkeypatch.setattr(module, "quadrature", with_more_outside)
    bits = nonlinear_vae(unveil.Bernoulli(9)).double()
    found = known(bits, torch.ones(2, 9).double())
    assert found is not None
    assert found.settings["error"] == pytest.approx(0.01 + math.log(1.5))


def test_few_cells_are_certified_from_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = []

    def watched(*arguments, delta: float, **settings):
        spent.append(delta)
        return bounded_evidence(*arguments, delta=delta, **settings)

    monkeypatch.setattr(module, "bounded_evidence", watched)
    vae = nonlinear_vae(unveil.Bernoulli(3), latents=4).double()
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).double()
    found = sandwiched(vae, x)
    assert (found.upper.guarantee, found.upper.method) == ("certified", "bounded weights")
    # Bounded weights spend half of what they are given on either side, of which one is shown.
    assert (found.upper.delta, spent) == (0.05, [0.1])
    assert found.upper.value is not None and found.lower.value is not None
    assert found.lower.value < float(importance(vae, x, num_samples=20_000).log_evidence.mean())
    assert found.upper.value > found.lower.value


def carried(times: Tensor, most: int, repeats: int) -> tuple[Tensor, Tensor, Tensor]:
    """What is carried over in many data sets of 200 distinct rows that are repeated so often, how
    far it claims to be off, and the mean that it is to estimate."""
    found = []
    for seed in range(repeats):
        cheap = torch.randn(200, generator=seeded(2 * seed), dtype=torch.float64)
        better = cheap + 0.3 + 0.1 * torch.randn(200, generator=seeded(2 * seed + 1)).double()
        keys = np.random.default_rng(seed).integers(0, 2**63, (200, 2)).astype(np.uint64)
        rows = torch.arange(200).repeat_interleave(times)
        digests = keys[rows.numpy()]
        everyone = RowBounds(
            method="IWAE",
            side="lower",
            guarantee="in_expectation",
            values=cheap[rows],
            warnings=("loose",),
        )
        at = choose(digests, most)
        bounds = RowBounds(method="b", side="upper", guarantee="exact", values=better[rows][at])
        bound = carried_over(bounds.mean(digests[at.numpy()]), bounds, at, everyone, digests)
        assert bound.value is not None and bound.mc_se is not None
        assert (bound.guarantee, bound.side, bound.warnings) == ("in_expectation", "upper", ())
        mean = bound.value - 2 * bound.mc_se
        found.append(torch.tensor([mean, bound.mc_se, float(better[rows].mean())]))
    return tuple(torch.stack(found).double().unbind(1))


@pytest.mark.parametrize("copies", [1, 300])
def test_what_some_rows_say_is_carried_over_to_all(copies: int) -> None:
    """Without bias over which rows were taken, where some are repeated too; as sure as said."""
    times = torch.ones(200, dtype=torch.long)
    times[:2] = copies
    mean, error, truth = carried(times, most=40, repeats=300)
    assert z_score(mean - truth, 0.0) < SURELY_WRONG
    assert float((mean - truth).std() / error.mean()) == pytest.approx(1.0, abs=0.15)


# ---- effort ------------------------------------------------------------------------------------


def test_a_budget_buys_rows_first_and_then_temperatures() -> None:
    effort, model = Effort(), nonlinear_vae(unveil.Bernoulli(9), latents=4)
    per_tile = effort.passes_per_tile
    scaled = per_tile - OTHER_PASSES
    assert effort._for(model, 2000, 3.5 * per_tile, most_times=1.0).rows == 3 * 256
    assert effort._for(model, 100, OTHER_PASSES + 0.5 * scaled, most_times=1.0).near == 25
    assert effort._for(model, 100, OTHER_PASSES + 4.0 * scaled, most_times=16.0).far == 800
    assert effort._for(model, 100, 4.0 * per_tile, most_times=1.0) == replace(
        effort, rows=100, integrated=0
    )
    assert effort._for(model, 100, float(OTHER_PASSES), most_times=1.0).rows == 0


@pytest.mark.parametrize("rows", [1, 256, 257, 5000])
@pytest.mark.parametrize("passes", [900.0, 1.7e3, 5e3, 4e4, 1e6])
def test_what_a_budget_buys_takes_no_more_than_the_budget(rows: int, passes: float) -> None:
    model = nonlinear_vae(unveil.Bernoulli(9), latents=4)
    bought = Effort()._for(model, rows, passes, most_times=1e9)
    assert -(-bought.rows // 256) * bought.passes_per_tile <= 1.02 * passes  # whole temperatures
    assert bought.rows > 0 or passes < 1_700


def test_usual_effort_is_a_function_of_the_model_alone() -> None:
    vae = nonlinear_vae(unveil.Bernoulli(9)).double()
    x = torch.ones(300, 9).double()
    assert Effort().of_usual(vae, x) == Effort().of_usual(vae, x)
    assert Effort.from_document(Effort(near=7).document()) == Effort(near=7)


def test_a_budget_is_kept_within_reason() -> None:
    vae = nonlinear_vae(unveil.Bernoulli(9)).double()
    small = Effort().within(1.0, vae, torch.ones(300, 9).double())
    large = Effort().within(1e4, vae, torch.ones(300, 9).double())
    assert small.near <= large.near == 16 * 50


@pytest.mark.parametrize("budget", [0.0, -1.0, math.nan])
def test_a_budget_of_nothing_is_refused(budget: float) -> None:
    with pytest.raises(ValueError, match="budget above 0"):
        Effort().within(budget, TwoModes(), torch.ones(3, 1).double())


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, math.nan])
def test_a_delta_out_of_range_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="delta between 0 and 1"):
        Effort(delta=delta)


def test_schedules_start_at_the_posterior_and_at_the_prior() -> None:
    sizes = tune_both(TwoModes(), torch.ones(3, 1).double())
    found = Effort(near=3, far=5).schedules(sizes)
    assert isinstance(found.near.start, FromPosterior)
    assert isinstance(found.far.start, FromPrior)
    assert (found.near.num_temperatures, found.far.num_temperatures) == (3, 5)
    assert isinstance(found.doubled().far, Schedule)
    assert found.doubled().far.num_temperatures == 10


def test_rows_that_tuned_the_moves_share_no_latent_with_those_of_a_certificate() -> None:
    vae = nonlinear_vae(unveil.Bernoulli(9)).double()
    like = torch.zeros(40, 9).double()
    drawn = [simulate(vae, like, purpose=purpose)[1] for purpose in ("tune", "certificate")]
    assert not bool((drawn[0][:, None] == drawn[1][None]).any())


def test_what_is_known_must_not_lie_below_what_is_certified() -> None:
    rows = RowBounds(
        method="quadrature",
        side="lower",
        guarantee="numerical",
        values=torch.full((30,), -0.8, dtype=torch.float64),
    )
    digests = np.arange(60, dtype=np.uint64).reshape(30, 2)
    floor = Bound(value=-0.6, side="lower", guarantee="certified", method="IWAE")
    _, ceiling = between(rows, digests)
    assert "one of the two is wrong" in str(objection(ceiling, rows, floor, [], digests))


def test_a_bound_in_expectation_is_raised_by_its_errors() -> None:
    mean = Bound(value=-1.0, side="upper", guarantee="in_expectation", method="t", mc_se=0.1)
    assert with_errors(mean).value == pytest.approx(-0.8)
