"""Rows drawn from the model itself, whose latents are known: exact draws of their posteriors."""

import torch

from unveil.distributions import draw
from unveil.latent import LatentVariableModel
from unveil.noise import generator
from unveil.shapes import Given, PerUnit, Rows
from unveil.tiles import ROWS_PER_TILE


def simulate(
    model: LatentVariableModel,
    like: Rows,
    given: Given = None,
    *,
    seed: int = 0,
    purpose: str = "simulate",
) -> tuple[Rows, PerUnit]:
    """As many rows as ``like``, with its missing cells and covariates: z ~ p(z|c), x ~ p(x|z, c).

    Returns x (row, *event) and the z (row, latent) behind each. As x and z are drawn together, z is
    an exact draw of p(z|x). Every row, equal ones included, has noise of its own, a function of
    (seed, purpose, how many rows): rows of different purposes are independent.

    >>> import unveil
    >>> from torch import nn
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 3), unveil.Bernoulli(3)),
    ...     posterior=unveil.Conditional(nn.Linear(3, 2), unveil.DiagonalGaussian(1)),
    ... )
    >>> x, z = simulate(vae, torch.tensor([[0.0, 1.0, float("nan")]] * 5))
    >>> x.shape, z.shape, bool(x[:, 2].isnan().all())
    (torch.Size([5, 3]), torch.Size([5, 1]), True)
    """
    randomness = generator(seed, purpose, device=like.device)
    rows, latents = [], []
    with torch.no_grad():
        for first in range(0, len(like), ROWS_PER_TILE):
            some = like[first : first + ROWS_PER_TILE]
            c = None if given is None else given[first : first + ROWS_PER_TILE]
            prior = model.prior(c)
            z = draw(prior, () if prior.batch_shape else (len(some),), randomness)
            x = draw(model.likelihood(z, c), (), randomness)
            rows.append(torch.where(torch.isnan(some), some, x.to(some)))
            latents.append(z)
    return torch.cat(rows), torch.cat(latents)
