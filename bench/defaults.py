"""The defaults of `unveil fit`, each against what else it could have been, by the held-out bound.

    .venv/bin/python bench/defaults.py FOLDER [--kinds binary grey real mixed counts]
                                              [--minutes 0.5]

FOLDER holds the folders mnist, fashion_mnist, adbench, uci_tabular and scrna_worm_neuron. For each
kind of data and each of its sets the first line is the default, and every other line changes one
thing. Each is trained for the same minutes on the same rows; the figure is the mean over held-out
rows of 100-draw IWAE, in nats per row, and for the other lines what it gained over the default on
the same rows, with the standard error of that difference. They chose nothing, where there were
enough of them to keep half apart.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv
from torch import Tensor

from unveil.data.read import Rows, read
from unveil.evidence.importance import importance
from unveil.feed import to_tensors
from unveil.fitting import plan, train_planned
from unveil.request import Request

DRAWS, MOST_IMAGES, MOST_JUDGED = 100, 8_000, 1_000


def images(folder: str) -> Callable[[Path], Any]:
    return lambda data: read(str(data / folder / "train-images-idx3-ubyte.gz")).take(
        slice(0, MOST_IMAGES)
    )


def digits(data: Path) -> Any:
    return "digits"


def breast_cancer(data: Path) -> Any:
    return "breast_cancer"


def adbench(name: str) -> Callable[[Path], Any]:
    """A table of ADBench without the values that repeat: what is left is measured, not coded."""
    return lambda data: np.load(data / "adbench" / name)["X"].astype(np.float64)


def uci(name: str, data: Path) -> pa.Table:
    """A table with columns of several kinds, most of them on grids; ? is a missing cell."""
    return csv.read_csv(
        data / "uci_tabular" / f"{name}.csv.gz",
        read_options=csv.ReadOptions(autogenerate_column_names=True),
        convert_options=csv.ConvertOptions(null_values=["?", " ?"], strings_can_be_null=True),
    )


def genes(number: int) -> Callable[[Path], Any]:
    """The counts of the genes that were found most often, one row for each cell."""

    def counts(data: Path) -> Any:
        with np.load(data / "scrna_worm_neuron" / "worm_neuron_counts_csr.npz") as stored:
            dense = np.zeros(tuple(stored["shape"]), np.float32)
            rows = np.repeat(np.arange(len(dense)), np.diff(stored["indptr"]))
            dense[rows, stored["indices"].astype(int)] = stored["data"]
        chosen = dense[:, np.argsort(-dense.sum(0))[:number]].astype(np.float64)
        return Rows(chosen[chosen.sum(1) > 0], tuple(f"g{i}" for i in range(number)))

    return counts


def synthetic_counts(data: Path) -> Any:
    """Gamma-Poisson counts of 20 columns that three latent variables drive."""
    draws = np.random.default_rng(0)
    log_mean = draws.normal(size=(3_000, 3)) @ draws.normal(size=(3, 20)) * 0.7
    counts = draws.poisson(np.exp(log_mean) * draws.gamma(2.0, 0.5, size=log_mean.shape))
    return Rows(counts.astype(np.float64), tuple(f"c{i}" for i in range(20)))


# For each kind of data: its sets, what the default is asked as, and what else it could be.
KINDS: Mapping[str, tuple[Mapping[str, Callable[[Path], Any]], dict[str, Any], list[Any]]] = {
    "binary": (
        {"digits": digits, "MNIST": images("mnist"), "Fashion-MNIST": images("fashion_mnist")},
        {"likelihood": "bernoulli"},
        [
            {"prior": "mixture:components=50"},
            {"network": "conv"},
            {"levels": 2},
        ],
    ),
    "grey": (
        {"digits": digits, "MNIST": images("mnist"), "Fashion-MNIST": images("fashion_mnist")},
        {},
        [
            {"likelihood": "auto"},
            {"likelihood": "discretized_logistic_mixture:components=3"},
            {"prior": "mixture:components=50"},
            {"network": "conv"},
        ],
    ),
    "real": (
        {
            "breast_cancer": breast_cancer,
            "satimage-2": adbench("31_satimage-2.npz"),
            "cardio": adbench("6_cardio.npz"),
            "glass": adbench("14_glass.npz"),
        },
        {},
        [
            {"likelihood": "auto"},
            {"likelihood": "auto:real=student_t,scale=cell"},
            {"prior": "mixture:components=10"},
            {"posterior": "full"},
            {"posterior": "flow"},
        ],
    ),
    "mixed": (
        {
            "Adult, 5,000 rows": lambda data: uci("adult-train", data).slice(0, 5_000),
            "red wine": partial(uci, "winequality-red"),
            "white wine": partial(uci, "winequality-white"),
        },
        {},
        [{"likelihood": "auto:scale=cell"}],
    ),
    "counts": (
        {"worm, 50 genes": genes(50), "worm, 300 genes": genes(300), "synthetic": synthetic_counts},
        {"likelihood": "negative_binomial"},
        [
            {"likelihood": "poisson"},
            {"likelihood": "zero_inflated_negative_binomial"},
            {"likelihood": "negative_binomial:scale=cell"},
            {"prior": "mixture:components=10"},
        ],
    ),
}


def held_out(data: Any, asked: Mapping[str, Any], minutes: float) -> Tensor:
    """The bound of each held-out row, nats."""
    planned = plan(data, Request(max_minutes=minutes, **asked))
    _, vae, _ = train_planned(planned)
    rows = planned.calibration if len(planned.calibration) else planned.held_out
    few, seed = rows.take(slice(0, MOST_JUDGED)), planned.settings.seed
    x, given = to_tensors(planned.schema, planned.covariates, few, seed)
    return importance(vae, x, num_samples=DRAWS, given=given).log_evidence


def error(values: Tensor) -> float:
    return float(values.std()) / len(values) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description="The defaults against what else they could be.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--minutes", type=float, default=0.5)
    arguments = parser.parse_args()
    print("| kind | data | asked for | nats per row, or gain over the default |")
    print("|---|---|---|---|", flush=True)
    for kind in arguments.kinds:
        sets, default, others = KINDS[kind]
        for name, load in sets.items():
            data = load(arguments.data)
            base = held_out(data, default, arguments.minutes)
            said = ", ".join(default.values()) or "the default"
            print(
                f"| {kind} | {name} | {said} | {base.mean():.2f} ± {error(base):.2f} |", flush=True
            )
            for other in others:
                gain = held_out(data, {**default, **other}, arguments.minutes) - base
                changed = ", ".join(f"{key} {value}" for key, value in other.items())
                print(
                    f"| {kind} | {name} | {changed} | {gain.mean():+.2f} ± {error(gain):.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
