"""p(z|x) of some rows as something to work with: draws, moments, evidence, and how far to trust
them."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from unveil.diagnostics.mixing import FEWEST_DRAWS, effective_draws, split_rhat
from unveil.distributions import Pushforward
from unveil.evidence.annealing import Schedule, anneal, last, stages
from unveil.evidence.hmc import hmc
from unveil.evidence.importance import Importance, importance
from unveil.evidence.row_bounds import tangent
from unveil.evidence.starts import FromPosterior, FromPrior
from unveil.evidence.tuning import Sizes, tune_both
from unveil.evidence.weights import Weights, require_delta
from unveil.families import Family
from unveil.latent import LatentVariableModel
from unveil.objectives.base import require_count
from unveil.refining import Refined, refine
from unveil.shapes import Given, Latents, PerRow, PerUnit, Rows
from unveil.tiles import (
    RowsAlike,
    Tile,
    chunks,
    floats_per_draw,
    row_digests,
    tiles,
)
from unveil.units import posterior_moments

# Above this the weights' mean is out of reach of any affordable number of draws (Vehtari et al.
# 2024): q is too narrow somewhere, or misses a part of p(z|x).
LARGEST_KHAT = 0.7
# Chains that differ by more have not mixed, and fewer effective draws leave a mean uncertain by
# more than a tenth of its sd (Vehtari et al. 2021).
LARGEST_RHAT, FEWEST_EFFECTIVE_OF_CHAINS = 1.01, 100.0
# Draws of q by which it is judged where nobody said how many.
JUDGING_DRAWS = 1000
# p(z) is that much farther from p(z|x) than q is, and takes that many more temperatures.
FARTHER = 4
# A pair of estimates of one evidence that differ by more standard errors do not agree.
SURELY_APART = 5.0
# What a float32 density may be off, nats, where weights do not differ at all.
ROUNDING = 1e-4
# Of chains that have arrived most count alike.
LEAST_SHARE = 0.1


@final
@dataclass(frozen=True, kw_only=True)
class RowEvidence:
    """log p(x) of each row by several roads, nats, (row,), float64; every bound is one row's own.

        elbo, iwae, annealed   lower bounds in expectation: of one draw of q, of ``num_samples`` of
                               them, and of chains annealed from q to p(z|x)
        certified              above log p(x) with probability ``delta`` at most, for each row by
                               itself: of many rows, a share delta may fail
        upper                  an upper bound in expectation, by the tangent of the logarithm on
                               chains annealed from p(z); NaN where the chains themselves say that
                               it does not stand
        khat, ess              Pareto k̂ of the weights of q's draws, and how many of them count

    A row with nothing observed has log p(x) = 0, and so have all its bounds.
    """

    num_samples: int
    delta: float
    elbo: PerRow
    iwae: PerRow
    annealed: PerRow
    certified: PerRow
    upper: PerRow
    khat: PerRow
    ess: PerRow

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to hold against these numbers, a sentence each."""
        withdrawn = int(self.upper.isnan().sum())
        sentence = (
            f"{_of_rows(withdrawn, self.upper)} no upper bound stands, because chains from p(z) "
            "have not arrived or disagree with those from q; take more temperatures"
        )
        return (*khat_warnings(self.khat), *((sentence,) if withdrawn else ()))


