"""What a person sees: sentences, one progress line, and tables that fit a screen."""

import math
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
from unveil.cli.common import Common
from unveil.data.read import Rows, blocks, listed
from unveil.data.schema import ASIDE, Schema
from unveil.data.sparse import SparseCounts
from unveil.diagnostics.uniformity import LEVEL
from unveil.evaluation import Evaluation
from unveil.evidence.bound import Bound
from unveil.evidence.sandwich import Certificate
from unveil.registry.cells import chosen
from unveil.training import Progress as Step

# Bars of a histogram, from the lowest to the highest, and how many of them fit beside a number.
BLOCKS = "▁▂▃▄▅▆▇█"
MOST_BARS = 32
# Columns listed one by one, and names of those that are counted together.
MOST_COLUMNS_SHOWN = 30
MOST_NAMES_SHOWN = 3


@contextmanager
def bar(title: str, common: Common) -> Iterator[Callable[[float], None]]:
    """A progress bar told the share that is done; nothing when quiet or not a terminal."""
    with _progress(common) as progress:
        task = progress.add_task(title, total=1.0)
        yield lambda fraction: progress.update(task, completed=fraction)


@contextmanager
def training_line(dims: int | None, common: Common) -> Iterator[Callable[[Step], None]]:
    """One line of training: rate, distortion, bound in nats per row, active units, time left.

    ``dims`` cells per row turn the bound into bits per dimension; None leaves them out.
    """
    with _progress(common) as progress:
        task = progress.add_task("training", total=1.0)

        def show(step: Step) -> None:
            progress.update(task, completed=step.fraction, description=describe(step, dims))
            if step.warning is not None and not common.quiet:
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


def _progress(common: Common) -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:3.0f}%"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        disable=common.quiet or not console.is_terminal,
    )


def show_columns(schema: Schema, rows: Rows, likelihood: str, common: Common) -> None:
    """How each column of a table is read, and why; one line for each kind where there are many."""
    if schema.shared:
        return
    many = len(schema.columns) + len(schema.aside) > MOST_COLUMNS_SHOWN
    table = Table(box=None)
    for heading in ("columns" if many else "column", "kind", "likelihood", "because", "missing"):
        table.add_column(heading, overflow="fold")
    for line in _by_kind(schema, rows, likelihood) if many else _lines(schema, rows, likelihood):
        table.add_row(*line)
    common.screen.print(table)


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


