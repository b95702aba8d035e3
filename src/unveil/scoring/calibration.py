"""The rows that new ones are compared with: neither trained on, nor used to choose the weights."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool
from torch import Tensor

from unveil.evidence.importance import importance
from unveil.latent import LatentVariableModel
from unveil.scoring.kinds import EVIDENCE, KINDS, Kind
from unveil.shapes import Given, PerRow, Rows

# Beside fewer rows a p-value cannot be below a twentieth, and says nothing.
FEWEST_CALIBRATION = 20
ROWS_AT_ONCE = 4096


class Calibration(ABC):
    """What the model makes of rows that neither trained it nor chose its weights."""

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def figures(
        self,
        model: LatentVariableModel,
        patterns: Bool[Tensor, "pattern cell"],
        kind: Kind,
        num_samples: int,
        seed: int,
    ) -> Iterator[PerRow]:
        """For each pattern of observed cells, the figure of every row that shows them all, with
        the others hidden, float64 (row,): none where nothing can be compared."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What is saved."""


@final
@dataclass(frozen=True, kw_only=True)
class KeptRows(Calibration):
    """The rows themselves, in model units, which any cells can be hidden of."""

    x: Rows
    given: Given = None

    @property
    def num_rows(self) -> int:
        return len(self.x)

    def figures(
        self,
        model: LatentVariableModel,
        patterns: Bool[Tensor, "pattern cell"],
        kind: Kind,
        num_samples: int,
        seed: int,
    ) -> Iterator[PerRow]:
        shows = ~torch.isnan(self.x).flatten(1)
        for some in patterns.split(max(1, ROWS_AT_ONCE // max(1, len(self.x)))):
            fitting = [(shows | ~shown).all(1).nonzero()[:, 0] for shown in some]
            hidden = [self._hidden(rows, shown) for rows, shown in zip(fitting, some, strict=True)]
            places = torch.cat(fitting)
            if not len(places):
                yield from (torch.empty(0, dtype=torch.float64) for _ in fitting)
                continue
            given = None if self.given is None else self.given[places]
            of = importance(
                model, torch.cat(hidden), num_samples=num_samples, seed=seed, given=given
            )
            yield from kind.figure(of).split([len(rows) for rows in fitting])

    def _hidden(self, rows: Tensor, shown: Tensor) -> Tensor:
        """Those rows with nothing left but the cells shown."""
        x = self.x[rows]
        return torch.where(shown.view(x.shape[1:]), x, torch.nan)

    def tensors(self) -> dict[str, Tensor]:
        return {"x": self.x, **({} if self.given is None else {"given": self.given})}


@final
@dataclass(frozen=True, kw_only=True)
class KeptFigures(Calibration):
    """The figures of rows that are not kept themselves, such as pictures: of complete rows alone,
    and by one number of draws. ``by_kind`` holds those of each name in KINDS, float64 (row,)."""

    num_samples: int
    by_kind: Mapping[str, PerRow]

    @classmethod
    def of(
        cls, model: LatentVariableModel, x: Rows, given: Given, num_samples: int
    ) -> "KeptFigures":
        """Those of the complete rows among x."""
        complete = ~torch.isnan(x).flatten(1).any(1)
        nothing = {name: torch.empty(0, dtype=torch.float64) for name in KINDS}
        if not bool(complete.any()):
            return cls(num_samples=num_samples, by_kind=nothing)
        c = None if given is None else given[complete]
        of = importance(model, x[complete], num_samples=num_samples, given=c)
        by_kind = {name: kind.figure(of) for name, kind in KINDS.items()}
        return cls(num_samples=num_samples, by_kind=by_kind)

    @property
    def num_rows(self) -> int:
        return len(self.by_kind[EVIDENCE])

    def figures(
        self,
        model: LatentVariableModel,
        patterns: Bool[Tensor, "pattern cell"],
        kind: Kind,
        num_samples: int,
        seed: int,
    ) -> Iterator[PerRow]:
        (kept,) = (self.by_kind[name] for name, one in KINDS.items() if one is kind)
        for shown in patterns:
            known = num_samples == self.num_samples and bool(shown.all())
            yield kept if known else kept[:0]

    def tensors(self) -> dict[str, Tensor]:
        return {"draws": torch.tensor(self.num_samples), **self.by_kind}


def calibration_from(tensors: Mapping[str, Tensor], device: torch.device) -> Calibration:
    """The calibration whose ``tensors`` were saved."""
    if "x" in tensors:
        return KeptRows(**{name: kept.to(device) for name, kept in tensors.items()})
    by_kind = {name: tensors[name] for name in KINDS}
    return KeptFigures(num_samples=int(tensors["draws"]), by_kind=by_kind)
