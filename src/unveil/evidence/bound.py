"""A number about log p(x), and what it is worth."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final

# What a bound's side rests on, strongest first.
Guarantee = Literal["exact", "numerical", "certified", "in_expectation", "heuristic"]
Side = Literal["lower", "upper"]


@final
@dataclass(frozen=True, kw_only=True)
class Bound:
    """A mean log-evidence bound over rows, nats per row, that carries its guarantee.

    ``value`` is None when the bound was withdrawn or is not known, with ``reason``. ``mc_se`` is
    the standard error from the draws of z, ``data_se`` from which rows happened to be seen;
    ``delta`` is the chance that a certified bound fails, None for other guarantees.

    >>> print(Bound(value=-84.5, side="lower", guarantee="in_expectation", mc_se=0.01,
    ...             data_se=0.2, method="IWAE", settings={"num_samples": 1000}))
    log p(x) ≥ -84.500 nats per row, in expectation (IWAE; ± 0.010 draws, ± 0.200 rows)
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
        worth = (self.guarantee or "").replace("_", " ")
        return f"log p(x) {sign} {self.value:.3f} nats per row, {worth} ({self.method}{errors})"

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
