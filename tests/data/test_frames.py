"""A frame comes back as it came: its types, its order, and every cell that it had."""

import datetime as dt
import json
from dataclasses import replace
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from unveil.data.admit import fits
from unveil.data.encode import decode, encode
from unveil.data.frames import as_it_came, completed, frame, measured
from unveil.data.infer import infer
from unveil.data.read import Rows, read
from unveil.data.schema import Schema
from unveil.data.write import write_rows
from unveil.errors import InputError

N = 24
GAPS = np.arange(N) % 5 == 3
WHOLE = np.arange(N) ** 2 % 19
WORDS = np.resize(["red", "green", "blue"], N)
DAYS = [dt.date(2020, 1, 1) + dt.timedelta(days=int(day)) for day in WHOLE]
MOMENTS = [dt.datetime(2020, 1, 1, 6) + dt.timedelta(seconds=int(s)) for s in 977 * WHOLE]


def holed(cells: Any) -> list[Any]:
    return [None if gap else cell for cell, gap in zip(list(cells), GAPS, strict=True)]


def as_pandas() -> pd.DataFrame:
    index = pd.Index(np.arange(N) // 2, name="repeats")  # no name of a row
    colours = pd.Categorical(holed(WORDS), categories=["red", "blue", "green", "white"])
    sizes = pd.Categorical(holed(WORDS), ["green", "red", "blue"], ordered=True)
    columns = {
        "whole": pd.array(holed(WHOLE.tolist()), dtype="Int64"),
        "was whole": np.where(GAPS, np.nan, WHOLE),
        "single": np.where(GAPS, np.nan, WHOLE / 7).astype(np.float32),
        "colour": colours,
        "size": sizes,
        "word": holed(WORDS.tolist()),
        "truth": pd.array(holed((WHOLE > 9).tolist()), dtype="boolean"),
        "truth or none": pd.Series(holed((WHOLE > 9).tolist()), dtype=object).to_numpy(),
        "codes": pd.Categorical(holed((WHOLE % 3).tolist())),
        "moment": pd.to_datetime(pd.Series(holed(MOMENTS))).to_numpy(),
        "zoned": pd.to_datetime(pd.Series(holed(MOMENTS))).dt.tz_localize("Asia/Tokyo").array,
        "id": [f"row {i}" for i in range(N)],
    }
    return pd.DataFrame(columns, index=index)


def as_polars() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "whole": pl.Series(holed(WHOLE.tolist()), dtype=pl.Int32),
            "single": pl.Series(holed((WHOLE / 7).tolist()), dtype=pl.Float32),
            "colour": pl.Series(holed(WORDS.tolist()), dtype=pl.Categorical),
            "size": pl.Series(holed(WORDS.tolist()), dtype=pl.Enum(["green", "red", "blue", "no"])),
            "word": holed(WORDS.tolist()),
            "truth": holed((WHOLE > 9).tolist()),
            "day": holed(DAYS),
            "moment": pl.Series(holed(MOMENTS)).dt.replace_time_zone("UTC"),
            "id": [f"row {i}" for i in range(N)],
        }
    )


def as_arrow() -> pa.Table:
    return pa.table(
        {
            "whole": pa.array(holed(WHOLE.tolist()), pa.int16()),
            "single": pa.array(holed((WHOLE / 7).tolist()), pa.float32()),
            "colour": pa.array(holed(WORDS.tolist())).dictionary_encode(),
            "word": pa.array(holed(WORDS.tolist()), pa.large_string()),
            "truth": holed((WHOLE > 9).tolist()),
            "day": holed(DAYS),
            "moment": pa.array(holed(MOMENTS), pa.timestamp("ms")),
            "id": [f"row {i}" for i in range(N)],
        }
    )


every_form = pytest.mark.parametrize(
    "source", [as_pandas(), as_polars(), as_arrow()], ids=["pandas", "polars", "pyarrow"]
)


def schema_and_rows(source: Any) -> tuple[Schema, Rows]:
    rows = read(source)
    schema = infer(rows)
    return schema, fits(schema, rows)


def native_type(source: Any) -> list[str]:
    if isinstance(source, pa.Table):
        return [str(field.type) for field in source.schema]
    return [str(dtype) for dtype in source.dtypes]


def cells_of(source: Any, name: str) -> list[Any]:
    return nw.from_native(source, eager_only=True).get_column(name).to_list()


def is_missing(cell: Any) -> bool:
    return cell is None or cell is pd.NaT or cell is pd.NA or bool(cell != cell)


# Filled


