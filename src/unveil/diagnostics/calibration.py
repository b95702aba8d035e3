"""Whether draws of q(z|x) may be taken for draws of p(z|x): simulation-based calibration.

z* ~ p(z) and x ~ p(x|z*), drawn together, make z* an exact draw of p(z|x). If q(z|x) is right, z*
stands anywhere among draws of it, by whatever number T(x, z) they are put in order.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unveil.diagnostics.uniformity import Uniformity, Words, uniformities
from unveil.evidence.simulated import simulate
from unveil.imputation.intervals import TOLD_LEVEL
from unveil.latent import LatentVariableModel
from unveil.noise import generator
from unveil.shapes import Given, Latents, PerUnit, Rows
from unveil.tiles import RowsAlike, Tile, chunks, floats_per_draw, tiles

COVERAGE_LEVELS = (0.5, 0.8, 0.9, 0.95)
# Draws of q(z|x) of which the most probable is the point that distances are measured from.
REFERENCES = 16

# (x, given, number of draws, randomness) → z (sample, row, latent).
Sampler: TypeAlias = Callable[[Rows, Given, int, Generator], Latents]
PerQuantity: TypeAlias = Float[Tensor, "*sample row quantity"]


@final
@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Where exact posterior draws stood among draws that were to be like them, for each quantity.

    ``latents`` are the latents one by one; ``distance`` is that to a point which depends on x.
    All speak of rows simulated from the model, not of real ones: an encoder that learned from real
    rows may do better or worse on them.

    An order by z alone cannot see a q that ignores x and is the prior; the quantities that depend
    on x can (Modrák et al. 2023).
    """

    num_draws: int
    latents: tuple[Uniformity, ...]
    log_likelihood: Uniformity
    log_joint: Uniformity
    log_posterior: Uniformity
    distance: Uniformity

    @property
    def num_simulations(self) -> int:
        return len(self.log_posterior.u)

    @property
    def tests(self) -> Mapping[str, Uniformity]:
        """Every quantity's test by the quantity's name."""
        return {
            **{_latent(unit): test for unit, test in enumerate(self.latents)},
            LOG_LIKELIHOOD: self.log_likelihood,
            LOG_JOINT: self.log_joint,
            LOG_POSTERIOR: self.log_posterior,
            DISTANCE: self.distance,
        }

    @property
    def rejected(self) -> tuple[str, ...]:
        """The quantities by which the draws are surely wrong: at 0.01, by Holm over all of them."""
        return tuple(name for name, test in self.tests.items() if test.rejected)

    @property
    def coverage(self) -> Mapping[float, float]:
        """By nominal level, the share of truths inside q's region of highest density."""
        return {level: self._regions_hold(level) for level in COVERAGE_LEVELS}

    def _regions_hold(self, level: float) -> float:
        return float((self.log_posterior.u > 1 - level).double().mean())

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was found, in words."""
        hold = self._regions_hold(TOLD_LEVEL)
        regions = f"its {TOLD_LEVEL:.0%} regions hold the truth in {hold:.0%} of rows"
        found = [_told_of_latent(u, test) for u, test in enumerate(self.latents) if test.rejected]
        found += [
            test.leaning(*words)
            for test, words in (
                (self.log_posterior, _told_of_regions(regions)),
                (self.log_likelihood, FIT),
                (self.log_joint, JOINT),
                (self.distance, FAR),
            )
            if test.rejected
        ]
        return (*(found or [f"no fault of q(z|x) was seen: {regions}"]), self._about)

    @property
    def _about(self) -> str:
        return (
            f"this is about {self.num_simulations} rows simulated from the model; on real rows "
            "q(z|x) may be better or worse"
        )

    def document(self) -> dict[str, Any]:
        """The calibration as plain JSON."""
        return {
            "rows": "simulated from the model",
            "num_simulations": self.num_simulations,
            "num_draws": self.num_draws,
            "coverage": {f"{level:g}": share for level, share in self.coverage.items()},
            "tests": {name: test.document() for name, test in self.tests.items()},
            "rejected": list(self.rejected),
            "sentences": list(self.sentences),
        }


def calibrate(
    model: LatentVariableModel,
    like: Rows,
    given: Given = None,
    *,
    sampler: Sampler | None = None,
    num_simulations: int = 1000,
    num_draws: int = 99,
    seed: int = 0,
) -> Calibration:
    """Test draws of q(z|x), or of ``sampler``, on rows simulated from the model.

        z* ~ p(z|c),  x ~ p(x|z*, c),  z_1 … z_L ~ q(z|x, c)
        u = [#{T(x, z_l) < T(x, z*)} + V (1 + #{T(x, z_l) = T(x, z*)})]/(L + 1),   V ~ U(0, 1)

    is uniform for every T if q(z|x) = p(z|x). T is each latent, log p(x|z), log p(x, z), log q(z|x)
    (how the regions of highest density cover) and the distance from the most probable of other
    draws of q(z|x), in their sds. The c and missing cells are those of rows of ``like`` (row,
    *event), drawn with replacement; of a row with nothing observed nothing is asked. Every
    simulated row has noise of its own. A ``sampler`` delivers independent draws; the chain of an
    MCMC is to be thinned until they are.

    Power with 2 latents, 1000 rows, 99 draws, at 0.01 by Holm over all quantities: a collapsed q
    (the prior), one 15 % or 10 % too narrow, one twice too wide and one whose mean is shrunk by 10
    % were rejected in 100 of 100 repetitions, one 5 % too narrow in 40, the exact one in 1
    (bench/power.py). Raises ValueError for less than one row or draw and where no row shows
    anything, ArithmeticError where a density is NaN. Source: Talts et al. 2018; Modrák et al. 2023;
    Lemos et al. 2023 (distances).

    >>> import unveil
    >>> from torch import nn
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 3), unveil.Bernoulli(3)),
    ...     posterior=unveil.Conditional(nn.Linear(3, 2), unveil.DiagonalGaussian(1)),
    ... )
    >>> found = calibrate(vae, torch.zeros(1, 3), num_simulations=50, num_draws=19)
    >>> list(found.tests)
    ['latent 0', 'log p(x|z)', 'log p(x, z)', 'log q(z|x)', 'distance to a point']
    """
    for name, number in (("simulated row", num_simulations), ("draw", num_draws)):
        if number < 1:
            raise ValueError(f"expected at least 1 {name}, got {number}")
    sampler = encoder_draws(model) if sampler is None else sampler
    randomness = generator(seed, "calibrate", device=like.device)
    which = _some_shown(like, num_simulations, randomness)
    given = None if given is None else given[which]
    x, truth = simulate(model, like[which], given, seed=seed, purpose="calibrate")
    parts = []
    with torch.no_grad(), RowsAlike():
        for tile, known in zip(tiles(x, given), tiles(truth), strict=True):
            found = _standing(model, sampler, tile, known.x, num_draws, randomness)
            parts.append(found[: tile.count].cpu())
    names = (*map(_latent, range(model.num_latents)), *QUANTITIES)
    tests = uniformities(dict(zip(names, torch.cat(parts).unbind(1), strict=True)))
    *latents, log_likelihood, log_joint, log_posterior, distance = tests.values()
    return Calibration(
        num_draws=num_draws,
        latents=tuple(latents),
        log_likelihood=log_likelihood,
        log_joint=log_joint,
        log_posterior=log_posterior,
        distance=distance,
    )


def encoder_draws(model: LatentVariableModel) -> Sampler:
    """Draws of the model's own q(z|x), with noise of its own for every row, equal ones included.

    >>> import unveil
    >>> from torch import nn
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 3), unveil.Bernoulli(3)),
    ...     posterior=unveil.Conditional(nn.Linear(3, 2), unveil.DiagonalGaussian(1)),
    ... )
    >>> encoder_draws(vae)(torch.zeros(4, 3), None, 7, generator(0)).shape
    torch.Size([7, 4, 1])
    """

    def sampler(x: Rows, given: Given, num_draws: int, randomness: Generator) -> Latents:
        shape = (num_draws, len(x), model.num_latents)
        epsilon = torch.randn(shape, generator=randomness, device=x.device, dtype=x.dtype)
        return model.posterior(x, given).push(epsilon)

    return sampler


LOG_LIKELIHOOD, LOG_JOINT, LOG_POSTERIOR = "log p(x|z)", "log p(x, z)", "log q(z|x)"
DISTANCE = "distance to a point"
QUANTITIES = (LOG_LIKELIHOOD, LOG_JOINT, LOG_POSTERIOR, DISTANCE)


def _latent(unit: int) -> str:
    return f"latent {unit}"


def _some_shown(like: Rows, number: int, randomness: Generator) -> Tensor:
    """So many of the rows that show anything, drawn with replacement: where they stand."""
    (shown,) = (~torch.isnan(like)).flatten(1).any(1).nonzero(as_tuple=True)
    if not len(shown):
        raise ValueError(
            "expected a row with something observed, got none; without gaps to copy, give one of "
            "zeros"
        )
    size = (number,)
    return shown[torch.randint(len(shown), size, generator=randomness, device=like.device)]


def _standing(
    model: LatentVariableModel,
    sampler: Sampler,
    tile: Tile,
    truth: PerUnit,
    num_draws: int,
    randomness: Generator,
) -> Float[Tensor, "row quantity"]:
    """The share u of draws below the truth, for each row and quantity, float64."""
    measure = _quantities(model, tile, randomness)
    known = measure(truth)
    below, equal = torch.zeros_like(known, dtype=torch.float64), torch.ones_like(known).double()
    draws = sampler(tile.x, tile.given, num_draws, randomness)
    for z in draws.split(list(chunks(num_draws, floats_per_draw(model, tile)))):
        drawn = measure(z)
        below += (drawn < known).sum(0)
        equal += (drawn == known).sum(0)
    v = torch.rand(below.shape, generator=randomness, device=below.device, dtype=torch.float64)
    return (below + v * equal) / (num_draws + 1)


def _quantities(
    model: LatentVariableModel, tile: Tile, randomness: Generator
) -> Callable[[Latents], PerQuantity]:
    """T(x, z) of the tile's rows: the latents themselves, then ``QUANTITIES``."""
    x, given = tile.x, tile.given
    prior, q = model.prior(given), model.posterior(x, given)
    others = encoder_draws(model)(x, given, REFERENCES, randomness)
    best = model.log_joint(x, others, given).argmax(0)
    # Told by p(x, z), the point depends on x even where q(z|x) does not; and as it has noise of its
    # own for each row, no draw of z was seen when it was chosen.
    point = others.gather(0, best[None, :, None].expand(1, *others.shape[1:]))[0]
    unit = others.std(0)

    def measure(z: Latents) -> PerQuantity:
        log_likelihood = model.likelihood(z, given).log_prob(x)
        log_joint = prior.log_prob(z) + log_likelihood
        distance = ((z - point) / unit).square().sum(-1)
        named = torch.stack([log_likelihood, log_joint, q.log_prob(z), distance], dim=-1)
        values = torch.cat([z, named], dim=-1)
        if bool(values.isnan().any()):
            raise ArithmeticError(
                "expected log-densities of simulated rows, got NaN; the model's densities overflow "
                "on rows of its own"
            )
        return values

    return measure


