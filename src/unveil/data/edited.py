"""A schema that a person wrote, or edited, obeyed where the rows allow it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from unveil.data.admit import require_admitted
from unveil.data.infer import infer_column
from unveil.data.read import Rows, listed
from unveil.data.reread import READINGS
from unveil.data.schema import (
    ANGLE,
    ASIDE,
    BINARY,
    CLASSES,
    FORMAT_VERSION,
    GRID,
    KINDS,
    PROPORTION,
    Aside,
    Column,
    Schema,
    entry,
    levels_of,
    words_of,
)
from unveil.errors import InputError

BY_HAND = "set aside in the schema"
CORRECT = "correct the schema, or the cell"


def obeyed(source: str | Path, rows: Rows) -> Schema:
    """The schema of training rows, read as a file of JSON says, such as an edited schema.json.

    Of each column its `kind` is obeyed, the order of its `levels`, its ends `low` and `high` and
    its `step`; the rest is measured anew. Of kind "aside" it is not modelled. Rows of images are
    measured as the file says.

    Raises InputError for a file that is no schema, columns that are not those of the rows, and
    cells that are not what it says.

    >>> path = getfixture("tmp_path") / "schema.json"
    >>> columns = [{"name": "a", "kind": "ordinal"}, {"name": "id", "kind": "aside"}]
    >>> _ = path.write_text(json.dumps({"format_version": 2, "columns": columns}))
    >>> rows = Rows(np.arange(20.0).reshape(10, 2) % 6, names=("a", "id"))
    >>> schema = obeyed(path, rows)
    >>> schema.columns[0].levels, schema.aside[0].name
    ((0.0, 2.0, 4.0), 'id')
    """
    document = _document(Path(source))
    if not rows.names:
        return Schema.from_document(document)
    columns = entry(document, "columns", list)
    told = {entry(one, "name", str): one for one in columns}
    aside = [
        *(entry(one, "name", str) for one in _listed(document, "aside")),
        *(name for name, one in told.items() if entry(one, "kind", str) == ASIDE),
    ]
    _require_once([entry(one, "name", str) for one in (*columns, *_listed(document, "aside"))])
    _require_names([*told, *aside], rows)
    kept = [place for place, name in enumerate(rows.names) if name not in aside]
    if not kept:
        raise InputError(
            f"expected a column of {rows.source} to model, but the schema sets all of them aside; "
            f"make one of them another kind than {ASIDE!r}"
        )
    measured = [_column(told[rows.names[j]], rows, rows.values[:, j]) for j in kept]
    return Schema(
        (len(measured),),
        tuple(measured),
        gaps=any(bool(np.isnan(rows.values[:, j]).any()) for j in kept),
        aside=tuple(Aside(name, BY_HAND) for name in rows.names if name in aside),
        form=rows.form,
    )


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"expected a schema as unveil writes schema.json in {path}, but it cannot be read "
            f"({error}); correct the path or the file"
        ) from error
    version = entry(document, "format_version", int)
    if version != FORMAT_VERSION:
        raise InputError(
            f"expected a schema of format_version {FORMAT_VERSION} in {path}, but {version} came; "
            f"begin with one that this unveil wrote"
        )
    return document


def _listed(document: Mapping[str, Any], key: str) -> list[Any]:
    """The entries under a key that may be left out."""
    return entry(document, key, list) if key in document else []


def _require_once(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"expected the schema to name each column once, but {listed(twice)} stands there "
            "twice; take one of them out"
        )


def _require_names(told: Sequence[str], rows: Rows) -> None:
    missing = [name for name in rows.names if name not in told]
    if missing:
        raise InputError(
            f"expected the schema to say what each column of {rows.source} is, but it lacks "
            f"{listed(missing)}; add them, of kind {ASIDE!r} where they are not to be modelled"
        )
    extra = [name for name in told if name not in rows.names]
    if extra:
        raise InputError(
            f"expected only columns of {rows.source} in the schema, but it also has "
            f"{listed(extra)}; take them out, or correct their names"
        )


def _column(told: Mapping[str, Any], rows: Rows, cells: np.ndarray) -> Column:
    """The column as it was told, measured by its cells."""
    name, kind = entry(told, "name", str), entry(told, "kind", str)
    inferred = infer_column(rows, name)
    read = inferred if kind == inferred.kind else _read(inferred, kind, told, cells)
    column = _FINISHED.get(kind, _as_measured)(read, told)
    if rows.words.get(name):
        return _having_seen(column, rows.words[name])
    require_admitted(column, cells, rows, CORRECT)
    return column


def _read(column: Column, kind: str, told: Mapping[str, Any], cells: np.ndarray) -> Column:
    """A column read as another kind than the one inferred."""
    if kind not in KINDS or kind not in READINGS:
        raise InputError(
            f"expected column {column.name!r} to be {column.kind}, as its cells say, or one of "
            f"{listed([*READINGS, ASIDE])}, but the schema says {kind!r}; correct it"
        )
    if column.words and kind not in CLASSES:
        raise InputError(
            f"expected numbers in column {column.name!r} to be {kind}, as the schema says, but it "
            f"holds {column.expected}; make it a category, an ordinal or {ASIDE!r}"
        )
    options = _OPTIONS.get(kind, _no_options)(told)
    read = READINGS[kind](column, cells, **options)
    return read.holding(column)


def _having_seen(column: Column, words: Sequence[str]) -> Column:
    """The column, once its words are among those told."""
    unknown = [word for word in words if word not in column.words]
    if unknown:
        raise InputError(
            f"expected every word of column {column.name!r} among its levels in the schema, but "
            f"{listed(unknown, 5)} is not; add it, or correct the cells"
        )
    return column


# What a person may say of a kind: on the way to it, and of one that it is


def _end(told: Mapping[str, Any], key: str, otherwise: float) -> float:
    value = entry(told, key, int | float | None) if key in told else None
    return otherwise if value is None else float(value)


def _no_options(told: Mapping[str, Any]) -> dict[str, float]:
    return {}


def _ends(told: Mapping[str, Any]) -> dict[str, float]:
    ends = {"low": _end(told, "low", -inf), "high": _end(told, "high", inf)}
    return {key: end for key, end in ends.items() if abs(end) < inf}


def _period(told: Mapping[str, Any]) -> dict[str, float]:
    return {"period": _end(told, "high", 360.0) - _end(told, "low", 0.0)}


def _step(told: Mapping[str, Any]) -> dict[str, float]:
    return {"step": _end(told, "step", 0.0) or 1.0}


def _as_measured(column: Column, told: Mapping[str, Any]) -> Column:
    return column


def _with_ends(column: Column, told: Mapping[str, Any]) -> Column:
    low, high = _end(told, "low", column.low), _end(told, "high", column.high)
    return replace(column, step=_end(told, "step", column.step), low=low, high=high)


def _with_levels(column: Column, told: Mapping[str, Any]) -> Column:
    """The column with its levels in the order told."""
    levels = entry(told, "levels", list) if "levels" in told else []
    if not levels:
        return column
    if column.kind == BINARY and len(levels) != 2:
        raise InputError(
            f"expected two levels of the binary column {column.name!r} in the schema, but "
            f"{len(levels)} came; make it a category, or correct them"
        )
    words = words_of(levels)
    if bool(words) != bool(column.words):
        raise InputError(
            f"expected levels of column {column.name!r} in the schema as its cells are, "
            f"{column.expected}, but {listed(list(map(str, levels)), 5)} came; correct them"
        )
    numbers = levels_of(column.kind, words) if words else tuple(map(float, levels))
    return replace(column, words=words, levels=numbers, high=len(levels) - 1.0)


_OPTIONS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, float]]] = {
    ANGLE: _period,
    PROPORTION: _ends,
    GRID: _step,
}
_FINISHED: Mapping[str, Callable[[Column, Mapping[str, Any]], Column]] = {
    GRID: _with_ends,
    BINARY: _with_levels,
    **dict.fromkeys(CLASSES, _with_levels),
}
