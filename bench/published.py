"""Published results again, at their own settings: ours beside the paper's.

    .venv/bin/python bench/published.py FOLDER [--rows vae iwae5] [--seeds 0] [--runs FOLDER]

FOLDER holds MNIST's IDX files. A row of the table is one model, trained for at most its minutes on
the training images, binarised afresh at every batch; its figure is −log p(x) in nats per image by
5,000-draw IWAE on the 10,000 test images, binarised once from the seed. Trained weights stay in the
folder of runs, and a row whose weights are there is only evaluated.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import unveil
from unveil.data.read import read
from unveil.data.stream import Binarized
from unveil.evidence.importance import importance
from unveil.networks.mlp import linear
from unveil.noise import generator
from unveil.storage import read_tensors, write_tensors

TRAIN, TEST = "train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"
DRAWS = 5_000


@dataclass(frozen=True, kw_only=True)
class Row:
    """One published figure: where it stands, and how we go for it."""

    source: str
    published: float
    objective: unveil.Objective
    minutes: float
    make: Callable[[int], unveil.VAE]
    recipe: unveil.Recipe


def burda(seed: int) -> unveil.VAE:
    """784-200-200-50 with tanh, as in Burda et al. 2016, one stochastic layer."""
    weights = generator(seed, "weights")

    def network(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            linear(inputs, 200, generator=weights),
            nn.Tanh(),
            linear(200, 200, generator=weights),
            nn.Tanh(),
            linear(200, outputs, gain=0.1, generator=weights),
        )

    return unveil.VAE(
        prior=unveil.StandardNormal(50),
        likelihood=unveil.Conditional(network(50, 784), unveil.Bernoulli(784)),
        posterior=unveil.Conditional(network(784, 100), unveil.DiagonalGaussian(50)),
    )


RECIPE = unveil.Recipe(batch_size=100, learning_rate=2e-3, weight_decay=0.0, compiled=True)
ROWS = {
    "vae": Row(
        source="Burda et al. 2016, one layer, VAE",
        published=86.76,
        objective=unveil.ELBO(),
        minutes=40,
        make=burda,
        recipe=RECIPE,
    ),
    "iwae5": Row(
        source="Burda et al. 2016, one layer, IWAE, 5 draws",
        published=85.54,
        objective=unveil.IWAE(num_samples=5),
        minutes=40,
        make=burda,
        recipe=RECIPE,
    ),
}


def levels(path: Path) -> Tensor:
    """Grey levels, uint8 (row, 784)."""
    return torch.from_numpy(read(str(path)).values).flatten(1)


def trained(name: str, row: Row, data: Path, seed: int, runs: Path) -> tuple[unveil.VAE, Any]:
    """The model of a row, trained unless its weights are there, and what training it took."""
    weights, facts = runs / f"{name}-{seed}.safetensors", runs / f"{name}-{seed}.json"
    vae = row.make(seed)
    images = levels(data / TRAIN)
    with torch.no_grad():
        decoder = vae.p_x_given_z
        decoder.network[-1].bias.copy_(decoder.family.start(images.float().mean(0) / 255))  # pyright: ignore
    if weights.exists():
        vae.load_state_dict(read_tensors(weights))
        return vae, json.loads(facts.read_text())
    began = time.monotonic()
    result = unveil.train(
        vae,
        Binarized(images, low=0.0, high=255.0),
        objective=row.objective,
        recipe=row.recipe,
        seed=seed,
        epochs=None,
        max_minutes=row.minutes,
    )
    last = result.history[-1]
    said = {"minutes": (time.monotonic() - began) / 60, "epochs": last["epoch"]}
    runs.mkdir(parents=True, exist_ok=True)
    write_tensors(weights, vae.state_dict())
    facts.write_text(json.dumps(said))
    return vae, said


def main() -> None:
    parser = argparse.ArgumentParser(description="Published results again, at their settings.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/published"))
    parser.add_argument("--draws", type=int, default=DRAWS)
    arguments = parser.parse_args()
    print("| setting | published | ours | −ELBO | active | seed | minutes, epochs |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in arguments.rows:
        row = ROWS[name]
        for seed in arguments.seeds:
            vae, facts = trained(name, row, arguments.data, seed, arguments.runs)
            drawn = Binarized(levels(arguments.data / TEST), low=0.0, high=255.0)
            x = drawn.batch(torch.arange(len(drawn)), generator(seed, "binarise"))
            result = importance(vae, x, num_samples=arguments.draws)
            log_p = result.log_evidence
            error = float(log_p.std()) / len(log_p) ** 0.5
            active = int((result.means.var(0) > 0.01).sum())
            print(
                f"| {row.source} | {row.published:.2f} | {-float(log_p.mean()):.2f} ± {error:.2f} "
                f"(rows) | {-float(result.elbo.mean()):.2f} | {active} | {seed} "
                f"| {facts['minutes']:.0f}, {facts['epochs']} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
