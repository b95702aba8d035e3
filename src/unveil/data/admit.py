"""Whether rows are such as a schema describes: its columns, in its words, each cell admitted."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import numpy as np

from unveil.data.encode import columns_of
from unveil.data.native import DATE, DATETIME, NUMBER, native
from unveil.data.read import Rows, blocks, cell_named, listed, numbered
from unveil.data.schema import COUNT, Column, Schema
from unveil.data.sparse import SparseCounts
from unveil.errors import InputError

CORRECT_IT = "correct the cell, or leave it empty if it is missing"
# How many seconds what is measured in days and in moments counts in.
SECONDS = {DATE: 86400.0, DATETIME: 1.0}
_HELD = {DATE: "days", DATETIME: "dates with times"}
# Cells (row,) of a column as rows have them, as the cells of a schema's column.
Way: TypeAlias = Callable[[Column, np.ndarray, Rows], np.ndarray]
LONGEST_LABEL = 200  # characters; text arrays make room for the longest in every row


def fits(schema: Schema, rows: Rows, unseen: str = "error") -> Rows:
    """The rows in the order of the schema's columns, once every cell is one that it admits.

    The columns of a table are matched by name, those of an array without names by position. Words
    are measured as the schema measures them, and a column that it sets aside becomes a label. A
    word that was never seen is an error, or missing where `unseen` says so.

    Raises InputError naming the column, the row and the value that does not fit.

    >>> schema = Schema((2,), (Column("a", "real"), Column("b", "real")), gaps=False)
    >>> fits(schema, Rows(np.array([[2.0, 1.0]]), names=("b", "a"))).values
    array([[1., 2.]])
    """
    if unseen not in UNSEEN:
        raise InputError(
            f"expected words that were never seen to be among {listed(UNSEEN)}, but {unseen!r} "
            f"came; choose one of these"
        )
    if schema.shared:
        rows = _same_shape(schema, rows)
    else:
        rows = _in_its_words(schema, _same_columns(schema, _set_aside(schema, rows)), unseen)
    known = {COUNT} if isinstance(rows.values, SparseCounts) else set()
    for column, cells in columns_of(schema, rows.values):
        if column.kind not in known:
            require_admitted(column, cells, rows, CORRECT_IT)
    return rows


def _same_shape(schema: Schema, rows: Rows) -> Rows:
    if rows.event_shape != schema.event_shape:
        raise InputError(
            f"expected rows of shape {schema.event_shape}, but those of {rows.source} have shape "
            f"{rows.event_shape}; reshape them as the training rows were"
        )
    return replace(rows, names=()) if rows.names else rows


def _same_columns(schema: Schema, rows: Rows) -> Rows:
    if rows.names == schema.names:
        return rows
    unnamed = rows.names in ((), numbered(len(rows.names)))
    if unnamed and rows.event_shape == schema.event_shape:
        return replace(rows, names=schema.names)
    if not rows.names:
        raise InputError(
            f"expected {len(schema.names)} columns, but the rows of {rows.source} have shape "
            f"{rows.event_shape}; give the columns {listed(schema.names)} in this order"
        )
    _require_names(schema, rows)
    order = [rows.names.index(name) for name in schema.names]
    return replace(rows, values=rows.values[:, order], names=schema.names)


def _set_aside(schema: Schema, rows: Rows) -> Rows:
    """The rows with the columns that the schema sets aside as labels, but for long texts."""
    aside = [column.name for column in schema.aside if column.name in rows.names]
    if not aside:
        return rows
    kept = [place for place, name in enumerate(rows.names) if name not in aside]
    labels = {
        name: rows.beside(name)
        for name in aside
        if max(map(len, rows.words.get(name, ())), default=0) <= LONGEST_LABEL
    }
    return replace(
        rows,
        values=rows.values[:, kept],
        names=tuple(rows.names[place] for place in kept),
        labels={**labels, **rows.labels},
    )


def without_impossible(schema: Schema, rows: Rows) -> tuple[Rows, Mapping[int, Mapping[str, str]]]:
    """The rows without the cells that their columns cannot hold, and what these were: for each
    such row, by name of the column, the cell in words.

    It is a value off its grid or beyond its end, a number below 0 among positive ones, a word that
    was never seen. Of images and of sparse counts none is taken out. Raises InputError as `fits`
    does for anything else.

    >>> a = Column("a", "binary", step=1.0, low=0.0, high=1.0)
    >>> schema = Schema((1,), (a,), gaps=False)
    >>> rows, found = without_impossible(schema, Rows(np.array([[1.0], [7.0]]), names=("a",)))
    >>> rows.values.tolist(), found
    ([[1.0], [nan]], {1: {'a': '7'}})
    """
    if schema.shared or isinstance(rows.values, SparseCounts):
        return fits(schema, rows), {}
    came = _same_columns(schema, _set_aside(schema, rows))
    known = _in_its_words(schema, came, "missing")
    values = np.array(known.values, np.float64)
    for column, cells in columns_of(schema, values):
        cells[~column.admits(cells)] = np.nan
    found: dict[int, dict[str, str]] = {}
    for row, place in np.argwhere(np.isnan(values) & ~np.isnan(came.values)).tolist():
        name = schema.columns[place].name
        own = native(came.type_of(name), came.words.get(name, ()))
        found.setdefault(row, {})[name] = own.tell(float(came.values[row, place]))
    return fits(schema, replace(known, values=values)), found


# Words


def _in_its_words(schema: Schema, rows: Rows, unseen: str) -> Rows:
    """The same rows, measured by the schema's words in place of their own."""
    types = {column.name: column.type for column in schema.columns if column.type != NUMBER}
    words = {column.name: column.words for column in schema.columns if column.words}
    ways = {
        place: way
        for place, column in enumerate(schema.columns)
        if (way := _way(column, rows, unseen)) is not None
    }
    if not ways and types == rows.types:
        return rows
    if not ways:
        return replace(rows, types=types, words=words)
    values = np.array(rows.values, np.float64)
    for place, way in ways.items():
        values[:, place] = way(schema.columns[place], values[:, place], rows)
    return replace(rows, values=values, types=types, words=words)


