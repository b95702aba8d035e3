"""Missing cells from the observed ones of their row: what to expect of them, and draws of them.

    p(x_mis|x_obs) = Σ_k w̄_k p(x_mis|z_k),   z_k ~ q(z|x_obs),   w_k = p(x_obs, z_k)/q(z_k|x_obs)

The weights make up for q as far as draws can. Cells are assumed missing at random: whether a cell
is missing may depend on what was observed, and not on the value that is not there.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import TypeAlias, final

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from unveil.distributions import Cells, Joined, draw
from unveil.latent import LatentVariableModel
from unveil.likelihoods.angles import VonMisesDensity
from unveil.likelihoods.classes import Codes
from unveil.noise import generator
from unveil.shapes import Given, Latents, PerRow, Rows
from unveil.tiles import FLOATS_PER_CHUNK, ROWS_PER_TILE, RowsAlike, Tile, tiles, weighed

# Draws of q(z|x) that are weighed for each row.
NUM_SAMPLES = 1000
# Where no draw can have made a row, all of them count alike: their log-weights are this.
IMPOSSIBLE = -1e300


DrawCells: TypeAlias = Callable[[Distribution, Generator], Tensor]


# ---- what to expect ----------------------------------------------------------------------------


@final
@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the observed cells of each row say of its missing ones, in model units.

    ``values`` (row, *event) are the rows with their gaps filled by E[x_j|x_obs]: for a class the
    most probable one, for an angle the mean direction. ``masses`` are P(x_j = k|x_obs), float64
    (row, class), for each cell of classes, by its place in a flattened row. ``ess`` (row,) are the
    effective draws (Σw)²/Σw² behind all this.
    """

    values: Rows
    masses: Mapping[int, Tensor]
    ess: PerRow


def expected(
    model: LatentVariableModel,
    x: Rows,
    *,
    num_samples: int = NUM_SAMPLES,
    seed: int = 0,
    given: Given = None,
    on_tile: Callable[[float], None] = lambda fraction: None,
) -> Expected:
    """E[x_mis|x_obs] = Σ_k w̄_k E[x_mis|z_k] of rows x (row, *event), whose gaps are NaN.

    Observed cells come back as they are, bit for bit, and what is said of a row is a function of
    (seed, row) alone. Memory is bounded whatever the number of draws and rows. ``on_tile`` hears
    the share that is done. Raises ValueError for less than one draw, and ArithmeticError for a
    weight that is NaN or +∞.
    Source: Mattei & Frellsen 2019 (MIWAE), section 3.

    >>> import unveil
    >>> from torch import nn
    >>> from unveil.networks.mlp import Encoder, MarksGaps
    >>> gaps = MarksGaps()
    >>> encoder = Encoder((3,), covariates=0, outputs=2, width=8, depth=1, gaps=gaps)
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 3), unveil.Gaussian(3)),
    ...     posterior=unveil.Conditional(encoder, unveil.DiagonalGaussian(1)),
    ... )
    >>> found = expected(vae, torch.tensor([[0.5, float("nan"), 1.0]]), num_samples=50)
    >>> found.values[:, [0, 2]], bool(found.values.isnan().any())
    (tensor([[0.5000, 1.0000]]), False)
    """
    _require_some("draw", num_samples)
    parts: list[Expected] = []
    with torch.no_grad(), RowsAlike():
        for tile in tiles(x, given):
            parts.append(_expected(model, tile, num_samples, seed))
            on_tile(min(1.0, len(parts) * len(tile.x) / len(x)))
    return Expected(
        values=torch.cat([part.values for part in parts]) if parts else x,
        masses={j: torch.cat([p.masses[j] for p in parts]) for j in parts[0].masses}
        if parts
        else {},
        ess=torch.cat([part.ess for part in parts]) if parts else x.new_zeros(0).double(),
    )


def _expected(model: LatentVariableModel, tile: Tile, num_samples: int, seed: int) -> Expected:
    """What is expected of the real rows of one tile."""
    noise = tile.noise(seed, "imputation", model.num_latents)
    mean, pieces = _WeightedMean(len(tile.x)), []
    for likelihood, _, log_w in _weighed(model, tile, num_samples, noise):
        pieces = _pieces(likelihood)
        mean.add(log_w, [averaged(base).flatten(2, -2) for _, base in pieces])
    filled, masses = tile.x.flatten(1).clone(), {}
    for (index, base), average in zip(pieces, mean.values, strict=True):
        filled[:, index] = value_of(base, average).to(filled)
        if isinstance(base, Codes):
            masses |= {j: average[: tile.count, i].cpu() for i, j in enumerate(index.tolist())}
    values = torch.where(torch.isnan(tile.x), filled.view(tile.x.shape), tile.x)
    return Expected(values=values[: tile.count], masses=masses, ess=mean.ess[: tile.count].cpu())


