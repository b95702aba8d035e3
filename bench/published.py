"""Published results and ours, side by side.

    .venv/bin/python bench/published.py FOLDER [--rows vae iwae5 dreg50 any grey fashion]
                                               [--seeds 0] [--runs FOLDER]

FOLDER holds the folders mnist and fashion_mnist with their IDX files. A row is one model, trained
on the training images for at most its minutes, by default on all cores. Its figure is the
importance weighted bound on the 10,000 test images: −log p(x) in nats for binary images, drawn
afresh at every training batch and once for the test; bits per dimension for grey levels, beside
what PNG and bz2 need for the same images. A model stays in the folder of runs, and is trained once.
"""

import argparse
import bz2
import io
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import unveil
from unveil.data.read import read
from unveil.data.stream import Binarized
from unveil.evidence.importance import Importance, importance
from unveil.evidence.row_bounds import row_error
from unveil.networks.mlp import linear
from unveil.noise import generator
from unveil.storage import read_tensors, write_tensors

TRAIN, TEST = "train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"
PIXELS = 784


@dataclass(frozen=True, kw_only=True)
class Row(ABC):
    """One line of the table: a published figure, and how we go for it."""

    source: str
    published: str
    draws: int
    minutes: float
    folder: str = "mnist"
    bits: bool = False

    @abstractmethod
    def judged(self, data: Path, run: Path, seed: int) -> tuple[Importance, str]:
        """What the test rows say of the model, trained unless it is there; and how long it took."""

    def figure(self, result: Importance) -> str:
        """The bound with its error from which rows were tested."""
        scale = 1 / (PIXELS * math.log(2)) if self.bits else 1.0
        values = -result.log_evidence * scale
        digits = 4 if self.bits else 2
        return f"{float(values.mean()):.{digits}f} ± {row_error(values):.{digits}f}"


@final
@dataclass(frozen=True, kw_only=True)
class Fit(Row):
    """A model that ``unveil fit`` makes by its flags."""

    asked: Mapping[str, Any]

    def judged(self, data: Path, run: Path, seed: int) -> tuple[Importance, str]:
        if not (run / "model.json").exists():
            asked = {"max_minutes": self.minutes, **self.asked}
            unveil.fit(str(data / TRAIN), seed=seed, **asked).save(run)
        fitted = unveil.load(run)
        x = fitted.tensor(str(data / TEST))
        last = fitted.history[-1]
        took = f"{last['seconds'] / 60:.0f} min, {last['epoch']} epochs"
        return importance(fitted.vae, x, num_samples=self.draws), took


@final
@dataclass(frozen=True, kw_only=True)
class Burda(Row):
    """784-200-200-50 with tanh, one stochastic layer, as in Burda et al. 2016.

    With ``after``, training goes on from the model of that row, which must be there.
    """

    objective: unveil.Objective
    after: str | None = None

    def network(self, inputs: int, outputs: int, weights: torch.Generator) -> nn.Sequential:
        return nn.Sequential(
            linear(inputs, 200, generator=weights),
            nn.Tanh(),
            linear(200, 200, generator=weights),
            nn.Tanh(),
            linear(200, outputs, gain=0.1, generator=weights),
        )

    def judged(self, data: Path, run: Path, seed: int) -> tuple[Importance, str]:
        weights = generator(seed, "weights")
        decoder = self.network(50, PIXELS, weights)
        vae = unveil.VAE(
            prior=unveil.StandardNormal(50),
            likelihood=unveil.Conditional(decoder, unveil.Bernoulli(PIXELS)),
            posterior=unveil.Conditional(
                self.network(PIXELS, 100, weights), unveil.DiagonalGaussian(50)
            ),
        )
        images = Binarized(levels(data / TRAIN).flatten(1), low=0.0, high=255.0)
        facts = run / "facts.json"
        if not facts.exists():
            family, bias = vae.p_x_given_z.family, decoder[-1].bias
            with torch.no_grad():
                bias.copy_(family.start(images.levels.float().mean(0) / 255))  # pyright: ignore
            if self.after is not None:
                trained = run.parent / f"{self.after}-{seed}"
                vae.load_state_dict(read_tensors(trained / "model.safetensors"))
            self.train(vae, images, run, seed)
        vae.load_state_dict(read_tensors(run / "model.safetensors"))
        test = Binarized(levels(data / TEST).flatten(1), low=0.0, high=255.0)
        x = test.batch(torch.arange(len(test)), generator(seed, "binarise"))
        return importance(vae, x, num_samples=self.draws), json.loads(facts.read_text())["took"]

    def train(self, vae: unveil.VAE, images: Binarized, run: Path, seed: int) -> None:
        recipe = unveil.Recipe(batch_size=100, learning_rate=2e-3, weight_decay=0.0, compiled=True)
        began = time.monotonic()
        result = unveil.train(
            vae,
            images,
            objective=self.objective,
            recipe=recipe,
            seed=seed,
            epochs=None,
            max_minutes=self.minutes,
        )
        run.mkdir(parents=True, exist_ok=True)
        write_tensors(run / "model.safetensors", vae.state_dict())
        epochs = result.history[-1]["epoch"]
        took = f"{(time.monotonic() - began) / 60:.0f} min, {epochs} epochs"
        (run / "facts.json").write_text(json.dumps({"took": took}))


