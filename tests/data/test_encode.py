"""Encoding and decoding undo each other, and a row is known by its numbers alone."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unveil.data.admit import fits
from unveil.data.encode import decode, digests, encode, split
from unveil.data.infer import infer
from unveil.data.read import Rows, read
from unveil.data.schema import Column, Schema
from unveil.errors import InputError

TABLE = Schema(
    event_shape=(4,),
    columns=(
        Column("age", "grid", shift=40.0, unit=10.0, step=1.0),
        Column("sex", "binary", step=1.0, low=0.0, high=1.0),
        Column("site", "constant", shift=3.0),
        Column("dose", "real", shift=0.5, unit=0.25),
    ),
    gaps=False,
)
GREY = Schema(
    event_shape=(2, 2), columns=(Column("cell", "grid", 8.0, 8.0, 1.0, 0.0, 16.0),), gaps=False
)
ROW = [50.0, 1.0, 3.0, 0.75]


def table(*rows: list[float], names: tuple[str, ...] = TABLE.names) -> Rows:
    return Rows(np.array(rows), names=names)


# fits


def test_rows_that_fit_pass_as_they_are() -> None:
    rows = table(ROW)
    assert fits(TABLE, rows) is rows


def test_columns_are_matched_by_name() -> None:
    rows = fits(TABLE, table(ROW[::-1], names=TABLE.names[::-1]))
    assert rows.names == TABLE.names
    assert rows.values.tolist() == [ROW]


@pytest.mark.parametrize("names", [(), ("x0", "x1", "x2", "x3")])
def test_arrays_are_matched_by_position(names: tuple[str, ...]) -> None:
    assert fits(TABLE, table(ROW, names=names)).names == TABLE.names


def test_pixels_may_come_as_an_array_of_any_dtype() -> None:
    pixels = np.arange(40, dtype=np.uint8).reshape(10, 4)
    rows = fits(infer(read(pixels)), read(pixels.astype(np.float64)))
    assert rows.names == ()


def test_missing_cells_fit_everywhere() -> None:
    gaps = [np.nan] * 4
    np.testing.assert_array_equal(fits(TABLE, table(gaps)).values, [gaps])


def test_what_float32_does_to_a_value_fits() -> None:
    schema = Schema((1,), (Column("a", "grid", shift=1000.1, step=0.1),), gaps=False)
    fits(schema, Rows(np.array([[1234.7]], np.float32), names=("a",)))


def test_training_rows_fit_their_own_schema() -> None:
    for name in ("digits", "wine", "breast_cancer", "diabetes", "iris"):
        rows = read(name)
        assert fits(infer(rows), rows) is rows


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (table(ROW[:3], names=("age", "sex", "site")), "but the data lacks dose; add them, left"),
        (
            table([*ROW, 1], names=(*TABLE.names, "id")),
            "also has id; leave them out, or have fit set them aside with --label",
        ),
        (table(ROW[:3], names=()), r"expected 4 columns, .* have shape \(3,\); give the columns"),
        (
            table(ROW, [50.5, 1, 3, 0]),
            "grid of step 1 through 40 in column 'age', but row 1 .*50.5",
        ),
        (table(ROW, [50, 2, 3, 0]), "expected 0 or 1 in column 'sex', but row 1 .* holds 2;"),
        (table(ROW, [50, 1, 4, 0]), "the one value 3 that it always had in column 'site', .* 4;"),
        (table([50, 1, 3, np.inf]), "expected a finite number in column 'dose', but row 0 .* inf"),
    ],
)
def test_tables_that_do_not_fit(rows: Rows, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        fits(TABLE, rows)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (np.zeros((1, 3, 3)), r"rows of shape \(2, 2\), but those of the data have shape \(3, 3\)"),
        (np.array([[[0, 1], [17, 2]]]), r"from 0 to 16 in cell \(1, 0\), but row 0 .* holds 17;"),
        (np.array([[[0, 0.5], [1, 2]]]), r"of step 1 from 0 to 16 in cell \(0, 1\), .* holds 0.5;"),
    ],
)
def test_images_that_do_not_fit(images: np.ndarray, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        fits(GREY, Rows(images))


# encode and decode


def test_encode_leaves_constants_out() -> None:
    x = encode(TABLE, table(ROW))
    assert x.dtype == np.float32
    assert x.tolist() == [[1.0, 1.0, 1.0]]


def test_a_cell_beyond_all_measure_is_named() -> None:
    schema = Schema((2,), (Column("a", "real"), Column("b", "real", shift=1.0)), gaps=False)
    assert encode(schema, Rows(np.array([[1.0, 1e17]])))[0, 1] == np.float32(1e17)
    with pytest.raises(InputError, match=r"row 1 of the data, counted from 0, holds 1e\+300 in "):
        encode(schema, Rows(np.array([[1.0, 2.0], [np.nan, 1e300]])))


def test_grey_levels_become_minus_1_to_1() -> None:
    images = Rows(np.array([[[0, 4], [8, 16]]], np.uint8))
    assert encode(GREY, images).tolist() == [[[-1.0, -0.5], [0.0, 1.0]]]


def test_decode_rounds_grids_and_puts_constants_back() -> None:
    x = np.array([[1.02, 0.3, 1.02]])
    np.testing.assert_allclose(decode(TABLE, x), [[50.0, 0.3, 3.0, 0.755]])
    assert decode(GREY, np.array([[-1.5, 0.04], [0.11, 3.0]])).tolist() == [[0, 8], [9, 16]]


def test_decode_keeps_leading_axes_and_gaps() -> None:
    x = np.full((5, 7, 3), np.nan)
    values = decode(TABLE, x)
    assert values.shape == (5, 7, 4)
    assert (values[..., 2] == 3).all()
    assert np.isnan(values[..., [0, 1, 3]]).all()


def test_decode_refuses_other_shapes() -> None:
    with pytest.raises(InputError, match=r"encoded rows of shape \(3,\), but .* \(2, 4\) came"):
        decode(TABLE, np.zeros((2, 4)))


def test_binarized_cells_are_probabilities_both_ways() -> None:
    schema, images = GREY.binarized(), Rows(np.array([[[0, 4], [8, 16]]], np.uint8))
    x = encode(schema, fits(schema, images))
    assert x.tolist() == [[[0.0, 0.25], [0.5, 1.0]]]
    assert decode(schema, x + 0.01)[0, 0, 0] == pytest.approx(0.16)


columns = st.sampled_from(
    [
        st.integers(-50, 50).map(float),
        st.integers(0, 1).map(float),
        st.integers(-300, 300).map(lambda n: n / 10),
        st.sampled_from([10.0, 40.0]),
        st.floats(-1e3, 1e3, width=32),
        st.just(6.5),
        st.one_of(st.just(np.nan), st.integers(0, 9).map(float)),
    ]
)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.data())
def test_decoding_undoes_encoding(data: Any) -> None:
    cells = [data.draw(st.lists(data.draw(columns), min_size=12, max_size=12)) for _ in range(3)]
    values = np.column_stack([np.arange(12.0), *cells])
    values[0] = [0.0, 0.0, 0.0, 0.0]  # something observed in every column
    rows = Rows(values, names=("a", "b", "c", "d"))
    schema = infer(rows)
    back = decode(schema, encode(schema, fits(schema, rows)))
    for column, before, after in zip(schema.columns, values.T, back.T, strict=True):
        if column.is_constant:
            assert (after == column.shift).all()
        elif column.step > 0:
            np.testing.assert_array_equal(after, before)
        else:
            np.testing.assert_allclose(after, before, atol=1e-5 * column.unit)


# digests and split


integers = st.lists(st.lists(st.integers(0, 100), min_size=3, max_size=3), min_size=1, max_size=8)


@settings(derandomize=True, max_examples=30, deadline=None)
@given(integers, st.randoms(use_true_random=False))
def test_digests_depend_on_the_numbers_alone(rows: list[list[int]], random: Any) -> None:
    values = np.array(rows, np.float64)
    order = random.sample(range(len(rows)), len(rows))
    expected = digests(values)
    for dtype in (np.uint8, np.int64, np.float32, ">f8"):
        np.testing.assert_array_equal(digests(values.astype(dtype)), expected)
    np.testing.assert_array_equal(digests(values[order]), expected[order])
    np.testing.assert_array_equal(digests(values[:1]), expected[:1])
    assert len(np.unique(expected, axis=0)) == len(np.unique(values, axis=0))


def test_digests_of_zeros_and_gaps() -> None:
    odd_nan = np.frombuffer(np.uint64(0x7FF8000000000001).tobytes(), np.float64)[0]
    d = digests(np.array([[0.0, np.nan], [-0.0, odd_nan], [np.nan, 0.0]]))
    assert d.dtype == np.uint64
    np.testing.assert_array_equal(d[0], d[1])
    assert (d[0] != d[2]).any()


def test_digests_tell_lengths_apart_and_survive_blocks() -> None:
    assert (digests(np.zeros((1, 2))) != digests(np.zeros((1, 3)))).any()
    values = np.random.default_rng(0).random((5, 2**19))  # three blocks
    np.testing.assert_array_equal(digests(values)[4:], digests(values[4:]))


def test_digests_stay_the_same_over_releases() -> None:
    assert digests(np.array([[1.0, 2.0]])).tolist() == [
        [16998535230370674566, 14372231819234182500]
    ]


@settings(derandomize=True, max_examples=30, deadline=None)
@given(
    rows=st.lists(st.integers(0, 30), min_size=2, max_size=60).filter(lambda r: len(set(r)) > 1),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(-5, 2**70),
)
def test_split(rows: list[int], fraction: float, seed: int) -> None:
    values = np.array(rows, np.float64)[:, None]
    train, held_out = split(digests(values), fraction, seed)
    assert len(train) > 0 and len(held_out) > 0
    assert sorted([*train, *held_out]) == list(range(len(rows)))
    assert (np.diff(train) > 0).all() and (np.diff(held_out) > 0).all()
    sides = set(values[train, 0]), set(values[held_out, 0])
    assert not sides[0] & sides[1]
    again = split(digests(values[::-1]), fraction, seed)
    assert set(values[::-1][again[1], 0]) == sides[1]


def test_split_holds_out_the_fraction_and_follows_the_seed() -> None:
    d = digests(np.arange(1000.0)[:, None])
    assert len(split(d, 0.1, seed=0)[1]) == 100
    assert not np.array_equal(split(d, 0.1, seed=0)[1], split(d, 0.1, seed=1)[1])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, np.nan])
def test_split_refuses_fractions(fraction: float) -> None:
    with pytest.raises(InputError, match=r"between 0 and 1 to hold out, but .* came; 0\.1 is"):
        split(digests(np.eye(3)), fraction, seed=0)


def test_split_refuses_equal_rows() -> None:
    with pytest.raises(InputError, match="two different rows to split, but all 5 are equal"):
        split(digests(np.zeros((5, 2))), 0.5, seed=0)


# Words


SIZES = infer(read(pa.table({"size": ["S", "M", "L", None] * 3, "n": np.arange(12) ** 2 % 7})))


def sizes(cells: list[object], names: tuple[str, str] = ("size", "n")) -> Rows:
    return read(pa.table({names[0]: cells, names[1]: np.arange(float(len(cells)))}))


def test_words_are_measured_by_those_of_the_schema() -> None:
    fitting = fits(SIZES, sizes(["S", None, "L"]))
    np.testing.assert_array_equal(fitting.values[:, 0], [2, np.nan, 0])
    assert fitting.words == {"size": ("L", "M", "S")}
    assert fits(SIZES, fitting) is fitting


def test_a_word_that_was_never_seen_is_refused_or_missing() -> None:
    rows = sizes(["S", "XL"])
    with pytest.raises(
        InputError, match=r"one of L, M, S in column 'size', but row 1 .* 'XL', whi"
    ):
        fits(SIZES, rows)
    np.testing.assert_array_equal(fits(SIZES, rows, "missing").values[:, 0], [2, np.nan])
    with pytest.raises(InputError, match="among error, missing, but 'ignored' came; choose"):
        fits(SIZES, rows, "ignored")


def test_numbers_stand_for_the_words_that_they_spell() -> None:
    schema = infer(read(pa.table({"code": ["7", "12", "31"] * 4, "n": np.arange(12) ** 2 % 7})))
    rows = read(pa.table({"code": [31, 7, None], "n": [0, 1, 2]}))
    np.testing.assert_array_equal(fits(schema, rows).values[:, 0], [1, 2, np.nan])


def test_words_in_a_column_of_numbers_are_read_or_refused() -> None:
    words = read(pa.table({"size": ["S", "M"], "n": ["1", "2"]}))
    assert fits(SIZES, words).values[:, 1].tolist() == [1, 2]
    words = read(pa.table({"size": ["S", "M"], "n": ["1", "two"]}))
    with pytest.raises(
        InputError, match=r"grid of step 1 .* in column 'n', but row 1 .* 'two'; cor"
    ):
        fits(SIZES, words)


def test_columns_set_aside_become_labels_and_may_be_absent() -> None:
    frame = pa.table(
        {"id": [f"r{i}" for i in range(24)], "text": ["long " * 50 + str(i) for i in range(24)],
         "n": np.arange(24) ** 2 % 7}
    )  # fmt: skip
    schema = infer(read(frame))
    assert schema.names == ("n",)
    fitting = fits(schema, read(frame))
    assert {name: label[3] for name, label in fitting.labels.items()} == {"id": "r3"}
    assert fits(schema, read(frame.select(["n"]))).labels == {}