def _way(column: Column, rows: Rows, unseen: str) -> Way | None:
    """How cells of rows become those of the column, None where they are measured alike."""
    came = rows.type_of(column.name)
    if rows.words.get(column.name, ()) != column.words:
        return partial(_by_words, unseen=unseen) if column.words else _by_numbers
    if column.words or column.name not in rows.types or column.type == came:
        return None
    return _by_moments if {column.type, came} & {DATE, DATETIME} else None


def _by_words(column: Column, cells: np.ndarray, rows: Rows, *, unseen: str) -> np.ndarray:
    """Cells (row,) by their places among the column's words: their own are words or numbers."""
    levels, which = np.unique(cells[~np.isnan(cells)], return_inverse=True)
    own = native(rows.type_of(column.name), rows.words.get(column.name, ()))
    place = {word: float(code) for code, word in enumerate(column.words)}
    codes = np.array([place.get(own.tell(level), np.nan) for level in levels.tolist()])
    measured = np.full(len(cells), np.nan)
    measured[~np.isnan(cells)] = codes[which]
    strange = np.isnan(measured) & ~np.isnan(cells)
    if strange.any():
        row = int(np.argmax(strange))
        UNSEEN[unseen](column, row, own.tell(float(cells[row])), rows)
    return measured


def _by_numbers(column: Column, cells: np.ndarray, rows: Rows) -> np.ndarray:
    """Cells (row,) of words as the numbers, or the dates, that they say."""
    words, meant = rows.words[column.name], native(column.type)
    numbers = np.full(len(words), np.nan)
    for code, word in enumerate(words):
        try:
            numbers[code] = meant.understand(word)
        except ValueError:
            row = int(np.argmax(cells == code))
            raise InputError(
                f"expected {column.expected} in column {column.name!r}, but row {row} (counted "
                f"from 0) of {rows.source} holds {word!r}; {CORRECT_IT}"
            ) from None
    return np.where(np.isnan(cells), np.nan, numbers[np.nan_to_num(cells).astype(np.int64)])


def _by_moments(column: Column, cells: np.ndarray, rows: Rows) -> np.ndarray:
    """Cells (row,) of days as moments, and of midnights as days; nothing else is either."""
    came = rows.type_of(column.name)
    measured = cells * SECONDS.get(came, np.nan) / SECONDS.get(column.type, np.nan)
    known = measured == np.rint(measured) if column.type == DATE else ~np.isnan(measured)
    strange = ~known & ~np.isnan(cells)
    if strange.any():
        row = int(np.argmax(strange))
        raise InputError(
            f"expected {_HELD.get(column.type, 'numbers')} in column {column.name!r}, as the model "
            f"was fitted on, but row {row} (counted from 0) of {rows.source} holds "
            f"{native(came).tell(float(cells[row]))}; convert the column"
        )
    return measured


def _refuse(column: Column, row: int, word: str, rows: Rows) -> None:
    raise InputError(
        f"expected {column.expected} in column {column.name!r}, but row {row} (counted from 0) of "
        f"{rows.source} holds {word!r}, which the model has never seen; {CORRECT_IT}, as impute "
        f"--unseen missing takes it to be"
    )


def _forgive(column: Column, row: int, word: str, rows: Rows) -> None:
    """It is missing."""


# What to do about a word that was never seen.
UNSEEN: Mapping[str, Callable[[Column, int, str, Rows], None]] = {
    "error": _refuse,
    "missing": _forgive,
}


def _require_names(schema: Schema, rows: Rows) -> None:
    missing = [name for name in schema.names if name not in rows.names]
    if missing:
        raise InputError(
            f"expected the columns that the model was fitted on, but {rows.source} lacks "
            f"{listed(missing)}; add them, left empty where they are unknown"
        )
    extra = [name for name in rows.names if name not in schema.names]
    if extra:
        raise InputError(
            f"expected only the columns that the model was fitted on, but {rows.source} also has "
            f"{listed(extra)}; leave them out, or have fit set them aside with --label or --drop"
        )


def require_admitted(column: Column, cells: np.ndarray, rows: Rows, way_out: str) -> None:
    """Nothing, once the column admits every one of its cells (row, ...).

    Raises InputError naming the place and the value otherwise, and the way out.

    >>> rows = Rows(np.array([[3.0], [np.nan]]), names=("a",))
    >>> require_admitted(Column("a", "real"), rows.values[:, 0], rows, CORRECT_IT)
    """
    for block in blocks(cells):
        strange = ~column.admits(cells[block])
        if strange.any():
            row, *cell = (int(axis) for axis in np.argwhere(strange)[0])
            place = cell_named((), cell) if cell else f"column {column.name!r}"
            held = column.written(float(cells[block][row][tuple(cell)]))
            raise InputError(
                f"expected {column.expected} in {place}, but row {row + block.start} (counted "
                f"from 0) of {rows.source} holds {held}; {way_out}"
            )
