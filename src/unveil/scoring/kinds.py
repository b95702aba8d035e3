"""What a row's draws say of how usual it is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TypeAlias, final

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.data.read import listed
from unveil.errors import InputError
from unveil.evidence.importance import Importance
from unveil.shapes import PerRow

Others: TypeAlias = Float[Tensor, " other"]


class Kind(ABC):
    """What a row's draws say of how usual it is: the higher, the more usual."""

    @abstractmethod
    def figure(self, of: Importance) -> PerRow:
        """What is compared, nats, (row,)."""

    @abstractmethod
    def score(self, own: PerRow, others: Others) -> PerRow:
        """The score of rows with a figure of their own, beside those of calibration rows."""

    @abstractmethod
    def as_unusual(self, own: PerRow, others: Others) -> Tensor:
        """How many of the others are at least as unusual as each row, (row,)."""


class Absolute(Kind, ABC):
    """A figure that is a score by itself."""

    def score(self, own: PerRow, others: Others) -> PerRow:
        return own

    def as_unusual(self, own: PerRow, others: Others) -> Tensor:
        return torch.searchsorted(others.sort().values, own.contiguous(), right=True)


@final
class Evidence(Absolute):
    """log p(x) by K importance-weighted draws: how probable the row is, all in all."""

    def figure(self, of: Importance) -> PerRow:
        return of.log_evidence


@final
class Reconstruction(Absolute):
    """E_q[log p(x|z)]: how well the row's own latents explain it, however improbable they are."""

    def figure(self, of: Importance) -> PerRow:
        return -of.distortion


@final
class Typicality(Kind):
    """−|log p(x) − mean|: a row may be too probable as well, such as a blank among pictures.

    The mean is over the calibration rows; to count those that are as unusual, over them and the
    row itself, which leaves all of them alike. Source: Nalisnick et al. 2019.
    """

    def figure(self, of: Importance) -> PerRow:
        return of.log_evidence

    def score(self, own: PerRow, others: Others) -> PerRow:
        return -(own - others.mean()).abs()

    def as_unusual(self, own: PerRow, others: Others) -> Tensor:
        middle = (others.sum() + own) / (len(others) + 1)
        apart = (own - middle).abs()
        ascending = others.sort().values
        below = torch.searchsorted(ascending, middle - apart, right=True)
        above = len(others) - torch.searchsorted(ascending, middle + apart)
        return torch.where(apart == 0, len(others), below + above)


EVIDENCE = "evidence"
KINDS: Mapping[str, Kind] = {
    EVIDENCE: Evidence(),
    "reconstruction": Reconstruction(),
    "typicality": Typicality(),
}


def kind_of(name: str) -> Kind:
    """The kind of score that a name stands for. Raises InputError for an unknown one."""
    if name not in KINDS:
        raise InputError(
            f"expected the kind of score to be one of {listed(KINDS)}, but {name!r} came; choose "
            "one of them"
        )
    return KINDS[name]
