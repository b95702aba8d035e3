"""Gradient-boosted trees, which learn a column of a table from the others without being tuned."""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

Trees = TypeVar("Trees", HistGradientBoostingClassifier, HistGradientBoostingRegressor)
MOST_CLASSES = 255  # that such trees tell apart by sets of them; more are read as numbers


def trees(kind: type[Trees], sizes: NDArray[np.int64], seed: int) -> Trees:
    """Trees over columns that hold so many classes each, or numbers where that is 0.

    >>> trees(HistGradientBoostingRegressor, np.array([0, 3]), 0).categorical_features
    [False, True]
    """
    told_apart: Any = ((sizes > 0) & (sizes <= MOST_CLASSES)).tolist()
    return kind(categorical_features=told_apart, random_state=seed)
