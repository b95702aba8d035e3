"""The report on drawn rows: fidelity, utility, detection, nearness and copies, in one document."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias, final

from unveil.synthesis.detection import TOO_FEW, Detection, detection
from unveil.synthesis.fidelity import WAY_TO_GET_IT, Fidelity, fidelity
from unveil.synthesis.nearness import (
    LARGEST_SHARE,
    NOBODY,
    Copies,
    Nearness,
    copies,
    nearness,
)
from unveil.synthesis.trial import Trial
from unveil.synthesis.utility import Utility, utility

Line: TypeAlias = tuple[str, str, str]  # what is measured, the figure, and what it means

NO_GUARANTEE = (
    "This is no formal privacy guarantee: the figures look for copying where it is easily seen, "
    "and bound nothing that a drawn row may tell of a person behind a training row."
)
NO_TARGET = (
    "what can be learned from drawn rows was left out, for no column was named to be predicted; "
    "name one with --target"
)
FIGURE_NAMES: Mapping[str, str] = {"auroc": "AUROC", "macro_f1": "macro-F1", "r2": "R²"}


@final
@dataclass(frozen=True, kw_only=True)
class SynthesisReport:
    """Drawn rows beside real ones; a part that was left out is None, and a note says why.

    ``training``, ``held_out`` and ``drawn`` count the rows.
    """

    training: int
    held_out: int
    drawn: int
    fidelity: Fidelity | None
    utility: Utility | None
    detection: Detection | None
    nearness: Nearness | None
    copies: Copies
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """The report as plain data."""
        return asdict(self) | {"privacy": NO_GUARANTEE}

    def sentences(self) -> tuple[str, ...]:
        """The report in a few lines."""
        return (
            *(f"{name} {figure}: {told}" for name, figure, told in self._lines()),
            NO_GUARANTEE,
        )

    def markdown(self) -> str:
        """The report as a page of Markdown.

        >>> found = SynthesisReport(training=9, held_out=3, drawn=5, fidelity=None, utility=None,
        ...     detection=None, nearness=None, copies=Copies(found=0, expected=0.0, rows=5),
        ...     notes=())
        >>> found.markdown().splitlines()[0]
        '# 5 drawn rows beside real ones'
        """
        head = (
            f"# {self.drawn} drawn rows beside real ones",
            f"They are compared with {self.training} rows that the model was trained on and "
            f"{self.held_out} that it was not.\n\n{NO_GUARANTEE}",
            _table(("", "found", "what it is"), self._lines()),
        )
        notes = "\n".join(f"- {note}" for note in self.notes)
        return "\n\n".join(part for part in (*head, *self._details(), notes) if part) + "\n"

    def _lines(self) -> Iterator[Line]:
        if self.fidelity is not None:
            yield _of_fidelity(self.fidelity)
        if self.utility is not None:
            yield from _of_utility(self.utility)
        if self.detection is not None:
            yield _of_detection(self.detection)
        if self.nearness is not None:
            yield _of_nearness(self.nearness)
        yield _of_copies(self.copies)

    def _details(self) -> Iterator[str]:
        if self.fidelity is None:
            return
        columns = sorted(self.fidelity.columns.items(), key=lambda item: item[1] or 0.0)
        yield "## Columns, the least alike first"
        yield _table(("column", "score"), [(name, _shown(score)) for name, score in columns])
        if self.fidelity.worst_pairs:
            pairs = [(f"{a}, {b}", _shown(score)) for a, b, score in self.fidelity.worst_pairs]
            yield "## The pairs of columns that are least alike"
            yield _table(("columns", "score"), pairs)


def report(
    trial: Trial,
    *,
    target: str | None = None,
    on_part: Callable[[float], None] = lambda fraction: None,
) -> SynthesisReport:
    """All that is asked of drawn rows; ``target`` is the column to learn from them.

    Raises InputError as ``utility`` does for the target.

    >>> import numpy as np
    >>> from unveil.data.read import Rows
    >>> from unveil.data.schema import Column, Schema
    >>> from unveil.synthesis.trial import trial
    >>> rows = [Rows(np.random.default_rng(i).normal(size=(80, 1))) for i in range(3)]
    >>> found = report(trial(Schema((1,), (Column("a", "real"),), gaps=False), *rows))
    >>> found.copies.found, found.utility, len(found.notes) > 0
    (0, None, True)
    """
    learned = None if target is None else utility(trial, target)
    on_part(0.3)
    alike = fidelity(trial)
    on_part(0.6)
    told = detection(trial)
    on_part(0.8)
    near = nearness(trial)
    on_part(1.0)
    reasons = {NO_TARGET: learned, WAY_TO_GET_IT: alike, TOO_FEW: told, NOBODY: near}
    return SynthesisReport(
        training=len(trial.training),
        held_out=len(trial.held_out),
        drawn=len(trial.drawn),
        fidelity=alike,
        utility=learned,
        detection=told,
        nearness=near,
        copies=copies(trial),
        notes=tuple(reason for reason, part in reasons.items() if part is None),
    )


def _of_fidelity(found: Fidelity) -> Line:
    parts = f"{_shown(found.column_shapes)} for columns, {_shown(found.pair_trends)} for pairs"
    return "fidelity", _shown(found.quality), f"sdmetrics' quality, of 1: {parts} of them"


def _of_utility(found: Utility) -> Iterator[Line]:
    for name, figure in found.drawn.items():
        yield (
            f"utility, {FIGURE_NAMES[name]}",
            _shown(figure),
            f"predicting {found.target} of {found.tested} held-out rows, learned from "
            f"{found.rows} drawn ones; {_shown(found.real[name])} learned from as many real ones",
        )


def _of_detection(found: Detection) -> Line:
    return (
        "detection",
        _shown(found.auroc),
        f"AUROC of trees that tell {found.rows} drawn rows from as many held-out ones; guessing "
        f"has 0.5 ± {found.chance:.3f}",
    )


def _of_nearness(found: Nearness) -> Line:
    verdict = "passes" if found.passes else "does not pass"
    return (
        "nearness",
        f"{found.share:.1%} ± {found.se:.1%}",
        f"of {found.rows} drawn rows lie closer to a training row than to a held-out one, were "
        f"there as many of each ({found.training} and {found.held_out}): {verdict}, for at most "
        f"{LARGEST_SHARE:.0%} may",
    )


def _of_copies(found: Copies) -> Line:
    return (
        "copies",
        str(found.found),
        f"of {found.rows} drawn rows equal a training row in every cell; of as many new real rows "
        f"without gaps {found.expected:.0f} would",
    )


def _shown(score: float | None) -> str:
    return "unknown" if score is None else f"{score:.3f}"


def _table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table of Markdown.

    >>> print(_table(("column", "score"), [("a|b", "0.9")]))
    | column | score |
    | --- | --- |
    | a\\|b | 0.9 |
    """
    cells = [headings, ["---"] * len(headings), *lines]
    return "\n".join(f"| {' | '.join(map(_plain, line))} |" for line in cells)


def _plain(cell: str) -> str:
    """A cell on one line, a bar in it no end of it."""
    return " ".join(cell.split()).replace("|", "\\|")
