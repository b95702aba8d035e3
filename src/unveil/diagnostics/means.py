"""A mean over rows with its standard error."""

import math
from dataclasses import dataclass
from typing import final

from unveil.evidence.row_bounds import row_error
from unveil.evidence.weights import require_finite
from unveil.shapes import PerRow


@final
@dataclass(frozen=True, kw_only=True)
class Mean:
    """The mean of one figure over rows; ``error`` is its standard error, None for a single row.

    The figures' own noise is part of how they differ between rows, so that the error covers both:
    which rows were seen, and which draws.

    >>> import torch
    >>> Mean.over_rows(torch.tensor([1.0, 3.0]))
    Mean(value=2.0, error=1.0)
    """

    value: float
    error: float | None

    @classmethod
    def over_rows(cls, values: PerRow) -> "Mean":
        """The mean of values (row,), float64; raises ArithmeticError, which names the row, where
        one is NaN or +∞."""
        values = require_finite(values.double(), "log-densities")
        return cls(value=float(values.mean()), error=row_error(values))

    def __sub__(self, other: "Mean") -> "Mean":
        """The difference of means over two sets of rows that have none in common."""
        known = self.error is not None and other.error is not None
        error = math.hypot(self.error or 0.0, other.error or 0.0) if known else None
        return Mean(value=self.value - other.value, error=error)

    def document(self) -> dict[str, float | None]:
        """The mean as plain JSON."""
        return {"value": self.value, "se": self.error}
