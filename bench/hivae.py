"""What fills tables of several kinds of columns: ours beside scikit-learn's, on HI-VAE's own masks.

    .venv/bin/python bench/hivae.py FOLDER [--sets Wine Breast Adult defaultCredit] [--masks 20 50]

FOLDER holds the folder uci_hivae: tables whose classes are integers, and for each of them one list
of cells to hide for every share of missing cells. Every method sees the rest of the first 3,000
rows and fills what is hidden. The errors are those of Nazábal et al. 2020, means over columns of a
type: of classes the share of wrong ones, of ranks the distance over the number of ranks, of numbers
the root mean squared error over the range. Behind every other method's stands what ours has less of
it, with the standard error of that difference over columns. Ours is `unveil.fit` as it comes, told
which columns are words; the others see numbers standardised and indicators of classes.
"""

import argparse
import csv
import gzip
import math
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

import unveil

Table = NDArray[np.float64]
MOST_ROWS = 3_000
CLASS, RANK, NUMBER = "classes", "ranks", "numbers"
TYPES = {"cat": CLASS, "ord": RANK, "ordinal": RANK}
Imputer = SimpleImputer | KNNImputer | IterativeImputer
RIVALS: Mapping[str, Callable[[], Imputer]] = {
    "mean/mode": SimpleImputer,  # the mean of indicators is largest for the mode
    "KNN": KNNImputer,
    "ridge": lambda: IterativeImputer(max_iter=20, random_state=0, tol=0.0),
}


@dataclass(frozen=True)
class Holes:
    """A table, the type of each column, and which cells are to be filled."""

    whole: Table
    types: list[str]
    hidden: NDArray[np.bool_]

    @classmethod
    def of(cls, folder: Path, name: str, share: int) -> "Holes":
        def lines(part: str) -> list[list[str]]:
            with gzip.open(folder / "uci_hivae" / f"{name}__{part}.csv.gz", "rt") as file:
                return [line for line in csv.reader(file.read().splitlines()) if line]

        whole = np.array(lines("data"), dtype=np.float64)
        types = [TYPES.get(line[0], NUMBER) for line in lines("data_types")[1:]]
        hidden = np.zeros(whole.shape, dtype=bool)
        row, column = np.array(lines(f"Missing{share}_1"), dtype=int).T - 1
        hidden[row, column] = True
        kept = np.flatnonzero(~hidden.all(axis=1))[:MOST_ROWS]
        return cls(whole[kept], types, hidden[kept])

    @property
    def seen(self) -> Table:
        return np.where(self.hidden, np.nan, self.whole)

    def errors(self, filled: Table) -> dict[str, list[float]]:
        """The error of every column that had cells to fill, by its type."""
        found: dict[str, list[float]] = {}
        for kind, truth, guess, hidden in zip(
            self.types, self.whole.T, filled.T, self.hidden.T, strict=True
        ):
            hidden = hidden & ~np.isnan(truth)
            span = np.nanmax(truth) - np.nanmin(truth)
            if span == 0 or not hidden.any():
                continue
            off = guess[hidden] - truth[hidden]
            error = {
                CLASS: np.mean(off != 0),
                RANK: np.abs(off).mean() / (span + 1),
                NUMBER: math.sqrt(np.square(off).mean()) / span,
            }[kind]
            found.setdefault(kind, []).append(float(error))
        return found


def ours(holes: Holes) -> Table:
    def cells(kind: str, column: Table) -> list[str | None] | Table:
        if kind != CLASS:
            return column
        return [None if math.isnan(cell) else f"class {cell:g}" for cell in column]

    named = zip(holes.types, holes.seen.T, strict=True)
    seen = pa.table({f"x{j}": cells(kind, column) for j, (kind, column) in enumerate(named)})
    filled = unveil.fit(seen).impute(seen)
    columns = [
        [float(str(cell).removeprefix("class ")) for cell in column.to_pylist()]
        for column in filled.columns
    ]
    return np.array(columns).T


def rival(holes: Holes, imputer: Imputer) -> Table:
    blocks = list(_blocks(holes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is said to, whatever the table
        seen = np.concatenate([block for block, _ in blocks], axis=1)
        made = np.asarray(imputer.fit_transform(seen))
    ends = np.cumsum([block.shape[1] for block, _ in blocks])[:-1]
    columns = [back(part) for (_, back), part in zip(blocks, np.split(made, ends, 1), strict=True)]
    return np.where(holes.hidden, np.stack(columns, axis=1), holes.whole)


def _blocks(holes: Holes) -> Iterator[tuple[Table, Callable[[Table], Table]]]:
    """What others see of each column, and how that becomes a value of the column again."""
    for kind, column in zip(holes.types, holes.seen.T, strict=True):
        known = column[~np.isnan(column)]
        if kind == CLASS:
            # All but one: that would follow from the others, and be filled from them alone.
            first, *others = np.unique(known)
            missing = np.isnan(column)[:, None]
            indicators = np.where(missing, np.nan, column[:, None] == np.array(others))

            def likeliest(part, classes=np.array([first, *others])) -> Table:  # noqa: B008 (frozen)
                whole = np.column_stack([1 - part.sum(axis=1), part])
                return classes[whole.argmax(axis=1)]

            yield indicators, likeliest
        else:
            centre, scale = known.mean(), known.std() or 1.0
            nearest = np.round if kind == RANK else np.asarray

            def back(part, centre=centre, scale=scale, nearest=nearest) -> Table:
                return nearest(part[:, 0] * scale + centre)

            yield (column[:, None] - centre) / scale, back


def compare(folder: Path, name: str, share: int) -> None:
    holes = Holes.of(folder, name, share)
    mine = holes.errors(ours(holes))
    theirs = {title: holes.errors(rival(holes, make())) for title, make in RIVALS.items()}
    for kind, errors in mine.items():
        told = [f"ours {statistics.mean(errors):.3f}"]
        for title, found in theirs.items():
            less = [their - own for their, own in zip(found[kind], errors, strict=True)]
            error = (
                f" ± {statistics.stdev(less) / math.sqrt(len(less)):.3f}" if len(less) > 1 else ""
            )
            told.append(
                f"{title} {statistics.mean(found[kind]):.3f} ({statistics.mean(less):+.3f}{error})"
            )
        print(f"{name}, {share} %, {len(errors)} {kind}: {', '.join(told)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="What fills tables of several kinds of columns.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", default=["Wine", "Breast", "Adult", "defaultCredit"])
    parser.add_argument("--masks", nargs="+", type=int, default=[20, 50])
    asked = parser.parse_args()
    for name in asked.sets:
        for share in asked.masks:
            compare(asked.folder, name, share)


if __name__ == "__main__":
    main()