# ---- what is said of a fault --------------------------------------------------------------------


def _told_of_latent(unit: int, test: Uniformity) -> str:
    where = f"in latent {unit}"
    holds = (
        f"its {TOLD_LEVEL:.0%} intervals hold the truth in "
        f"{test.intervals_hold(TOLD_LEVEL):.0%} of rows, and "
        f"draws spread {test.width:.2f} times as far as they should"
    )
    off = f"truths lie {abs(test.shift):.2f} of their sds"
    return test.in_words(
        Words(
            too_low=f"q(z|x) is too low {where}: {off} above its draws",
            too_high=f"q(z|x) is too high {where}: {off} below its draws",
            too_narrow=f"q(z|x) is too narrow {where}: {holds}",
            too_wide=f"q(z|x) is too wide {where}: {holds}",
            otherwise=f"q(z|x) has the wrong shape {where}: {holds}",
        )
    )


def _told_of_regions(regions: str) -> tuple[str, str, str]:
    """A truth of low log q among draws lies outside most regions: q claims too much."""
    return (
        f"q(z|x) claims too little, and spreads too wide: {regions}",
        f"q(z|x) claims too much, too narrow or in the wrong place: {regions}",
        f"q(z|x) has the wrong shape: {regions}",
    )


# Where draws lie too low, too high, or otherwise wrong.
FIT = (
    "draws of q(z|x) explain their rows worse than the truth does",
    "draws of q(z|x) explain their rows better than the truth does",
    "draws of q(z|x) do not explain their rows as the truth does",
)
JOINT = (
    "draws of q(z|x) are less probable, together with their rows, than the truth",
    "draws of q(z|x) crowd where p(x, z) is highest, and the truth does not",
    "draws of q(z|x) are not as probable, together with their rows, as the truth",
)
FAR = (
    "draws of q(z|x) stay nearer to each other than to the truth",
    "draws of q(z|x) scatter farther from what explains the row than the truth does",
    "draws of q(z|x) do not lie about what explains the row as the truth does",
)