CONV = {"likelihood": "bernoulli", "network": "conv", "prior": "mixture"}
ROWS: Mapping[str, Row] = {
    "vae": Burda(
        source="Burda et al. 2016, VAE",
        published="86.76",
        objective=unveil.ELBO(),
        draws=5_000,
        minutes=40,
    ),
    "iwae5": Burda(
        source="Burda et al. 2016, IWAE with 5 draws",
        published="85.54",
        objective=unveil.IWAE(num_samples=5),
        draws=5_000,
        minutes=40,
    ),
    "dreg50": Burda(
        source="Burda et al. 2016, IWAE with 50 draws; ours DReG from the VAE of the first row",
        published="84.78",
        objective=unveil.DReG(num_samples=50),
        after="vae",
        draws=5_000,
        minutes=60,
    ),
    "any": Fit(
        source="Tomczak & Welling 2018, VAE / HVAE / convHVAE with VampPrior",
        published="82.38 / 81.24 / 79.75",
        asked={**CONV, "levels": 2, "latent": 80},
        draws=1_000,
        minutes=30,
    ),
    "grey": Fit(
        source="BB-ANS's VAE (Townsend et al. 2019); Bit-Swap",
        published="1.39–1.41; 1.29",
        asked={"likelihood": "discretized_logistic:scale=cell", "network": "conv", "latent": 40},
        draws=100,
        minutes=30,
        bits=True,
    ),
    "fashion": Fit(
        source="Fashion-MNIST",
        published="",
        folder="fashion_mnist",
        asked={"likelihood": "discretized_logistic:scale=cell", "network": "conv", "latent": 40},
        draws=100,
        minutes=30,
        bits=True,
    ),
}


def levels(path: Path) -> Tensor:
    """Grey levels, uint8 (row, 28, 28)."""
    return torch.tensor(read(str(path)).values)


def packed(images: np.ndarray) -> str:
    """Bits per dimension of the images as PNG files, and in one bz2 stream."""
    png = 0
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "png", optimize=True)
        png += len(file.getvalue())
    stream = len(bz2.compress(images.tobytes(), 9))
    return ", ".join(
        f"{name} {8 * size / images.size:.3f}" for name, size in (("PNG", png), ("bz2", stream))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Published results and ours, side by side.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/published"))
    arguments = parser.parse_args()
    print("| row | published | ours | draws | −ELBO, nats | active | seed | training |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name in arguments.rows:
        row = ROWS[name]
        folder = arguments.data / row.folder
        beside = f" ({packed(levels(folder / TEST).numpy())})" if row.bits else ""
        for seed in arguments.seeds:
            result, took = row.judged(folder, arguments.runs / f"{name}-{seed}", seed)
            active = int((result.means.var(0) > 0.01).sum())
            print(
                f"| {name}: {row.source} | {row.published}{beside} | {row.figure(result)} "
                f"| {row.draws} | {-float(result.elbo.mean()):.2f} | {active} | {seed} | {took} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
