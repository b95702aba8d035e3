"""A number about log p(x), and what it is worth."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, final, get_args

# What a bound's side rests on, strongest first.
Guarantee = Literal["exact", "numerical", "certified", "in_expectation", "heuristic"]
STRENGTH: tuple[Guarantee, ...] = get_args(Guarantee)
Side = Literal["lower", "upper"]
# Those that draws of z cannot talk out of what they say.
SURE: frozenset[Guarantee | None] = frozenset({"exact", "numerical", "certified"})
# Those that lie on their side, if only in expectation.
SIDED: frozenset[Guarantee | None] = frozenset({*SURE, "in_expectation"})
# More combined standard errors than this do not happen by chance.
MOST_ERRORS = 5.0
# Densities are float32 numbers, and two ways of summing them differ by so much of the sum.
ROUNDING = 1e-6


def weaker(one: Guarantee, other: Guarantee) -> Guarantee:
    """What a bound rests on that was made of two.

    >>> weaker("in_expectation", "certified"), weaker("in_expectation", "heuristic")
    ('in_expectation', 'heuristic')
    """
    return STRENGTH[max(STRENGTH.index(one), STRENGTH.index(other))]


@final
class InversionError(ValueError):
    """An upper bound lies below a lower one: one of the two is wrong."""


@final
@dataclass(frozen=True, kw_only=True)
class Bound:
    """A mean log-evidence bound over rows, nats per row, that carries its guarantee.

    ``value`` is None when the bound was withdrawn or is not known, with ``reason``. ``mc_se`` is
    the standard error from the draws of z, ``data_se`` from which rows happened to be seen;
    ``delta`` is the chance that a certified bound fails, None for other guarantees. ``settings``
    are all that it takes to get the number again, the seed included, and of a numerical bound its
    ``error``, nats.

    >>> print(Bound(value=-84.5, side="lower", guarantee="in_expectation", mc_se=0.01,
    ...             data_se=0.2, method="IWAE", settings={"num_samples": 1000}))
    log p(x) ≥ -84.500 nats per row, in expectation (IWAE; ± 0.010 draws, ± 0.200 rows)
    >>> print(Bound(value=-84.1, side="upper", guarantee="certified", delta=0.025, method="AIS"))
    log p(x) ≤ -84.100 nats per row, certified 97.5 % (AIS)
    """

    value: float | None
    side: Side
    guarantee: Guarantee | None = None
    delta: float | None = None
    mc_se: float | None = None
    data_se: float | None = None
    method: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    reason: str | None = None

    def __str__(self) -> str:
        sign = "≥" if self.side == "lower" else "≤"
        if self.value is None:
            return f"log p(x) {sign} unknown: {self.reason}"
        errors = "".join(
            f"{sep}± {error:.3f} {what}"
            for sep, error, what in (("; ", self.mc_se, "draws"), (", ", self.data_se, "rows"))
            if error is not None
        )
        of = f"{self.method}{errors}"
        return f"log p(x) {sign} {self.value:.3f} nats per row, {self.claim} ({of})"

    @property
    def claim(self) -> str:
        """The guarantee in words; of a certified bound, how often it holds at least."""
        words = (self.guarantee or "").replace("_", " ")
        return words if self.delta is None else f"{words} {100 * (1 - self.delta):g} %"

    def withdrawn(self, reason: str) -> "Bound":
        """The bound without its value and what was claimed of it; method, settings and warnings
        stay."""
        return replace(
            self, value=None, guarantee=None, delta=None, mc_se=None, data_se=None, reason=reason
        )

    def document(self) -> dict[str, Any]:
        """The bound as plain JSON."""
        return {
            "value": self.value,
            "guarantee": self.guarantee,
            "delta": self.delta,
            "mc_se": self.mc_se,
            "data_se": self.data_se,
            "method": self.method,
            "settings": dict(self.settings),
            "warnings": list(self.warnings),
            "reason": self.reason,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any], side: Side) -> "Bound":
        """The bound that ``document`` wrote."""
        return cls(side=side, **{**document, "warnings": tuple(document["warnings"])})


def require_order(lower: Bound, upper: Bound, *, difference_se: float | None = None) -> None:
    """Raises InversionError where an upper bound lies below a lower one by more than chance allows.

        lower − upper > errors + 5 se

    ``errors`` are those that numerical bounds state. ``se`` (nats) is 0 between two bounds that are
    exact, numerical or certified; else ``difference_se``, the standard error of the difference
    where both were found for the same rows, or else that of both bounds' draws together, in which
    an error that is not known counts as none. A bound without a value crosses nothing.

    >>> lower = Bound(value=-84.0, side="lower", guarantee="in_expectation", mc_se=0.01,
    ...               method="IWAE")
    >>> upper = Bound(value=-84.1, side="upper", guarantee="exact", method="closed form")
    >>> require_order(lower, upper)    # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    InversionError: expected ...
    >>> require_order(lower, upper, difference_se=0.03)
    """
    if lower.value is None or upper.value is None or lower.value == -math.inf:
        return
    by = lower.value - upper.value
    se = _difference_se(lower, upper) if difference_se is None else difference_se
    se = 0.0 if {lower.guarantee, upper.guarantee} <= SURE else se
    rounding = ROUNDING * (abs(lower.value) + abs(upper.value))
    if by <= _stated_error(lower) + _stated_error(upper) + MOST_ERRORS * se + rounding:
        return
    errors = f", {by / se:.1f} standard errors" if se > 0 else ""
    raise InversionError(
        f"expected an upper bound above the lower one, got {upper.value:.4f} by {upper.method} "
        f"({upper.claim}) below {lower.value:.4f} by {lower.method} ({lower.claim}), by {by:.4f} "
        f"nats per row{errors}: one of the two is wrong; take more temperatures, start annealing "
        "at the prior, or take more draws"
    )


def _difference_se(lower: Bound, upper: Bound) -> float:
    return math.hypot(lower.mc_se or 0.0, upper.mc_se or 0.0)


def _stated_error(bound: Bound) -> float:
    return float(bound.settings.get("error", 0.0))
