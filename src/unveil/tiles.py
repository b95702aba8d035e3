"""Fixed-size tiles of rows, so that a result belongs to its row.

Evaluation always runs the same shapes (the last tile is padded) and the same arithmetic on every
row of them. A row's numbers are then bitwise the same under any order, subset or number of rows
beside it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils._python_dispatch import TorchDispatchMode

from unveil.data.encode import digests
from unveil.latent import LatentVariableModel
from unveil.noise import RowStreams
from unveil.shapes import Given, Latents, PerDraw, Rows

ROWS_PER_TILE = 256
# Floats in one chunk of decoder outputs: large enough to keep the cores busy, small enough (16 MB)
# to be reused rather than allocated afresh.
FLOATS_PER_CHUNK = 2**22
# Floats that a core's own cache holds: what a decoder makes of draws is read again by the next
# layer.
FLOATS_IN_CACHE = 2**20


# A CPU's matrix product rounds every row alike only where the inner dimension fills whole lines of
# its cache; elsewhere the rounding depends on where the row stands.
BYTES_PER_LINE = 64
# Of more numbers than SHARED, an elementwise operation gives each thread PER_THREAD or more. The
# last few of a thread's share, fewer than LANES, are computed by other code than the rest.
SHARED, PER_THREAD, LANES = 2**14, 2**15, 64

aten = torch.ops.aten
PRODUCTS = {
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
}
COPIES = {aten.clone.default, aten._to_copy.default}  # rounding nothing


@final
class RowsAlike(TorchDispatchMode):
    """Within this context an operation treats every row alike, wherever it stands.

    What it works on is filled with zeros, which changes no value and makes the kernel take one
    path for all rows: inner dimensions of products to whole cache lines, and what threads share
    among them to whole vectors each. The mode holds for the current thread alone.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in PRODUCTS:
            args = _filled_product(*args)
        elif func is aten.convolution.default:
            args = _filled_convolution(*args)
        elif _is_of_one_tensor(func, args):
            return _in_whole_vectors(lambda flat: func(flat, *args[1:], **(kwargs or {})), args[0])
        return func(*args, **(kwargs or {}))


