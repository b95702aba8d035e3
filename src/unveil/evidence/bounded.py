"""Evidence certified from both sides, where a row's likelihood is known to have a bound.

With z ~ α p(z) + (1 − α) q(z|x) the weights w = p(x, z)/(α p(z) + (1 − α) q(z|x)) have the mean
p(x), and none is above B = sup_z p(x|z)/α: no mode that q misses can hide a weight that draws have
not shown. What bounded numbers have for a mean is certified from both sides, by betting.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast, final

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor

from unveil.evidence.quadrature import log_supremum
from unveil.evidence.starts import prior_draws
from unveil.evidence.weights import markov_slack, require_delta, require_finite
from unveil.latent import LatentVariableModel
from unveil.likelihoods.start import solve
from unveil.noise import RowStreams
from unveil.shapes import Given, Latents, PerRow, Rows
from unveil.tiles import RowsAlike, Tile, chunks, floats_per_draw, row_digests, tiles

# Stakes on the share w/B: above 0 on its mean being larger, below 0 on its being smaller.
ON_MORE = tuple(10.0 ** (k / 2) for k in range(-4, 7))
ON_LESS = (-0.03, -0.1, -0.3, -1.0)
# A row with fewer draws' worth of B among its weights is out of reach: below that, its upper bound
# is some multiple of log(1/δ)/n whatever its weights were.
LEAST_WORTH = 10.0
# Beyond this a sum of bets is as good as infinite.
LARGEST_SLOPE = 1e12
# Halving log μ so often leaves nothing of it; Newton's steps are below this after some five.
MOST_STEPS, STEP_OF_NOTE = 60, 1e-10


@final
@dataclass(frozen=True, kw_only=True)
class Bounded:
    """log p(x) between two bounds, nats, float64, that draws alone certify.

    lower, upper      (row,): each row's interval, outside of which its log p(x) lies with
                      probability δ at most; of many rows a share δ may fail
    out_of_reach      (row,): where the upper bound is only what so few draws allow
    mean_lower,       the interval of the mean over rows, which fails with probability δ at
    mean_upper        most; mean_upper is None where no bound on p(x|z) is known of some row
    """

    num_samples: int
    delta: float
    lower: PerRow
    upper: PerRow
    out_of_reach: Bool[Tensor, " row"]
    mean_lower: float
    mean_upper: float | None

    @property
    def reason(self) -> str | None:
        """Why upper bounds are missing or loose, or None."""
        if self.mean_upper is None:
            return "no bound on p(x|z) is known of this likelihood, so that none holds for weights"
        far = int(self.out_of_reach.sum())
        if far == 0:
            return None
        return (
            f"{far} of {len(self.lower)} rows are out of reach of {self.num_samples} draws: "
            "sup p(x|z) is too far above p(x); take more draws, or fewer cells"
        )


def bounded_evidence(
    model: LatentVariableModel,
    x: Rows,
    given: Given = None,
    *,
    num_samples: int = 20_000,
    share: float = 0.2,
    seed: int = 0,
    delta: float = 0.05,
    on_tile: Callable[[float], None] = lambda fraction: None,
) -> Bounded:
    """Certify log p(x) with ``num_samples`` defensive draws for each row x (row, *event).

        w = p(x, z)/[α p(z) + (1 − α) q(z|x)] ≤ B = sup_z p(x|z)/α,   α = ``share``

    Of n draws the upper bound has a slack of log(1/δ) B/n at least, so that log B/p(x) can be no
    more than some 8 nats. δ/2 goes to either side. Memory is bounded. Raises ValueError for less
    than one draw, and a share or δ outside (0, 1), ArithmeticError for a weight that is NaN or +∞.
    Source: Hesterberg 1995 (defensive draws); Waudby-Smith & Ramdas 2024 (betting).

    >>> import unveil
    >>> from torch import nn
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 1), unveil.Bernoulli(1)),
    ...     posterior=unveil.Conditional(nn.Linear(1, 2), unveil.DiagonalGaussian(1)),
    ... )
    >>> of_1 = bounded_evidence(vae, torch.ones(1, 1), num_samples=1000)
    >>> of_0 = bounded_evidence(vae, torch.zeros(1, 1), num_samples=1000)
    >>> float(of_0.lower.exp() + of_1.lower.exp()) < 1 < float(of_0.upper.exp() + of_1.upper.exp())
    True
    """
    if num_samples < 1:
        raise ValueError(f"expected at least 1 draw per row, got {num_samples}")
    if not 0 < share < 1:
        raise ValueError(f"expected a share between 0 and 1, got {share}; take 0.2")
    require_delta(delta)
    parts: list[Bets] = []
    with torch.no_grad(), RowsAlike():
        for tile in tiles(x, given):
            parts.append(_bets(model, tile, num_samples, share, seed)[: tile.count])
            on_tile(min(1.0, len(parts) * len(tile.x) / len(x)))
    bets, shown = Bets.joined(parts), (~torch.isnan(x)).flatten(1).any(1).cpu()
    require_finite(bets.log_mean, "log-evidence")
    digests, log_mean = row_digests(x, given), torch.where(shown, bets.log_mean, 0.0)
    return Bounded(
        num_samples=num_samples,
        delta=delta,
        lower=torch.where(shown, bets.lower(delta / 2), 0.0),
        upper=torch.where(shown, bets.upper(delta / 2), 0.0),
        out_of_reach=shown & (bets.log_worth < math.log(LEAST_WORTH)),
        mean_lower=float(log_mean.mean()) - markov_slack(digests, delta / 2),
        mean_upper=_mean_upper(bets, shown, digests, delta / 2),
    )


def _mean_upper(
    bets: "Bets", shown: Tensor, digests: NDArray[np.uint64], delta: float
) -> float | None:
    """The upper end of the mean over rows, of which equal ones share their draws."""
    _, first, number = np.unique(digests, axis=0, return_index=True, return_counts=True)
    own, times = torch.from_numpy(first), torch.from_numpy(number).double()
    own, times = own[shown[own]], times[shown[own]]
    if len(own) == 0:
        return 0.0
    if not bool((bets.log_bound[own] < math.inf).all()):
        return None
    return bets[own].mean_upper(times, delta) * float(times.sum()) / len(digests)


# ---- the draws ---------------------------------------------------------------------------------


def _bets(
    model: LatentVariableModel, tile: Tile, num_samples: int, share: float, seed: int
) -> "Bets":
    """The bets on a tile's rows, over chunks of draws."""
    bets = Bets.none(log_supremum(model, tile.x) - math.log(share))
    defensive = _Defensive(model, tile, share, seed)
    for size in chunks(num_samples, floats_per_draw(model, tile)):
        z = defensive.draws(size, number=bets.num_samples)
        bets = bets.and_those_of(defensive.log_weights(z))
    return bets


