"""Randomness, which enters as a seed and a key and never as global state.

Training noise is a function of (seed, epoch, step). Evaluation noise is a function of
(seed, purpose, the row itself, draw), so that a row's result belongs to the row, wherever it
stands and whatever stands beside it.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor


def _key(*parts: object) -> bytes:
    """Sixteen bytes that depend on every part."""
    return blake2b(repr(parts).encode(), digest_size=16).digest()


def generator(seed: int, *key: object, device: torch.device | str = "cpu") -> Generator:
    """A torch generator keyed by ``(seed, *key)``; equal keys give equal draws.

    >>> a, b = generator(0, "order", 3), generator(0, "order", 3)
    >>> bool(torch.rand(2, generator=a).equal(torch.rand(2, generator=b)))
    True
    """
    word = int.from_bytes(_key(seed, *key)[:8], "little") >> 1
    return Generator(device=device).manual_seed(word)


def standard_gamma(shape: Tensor, generator: Generator) -> Tensor:
    """Draws of Gamma(a, rate 1), one for each shape a, of any shape.

    >>> round(float(standard_gamma(torch.full((10_000,), 3.0), generator(0)).mean()))
    3
    """
    # torch.distributions.Gamma draws with this same function, and keeps its generator from us.
    return torch._standard_gamma(shape, generator=generator)  # pyright: ignore[reportPrivateImportUsage]


@final
class RowStreams:
    """One independent stream of draws per distinct row.

    ``digests`` (row, 2) are the 128-bit digests of the rows' observed cells (uint64). A stream is
    a counter-based generator keyed by (seed, purpose, digest), read in order: draw k of a row is
    the same however many rows or draws are asked for at a time. Equal rows share their stream.

    >>> digests = np.array([[1, 2], [3, 4]], dtype=np.uint64)
    >>> both = RowStreams(0, "demo", digests).normal(3, 2)      # (sample, row, latent)
    >>> second = RowStreams(0, "demo", digests[1:])
    >>> first_draw, others = second.normal(1, 2), second.normal(2, 2)
    >>> bool(both[:, 1:].equal(torch.cat([first_draw, others])))
    True
    """

    def __init__(self, seed: int, purpose: str, digests: NDArray[np.uint64]) -> None:
        self._streams = [
            np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype=np.uint64)))
            for key in (_key(seed, purpose, *digest) for digest in digests.tolist())
        ]

    def normal(self, num_samples: int, *shape: int) -> Tensor:
        """The next standard normal draws, (sample, row, *shape), float64."""
        return self._read(num_samples, shape, lambda s, out: s.standard_normal(out=out))

    def uniform(self, num_samples: int, *shape: int) -> Tensor:
        """The next draws from U[0, 1), (sample, row, *shape), float64."""
        return self._read(num_samples, shape, lambda s, out: s.random(out=out))

    def _read(
        self, num_samples: int, shape: tuple[int, ...], fill: Callable[..., object]
    ) -> Tensor:
        """(sample, row, *shape): every row's own stream, the rows shared among threads."""
        drawn = np.empty((len(self._streams), num_samples, *shape))  # a stream fills one piece
        threads = torch.get_num_threads()

        def read(first: int) -> None:
            for row in range(first, len(drawn), threads):
                fill(self._streams[row], drawn[row])

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(read, range(threads)))
        return torch.from_numpy(drawn).movedim(0, 1).contiguous()
