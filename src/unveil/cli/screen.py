"""What a person sees: sentences, one progress line, and tables that fit a screen."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from unveil.evaluation import Evaluation
from unveil.evidence.bound import Bound
from unveil.evidence.check import Estimate, Identity
from unveil.evidence.sandwich import Certificate
from unveil.training import Progress as Step

# Latents listed one by one; more than these would push the bound off the screen.
MOST_UNITS_SHOWN = 12


def say(sentence: str, quiet: bool) -> None:
    """Print a sentence, unless asked to be quiet."""
    if not quiet:
        print(sentence, flush=True)


def warn(sentence: str, quiet: bool) -> None:
    """Print a warning where errors go, unless asked to be quiet."""
    if not quiet:
        print(f"warning: {sentence}", file=sys.stderr, flush=True)


@contextmanager
def bar(title: str, quiet: bool) -> Iterator[Callable[[float], None]]:
    """A progress bar told the share that is done; nothing when quiet or not a terminal."""
    with _progress(quiet) as progress:
        task = progress.add_task(title, total=1.0)
        yield lambda fraction: progress.update(task, completed=fraction)


@contextmanager
def training_line(dims: int | None, quiet: bool) -> Iterator[Callable[[Step], None]]:
    """One line of training: rate, distortion, bound in nats per row, active units, time left.

    ``dims`` cells per row turn the bound into bits per dimension; None leaves them out.
    """
    with _progress(quiet) as progress:
        task = progress.add_task("training", total=1.0)

        def show(step: Step) -> None:
            progress.update(task, completed=step.fraction, description=describe(step, dims))
            if step.warning is not None and not quiet:
                progress.console.print(f"warning: {step.warning}", highlight=False)

        yield show


def describe(step: Step, dims: int | None) -> str:
    """The words of the progress line.

    >>> line = {"elbo": -90.0, "rate": 20.0, "distortion": 70.0, "active_units": 5}
    >>> describe(Step(fraction=0.5, epoch=3, seconds=1.0, latest=line), None)
    'epoch 3  distortion 70.00 + rate 20.00 = −ELBO 90.00 nats  5 active'
    """
    latest = step.latest
    if latest is None or "elbo" not in latest:
        return f"epoch {step.epoch}"
    bits = "" if dims is None else f" ({-latest['elbo'] / dims / math.log(2):.4f} bits/dim)"
    return (
        f"epoch {step.epoch}  distortion {latest['distortion']:.2f} + rate {latest['rate']:.2f} "
        f"= −ELBO {-latest['elbo']:.2f} nats{bits}  {latest['active_units']} active"
    )


def _progress(quiet: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:3.0f}%"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        disable=quiet or not console.is_terminal,
    )


def show_evaluation(evaluation: Evaluation, quiet: bool) -> None:
    """The evaluation on one screen."""
    if quiet:
        return
    e = evaluation
    table = Table(title=f"{e.rows} {e.split}, nats per row", title_justify="left", box=None)
    table.add_column("", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("what it is worth", overflow="fold")
    for sign, bound in (("log p(x) ≥", e.lower), ("log p(x) ≤", e.upper)):
        told = bound.reason if bound.value is None else worth(bound)
        table.add_row(sign, _number(bound.value), told)
    if e.simulated is not None:
        table.add_row("on simulated rows", *_of_simulated(e.simulated))
    table.add_row("ELBO", _number(e.elbo), "−(distortion + rate), lower in expectation")
    table.add_row("  distortion", _number(e.distortion), "−E_q log p(x|z)")
    table.add_row("  rate", _number(e.rate), "KL(q(z|x) ‖ p(z))")
    if e.gap is not None:
        table.add_row("  amortisation gap", *_of_gap(e.gap["amortisation"], "at least", "encoder"))
        side = "at most" if (e.gap["approximation"] or {}).get("side") else "about"
        table.add_row("  approximation gap", *_of_gap(e.gap["approximation"], side, "family"))
        table.add_row("  encoder gap", *_of_gap(e.gap["encoder"], "more", "encoder on new rows"))
    if e.bits_per_dim is not None:
        table.add_row("bits per dimension", _number(e.bits_per_dim, 4), "of the lower bound")
    total = "" if e.kl_per_unit is None else f" of {len(e.kl_per_unit)}"
    table.add_row("active units", f"{e.active_units}{total}", _units(e.kl_per_unit))
    if e.latents is not None and "mutual_information" in e.latents:
        table.add_row("mutual information", *_of_information(e.latents))
    draws = e.settings["draws"]
    khat = "" if e.khat is None else f"; median k̂ {e.khat['0.5']:.2f}, largest {e.khat['1']:.2f}"
    table.add_row(
        "effective draws", f"{e.ess['0.5']:.1f}", f"median of {draws}; least {e.ess['0']:.1f}{khat}"
    )
    if e.calibration is not None:
        table.add_row("calibration", *_of_calibration(e.calibration))
    table.add_row("independent columns", _number(e.baselines["independent"]), "baseline")
    table.add_row("probabilistic PCA", _number(e.baselines["ppca"]), "baseline")
    console = Console(highlight=False)
    console.print(table)
    if e.words:
        console.print(f"\n{e.words}")
    if e.simulated is not None:
        told = ", ".join(f"{name} {value}" for name, value in e.settings.items())
        console.print(f"\nsettings: {told}")
    for warning in e.warnings:
        warn(warning, quiet)


def _of_simulated(certificate: Certificate) -> tuple[str, str]:
    """The certificate: where log p(x) lies, and how like the rows are."""
    lower, upper = certificate.lower, certificate.upper
    assert lower.value is not None and upper.value is not None
    assert lower.delta is not None and upper.delta is not None
    sure = 1 - lower.delta - upper.delta
    return (
        f"{upper.value - lower.value:.3f}",
        f"wide: [{lower.value:.3f}, {upper.value:.3f}], certified {sure:.0%}; real rows are told "
        f"from them in {0.5 + certificate.likeness.furthest:.0%} of pairs",
    )


def _of_gap(gap: Mapping[str, Any] | None, side: str, whose: str) -> tuple[str, str]:
    """A part of the gap between the ELBO and log p(x)."""
    if gap is None:
        return "unknown", "no upper bound" if whose == "family" else "no row was trained on"
    error = "" if gap["se"] is None else f"; ± {gap['se']:.3f} (rows)"
    return _number(gap["value"]), f"{side}: what the {whose} loses{error}"


def _of_information(latents: Mapping[str, Any]) -> tuple[str, str]:
    """What the latents hold of a row."""
    between = latents["mutual_information"]
    low, high = between["lower"]["value"], between["upper"]["value"]
    return _number(low), f"to {high:.3f}: what z says of which row it is"


def _of_calibration(calibration: Mapping[str, Any]) -> tuple[str, str]:
    """Whether draws of q(z|x) stand as those of the posterior would, on simulated rows."""
    rejected = calibration["rejected"]
    coverage = calibration["coverage"]["0.9"]
    return (
        "rejected" if rejected else "passed",
        f"90 % regions of q(z|x) hold z in {coverage:.0%} of simulated rows",
    )


def worth(bound: Bound) -> str:
    """What a bound rests on, in a few words.

    >>> worth(Bound(value=-1.0, side="lower", guarantee="in_expectation", mc_se=0.01,
    ...             data_se=0.2, method="IWAE", settings={"num_samples": 50}))
    'in expectation, IWAE; ± 0.010 (draws), ± 0.200 (rows)'
    """
    errors = [
        f"± {error:.3f} ({what})"
        for error, what in ((bound.mc_se, "draws"), (bound.data_se, "rows"))
        if error is not None
    ]
    return "; ".join(filter(None, (f"{bound.claim}, {bound.method}", ", ".join(errors))))


def show_check(identities: Sequence[Identity], estimates: Sequence[Estimate], quiet: bool) -> None:
    """The self-test: the identity as three numbers, then exact beside estimated."""
    if quiet:
        return
    console = Console(highlight=False)
    identity = Table(
        title="log p(x) = ELBO + KL(q ‖ p(z|x)), nats per row", title_justify="left", box=None
    )
    identity.add_column("linear-Gaussian model")
    for heading in ("log p(x)", "ELBO", "KL", ""):
        identity.add_column(heading, justify="right")
    for line in identities:
        identity.add_row(
            line.q, _number(line.log_evidence, 6), _number(line.elbo, 6), _number(line.kl, 6),
            _mark(line.holds),
        )  # fmt: skip
    table = Table(title="\nestimators, nats per row", title_justify="left", box=None)
    table.add_column("quantity")
    for heading in ("exact", "estimated", "±", ""):
        table.add_column(heading, justify="right")
    for line in estimates:
        table.add_row(
            line.quantity, _number(line.exact, 6), _number(line.estimate, 6),
            f"{line.error:.6f}", _mark(line.holds),
        )  # fmt: skip
    console.print(identity)
    console.print(table)


def _mark(holds: bool) -> str:
    return "right" if holds else "WRONG"


def _number(value: float | None, digits: int = 3) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"


def _units(kl_per_unit: Sequence[float] | None) -> str:
    if kl_per_unit is None:
        return ""
    largest = sorted(kl_per_unit, reverse=True)
    shown = " ".join(f"{kl:.2f}" for kl in largest[:MOST_UNITS_SHOWN])
    return f"KL of each: {shown}{' …' if len(largest) > MOST_UNITS_SHOWN else ''}"
