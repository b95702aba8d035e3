"""A column can be read as another kind, and comes back from model units as it went in."""

from math import inf, pi, tau
from typing import Any

import numpy as np
import pytest
from scipy import stats

from unveil.data.admit import fits
from unveil.data.encode import decode, encode
from unveil.data.infer import infer
from unveil.data.read import Rows, read
from unveil.data.reread import reread
from unveil.data.schema import Column, Schema
from unveil.errors import InputError

RNG = np.random.default_rng(0)
POSITIVE = np.exp(RNG.normal(3.0, 1.0, 40))
DEGREES = RNG.integers(0, 360, 40).astype(float)
PERCENT = RNG.integers(0, 101, 40).astype(float)
CODES = np.array([10.0, 0.5, 30.0, 31.0])[np.arange(40) % 4]


def one(values: np.ndarray) -> Rows:
    """A table of the column a beside another."""
    return Rows(np.column_stack([values, np.arange(len(values))]), names=("a", "beside"))


def read_as(values: np.ndarray, kind: str, **options: int | float) -> tuple[Schema, Rows]:
    rows = one(values)
    return reread(infer(rows), rows, kind, ["a"], **options), rows


def encoded(values: np.ndarray, kind: str, **options: int | float) -> np.ndarray:
    schema, rows = read_as(values, kind, **options)
    return encode(schema, fits(schema, rows))[:, 0]