@final
@dataclass(frozen=True, kw_only=True)
class HmcDraws:
    """Draws near p(z|x), and what tells how near.

    ``z`` (sample, row, latent); split ``rhat`` and effective draws ``ess`` (row, latent) of the
    chains that they came from; ``acceptance`` (row,) is the share of moves accepted.
    """

    z: Float[Tensor, "sample row latent"]
    rhat: PerUnit
    ess: PerUnit
    acceptance: PerRow

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to hold against these draws, a sentence each."""
        # (Not a number is a warning as well.)
        apart = int((~(self.rhat <= LARGEST_RHAT)).any(-1).sum())
        few = int((~(self.ess >= FEWEST_EFFECTIVE_OF_CHAINS)).any(-1).sum())
        sentences = (
            f"{_of_rows(apart, self.acceptance)} R̂ is above {LARGEST_RHAT} (up to "
            f"{float(self.rhat.max()):.2f}): the chains have not mixed, and p(z|x) may have parts "
            "between which they do not pass; take more draws or a longer warm-up, and where it "
            "stays, do not rely on these draws",
            f"{_of_rows(few, self.acceptance)} the draws are worth fewer than "
            f"{FEWEST_EFFECTIVE_OF_CHAINS:g} independent ones (down to "
            f"{float(self.ess.min()):.0f}); take more draws or thin them more",
        )
        return tuple(s for s, rows in zip(sentences, (apart, few), strict=True) if rows)


@final
@dataclass(frozen=True, repr=False)
class Inference:
    """p(z|x) of rows x (row, *event), by an approximate posterior q(z|x) and by what corrects it.

    ``model.posterior`` is q. ``sizes`` are those of annealing's moves; where none are given they
    are found on first use, on rows simulated from the model (see ``evidence.tuning``).

    >>> import unveil
    >>> from torch import nn
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 3), unveil.Bernoulli(3)),
    ...     posterior=unveil.Conditional(nn.Linear(3, 2), unveil.DiagonalGaussian(1)),
    ... )
    >>> inference = Inference(vae, torch.eye(3)).refine(steps=50)
    >>> inference.draw(100).shape, inference.means.shape, inference.khat.shape
    (torch.Size([100, 3, 1]), torch.Size([3, 1]), torch.Size([3]))
    """

    model: LatentVariableModel
    x: Rows
    given: Given = None
    sizes: Sizes | None = None

    # ---- q ---------------------------------------------------------------------------------

    @property
    def q(self) -> Pushforward:
        """q(z|x) of all rows at once, batch shape (row,); a refined one is climbed to anew."""
        with torch.no_grad(), RowsAlike():
            return self.model.posterior(self.x, self.given)

    @property
    def means(self) -> PerUnit:
        """E_q[z], (row, latent)."""
        return self._moments[0]

    @property
    def sds(self) -> PerUnit:
        """The standard deviations of q, (row, latent)."""
        return self._moments[1]

    @property
    def khat(self) -> PerRow:
        """Pareto k̂ of the weights of 1000 draws of q, (row,): above 0.7 q misses p(z|x)."""
        return self._judged.weights.khat

    def draw(self, n: int, *, seed: int = 0) -> Latents:
        """n draws of q for each row, (n, row, latent), from the row's own stream.

        Raises ValueError for less than one.
        """
        require_count("n", n, least=1)
        return self._by_tile(lambda tile: self._drawn(tile, n, seed), axis=1)

    def refine(
        self,
        family: Family | None = None,
        *,
        steps: int = 300,
        learning_rate: float = 0.1,
        num_samples: int = 8,
        seed: int = 0,
    ) -> "Inference":
        """The same rows with each its own posterior, climbed from q; see ``unveil.refine``.

        Raises ValueError as that does.
        """
        climb = partial(
            refine,
            self.model,
            family=family,
            steps=steps,
            learning_rate=learning_rate,
            num_samples=num_samples,
            seed=seed,
        )
        refined = replace(self, model=Refining(self.model, climb), sizes=None)
        refined._moments  # noqa: B018 (climbs now, and refuses settings that make no climb)
        return refined

    # ---- p(z|x) ----------------------------------------------------------------------------

    def draw_hmc(
        self,
        n: int,
        *,
        num_chains: int = 4,
        warm_up: int = 100,
        thin: int = 3,
        num_leapfrog: int = 5,
        num_temperatures: int = 50,
        seed: int = 0,
    ) -> HmcDraws:
        """n draws near p(z|x) for each row, by Hamiltonian Monte Carlo with moves of frozen size.

        Half of the chains start where annealing from q(z|x) ends and half where annealing from
        p(z) does, so that R̂ hears of what q does not see. ``warm_up`` moves are dropped and every
        ``thin``-th that follows is kept. The draws of all chains come in turn; all are the row's
        own. Raises ValueError for less than one draw, and unless the number of chains is even;
        TypeError for densities without a gradient in z.
        Source: Neal 2011; Vehtari et al. 2021 (R̂ and effective draws).
        """
        for name, value in (("n", n), ("thin", thin), ("num_leapfrog", num_leapfrog)):
            require_count(name, value, least=1)
        require_count("warm_up", warm_up, least=0)
        if num_chains < 2 or num_chains % 2:
            raise ValueError(
                f"expected an even number of chains, got {num_chains}; half of them start at "
                "q(z|x) and half at p(z)"
            )
        each = max(FEWEST_DRAWS, -(-n // num_chains))
        schedules = self._schedules(num_temperatures, num_chains // 2, num_leapfrog)

        def drawn(tile: Tile) -> Tensor:
            moves = self._moves(tile, schedules, seed)
            return torch.stack(list(islice(moves, warm_up, warm_up + thin * each, thin)))

        # The last number of each is 1 where the move before it was accepted.
        states = self._by_tile(drawn, axis=2)
        chains = states[..., :-1]
        return HmcDraws(
            z=chains.flatten(0, 1)[:n],
            rhat=_row_by_row(split_rhat, chains),
            ess=_row_by_row(effective_draws, chains),
            acceptance=states[..., -1].double().mean((0, 1)),
        )

    def evidence(
        self,
        num_samples: int = 1000,
        *,
        delta: float = 0.05,
        num_temperatures: int = 50,
        num_chains: int = 32,
        seed: int = 0,
    ) -> RowEvidence:
        """log p(x) of each row between bounds that say what they are worth.

            upper = log c + Y/c − 1,   E Y = p(x), c an estimate of p(x) from other chains

        which is above log p(x) in expectation for every c, and near it for a good one. Y is the
        mean weight of chains annealed from p(z) through four times as many temperatures.
        Raises as ``importance`` and ``anneal`` do, and ValueError for δ outside (0, 1).
        Source: Burda et al. 2016; Neal 2001; Waudby-Smith & Ramdas 2024 (``certified``); Struski et
        al. 2022 (``upper``).
        """
        require_delta(delta)
        near, far = self._schedules(num_temperatures, num_chains, num_leapfrog=5)
        # Two methods share the chance of failing, so that the better of them may be shown.
        share, model, x, given = delta / 2, self.model, self.x, self.given
        q = importance(model, x, num_samples=num_samples, seed=seed, given=given, delta=share)
        chains = anneal(model, x, near, given, seed=seed, delta=share).weights
        prior = anneal(model, x, far, given, seed=seed, delta=share).weights
        certified = torch.maximum(q.weights.certified, chains.certified)
        upper = tangent("AIS from p(z), tangent", chains.log_mean, prior, {}).values
        return RowEvidence(
            num_samples=num_samples,
            delta=delta,
            elbo=torch.where(self._observed, q.elbo, 0.0),
            iwae=q.log_evidence,
            annealed=chains.log_mean,
            certified=certified,
            upper=torch.where(stands(prior, chains, upper, certified), upper, math.nan),
            khat=q.weights.khat,
            ess=q.ess,
        )

    def __repr__(self) -> str:
        rows, some = len(self.x), self.khat
        lines = [
            f"p(z|x) of {rows} row{'s' * (rows > 1)}, {self.model.num_latents} latents",
            f"k̂ of q(z|x): {_range(some)}",
            *(khat_warnings(some) or [_fine(some)]),
        ]
        return "\n".join(lines)

    # ---- how -------------------------------------------------------------------------------

    @cached_property
    def _moments(self) -> tuple[PerUnit, PerUnit]:
        return posterior_moments(self.model, self.x, self.given)

    @cached_property
    def _judged(self) -> Importance:
        return importance(self.model, self.x, num_samples=JUDGING_DRAWS, given=self.given)

    @cached_property
    def _tuned(self) -> Sizes:
        return self.sizes or tune_both(self.model, self.x, self.given)

    @property
    def _observed(self) -> Tensor:
        return (~torch.isnan(self.x)).flatten(1).any(1).cpu()

    def _by_tile(self, drawn: Callable[[Tile], Tensor], *, axis: int) -> Tensor:
        """What is drawn for each tile, its real rows side by side along ``axis``."""
        with torch.no_grad(), RowsAlike():
            parts = [drawn(tile).narrow(axis, 0, tile.count) for tile in tiles(self.x, self.given)]
        return torch.cat(parts, dim=axis)

    def _drawn(self, tile: Tile, n: int, seed: int) -> Tensor:
        q = self.model.posterior(tile.x, tile.given)
        noise = tile.noise(seed, "draw", self.model.num_latents)
        per_draw = len(tile.x) * self.model.num_latents
        return torch.cat([q.push(noise(size)) for size in chunks(n, floats_per_draw=per_draw)])

    def _schedules(
        self, num_temperatures: int, num_chains: int, num_leapfrog: int
    ) -> tuple[Schedule, Schedule]:
        """From q and from p(z)."""
        near = Schedule(
            start=FromPosterior(),
            sizes=self._tuned.from_posterior,
            num_temperatures=num_temperatures,
            num_chains=num_chains,
            num_leapfrog=num_leapfrog,
        )
        far = replace(
            near,
            start=FromPrior(),
            sizes=self._tuned.from_prior,
            num_temperatures=FARTHER * num_temperatures,
        )
        return near, far

    def _moves(
        self, tile: Tile, schedules: tuple[Schedule, Schedule], seed: int
    ) -> Iterator[Tensor]:
        """Where all chains stand after each move at b = 1, and whether it moved them, (chain, row,
        latent + 1)."""
        near, num_chains = schedules[0], sum(one.num_chains for one in schedules)
        bridge = near.start.bridge(self.model, tile)
        z = torch.cat([self._annealed(tile, one, seed) for one in schedules])
        # A few chains at a time, so that memory is bounded whatever their number.
        few = list(chunks(num_chains, floats_per_draw(self.model, tile)))
        points = [bridge.at(part) for part in z.split(few)]
        noise = tile.noise(seed, "hmc, moves", self.model.num_latents + 2)
        while True:
            pairs = [
                hmc(
                    bridge,
                    point,
                    b=1.0,
                    size=near.size(1.0).to(point.z),
                    num_leapfrog=near.num_leapfrog,
                    noise=noise(len(point.z)),
                )
                for point in points
            ]
            points = [point for point, _ in pairs]
            states = [torch.cat([p.z, moved[..., None].to(p.z)], dim=-1) for p, moved in pairs]
            yield torch.cat(states).cpu()

    def _annealed(self, tile: Tile, schedule: Schedule, seed: int) -> Tensor:
        """Where chains annealed from a start end, (chain, row, latent)."""
        start, purpose = schedule.start, f"hmc, {schedule.start.method}"
        z = start.draw(self.model, tile, schedule.num_chains, seed, purpose)
        noise = tile.noise(seed, f"{purpose}, moves", self.model.num_latents + 2)
        bridge = start.bridge(self.model, tile)
        few = list(chunks(schedule.num_chains, floats_per_draw(self.model, tile)))
        ends = [
            last(stages(bridge, part, schedule, schedule.temperatures, noise)).point.z
            for part in z.split(few)
        ]
        return torch.cat(ends)


@final
class Refining(LatentVariableModel):
    """A model with another posterior: each row's own, found by a climb when it is asked for.

    ``climb`` (x, given) refines rows, and like ``refine`` is bitwise a function of each row, so
    that this is a model as any other: simulated rows have their posteriors too. What was found for
    rows is remembered, for just these rows in this order.
    """

    def __init__(self, model: LatentVariableModel, climb: Callable[[Rows, Given], Refined]) -> None:
        super().__init__()
        self.num_latents, self.model, self.climb = model.num_latents, model, climb
        self._known: dict[bytes, Pushforward] = {}

    def prior(self, given: Given = None) -> Distribution:
        return self.model.prior(given)

    def likelihood(self, z: Latents, given: Given = None) -> Distribution:
        return self.model.likelihood(z, given)

    def log_joint(self, x: Rows, z: Latents, given: Given = None) -> Tensor:
        return self.model.log_joint(x, z, given)

    def posterior(self, x: Rows, given: Given = None) -> Pushforward:
        rows = row_digests(x, given).tobytes()
        if rows not in self._known:
            self._known[rows] = self.climb(x, given).posterior
        return self._known[rows]


def _row_by_row(measure: Callable[[Tensor], Tensor], chains: Tensor) -> PerUnit:
    """A measure of each row's chains (draw, chain, row, latent), taken by themselves: sums over
    draws of many rows would round by the row's place."""
    return torch.stack([measure(one.contiguous()) for one in chains.unbind(2)])