@final
class _Defensive:
    """α p(z) + (1 − α) q(z|x), drawn from each row's own streams."""

    def __init__(self, model: LatentVariableModel, tile: Tile, share: float, seed: int) -> None:
        self._model, self._tile, self._share, self._seed = model, tile, share, seed
        self._prior, self._q = model.prior(tile.given), model.posterior(tile.x, tile.given)
        self._which = RowStreams(seed, "bounded, which", row_digests(tile.x, tile.given))
        self._noise = tile.noise(seed, "bounded", model.num_latents)

    def draws(self, size: int, number: int) -> Latents:
        """The next draws, (sample, row, latent), the first of which has this number."""
        of_prior = (self._which.uniform(size) < self._share).to(self._tile.x.device)
        purpose = f"bounded, prior {number}"
        from_p = prior_draws(self._model, self._tile, size, self._seed, purpose)
        return torch.where(of_prior[..., None], from_p, self._q.push(self._noise(size)))

    def log_weights(self, z: Latents) -> Tensor:
        """log w, (sample, row), float64."""
        log_p, log_q = self._prior.log_prob(z).double(), self._q.log_prob(z).double()
        likelihood = self._model.likelihood(z, self._tile.given)
        share = self._share
        proposal = torch.logaddexp(math.log(share) + log_p, math.log1p(-share) + log_q)
        return likelihood.log_prob(self._tile.x).double() + log_p - proposal


# ---- the bets ----------------------------------------------------------------------------------