@pytest.mark.parametrize(
    ("values", "kind", "options", "x"),
    [
        (np.arange(40.0), "count", {}, np.arange(40.0)),
        (POSITIVE, "positive", {}, POSITIVE / stats.gmean(POSITIVE)),
        (DEGREES, "angle", {"period": 360}, np.deg2rad(DEGREES)),
        (DEGREES / 2 - 90, "angle", {"period": 360.0}, np.deg2rad(DEGREES / 2 - 90)),
        (DEGREES / 15, "angle", {"period": 24}, np.deg2rad(DEGREES)),
        (PERCENT, "proportion", {}, PERCENT / 100),
        (PERCENT / 100, "proportion", {}, PERCENT / 100),
        (PERCENT, "proportion", {"low": -100, "high": 300}, (PERCENT + 100) / 400),
        (CODES, "category", {}, np.array([1, 0, 2, 3.0])[np.arange(40) % 4]),
        (CODES, "ordinal", {}, np.array([1, 0, 2, 3.0])[np.arange(40) % 4]),
    ],
)
def test_x_is_what_the_kind_says_and_the_values_come_back(
    values: np.ndarray, kind: str, options: dict[str, float], x: np.ndarray
) -> None:
    values, x = np.append(values, np.nan), np.append(x, np.nan)
    schema, rows = read_as(values, kind, **options)
    assert (schema.columns[0].kind, schema.columns[1]) == (kind, infer(rows).columns[1])
    assert schema.columns[0].admits(values).all()
    np.testing.assert_allclose(encoded(values, kind, **options), x, rtol=1e-6, atol=1e-6)
    back = decode(schema, encode(schema, rows))[:, 0]
    np.testing.assert_allclose(back, values, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("kind", ["count", "category", "ordinal"])
def test_values_of_a_step_come_back_exactly(kind: str) -> None:
    schema, rows = read_as(np.append(np.arange(30.0) ** 3, np.nan), kind)
    np.testing.assert_array_equal(decode(schema, encode(schema, rows)), rows.values)


def test_kinds_know_whether_they_have_true_probabilities() -> None:
    masses = {
        kind: Schema((1,), (Column("a", kind, **more),), gaps=False).has_masses_only
        for kind, more in (
            ("real", {}),
            ("positive", {}),
            ("angle", {}),
            ("proportion", {}),
            ("count", {"step": 1.0}),
            ("category", {"step": 1.0, "low": 0.0, "high": 1.0, "levels": (3.0, 4.0)}),
            ("ordinal", {"step": 1.0, "low": 0.0, "high": 1.0, "levels": (3.0, 4.0)}),
        )
    }
    assert [kind for kind, mass in masses.items() if mass] == ["count", "category", "ordinal"]


def test_draws_beyond_a_period_and_between_codes_are_settled() -> None:
    turned, _ = read_as(DEGREES, "angle", period=360)
    np.testing.assert_allclose(
        turned.columns[0].settle(np.array([-10.0, 350.0, 361.0, 725.0])), [350, 350, 1, 5]
    )
    half, _ = read_as(DEGREES / 180 * pi - pi, "angle", period=tau)
    assert half.columns[0].settle(np.array([pi + 0.5]))[0] == pytest.approx(0.5 - pi)
    coded, _ = read_as(CODES, "category")
    settled = coded.columns[0].settle(np.array([-3.0, 0.6, 1.4, 9.0, np.nan]))
    np.testing.assert_array_equal(settled, [0.5, 10, 10, 31, np.nan])
    counted, _ = read_as(np.arange(40.0), "count")
    assert counted.columns[0].settle(np.array([0.3])) == 0.3


def test_nearest_and_expected() -> None:
    expected = {
        kind: (column.expected, column.nearest(np.array([-7.0, 12.0, 99.0])).tolist())
        for kind, values, options in (
            ("count", np.arange(40.0), {}),
            ("angle", DEGREES, {"period": 90 * 4}),
            ("proportion", PERCENT, {"low": 0, "high": 50.0 * 2}),
            ("category", CODES, {}),
        )
        for column in [read_as(values, kind, **options)[0].columns[0]]
    }
    assert expected == {
        "count": ("a value on the grid of step 1 from 0 on", [0.0, 12.0, 99.0]),
        "angle": ("a number from 0 to 360", [0.0, 12.0, 99.0]),
        "proportion": ("a number from 0 to 100", [0.0, 12.0, 99.0]),
        "category": ("one of 0.5, 10, 30, 31", [0.5, 10.0, 31.0]),
    }
    above = read_as(POSITIVE, "positive")[0].columns[0]
    assert above.expected == "a number above 0"
    assert above.admits(np.array([0.0, -1.0, 1e-30, 5.0, inf])).tolist() == [0, 0, 1, 1, 0]


def test_levels_close_to_each_other_are_told_apart() -> None:
    schema, _ = read_as(np.array([1.0, 1.00001, 1.00002])[np.arange(30) % 3], "ordinal")
    assert schema.columns[0].admits(np.array([1.00001, 1.000015])).tolist() == [True, False]


def test_all_columns_are_reread_but_constants() -> None:
    rows = Rows(np.column_stack([CODES, np.full(40, 7.0), CODES % 3]), names=("a", "b", "c"))
    schema = reread(infer(rows), rows, "category")
    assert [column.kind for column in schema.columns] == ["category", "constant", "category"]
    values = decode(schema, encode(schema, rows))
    np.testing.assert_array_equal(values, rows.values)


def test_shared_cells_are_reread_together() -> None:
    images = Rows((np.arange(80) % 4 * 50).astype(np.uint8).reshape(20, 2, 2))
    schema = reread(infer(images), images, "ordinal")
    assert schema.shared
    assert schema.columns[0].levels == (0, 50, 100, 150)
    np.testing.assert_array_equal(decode(schema, encode(schema, images)), images.values)
    grey = reread(infer(images), images, "proportion")
    assert (grey.columns[0].low, grey.columns[0].high) == (0, 255)


def test_a_reread_schema_survives_a_file() -> None:
    rows = Rows(np.column_stack([CODES, POSITIVE, DEGREES, PERCENT]), names=tuple("abcd"))
    schema = infer(rows)
    for name, kind, options in (
        ("a", "category", {}),
        ("b", "positive", {}),
        ("c", "angle", {"period": 360}),
        ("d", "proportion", {}),
    ):
        schema = reread(schema, rows, kind, [name], **options)
    assert Schema.from_document(schema.to_document()) == schema
    assert "levels" not in schema.to_document()["columns"][1]


def test_the_wine_classes() -> None:
    rows = read(read("wine"), label=[])
    rows = Rows(np.column_stack([rows.values, rows.labels["target"]]), (*rows.names, "class"))
    schema = reread(infer(rows), rows, "category", ["class"])
    assert (schema.columns[-1].levels, schema.modelled[-1]) == ((0, 1, 2), 13)


@pytest.mark.parametrize(
    ("values", "kind", "options", "sentence"),
    [
        (DEGREES - 400, "count", {}, r"step 1 from 0 on in column 'a', but row 0 .* holds -\d+; c"),
        (DEGREES / 2, "count", {}, r"but row \d+ .* holds .*\.5; .* another kind than count"),
        (DEGREES, "positive", {}, "expected a number above 0 in column 'a', but row .* holds 0; "),
        (-POSITIVE, "positive", {}, "a number above 0 in column 'a', but row 0 .* holds -"),
        (DEGREES, "angle", {"period": 24}, "a number from 0 to 24 in column 'a', but row 0 "),
        (DEGREES, "angle", {"period": 0}, r"a period above 0 for column 'a', but 0\.0 came; degr"),
        (DEGREES, "angle", {}, "options of angle to be period, but period is lacking; give it"),
        (DEGREES, "count", {"period": 1}, "options of count to be none, but period came; leave it"),
        (DEGREES, "proportion", {}, "a number from 0 to 100 in column 'a', but row .* holds"),
        (PERCENT, "proportion", {"low": 2, "high": 1}, "low < high for the proportions of column"),
        (np.arange(2000.0), "category", {}, "at most 1000 different values .* it holds 2000 or m"),
        (DEGREES, "roman", {}, "a kind to read columns as among count, .* but 'roman' came; choos"),
    ],
)  # fmt: skip
def test_values_that_do_not_suit(
    values: np.ndarray, kind: str, options: dict[str, float], sentence: str
) -> None:
    values = np.append(values, 0.0) if kind == "positive" and values[0] > 0 else values
    with pytest.raises(InputError, match=sentence):
        read_as(values, kind, **options)


def test_unknown_columns_are_refused() -> None:
    rows = one(CODES)
    with pytest.raises(InputError, match="but z came; choose among a, beside"):
        reread(infer(rows), rows, "ordinal", ["z"])


@pytest.mark.parametrize(
    "change",
    [
        {"levels": ()},
        {"levels": (1.0,), "high": 0.0},
        {"levels": (2.0, 1.0)},
        {"levels": (1.0, 2.0, 3.0)},
        {"low": 1.0},
        {"step": 0.5},
    ],
)
def test_levels_that_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="'a' of kind category to have two or more rising levels"):
        Column(
            **{
                "name": "a",
                "kind": "category",
                "step": 1.0,
                "low": 0.0,
                "high": 1.0,
                "levels": (1.0, 2.0),
                **change,
            }
        )