def stands(fresh: Weights, pilot: Weights, upper: PerRow, certified: PerRow) -> Tensor:
    """Where an upper bound in expectation by the mean of ``fresh`` weights may be shown, (row,).

    Not where one chain in ten or fewer counts, nor where the means of both weights differ by more
    than 5 standard errors, nor where the bound is below the certified one.
    """
    variances = [v for w in (fresh, pilot) if (v := w.log_mean_variance) is not None]
    error = sum(variances, torch.zeros_like(upper)).sqrt()
    counts = fresh.ess > LEAST_SHARE * fresh.num_samples
    apart = (fresh.log_mean - pilot.log_mean).abs() > SURELY_APART * error + ROUNDING
    return counts & ~apart & (upper >= certified - ROUNDING)


def khat_warnings(khat: PerRow) -> tuple[str, ...]:
    """A sentence about the rows whose q misses p(z|x), or none.

    >>> khat_warnings(torch.tensor([0.1, 0.2]))
    ()
    """
    bad = int((khat > LARGEST_KHAT).sum())
    if not bad:
        return ()
    return (
        f"{_of_rows(bad, khat)} k̂ is above {LARGEST_KHAT} (up to {float(_known(khat).max()):.2f}): "
        "q misses a part of p(z|x), and its moments are not to be relied on; refine with "
        "FullGaussian, or draw with draw_hmc",
    )


def _fine(khat: PerRow) -> str:
    if not len(_known(khat)):
        return "no row shows anything: p(z|x) is the prior"
    return (
        f"k̂ is below {LARGEST_KHAT} in every row: where q has mass it is near p(z|x); what it does "
        "not see at all k̂ cannot tell, draw_hmc may"
    )


def _known(values: Tensor) -> Tensor:
    return values[~values.isnan()]


def _range(khat: PerRow) -> str:
    known = _known(khat)
    if not len(known):
        return "none"
    return f"{float(known.median()):.2f}" + (
        f" in the median, {float(known.min()):.2f} to {float(known.max()):.2f}"
        if len(known) > 1
        else ""
    )


def _of_rows(some: int, rows: PerRow) -> str:
    return f"in {some} of {len(rows)} row{'s' * (len(rows) > 1)}"
