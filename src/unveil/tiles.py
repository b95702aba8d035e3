"""Fixed-size tiles of rows, so that a result belongs to its row.

Evaluation always runs the same shapes (the last tile is padded) and the same arithmetic on every
row of them. A row's numbers are then bitwise the same under any order, subset or number of rows
beside it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from unveil.data.encode import digests
from unveil.noise import RowStreams
from unveil.shapes import Given, Rows

ROWS_PER_TILE = 256
# Floats in one chunk of decoder outputs: large enough to keep the cores busy, small enough (16 MB)
# to be reused rather than allocated afresh.
FLOATS_PER_CHUNK = 2**22


# A CPU's matrix product rounds every row alike only where the inner dimension fills whole lines of
# its cache; elsewhere the rounding depends on where the row stands.
BYTES_PER_LINE = 64


@final
class RowsAlike(TorchDispatchMode):
    """Within this context a matrix product treats every row alike, wherever it stands.

    Inner dimensions are filled with zeros to whole cache lines, which changes no value and makes
    the kernel take one path for all rows. The mode holds for the current thread alone.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (torch.ops.aten.addmm.default, torch.ops.aten.mm.default):
            *before, a, b = args
            lacking = -a.shape[1] % (BYTES_PER_LINE // a.element_size())
            if lacking:  # b keeps its layout: another one would choose another kernel
                args = (*before, F.pad(a, (0, lacking)), F.pad(b.t(), (0, lacking)).t())
        return func(*args, **(kwargs or {}))


@final
@dataclass(frozen=True, kw_only=True)
class Tile:
    """``ROWS_PER_TILE`` rows, of which the first ``count`` are real."""

    x: Rows
    given: Given
    count: int

    def noise(self, seed: int, purpose: str, num_latents: int) -> Callable[[int], Tensor]:
        """The rows' own noise, keyed by (seed, purpose, row): successive draws at each call.

        The function takes a number of draws and returns (sample, row, latent).
        """
        streams = RowStreams(seed, purpose, digests(self.x.cpu().numpy()))
        return lambda num_samples: streams.normal(num_samples, num_latents).to(self.x)


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