@pytest.mark.parametrize("level", [True, "1", None, inf])
def test_levels_of_a_document_are_numbers(level: object) -> None:
    schema, _ = read_as(CODES, "category")
    document = schema.to_document()
    document["columns"][0]["levels"][1] = level
    with pytest.raises(InputError, match="expected 'levels' in the schema to be finite numbers"):
        Schema.from_document(document)


def test_only_grey_levels_are_read_as_probabilities() -> None:
    schema, _ = read_as(PERCENT, "proportion")
    with pytest.raises(InputError, match="expected values between two known ends to read as prob"):
        schema.binarized()


# Counts are told by themselves


def counts_of(name: str, values: np.ndarray) -> list[str]:
    """The kinds inferred of a table of columns that all are such values."""
    return [column.kind for column in infer(Rows(values, names=(name,))).columns]


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.poisson(0.5, 5000),
        lambda rng: rng.negative_binomial(0.7, 0.2, 1000),
        lambda rng: rng.negative_binomial(0.3, 0.01, 1000),
        lambda rng: rng.negative_binomial(1.5, 0.4, 3000),
        lambda rng: rng.poisson(np.exp(rng.normal(0, 1.5, 2000))),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_counts_are_inferred(draw: Any, seed: int) -> None:
    values = draw(np.random.default_rng(seed)).astype(float)
    assert counts_of("visits", values[:, None]) == ["count"]
    holes = np.where(np.arange(len(values)) % 7 == 3, np.nan, values)
    assert counts_of("visits", holes[:, None]) == ["count"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: np.rint(np.clip(rng.normal(38, 20, 2000), 0, 95)),  # ages
        lambda rng: rng.integers(1950, 2024, 2000),  # years
        lambda rng: np.rint(2024 - rng.exponential(9, 2000)),  # years, mostly of late
        lambda rng: rng.choice(5, 2000, p=[0.1, 0.1, 0.2, 0.3, 0.3]) + 1,  # ratings
        lambda rng: rng.choice(6, 2000, p=[0.6, 0.2, 0.1, 0.05, 0.03, 0.02]),  # stars, mostly none
        lambda rng: rng.integers(0, 24, 2000),  # hours
        lambda rng: rng.binomial(1, 0.1, 2000) * 7,  # two values
        lambda rng: rng.negative_binomial(0.7, 0.2, 1000) + 1,  # no zeros
        lambda rng: rng.negative_binomial(0.7, 0.2, 1000) - 1,  # below zero
        lambda rng: rng.negative_binomial(0.7, 0.2, 60),  # too few to know the tail
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_other_whole_numbers_are_no_counts(draw: Any, seed: int) -> None:
    values = draw(np.random.default_rng(seed)).astype(float)
    assert counts_of("a", values[:, None]) == ["grid"]


@pytest.mark.parametrize("rows", ["digits", "wine", "breast_cancer", "diabetes", "iris"])
def test_the_built_ins_hold_no_counts(rows: str) -> None:
    assert "count" not in {column.kind for column in infer(read(rows)).columns}


def test_columns_without_names_are_counts_together_or_not_at_all() -> None:
    rng = np.random.default_rng(0)
    rate = np.append(rng.gamma(1.0, 2.0, 18), [0.003, 8.0])  # one hardly ever, one hardly skewed
    genes = rng.poisson(rng.gamma(1.0, 1.0, (800, 1)) * rate)
    schema = infer(read(genes))
    assert {column.kind for column in schema.columns} == {"count"}
    pixels = infer(read(read("digits").values.reshape(-1, 64).astype(float)))
    assert "count" not in {column.kind for column in pixels.columns}
    with_debts = np.column_stack([genes, -genes[:, 0] - 1])
    assert "count" not in {column.kind for column in infer(read(with_debts)).columns}


def test_bytes_side_by_side_may_be_counts_and_pictures_may_not() -> None:
    genes = np.random.default_rng(0).negative_binomial(0.5, 0.1, (400, 16)).astype(np.uint8)
    genes[0, 0] = 90  # not the depth of an image
    assert [column.kind for column in infer(read(genes)).columns] == ["count"]
    assert infer(read(genes.reshape(400, 4, 4))).columns[0].kind == "grid"
    dark = np.random.default_rng(0).negative_binomial(0.5, 0.01, (400, 16)).clip(0, 255)
    assert infer(read(dark.astype(np.uint8))).columns[0].kind == "grid"
