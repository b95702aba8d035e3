"""Fidelity: whether drawn columns, and pairs of them, are distributed as the real ones are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from unveil.synthesis.trial import Side, Trial

MOST_ROWS = 50_000
MOST_PAIRS_TOLD = 10
WAY_TO_GET_IT = (
    "fidelity was left out, for sdmetrics is not installed; pip install 'unveil[synthesis]' brings "
    "it"
)


@final
@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """What sdmetrics' QualityReport finds, each a share of 1; None where it finds nothing.

    ``quality`` is the mean of ``column_shapes`` and ``pair_trends``; ``columns`` has the score of
    each column and ``worst_pairs`` the pairs with the lowest.
    """

    quality: float | None
    column_shapes: float | None
    pair_trends: float | None
    columns: Mapping[str, float | None]
    worst_pairs: tuple[tuple[str, str, float], ...]


def fidelity(trial: Trial) -> Fidelity | None:
    """How alike drawn and training rows are, column by column and pair by pair.

    A column of numbers scores 1 − sup_t |F(t) − G(t)|, one of classes 1 − ½ Σ_k |p_k − q_k|; a pair
    of number columns 1 − ½ |ρ − σ| of their correlations, any other 1 − ½ Σ |p − q| of their table,
    numbers in ten bins. Missing cells are left out. 50,000 rows a side are looked at. None without
    sdmetrics, the extra ``synthesis``, which computes it (https://docs.sdv.dev/sdmetrics).

    >>> import numpy as np
    >>> from unveil.data.read import Rows
    >>> from unveil.data.schema import Column, Schema
    >>> from unveil.synthesis.trial import trial
    >>> rows = Rows(np.random.default_rng(0).normal(size=(50, 2)), ("a", "b"))
    >>> schema = Schema((2,), (Column("a", "real"), Column("b", "real")), gaps=False)
    >>> found = fidelity(trial(schema, rows, rows, rows))
    >>> 1.0 if found is None else found.quality
    1.0
    """
    try:
        import pandas as pd
        from sdmetrics.reports.single_table import QualityReport
    except ImportError:
        return None

    def frame(side: Side) -> pd.DataFrame:
        return pd.DataFrame(side.cells, columns=pd.Index(names))

    names = [column.name for column in trial.columns]
    kinds = {
        name: {"sdtype": "categorical" if is_class else "numerical"}
        for name, is_class in zip(names, trial.of_classes, strict=True)
    }
    real = trial.some(trial.training, MOST_ROWS, "training")
    drawn = trial.some(trial.drawn, MOST_ROWS, "drawn")
    report = QualityReport()
    report.generate(frame(real), frame(drawn), {"columns": kinds}, verbose=False)
    parts = dict(report.get_properties().itertuples(index=False))
    shapes = report.get_details("Column Shapes")
    pairs = report.get_details("Column Pair Trends")
    scored = [
        (first, second, float(score))
        for first, second, score in zip(
            pairs["Column 1"], pairs["Column 2"], pairs["Score"], strict=True
        )
        if not math.isnan(score)
    ]
    return Fidelity(
        quality=_known(report.get_score()),
        column_shapes=_known(parts["Column Shapes"]),
        pair_trends=_known(parts["Column Pair Trends"]),
        columns=dict(zip(shapes["Column"], map(_known, shapes["Score"]), strict=True)),
        worst_pairs=tuple(sorted(scored, key=lambda pair: pair[2])[:MOST_PAIRS_TOLD]),
    )


def _known(score: Any) -> float | None:
    return None if math.isnan(score) else float(score)