@final
@dataclass(frozen=True, kw_only=True)
class Bets:
    """What gamblers have won on weights w of [0, B], n of each row so far.

        log e_γ(μ) = Σ_k log(1 + γ w_k/B) − n log(1 + γ μ),   μ = p(x)/B,   γ ≥ −1

    At the true μ the game is fair, E e_γ = 1, and so it is for the mean e over several stakes γ: by
    Markov's inequality e(μ) reaches 1/δ with probability δ at most. Every μ at which it does is
    refused. The sums over draws do not depend on μ, and memory not on the number of draws.
    ``sums`` (stake, row) are those for ON_MORE and then ON_LESS, ``log_bound`` (row,) log B.

    >>> bets = Bets.none(torch.zeros(1).double()).and_those_of(torch.full((10_000, 1), -1.0))
    >>> [round(float(end), 2) for end in (bets.lower(0.025), bets.upper(0.025))]
    [-1.0, -1.0]
    """

    num_samples: int
    log_bound: PerRow
    log_sum: PerRow
    sums: Tensor

    @classmethod
    def none(cls, log_bound: PerRow) -> "Bets":
        """Before the first draw."""
        return cls(
            num_samples=0,
            log_bound=log_bound.double().cpu(),
            log_sum=torch.full((len(log_bound),), -math.inf, dtype=torch.float64),
            sums=torch.zeros(len(ON_MORE + ON_LESS), len(log_bound), dtype=torch.float64),
        )

    @classmethod
    def joined(cls, parts: "Sequence[Bets]") -> "Bets":
        """The rows of all parts, in their order."""
        return cls(
            num_samples=parts[0].num_samples,
            log_bound=torch.cat([part.log_bound for part in parts]),
            log_sum=torch.cat([part.log_sum for part in parts]),
            sums=torch.cat([part.sums for part in parts], dim=1),
        )

    def __getitem__(self, rows: slice | Tensor) -> "Bets":
        return Bets(
            num_samples=self.num_samples,
            log_bound=self.log_bound[rows],
            log_sum=self.log_sum[rows],
            sums=self.sums[:, rows],
        )

    def and_those_of(self, log_w: Tensor) -> "Bets":
        """After the next draws, log-weights (draw, row)."""
        # Rounding may carry a weight over its bound; and of an infinite bound all are a share 0.
        part = (log_w.double().cpu() - self.log_bound).exp().clamp(max=1.0)
        won = torch.stack([torch.log1p(stake * part).sum(0) for stake in ON_MORE + ON_LESS])
        return Bets(
            num_samples=self.num_samples + len(log_w),
            log_bound=self.log_bound,
            log_sum=torch.logaddexp(self.log_sum, log_w.double().cpu().logsumexp(0)),
            sums=self.sums + won,
        )

    @property
    def log_mean(self) -> PerRow:
        """log (1/n) Σ w_k."""
        return self.log_sum - math.log(self.num_samples)

    @property
    def log_worth(self) -> PerRow:
        """log Σ w_k/B: how many draws' worth of B the weights are."""
        return self.log_sum - self.log_bound

    def lower(self, delta: float) -> PerRow:
        """The smallest log p(x) that the bets on more do not refuse; −∞ if they refuse none."""
        won, enough = self._on_more, -math.log(delta)
        log_mu = solve(lambda t: -won.log_e(t), torch.full_like(self.log_bound, -enough))
        refuses = won.log_e(torch.full_like(log_mu, -math.inf)) > enough
        return torch.where(
            refuses & (self.log_bound < math.inf), self.log_bound + log_mu, -math.inf
        )

    def upper(self, delta: float) -> PerRow:
        """The largest log p(x) that the bets on less do not refuse; log B if they refuse none."""
        log_mu = solve(self._on_less.log_e, torch.full_like(self.log_bound, -math.log(delta)))
        return self.log_bound + log_mu.clamp(max=0.0)

    def mean_upper(self, multiplicity: Tensor, delta: float) -> float:
        """The largest mean of log p(x), over distinct rows that count ``multiplicity`` times each.

            max Σ_i n_i log p_i / Σ_i n_i   over all p_1, p_2, … with   Π_i e_i(p_i/B_i) ≤ 1/δ

        The rows' games are independent and each of them fair, so their product is: it is one bet
        on all rows at once, where a share of δ for every row alone would cost log N in each. Every
        log e_i is convex in log p_i, and where they add up to log 1/δ with slopes in the ratio of
        the n_i, the mean is the largest.
        """
        on_all, enough = self._on_less, -math.log(delta)

        def tops(log_slope: float) -> Tensor:
            """log μ_i where each row's log e has the slope n_i κ."""
            return on_all.where_slope_is(math.exp(log_slope) * multiplicity)

        def excess(log_slope: float) -> float:
            log_e = float(on_all.log_e(tops(log_slope)).sum())
            return min(log_e, LARGEST_SLOPE) - enough

        ends = -math.log(LARGEST_SLOPE), math.log(LARGEST_SLOPE)
        # Where all bets together refuse nothing, no p is too large but those above B.
        log_slope = (
            cast(float, brentq(excess, *ends, xtol=1e-6)) if excess(ends[1]) > 0 else math.inf
        )
        log_p = self.log_bound + (tops(log_slope) if log_slope < math.inf else 0.0)
        return float((multiplicity * log_p).sum() / multiplicity.sum())

    @property
    def _on_more(self) -> "_Bet":
        return _Bet(ON_MORE, self.sums[: len(ON_MORE)], self.num_samples)

    @property
    def _on_less(self) -> "_Bet":
        return _Bet(ON_LESS, self.sums[len(ON_MORE) :], self.num_samples)


