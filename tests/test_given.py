"""Covariates: conditioned on everywhere, modelled nowhere, and always those of their own row."""

import torch

import unveil
from unveil.evidence.importance import importance
from unveil.networks.mlp import Decoder, Encoder, FillsGaps
from unveil.units import posterior_moments

GENERATOR = torch.Generator().manual_seed(0)
GIVEN = torch.randint(0, 2, (400, 1), generator=GENERATOR).float()
X = 6 * GIVEN + torch.randn(400, 3, generator=GENERATOR)


def conditional_vae() -> unveil.VAE:
    weights = torch.Generator().manual_seed(1)
    family = unveil.Gaussian(3)
    sizes = {"covariates": 1, "width": 16, "depth": 1, "generator": weights}
    return unveil.VAE(
        prior=unveil.StandardNormal(1),
        likelihood=unveil.Conditional(Decoder(1, outputs=3, **sizes), family),
        posterior=unveil.Conditional(
            Encoder((3,), outputs=2, gaps=FillsGaps(), **sizes), unveil.DiagonalGaussian(1)
        ),
    )


def trained() -> unveil.VAE:
    vae = conditional_vae()
    recipe = unveil.Recipe(batch_size=100, learning_rate=1e-2)
    unveil.train(
        vae, X[:300], given=GIVEN[:300], held_out=X[300:], held_out_given=GIVEN[300:],
        recipe=recipe, epochs=60,
    )  # fmt: skip
    return vae


def test_what_is_given_is_not_spent_on_latents() -> None:
    """Told the group, the model finds what remains, noise; a mutant told another row's does not."""
    vae = trained()
    right = importance(vae, X[300:], num_samples=50, given=GIVEN[300:]).log_evidence.mean()
    wrong = importance(vae, X[300:], num_samples=50, given=1 - GIVEN[300:]).log_evidence.mean()
    noise = -1.5 * (1 + torch.log(torch.tensor(2 * torch.pi)))  # −entropy of N(0, I) in 3 cells
    assert abs(float(right - noise)) < 0.5
    assert float(wrong - noise) < -5


def test_a_row_keeps_its_covariates_in_any_order() -> None:
    vae, order = conditional_vae(), torch.randperm(400, generator=torch.Generator().manual_seed(2))
    whole = importance(vae, X, num_samples=3, given=GIVEN).log_evidence
    shuffled = importance(vae, X[order], num_samples=3, given=GIVEN[order]).log_evidence
    assert torch.equal(whole[order], shuffled)
    means = posterior_moments(vae, X, GIVEN)[0]
    assert torch.equal(means[order], posterior_moments(vae, X[order], GIVEN[order])[0])
    assert not torch.equal(means, posterior_moments(vae, X, 1 - GIVEN)[0])


def test_every_objective_conditions_on_what_is_given() -> None:
    vae, noise, clock = conditional_vae(), torch.zeros(2, 400, 1), torch.tensor(1.0)
    for objective in (unveil.ELBO(), unveil.SampledELBO(), unveil.IWAE(num_samples=2)):
        objective = objective.scheduled(100, rows=400)
        told = objective(vae, X, noise, clock, GIVEN)
        assert not torch.equal(told, objective(vae, X, noise, clock, 1 - GIVEN))
