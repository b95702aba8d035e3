"""Fixed-size tiles of rows, so that a result belongs to its row.

Evaluation always runs the same shapes: the last tile is padded. A row's numbers are then bitwise
the same under any order, subset or number of rows beside it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from unveil.data.encode import digests
from unveil.noise import RowStreams
from unveil.shapes import Given, Rows

ROWS_PER_TILE = 256
# Floats in one chunk of decoder outputs: large enough to keep the cores busy, small enough (16 MB)
# to be reused rather than allocated afresh.
FLOATS_PER_CHUNK = 2**22


@final
@dataclass(frozen=True, kw_only=True)
class Tile:
    """``ROWS_PER_TILE`` rows, of which the first ``count`` are real."""

    x: Rows
    given: Given
    count: int

    def noise(self, seed: int, purpose: str) -> Callable[[int, int], Tensor]:
        """The rows' own noise, keyed by (seed, purpose, row): successive draws at each call.

        The function takes (num_samples, num_latents) and returns (sample, row, latent).
        """
        streams = RowStreams(seed, purpose, digests(self.x.cpu().numpy()))
        return lambda num_samples, num_latents: streams.normal(num_samples, num_latents).to(self.x)


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
