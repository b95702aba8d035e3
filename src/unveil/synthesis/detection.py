"""Detection: whether a classifier tells drawn rows from real ones."""

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score

from unveil.synthesis.learners import trees
from unveil.synthesis.trial import Trial

FOLDS = 5
MOST_ROWS = 50_000
FEWEST_ROWS = 10 * FOLDS
TOO_FEW = (
    f"whether drawn rows are told from real ones was left out, for that takes {FEWEST_ROWS} drawn "
    f"rows and as many held-out ones"
)


@final
@dataclass(frozen=True, kw_only=True)
class Detection:
    """How well trees tell ``rows`` drawn rows from as many held-out ones: ``auroc``, 0.5 where they
    cannot, and ``chance``, the standard error that guesses would have."""

    auroc: float
    chance: float
    rows: int


def detection(trial: Trial) -> Detection | None:
    """The area under the ROC curve of "drawn" against "held out", by five-fold cross-validation.

    Drawn rows have no gaps, by which alone they would be told: each is given those of the real row
    beside it. The error by chance is √((m + n + 1)/(12 m n)), of Mann and Whitney's statistic. None
    where a side has fewer than 50 rows. (Lopez-Paz & Oquab, 2017, "Revisiting classifier two-sample
    tests".)

    >>> from unveil.data.read import Rows
    >>> from unveil.data.schema import Column, Schema
    >>> from unveil.synthesis.trial import trial
    >>> real, far = (Rows(np.random.default_rng(0).normal(m, size=(100, 1))) for m in (0, 9))
    >>> found = detection(trial(Schema((1,), (Column("a", "real"),), gaps=False), real, real, far))
    >>> found is not None and found.auroc > 0.99
    True
    """
    rows = min(len(trial.held_out), len(trial.drawn), MOST_ROWS)
    if rows < FEWEST_ROWS:
        return None
    real = trial.some(trial.held_out, rows, "held_out").cells
    drawn = np.where(np.isnan(real), np.nan, trial.some(trial.drawn, rows, "drawn").cells)
    seed = trial.number("detection")
    areas = cross_val_score(
        trees(HistGradientBoostingClassifier, trial.sizes, seed),
        np.concatenate([real, drawn]),
        np.repeat([0, 1], rows),
        scoring="roc_auc",
        cv=StratifiedKFold(FOLDS, shuffle=True, random_state=seed),
    )
    chance = math.sqrt((2 * rows + 1) / (12 * rows**2))
    return Detection(auroc=float(areas.mean()), chance=chance, rows=rows)
