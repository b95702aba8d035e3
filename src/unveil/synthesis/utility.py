"""Utility: whether what is learned from drawn rows holds of real ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import f1_score, r2_score, roc_auc_score

from unveil.errors import InputError
from unveil.synthesis.learners import trees
from unveil.synthesis.trial import Side, Trial

MOST_ROWS = 50_000
Table = NDArray[np.float64]
# A figure is None where the held-out rows leave it undefined.
Figures = Mapping[str, float | None]


@final
@dataclass(frozen=True, kw_only=True)
class Utility:
    """How well ``target`` is predicted for ``tested`` held-out rows, having learned from ``rows``
    drawn rows, and from as many real ones.

    The figures are ``auroc`` and ``macro_f1`` where the target holds classes, else ``r2``.
    """

    target: str
    rows: int
    tested: int
    drawn: Figures
    real: Figures


def utility(trial: Trial, target: str) -> Utility:
    """Trees trained on drawn rows and trees trained on real ones, both tested on held-out rows.

    The target is predicted from all other columns. Of several classes, the area under the ROC curve
    is the mean over each against the rest. Rows without the target are left out. Raises InputError
    for a target that is no modelled column, that is missing in all rows of a side, and for a table
    of one column. (Esteban, Hyland & Rätsch, 2017, "train on synthetic, test on real".)

    >>> from unveil.data.read import Rows
    >>> from unveil.data.schema import Column, Schema
    >>> from unveil.synthesis.trial import trial
    >>> a = np.random.default_rng(0).normal(size=(3, 400, 1))
    >>> rows = [Rows(np.hstack([part, 2 * part]), ("a", "b")) for part in a]
    >>> schema = Schema((2,), (Column("a", "real"), Column("b", "real")), gaps=False)
    >>> utility(trial(schema, *rows), "b").drawn["r2"] > 0.9
    True
    """
    place = trial.place(target)
    if len(trial.columns) == 1:
        raise InputError(
            f"expected columns beside {target!r} to predict it from, but there is no other; leave "
            f"the target out"
        )
    sides = [_told(side, place, target) for side in (trial.drawn, trial.training, trial.held_out)]
    rows = min(len(sides[0]), len(sides[1]), MOST_ROWS)
    drawn = trial.some(sides[0], rows, "drawn")
    real = trial.some(sides[1], rows, "training")
    judge = _judge_classes if trial.of_classes[place] else _judge_numbers
    return Utility(
        target=target,
        rows=rows,
        tested=len(sides[2]),
        drawn=judge(trial, place, drawn, sides[2]),
        real=judge(trial, place, real, sides[2]),
    )


def _told(side: Side, place: int, target: str) -> Side:
    """The rows that have the target."""
    there = side.take(~np.isnan(side.cells[:, place]))
    if not len(there):
        raise InputError(
            f"expected rows that have a {target!r}, but among the training rows, the held-out ones "
            f"or the drawn ones none does; choose another target"
        )
    return there


def _judge_classes(trial: Trial, place: int, learned: Side, tested: Side) -> Figures:
    others = np.delete(trial.sizes, place)
    model: Any = trees(HistGradientBoostingClassifier, others, trial.number("utility"))
    model.fit(_without(learned, place), learned.cells[:, place])
    found = model.predict_proba(_without(tested, place))[:, : len(model.classes_)]
    probabilities = np.zeros((len(tested), trial.sizes[place]))
    probabilities[:, model.classes_.astype(np.int64)] = found
    truth = tested.cells[:, place]
    predicted = probabilities.argmax(axis=1).astype(np.float64)
    return {
        "auroc": _area(truth, probabilities),
        "macro_f1": float(f1_score(truth, predicted, average="macro")),
    }


def _judge_numbers(trial: Trial, place: int, learned: Side, tested: Side) -> Figures:
    others = np.delete(trial.sizes, place)
    model = trees(HistGradientBoostingRegressor, others, trial.number("utility"))
    model.fit(_without(learned, place), learned.cells[:, place])
    truth = tested.cells[:, place]
    if truth.min() == truth.max():
        return {"r2": None}
    return {"r2": float(r2_score(truth, model.predict(_without(tested, place))))}


def _area(truth: NDArray[np.float64], probabilities: Table) -> float | None:
    """The mean area under the ROC curve of each class against the rest, over those among the
    tested rows; None where all of them are of one class.

    >>> _area(np.array([0.0, 1.0]), np.array([[0.8, 0.2], [0.3, 0.7]]))
    1.0
    """
    there = np.unique(truth).astype(np.int64)
    if len(there) < 2:
        return None
    return float(np.mean([roc_auc_score(truth == k, probabilities[:, k]) for k in there]))


def _without(side: Side, place: int) -> Table:
    return np.delete(side.cells, place, axis=1)