def show_evaluation(evaluation: Evaluation, common: Common) -> None:
    """The evaluation on one screen: a name and its side, a value, and what that is worth."""
    e, screen = evaluation, common.screen
    table = Table(title=f"{e.rows} {e.split}, nats per row", title_justify="left", box=None)
    table.add_column("", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("what it is worth", overflow="fold")
    for line in _figures_of(e):
        table.add_row(*line)
    screen.print(table)
    if e.words:
        screen.print(f"\n{e.words}")
    if e.simulated is not None:
        told = ", ".join(f"{name} {value}" for name, value in e.settings.items())
        screen.print(f"\nsettings: {told}")
    for warning in e.warnings:
        common.warn(warning)


def _figures_of(e: Evaluation) -> Iterator[tuple[str, str, str]]:
    """Every figure of an evaluation: its name, its value, what it is worth."""
    for bound in (e.lower, e.upper):
        told = bound.reason if bound.value is None else worth(bound)
        yield f"log p(x) {SIGNS[bound.side]}", _number(bound.value), told or ""
    if e.simulated is not None:
        yield "on simulated rows", *_of_simulated(e.simulated)
    for name, value, what in (
        ("ELBO", e.elbo, "−(distortion + rate)"),
        ("  distortion", e.distortion, "−E_q log p(x|z)"),
        ("  rate", e.rate, "KL(q(z|x) ‖ p(z))"),
    ):
        errors = _errors(None, e.errors.get(name.strip().lower()))
        yield name, _number(value), _joined(what, errors)
    for name, (what, unknown) in GAPS.items() if e.gap is not None else ():
        yield _of_part(f"  {name} gap", (e.gap or {})[name], what, unknown)
    if e.bits_per_dim is not None:
        yield "bits per dimension ≤", _number(e.bits_per_dim, 4), "as sure as log p(x) ≥"
    yield "active units", *_of_units(e)
    if e.latents is not None and "mutual_information" in e.latents:
        between = e.latents["mutual_information"]
        for side in ("lower", "upper"):
            part = between[side] | {"side": side, "guarantee": between.get("guarantee")}
            yield _of_part("mutual information", part, "of x and z", "")
    draws = e.settings["draws"]
    khat = "" if e.khat is None else f"; median k̂ {e.khat['0.5']:.2f}, largest {e.khat['1']:.2f}"
    told = f"median of {draws}; least {e.ess['0']:.1f}{khat}"
    yield "effective draws", f"{e.ess['0.5']:.1f}", told
    if e.calibration is not None:
        yield "calibration", *_of_calibration(e.calibration)
    for name, called in BASELINES.items():
        yield called, _number(e.baselines[name]), _of_baseline(e.gains.get(name))


SIGNS = {"lower": "≥", "upper": "≤", None: "≈"}
# What each part of the gap between the ELBO and log p(x) is, and why it may not be known.
GAPS = {
    "amortisation": ("the encoder's", ""),
    "approximation": ("the family's", "no upper bound"),
    "encoder": ("more on new rows", "no row was trained on"),
}
BASELINES = {"independent": "independent columns", "ppca": "probabilistic PCA"}


def worth(bound: Bound) -> str:
    """What a bound rests on, in a few words.

    >>> worth(Bound(value=-1.0, side="lower", guarantee="in_expectation", mc_se=0.01,
    ...             data_se=0.2, method="IWAE", settings={"num_samples": 50}))
    'in expectation, IWAE; ± 0.010 (draws), ± 0.200 (rows)'
    """
    return _joined(f"{bound.claim}, {bound.method}", _errors(bound.mc_se, bound.data_se))


def _errors(draws: float | None, rows: float | None) -> str:
    """The standard errors that are known, each with what it comes from."""
    return ", ".join(
        f"± {error:.3f} ({what})"
        for error, what in ((draws, "draws"), (rows, "rows"))
        if error is not None
    )


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def _of_part(
    name: str, part: Mapping[str, Any] | None, what: str, unknown: str
) -> tuple[str, str, str]:
    """A mean over rows with its side, what it rests on and its error; or why it is ``unknown``."""
    if part is None:
        return name, "unknown", unknown
    claim = (part.get("guarantee") or "").replace("_", " ")
    told = _joined(", ".join(filter(None, (claim, what))), _errors(None, part["se"]))
    return f"{name} {SIGNS[part.get('side')]}", _number(part["value"]), told


def _of_simulated(certificate: Certificate) -> tuple[str, str]:
    """The certificate: where log p(x) lies, and how like the rows are."""
    lower, upper = certificate.lower, certificate.upper
    assert lower.value is not None and upper.value is not None
    assert lower.delta is not None and upper.delta is not None
    sure = 100 * (1 - lower.delta - upper.delta)
    return (
        f"{upper.value - lower.value:.3f}",
        f"wide: {lower.value:.3f} to {upper.value:.3f}, certified {sure:g} %; real rows are told "
        f"from them in {0.5 + certificate.likeness.furthest:.0%} of pairs",
    )


def _of_units(e: Evaluation) -> tuple[str, str]:
    """How many latents are used, and what each of them holds, as bars from the most to the least:
    its KL, or where that does not split over latents the variance of its means."""
    total = "" if e.kl_per_unit is None else f" of {len(e.kl_per_unit)}"
    spread = (e.latents or {}).get("mean_variances")
    if e.kl_per_unit is not None:
        return f"{e.active_units}{total}", f"{bars(e.kl_per_unit)} nats of KL each"
    if spread is not None:
        return f"{e.active_units} of {len(spread)}", f"{bars(spread)} of variance each"
    return str(e.active_units), ""


def bars(values: Sequence[float]) -> str:
    """Values as bars from the largest to the smallest, and these two; neighbours share a bar where
    there are very many.

    >>> bars([0.0, 2.0, 1.0, 0.5])
    '█▄▂▁ 2.00 to 0.00'
    """
    falling = np.sort(np.asarray(values, dtype=np.float64))[::-1]
    groups = np.array_split(falling, min(len(falling), MOST_BARS))
    heights = np.array([group.mean() for group in groups]).clip(0)
    levels = np.ceil(len(BLOCKS) * heights / (heights.max() or 1.0)).astype(int).clip(1)
    drawn = "".join(BLOCKS[level - 1] for level in levels)
    return f"{drawn} {falling[0]:.2f} to {falling[-1]:.2f}"


def _of_calibration(calibration: Mapping[str, Any]) -> tuple[str, str]:
    """Whether draws of q(z|x) stand as those of the posterior would, on simulated rows."""
    share, rows = calibration["coverage"]["0.9"], calibration["num_simulations"]
    error = math.sqrt(share * (1 - share) / rows)
    return (
        "rejected" if calibration["rejected"] else "passed",
        f"at level {LEVEL:g}; 90 % regions of q(z|x) hold z in {share:.0%} ± {error:.0%} of "
        f"{rows} simulated rows",
    )


def _of_baseline(gain: Mapping[str, Any] | None) -> str:
    """How far the model's rows are above it, row by row."""
    if gain is None:
        return "baseline"
    above = "above" if gain["value"] >= 0 else "below"
    errors = _errors(None, gain["se"])
    return _joined(f"baseline, {gain['method']} {abs(gain['value']):.3f} {above}", errors)


def show_check(test: SelfTest, common: Common) -> None:
    """The self-test: the identity as three numbers, then exact beside what was found."""
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
        common.screen.print(table)


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
