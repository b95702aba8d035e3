"""What prior, posterior, objective and network buy: one thing changed at a time, in equal minutes.

    .venv/bin/python bench/ablations.py FOLDER [--minutes 3] [--seed 0] [--parts prior network]

FOLDER holds the folder mnist. Binarised MNIST, all 60,000 training images, the defaults of `unveil
fit` but for what a line names. The figure is −log p(x) in nats on the first 2,000 test images by
200-draw IWAE; beside it what the line gains over the first on the same images, with the standard
error of that difference.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import unveil
from unveil.evidence.importance import importance
from unveil.evidence.row_bounds import row_error

TRAIN, TEST = "train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"
JUDGED, DRAWS = 2_000, 200

# What is changed, under the heading of what kind of thing it is.
LINES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("defaults", {}),
    ("prior", {"prior": "mixture:components=100"}),
    ("prior", {"prior": "vamp:components=100"}),
    ("posterior", {"posterior": "full"}),
    ("objective", {"objective": "iwae:num_samples=5"}),
    ("objective", {"objective": "free_bits_per_batch:free_nats=0.1"}),
    ("hierarchy", {"levels": 2}),
    ("network", {"network": "conv"}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="What each part of a model buys.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parts = list(dict.fromkeys(part for part, changed in LINES if changed))
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    arguments = parser.parse_args()
    train, test = (str(arguments.data / "mnist" / name) for name in (TRAIN, TEST))
    print("| part | changed | −log p(x) | gained | epochs | active |\n|---|---|---|---|---|---|")
    first = None
    for part, changed in LINES:
        if changed and part not in arguments.parts:
            continue
        asked = {"likelihood": "bernoulli", "max_minutes": arguments.minutes, **changed}
        fitted = unveil.fit(train, seed=arguments.seed, **asked)
        x = fitted.tensor(test)[:JUDGED]
        result = importance(fitted.vae, x, num_samples=DRAWS)
        log_p = result.log_evidence
        first = log_p if first is None else first
        gain = log_p - first
        active = int((result.means.var(0) > 0.01).sum())
        words = ", ".join(f"{name} {value}" for name, value in changed.items()) or "nothing"
        gained = f"{float(gain.mean()):+.2f} ± {row_error(gain) or 0.0:.2f}" if changed else ""
        epochs = fitted.history[-1]["epoch"]
        print(
            f"| {part} | {words} | {-float(log_p.mean()):.2f} | {gained} | {epochs} "
            f"| {active} of {fitted.vae.num_latents} |",
            flush=True,
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
