"""The rate brought in slowly, so that a decoder which is still bad does not switch latents off."""

from abc import ABC
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unveil.objectives.base import Objective, require_count


@dataclass(frozen=True, kw_only=True)
class WarmedUp(Objective, ABC):
    """An objective whose rate counts by a share that rises in a line over ``warmup_steps``.

        share(t) = min((t + 1)/(warmup_steps + 1), 1)

    ``warmup_steps`` of None means a tenth of the run; a run limited by the clock alone is counted
    as 10,000 steps. Source: Bowman et al. 2016, section 3.1; Sønderby et al. 2016, section 2.3.
    """

    warmup_steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_steps is not None:
            require_count("warmup_steps", self.warmup_steps, least=0)

    @property
    def warmup(self) -> int:
        return self.warmup_steps or 0

    def scheduled(self, total_steps: int, rows: int) -> Objective:
        if self.warmup_steps is not None and self.warmup_steps >= total_steps:
            raise ValueError(
                f"expected warmup_steps below the {total_steps} steps of the run, got "
                f"{self.warmup_steps}; warm up for fewer, or train longer"
            )
        if self.warmup_steps is not None:
            return self
        return replace(self, warmup_steps=total_steps // 10)

    def share(self, step: Tensor) -> Tensor:
        """The share of the rate that counts at a training step, a scalar."""
        return torch.clamp((step + 1) / (self.warmup + 1), max=1.0)
