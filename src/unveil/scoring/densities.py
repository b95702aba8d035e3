"""How probable each cell of a row is, given the rest of the row."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.evidence.weights import log_sum_exp
from unveil.latent import LatentVariableModel
from unveil.shapes import Given, PerRow, Rows
from unveil.tiles import RowsAlike, tiles, weighed

# Draws of z per row, of the rows that are scored and of those that they are compared with.
DRAWS = 100
HIDDEN = "one cell hidden"


def log_densities_of_cells(
    model: LatentVariableModel,
    x: Rows,
    *,
    given: Given = None,
    num_samples: int = DRAWS,
    seed: int = 0,
    on_part: Callable[[float], None] = lambda fraction: None,
) -> Float[Tensor, "row cell"]:
    """log p(x_j|x₋ⱼ) of every cell, nats, float64; NaN where the cell is missing.

        log p(x_j|x₋ⱼ) = log p(x) − log p(x₋ⱼ),   z_jk ~ q(z|x₋ⱼ),   w_jk = p(x₋ⱼ, z_jk)/q(z_jk|x₋ⱼ)
        p(x₋ⱼ) ≈ Σ_k w_jk/K,   p(x) ≈ Σ_jk w_jk p(x_j|z_jk)/JK

    Each cell is hidden from the encoder in turn. An odd one misleads the encoder wherever it is
    shown, so that p(x) is taken from all draws together, those that did not see it among them.
    Heuristic: as good as q is without the cell, and as the number of draws. A bitwise function of
    the row. Raises ArithmeticError for a weight that is NaN or +∞.
    """
    shape = len(x), x[0].numel()
    rest, whole = (torch.full(shape, gap, dtype=torch.float64) for gap in (math.nan, -math.inf))
    for cell in range(shape[1]):
        seen = ~torch.isnan(x.flatten(1)[:, cell])
        if bool(seen.any()):
            c, here = None if given is None else given[seen], (seen.cpu(), cell)
            rest[here], whole[here] = _log_masses(model, x[seen], c, cell, num_samples, seed)
        on_part((cell + 1) / shape[1])
    number = (~torch.isnan(rest)).sum(1, keepdim=True).double()
    return log_sum_exp(whole)[:, None] - number.log() - rest


def _log_masses(
    model: LatentVariableModel, x: Rows, given: Given, cell: int, num_samples: int, seed: int
) -> tuple[PerRow, PerRow]:
    """log p(x₋ⱼ) and log p(x), for one cell that each of the rows shows, by draws that saw the
    rest."""
    rest, alone = hidden(x, cell)
    parts = []
    with torch.no_grad(), RowsAlike():
        for tile, only in zip(tiles(rest, given), tiles(alone, given), strict=True):
            noise = tile.noise(seed, HIDDEN, model.num_latents)
            log_w, log_p = [], []
            for likelihood, _, of_chunk in weighed(model, tile, num_samples, noise):
                log_w.append(of_chunk)
                log_p.append(likelihood.log_prob(only.x).double())
            weights = torch.cat(log_w).cpu().mT.contiguous()
            both = torch.stack([weights, weights + torch.cat(log_p).cpu().mT])
            parts.append((log_sum_exp(both) - math.log(num_samples))[:, : tile.count])
    rest_alone, whole = torch.cat(parts, dim=1)
    return rest_alone, whole


def hidden(x: Rows, cell: int) -> tuple[Rows, Rows]:
    """Rows with one cell missing, and with that cell alone.

    >>> [part.tolist() for part in hidden(torch.tensor([[1.0, 2.0]]), 0)]
    [[[nan, 2.0]], [[1.0, nan]]]
    """
    here = (torch.arange(x[0].numel(), device=x.device) == cell).view(x.shape[1:])
    return torch.where(here, torch.nan, x), torch.where(here, x, torch.nan)