@every_form
def test_only_missing_cells_are_filled_and_nothing_else_changes(source: Any) -> None:
    schema, rows = schema_and_rows(source)
    assert {column.name for column in schema.aside} == {"id"}
    middle = np.array([[column.high if column.high < np.inf else column.shift + column.step / 3
                        for column in schema.columns]])  # fmt: skip
    levels = [column.levels[-1] if column.levels else value for column, value
              in zip(schema.columns, middle[0], strict=True)]  # fmt: skip
    filled = completed(schema, rows, np.repeat([levels], N, axis=0))
    assert type(filled) is type(source)
    assert native_type(filled) == native_type(source)
    if isinstance(source, pd.DataFrame):
        pd.testing.assert_index_equal(filled.index, source.index)
    for name in nw.from_native(source).columns:
        before, after = cells_of(source, name), cells_of(filled, name)
        for was, now in zip(before, after, strict=True):
            assert not is_missing(now)
            assert is_missing(was) or (was == now and type(was) is type(now))
    again = fits(schema, read(filled))
    assert not np.isnan(again.values).any()
    np.testing.assert_array_equal(again.values[~GAPS], rows.values[~GAPS])


@every_form
def test_the_source_is_left_as_it_was(source: Any) -> None:
    schema, rows = schema_and_rows(source)
    before = {name: cells_of(source, name) for name in nw.from_native(source).columns}
    completed(schema, rows, np.zeros_like(rows.values))
    for name, cells in before.items():
        for was, now in zip(cells, cells_of(source, name), strict=True):
            assert (is_missing(was) and is_missing(now)) or was == now


def test_an_array_is_filled_in_its_own_dtype() -> None:
    array = np.where(GAPS[:, None], np.nan, np.stack([WHOLE, WHOLE / 7], 1)).astype(np.float32)
    schema, rows = schema_and_rows(array)
    filled = completed(schema, rows, np.full((N, 2), 4.2))
    assert filled.dtype == np.float32
    np.testing.assert_array_equal(filled[~GAPS], array[~GAPS])
    assert (filled[GAPS, 0] == 4).all()  # on its grid


def test_a_word_that_a_frame_has_no_category_for_finds_room() -> None:
    schema, _ = schema_and_rows(as_pandas())
    few = as_pandas().assign(colour=pd.Categorical(["red", *[None] * (N - 1)]))
    values = np.full((N, len(schema.columns)), 0.0)
    filled = completed(schema, fits(schema, read(few)), values)
    assert set(filled["colour"]) == {"red", "blue"}


# New


@every_form
def test_new_rows_hold_what_the_columns_hold(source: Any) -> None:
    schema, rows = schema_and_rows(source)
    made = as_it_came(measured(schema, rows.values[~GAPS]))
    assert type(made) is type(source)
    types = {name: nw.from_native(made).schema[name] for name in schema.names}
    for name, dtype in nw.from_native(source).schema.items():
        if name in types:
            assert types[name] == dtype or name in ("truth or none", "codes", "size"), name
        for row, cell in zip(np.flatnonzero(~GAPS), cells_of(made, name) if name in types else [],
                             strict=False):  # fmt: skip
            was = cells_of(source, name)[row]
            assert cell == was or str(cell) == str(was)


def test_what_is_expected_of_integers_may_be_none() -> None:
    rows = Rows(np.array([[0.5], [2.0]]), ("visits",), types={"visits": "integer"})
    assert frame(rows, "polars")["visits"].to_list() == [0.5, 2.0]
    assert frame(rows.take([1]), "polars")["visits"].dtype == pl.Int64


def test_what_a_frame_stores_is_saved_with_the_schema() -> None:
    schema, rows = schema_and_rows(as_pandas())
    saved = Schema.from_document(json.loads(json.dumps(schema.to_document())))
    assert saved == schema
    made = as_it_came(measured(saved, rows.values[~GAPS]))
    assert str(made["zoned"].dtype) == str(as_pandas()["zoned"].dtype)
    document = schema.to_document()
    for column in document["columns"]:
        del column["dtype"]  # as a person may leave it out
    plain = as_it_came(measured(Schema.from_document(document), rows.values[~GAPS]))
    assert plain["single"].dtype == np.float64


def test_integers_that_their_type_has_no_room_for_find_it() -> None:
    rows = Rows(np.array([[200.0], [300.0]]), ("n",), types={"n": "integer"}, dtypes={"n": "UInt8"})
    assert frame(rows, "polars")["n"].dtype == pl.Int64
    assert frame(rows.take([0]), "polars")["n"].dtype == pl.UInt8
    ends = Rows(np.array([[0.5]]), ("n",), types={"n": "integer"}, dtypes={"n": "UInt8"})
    assert frame(ends, "polars")["n"].to_list() == [0.5]


