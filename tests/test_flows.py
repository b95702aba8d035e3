"""Flows: inverses, log-determinants, densities, and the draws that follow them."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

import unveil
from oracles import CAUGHT, SURELY_WRONG, chi_square_z, normal, seeded, shake
from unveil.distributions import Flowed, draw
from unveil.evidence.importance import importance
from unveil.families import Conditional
from unveil.networks.flow import SplineFlow
from unveil.networks.mlp import Decoder, Encoder, FillsGaps
from unveil.units import posterior_moments

DTYPES = (torch.float32, torch.float64)
every_width = pytest.mark.parametrize("latents", [1, 2, 5])


def a_flow(latents: int, context: int = 2, sd: float = 0.4) -> SplineFlow:
    flow = SplineFlow(latents, context=context, width=8, generator=seeded(0)).double()
    shake(flow, seed=1, sd=sd)
    return flow


def a_posterior(latents: int, dtype: torch.dtype = torch.float64) -> Flowed:
    family = unveil.FlowPosterior(latents, context=2, transforms=2, width=8, generator=seeded(0))
    shake(family, seed=2, sd=0.3)
    return family.to(dtype)(normal(3, 1, family.num_parameters).to(dtype))


def a_prior(latents: int, dtype: torch.dtype = torch.float64) -> Flowed:
    prior = unveil.FlowPrior(latents, transforms=2, width=8, generator=seeded(0))
    shake(prior, seed=4, sd=0.3)
    torch.nn.init.constant_(prior.strength, 2.0)
    return prior.to(dtype)()


# ---- the bijection -----------------------------------------------------------------------------


@every_width
def test_the_inverse_undoes_the_flow_on_both_sides(latents: int) -> None:
    """Within the splines' domain, at its ends, and far outside."""
    flow, context = a_flow(latents), 2 * normal(5, 40, 2)
    value = torch.cat([2 * normal(6, 20, 40, latents), torch.tensor([5.0, -5.0, 1e3]).double()
        [:, None, None].expand(-1, 40, latents)])  # fmt: skip
    there, log_det = flow(value, context)
    assert (there - value).abs().max() > 0.5
    back, log_det_back = flow.inverse(there, context)
    torch.testing.assert_close(back, value, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(log_det_back, -log_det, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(flow(flow.inverse(value, context)[0], context)[0], value)


@every_width
def test_log_determinants_are_those_of_the_jacobian(latents: int) -> None:
    flow, context = a_flow(latents), normal(7, 2)
    for seed in range(3):
        value = normal(seed, latents)
        for way in (flow, flow.inverse):
            jacobian = torch.autograd.functional.jacobian(
                lambda v, way=way: way(v, context)[0], value
            )
            expected = torch.linalg.slogdet(jacobian).logabsdet
            torch.testing.assert_close(way(value, context)[1], expected)
            assert expected.abs() > 1e-3


@every_width
def test_a_flow_without_strength_is_the_identity_whatever_its_weights(latents: int) -> None:
    flow, value = a_flow(latents), 3 * normal(8, 50, latents)
    context = torch.tensor([0.7, 0.0]).double()
    bent, log_det = flow(value, context)
    torch.testing.assert_close(bent, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(log_det, torch.zeros(50).double(), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("sd", [0.4, 3.0])
def test_the_inverse_of_the_steepest_splines_is_finite_in_float32(sd: float) -> None:
    flow = a_flow(5, sd=sd).float()
    value, context = 2 * normal(9, 50, 8, 5).float(), normal(10, 8, 2).float()
    back, log_det = flow.inverse(value, context)
    assert torch.isfinite(back).all()
    assert torch.isfinite(log_det).all()
    leaves = list(flow.parameters())
    gradients = torch.autograd.grad(back.sum() + log_det.sum(), leaves)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_the_inverse_is_differentiable_in_value_and_weights() -> None:
    """∂f⁻¹(y)/∂w = −(∂f/∂x)⁻¹ ∂f/∂w, found here by finite differences."""
    flow, context, value = a_flow(2), normal(11, 2), normal(12, 2)
    weight = flow.maps[0].hyper.network[-1].bias

    def of(moved: Tensor) -> Tensor:
        return torch.func.functional_call(flow_inverse, {name: moved}, (value, context))

    class Inverse(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flow = flow

        def forward(self, value: Tensor, context: Tensor) -> Tensor:
            return self.flow.inverse(value, context)[0].sum()

    flow_inverse = Inverse()
    name = next(n for n, p in flow_inverse.named_parameters() if p is weight)
    direction = normal(13, *weight.shape)
    (gradient,) = torch.autograd.grad(of(weight), [weight])
    slope = (of(weight + 1e-6 * direction) - of(weight - 1e-6 * direction)) / 2e-6
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-8)
    assert slope.abs() > 1e-3


# ---- densities and draws -----------------------------------------------------------------------

MAKERS = {"posterior": a_posterior, "prior": a_prior}
every_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def on_a_grid(p: Flowed, points: int) -> tuple[Tensor, Tensor]:
    """A grid of the cells that hold p's draws and what is near them, and p's mass in each."""
    drawn = draw(p, (2000,), seeded(13)).flatten(0, -2)
    low, high = drawn.amin(0) - drawn.std(0), drawn.amax(0) + drawn.std(0)
    cell = (high - low) / points
    middles = torch.arange(points)[:, None] + 0.5
    axes = (low + cell * middles).unbind(-1)
    z = torch.cartesian_prod(*axes).reshape(-1, len(cell))
    with torch.no_grad():
        density = p.log_prob(z[:, None] if p.batch_shape else z).flatten().exp()
    return z, density * cell.prod()


@every_maker
@pytest.mark.parametrize(("latents", "points"), [(1, 4000), (2, 250)])
def test_a_density_integrates_to_one(make, latents: int, points: int) -> None:
    _, mass = on_a_grid(make(latents), points)
    assert float(mass.sum()) == pytest.approx(1.0, abs=4e-3)
    assert float(math.exp(0.1) * mass.sum()) > 1.05  # a log-determinant that is off by a tenth


@every_maker
def test_draws_follow_the_density_and_not_one_that_is_nearly_it(make) -> None:
    p = make(1)
    z, mass = on_a_grid(p, 20_000)
    bins = (mass.cumsum(0) * 20).clamp(0, 19.999).long()
    expected = torch.zeros(20).double().index_add(0, bins, mass)
    middles = (z[1:, 0] + z[:-1, 0]) / 2

    def score(widened: float) -> float:
        drawn = draw(p, (20_000,), seeded(14)).flatten()
        drawn = drawn.mean() + widened * (drawn - drawn.mean())
        counts = torch.bincount(bins[torch.bucketize(drawn, middles)], minlength=20)
        return chi_square_z(counts.double(), expected / expected.sum())

    assert score(1.0) < SURELY_WRONG
    assert score(1.15) > CAUGHT / 2


def test_a_flow_s_density_is_not_normal() -> None:
    for make in (a_posterior, a_prior):
        z, mass = on_a_grid(make(1), 4000)
        z = z.flatten()
        mean = (mass * z).sum()
        sd = (mass * (z - mean).square()).sum().sqrt()
        skew, kurtosis = ((mass * ((z - mean) / sd) ** k).sum() for k in (3, 4))
        assert skew.abs() > 0.2 or (kurtosis - 3).abs() > 0.2


@every_maker
def test_float32_and_float64_agree(make) -> None:
    z = 2 * normal(15, 50, 1, 2)
    low, high = (make(2, dtype).log_prob(z.to(dtype)).double() for dtype in DTYPES)
    torch.testing.assert_close(low, high, rtol=1e-4, atol=1e-4)


@every_maker
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_a_density_is_finite_far_from_its_mass(make, dtype: torch.dtype, size: float) -> None:
    z = torch.tensor([[[size, -size, 0.0]], [[-size, 0.0, size]]], dtype=dtype).requires_grad_()
    log_p = make(3, dtype).log_prob(z)
    (gradient,) = torch.autograd.grad(log_p.sum(), [z])
    assert torch.isfinite(log_p).all()
    assert torch.isfinite(gradient).all()


# ---- families ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_untrained_prior_is_the_standard_normal(dtype: torch.dtype) -> None:
    z, given = 2 * normal(16, 20, 5, 3).to(dtype), normal(17, 5, 2).to(dtype)
    expected = unveil.StandardNormal(3).to(dtype)().log_prob(z)
    rounding = 30 * torch.finfo(dtype).eps
    for covariates in (0, 2):
        prior = unveil.FlowPrior(3, covariates=covariates, generator=seeded(0)).to(dtype)
        log_p = prior(given).log_prob(z)
        torch.testing.assert_close(log_p, expected, rtol=rounding, atol=rounding)


def test_a_prior_told_covariates_differs_by_row_and_one_that_is_not_does_not() -> None:
    z, given = normal(18, 3).expand(2, 3), normal(19, 2, 2)
    for covariates, differs in ((0, False), (2, True)):
        prior = unveil.FlowPrior(3, covariates=covariates, width=8, generator=seeded(0)).double()
        torch.nn.init.ones_(prior.strength)
        one, other = prior(given).log_prob(z)
        assert bool((one - other).abs() > 1e-3) == differs


@pytest.mark.parametrize("given", [None, torch.zeros(4, 1)])
def test_a_prior_without_its_covariates_is_refused(given: Tensor | None) -> None:
    with pytest.raises(ValueError, match=r"expected 2 covariates per row, got (none|1); give the"):
        unveil.FlowPrior(3, covariates=2, width=8, generator=seeded(0))(given)


def test_a_posterior_without_strength_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a context of at least 1 number per row, got 0"):
        unveil.FlowPosterior(3, context=0)


def test_weights_are_the_generator_s_and_nothing_global_moves() -> None:
    before = torch.get_rng_state()
    a, b, other = (
        torch.cat([p.flatten() for p in SplineFlow(2, context=1, generator=seeded(s)).parameters()])
        for s in (1, 1, 2)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, other)
    assert torch.equal(before, torch.get_rng_state())


def test_torch_s_own_checks_are_still_on() -> None:
    assert isinstance(vars(Distribution)["arg_constraints"], property)
    with pytest.raises(ValueError, match="constraint"):
        Normal(torch.zeros(1), -torch.ones(1))


def a_flow_vae() -> unveil.VAE:
    posterior = unveil.FlowPosterior(2, context=3, width=7, generator=seeded(0))
    vae = unveil.VAE(
        prior=unveil.FlowPrior(2, width=7, generator=seeded(1)),
        likelihood=Conditional(
            Decoder(2, covariates=0, outputs=3, width=7, depth=1), unveil.Bernoulli(3)
        ),
        posterior=Conditional(
            Encoder((3,), covariates=0, outputs=posterior.num_parameters, width=7, depth=1,
                gaps=FillsGaps()), posterior,
        ),
    )  # fmt: skip
    shake(vae, seed=20)
    return vae


def test_results_are_bitwise_the_row_s_own() -> None:
    vae, x = a_flow_vae(), (normal(21, 20, 3) > 0).float()
    index = torch.randperm(20, generator=seeded(22))[:7]
    for figures in (
        lambda rows: importance(vae, rows, num_samples=3).log_evidence,
        lambda rows: posterior_moments(vae, rows)[0],
    ):
        assert torch.equal(figures(x)[index], figures(x[index]))


@pytest.mark.parametrize("objective", [unveil.ELBO(), unveil.IWAE(num_samples=3)])
def test_gradients_reach_every_parameter_of_a_flow(objective: unveil.Objective) -> None:
    vae, x = a_flow_vae(), (normal(23, 30, 3) > 0).float()
    noise = normal(24, objective.num_samples, 30, 2).float()
    value = objective(vae, x, noise, torch.tensor(0.0)).mean()
    for gradient in torch.autograd.grad(value, list(vae.parameters())):
        assert torch.isfinite(gradient).all()
        assert (gradient != 0).any()


def test_a_row_with_nothing_observed_keeps_the_standard_normal() -> None:
    q = a_flow_vae().posterior(torch.full((2, 3), math.nan))
    noise = normal(25, 4, 2, 2).float()
    torch.testing.assert_close(q.push(noise), noise, rtol=1e-5, atol=1e-5)
