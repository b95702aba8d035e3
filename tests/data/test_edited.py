"""A schema that a person edits is obeyed, or refused in a sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from unveil.data.admit import fits
from unveil.data.edited import obeyed
from unveil.data.infer import infer
from unveil.data.read import read
from unveil.data.schema import Column, Schema
from unveil.errors import InputError

N = 40
FRAME = pd.DataFrame(
    {
        "id": [f"r{i}" for i in range(N)],
        "stars": np.resize([1, 2, 3, 5, 5], N),
        "size": np.resize(["S", "M", "L"], N),
        "wind": np.arange(N) ** 2 % 36 * 10.0,
        "price": np.exp(np.random.default_rng(0).normal(size=N)),
    }
)
ROWS = read(FRAME)
Edit = Callable[[dict[str, dict[str, Any]]], Any]


def edited(tmp_path: Path, edit: Edit) -> Schema:
    """The schema that is obeyed after an edit of the columns that were inferred."""
    document = infer(ROWS).to_document() | {"given": []}
    edit({column["name"]: column for column in document["columns"]})
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return obeyed(path, ROWS)


def column(schema: Schema, name: str) -> Column:
    return schema.columns[schema.names.index(name)]


def test_a_schema_that_nobody_edited_is_the_one_inferred(tmp_path: Path) -> None:
    schema, inferred = edited(tmp_path, lambda columns: None), infer(ROWS)
    assert (schema.columns, schema.gaps, schema.form) == (inferred.columns, False, "pandas")
    assert [aside.name for aside in schema.aside] == ["id"]


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("stars", {"kind": "ordinal"}, {"kind": "ordinal", "levels": (1, 2, 3, 5)}),
        ("stars", {"kind": "category"}, {"kind": "category", "type": "integer"}),
        ("stars", {"kind": "count"}, {"kind": "count", "shift": 0}),
        ("stars", {"low": 0, "high": 5}, {"kind": "grid", "low": 0, "high": 5}),
        ("size", {"levels": ["S", "M", "L"]}, {"words": ("S", "M", "L"), "kind": "category"}),
        ("size", {"kind": "ordinal", "levels": ["S", "M", "L", "XL"]}, {"high": 3}),
        ("wind", {"kind": "angle", "low": 0, "high": 360}, {"kind": "angle", "high": 360}),
        ("wind", {"kind": "real"}, {"kind": "real", "step": 0}),
        ("wind", {"step": 5}, {"kind": "grid", "step": 5}),
        ("price", {"kind": "real"}, {"kind": "real", "shift": FRAME["price"].mean()}),
        ("price", {"kind": "proportion", "low": 0, "high": 50}, {"unit": 50}),
    ],
)
def test_what_is_said_of_a_column_is_obeyed(
    name: str, change: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    schema = edited(tmp_path, lambda columns: columns[name].update(change))
    obeying = column(schema, name)
    for key, value in expected.items():
        found = getattr(obeying, key)
        assert found == value or found == pytest.approx(value, rel=1e-12), key
    assert len(fits(schema, ROWS)) == N


def test_levels_in_another_order_are_other_codes(tmp_path: Path) -> None:
    schema = edited(tmp_path, lambda columns: columns["size"].update(levels=["S", "M", "L"]))
    place = schema.names.index("size")
    assert fits(schema, ROWS).values[:3, place].tolist() == [0, 1, 2]


def test_a_column_may_be_set_aside(tmp_path: Path) -> None:
    schema = edited(tmp_path, lambda columns: columns["wind"].update(kind="aside"))
    assert schema.names == ("stars", "size", "price")
    assert schema.aside[-1].why == "set aside in the schema"


def test_a_column_that_was_set_aside_may_be_modelled(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    kinds = {"id": "category", "stars": "grid", "size": "aside", "wind": "aside", "price": "aside"}
    columns = [{"name": name, "kind": kind} for name, kind in kinds.items()]
    path.write_text(json.dumps({"format_version": 2, "columns": columns}), encoding="utf-8")
    assert len(obeyed(path, ROWS).columns[0].words) == N


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda c: c["stars"].update(kind="roman"), "'stars' to be grid, as its cells say, or one"),
        (
            lambda c: c["size"].update(kind="count"),
            "numbers in column 'size' to be count, as the s",
        ),
        (
            lambda c: c["size"].update(levels=["S", "M"]),
            "every word of column 'size' .* but L is n",
        ),
        (
            lambda c: c["size"].update(levels=[1, 2, 3]),
            "levels of column 'size' .* but 1, 2, 3 came",
        ),
        (
            lambda c: c["stars"].update(low=2),
            "but row 0 .* holds 1; correct the schema, or the cell",
        ),
        (lambda c: c["stars"].update(name="star"), "but it lacks stars; add them, of kind 'aside'"),
        (lambda c: c["stars"].pop("kind"), "an object with 'kind' in the schema"),
        (lambda c: c["price"].update(kind="count"), "but row 0 .* holds"),
        (
            lambda c: c["wind"].update(kind="positive"),
            "a number above 0 in column 'wind', but row 0",
        ),
    ],
)
def test_what_cannot_be_obeyed_is_refused(edit: Edit, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        edited(tmp_path, edit)


def test_a_binary_column_has_two_levels_in_any_schema(tmp_path: Path) -> None:
    rows = read(pd.DataFrame({"sex": np.resize(["F", "M"], N), "age": np.arange(N) % 17 + 0.5}))
    document = infer(rows).to_document()
    document["columns"][0]["levels"] = ["F", "M", "X"]
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(InputError, match=r"two levels of the binary column 'sex' .* but 3 came"):
        obeyed(path, rows)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"aside": 3}, "'aside'"),
        ({"aside": [{"name": "size"}]}, "each column once, but size stands there twice"),
    ],
)
def test_what_is_set_aside_is_a_list_of_other_columns(
    change: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(infer(ROWS).to_document() | change), encoding="utf-8")
    with pytest.raises(InputError, match=sentence):
        obeyed(path, ROWS)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "schema as unveil writes schema.json in .*, but it cannot be read"),
        ("{", "schema as unveil writes schema.json in .*, but it cannot be read"),
        ("[]", "an object with 'format_version'"),
        ('{"format_version": 1}', "of format_version 2 in .*, but 1 came; begin with one"),
    ],
)
def test_files_that_are_no_schema_are_refused(
    text: str | None, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "schema.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=sentence):
        obeyed(path, ROWS)


def test_columns_that_the_rows_lack_are_named(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(infer(ROWS).to_document()), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"only columns of the data .* also has wind; take them out"
    ):
        obeyed(path, read(FRAME.drop(columns="wind")))