@singledispatch
def averaged(base: Distribution) -> Tensor:
    """What of p(x_j|z) is averaged over z, (..., *event, number): its mean, where that says it.

    >>> from unveil.likelihoods.classes import Classes
    >>> averaged(Classes(torch.tensor([0.25, 0.75]).log()))
    tensor([0.2500, 0.7500])
    """
    return base.mean[..., None]


@averaged.register
def _(base: Codes) -> Tensor:
    """The masses: those of a mixture are the mixture of those."""
    return base.log_masses.exp()


@averaged.register
def _(base: VonMisesDensity) -> Tensor:
    """The mean point E(cos x, sin x), of length I₁(κ)/I₀(κ): a direction has no mean at a seam."""
    k = base.concentration
    length = torch.special.i1e(k) / torch.special.i0e(k)
    return torch.stack([length * base.cosine, length * base.sine], dim=-1)


@singledispatch
def value_of(base: Distribution, average: Tensor) -> Tensor:
    """The value that an average of ``averaged`` (..., number) stands for, (...).

    >>> from unveil.likelihoods.classes import Classes
    >>> value_of(Classes(torch.zeros(2)), torch.tensor([0.25, 0.75]))
    tensor(1.)
    """
    return average[..., 0]


@value_of.register
def _(base: Codes, average: Tensor) -> Tensor:
    return type(base)(average.log()).mean


@value_of.register
def _(base: VonMisesDensity, average: Tensor) -> Tensor:
    return torch.atan2(average[..., 1], average[..., 0])


def _pieces(likelihood: Distribution) -> list[tuple[Tensor, Distribution]]:
    """Which cells of a flattened row have which distribution."""
    if isinstance(likelihood, Joined):
        return [(index, _base(part)) for index, part in likelihood.parts]
    return [(torch.arange(math.prod(likelihood.event_shape)), _base(likelihood))]


def _base(part: Distribution) -> Distribution:
    return part.base if isinstance(part, Cells) else part


# ---- draws -------------------------------------------------------------------------------------


@torch.no_grad()
def anywhere(likelihood: Distribution, randomness: Generator) -> Tensor:
    """x ~ p(x|z)."""
    return draw(likelihood, (), randomness)


def completions(
    model: LatentVariableModel,
    x: Rows,
    num_draws: int,
    *,
    num_samples: int = NUM_SAMPLES,
    seed: int = 0,
    given: Given = None,
    drawn: DrawCells = anywhere,
) -> Iterator[Tensor]:
    """Rows x completed ``num_draws`` times, a few rows at a time, (draw, row, *event).

        k_m ~ w̄,   x_mis ~ p(x_mis|z_{k_m})

    Each draw picks a z by its weight among ``num_samples`` of q(z|x_obs), independently of the
    others (importance resampling); ``drawn`` draws the cells, such as within what was seen of them.
    Observed cells come back as they are. Every row, equal ones included, has noise of its own: what
    comes out is a function of (seed, table). The parameters of the model are held fixed. Raises as
    ``expected`` does.
    Source: Mattei & Frellsen 2019 (MIWAE), section 3; Rubin 1987 (sampling importance resampling).

    >>> import unveil
    >>> from torch import nn
    >>> from unveil.networks.mlp import Encoder, MarksGaps
    >>> gaps = MarksGaps()
    >>> encoder = Encoder((2,), covariates=0, outputs=2, width=8, depth=1, gaps=gaps)
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 2), unveil.Bernoulli(2)),
    ...     posterior=unveil.Conditional(encoder, unveil.DiagonalGaussian(1)),
    ... )
    >>> [few.shape for few in completions(vae, torch.tensor([[1.0, float("nan")]] * 3), 5)]
    [torch.Size([5, 3, 2])]
    """
    _require_some("draw", num_draws)
    _require_some("draw", num_samples)
    randomness = generator(seed, "completions", device=x.device)
    at_once = max(1, FLOATS_PER_CHUNK // (num_draws * max(1, math.prod(x.shape[1:]))))
    for first in range(0, len(x), ROWS_PER_TILE):
        # What comes out belongs to the table, so that the last tile need not be filled.
        rows = slice(first, min(first + ROWS_PER_TILE, len(x)))
        c = None if given is None else given[rows]
        tile = Tile(x=x[rows], given=c, count=rows.stop - first)
        z = _resampled(model, tile, num_draws, num_samples, randomness)
        for few in torch.arange(tile.count, device=x.device).split(at_once):
            c = None if tile.given is None else tile.given[few]
            made = drawn(model.likelihood(z[:, few], c), randomness).to(x)
            yield torch.where(torch.isnan(tile.x[few]), made, tile.x[few])


def _resampled(
    model: LatentVariableModel,
    tile: Tile,
    num_draws: int,
    num_samples: int,
    randomness: Generator,
) -> Latents:
    """Draws of p(z|x_obs), (draw, row, latent), each picked among draws of q by its weight.

    Each keeps its z until a chunk of draws comes in that outweighs all before it by lot: at the end
    every draw of q has been picked with its share of all weights, and none was kept for nothing.
    """
    rows, device = len(tile.x), tile.x.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=randomness, device=device, dtype=torch.float64)

    def noise(size: int) -> Tensor:
        shape = (size, rows, model.num_latents)
        return torch.randn(shape, generator=randomness, device=device, dtype=tile.x.dtype)

    kept = tile.x.new_zeros(num_draws, rows, model.num_latents)
    so_far = torch.full((rows,), -math.inf, dtype=torch.float64, device=device)
    for _, z, log_w in _weighed(model, tile, num_samples, noise):
        of_chunk = log_w.logsumexp(0)
        so_far = torch.logaddexp(so_far, of_chunk)
        up_to = (log_w - of_chunk).exp().cumsum(0).mT.contiguous()
        picked = torch.searchsorted(up_to, uniform(rows, num_draws)).clamp(max=len(z) - 1).mT
        offered = z.gather(0, picked[..., None].expand(-1, -1, z.shape[-1]))
        outweighed = uniform(num_draws, rows) < (of_chunk - so_far).exp()
        kept = torch.where(outweighed[..., None], offered, kept)
    return kept


