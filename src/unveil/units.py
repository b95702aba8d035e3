"""What a fitted model's numbers mean: which latents are used, and what to do about the rest."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from unveil.distributions import DiagonalNormal, kl_per_unit
from unveil.latent import LatentVariableModel
from unveil.shapes import Given, PerUnit, Rows
from unveil.tiles import RowsAlike, tiles

# Burda et al. 2016, section 5: a unit is active when its posterior mean varies over the data.
ACTIVE_VARIANCE = 0.01
FEWEST_ROWS_TO_JUDGE = 50


def posterior_moments(
    model: LatentVariableModel, x: Rows, given: Given = None
) -> tuple[PerUnit, PerUnit]:
    """Mean and standard deviation of q(z|x) for each row, (row, latent) each.

    Bitwise unchanged by the order and the number of rows.
    """
    means, sds = [], []
    with torch.no_grad(), RowsAlike():
        for tile in tiles(x, given):
            noise = tile.noise(0, "moments", model.num_latents)
            mean, sd = model.posterior(tile.x, tile.given).moments(noise)
            means.append(mean[: tile.count])
            sds.append(sd[: tile.count])
    return torch.cat(means), torch.cat(sds)


def active_units(means: Tensor) -> Tensor:
    """Which latents are used: Var_x(E_q[z_u|x]) > 0.01 (Burda et al. 2016).

    means (row, latent) are posterior means; returns a boolean per latent.

    >>> active_units(torch.tensor([[0.0, 1.0], [0.0, -1.0]]))
    tensor([False,  True])
    """
    return means.double().var(dim=0, correction=0) > ACTIVE_VARIANCE


def rate_per_unit(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q‖p) per row and latent where the two factorise over latents, else None."""
    if isinstance(q, DiagonalNormal) and isinstance(p, DiagonalNormal):
        return kl_per_unit(q, p)
    return None


def collapse_warning(active: Sequence[bool], rows: int) -> str | None:
    """A sentence that names the unused latents and the cure, or None when all are used.

    Whether a latent varies over the data cannot be told from few ``rows``: then None.

    >>> print(collapse_warning([True, False], rows=100))
    latent 1 of 2 carries nothing (its posterior is the prior): the model has pruned it, and \
fewer latents would do as well
    """
    unused = [str(unit) for unit, used in enumerate(active) if not used]
    if not unused or rows < FEWEST_ROWS_TO_JUDGE:
        return None
    total = len(active)
    if len(unused) == total:
        return (
            f"all {total} latents have collapsed (every posterior is the prior), so the decoder "
            "ignores z; warm the rate up for longer (a larger warmup_steps), train longer, or "
            "lower beta"
        )
    if len(unused) == 1:
        return (
            f"latent {unused[0]} of {total} carries nothing (its posterior is the prior): the "
            "model has pruned it, and fewer latents would do as well"
        )
    return (
        f"latents {', '.join(unused)} of {total} carry nothing (their posteriors are the prior): "
        "the model has pruned them, and fewer latents would do as well"
    )
