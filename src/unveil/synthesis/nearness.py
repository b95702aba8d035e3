"""Nearness: whether drawn rows lie closer to the rows trained on than to others like them."""

import math
from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from unveil.synthesis.trial import Trial

MOST_ROWS = 10_000  # on each side: their distances are taken pair by pair
PAIRS_AT_ONCE = 2**22
LARGEST_SHARE = 0.52
NOBODY = (
    "nearness was left out, for the training rows or the held-out ones have no row that differs "
    "from all others"
)
Table: TypeAlias = NDArray[np.float64]


@final
@dataclass(frozen=True, kw_only=True)
class Nearness:
    """The ``share`` of ``rows`` drawn rows whose closest real row was trained on, were there as
    many of either kind, ``se`` its standard error; ``passes`` where it is at most 0.52.

    They were held against ``training`` rows trained on and ``held_out`` rows held out.
    """

    share: float
    se: float
    passes: bool
    rows: int
    training: int
    held_out: int


@final
@dataclass(frozen=True, kw_only=True)
class Copies:
    """How many of ``rows`` drawn rows are exact copies of training rows, ``found``, and how many of
    as many new real rows without gaps would be, ``expected``."""

    found: int
    expected: float
    rows: int


def nearness(trial: Trial) -> Nearness | None:
    """The share of drawn rows that are closer to training rows than to held-out ones.

    d²(a, b) = Σ_j (a_j − b_j)² over standardised numbers + 2 Σ_j [a_j ≠ b_j] over classes, which is
    the squared distance of classes coded 0 and 1. A drawn row counts for the real row that is
    closest, in equal parts where several are. With a and b what a training row and a held-out one
    count on average, the share is a/(a + b): the larger lot does not win by its number, and where
    both are as large it is the plain share. Only real rows that no other equals are looked at: the
    others single nobody out, and ``fit`` keeps them all on one side. 10,000 rows of each kind are.

    Had the m training and n held-out rows been told apart by lot, the share would be ½ but for
    ``se``, s √(1/m + 1/n)/(4c), with c and s the mean and standard deviation of what a real row
    counts. None where a side has no row that no other equals. (After Platzer & Reutterer, 2021,
    "Holdout-based empirical assessment of mixed-type synthetic data".)

    >>> from unveil.data.read import Rows
    >>> from unveil.data.schema import Column, Schema
    >>> from unveil.synthesis.trial import trial
    >>> schema = Schema((1,), (Column("a", "real"),), gaps=False)
    >>> a, b = (Rows(np.random.default_rng(i).normal(size=(50, 1))) for i in (0, 1))
    >>> nearness(trial(schema, a, b, a)).share
    1.0
    """
    learned, unseen = (
        trial.some(side.take(alone), MOST_ROWS, "references")
        for side, alone in zip((trial.training, trial.held_out), _alone(trial), strict=True)
    )
    if not (len(learned) and len(unseen)):
        return None
    drawn = trial.some(trial.drawn, MOST_ROWS, "drawn")
    counts = _counts(trial, drawn.cells, np.concatenate([learned.cells, unseen.cells]))
    a, b = counts[: len(learned)].mean(), counts[len(learned) :].mean()
    share = float(a / (a + b))
    error = counts.std(ddof=1) * math.sqrt(1 / len(learned) + 1 / len(unseen))
    return Nearness(
        share=share,
        se=float(error / (4 * counts.mean())),
        passes=share <= LARGEST_SHARE,
        rows=len(drawn),
        training=len(learned),
        held_out=len(unseen),
    )


def copies(trial: Trial) -> Copies:
    """How many drawn rows equal a training row in every cell, and how many real ones would.

    The share of training rows that equal another one estimates the chance that a new row equals one
    of them: small tables of few classes are full of copies, whoever draws. Held-out rows cannot
    tell it, for ``fit`` keeps equal rows on one side. Rows with gaps, of which drawn ones have
    none, are left out of it.

    >>> from unveil.data.read import Rows
    >>> from unveil.data.schema import Column, Schema
    >>> from unveil.synthesis.trial import trial
    >>> a, b = Rows(np.array([[1.0], [1.0], [2.0]])), Rows(np.array([[2.0], [3.0]]))
    >>> copies(trial(Schema((1,), (Column("a", "real"),), gaps=False), a, b, b))
    Copies(found=1, expected=1.333..., rows=2)
    """
    known = trial.training.keys
    found = int(np.isin(trial.drawn.keys, known).sum())
    again = _times(known)[~np.isnan(trial.training.cells).any(axis=1)] > 1
    expected = len(trial.drawn) * float(again.mean()) if len(again) else 0.0
    return Copies(found=found, expected=expected, rows=len(trial.drawn))


def _alone(trial: Trial) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which training rows and which held-out ones no other of either kind equals."""
    alone = _times(np.concatenate([trial.training.keys, trial.held_out.keys])) == 1
    return alone[: len(trial.training)], alone[len(trial.training) :]


def _times(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each key stands among them, (row,).

    >>> _times(np.array([7, 3, 7]))
    array([2, 1, 2])
    """
    return np.bincount(keys)[keys]


def _counts(trial: Trial, drawn: Table, real: Table) -> NDArray[np.float64]:
    """For how many drawn rows each real one is the closest, (real row,); several that are share."""
    step, counts = max(1, PAIRS_AT_ONCE // len(real)), np.zeros(len(real))
    for first in range(0, len(drawn), step):
        squares = _squares(trial.of_classes, drawn[first : first + step], real)
        closest = squares == squares.min(axis=1, keepdims=True)
        counts += (closest / closest.sum(axis=1, keepdims=True)).sum(axis=0)
    return counts


def _squares(of_classes: NDArray[np.bool_], drawn: Table, real: Table) -> Table:
    """Squared distances (drawn row, real row)."""
    one, other = (np.nan_to_num(side[:, ~of_classes]) for side in (drawn, real))
    squares = cdist(one, other, "sqeuclidean")
    if of_classes.any():
        one, other = (_marked(side[:, of_classes]) for side in (drawn, real))
        squares = squares + 2.0 * np.rint(cdist(one, other, "hamming") * of_classes.sum())
    return np.asarray(squares, np.float64)


def _marked(codes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Codes, a gap as a class of its own. (A missing number lies at the mean, which is 0.)"""
    return np.nan_to_num(codes, nan=-1.0)
