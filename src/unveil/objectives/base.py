"""What every objective is.

An objective is called with (model, x, noise, step) and returns its value for each row in nats.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from unveil.latent import LatentVariableModel
from unveil.shapes import Given, Noise, PerRow, Rows


def require_count(name: str, value: object, *, least: int) -> None:
    """Raises ValueError unless the value is a whole number of at least ``least``."""
    if not isinstance(value, int) or value < least:
        raise ValueError(f"expected {name} of at least {least}, a whole number, got {value}")


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

    def scheduled(self, total_steps: int) -> "Objective":
        """This objective with what it leaves open settled for a run of ``total_steps``."""
        return self
