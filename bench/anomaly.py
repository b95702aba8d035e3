"""How well odd rows are told from usual ones: ours beside scikit-learn's detectors.

    .venv/bin/python bench/anomaly.py FOLDER [--sets glass cardio ...] [--seeds 1]

FOLDER holds the folder adbench, whose tables mark their odd rows. Half of the usual rows, 8,000 at
most, are fitted; the others and all odd ones are scored, 8,000 usual ones at most. Figures are 100
times the area under the ROC curve, averaged over seeds, each of which is another half. Ours is
`unveil.fit(table).score(others)` as it comes, with nothing chosen for a set; the other two kinds of
score of the same fit stand beside it.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

import unveil
from unveil.scoring.kinds import KINDS

Table = NDArray[np.float64]
SETS = {
    "glass": "14_glass",
    "Pima": "29_Pima",
    "annthyroid": "2_annthyroid",
    "satimage-2": "31_satimage-2",
    "shuttle": "32_shuttle",
    "thyroid": "38_thyroid",
    "breastw": "4_breastw",
    "cardio": "6_cardio",
}
MOST, NEIGHBOURS, VARIANCE_KEPT = 8_000, 5, 0.9


def nearest(usual: Table, judged: Table) -> Table:
    distances, _ = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(usual).kneighbors(judged)
    return distances[:, -1]


def forest(usual: Table, judged: Table) -> Table:
    return -IsolationForest(random_state=0).fit(usual).score_samples(judged)


def components(usual: Table, judged: Table) -> Table:
    pca = PCA(VARIANCE_KEPT).fit(usual)
    return np.square(judged - pca.inverse_transform(pca.transform(judged))).sum(axis=1)


RIVALS: Mapping[str, Callable[[Table, Table], Table]] = {
    f"{NEIGHBOURS}-NN": nearest,
    "forest": forest,
    "PCA": components,
}


def halves(path: Path, seed: int) -> tuple[Table, Table, NDArray[np.int64]]:
    """Usual rows to fit, rows to judge, and which of these are odd."""
    with np.load(path) as stored:
        x, odd = stored["X"].astype(np.float64), stored["y"].astype(np.int64)
    usual = np.random.default_rng(seed).permutation(np.flatnonzero(odd == 0))
    half = len(usual) // 2
    judged = np.concatenate([usual[half:][:MOST], np.flatnonzero(odd)])
    return x[usual[:half][:MOST]], x[judged], odd[judged]


def named(x: Table) -> pa.Table:
    return pa.table({f"x{column}": cells for column, cells in enumerate(x.T)})


def areas(usual: Table, judged: Table, odd: NDArray[np.int64], seed: int) -> dict[str, float]:
    fitted, found = unveil.fit(named(usual), seed=seed), {}
    for kind in KINDS:
        score = fitted.score(named(judged), kind=kind).score
        if not np.isnan(score).any():  # typicality has no value beside too few calibration rows
            found[kind] = roc_auc_score(odd, -stats.rankdata(score))  # some are infinite
    centre, scale = usual.mean(axis=0), usual.std(axis=0)
    scale[scale == 0] = 1.0
    for name, rival in RIVALS.items():
        found[name] = roc_auc_score(odd, rival((usual - centre) / scale, (judged - centre) / scale))
    return {name: 100 * float(area) for name, area in found.items()}


def line(title: str, found: Mapping[str, float]) -> str:
    return f"{title:12}" + "".join(f"{name} {area:5.1f}   " for name, area in found.items())


def main() -> None:
    parser = argparse.ArgumentParser(description="How well odd rows are told from usual ones.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args()
    means: dict[str, list[float]] = {}
    for name in asked.sets:
        path = asked.folder / "adbench" / f"{SETS[name]}.npz"
        runs = [areas(*halves(path, seed), seed) for seed in range(asked.seeds)]
        found = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
        print(line(name, found), flush=True)
        for key, area in found.items():
            means.setdefault(key, []).append(area)
    print(line("mean", {key: statistics.mean(found) for key, found in means.items()}))


if __name__ == "__main__":
    main()
