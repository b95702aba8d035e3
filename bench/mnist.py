"""MNIST at the command line's defaults: ten minutes of training, then the whole test set.

    .venv/bin/python bench/mnist.py FOLDER [--seeds 0 1 2] [--minutes 10] [--runs runs/mnist]

FOLDER holds the four IDX files (train-images-idx3-ubyte.gz, t10k-images-idx3-ubyte.gz). For each
seed it runs `unveil fit TRAIN --likelihood bernoulli --max-minutes 10` and then
`unveil evaluate MODEL TEST --draws 1000`, and prints a line of the table: nats per image that
1,000-draw IWAE puts on the 10,000 test images, binarised once from the seed and unused until then.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

TRAIN, TEST = "train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"


def unveil(*words: str) -> None:
    """Run one command, its own output going where this script's goes."""
    subprocess.run([str(Path(sys.executable).with_name("unveil")), *words], check=True)


def measure(data: Path, model: Path, seed: int, minutes: float) -> Any:
    """Fit and evaluate one seed: the figures of its evaluation."""
    unveil(
        "fit", str(data / TRAIN), "-o", str(model), "--likelihood", "bernoulli",
        "--max-minutes", str(minutes), "--seed", str(seed), "--overwrite",
    )  # fmt: skip
    out = model.with_suffix(".json")
    unveil("evaluate", str(model), str(data / TEST), "--draws", "1000", "--json", str(out))
    return json.loads(out.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description="MNIST at the defaults, in nats on the test set.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--runs", type=Path, default=Path("runs/mnist"))
    arguments = parser.parse_args()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    print("| seed | −log p(x) ≤ (IWAE 1,000) | −ELBO | rate | active units |")
    print("|---|---|---|---|---|", flush=True)
    values = []
    for seed in arguments.seeds:
        model = arguments.runs / f"seed-{seed}-minutes-{arguments.minutes:g}"
        e = measure(arguments.data, model, seed, arguments.minutes)
        values.append(-e["lower"]["value"])
        print(
            f"| {seed} | {values[-1]:.2f} ± {e['lower']['mc_se']:.2f} (draws) "
            f"± {e['lower']['data_se']:.2f} (rows) | {-e['elbo']:.2f} | {e['rate']:.2f} "
            f"| {e['active_units']} |",
            flush=True,
        )
    print(f"| mean | {statistics.mean(values):.2f} | | | |")


if __name__ == "__main__":
    main()