def _lacking(size: int, value: Tensor) -> int:
    """How many more would fill whole cache lines."""
    return -size % (BYTES_PER_LINE // value.element_size())


def _filled_product(*args: Any) -> tuple[Any, ...]:
    """The second factor is laid out by columns, as a layer's weights are on the way forwards: by
    rows, as they are on the way back, the rounding would depend on where a row stands."""
    *before, a, b = args
    columns, lacking = b.mT.contiguous(), _lacking(a.shape[-1], a)
    if lacking:
        a, columns = F.pad(a, (0, lacking)), F.pad(columns, (0, lacking))
    return (*before, a, columns.mT)


def _filled_convolution(x: Tensor, weight: Tensor, *settings: Any) -> tuple[Any, ...]:
    """Float32 rows are alike already. Float64 ones go through a product of torch's own, whose
    inner dimension is a multiple of the channels."""
    groups = settings[-1]
    if x.dtype != torch.float64 or groups > 1 or x.dim() != 4:
        return x, weight, *settings
    fill = (0, 0, 0, 0, 0, _lacking(x.shape[1], x))
    last = torch.channels_last
    x, weight = (F.pad(t, fill).contiguous(memory_format=last) for t in (x, weight))
    return x, weight, *settings


def _is_of_one_tensor(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operation makes each number of one tensor into another by itself."""
    return (
        _is_elementwise(func)
        and isinstance(args[0], Tensor)
        and args[0].is_floating_point()
        and not any(isinstance(arg, Tensor) for arg in args[1:])
    )


@cache
def _is_elementwise(func: Any) -> bool:
    return torch.Tag.pointwise in func.tags and func not in COPIES and not func._schema.is_mutable


def _in_whole_vectors(function: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """function(value) with the numbers in one row, as they lie in memory, filled so that however
    many threads share them each gets whole vectors."""
    count, threads = value.numel(), torch.get_num_threads()
    if count <= SHARED or threads == 1:
        return function(value)
    sharing = min(threads, -(-count // PER_THREAD))
    lacking = -count % (LANES * math.lcm(threads, sharing))  # some share among all threads
    order = sorted(range(value.dim()), key=value.stride, reverse=True)
    dense = value.permute(order)
    if not lacking and dense.is_contiguous():
        return function(value)
    filled = function(F.pad(dense.flatten(), (0, lacking)))[:count].view(dense.shape)
    return filled.permute(*(order.index(axis) for axis in range(value.dim())))


@final
@dataclass(frozen=True, kw_only=True)
class Tile:
    """``ROWS_PER_TILE`` rows, of which the first ``count`` are real."""

    x: Rows
    given: Given
    count: int

    @property
    def observed(self) -> Tensor:
        """Which rows show anything at all, (row,)."""
        return (~torch.isnan(self.x)).flatten(1).any(1)

    def noise(self, seed: int, purpose: str, num_latents: int) -> Callable[[int], Tensor]:
        """The rows' own noise, keyed by (seed, purpose, row): successive draws at each call.

        The function takes a number of draws and returns (sample, row, latent).
        """
        streams = RowStreams(seed, purpose, row_digests(self.x, self.given))
        return lambda num_samples: streams.normal(num_samples, num_latents).to(self.x)


def row_digests(x: Rows, given: Given = None) -> np.ndarray:
    """What tells rows in model units apart, their covariates included, uint64 (row, 2)."""
    return digests(x.cpu().numpy(), None if given is None else given.cpu().numpy())


def tiles(x: Rows, given: Given = None) -> Iterator[Tile]:
    """Cut rows into tiles, the last one padded with copies of its last row.

    >>> [(tile.count, len(tile.x)) for tile in tiles(torch.zeros(300, 2))]
    [(256, 256), (44, 256)]
    """
    for start in range(0, len(x), ROWS_PER_TILE):
        stop = min(start + ROWS_PER_TILE, len(x))
        index = torch.arange(start, start + ROWS_PER_TILE, device=x.device).clamp(max=stop - 1)
        yield Tile(x=x[index], given=None if given is None else given[index], count=stop - start)


def chunks(num_samples: int, floats_per_draw: int) -> Iterator[int]:
    """Split draws into chunks of bounded memory: how many to take at a time.

    >>> list(chunks(10, FLOATS_PER_CHUNK // 4))
    [4, 4, 2]
    """
    size = max(1, FLOATS_PER_CHUNK // max(1, floats_per_draw))
    for start in range(0, num_samples, size):
        yield min(size, num_samples - start)


def floats_per_draw(model: nn.Module, tile: Tile) -> int:
    """The floats that one draw of z for each row of a tile makes at its widest: the rows' cells, or
    a layer on the way."""
    layers = (p.shape[0] for p in model.parameters() if p.dim() > 1)
    return len(tile.x) * max(tile.x[0].numel(), *layers, 1)


def log_likelihoods(model: LatentVariableModel, tile: Tile, z: Latents) -> PerDraw:
    """log p(x|z) of draws z (sample, row, latent), nats, (sample, row): a few draws at a time, so
    that what the decoder makes of them stays in the cache."""
    size = max(1, FLOATS_IN_CACHE // floats_per_draw(model, tile))
    few = z.split(size)
    return torch.cat([model.likelihood(each, tile.given).log_prob(tile.x) for each in few])


def weighed(
    model: LatentVariableModel, tile: Tile, num_samples: int, noise: Callable[[int], Tensor]
) -> Iterator[tuple[Distribution, Latents, PerDraw]]:
    """p(x|z), z and log w = log p(x, z) − log q(z|x), float64 nats, of draws z of q by ``noise``, a
    chunk at a time. Raises ArithmeticError for a weight that is NaN or +∞."""
    q, prior = model.posterior(tile.x, tile.given), model.prior(tile.given)
    for size in chunks(num_samples, floats_per_draw(model, tile)):
        z = q.push(noise(size))
        likelihood = model.likelihood(z, tile.given)
        log_w = prior.log_prob(z) + likelihood.log_prob(tile.x) - q.log_prob(z)
        if not bool((log_w < math.inf).all()):
            raise ArithmeticError(
                "expected finite log-weights, got one that is not; the model's densities overflow "
                "on these rows"
            )
        yield likelihood, z, log_w.double()
