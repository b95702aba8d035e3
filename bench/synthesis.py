"""Rows drawn like those of Adult: ours, beside CTGAN's TVAE where it is asked for.

    .venv/bin/python bench/synthesis.py FOLDER [--seeds 0 1 2] [--fits usual tighter] [--tvae]

FOLDER holds the folder uci_tabular. Of Adult's 32,561 training rows, missing words kept as words,
four in five are fitted, another fifth for each seed, and as many are drawn. Told are the seconds of
the fit; sdmetrics' quality, and its parts for columns and pairs of them; AUROC and macro-F1 of
gradient-boosted trees that predict income for the last fifth, having learned from drawn rows, with
those that learned from real ones on a line of their own; AUROC of trees that tell drawn rows from
that fifth; and the share of drawn rows closer to a row that was fitted than to one that was not.

The usual fit is `unveil.fit(table)` as it comes, with nothing chosen for Adult. The tighter one
climbs a bound of 8 draws with 8 latents for three minutes, so that fewer latents are pruned. TVAE
trains for 300 epochs, as it comes, and its numbers are put within the range of the rows. sdmetrics
is the extra `synthesis`. The peer is installed by hand, which leaves torch as it is: pip install -c
constraints.txt ctgan (its licence is the Business Source License).
"""

import argparse
import gzip
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import unveil
from unveil.synthesis.report import SynthesisReport, report
from unveil.synthesis.trial import trial

NUMBERS = "age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week"
NAMES = (
    "age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation",
    "relationship", "race", "sex", "capital_gain", "capital_loss", "hours_per_week",
    "native_country", "income",
)  # fmt: skip
TARGET, HELD_OUT, EPOCHS_OF_TVAE = "income", 0.2, 300
FITS: Mapping[str, Mapping[str, Any]] = {
    "usual": {},
    "tighter": {"objective": "dreg:num_samples=8", "latent": 8, "max_minutes": 3.0},
}


def adult(folder: Path) -> pa.Table:
    with gzip.open(folder / "uci_tabular" / "adult-train.csv.gz", "rt") as file:
        lines = [[cell.strip() for cell in line.split(",")] for line in file if line.strip()]
    columns = dict(zip(NAMES, zip(*lines, strict=True), strict=True))
    return pa.table(
        {
            name: list(map(int, cells)) if name in NUMBERS else list(cells)
            for name, cells in columns.items()
        }
    )


@dataclass(frozen=True)
class Halves:
    """Rows to fit and rows held out, by lot."""

    fitted: pa.Table
    held_out: pa.Table

    @classmethod
    def of(cls, table: pa.Table, seed: int) -> "Halves":
        order = np.random.default_rng(seed).permutation(len(table))
        first = round(len(table) * (1 - HELD_OUT))
        return cls(table.take(order[:first]), table.take(order[first:]))


def tvae(table: pa.Table, seed: int) -> tuple[float, pa.Table]:
    """Seconds of the fit, and as many rows as it was fitted to."""
    from ctgan import TVAE  # pyright: ignore[reportMissingImports]

    began = time.perf_counter()
    model = TVAE(epochs=EPOCHS_OF_TVAE)
    model.set_random_state(seed)
    model.fit(table.to_pandas(), [name for name in NAMES if name not in NUMBERS])
    seconds = time.perf_counter() - began
    drawn = model.sample(len(table))
    for name in NUMBERS:  # it draws gains below 0 too
        drawn[name] = drawn[name].clip(*np.quantile(table[name], (0, 1)))
    return seconds, pa.Table.from_pandas(drawn, preserve_index=False)


def judged(model: unveil.Fitted, halves: Halves, drawn: Any, seed: int) -> SynthesisReport:
    sides = [model.rows(rows, "missing") for rows in (halves.fitted, halves.held_out, drawn)]
    return report(trial(model.schema, *sides, seed=seed), target=TARGET)


def figures(seconds: float, found: SynthesisReport) -> dict[str, float | None]:
    assert found.fidelity and found.utility and found.detection and found.nearness
    return {
        "fit s": seconds,
        "quality": found.fidelity.quality,
        "columns": found.fidelity.column_shapes,
        "pairs": found.fidelity.pair_trends,
        **{FIGURES[name]: figure for name, figure in found.utility.drawn.items()},
        "real/drawn": found.detection.auroc,
        "closer": found.nearness.share,
        "copies": found.copies.found,
    }


FIGURES: Mapping[str, str] = {"auroc": "AUROC", "macro_f1": "macro-F1"}


def line(title: str, found: Mapping[str, float | None]) -> str:
    told = (f"{name} {value:<7.4g}" for name, value in found.items() if value is not None)
    return f"{title:28}" + "  ".join(told)


def mean(runs: list[dict[str, float | None]]) -> dict[str, float | None]:
    return {name: statistics.mean(run[name] or 0.0 for run in runs) for name in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Rows drawn like those of Adult.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--fits", nargs="+", choices=FITS, default=list(FITS))
    parser.add_argument("--tvae", action="store_true", help="fit CTGAN's TVAE as well")
    asked = parser.parse_args()
    table = adult(asked.folder)
    runs: dict[str, list[dict[str, float | None]]] = {}

    def tell(name: str, seed: int, found: dict[str, float | None]) -> None:
        print(line(f"{name}, seed {seed}", found), flush=True)
        runs.setdefault(name, []).append(found)

    for seed in asked.seeds:
        halves = Halves.of(table, seed)
        models: list[unveil.Fitted] = []
        for name in asked.fits:
            began = time.perf_counter()
            model = unveil.fit(halves.fitted, seed=seed, **FITS[name])
            seconds = time.perf_counter() - began
            found = judged(model, halves, model.sample(len(halves.fitted), seed=seed), seed)
            assert found.utility
            real = {FIGURES[name]: value for name, value in found.utility.real.items()}
            tell(f"real, beside {name}", seed, real)
            tell(name, seed, figures(seconds, found))
            models.append(model)
        if asked.tvae:
            seconds, drawn = tvae(halves.fitted, seed)
            tell("TVAE", seed, figures(seconds, judged(models[0], halves, drawn, seed)))
    for name, of_name in runs.items():
        print(line(f"{name}, mean", mean(of_name)))


if __name__ == "__main__":
    main()
