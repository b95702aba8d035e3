"""Criticism: a true model is left in peace, and a wrong one is told what is wrong."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

import unveil
from linear_model import LinearModel
from oracles import CAUGHT, SURELY_WRONG, chi_square_z, nonlinear_vae, normal, with_gaps
from unveil.diagnostics import criticism
from unveil.diagnostics.criticism import (
    LeaveOneOut,
    from_posterior,
    from_prior,
    leave_one_out,
    predictive_checks,
)
from unveil.evidence.linear_gaussian import LinearGaussian
from unveil.evidence.simulated import simulate

NAMES = ["age", "height", "weight", "pulse", "salt", "sugar"]


def rows(number: int, *, seed: int = 0, given: Tensor | None = None) -> Tensor:
    """Rows of the true model, with gaps."""
    like = with_gaps(torch.zeros(number, 6, dtype=torch.float64), seed=seed, share=0.2)
    return simulate(LinearModel(), like, given, seed=seed)[0]


def worst(found: LeaveOneOut) -> float:
    """The largest chi-square of u over 20 equal bins, as a normal score."""
    counts = [torch.histc(test.u, 20, 0.0, 1.0) for test in found.columns.values()]
    return max(chi_square_z(c, torch.full_like(c, 1 / 20)) for c in counts)


# ---- each cell beside the rest of its row -------------------------------------------------------


def test_cells_stand_anywhere_where_model_and_q_are_exact() -> None:
    given = normal(70, 2000, 1)
    x = rows(2000, given=given)
    found = leave_one_out(LinearModel(), x, given, num_draws=9, most_rows=2000)
    assert worst(found) < SURELY_WRONG
    assert found.effective_draws["0"] == pytest.approx(9.0)
    assert worst(leave_one_out(LinearModel(), x, -given, num_draws=9, most_rows=2000)) > CAUGHT


def test_weights_make_up_for_a_poor_q(monkeypatch: pytest.MonkeyPatch) -> None:
    poor, x = LinearModel(gain=0.8, width=3.0), rows(2000, seed=1)
    ask = partial(leave_one_out, poor, x, num_draws=200, most_rows=2000, most_columns=2)
    found = ask()
    assert worst(found) < SURELY_WRONG
    place: Callable[..., tuple[Tensor, Tensor]] = criticism._place
    monkeypatch.setattr(
        criticism, "_place", lambda log_w, *others: place(torch.zeros_like(log_w), *others)
    )
    assert worst(ask()) > CAUGHT


@pytest.mark.parametrize(("spread", "word"), [(0.7, "more"), (1.3, "less")])
def test_a_decoder_of_the_wrong_spread_is_rejected_in_words(spread: float, word: str) -> None:
    truth = LinearModel().model
    wrong = LinearGaussian(
        weight=truth.weight, mean=truth.mean, noise_variance=spread**2 * truth.noise_variance
    )
    x = rows(500, seed=2)
    found = leave_one_out(LinearModel(wrong), x, names=NAMES)
    assert "age" in found.rejected
    assert f"column age: values are {word} spread than the model expects" in found.sentences[0]
    assert found.document()["columns"]["age"]["rejected"] is True
    fine = leave_one_out(LinearModel(), x, names=NAMES)
    assert fine.rejected == ()
    assert fine.sentences[0].startswith("in 6 columns, values stand where the model expects them")


def test_binary_cells_are_ranked_at_random_among_equal_ones() -> None:
    vae = nonlinear_vae(unveil.Bernoulli(4), latents=1).double()
    x, _ = simulate(vae, with_gaps(torch.zeros(3000, 4, dtype=torch.float64), seed=3))
    found = leave_one_out(vae, x, num_draws=50, most_rows=3000)
    assert worst(found) < SURELY_WRONG
    assert worst(leave_one_out(vae, 1 - x, num_draws=50, most_rows=3000)) > CAUGHT


def test_a_column_that_is_nowhere_seen_is_passed_over() -> None:
    x = rows(50)
    x[:, 2] = math.nan
    assert list(leave_one_out(LinearModel(), x, names=NAMES, num_draws=5).columns) == [
        name for name in NAMES if name != "weight"
    ]


def test_work_is_bounded_by_a_spread_of_rows_and_columns() -> None:
    found = leave_one_out(LinearModel(), normal(71, 40, 6), most_columns=2, most_rows=10)
    assert list(found.columns) == ["0", "5"]
    assert all(len(test.u) == 10 for test in found.columns.values())


def test_criticism_is_a_function_of_its_seed_and_moves_no_global_state() -> None:
    x, state = rows(40), torch.get_rng_state()
    a, b, other = (leave_one_out(LinearModel(), x, seed=s).columns["0"].u for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)
    one, two = (predictive_checks(LinearModel(), x, num_replicates=9) for _ in range(2))
    assert one == two
    assert torch.equal(torch.get_rng_state(), state)


def test_equal_rows_have_noise_of_their_own() -> None:
    same = rows(1).nan_to_num(nan=0.0).expand(200, 6).contiguous()
    assert len(leave_one_out(LinearModel(), same).columns["0"].u.unique()) == 200


def test_what_cannot_be_asked_is_refused() -> None:
    x = rows(5)
    with pytest.raises(ValueError, match=r"^expected 6 names, one a cell, got 1$"):
        leave_one_out(LinearModel(), x, names=["a"])
    with pytest.raises(ValueError, match=r"^expected at least 1 draw, got 0$"):
        leave_one_out(LinearModel(), x, num_draws=0)
    with pytest.raises(ValueError, match=r"^expected at least 1 replicate, got 0$"):
        predictive_checks(LinearModel(), x, num_replicates=0)
    with pytest.raises(
        ArithmeticError,
        match=r"^expected finite log-weights, got nan with cell \d hidden in row 2 of",
    ):
        leave_one_out(LinearModel(), x, torch.tensor([[0], [0], [math.inf], [0], [0.0]]).double())


# ---- all rows together --------------------------------------------------------------------------


def test_a_true_model_is_rejected_as_often_as_the_level_says() -> None:
    """Of the smallest adjusted p-value of R + 1 tables alike, each of R + 1 values is as likely."""
    smallest = []
    for seed in range(100):
        found = predictive_checks(LinearModel(), rows(30, seed=seed), num_replicates=9, seed=seed)
        smallest.append(min(s.adjusted for s in found.statistics))
    for level in (0.1, 0.3, 0.5):
        share = sum(p <= level + 1e-9 for p in smallest) / 100
        assert abs(share - level) < SURELY_WRONG * math.sqrt(level * (1 - level) / 100)


def test_statistics_are_those_of_the_rows() -> None:
    x = with_gaps(normal(72, 60, 6), seed=4)
    found = {
        s.name: s.observed
        for s in predictive_checks(LinearModel(), x, names=NAMES, num_replicates=3).statistics
    }
    age, height = x[:, 0], x[:, 1]
    seen = age[~age.isnan()]
    assert found["mean of age"] == pytest.approx(float(seen.mean()))
    assert found["sd of age"] == pytest.approx(float(seen.std(correction=0)))
    assert found["share at the lowest value of age"] == pytest.approx(1 / len(seen))
    both = ~(age.isnan() | height.isnan())
    a, h = (c[both] - c[~c.isnan()].mean() for c in (age, height))
    correlation = float((a * h).sum() / (a.square().sum() * h.square().sum()).sqrt())
    assert found["correlation of age and height"] == pytest.approx(correlation)
    assert len(found) == 6 * 7 + 15


def test_a_wrong_mean_and_a_missing_correlation_are_named() -> None:
    truth = LinearModel().model
    loose = LinearGaussian(
        weight=torch.diag((truth.weight.square().sum(1) + truth.noise_variance - 0.1).sqrt()),
        mean=truth.mean + torch.tensor([1.0, 0, 0, 0, 0, 0]),
        noise_variance=0.1,
    )
    found = predictive_checks(LinearModel(loose), rows(500, seed=5), names=NAMES)
    assert "mean of age" in found.rejected
    assert any(name.startswith("correlation of") for name in found.rejected)
    assert "mean of height" not in found.rejected
    assert "sd of height" not in found.rejected
    assert found.sentences[0].startswith("the mean of age is ")
    assert found.document()["rejected"] == list(found.rejected)


@pytest.mark.parametrize("replicate", [from_prior, from_posterior])
def test_replicates_keep_gaps_and_covariates(
    replicate: Callable[..., Tensor],
) -> None:
    given = 100 * torch.ones(400, 1, dtype=torch.float64)
    x = rows(400, given=given)
    made = replicate(LinearModel(), x, given, 0)
    assert torch.equal(made.isnan(), x.isnan())
    error = (made - x).nanmean(0).abs()
    assert (error < 1).all()
    assert (made - replicate(LinearModel(), x, 0 * given, 0)).nanmean(0).abs().max() > 50


def test_rows_made_again_from_their_latents_have_the_model_s_spread() -> None:
    """z and the true z* are alike given x, so that |x' − x|² is 2s² on average over cells.

    Rows that the prior makes lie farther off, by twice the variance of Wz.
    """
    x, _ = simulate(LinearModel(), torch.zeros(4000, 6, dtype=torch.float64))
    again, anew = (
        float((replicate(LinearModel(), x, None, 1) - x).square().mean())
        for replicate in (from_posterior, from_prior)
    )
    model = LinearModel().model
    assert again == pytest.approx(2 * model.noise_variance, rel=0.03)
    signal = float(model.weight.square().sum()) / 6
    assert anew == pytest.approx(2 * (model.noise_variance + signal), rel=0.1)
