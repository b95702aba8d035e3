"""Objectives: one honest number per row, and the words with which they refuse."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributions import kl_divergence

import unveil
from instances import OBJECTIVES
from oracles import (
    CAUGHT,
    NOW,
    SURELY_WRONG,
    a_linear_gaussian,
    linear_vae,
    nonlinear_vae,
    normal,
    z_score,
)
from unveil.errors import InputError
from unveil.evidence.linear_gaussian import GaussianPosterior
from unveil.objectives.base import BatchObjective, LowerBound, Objective
from unveil.objectives.dreg import DReG
from unveil.objectives.elbo import ELBO, BetaELBO, SampledELBO
from unveil.objectives.importance import IWAE
from unveil.objectives.sticking import StickingTheLanding
from unveil.objectives.warmup import WarmedUp
from unveil.registry.spec import Spec, make
from unveil.step import Batch, Loss, eager_gradient, functional_gradient, trainable
from unveil.training import held_out_figures

every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
BATCH = [o for o in OBJECTIVES if isinstance(o, BatchObjective)]


@pytest.fixture
def vae() -> unveil.VAE:
    return nonlinear_vae(unveil.Gaussian(3)).double()


X = normal(100, 4, 3)


@every_objective
def test_an_objective_gives_one_finite_number_per_row(vae, objective: Objective) -> None:
    value = objective(vae, X, normal(0, objective.num_samples, 4, 2), NOW)
    assert value.shape == (4,)
    assert torch.isfinite(value).all()


def whole_and_part(vae: unveil.VAE, objective: Objective) -> tuple[torch.Tensor, torch.Tensor]:
    """The values of two rows beside two others, and by themselves."""
    noise = normal(0, objective.num_samples, 4, 2)
    return objective(vae, X, noise, NOW)[2:], objective(vae, X[2:], noise[:, 2:], NOW)


@pytest.mark.parametrize("objective", [o for o in OBJECTIVES if o not in BATCH], ids=repr)
def test_an_objective_of_a_row_does_not_know_the_other_rows(vae, objective: Objective) -> None:
    torch.testing.assert_close(*whole_and_part(vae, objective))


@pytest.mark.parametrize("objective", BATCH, ids=repr)
def test_an_objective_of_a_batch_says_so_because_it_does(vae, objective: Objective) -> None:
    whole, part = whole_and_part(vae, objective)
    assert not torch.isclose(whole, part).any()


@every_objective
def test_both_ways_of_taking_the_gradient_agree(vae, objective: Objective) -> None:
    """By torch.autograd, and by torch.func as a function transform."""
    loss = Loss(vae, objective, torch.float32)
    inputs = (Batch(X, None), normal(0, objective.num_samples, 4, 2), NOW)
    parameters = {name: p.detach() for name, p in trainable(vae).items()}
    torch.testing.assert_close(
        functional_gradient(loss, parameters, inputs), eager_gradient(loss, parameters, inputs)
    )


# In a process of its own: the compiler cannot read through the annotation checks that pytest adds.
COMPARE = """
import torch
from instances import OBJECTIVES
from oracles import NOW, nonlinear_vae, normal
import unveil
from unveil.objectives.base import Objective
from unveil.step import Batch, Loss, eager_gradient, functional_gradient, trainable

class OneOfEach(Objective):
    def __call__(self, model, x, noise, step, given=None):
        each = {type(objective): objective for objective in OBJECTIVES}.values()
        return sum(o(model, x, noise[: o.num_samples], step, given) for o in each)

