"""The training step against a hand-written PyTorch loop of the same network, batch and optimiser.

    .venv/bin/python bench/step.py

Three ways alternate in one run, so that a busy machine slows all of them: the hand-written loop
(plain tensors, loss.backward(), clip_grad_norm_, fused AdamW), unveil's step run operation by
operation, and unveil's step compiled whole. Printed are medians and their ratios to the loop.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unveil
from unveil.step import Batch, Recipe, Step, begin, can_compile, compiled_step, eager_step

ROUNDS, STEPS_PER_ROUND, WARMUP = 21, 40, 20


@dataclass(frozen=True)
class Case:
    """inputs-hidden-hidden-latents, tanh, and the rows of a batch."""

    inputs: int
    hidden: int
    latents: int
    batch: int

    def __str__(self) -> str:
        sizes = f"{self.inputs}-{self.hidden}-{self.hidden}-{self.latents}"
        return f"{sizes}, batch {self.batch}"


CASES = (Case(784, 200, 50, 100), Case(784, 200, 50, 512), Case(100, 128, 16, 128))


def networks(case: Case) -> tuple[nn.Module, nn.Module]:
    """An encoder and a decoder of two hidden tanh layers."""

    def mlp(inputs: int, outputs: int) -> nn.Module:
        layers = [nn.Linear(inputs, case.hidden), nn.Tanh(), nn.Linear(case.hidden, case.hidden)]
        return nn.Sequential(*layers, nn.Tanh(), nn.Linear(case.hidden, outputs))

    return mlp(case.inputs, 2 * case.latents), mlp(case.latents, case.inputs)


def rows(case: Case) -> Tensor:
    """Binary rows to train on."""
    return (torch.rand(case.batch, case.inputs) < 0.2).float()


def by_hand(case: Case) -> Callable[[], None]:
    """One step as a careful user writes it: plain tensors, closed-form KL, fused AdamW."""
    encoder, decoder = networks(case)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-4, fused=True)
    x = rows(case)

    def step() -> None:
        mean, log_sd = encoder(x).chunk(2, dim=-1)
        z = mean + log_sd.exp() * torch.randn_like(mean)
        distortion = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
        rate = 0.5 * ((2 * log_sd).exp() + mean.square() - 1 - 2 * log_sd).sum()
        loss = (distortion + rate) / len(x)
        optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 200.0)
        if not math.isfinite(loss.item()) or not math.isfinite(norm.item()):
            raise ArithmeticError("the loss is not finite")
        optimiser.step()

    return step


def by_unveil(case: Case, make: Callable[..., Step]) -> Callable[[], None]:
    """One step of unveil.train, its guards included."""
    encoder, decoder = networks(case)
    vae = unveil.VAE(
        prior=unveil.StandardNormal(case.latents),
        likelihood=unveil.Conditional(decoder, unveil.Bernoulli(case.inputs)),
        posterior=unveil.Conditional(encoder, unveil.DiagonalGaussian(case.latents)),
    )
    step = make(vae, unveil.ELBO(), Recipe(batch_size=case.batch))
    state, batch = begin(vae), Batch(rows(case), None)
    clock, rate = torch.tensor(1.0), torch.tensor(1e-3)

    def once() -> None:
        nonlocal state
        noise = torch.randn(1, case.batch, case.latents)
        state, info = step(state, batch, noise, clock, rate)
        if not info.finite:
            raise ArithmeticError("the loss is not finite")

    return once


def seconds(step: Callable[[], None]) -> float:
    """Seconds per step over one round."""
    start = time.perf_counter()
    for _ in range(STEPS_PER_ROUND):
        step()
    return (time.perf_counter() - start) / STEPS_PER_ROUND


def measure(case: Case) -> None:
    """Time the ways in turn and print one line of the table."""
    ways = {"by hand": by_hand(case), "unveil, eager": by_unveil(case, eager_step)}
    if can_compile():
        ways["unveil, compiled"] = by_unveil(case, compiled_step)
    for step in ways.values():
        for _ in range(WARMUP):
            step()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, step in ways.items():
            times[name].append(seconds(step))
    hand = times["by hand"]
    cells = [f"{1e3 * statistics.median(hand):.2f} ms"]
    for name in list(ways)[1:]:
        ratio = statistics.median(ours / h for ours, h in zip(times[name], hand, strict=True))
        cells.append(f"{ratio:.2f}")
    print(f"| {case} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    torch.manual_seed(0)
    print("| step | by hand | unveil eager / by hand | unveil compiled / by hand |")
    print("|---|---|---|---|")
    for case in CASES:
        measure(case)


if __name__ == "__main__":
    main()
