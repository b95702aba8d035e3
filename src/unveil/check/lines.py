"""What a self-test says: an exact value and what was found for it, a line each."""

from dataclasses import dataclass
from typing import final

# More standard errors than this do not happen by chance.
FARTHEST = 5.0
# What float64 rounding may leave of an identity that holds exactly.
ROUNDING = 1e-9


@final
@dataclass(frozen=True, kw_only=True)
class Identity:
    """log p(x) = ELBO + KL(q‖p(z|x)) for one q, nats per row: three numbers found apart."""

    model: str
    q: str
    log_evidence: float
    elbo: float
    kl: float

    @property
    def holds(self) -> bool:
        """Whether the two terms add up, as far as rounding allows."""
        return abs(self.elbo + self.kl - self.log_evidence) <= ROUNDING


@final
@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One quantity of a model, nats per row: what it is, what was estimated, its standard error."""

    model: str
    quantity: str
    exact: float
    estimate: float
    error: float

    @property
    def holds(self) -> bool:
        """Whether the estimate is the exact value, as far as chance and rounding allow."""
        return abs(self.estimate - self.exact) <= FARTHEST * self.error + ROUNDING


@final
@dataclass(frozen=True, kw_only=True)
class Between:
    """One quantity of a model, nats per row, and the ends between which it is said to lie.

    An end is None where nothing is said from that side; ``error`` is the ends' standard error, 0
    where they hold as they stand.
    """

    model: str
    quantity: str
    exact: float
    lower: float | None
    upper: float | None
    error: float

    @property
    def holds(self) -> bool:
        """Whether the exact value lies there, as far as chance and rounding allow."""
        more = FARTHEST * self.error + ROUNDING
        above = self.lower is None or self.lower - more <= self.exact
        return above and (self.upper is None or self.exact <= self.upper + more)


@final
@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether draws of a model's q are told from those of p(z|x), and if they are different."""

    model: str
    q: str
    exact: bool
    rejected: bool
    pvalue: float

    @property
    def holds(self) -> bool:
        """Whether what is wrong was rejected, and what is right was not."""
        return self.rejected is not self.exact


Line = Identity | Estimate | Between | Verdict


@final
@dataclass(frozen=True)
class SelfTest:
    """The lines of a self-test."""

    lines: tuple[Line, ...]

    @property
    def right(self) -> bool:
        """Whether every line holds."""
        return all(line.holds for line in self.lines)