vae = nonlinear_vae(unveil.Gaussian(3)).double()
parameters = {name: p.detach() for name, p in trainable(vae).items()}
loss = Loss(vae, OneOfEach(), torch.float32)
inputs = Batch(normal(1, 4, 3), None), normal(2, 5, 4, 2), NOW
compiled = torch.compile(functional_gradient, fullgraph=True, backend="eager")
torch.testing.assert_close(
    compiled(loss, parameters, inputs), eager_gradient(loss, parameters, inputs)
)
print("equal")
"""


def test_every_objective_compiles_whole() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", COMPARE],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout == "equal\n", ran.stderr


# ---- what is a bound ---------------------------------------------------------------------------

MODEL = a_linear_gaussian()
ROW = normal(101, 1, 6)
COPIES = 20_000


def below_the_evidence(objective: Objective, q: GaussianPosterior) -> float:
    """By how many standard errors the mean value lies above log p(x); at most 0 for a bound."""
    values = objective(
        linear_vae(MODEL, q),
        ROW.expand(COPIES, -1),
        normal(3, objective.num_samples, COPIES, 3),
        NOW,
    )
    above = values.detach() - MODEL.log_evidence(ROW)
    return float(above.mean() / (above.std() / math.sqrt(COPIES)).clamp_min(1e-12))


ROW_BOUNDS = [o for o in OBJECTIVES if isinstance(o, LowerBound) and not isinstance(o, WarmedUp)]
WARMED_UP_BOUNDS = [
    unveil.ELBO(warmup_steps=0),
    unveil.SampledELBO(warmup_steps=0),
    unveil.StickingTheLanding(warmup_steps=0),
]


@pytest.mark.parametrize("objective", [*ROW_BOUNDS, *WARMED_UP_BOUNDS], ids=repr)
def test_a_lower_bound_is_below_the_evidence(objective: Objective) -> None:
    best = MODEL.mean_field_posterior()
    wide = GaussianPosterior(gain=0.5 * best.gain, covariance=4 * best.covariance)
    for q in (best, wide):
        assert below_the_evidence(objective, q) < -CAUGHT


@pytest.mark.parametrize(
    "objective",
    [
        unveil.BetaELBO(beta=0.1, warmup_steps=0),
        unveil.NegativeRenyi(alpha=-20.0),
        unveil.InfoVAE(alpha=1.0, scaling=1e-3, num_samples=1),
    ],
    ids=repr,
)
def test_what_is_called_no_bound_is_none(objective: Objective) -> None:
    assert not isinstance(objective, LowerBound)
    copies = 2000  # of one row; the MMD compares all pairs of them
    noise = normal(3, objective.num_samples, copies, 3)
    vae = linear_vae(MODEL, MODEL.mean_field_posterior())
    above = objective(vae, ROW.expand(copies, -1), noise, NOW).detach() - MODEL.log_evidence(ROW)
    assert float(above.mean() / (above.std() / math.sqrt(copies))) > CAUGHT


# ---- values ------------------------------------------------------------------------------------


def test_the_elbo_is_minus_distortion_minus_rate(vae) -> None:
    noise = normal(0, 3, 4, 2)
    q = vae.posterior(X)
    distortion = -vae.likelihood(q.push(noise)).log_prob(X).mean(0)
    rate = kl_divergence(q, vae.prior())
    torch.testing.assert_close(ELBO(num_samples=3)(vae, X, noise, NOW), -(distortion + rate))


def test_beta_weighs_the_rate_alone(vae) -> None:
    noise = normal(0, 1, 4, 2)
    one, four = (BetaELBO(beta=b, warmup_steps=0)(vae, X, noise, NOW) for b in (1.0, 4.0))
    torch.testing.assert_close(one - four, 3 * kl_divergence(vae.posterior(X), vae.prior()))


def test_the_sampled_elbo_agrees_with_the_closed_form_in_expectation(vae) -> None:
    x, draws = X[:1].expand(40_000, -1), normal(0, 1, 40_000, 2)
    closed = ELBO()(vae, x, normal(1, 1, 40_000, 2), NOW)
    sampled = SampledELBO()(vae, x, draws, NOW)
    assert z_score(sampled - closed, 0.0) < SURELY_WRONG
    halved = BetaELBO(beta=0.5)(vae, x, draws, NOW)
    assert z_score(halved - closed, 0.0) > CAUGHT


def test_one_sample_of_iwae_is_the_sampled_elbo(vae) -> None:
    noise = normal(0, 1, 4, 2)
    torch.testing.assert_close(
        IWAE(num_samples=1)(vae, X, noise, NOW), SampledELBO()(vae, X, noise, NOW)
    )


def test_iwae_is_the_log_of_the_mean_weight(vae) -> None:
    noise = normal(0, 6, 4, 2)
    mean_weight = vae.particles(X, noise).log_weights.exp().mean(0)
    torch.testing.assert_close(IWAE(num_samples=6)(vae, X, noise, NOW), mean_weight.log())


@pytest.mark.parametrize(
    ("surrogate", "honest"),
    [
        (StickingTheLanding(num_samples=3), SampledELBO(num_samples=3)),
        (DReG(num_samples=3), IWAE(num_samples=3)),
    ],
    ids=lambda o: type(o).__name__,
)
def test_a_gradient_surrogate_leaves_the_value_as_it_is(vae, surrogate, honest) -> None:
    noise = normal(0, 3, 4, 2)
    assert torch.equal(surrogate(vae, X, noise, NOW), honest(vae, X, noise, NOW))


# ---- weights and their schedule ----------------------------------------------------------------


@pytest.mark.parametrize("kind", [ELBO, SampledELBO, StickingTheLanding])
def test_the_share_of_the_rate_rises_in_a_line_and_stays(kind: type[WarmedUp]) -> None:
    shares = kind(warmup_steps=3).share(torch.arange(6.0))
    torch.testing.assert_close(shares, torch.tensor([0.25, 0.5, 0.75, 1.0, 1.0, 1.0]))


def test_beta_is_reached_as_the_warm_up_ends() -> None:
    objective = BetaELBO(beta=2.0, warmup_steps=7)
    before, after = objective.weight(torch.tensor([6.0, 7.0])).tolist()
    assert objective.warmup == 7
    assert before < 2.0 == after


def test_without_warm_up_beta_is_there_from_the_first_step() -> None:
    assert BetaELBO(beta=2.0, warmup_steps=0).weight(NOW) == 2.0


def test_a_warm_up_left_open_is_a_tenth_of_the_run() -> None:
    assert BetaELBO(beta=2.0).scheduled(1000, 50) == BetaELBO(beta=2.0, warmup_steps=100)


def test_the_rows_of_a_run_are_those_it_trains_on() -> None:
    assert unveil.TotalCorrelation(beta=2.0).scheduled(1000, 50).rows == 50
    seen: list[int | None] = []

    class Watch(Objective):
        def scheduled(self, total_steps: int, rows: int) -> Objective:
            seen.append(rows)
            return ELBO(warmup_steps=0)

        def __call__(self, model, x, noise, step, given=None):
            raise AssertionError

    empty = torch.full((2, 3), torch.nan)
    rows = torch.cat([X.float(), empty])
    unveil.train(nonlinear_vae(unveil.Gaussian(3)), rows, objective=Watch(), epochs=1)
    assert seen == [4]


@every_objective
def test_scheduling_settles_what_is_open_and_nothing_else(objective: Objective) -> None:
    settled = objective.scheduled(1000, rows=50)
    assert settled.scheduled(500, rows=60) == settled
    assert settled.num_samples == objective.num_samples
    if objective.warmup:
        assert settled == objective


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ELBO, SampledELBO, IWAE, DReG])
def test_less_than_one_draw_is_refused(kind: type[Objective]) -> None:
    sentence = r"^expected num_samples of at least 1, a whole number, got 0$"
    with pytest.raises(ValueError, match=sentence):
        kind(num_samples=0)


@pytest.mark.parametrize("beta", [-0.1, math.inf, math.nan])
def test_a_beta_that_is_no_weight_is_refused(beta: float) -> None:
    with pytest.raises(
        ValueError, match=rf"^expected beta to be at least 0 and finite, got {beta}$"
    ):
        BetaELBO(beta=beta)


def test_a_warm_up_below_zero_is_refused() -> None:
    sentence = r"^expected warmup_steps of at least 0, a whole number, got -1$"
    with pytest.raises(ValueError, match=sentence):
        SampledELBO(warmup_steps=-1)


def test_an_objective_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        BetaELBO(beta=1.0).beta = 2.0  # type: ignore[misc]


@pytest.mark.parametrize("kind", [ELBO, SampledELBO, StickingTheLanding, IWAE, DReG])
def test_a_bound_has_no_beta(kind: type[Objective]) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'beta'"):
        kind(beta=2.0)
    with pytest.raises(InputError, match="for the objective 'o', but beta came; leave it"):
        make("the objective", kind, Spec("o", {"beta": 2.0}))


@pytest.mark.parametrize(
    "objective", [unveil.TotalCorrelation(beta=2.0, rows=5), unveil.InfoVAE()], ids=repr
)
def test_a_row_alone_is_refused_where_rows_are_compared(vae, objective: Objective) -> None:
    with pytest.raises(ValueError, match=r"^expected at least 2 rows side by side for"):
        objective(vae, X[:1], normal(0, 1, 1, 2), NOW)


# ---- held-out rows -----------------------------------------------------------------------------


class Company(BatchObjective):
    """How many different rows stand side by side."""

    def __call__(self, model, x, noise, step, given=None):
        return torch.full((len(x),), float(len(x.unique(dim=0))), dtype=x.dtype)


@pytest.mark.parametrize(("rows", "mean"), [(7, 7.0), (256, 256.0), (257, (129**2 + 128**2) / 257)])
def test_an_objective_of_a_batch_is_never_shown_padding(vae, rows: int, mean: float) -> None:
    figures, _ = held_out_figures(vae, normal(5, rows, 3), Company(), 100, 0)
    assert figures["objective"] == pytest.approx(mean)
