"""What independent weights w ≥ 0 with E w = p(x) say of log p(x), row by row.

Whatever made them, importance sampling or annealing, their mean is a lower bound on log p(x) in
expectation; and without any assumption on their tails, log p(x) is certified from below: for one
row by betting, for a set of rows by Markov's inequality.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unveil.shapes import PerDraw, PerRow

# The shares of its capital that a gambler stakes each time, one gambler for each.
STAKES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
# More draws than this are bet on in blocks: a mean of weights is a weight as well.
MOST_BLOCKS = 1024
# A climb that gains less than this, nats, has arrived.
ARRIVED = 1e-9
MOST_STEPS = 100

# Of fewer draws a tail has too little to be fitted to (Vehtari et al. 2024).
FEWEST_IN_TAIL = 5
# A log-density is known to about so much: weights that differ by less are equal.
DIGITS = 1e-6

# Draws that are taken in at a time, a power of two.
BATCH = 1024


@final
@dataclass(frozen=True, kw_only=True)
class Weights:
    """What K independent weights w ≥ 0 with E w = p(x) say of each row; (row,), float64.

        log_mean   log (1/K) Σ w_k, nats: a lower bound on log p(x) in expectation
        ess        (Σw)²/Σw², the effective draws, from 1 to K
        log_sd     standard deviation of log w over its finite draws, nats; 0 for one draw
        khat       index k̂ of the Pareto tail of w, from the min(K/5, 3√K) largest: below ½ the
                   variance is finite, above 0.7 the mean is not to be relied on; NaN below 25
                   draws, where there is no tail to speak of, and where nothing has been weighed
        certified  a bound on log p(x), nats, that lies above it with probability δ at most

    ``certified`` holds for any weights, and for each row alone: of many rows, a share δ may fail.
    ``markov_slack`` certifies the mean over rows. A row with nothing observed has p(∅) = 1, and
    log_mean and certified exactly 0. Weights that no draw has made positive have −∞ for both.

    >>> tally = Tally(100, 1, delta=0.05)
    >>> tally.add(torch.zeros(100, 1))
    >>> weights = tally.result(torch.ones(1, dtype=torch.bool))
    >>> float(weights.log_mean), float(weights.ess), float(weights.log_sd)
    (0.0, 100.0, 0.0)
    """

    num_samples: int
    delta: float
    log_mean: PerRow
    ess: PerRow
    log_sd: PerRow
    khat: PerRow
    certified: PerRow

    @property
    def log_mean_variance(self) -> PerRow | None:
        """Variance of log_mean over draws, by the delta method; None for a single draw.

        Var(w̄)/w̄² = (1/ESS − 1/K) K/(K − 1)
        """
        if self.num_samples == 1:
            return None
        spread = (1 / self.ess - 1 / self.num_samples).clamp(min=0.0)
        return spread * self.num_samples / (self.num_samples - 1)

    def __getitem__(self, rows: slice | Tensor) -> "Weights":
        """The weights of some rows: a slice, their numbers, or a mask."""
        return replace(self, **{name: getattr(self, name)[rows] for name in _per_row()})

    @classmethod
    def joined(cls, parts: Sequence["Weights"]) -> "Weights":
        """The rows of all parts, in their order.

        Raises ArithmeticError for a weight that was NaN or +∞, naming its row among all of them,
        ValueError for parts that differ in their number of draws or δ, and for none at all.
        """
        kinds = {(part.num_samples, part.delta) for part in parts}
        if len(kinds) != 1:
            raise ValueError(
                "expected weights of one number of draws and one delta, got "
                f"{sorted(kinds) or 'none'}; weigh all rows alike"
            )
        columns = {n: torch.cat([getattr(part, n) for part in parts]) for n in _per_row()}
        require_finite(columns["log_mean"], "log-weights")
        return replace(parts[0], **columns)


def _per_row() -> list[str]:
    return [f.name for f in fields(Weights) if f.name not in ("num_samples", "delta")]


def require_finite(values: PerRow, what: str) -> PerRow:
    """The values (row,), where none is NaN or +∞: −∞ is a legal logarithm.

    Raises ArithmeticError, which says ``what`` they are and names the row.

    >>> require_finite(torch.tensor([-1.0, -math.inf]), "log-weights")
    tensor([-1., -inf])
    """
    bad = ~(values < math.inf)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ArithmeticError(
            f"expected finite {what}, got {float(values[row])} in {nth_row(row, len(values))}; the "
            "model's densities overflow there"
        )
    return values


def nth_row(row: int, rows: int) -> str:
    """Which row an error is about: of a file's rows only those that are looked at are counted.

    >>> nth_row(3, 90)
    'row 3 of the 90 looked at, counted from 0'
    """
    return f"row {row} of the {rows} looked at, counted from 0"


def require_delta(delta: float) -> None:
    """Raises ValueError unless δ lies between 0 and 1."""
    if not 0 < delta < 1:
        raise ValueError(
            f"expected delta between 0 and 1, got {delta}; 0.05 certifies with 95 % confidence"
        )


@final
class Tally:
    """Weights, taken in a few draws at a time and never kept: memory grows as √K at most.

    How the draws are split into calls changes nothing, and a row's figures are bitwise its own. A
    weight that is NaN or +∞ is carried along, and refused by ``Weights.joined``, which knows the
    row's number. Raises ValueError for less than one draw, δ outside (0, 1), and for more or fewer
    draws than were announced.

    >>> from unveil.noise import generator
    >>> log_w = torch.randn(1000, 2, generator=generator(0, "demo"), dtype=torch.float64) - 0.5
    >>> tally = Tally(1000, 2, delta=0.05)
    >>> for chunk in log_w.split(300):
    ...     tally.add(chunk)
    >>> weights = tally.result(torch.tensor([True, False]))
    >>> bool(weights.certified[0] < weights.log_mean[0]), float(weights.log_mean[1])
    (True, 0.0)
    """

    def __init__(self, num_samples: int, num_rows: int, delta: float) -> None:
        if num_samples < 1:
            raise ValueError(f"expected at least 1 draw per row, got {num_samples}")
        require_delta(delta)
        self.num_samples, self.delta = num_samples, delta
        self._per_block = 1
        while self._per_block * MOST_BLOCKS < num_samples:
            self._per_block *= 2
        blocks = math.ceil(num_samples / self._per_block)
        nothing = torch.full((num_rows, 1), -math.inf, dtype=torch.float64)
        # All (row, ...): sums along a row that lies in one piece round alike in every row.
        self._batch = nothing.repeat(1, min(BATCH, blocks * self._per_block))
        self._seen = self._taken = 0
        self._log_sums = nothing.repeat(1, blocks)
        self._log_squares = nothing[:, 0]
        self._largest = nothing.repeat(1, tail_size(num_samples) + 1)
        self._logs = _Moments.none(num_rows)

    def add(self, log_w: PerDraw) -> None:
        """Take in the next draws' log-weights (draw, row), nats."""
        self._seen += len(log_w)
        if self._seen > self.num_samples:
            raise ValueError(f"expected {self.num_samples} draws, got {self._seen}; announce all")
        columns = log_w.double().cpu().mT
        while columns.shape[1]:
            here = self._batch[:, self._taken % BATCH :][:, : columns.shape[1]]
            here.copy_(columns[:, : here.shape[1]])
            columns, self._taken = columns[:, here.shape[1] :], self._taken + here.shape[1]
            if self._taken % BATCH == 0 or self._taken == self.num_samples:
                self._take_in()

    def _take_in(self) -> None:
        batch = self._batch
        sums = log_sum_exp(batch.unflatten(1, (-1, min(self._per_block, BATCH))))
        first = (self._taken - 1) // BATCH * BATCH // self._per_block
        blocks = self._log_sums[:, first : first + sums.shape[1]]
        blocks.copy_(torch.logaddexp(blocks, sums[:, : blocks.shape[1]]))
        self._log_squares = torch.logaddexp(self._log_squares, log_sum_exp(2 * batch))
        together = torch.cat([self._largest, batch], dim=1)
        self._largest = together.topk(self._largest.shape[1], dim=1).values
        self._logs = self._logs.and_those_of(batch)
        batch.fill_(-math.inf)

    def result(self, observed: Tensor) -> Weights:
        """What the weights say. ``observed`` (row,) tells the rows that show anything at all."""
        if self._seen != self.num_samples:
            raise ValueError(
                f"expected {self.num_samples} draws, got {self._seen}; add what is missing"
            )
        observed, log_sum = observed.cpu(), log_sum_exp(self._log_sums)
        ess = torch.exp(2 * log_sum - self._log_squares).clamp(1.0, self.num_samples)
        # Where no draw can have made x, all weights are alike in being zero: one draw's worth.
        ess = torch.where(log_sum > -math.inf, ess, 1.0)
        certified = betting_bound(self._block_means().mT, self.delta)
        # Nothing observed: p(∅) = 1, whatever the draws say.
        return Weights(
            num_samples=self.num_samples,
            delta=self.delta,
            log_mean=torch.where(observed, log_sum - math.log(self.num_samples), 0.0),
            ess=torch.where(observed, ess, float(self.num_samples)),
            log_sd=torch.where(observed, self._logs.sd, 0.0),
            khat=torch.where(observed, pareto_khat(self._largest.mT), math.nan),
            certified=torch.where(observed, certified, 0.0),
        )

    def _block_means(self) -> Tensor:
        """Logarithms of the means of consecutive weights, (row, block): unbiased, non-negative and
        independent as the weights themselves are."""
        sizes = torch.full((self._log_sums.shape[1],), self._per_block, dtype=torch.float64)
        sizes[-1] -= -self.num_samples % self._per_block
        return self._log_sums - sizes.log()


