"""Columns of several kinds in one row."""

from collections.abc import Sequence
from typing import cast, final

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from unveil.distributions import Cells, Joined
from unveil.families import Family


@final
class Columns(Family):
    """Columns of several kinds in one row, each kind one family over all its columns at once.

    ``parts`` are pairs (columns, family); the columns name 0 … d−1 once between them.

    >>> import unveil
    >>> mixed = Columns([((0, 2), unveil.Gaussian(2)), ((1,), unveil.Bernoulli(1))])
    >>> mixed.num_parameters, mixed(torch.zeros(4, 3)).event_shape
    (3, torch.Size([3]))
    """

    def __init__(self, parts: Sequence[tuple[Sequence[int], Family]]) -> None:
        super().__init__()
        indices = [torch.as_tensor(tuple(columns), dtype=torch.long) for columns, _ in parts]
        named = sorted(int(i) for index in indices for i in index)
        if named != list(range(len(named))):
            raise ValueError(f"expected the parts to name columns 0 … d−1 once, got {named}")
        for index, (_, family) in zip(indices, parts, strict=True):
            if family.event_shape != (len(index),):
                raise ValueError(
                    f"expected a family over the {len(index)} columns of its part, got one over "
                    f"{family.event_shape}; give it event shape ({len(index)},)"
                )
        self.families = nn.ModuleList(family for _, family in parts)
        for number, index in enumerate(indices):
            self.register_buffer(f"columns_{number}", index, persistent=False)
        self.event_shape = (len(named),)
        self.num_parameters = sum(family.num_parameters for _, family in parts)

    def forward(self, raw: Tensor) -> Distribution:
        families = cast(Sequence[Family], self.families)
        pieces = torch.split(raw, [family.num_parameters for family in families], dim=-1)
        return Joined(
            [
                (cast(Tensor, getattr(self, f"columns_{number}")), cast(Cells, family(piece)))
                for number, (family, piece) in enumerate(zip(families, pieces, strict=True))
            ]
        )

    def log_supremum(self, x: Tensor) -> Tensor:
        families = cast(Sequence[Family], self.families)
        of_parts = [
            family.log_supremum(x[:, cast(Tensor, getattr(self, f"columns_{number}"))])
            for number, family in enumerate(families)
        ]
        return torch.stack(of_parts).sum(0)

    def start_at(self, x: Tensor) -> Tensor:
        families = cast(Sequence[Family], self.families)
        return torch.cat(
            [
                family.start_at(x[:, cast(Tensor, getattr(self, f"columns_{number}"))])
                for number, family in enumerate(families)
            ]
        )

    def start(self, mean: Tensor) -> Tensor:
        families = cast(Sequence[Family], self.families)
        return torch.cat(
            [
                family.start(mean[cast(Tensor, getattr(self, f"columns_{number}"))])
                for number, family in enumerate(families)
            ]
        )