LARGE = 2**60 + 1


@pytest.mark.parametrize(
    "source",
    [
        pd.DataFrame({"n": pd.array(holed(LARGE + WHOLE), dtype="Int64"), "x": WHOLE}),
        pl.DataFrame({"n": holed((LARGE + WHOLE).tolist()), "x": WHOLE}),
        pa.table({"n": holed((LARGE + WHOLE).tolist()), "x": WHOLE}),
    ],
    ids=["pandas", "polars", "pyarrow"],
)
def test_integers_beyond_those_that_floats_tell_apart_stay_themselves(source: Any) -> None:
    schema, rows = schema_and_rows(source)
    filled = cells_of(completed(schema, rows, np.full((N, 2), 2.0**60)), "n")
    assert np.array(filled)[~GAPS].tolist() == (LARGE + WHOLE)[~GAPS].tolist()
    assert native_type(completed(schema, rows, rows.values)) == native_type(source)
    assert abs(filled[3] - LARGE) < 2**30
    there = read(source, label=["n"]).labels["n"]
    assert there[~GAPS].tolist() == [str(n) for n in (LARGE + WHOLE)[~GAPS]]


@pytest.mark.parametrize("dtype", ["UInt8", "Int16"])
def test_what_fills_small_integers_is_one_of_them(dtype: str) -> None:
    source = pd.DataFrame({"n": pd.array(holed(WHOLE + 50), dtype=dtype), "x": WHOLE})
    schema, rows = schema_and_rows(source)
    for far in (-1e9, 1e9):
        column = replace(schema.columns[0], low=-np.inf, high=np.inf)
        open_ended = replace(schema, columns=(column, schema.columns[1]))
        filled = completed(open_ended, rows, np.full((N, 2), far))["n"]
        ends = np.iinfo(dtype.lower())
        assert filled.dtype == dtype
        assert set(filled[GAPS]) == {ends.min if far < 0 else ends.max}


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_moments_are_filled_in_the_unit_of_their_column(unit: str) -> None:
    source = pa.table({"t": pa.array(holed(MOMENTS), pa.timestamp(unit)), "x": WHOLE})
    schema, rows = schema_and_rows(source)
    real = replace(schema, columns=(replace(schema.columns[0], kind="real", step=0.0),
                                    schema.columns[1]))  # fmt: skip
    filled = completed(real, rows, np.full((N, 2), 1.6e9 + 0.6))
    assert filled.schema.field("t").type == pa.timestamp(unit)
    made = as_it_came(measured(real, np.full((2, 2), 1.6e9 + 0.6)))
    assert made.schema.field("t").type == pa.timestamp(unit)
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    for moments in (filled["t"].cast(pa.int64()).to_numpy()[GAPS], made["t"].cast(pa.int64())):
        found = np.asarray(moments) / per_second - 1.6e9
        np.testing.assert_allclose(found, 1.0 if unit == "s" else 0.6, atol=1e-5)


def test_days_and_midnights_are_each_other_and_nothing_else_is_either() -> None:
    days = pd.DataFrame({"t": DAYS, "x": WHOLE})
    midnights = days.assign(t=pd.to_datetime(days["t"]))
    text = days.assign(t=[str(day) for day in DAYS])
    for trained, others in ((days, (midnights, text)), (midnights, (days, text))):
        schema, rows = schema_and_rows(trained)
        for other in others:
            np.testing.assert_array_equal(fits(schema, read(other)).values, rows.values)
    schema, _ = schema_and_rows(days)
    hours = midnights.assign(t=midnights["t"] + pd.Timedelta(hours=7))
    with pytest.raises(InputError, match=r"expected days in column 't'.* row 0 .* 07:00:00; conv"):
        fits(schema, read(hours))
    with pytest.raises(InputError, match=r"expected days in column 't'.* holds 18262; convert"):
        fits(schema, read(days.assign(t=WHOLE + 18262)))
    numbers, _ = schema_and_rows(days.assign(t=WHOLE / 7))
    with pytest.raises(
        InputError, match=r"expected numbers in column 't'.* holds 2020-01-01; conv"
    ):
        fits(numbers, read(days))
    gone = fits(schema, read(days.assign(t=[None] * N)))
    assert np.isnan(gone.values[:, 0]).all()
    assert fits(schema, Rows(np.array([[18262.0, 1.0]]))).values[0, 0] == 18262  # an array's


