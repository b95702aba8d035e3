"""Kinds, scales and steps are inferred as a person would, and survive a file."""

import json
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unveil.data.infer import infer
from unveil.data.read import Rows, read
from unveil.data.schema import Column, Schema
from unveil.errors import InputError


def column_of(values: object) -> Column:
    """The schema of a table's one interesting column, beside one that varies."""
    cells = np.array(values, dtype=np.float64)
    table = np.column_stack([cells, np.arange(len(cells))])
    return infer(Rows(table, names=("a", "beside"))).columns[0]


def cell_of(images: np.ndarray) -> Column:
    """The one column of images."""
    schema = infer(Rows(images))
    assert schema.shared
    return schema.columns[0]


def grey(high: float, step: float = 1.0) -> Column:
    return Column("cell", "grid", high / 2, high / 2, step, low=0.0, high=high)


# Tables


@pytest.mark.parametrize(
    ("values", "kind", "step"),
    [
        ([10, 20, 40] * 4, "grid", 10),
        ([1, 4, 7] * 4, "grid", 3),
        ([0.5, 1.5, 4.5] * 4, "grid", 1),
        ([0.1, 0.2, 0.3, 0.1 + 0.2] * 3, "grid", 0.1),
        ([1e-6, 3e-6, 4e-6] * 4, "grid", 1e-6),
        ([-3, 0, 5, np.nan] * 3, "grid", 1),
        (np.linspace(0, 1, 12) ** 0.5, "real", 0),
        ([1e-9, 3.3e-9, 7.1e-9] * 4, "real", 0),
        ([100.000003, 250.000014, 17.000009] * 4, "real", 0),
        ([0, 1, 10_000_000] * 4, "real", 0),
    ],
)
def test_kind_and_step(values: object, kind: str, step: float) -> None:
    column = column_of(values)
    assert column.kind == kind
    assert column.step == step
    assert (column.low, column.high) == (-inf, inf)
    assert column.unit == pytest.approx(np.nanstd(values))
    assert column.shift == pytest.approx(np.nanmean(values), abs=max(step / 2, 1e-12))


def test_one_value_is_constant() -> None:
    column = column_of([7.5, np.nan] * 5)
    assert (column.kind, column.shift, column.unit) == ("constant", 7.5, 1.0)


def test_0_and_1_are_binary() -> None:
    assert column_of([0, 1] * 5) == Column("a", "binary", 0.0, 1.0, step=1.0, low=0.0, high=1.0)


@pytest.mark.parametrize(("low", "high"), [(1, 2), (10, 40), (-0.5712, 1.7507)])
def test_two_values_are_a_grid_with_ends(low: float, high: float) -> None:
    column = column_of([low, high] * 5)
    assert (column.kind, column.low, column.high) == ("grid", low, high)
    assert column.step == high - low


def test_two_values_among_gaps_say_nothing_about_ends() -> None:
    assert column_of([1, 2] + [np.nan] * 10).low == -inf


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    decimals=st.integers(0, 4),
    step=st.integers(1, 300),
    origin=st.integers(-300, 300),
    steps=st.lists(st.integers(0, 500), min_size=10, max_size=20, unique=True),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_the_step_is_found(
    decimals: int, step: int, origin: int, steps: list[int], dtype: type
) -> None:
    steps = [*steps, 501, 502]  # two neighbours, so that no wider step is possible
    table = ((origin + step * np.array(steps)) / 10**decimals).astype(dtype)[:, None]
    column = infer(Rows(table, names=("a",))).columns[0]
    assert column.kind == "grid"
    assert column.step == step / 10**decimals
    assert column.admits(table).all()


@settings(derandomize=True, max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-8, 1e-3, 1.0, 1e6]))
def test_continuous_columns_are_real(seed: int, scale: float) -> None:
    values = scale * np.random.default_rng(seed).standard_normal(30)
    assert column_of(values).kind == "real"
    assert column_of(values.astype(np.float32)).kind == "real"


# Images and pixel arrays


@pytest.mark.parametrize(
    ("largest", "depth"), [(2, 3), (10, 15), (16, 16), (17, 31), (200, 255), (60_000, 65_535)]
)
def test_the_depth_is_the_smallest_that_holds_the_levels(largest: int, depth: int) -> None:
    images = np.linspace(0, largest, 40).astype(np.uint16).reshape(10, 2, 2)
    assert cell_of(images) == grey(float(depth))
    assert cell_of(images.astype(np.float32)) == grey(float(depth))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("depth", [16, 255, 65_535])
def test_levels_divided_by_their_depth(dtype: type, depth: int) -> None:
    levels = (depth - np.arange(40) % (depth + 1)).reshape(10, 2, 2)
    assert cell_of((levels / depth).astype(dtype)) == grey(1.0, 1 / depth)


def test_black_and_white_images_are_binary() -> None:
    images = np.arange(40).reshape(10, 2, 2) % 2
    assert cell_of(images) == Column("cell", "binary", step=1.0, low=0.0, high=1.0)


def test_faint_images_are_not_taken_for_black_ones() -> None:
    images = 1e-7 * np.random.default_rng(0).random((10, 2, 2))
    assert cell_of(images).kind == "real"


def test_other_images_are_scaled_by_their_mean_and_sd() -> None:
    images = np.random.default_rng(0).normal(5, 2, (10, 4, 4))
    images[3, 1, 1] = np.nan
    column = cell_of(images)
    assert column.kind == "real"
    assert column.shift == pytest.approx(np.nanmean(images))
    assert column.unit == pytest.approx(np.nanstd(images))


