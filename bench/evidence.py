"""What evidence costs: against the bare passes that it needs, and against pythae's get_nll.

    .venv/bin/python bench/evidence.py [--peer FOLDER]

Ways alternate in one run, so that a busy machine slows all of them; printed are medians and their
ratios. pythae runs in an environment of its own, made in FOLDER (runs/pythae) when it is not
there; where that fails it is said, and its lines are left out. Networks are random, so that no
figure depends on a training.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unveil
from unveil.evidence.annealing import Schedule, anneal
from unveil.evidence.importance import importance
from unveil.evidence.quadrature import quadrature
from unveil.evidence.simulated import simulate
from unveil.evidence.starts import FromPosterior
from unveil.evidence.tuning import tune
from unveil.tiles import ROWS_PER_TILE, RowsAlike, Tile, chunks, floats_per_draw

ROUNDS = 5
ROOT = Path(__file__).parents[1]

# Answers each line on its input, a number of draws, with seconds and the mean of its get_nll.
PEER = """
import json, sys, time
import numpy as np, torch
from torch import nn
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder

arrays = np.load(sys.argv[1])
torch.set_num_threads(int(sys.argv[2]))
def layers(side):
    made = []
    for number in range(3):
        weight, bias = (torch.from_numpy(arrays[f"{side}{number}{k}"]) for k in ("w", "b"))
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight.data, layer.bias.data = weight, bias
        made += [layer, nn.Tanh()]
    return nn.Sequential(*made[:-1])
latents = arrays["decoder0w"].shape[1]
class Encoder(BaseEncoder):
    def __init__(self):
        super().__init__(); self.body = layers("encoder")
    def forward(self, x):
        mean, log_variance = self.body(x.flatten(1)).chunk(2, -1)
        return ModelOutput(embedding=mean, log_covariance=log_variance)
class Decoder(BaseDecoder):
    def __init__(self):
        super().__init__(); self.body = layers("decoder")
    def forward(self, z):
        return ModelOutput(reconstruction=self.body(z).sigmoid())
x = torch.from_numpy(arrays["x"])
config = VAEConfig(input_dim=(x.shape[1],), latent_dim=latents, reconstruction_loss="bce")
model = VAE(config, encoder=Encoder(), decoder=Decoder()).eval()
for line in sys.stdin:
    began = time.perf_counter()
    with torch.no_grad():
        value = model.get_nll(x, n_samples=int(line), batch_size=100)
    print(json.dumps([time.perf_counter() - began, float(value)]), flush=True)
"""


@dataclass(frozen=True)
class Case:
    """cells-hidden-hidden-latents, tanh; so many rows."""

    cells: int
    hidden: int
    latents: int
    rows: int

    def __str__(self) -> str:
        return f"{self.cells}-{self.hidden}-{self.hidden}-{self.latents}, {self.rows} rows"


CASES = (Case(784, 200, 50, 512), Case(64, 128, 2, 512))
DRAWS, PEER_DRAWS, PEER_ROWS = 1000, 200, 64


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(),
        nn.Linear(hidden, outputs),
    )  # fmt: skip


class HalfLog(nn.Module):
    """log σ² of the second half, as pythae has it, made into the raw number of softplus."""

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        from unveil.families import raw_of

        mean, log_variance = self.body(x).chunk(2, -1)
        return torch.cat([mean, raw_of((0.5 * log_variance).exp())], -1)


def model_of(case: Case) -> tuple[unveil.VAE, nn.Sequential, nn.Sequential, Tensor]:
    """A VAE of random weights, its two networks, and rows drawn from it."""
    torch.manual_seed(0)
    decoder = mlp(case.latents, case.hidden, case.cells)
    encoder = mlp(case.cells, case.hidden, 2 * case.latents)
    vae = unveil.VAE(
        prior=unveil.StandardNormal(case.latents),
        likelihood=unveil.Conditional(decoder, unveil.Bernoulli(case.cells)),
        posterior=unveil.Conditional(HalfLog(encoder), unveil.DiagonalGaussian(case.latents)),
    )
    x, _ = simulate(vae, torch.zeros(case.rows, case.cells))
    return vae, encoder, decoder, x


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def medians(*ways: Callable[[], float]) -> list[float]:
    """The median of each way's seconds, the ways taken in turn."""
    rounds = [[way() for way in ways] for _ in range(ROUNDS)]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def bare_passes(decoder: nn.Sequential, x: Tensor, vae: unveil.VAE, draws: int) -> None:
    """The decoder and log p(x|z), so often as ``draws`` draws of each row need them."""
    with torch.no_grad():
        for first in range(0, len(x), ROWS_PER_TILE):
            rows = x[first : first + ROWS_PER_TILE]
            tile = Tile(x=rows, given=None, count=len(rows))
            z = torch.zeros(1, len(rows), vae.num_latents)
            for size in chunks(draws, floats_per_draw(vae, tile)):
                logits = decoder(z.expand(size, -1, -1).reshape(-1, vae.num_latents))
                target = rows.expand(size, *rows.shape).reshape(logits.shape)
                F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)


def bare_gradient(decoder: nn.Sequential, x: Tensor, z: Tensor) -> None:
    """log p(x, z) and its gradient in z, once."""
    z = z.requires_grad_()
    logits = decoder(z)
    log_likelihood = -F.binary_cross_entropy_with_logits(
        logits, x.expand_as(logits), reduction="none"
    ).sum(-1)
    log_joint = log_likelihood - 0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
    torch.autograd.grad(log_joint.sum(), [z])


