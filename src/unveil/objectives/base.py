"""What every objective is, and what may be said of its value.

An objective is called with (model, x, noise, step) and returns its value for each row in nats.
Its type says what that value is: a ``LowerBound`` is one on log p(x), and any other ``Objective``
is only something to climb. A ``BatchObjective`` looks at rows side by side.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from unveil.latent import LatentVariableModel
from unveil.shapes import Given, Noise, PerRow, Rows


def require_count(name: str, value: object, *, least: int) -> None:
    """Raises ValueError unless the value is a whole number of at least ``least``."""
    if not isinstance(value, int) or value < least:
        raise ValueError(f"expected {name} of at least {least}, a whole number, got {value}")


def require_weight(name: str, value: float) -> None:
    """Raises ValueError unless the value is finite and not below 0."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"expected {name} to be at least 0 and finite, got {value}")


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """``num_samples`` draws of z per row, turned into one value per row."""

    num_samples: int = 1

    def __post_init__(self) -> None:
        require_count("num_samples", self.num_samples, least=1)

    @abstractmethod
    def __call__(
        self,
        model: LatentVariableModel,
        x: Rows,
        noise: Noise,
        step: Tensor,
        given: Given = None,
    ) -> PerRow:
        """The value per row at a training step (a scalar tensor), differentiable."""

    @property
    def warmup(self) -> int:
        """The first step at which the objective has its final settings."""
        return 0

    def scheduled(self, total_steps: int, rows: int) -> "Objective":
        """This objective with what it leaves open settled for a run of ``total_steps`` over
        ``rows`` training rows."""
        return self


class LowerBound(Objective, ABC):
    """An objective whose value at its final settings is at most log p(x) in expectation, row by
    row, whatever the model: E value(x) ≤ log p(x)."""


class BatchObjective(Objective, ABC):
    """An objective that compares the rows of a batch: each row's value depends on those beside it.

    It must be given real rows only, each once, and at least two of them.
    """

    def require_company(self, x: Rows) -> None:
        """Raises ValueError when a row stands alone."""
        if len(x) < 2:
            raise ValueError(
                f"expected at least 2 rows side by side for {type(self).__name__}, which compares "
                f"the rows of a batch, got {len(x)}; give it larger batches"
            )
