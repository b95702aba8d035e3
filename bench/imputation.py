"""What fills half-empty tables: ours beside scikit-learn's imputers, on the same holes.

    .venv/bin/python bench/imputation.py FOLDER [--sets wine diabetes ...] [--masks 10] [--seeds 1]

FOLDER holds the folder adbench. Half of the cells of each table are hidden at random; every method
sees the rest and fills them. The figure is the root mean squared error on columns standardised by
their whole, beside it the error of its mean over masks, and for every other method what ours has
less of it on the same masks, with the standard error of that difference; then the share of hidden
cells that 90 % intervals hold. Ours is `unveil.fit` as it comes, with nothing chosen for a set. A
table is fitted ``seeds`` times per mask, and their errors are averaged.
"""

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn import datasets
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

import unveil

Table = NDArray[np.float64]
HIDDEN, LEVEL, MOST_ROWS = 0.5, 0.9, 3_000


def bundled(name: str) -> Callable[[Path], Table]:
    return lambda folder: getattr(datasets, f"load_{name}")().data.astype(np.float64)


def adbench(name: str) -> Callable[[Path], Table]:
    def table(folder: Path) -> Table:
        with np.load(folder / "adbench" / f"{name}.npz") as stored:
            return stored["X"].astype(np.float64)[:MOST_ROWS]

    return table


SETS: Mapping[str, Callable[[Path], Table]] = {
    "breast_cancer": bundled("breast_cancer"),
    "wine": bundled("wine"),
    "diabetes": bundled("diabetes"),
    "cardio": adbench("6_cardio"),
    "annthyroid": adbench("2_annthyroid"),
}


def forest() -> IterativeImputer:
    """After missForest: every column in turn by trees grown on the others."""
    trees = ExtraTreesRegressor(n_estimators=100, min_samples_leaf=2, n_jobs=-1, random_state=0)
    return IterativeImputer(trees, max_iter=5, random_state=0, tol=0.0)


RIVALS: Mapping[str, Callable[[], SimpleImputer | KNNImputer | IterativeImputer]] = {
    "mean": SimpleImputer,
    "KNN": KNNImputer,
    "ridge": lambda: IterativeImputer(max_iter=20, random_state=0, tol=0.0),
    "forest": forest,
}


@dataclass(frozen=True)
class Holes:
    """A table without rows that show nothing, and the cells that are hidden."""

    whole: Table
    hidden: NDArray[np.bool_]

    @classmethod
    def of(cls, whole: Table, seed: int) -> "Holes":
        hidden = np.random.default_rng(seed).random(whole.shape) < HIDDEN
        shown = ~hidden.all(axis=1)
        return cls(whole[shown], hidden[shown])

    @property
    def seen(self) -> Table:
        return np.where(self.hidden, np.nan, self.whole)

    def error(self, filled: Table) -> float:
        scale = self.whole.std(axis=0)
        off = (filled - self.whole)[:, scale > 0] / scale[scale > 0]
        return math.sqrt(np.square(off[self.hidden[:, scale > 0]]).mean())


def rival(holes: Holes, imputer: SimpleImputer | KNNImputer | IterativeImputer) -> float:
    centre, scale = np.nanmean(holes.seen, axis=0), np.nanstd(holes.seen, axis=0)
    scale[scale == 0] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is said to, whatever the table
        standard = imputer.fit_transform((holes.seen - centre) / scale)
    return holes.error(standard * scale + centre)


def ours(holes: Holes, seed: int) -> tuple[float, float]:
    """The error of our values, and the share of hidden cells that our intervals hold."""
    seen = pa.table({f"x{column}": cells for column, cells in enumerate(holes.seen.T)})
    found = unveil.fit(seen, seed=seed).imputation(seen, intervals=LEVEL, seed=seed)
    assert found.low is not None and found.high is not None
    values, low, high = found.values, found.low, found.high
    held = (low <= holes.whole) & (holes.whole <= high)
    return holes.error(values), float(held[holes.hidden].mean())


def mean_and_error(figures: Sequence[float]) -> str:
    mean = f"{statistics.mean(figures):.3f}"
    if len(figures) < 2:
        return mean
    return f"{mean} ± {statistics.stdev(figures) / math.sqrt(len(figures)):.3f}"


def compare(name: str, whole: Table, masks: int, seeds: int) -> None:
    errors: dict[str, list[float]] = {rival: [] for rival in RIVALS}
    mine, covered, took = [], [], []
    for mask in range(masks):
        holes = Holes.of(whole, mask)
        for title, imputer in RIVALS.items():
            errors[title].append(rival(holes, imputer()))
        began = time.perf_counter()
        both = [ours(holes, seed) for seed in range(seeds)]
        took.append((time.perf_counter() - began) / seeds)
        mine.append(statistics.mean(error for error, _ in both))
        covered.append(statistics.mean(held for _, held in both))
        latest = ", ".join(f"{title} {found[-1]:.3f}" for title, found in errors.items())
        print(f"  mask {mask}: ours {mine[-1]:.3f}, holds {covered[-1]:.1%}; {latest}", flush=True)
    print(f"\n{name}, {whole.shape[0]} rows of {whole.shape[1]}; {statistics.median(took):.0f} s")
    print(f"  ours    {mean_and_error(mine)}; 90 % intervals hold {statistics.mean(covered):.1%}")
    for title, found in errors.items():
        gain = [theirs - own for theirs, own in zip(found, mine, strict=True)]
        print(f"  {title:7} {mean_and_error(found)}; ours is less by {mean_and_error(gain)}")


def main() -> None:
    parser = argparse.ArgumentParser(description="What fills half-empty tables.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--masks", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args()
    for name in asked.sets:
        compare(name, SETS[name](asked.folder), asked.masks, asked.seeds)


if __name__ == "__main__":
    main()
