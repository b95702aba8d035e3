"""Annealed importance sampling: weights for p(x) that were carried from f₀ to p(x, z) step by step.

    log w = Σ_t (b_t − b_{t−1}) log [p(x, z_{t−1})/f₀(z_{t−1})],   z_0 ~ f₀,   z_t = move of f_{b_t}

Each move leaves f_{b_t} as it is, so that E w = p(x) for any number of temperatures, and log w is a
lower bound on log p(x) in expectation. The same way backwards, from an exact draw of p(z|x), has
E w = 1/p(x). Source: Neal 2001; Grosse, Ghahramani & Adams 2015 (backwards).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor

from unveil.evidence.hmc import Bridge, Point, hmc
from unveil.evidence.starts import Start
from unveil.evidence.weights import Tally, Weights
from unveil.latent import LatentVariableModel
from unveil.shapes import Given, Latents, PerRow, Rows
from unveil.tiles import RowsAlike, Tile, chunks, floats_per_draw, tiles


@final
@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Everything that decides an annealing but its seed, frozen before the rows are seen.

    ``sizes`` (node, latent) are the sizes of moves in units of the start's bridge, at nodes that
    share out the temperatures evenly; between them they are interpolated.

    >>> from unveil.evidence.starts import FromPrior
    >>> schedule = Schedule(start=FromPrior(), sizes=torch.ones(3, 2), num_temperatures=2)
    >>> schedule.temperatures
    [0.0, 0.0625, 1.0]
    """

    start: Start
    sizes: Tensor
    num_temperatures: int = 50
    num_chains: int = 8
    num_leapfrog: int = 5

    def __post_init__(self) -> None:
        for name in ("num_temperatures", "num_chains", "num_leapfrog"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if self.sizes.dim() != 2 or len(self.sizes) < 2:
            raise ValueError(
                "expected sizes of moves (node, latent) at 2 nodes or more, got the shape "
                f"{tuple(self.sizes.shape)}; take those that tune finds"
            )

    @property
    def temperatures(self) -> list[float]:
        """b_0 = 0, …, b_T = 1."""
        total = self.num_temperatures
        return [(t / total) ** self.start.power for t in range(total + 1)]

    def size(self, b: float) -> Tensor:
        """The size of a move at b, (latent,)."""
        place = b ** (1 / self.start.power) * (len(self.sizes) - 1)
        below = min(int(place), len(self.sizes) - 2)
        return torch.lerp(self.sizes[below], self.sizes[below + 1], place - below)

    def doubled(self) -> "Schedule":
        """With twice the temperatures."""
        return replace(self, num_temperatures=2 * self.num_temperatures)

    def settings(self, seed: int) -> dict[str, Any]:
        """What a bound by this annealing says of how it was made."""
        return {
            "num_temperatures": self.num_temperatures,
            "num_chains": self.num_chains,
            "num_leapfrog": self.num_leapfrog,
            "seed": seed,
        }


@final
@dataclass(frozen=True)
class Stage:
    """The chains (chain, row) at temperature b: where they stand, the log-weights that they
    carry for f_b, float64, and how many moves each of them has made."""

    b: float
    point: Point
    log_weights: Tensor
    moves: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class Annealed:
    """What an annealing says of each row: its weights, and the share of moves accepted, (row,)."""

    weights: Weights
    acceptance: PerRow

    @classmethod
    def joined(cls, parts: Sequence["Annealed"]) -> "Annealed":
        """The rows of all parts, in their order."""
        return cls(
            weights=Weights.joined([part.weights for part in parts]),
            acceptance=torch.cat([part.acceptance for part in parts]),
        )


def stages(
    bridge: Bridge,
    z: Latents,
    schedule: Schedule,
    temperatures: Sequence[float],
    noise: Callable[[int], Tensor],
) -> Iterator[Stage]:
    """The chains after each temperature but the first, where they stand at z (chain, row, latent).

    ``temperatures`` rise or fall. ``noise(n)`` delivers n draws of (row, latent + 2).
    """
    point = bridge.at(z)
    log_weights, moves = torch.zeros(2, *z.shape[:2], dtype=torch.float64, device=z.device)
    for before, b in pairwise(temperatures):
        log_weights = log_weights + (b - before) * point.log_ratio.double()
        point, moved = hmc(
            bridge,
            point,
            b=b,
            size=schedule.size(b).to(z),
            num_leapfrog=schedule.num_leapfrog,
            noise=noise(len(z)),
        )
        moves = moves + moved
        yield Stage(b, point, log_weights, moves)


def last(chains: Iterator[Stage]) -> Stage:
    """The stage at which chains arrive; those before it are forgotten on the way."""
    (end,) = deque(chains, maxlen=1)
    return end


def anneal(
    model: LatentVariableModel,
    x: Rows,
    schedule: Schedule,
    given: Given = None,
    *,
    seed: int = 0,
    purpose: str = "anneal",
    delta: float = 0.05,
    on_tile: Callable[[float], None] = lambda fraction: None,
) -> Annealed:
    """Weights w of each row with E w = p(x), by annealing from the schedule's start to p(x, z).

    Runs of another ``purpose`` are independent. Memory is bounded whatever the number of chains and
    rows. Raises as ``importance`` does, and TypeError for a model whose densities have no gradient
    in z.

    >>> import unveil
    >>> from torch import nn
    >>> from unveil.evidence.starts import FromPosterior
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 3), unveil.Bernoulli(3)),
    ...     posterior=unveil.Conditional(nn.Linear(3, 2), unveil.DiagonalGaussian(1)),
    ... )
    >>> schedule = Schedule(start=FromPosterior(), sizes=torch.ones(2, 1), num_temperatures=5)
    >>> anneal(vae, torch.ones(4, 3), schedule).weights.log_mean.shape
    torch.Size([4])
    """

    def weighed(tile: Tile) -> Annealed:
        chains = _forwards(model, tile, schedule, seed, purpose)
        return _weighed(model, tile, schedule, chains, delta)

    return _each_tile(x, given, on_tile, weighed)


def anneal_back(
    model: LatentVariableModel,
    x: Rows,
    z: Latents,
    schedule: Schedule,
    given: Given = None,
    *,
    seed: int = 0,
    delta: float = 0.05,
    on_tile: Callable[[float], None] = lambda fraction: None,
) -> Annealed:
    """Weights r of each row with E r = 1/p(x), by annealing from p(x, z) back to the start.

    ``z`` (row, latent) are exact draws of the posterior p(z|x): those that the rows themselves were
    drawn with. −log of the weights' mean is then an upper bound on log p(x) in expectation, tighter
    with every chain. Raises as ``anneal`` does.
    Source: Grosse, Ghahramani & Adams 2015, section 4.
    """
    # Where a row's chains start is cut as the rows are, and padded like them.
    places = tiles(z)

    def weighed(tile: Tile) -> Annealed:
        place = next(places).x

        def ends(first: int, number: int) -> Tensor:
            return place.expand(number, *place.shape)

        return _weighed(model, tile, schedule, _backwards(model, tile, schedule, seed, ends), delta)

    return _each_tile(x, given, on_tile, weighed)


def anneal_there_and_back(
    model: LatentVariableModel,
    x: Rows,
    schedule: Schedule,
    given: Given = None,
    *,
    seed: int = 0,
    delta: float = 0.05,
    on_tile: Callable[[float], None] = lambda fraction: None,
) -> Annealed:
    """Weights r of each row whose mean is near 1/p(x): backwards from where annealing ended.

    Where it ended is a draw p̃ of p(z|x) only nearly: E log r falls short of log 1/p(x) by as much
    as KL(p̃‖p(z|x)) at most, so nothing is bounded. Raises as ``anneal`` does.
    """

    def weighed(tile: Tile) -> Annealed:
        there = _forwards(model, tile, schedule, seed, "anneal there")

        def ends(first: int, number: int) -> Tensor:
            return last(there(first, number)).point.z

        return _weighed(model, tile, schedule, _backwards(model, tile, schedule, seed, ends), delta)

    return _each_tile(x, given, on_tile, weighed)


def _each_tile(
    x: Rows, given: Given, on_tile: Callable[[float], None], weighed: Callable[[Tile], Annealed]
) -> Annealed:
    parts, done = [], 0
    with torch.no_grad(), RowsAlike():
        for tile in tiles(x, given):
            parts.append(weighed(tile))
            done += tile.count
            on_tile(done / len(x))
    return Annealed.joined(parts)


# So many chains at a time, those from the first on, through all temperatures.
Chains = Callable[[int, int], Iterator[Stage]]


def _forwards(
    model: LatentVariableModel, tile: Tile, schedule: Schedule, seed: int, purpose: str
) -> Chains:
    start, bridge = schedule.start, schedule.start.bridge(model, tile)
    # Annealings from both starts are compared, and must not share a number.
    key = f"{purpose}, {start.method}"

    def chains(first: int, number: int) -> Iterator[Stage]:
        z = start.draw(model, tile, number, seed, f"{key}, start {first}")
        noise = tile.noise(seed, f"{key}, moves {first}", model.num_latents + 2)
        return stages(bridge, z, schedule, schedule.temperatures, noise)

    return chains


def _backwards(
    model: LatentVariableModel,
    tile: Tile,
    schedule: Schedule,
    seed: int,
    ends: Callable[[int, int], Tensor],
) -> Chains:
    """``ends`` delivers where so many chains, those from the first on, stand at b = 1."""
    bridge = schedule.start.bridge(model, tile)

    def chains(first: int, number: int) -> Iterator[Stage]:
        noise = tile.noise(seed, f"anneal back, moves {first}", model.num_latents + 2)
        z = ends(first, number)
        return stages(bridge, z, schedule, schedule.temperatures[::-1], noise)

    return chains


def _weighed(
    model: LatentVariableModel, tile: Tile, schedule: Schedule, chains: Chains, delta: float
) -> Annealed:
    """The weights of a tile's real rows, over chunks of chains."""
    rows, first = len(tile.x), 0
    tally, moves = Tally(schedule.num_chains, rows, delta), torch.zeros(rows, dtype=torch.float64)
    for number in chunks(schedule.num_chains, floats_per_draw=floats_per_draw(model, tile)):
        end = last(chains(first, number))
        tally.add(end.log_weights.cpu())
        moves += end.moves.sum(0).cpu()
        first += number
    acceptance = moves / (schedule.num_chains * schedule.num_temperatures)
    weights = tally.result(tile.observed)
    return Annealed(weights=weights[: tile.count], acceptance=acceptance[: tile.count])
