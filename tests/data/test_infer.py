"""Kinds are told as a person would tell them, words and identifiers among them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from unveil.data.infer import infer
from unveil.data.read import read
from unveil.data.schema import Column, Schema
from unveil.errors import InputError

N = 400
RNG = np.random.default_rng(0)
BESIDE = RNG.normal(size=N)


def schema_of(cells: Any) -> Schema:
    """The schema of a column "a" beside one of real numbers."""
    return infer(read(pd.DataFrame({"a": cells, "beside": BESIDE})))


def column_of(cells: Any) -> Column:
    return schema_of(cells).columns[0]


def why_aside(cells: Any) -> str:
    (aside,) = schema_of(cells).aside
    assert aside.name == "a"
    return aside.why


def with_gaps(cells: Any) -> pd.Series:
    return pd.Series(cells, dtype=object).mask(RNG.random(N) < 0.1)


# Words, booleans and dates


@pytest.mark.parametrize(
    ("cells", "kind", "words"),
    [
        (["no", "yes"], "binary", ("no", "yes")),
        (["b", "a", "c"], "category", ("a", "b", "c")),
        (["1", "2", "3+"], "category", ("1", "2", "3+")),
        (["only"], "constant", ("only",)),
    ],
)
def test_words_are_classes(cells: list[str], kind: str, words: tuple[str, ...]) -> None:
    for some in (np.resize(cells, N).astype(object), with_gaps(np.resize(cells, N))):
        column = column_of(some)
        assert (column.kind, column.type, column.words) == (kind, "text", words)


def test_ordered_categories_are_ranks_without_those_never_seen() -> None:
    cells = pd.Categorical(np.resize(["M", "S", "L"], N), ["XS", "S", "M", "L"], ordered=True)
    column = column_of(cells)
    assert (column.kind, column.words, column.levels) == ("ordinal", ("S", "M", "L"), (0, 1, 2))
    unordered = column_of(pd.Categorical(np.resize(["M", "S", "L"], N)))
    assert (unordered.kind, unordered.type) == ("category", "category")


def test_truth_is_binary_and_dates_are_a_grid() -> None:
    assert column_of(BESIDE > 0).kind == "binary"
    assert column_of(with_gaps(BESIDE > 0)).type == "boolean"
    weekly = pd.Timestamp("2020-01-06") + pd.to_timedelta(7 * RNG.integers(0, 50, N), "D")
    column = column_of(weekly)
    assert (column.kind, column.type, column.step) == ("grid", "datetime", 7 * 86_400)
    to_the_second = pd.Timestamp("2020-01-06") + pd.to_timedelta(RNG.integers(0, 10**8, N), "s")
    assert column_of(to_the_second).kind == "real"
    days = [moment.date() for moment in weekly]
    assert (column_of(days).type, column_of(days).step) == ("date", 7)


# Tails


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (np.exp(BESIDE), "positive"),
        (np.exp(0.1 * BESIDE), "real"),  # hardly skewed
        (BESIDE + 9, "real"),  # above 0, and not skewed
        (np.exp(BESIDE) - 0.5, "real"),  # skewed, and not above 0
        (np.exp(np.exp(-BESIDE) + 2).clip(0, 1e9), "positive"),
        (np.where(BESIDE > 0.5, np.exp(BESIDE), 0), "amount"),
        (np.where(BESIDE > 0.5, np.rint(np.exp(BESIDE + 7)), 0), "amount"),
        (np.where(BESIDE > 0.5, np.rint(1900 + 100 * BESIDE), 0), "amount"),
        (np.where(BESIDE > -2.5, np.exp(BESIDE), 0), "positive or real"),  # few zeros
        (np.where(BESIDE > 0, 5 + BESIDE, 0), "real"),  # a spike, and no tail
        (np.where(BESIDE > 0, np.resize(2.0 ** np.arange(9), N), 0), "grid"),  # few values
        (np.random.default_rng(1).negative_binomial(0.7, 0.2, N), "count"),
        (np.random.default_rng(1).negative_binomial(0.5, 0.005, N), "count"),  # of large variance
    ],
)
def test_tails_are_told_apart(cells: np.ndarray, kind: str) -> None:
    assert column_of(cells).kind in kind


def test_an_amount_is_measured_on_the_grid_that_it_was_written_on() -> None:
    cells = np.where(BESIDE > 0.5, np.rint(4 * np.exp(BESIDE + 5)) / 4, 0)
    column = column_of(cells)
    assert (column.kind, column.step, column.low) == ("amount", 0.25, 0)
    assert column.unit == pytest.approx(np.exp(np.log(cells[cells > 0]).mean()))
    assert column.expected == "a value on the grid of step 0.25 from 0 on"
    assert column_of(np.where(BESIDE > 0.5, np.exp(BESIDE), 0)).expected == "0 or a number above 0"


def test_columns_without_names_have_no_tails() -> None:
    arrays = np.stack([np.exp(BESIDE), np.where(BESIDE > 0, np.exp(BESIDE), 0)], axis=1)
    assert {column.kind for column in infer(read(arrays)).columns} == {"real"}


# Set aside


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ([f"customer {i}" for i in range(N)], "most words are different: they name the rows"),
        ([f"a long remark that somebody wrote on case {i}" for i in range(N)], "free text"),
        (np.arange(N), "it numbers the rows"),
        (RNG.permutation(N) * 10 + 7, "all different and evenly apart"),
        ([None] * N, "every cell is missing"),
        ([f"{i},5" for i in range(N)], "numbers written with a comma, as 0,5; only plain"),
        ([f"{i % 60}%" for i in range(N)], "numbers written with a percent sign, as 0%; only"),
    ],
)
def test_what_names_rows_is_set_aside(cells: Any, why: str) -> None:
    assert why in why_aside(cells)


@pytest.mark.parametrize(
    "cells",
    [
        np.arange(N) // 2,  # twice each
        np.arange(N) ** 2,  # not evenly apart
        np.arange(N) / 2.0,  # no integers
        np.resize([f"town {i}" for i in range(21)], N),
        pd.Series(np.arange(N), dtype="Int64").mask(BESIDE > 1),  # some rows are not numbered
    ],
)
def test_what_names_no_rows_is_modelled(cells: Any) -> None:
    assert schema_of(cells).aside == ()


def test_ten_thousand_categories_are_set_aside_with_a_note() -> None:
    cells = np.resize([f"w{i}" for i in range(10_000)], 20_001)
    schema = infer(read(pl.DataFrame({"a": cells, "b": np.arange(20_001) % 7})))
    assert schema.aside[0].why == "10000 different words, and at most 1000 can be modelled"
    assert schema.names == ("b",)


def test_reordered_rows_have_the_same_schema() -> None:
    frame = pd.DataFrame(
        {
            "id": np.arange(N),
            "job": np.resize(["x", "y", "z"], N),
            "gain": np.where(BESIDE > 0, np.exp(BESIDE), 0),
        }
    )
    shuffled = frame.iloc[RNG.permutation(N)]
    before, after = infer(read(frame)), infer(read(shuffled))
    assert [c.kind for c in before.columns] == [c.kind for c in after.columns]
    assert before.columns[0] == after.columns[0]
    assert before.aside == after.aside


# What nothing can be made of


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        (
            [*map(str, np.arange(N - 1) / 8), "?"],
            r"numbers in column 'a', as most .* row 399 .* holds '\?'; .* --label 'a', or",
        ),
        (np.resize([1e300, 1e-300, 7.0], N), "values of one scale in column 'a', but they lie"),
    ],
)
def test_cells_that_are_refused(cells: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        schema_of(cells)


@pytest.mark.parametrize("rows", [0, 1, 9])
def test_few_rows_are_refused(rows: int) -> None:
    frame = pd.DataFrame({"a": np.resize(["x", "y"], rows), "b": np.arange(rows)})
    with pytest.raises(InputError, match=r"expected at least (one row|10 rows to learn from), but"):
        infer(read(frame))


def test_nothing_but_identifiers_is_refused() -> None:
    with pytest.raises(InputError, match=r"each of the data is set aside: id .*numbers the rows"):
        infer(read(pd.DataFrame({"id": np.arange(N)})))


@pytest.mark.parametrize(
    "change",
    [
        lambda column: {"words": ("x", "x")},
        lambda column: {"words": ("x", "y", "z")},
        lambda column: {"type": "roman"},
        lambda column: {"type": "number"},
        lambda column: {"kind": "count"},
    ],
)
def test_words_that_do_not_suit_their_column_are_refused(change: Callable[..., Any]) -> None:
    column = column_of(np.resize(["x", "y"], N).astype(object))
    with pytest.raises(InputError, match=r"column 'a' to hold one of number, .*; correct it in"):
        Column(**{**vars(column), **change(column)})
