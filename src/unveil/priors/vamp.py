"""The variational mixture of posteriors."""

import math
from typing import final

import torch
from torch import Generator, Tensor, nn

from unveil.distributions import DiagonalNormal
from unveil.families import Conditional
from unveil.priors.base import Prior
from unveil.priors.mixture import MixtureOfNormals
from unveil.shapes import Given, Rows

# Rows asked for what they have in a gap; a column that so many do not show is taken for empty.
FILLINGS = 100


@final
class VampPrior(Prior):
    """p(z) = (1/K) Σ_k q(z|u_k): the mean of the posteriors of K learned rows.

    ``posterior`` is the model's own q(z|x), and the same object must be given to the model;
    ``pseudo_rows`` (K, *event), in model units and without gaps, are where the u_k start (see
    ``distinct_rows``). ``low`` and ``high`` (broadcasting to the event) are the legal range of the
    cells, into which every u_k is clamped. Raises ValueError for no row or a row with gaps, and,
    when it is called, for covariates and for a posterior that is not a diagonal normal.
    Source: Tomczak & Welling 2018, eq. 9.

    >>> from unveil import DiagonalGaussian
    >>> encoder = Conditional(nn.Linear(5, 4), DiagonalGaussian(2))
    >>> VampPrior(encoder, torch.eye(5))().log_prob(torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        posterior: Conditional,
        pseudo_rows: Tensor,
        *,
        low: Tensor | None = None,
        high: Tensor | None = None,
    ) -> None:
        super().__init__()
        if len(pseudo_rows) == 0:
            raise ValueError("expected at least 1 pseudo row for a mixture of posteriors, got none")
        if torch.isnan(pseudo_rows).any():
            raise ValueError(
                "expected pseudo rows without gaps, got NaN; start them with "
                "unveil.priors.vamp.distinct_rows, which fills gaps"
            )
        (self.num_latents,) = posterior.family.event_shape
        # In a tuple, which torch does not look into: the posterior is the model's, and a module of
        # both would be trained, counted and saved under two names.
        self._borrowed = (posterior,)
        self.pseudo_rows = nn.Parameter(pseudo_rows.detach().clone())
        self.register_buffer("low", _end(low, -math.inf, pseudo_rows), persistent=False)
        self.register_buffer("high", _end(high, math.inf, pseudo_rows), persistent=False)

    def forward(self, given: Given = None) -> MixtureOfNormals:
        if given is not None:
            raise ValueError(
                "expected no covariates with a mixture of posteriors, got some: each row's own "
                "covariates would give it K components of its own; take ConditionedPrior instead"
            )
        (posterior,) = self._borrowed
        q = posterior(torch.clamp(self.pseudo_rows, self.low, self.high))
        if not isinstance(q, DiagonalNormal):
            raise ValueError(
                "expected a posterior that is a diagonal normal in a mixture of posteriors, got "
                f"{type(q).__name__}; give the posterior the family DiagonalGaussian, or the model "
                "another prior"
            )
        uniform = torch.full_like(q.loc[:, 0], -math.log(len(q.loc)))
        return MixtureOfNormals(uniform, q.loc, q.scale)


def _end(value: Tensor | None, unbounded: float, like: Tensor) -> Tensor:
    """One end of the cells' legal range, in the precision of the rows."""
    return like.new_tensor(unbounded) if value is None else value.to(like)


def _filled(x: Rows, generator: Generator) -> Tensor:
    """Rows whose gaps hold what a row drawn at random has there."""
    cells = x.flatten(1)
    for _ in range(FILLINGS):
        gaps = torch.isnan(cells)
        if not gaps.any():
            break
        others = torch.randint(len(cells), cells.shape, generator=generator).to(x.device)
        cells = torch.where(gaps, cells.gather(0, others), cells)
    return torch.where(torch.isnan(cells), 0.0, cells).unflatten(1, x.shape[1:])


def distinct_rows(x: Rows, count: int, generator: Generator) -> Tensor:
    """``count`` different rows of x, drawn at random, where pseudo rows may start.

    A gap is filled with what another row has there, a value that its column can take. Returns
    (count, *event). Raises ValueError when x has fewer distinct rows.

    >>> x = torch.tensor([[1.0, 5.0], [1.0, 5.0], [2.0, float("nan")]])
    >>> distinct_rows(x, 2, Generator().manual_seed(0)).sort(0).values
    tensor([[1., 5.],
            [2., 5.]])
    """
    distinct = torch.unique(_filled(x, generator), dim=0)
    if len(distinct) < count:
        raise ValueError(
            f"expected at least {count} distinct rows for as many pseudo rows to start from, got "
            f"{len(distinct)}; ask for fewer components"
        )
    order = torch.randperm(len(distinct), generator=generator)[:count]
    return distinct[order.to(x.device)]