@final
@dataclass(frozen=True)
class _Bet:
    """The gamblers of some stakes, as a function of log μ ≤ 0, (row,)."""

    stakes: tuple[float, ...]
    sums: Tensor
    num_samples: int

    def log_e(self, log_mu: Tensor) -> Tensor:
        return self._capitals(log_mu).logsumexp(0) - math.log(len(self.stakes))

    def where_slope_is(self, slope: Tensor) -> Tensor:
        """The log μ < 0 at which ∂ log e/∂ log μ has this value above 0, (row,), all stakes being
        below 0; as good as 0 where it is beyond.

            ∂ log e/∂ log μ = Σ_γ share_γ g_γ,   g_γ = −n γμ/(1 + γμ) = s  ⟺  −γμ = s/(n + s)

        The slope is a mean of the stakes' own and increases, so that the largest and the smallest
        stake hold the answer between them. Newton's steps on log slope, which is nearly a line,
        go on from there; one that would leave what is known to hold the answer, or that is not half
        as long as the last, halves it instead.
        """
        most = -torch.log1p(self.num_samples / slope)
        high = (most - math.log(-max(self.stakes))).clamp(max=-STEP_OF_NOTE)
        low = torch.minimum(most - math.log(-min(self.stakes)), high)
        log_mu, step = high, high - low
        for _ in range(MOST_STEPS):
            found, rise = self._slope_and_rise(log_mu)
            low = torch.where(found < slope, log_mu, low)
            high = torch.where(found < slope, high, log_mu)
            newton = (slope / found).log() * found / rise
            ahead = log_mu + newton
            # A row that has arrived stays, while others are still on their way.
            short = newton.abs() < (0.5 * step.abs()).clamp(min=STEP_OF_NOTE)
            good = (low <= ahead) & (ahead <= high) & short
            step = torch.where(good, newton, 0.5 * (low + high) - log_mu)
            log_mu = log_mu + step
            if bool((step.abs() < STEP_OF_NOTE).all()):
                break
        return log_mu

    def _slope_and_rise(self, log_mu: Tensor) -> tuple[Tensor, Tensor]:
        """∂ log e/∂ log μ, and how it rises with log μ."""
        share, mu = self._capitals(log_mu).softmax(0), log_mu.exp()
        odds = -self._at * mu / (1 + self._at * mu)
        each = self.num_samples * odds
        slope = (share * each).sum(0)
        return slope, (share * (each * (1 + odds) + (each - slope).square())).sum(0)

    @property
    def _at(self) -> Tensor:
        return torch.tensor(self.stakes, dtype=torch.float64)[:, None]

    def _capitals(self, log_mu: Tensor) -> Tensor:
        price = torch.log1p(self._at * log_mu.clamp(max=0.0).exp())
        # What is lost stays lost, at whatever price.
        lost = self.sums == -math.inf
        return torch.where(lost, self.sums, self.sums - self.num_samples * price)