def peer(folder: Path, arrays: dict[str, np.ndarray]) -> subprocess.Popen[str] | None:
    """pythae with these weights and rows, waiting for a number of draws; None, said aloud, where
    its environment cannot be made."""
    python = folder / "bin" / "python"
    constrained = {**os.environ, "PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            install = [python, "-m", "pip", "install", "-q", "pythae"]
            subprocess.run(install, check=True, env=constrained)
    except subprocess.CalledProcessError as error:
        print(f"pythae is left out: its environment could not be made ({error})")
        return None
    weights = folder / "weights.npz"
    np.savez(weights, **arrays)  # pyright: ignore[reportArgumentType]
    return subprocess.Popen(
        [python, "-W", "ignore", "-c", PEER, weights, str(torch.get_num_threads())],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def asked(process: subprocess.Popen[str], draws: int) -> tuple[float, float]:
    """Seconds that pythae took, and its mean."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{draws}\n")
    process.stdin.flush()
    took, value = json.loads(process.stdout.readline())
    return took, value


def arrays_of(encoder: nn.Sequential, decoder: nn.Sequential, x: Tensor) -> dict[str, np.ndarray]:
    found = {"x": x.numpy()}
    for side, network in (("encoder", encoder), ("decoder", decoder)):
        for number, layer in enumerate(list(network)[::2]):
            assert isinstance(layer, nn.Linear)
            found |= {
                f"{side}{number}w": layer.weight.detach().numpy(),
                f"{side}{number}b": layer.bias.detach().numpy(),
            }
    return found


def compare(case: Case, folder: Path) -> None:
    vae, encoder, decoder, x = model_of(case)
    print(f"\n{case}")
    ours, bare = medians(
        lambda: seconds(lambda: importance(vae, x, num_samples=DRAWS)),
        lambda: seconds(lambda: bare_passes(decoder, x, vae, DRAWS)),
    )
    print(f"IWAE, {DRAWS} draws: {ours:.2f} s; bare passes {bare:.2f} s; ratio {ours / bare:.2f}")

    few = x[:PEER_ROWS]
    process = peer(folder, arrays_of(encoder, decoder, few))
    if process is not None:
        theirs: list[float] = []
        values: list[float] = []

        def run_peer() -> float:
            took, value = asked(process, PEER_DRAWS)
            theirs.append(took)
            values.append(value)
            return took

        asked(process, 2)
        per_peer, per_ours = medians(
            run_peer, lambda: seconds(lambda: importance(vae, x, num_samples=PEER_DRAWS))
        )
        per_draw = per_peer / (PEER_DRAWS * len(few)), per_ours / (PEER_DRAWS * len(x))
        mine = float(importance(vae, few, num_samples=PEER_DRAWS).log_evidence.mean())
        exact = ""
        if case.latents <= 3:
            exact = f", exact {float(quadrature(vae, few).log_evidence.mean()):.3f}"
        print(
            f"per row and draw: pythae's get_nll {1e6 * per_draw[0]:.1f} µs, ours "
            f"{1e6 * per_draw[1]:.2f} µs, ratio {per_draw[0] / per_draw[1]:.1f}; mean log p(x) of "
            f"{len(few)} rows with {PEER_DRAWS} draws: pythae {values[-1]:.3f}, ours {mine:.3f}"
            f"{exact}"
        )
        process.kill()

    schedule = Schedule(start=FromPosterior(), sizes=tune(vae, FromPosterior(), x))
    tile = x[:ROWS_PER_TILE]
    z = torch.randn(schedule.num_chains, len(tile), case.latents)
    gradients = schedule.num_temperatures * schedule.num_leapfrog + 1
    annealed, gradient, alike = medians(
        lambda: seconds(lambda: anneal(vae, tile, schedule)),
        lambda: seconds(lambda: [bare_gradient(decoder, tile, z) for _ in range(gradients)]),
        lambda: _alike(decoder, tile, z, gradients),
    )
    print(
        f"annealing, 50 temperatures × 8 chains × 5 leapfrog: {annealed:.2f} s; as many bare "
        f"gradients {gradient:.2f} s, rate {gradient / annealed:.0%}; the same with rows treated "
        f"alike wherever they stand {alike:.2f} s, rate {alike / annealed:.0%}"
    )


def _alike(decoder: nn.Sequential, x: Tensor, z: Tensor, times: int) -> float:
    with RowsAlike():
        return seconds(lambda: [bare_gradient(decoder, x, z) for _ in range(times)])


def digits() -> None:
    """300 held-out digits in ten latents."""
    fitted = unveil.fit("digits", likelihood="bernoulli", latent=10, epochs=20, seed=0)
    x = fitted.tensor("digits")[:300]
    schedule = Schedule(start=FromPosterior(), sizes=fitted.sizes.from_posterior)
    took = statistics.median(
        seconds(lambda: anneal(fitted.vae, x, schedule)) for _ in range(ROUNDS)
    )
    print(f"\n300 digits, 50 temperatures × 8 chains × 5 leapfrog from q(z|x): {took:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description="What evidence costs.")
    parser.add_argument("--peer", type=Path, default=ROOT / "runs" / "pythae")
    folder = parser.parse_args().peer.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        compare(case, folder)
    digits()


if __name__ == "__main__":
    main()
