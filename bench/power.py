"""How often calibration sees that q(z|x) is wrong, and how often it cries out where q is right.

    .venv/bin/python bench/power.py [--repetitions 100] [--rows 1000] [--draws 99] [--seed 0]

A linear-Gaussian model of 6 cells and 2 latents, whose p(z|x) is known and factorises. Each
repetition simulates rows anew and is told of q by its draws; counted is how often any quantity is
rejected, at 0.01 by Holm over all of them. Beside each share stands its 95 % interval (Clopper and
Pearson's): where q is right, it must reach down to 1 %.
"""

import argparse
from collections.abc import Mapping

import torch
from scipy import stats

from unveil.check.models import factorising, linear_vae
from unveil.diagnostics.calibration import calibrate
from unveil.evidence.linear_gaussian import GaussianPosterior


def posteriors() -> Mapping[str, GaussianPosterior]:
    """The exact q, and what is wrong with others."""
    exact = factorising().exact_posterior()

    def changed(gain: float = 1.0, width: float = 1.0) -> GaussianPosterior:
        return GaussianPosterior(gain=gain * exact.gain, covariance=width**2 * exact.covariance)

    return {
        "exact": exact,
        "5 % too narrow": changed(width=0.95),
        "10 % too narrow": changed(width=0.9),
        "15 % too narrow": changed(width=0.85),
        "twice too wide": changed(width=2.0),
        "mean shrunk by 10 %": changed(gain=0.9),
        "collapsed, the prior": GaussianPosterior(
            gain=0 * exact.gain, covariance=torch.eye(len(exact.gain), dtype=torch.float64)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The power of calibration.")
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=99)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    like = torch.zeros(1, len(factorising().mean), dtype=torch.float64)
    print("| q(z\\|x) | rejected | of | 95 % interval |\n|---|---|---|---|")
    for name, q in posteriors().items():
        vae = linear_vae(factorising(), q)
        found = [
            calibrate(vae, like, num_simulations=asked.rows, num_draws=asked.draws, seed=seed)
            for seed in range(asked.seed, asked.seed + asked.repetitions)
        ]
        rejected = sum(bool(one.rejected) for one in found)
        low, high = stats.binomtest(rejected, asked.repetitions).proportion_ci()
        share = f"{low:.0%} to {high:.0%}"
        print(f"| {name} | {rejected} | {asked.repetitions} | {share} |", flush=True)


if __name__ == "__main__":
    main()