def test_integers_below_zero_are_a_grid_without_ends() -> None:
    column = cell_of(np.arange(-20, 20).reshape(10, 2, 2))
    assert (column.kind, column.step, column.low) == ("grid", 1, -inf)


def test_the_digits() -> None:
    schema = infer(read("digits"))
    assert schema.columns == (grey(16.0),)
    assert (schema.dims, schema.picture_shape, schema.gaps) == (64, (8, 8), False)


# The schema as a whole


def test_what_is_modelled() -> None:
    table = np.column_stack([np.arange(10), np.full(10, 3), np.arange(10) % 2])
    schema = infer(Rows(table, names=("a", "b", "c")))
    assert (schema.modelled, schema.dims, schema.shared) == ((0, 2), 2, False)


@pytest.mark.parametrize(
    ("event_shape", "picture_shape"),
    [((4, 5), (4, 5)), ((4, 5, 3), (4, 5, 3)), ((49,), (7, 7)), ((50,), None)],
)
def test_pictures(event_shape: tuple[int, ...], picture_shape: tuple[int, ...] | None) -> None:
    schema = Schema(event_shape, (grey(255.0),), gaps=False)
    assert schema.picture_shape == picture_shape
    assert schema.is_image == (picture_shape is not None)


def test_a_table_is_no_picture() -> None:
    columns = tuple(Column(name, "real") for name in "abcd")
    assert not Schema((4,), columns, gaps=False).is_image


def test_gaps_are_noticed() -> None:
    table = np.arange(10.0)[:, None]
    assert not infer(Rows(table, names=("a",))).gaps
    table[3] = np.nan
    assert infer(Rows(table, names=("a",))).gaps


def test_binarized() -> None:
    schema = Schema((2, 2), (Column("cell", "grid", 12.0, 2.0, 1.0, 10.0, 14.0),), gaps=False)
    column = schema.binarized().columns[0]
    assert (column.kind, column.shift, column.unit) == ("binarized", 10.0, 4.0)
    assert schema.binarized().binarized() == schema.binarized()


def test_binarizing_needs_ends() -> None:
    schema = Schema((1,), (Column("a", "grid", step=1.0),), gaps=False)
    with pytest.raises(InputError, match=r"two known ends .* 'a' is grid without ends; choose a"):
        schema.binarized()


def test_a_grid_writes_its_decimals() -> None:
    column = Column("a", "grid", shift=3.3, step=0.1)
    assert column.nearest(np.array([0.31, 3.5, 1.1])).tolist() == [0.3, 3.5, 1.1]


# Documents


def test_a_schema_survives_a_file() -> None:
    table = np.array([[i, 0.1 * i, i % 2, 7, np.sqrt(i), i // 5 * 3 + 1] for i in range(10)])
    schema = infer(Rows(table, names=("a", "b", "c", "d", "e", "f")))
    assert {column.kind for column in schema.columns} == {"grid", "binary", "constant", "real"}
    text = json.dumps(schema.to_document(), allow_nan=False)
    assert Schema.from_document(json.loads(text)) == schema


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format_version": 1}, "of format_version 2, but 1 came; use the unveil that wrote it"),
        ({"format_version": "1"}, "expected 'format_version' in the schema to be int, but '1'"),
        ({"event_shape": [0]}, r"to be a list of positive integers, but \[0\] came"),
        ({"event_shape": [5]}, r"one for each of a table, but 2 came for rows of shape \(5,\)"),
        ({"columns": [7, 8]}, "expected an object with 'low' in the schema, but 7 came"),
        ({"gaps": 1}, "expected 'gaps' in the schema to be bool, but 1 came"),
    ],
)
def test_documents_that_are_refused(change: dict[str, object], sentence: str) -> None:
    columns = (Column("a", "real"), Column("b", "real"))
    document = Schema((2,), columns, gaps=False).to_document()
    with pytest.raises(InputError, match=sentence):
        Schema.from_document({**document, **change})


def test_a_list_is_no_schema() -> None:
    with pytest.raises(InputError, match=r"an object with 'format_version' .* but \[\] came"):
        Schema.from_document([])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kind": "roman"}, "kind of column 'a' to be one of real, grid, .* but 'roman' came"),
        ({"unit": 0.0}, "finite shift and a positive unit for column 'a', but 0.0 and 0.0 came"),
        ({"step": -1.0}, "a step of 0 or more and low <= high for column 'a', but step -1.0"),
        ({"kind": "binary"}, "column 'a' of kind binary to have a step, but 0 came"),
    ],
)
def test_columns_that_are_refused(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Column(**{"name": "a", "kind": "real", **change})  # pyright: ignore[reportArgumentType]


# What nothing can be inferred from


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.arange(9.0), "at least 10 rows to learn from, but the data has 9; add rows"),
        (np.full(10, np.nan), "but each of the data is set aside: a .every cell is missing.; give"),
        (np.full(10, 2.0), "a column that varies, but each of a holds one value only"),
        (np.array([1e300, 1e-300] * 5), "one scale in column 'a', .* between 1e-300 and 1e.300"),
        (np.arange(10) * 1e-200, "one scale in column 'a', .* 0 and 9e-200, .*cannot hold"),
        (np.array([-1.7e308, 0, 1.7e308] * 4), "one scale in column 'a', .* -1.7e.308 and 1.7e"),
    ],
)
def test_data_that_are_refused(values: np.ndarray, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        infer(Rows(values[:, None], names=("a",)))


def test_blank_images_are_refused() -> None:
    with pytest.raises(InputError, match="each of cell holds one value only; there is nothing"):
        infer(Rows(np.zeros((10, 2, 2), np.uint8)))
