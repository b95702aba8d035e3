"""What a person sees: sentences, one progress line, and tables that fit a screen."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import singledispatch
from itertools import groupby
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from unveil.check.lines import Between, Estimate, Identity, Line, SelfTest, Verdict
from unveil.data.read import Rows, blocks, listed
from unveil.data.schema import ASIDE, Schema
from unveil.data.sparse import SparseCounts
from unveil.evaluation import Evaluation
from unveil.evidence.bound import Bound
from unveil.evidence.sandwich import Certificate
from unveil.registry.cells import chosen
from unveil.training import Progress as Step

# Latents listed one by one; more than these would push the bound off the screen.
MOST_UNITS_SHOWN = 12
# Columns listed one by one, and names of those that are counted together.
MOST_COLUMNS_SHOWN = 30
MOST_NAMES_SHOWN = 3


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


def show_columns(schema: Schema, rows: Rows, likelihood: str, quiet: bool) -> None:
    """How each column of a table is read, and why; one line for each kind where there are many."""
    if quiet or schema.shared:
        return
    many = len(schema.columns) + len(schema.aside) > MOST_COLUMNS_SHOWN
    table = Table(box=None)
    for heading in ("columns" if many else "column", "kind", "likelihood", "because", "missing"):
        table.add_column(heading, overflow="fold")
    for line in _by_kind(schema, rows, likelihood) if many else _lines(schema, rows, likelihood):
        table.add_row(*line)
    Console(highlight=False).print(table)


def _lines(schema: Schema, rows: Rows, likelihood: str) -> Iterator[tuple[str, ...]]:
    names, gone = chosen(likelihood), _missing(rows)
    for column, share in zip(schema.columns, gone, strict=True):
        made = names.get(column.kind, "not modelled")
        yield column.name, column.kind, made, column.reason, f"{share:.0%}"
    for column in schema.aside:
        yield column.name, ASIDE, "not modelled", column.why, ""


def _by_kind(schema: Schema, rows: Rows, likelihood: str) -> Iterator[tuple[str, ...]]:
    names, gone = chosen(likelihood), _missing(rows)
    places: dict[str, list[int]] = {}
    for place, column in enumerate(schema.columns):
        places.setdefault(column.kind, []).append(place)
    for kind, which in places.items():
        called = listed([schema.columns[i].name for i in which], MOST_NAMES_SHOWN)
        reasons = listed(list(dict.fromkeys(schema.columns[i].reason for i in which)), 2)
        share = sum(gone[i] for i in which) / len(which)
        yield called, kind, names.get(kind, "not modelled"), reasons, f"{share:.0%}"
    if schema.aside:
        called = listed([column.name for column in schema.aside], MOST_NAMES_SHOWN)
        reasons = listed(list(dict.fromkeys(column.why for column in schema.aside)), 2)
        yield called, ASIDE, "not modelled", reasons, ""


def _missing(rows: Rows) -> list[float]:
    """The share of missing cells in each column of a table."""
    if isinstance(rows.values, SparseCounts):
        return [0.0] * len(rows.names)
    gaps = (np.isnan(rows.values[block]).sum(0) for block in blocks(rows.values))
    total = np.sum(list(gaps), axis=0)
    return (total / len(rows)).tolist()


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
        side = "at most" if (e.gap["approximation"] or {}).get("side") else "about"
        for name, what, unknown in (
            ("amortisation", "at least: what the encoder loses", ""),
            ("approximation", f"{side}: what the family loses", "no upper bound"),
            ("encoder", "more: what the encoder loses on new rows", "no row was trained on"),
        ):
            table.add_row(f"  {name} gap", *_of_gap(e.gap[name], what, unknown))
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


def _of_gap(gap: Mapping[str, Any] | None, what: str, unknown: str) -> tuple[str, str]:
    """A part of the gap between the ELBO and log p(x), or why it is ``unknown``."""
    if gap is None:
        return "unknown", unknown
    error = "" if gap["se"] is None else f"; ± {gap['se']:.3f} (rows)"
    return _number(gap["value"]), f"{what}{error}"


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


def show_check(test: SelfTest, quiet: bool) -> None:
    """The self-test: the identity as three numbers, then exact beside what was found."""
    if quiet:
        return
    console = Console(highlight=False)
    for kind, (title, headings) in CHECKED.items():
        table = Table(title=title, title_justify="left", box=None)
        table.add_column("", no_wrap=True)
        for heading in (*headings, ""):
            table.add_column(heading, justify="right", no_wrap=True)
        lines = [line for line in test.lines if isinstance(line, kind)]
        for model, of_model in groupby(lines, key=lambda line: line.model):
            table.add_row(model)
            for line in of_model:
                name, *figures = _told(line)
                table.add_row(f"  {name}", *figures, _mark(line.holds))
        console.print(table)


# What each kind of line is called, and what its figures are.
CHECKED: Mapping[type[Line], tuple[str, tuple[str, ...]]] = {
    Identity: ("log p(x) = ELBO + KL(q ‖ p(z|x)), nats per row", ("log p(x)", "ELBO", "KL")),
    Estimate: ("\nestimates, nats per row", ("exact", "estimated", "±")),
    Between: ("\nbounds, nats per row", ("exact", "at least", "at most", "±")),
    Verdict: ("\nare draws of q(z|x) told from those of p(z|x)?", ("p-value", "found")),
}


@singledispatch
def _told(line: Line) -> tuple[str, ...]:
    """What a line is about, and its figures."""
    raise NotImplementedError


@_told.register
def _(line: Identity) -> tuple[str, ...]:
    return (line.q, *(_number(figure, 5) for figure in (line.log_evidence, line.elbo, line.kl)))


@_told.register
def _(line: Estimate) -> tuple[str, ...]:
    figures = line.exact, line.estimate, line.error
    return (line.quantity, *(_number(figure, 5) for figure in figures))


@_told.register
def _(line: Between) -> tuple[str, ...]:
    ends = ("" if end is None else _number(end, 4) for end in (line.lower, line.upper))
    error = _number(line.error, 4) if line.error else ""
    return line.quantity, _number(line.exact, 4), *ends, error


@_told.register
def _(line: Verdict) -> tuple[str, ...]:
    return line.q, f"{line.pvalue:.2g}", "rejected" if line.rejected else "passed"


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