def test_gaps_among_midnights_are_filled_by_midnights() -> None:
    schema, _ = schema_and_rows(pl.DataFrame({"t": DAYS, "x": WHOLE}))
    source = pl.DataFrame({"t": holed(DAYS), "x": WHOLE}).cast({"t": pl.Datetime("us")})
    filled = completed(schema, fits(schema, read(source)), np.full((N, 2), 18262.0))
    assert filled["t"].dtype == pl.Datetime("us")
    assert filled["t"][3] == dt.datetime(2020, 1, 1)


# From anything to anything, and back

CELLS: dict[str, st.SearchStrategy[Any]] = {
    "integer": st.integers(-50, 50),
    "number": st.floats(-1e6, 1e6, allow_subnormal=False, width=32),
    "word": st.sampled_from(["a", "b", "é", 'with "quotes", and commas', "NA", " "]),
    "truth": st.booleans(),
    "date": st.dates(dt.date(1900, 1, 1), dt.date(2100, 1, 1)),
    "moment": st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2100, 1, 1)),
}
TYPES: dict[str, Any] = {
    "integer": pa.int64(),
    "number": pa.float64(),
    "word": pa.string(),
    "truth": pa.bool_(),
    "date": pa.date32(),
    "moment": pa.timestamp("us"),
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Columns of any types with gaps in any place, and one that is surely to be modelled."""
    size = draw(st.integers(10, 25))
    columns = {"beside": pa.array(np.arange(size) ** 2 % 7 / 2)}
    for number, kind in enumerate(draw(st.lists(st.sampled_from(list(CELLS)), max_size=5))):
        cells = st.one_of(CELLS[kind], st.none()) if draw(st.booleans()) else CELLS[kind]
        drawn = draw(st.lists(cells, min_size=size, max_size=size))
        columns[f"{kind} {number}"] = pa.array(drawn, TYPES[kind])
    return pa.table(columns)


def same_cells(before: list[Any], after: list[Any]) -> bool:
    """Equal but for the digits that float32 drops of a number and of a moment."""
    pairs = [(was, now) for was, now in zip(before, after, strict=True) if was != now]
    return all(
        now is not None and was is not None
        and (abs((now - was).total_seconds()) <= 600 if isinstance(was, dt.datetime)
             else now == pytest.approx(was, rel=1e-5, abs=1))
        for was, now in pairs
    )  # fmt: skip


@settings(derandomize=True, max_examples=30, deadline=None, phases=[Phase.generate])
@given(table=tables(), form=st.sampled_from(["pyarrow", "polars", "pandas"]))
def test_a_frame_is_itself_after_the_way_through_the_model(table: pa.Table, form: str) -> None:
    source = {"pyarrow": lambda: table, "polars": lambda: pl.from_arrow(table),
              "pandas": table.to_pandas}[form]()  # fmt: skip
    rows = read(source)
    schema = infer(rows)
    fitting = fits(schema, rows)
    there = decode(schema, encode(schema, fitting))
    made = as_it_came(measured(schema, there))
    for column in schema.columns:
        if not column.is_constant:  # which fills its gaps
            after = [None if is_missing(cell) else cell for cell in cells_of(made, column.name)]
            assert same_cells(table[column.name].to_pylist(), after), column
    gone = np.isnan(fitting.values)
    filled = completed(schema, fitting, np.where(gone, there[::-1], np.nan))
    for name in table.column_names:
        for was, now in zip(cells_of(source, name), cells_of(filled, name), strict=True):
            assert is_missing(was) or now == was


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".feather"])
def test_rows_keep_their_types_in_files(suffix: str, tmp_path: Any) -> None:
    schema, all_rows = schema_and_rows(as_arrow())
    rows = all_rows.take(np.flatnonzero(~GAPS))
    path = tmp_path / f"rows{suffix}"
    write_rows(path, rows)
    again = read(path)
    assert dict(again.types) | {"colour": "category"} == {
        name: rows.type_of(name) for name in rows.names
    } | {"id": "text"}
    np.testing.assert_allclose(fits(schema, again).values, rows.values, rtol=1e-7)
    assert again.beside("id").tolist() == rows.labels["id"].tolist()


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_words_are_not_written_as_arrays(suffix: str, tmp_path: Any) -> None:
    _, rows = schema_and_rows(as_arrow())
    with pytest.raises(InputError, match=r"numbers only, .* but colour, word came as text; write"):
        write_rows(tmp_path / f"rows{suffix}", rows)
    assert list(tmp_path.iterdir()) == []