# ---- weights -----------------------------------------------------------------------------------


def _weighed(
    model: LatentVariableModel, tile: Tile, num_samples: int, noise: Callable[[int], Tensor]
) -> Iterator[tuple[Distribution, Latents, Tensor]]:
    """Draws of q as ``tiles.weighed``; of a row that none can have made, all count alike."""
    for likelihood, z, log_w in weighed(model, tile, num_samples, noise):
        yield likelihood, z, log_w.clamp(min=IMPOSSIBLE)


@final
class _WeightedMean:
    """Σ_k w_k f_k/Σ_k w_k by row, taken in a few draws at a time, float64.

    >>> mean = _WeightedMean(1)
    >>> for value, log_w in ((1.0, 0.0), (4.0, math.log(2))):
    ...     mean.add(torch.full((1, 1), log_w).double(), [torch.full((1, 1, 1), value)])
    >>> round(float(mean.values[0]), 6), round(float(mean.ess), 6)
    (3.0, 1.8)
    """

    def __init__(self, rows: int) -> None:
        self._top = torch.full((rows,), -math.inf, dtype=torch.float64)
        self._weight = self._squares = torch.zeros(rows, dtype=torch.float64)
        self._sums: list[Tensor] = []

    def add(self, log_w: Tensor, values: Sequence[Tensor]) -> None:
        """Take in draws: log-weights (draw, row), and values (draw, row, cell, number) each."""
        # All (row, ..., draw): sums along what lies in one piece round alike in every row.
        columns = log_w.mT.contiguous()
        top = torch.maximum(self._top.to(columns), columns.amax(1))
        shrunk, w = (self._top.to(top) - top).exp(), (columns - top[:, None]).exp()
        sums = [
            (w[:, None, None, :] * each.double().movedim(0, -1).contiguous()).sum(-1)
            for each in values
        ]
        before = self._sums or [torch.zeros_like(each) for each in sums]
        self._sums = [
            shrunk[:, None, None] * old + new for old, new in zip(before, sums, strict=True)
        ]
        self._weight = shrunk * self._weight.to(w) + w.sum(1)
        self._squares = shrunk.square() * self._squares.to(w) + w.square().sum(1)
        self._top = top

    @property
    def values(self) -> list[Tensor]:
        """The means, (row, cell, number) each."""
        return [each / self._weight[:, None, None] for each in self._sums]

    @property
    def ess(self) -> Tensor:
        """(Σw)²/Σw², (row,)."""
        return self._weight.square() / self._squares


def _require_some(what: str, number: int) -> None:
    if number < 1:
        raise ValueError(f"expected at least 1 {what}, got {number}; give more")