@final
@dataclass(frozen=True)
class _Moments:
    """Number, mean and sum of squared deviations of what was finite, (row,) each."""

    number: Tensor
    mean: Tensor
    squares: Tensor

    @classmethod
    def none(cls, rows: int) -> "_Moments":
        return cls(*torch.zeros(3, rows, dtype=torch.float64))

    def and_those_of(self, values: Tensor) -> "_Moments":
        """Together with the moments of values (row, draw) (Chan, Golub & LeVeque 1983)."""
        finite = values.isfinite()
        number = finite.sum(1).double()
        mean = torch.where(finite, values, 0.0).sum(1) / number.clamp(min=1.0)
        squares = torch.where(finite, values - mean[:, None], 0.0).square().sum(1)
        share = number / (self.number + number).clamp(min=1.0)
        apart = mean - self.mean
        return _Moments(
            self.number + number,
            self.mean + share * apart,
            self.squares + squares + share * self.number * apart.square(),
        )

    @property
    def sd(self) -> Tensor:
        return (self.squares / (self.number - 1).clamp(min=1.0)).sqrt()


def log_sum_exp(values: Tensor) -> Tensor:
    """log Σ exp along the last axis. torch's own, in threads, rounds by where a row stands."""
    top = values.amax(-1, keepdim=True)
    top = torch.where(top.isfinite(), top, 0.0)
    return (values - top).exp().sum(-1).log() + top[..., 0]


