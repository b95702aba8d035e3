"""The Gaussian posterior with any covariance, against torch's and against closed forms."""

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

import unveil
from oracles import CAUGHT, SURELY_WRONG, normal, seeded, z_score
from unveil.distributions import DiagonalNormal, FullNormal, draw, kl_per_unit
from unveil.families import positive
from unveil.tiles import RowsAlike


def a_full_normal(*batch: int, latents: int = 3) -> FullNormal:
    return FullNormal(
        normal(0, *batch, latents),
        normal(1, *batch, latents).exp(),
        normal(2, *batch, latents, latents).tril(-1),
    )


def torch_s(q: FullNormal) -> MultivariateNormal:
    unit = q.lower + torch.eye(q.lower.shape[-1], dtype=torch.float64)
    return MultivariateNormal(q.loc, scale_tril=q.scale[..., None] * unit)


@pytest.mark.parametrize("batch", [(), (4,), (5, 4)])
@pytest.mark.parametrize("latents", [1, 3])
def test_a_full_normal_is_torch_s(batch: tuple[int, ...], latents: int) -> None:
    q = a_full_normal(*batch, latents=latents)
    z = normal(3, 6, *batch, latents)
    torch.testing.assert_close(q.log_prob(z), torch_s(q).log_prob(z))
    torch.testing.assert_close(q.log_prob(z[0]), torch_s(q).log_prob(z[0]))
    torch.testing.assert_close(q.mean, torch_s(q).mean)
    torch.testing.assert_close(q.stddev, torch_s(q).stddev)


def test_its_divergence_from_a_diagonal_normal_is_torch_s() -> None:
    q, z = a_full_normal(4), normal(4, 2, 4, 3)
    p = DiagonalNormal(normal(5, 3), normal(6, 3).exp())
    expected = kl_divergence(torch_s(q), MultivariateNormal(p.loc, torch.diag(p.scale.square())))
    torch.testing.assert_close(q.kl(p, z), expected)
    forgets = kl_per_unit(DiagonalNormal(q.loc, q.scale), p).sum(-1)  # R left out
    assert ((expected - forgets) > 0.01).all()


def test_its_divergence_from_any_other_prior_is_a_mean_over_the_draws() -> None:
    q, z = a_full_normal(4), normal(4, 2, 4, 3)
    p = torch_s(a_full_normal())
    torch.testing.assert_close(q.kl(p, z), (q.log_prob(z) - p.log_prob(z)).mean(0))


def test_its_draws_have_its_covariance() -> None:
    """And those of the transpose, which has the same variances in total, have another."""
    q = a_full_normal()

    def score(drawn_from: FullNormal) -> float:
        z = draw(drawn_from, (50_000,), seeded(7)) - q.mean
        products = z[:, :, None] * z[:, None, :]
        return z_score(products, torch_s(q).covariance_matrix)

    assert score(q) < SURELY_WRONG
    assert score(FullNormal(q.loc, q.scale, 1.3 * q.lower)) > CAUGHT


def test_the_network_s_numbers_fill_the_triangle_row_by_row() -> None:
    raw = torch.arange(9.0) / 10
    q = unveil.FullGaussian(3)(raw)
    assert torch.equal(q.loc, raw[:3])
    assert torch.equal(q.scale, positive(raw[3:6]))
    expected = torch.tensor([[0.0, 0.0, 0.0], [0.6, 0.0, 0.0], [0.7, 0.8, 0.0]])
    assert torch.equal(q.lower, expected)


def test_a_draw_takes_no_tensor_of_draws_by_latents_squared() -> None:
    """The largest tensor kept for the gradient is as large as the noise, or as R."""
    draws, rows, latents = 50, 4, 16
    raw = normal(8, rows, unveil.FullGaussian(latents).num_parameters).requires_grad_()
    noise = normal(9, draws, rows, latents)
    kept: list[int] = []

    def note(saved: torch.Tensor) -> torch.Tensor:
        kept.append(saved.untyped_storage().nbytes() // saved.element_size())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        q = unveil.FullGaussian(latents)(raw)
        z = q.push(noise)
        (q.log_prob(z) + unveil.FullGaussian(latents)(raw).log_prob(z)).sum()
    assert draws * rows * latents in kept
    assert max(kept) <= max(draws * rows * latents, rows * latents**2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_has_the_same_density_to_the_bit_wherever_it_stands(dtype: torch.dtype) -> None:
    family = unveil.FullGaussian(5)
    raw, z = normal(10, 64, family.num_parameters).to(dtype), normal(11, 3, 64, 5).to(dtype)
    order = torch.randperm(64, generator=seeded(12))
    there, here = family(raw[order]), family(raw)
    with RowsAlike():
        assert torch.equal(there.log_prob(z[:, order]), here.log_prob(z)[:, order])
        assert torch.equal(there.push(z[:, order]), here.push(z)[:, order])