def betting_bound(log_w: PerDraw, delta: float) -> PerRow:
    """A certified lower bound on log E w: above it with probability δ at most, whatever the law.

        max log m  with  e(m) = mean_λ Π_k (1 − λ + λ w_k/m) ≥ 1/δ,   λ ∈ STAKES

    Takes log-weights (draw, row) of independent draws, w ≥ 0, and returns (row,), in nats. Each
    product is the capital of a gambler who stakes a share λ of it on every draw, at the price m: at
    m = E w the game is fair, E e = 1, and by Markov's inequality e reaches 1/δ with probability δ
    at most. The order of draws does not matter, nor does any bound on w. −∞ where all w are 0.
    Raises ValueError for δ outside (0, 1).
    Source: Waudby-Smith & Ramdas 2024, sections 3 and 4, with constant bets.

    >>> betting_bound(torch.zeros(1000, 1).double(), 0.05).exp()    # of a constant
    tensor([0.9953], dtype=torch.float64)
    """
    require_delta(delta)
    columns = log_w.mT.contiguous()
    draws, largest = columns.shape[1], columns.amax(1)
    # log e is convex and falls in log m: wherever a step of Newton's starts, it ends where the bet
    # is won, and those that follow climb.
    log_m = log_sum_exp(columns) - math.log(draws)
    log_m = torch.maximum(log_m + _newton_step(columns, log_m, delta), largest + _won(draws, delta))
    for _ in range(MOST_STEPS):
        step = _newton_step(columns, log_m, delta)
        climbs = step > ARRIVED
        if not climbs.any():
            break
        log_m = torch.where(climbs, log_m + step, log_m)
    return torch.where(largest > -math.inf, log_m, largest)


def _won(draws: int, delta: float) -> float:
    """log m − max log w at which the largest weight wins the bet alone, by the smallest stake."""
    stake = STAKES[0]
    return math.log(delta * stake / len(STAKES)) + (draws - 1) * math.log1p(-stake)


def _newton_step(columns: Tensor, log_m: Tensor, delta: float) -> Tensor:
    """(log e − log 1/δ)/(−∂ log e/∂ log m), (row,), for log-weights (row, draw)."""
    x = (columns - log_m[:, None]).exp()
    log_capitals, falls = [], []
    for stake in STAKES[:-1]:
        factor = (stake * x).add_(1 - stake)
        log_capitals.append(factor.log().sum(1))
        falls.append(x.shape[1] - (1 - stake) * factor.reciprocal().sum(1))
    # The last stakes all it has, and is left with nothing once a weight is 0.
    log_capitals.append((columns - log_m[:, None]).sum(1))
    falls.append(torch.full_like(log_m, x.shape[1]))
    log_e = torch.stack(log_capitals, dim=1)
    fall = (log_e.softmax(1) * torch.stack(falls, dim=1)).sum(1)
    return (log_sum_exp(log_e) - math.log(len(STAKES)) + math.log(delta)) / fall


def markov_slack(digests: NDArray[np.uint64], delta: float) -> float:
    """What certifies a data set's mean log-evidence when it is taken off the rows' mean, nats.

        P(mean_i log w̄_i − slack > mean_i log p(x_i)) ≤ δ,   slack = n_max log(1/δ)/N

    ``digests`` (row, 2) tell the N rows apart; n_max is the largest number of equal ones. Distinct
    rows have independent unbiased weights, so that E Π_j w̄_j/p(x_j) = 1, and Markov's inequality
    bounds the logarithm of that product by log(1/δ). Equal rows share their draws, and w̄_j enters
    with its multiplicity n_j as a power; the n_max-th root of the product has no power above 1, and
    an expectation of 1 at most (Jensen's inequality). Raises ValueError for δ outside (0, 1) and
    for no rows.

    >>> rows = np.arange(2000, dtype=np.uint64).reshape(1000, 2)
    >>> twice = np.concatenate([rows, rows])
    >>> round(markov_slack(rows, 0.05), 6), round(markov_slack(twice, 0.05), 6)
    (0.002996, 0.002996)
    """
    require_delta(delta)
    if len(digests) == 0:
        raise ValueError("expected at least one row, got none; there is nothing to certify")
    _, multiplicity = np.unique(digests, axis=0, return_counts=True)
    return float(multiplicity.max()) * math.log(1 / delta) / len(digests)


def tail_size(num_samples: int) -> int:
    """How many of K weights are their tail: min(K/5, 3√K) (Vehtari et al. 2024, section 2.3).

    >>> [tail_size(k) for k in (1, 25, 100, 10_000)]
    [0, 5, 20, 300]
    """
    return int(min(num_samples / 5, 3 * math.sqrt(num_samples)))


def pareto_khat(largest: PerDraw) -> PerRow:
    """The index k̂ of a generalised Pareto law fitted to the excess of the largest weights.

        k̂ = (M k + 10·½)/(M + 10),   k = mean log(1 − θ̂ y),   y = w − u

    ``largest`` (M + 1, row) are log-weights in falling order, the last of which is the threshold
    u. θ̂ is its posterior mean over a grid, by the profile likelihood. Weights of k have a finite
    mean for k < 1 and a finite variance for k < ½. Returns (row,); NaN for M below 5 and for
    weights that are all 0. Source: Zhang & Stephens 2009, section 4; Vehtari et al. 2024, appendix.

    >>> u = (torch.arange(949).double()[:, None] + 0.5) / 100_000
    >>> round(float(pareto_khat(-0.7 * u.log())), 2)    # the 949 largest of 100,000 w = u^(−0.7)
    0.7
    """
    tail = len(largest) - 1
    if tail < FEWEST_IN_TAIL:
        return torch.full_like(largest[0], math.nan)
    w = (largest - largest[0]).mT.contiguous().exp()
    u = w[:, -1:]
    excess = torch.maximum(w[:, :-1] - u, DIGITS * u).clamp(min=1e-300)
    y = excess / excess[:, :1]
    quartile = y[:, tail - int(tail / 4 + 0.5)]
    points = 30 + int(math.sqrt(tail))
    θs, fits = [], []
    for point in range(points):
        θ = 1 + (1 - math.sqrt(points / (point + 0.5))) / (3 * quartile)
        θ = torch.where(θ == 0, 1e-12, θ)  # the exponential law, where what follows has a limit
        k = _index(θ, y)
        θs.append(θ)
        fits.append(tail * (torch.log(-θ / k) - k - 1))
    θ = (torch.stack(fits, dim=1).softmax(1) * torch.stack(θs, dim=1)).sum(1)
    return (tail * _index(θ, y) + 5) / (tail + 10)


def _index(θ: Tensor, y: Tensor) -> Tensor:
    """The index of the generalised Pareto law with θ = −k/σ that fits y (row, draw) best."""
    return torch.log1p(-θ[:, None] * y).mean(1)
