"""Tables of every type through a whole model: in as a frame or a file, and out as the same."""

from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import csv

import unveil
from unveil.cli.main import run
from unveil.data.read import read
from unveil.errors import InputError

N = 120
RNG = np.random.default_rng(0)
TABLE = pa.table(
    {
        "id": [f"r{i}" for i in range(N)],
        "age": RNG.integers(18, 90, N),
        "sex": RNG.choice(["f", "m"], N),
        "job": RNG.choice(["cook", "clerk", "nurse"], N),
        "member": RNG.random(N) < 0.4,
        "gain": np.where(RNG.random(N) < 0.5, 0, np.rint(np.exp(RNG.normal(6, 1, N)))),
        "price": np.exp(RNG.normal(size=N)),
        "since": (np.datetime64("2020-01-01") + RNG.integers(0, 300, N)).astype("datetime64[D]"),
        "empty": pa.nulls(N),
    }
)
MODELLED = [name for name in TABLE.column_names if name not in ("id", "empty")]
FORMS = {"pandas": TABLE.to_pandas(), "polars": pl.from_arrow(TABLE), "pyarrow": TABLE}


@pytest.fixture(scope="module", params=list(FORMS))
def fitted(request: pytest.FixtureRequest) -> unveil.Fitted:
    return unveil.fit(FORMS[request.param], latent=2, epochs=1)


def dtypes(frame: Any) -> dict[str, Any]:
    return {name: dtype for name, dtype in nw.from_native(frame).schema.items() if name in MODELLED}


def test_new_rows_are_a_frame_like_that_of_the_training_rows(fitted: unveil.Fitted) -> None:
    source = FORMS[fitted.schema.form]
    for made in (
        fitted.sample(7),
        fitted.sample(7, where={"sex": "f", "age": (20, None)}),
        fitted.reconstruct(source),
        fitted.interpolate(source, 0, 1, steps=3),
    ):
        assert type(made) is type(source)
        assert list(nw.from_native(made).columns) == MODELLED
        words = {"sex": {"f", "m"}, "job": {"cook", "clerk", "nurse"}, "member": {True, False}}
        for name, there in words.items():
            assert {*nw.from_native(made).get_column(name).to_list()} <= there
    drawn = dtypes(fitted.sample(7))
    known = {name for name, dtype in dtypes(source).items() if drawn[name] == dtype}
    assert known >= {"age", "sex", "job", "member", "price"}
    assert "since" in known or fitted.schema.form == "pandas"


def test_a_model_remembers_the_form_of_its_rows(fitted: unveil.Fitted, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model")
    loaded = unveil.load(tmp_path / "model")
    assert loaded.schema == fitted.schema
    before, after = (nw.from_native(one.sample(5)).to_arrow() for one in (fitted, loaded))
    assert before.equals(after)


def test_rows_of_another_form_mean_the_same(fitted: unveil.Fitted) -> None:
    mine = fitted.encode(FORMS[fitted.schema.form])[0]
    for source in FORMS.values():
        np.testing.assert_array_equal(fitted.encode(source)[0], mine)


def test_arrays_in_are_arrays_out() -> None:
    fitted = unveil.fit(np.stack([TABLE["price"], TABLE["gain"]], 1), latent=1, epochs=1)
    assert fitted.schema.form == "numpy"
    assert isinstance(fitted.sample(3), np.ndarray)


def test_unseen_words_are_refused_or_missing(fitted: unveil.Fitted) -> None:
    strange = TABLE.set_column(3, "job", [["smith"] * N])
    with pytest.raises(InputError, match=r"one of clerk, cook, nurse .* holds 'smith', which the"):
        fitted.rows(strange)
    assert np.isnan(fitted.rows(strange, "missing").values[:, 2]).all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda table: table.drop_columns(["age"]), "but the data lacks age; add them, left empty"),
        (
            lambda table: table.append_column("new", table["age"]),
            "but the data also has new; leave them",
        ),
    ],
)
def test_columns_missing_or_added_later_are_named(
    fitted: unveil.Fitted, change: Any, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        fitted.encode(change(TABLE))


def test_a_csv_keeps_its_types_through_a_model(tmp_path: Path, capsys: Any) -> None:
    csv.write_csv(TABLE, tmp_path / "in.csv")
    model = str(tmp_path / "model")
    before = (tmp_path / "in.csv").read_bytes()
    assert run(["fit", str(tmp_path / "in.csv"), "-o", model, "--epochs", "1"]) == 0
    printed = capsys.readouterr().out
    for told in ("spiked_log_normal", "bernoulli", "categorical", "3 values, text", "id", "aside"):
        assert told in printed
    assert "every cell is missing; kept beside, not modelled" in printed
    assert run(["sample", model, "-n", "200", "-o", str(tmp_path / "new.csv"), "--quiet"]) == 0
    rows, new = read(tmp_path / "in.csv"), read(tmp_path / "new.csv")
    assert new.types == {name: rows.types[name] for name in MODELLED} | {"gain": "integer"}
    assert (tmp_path / "in.csv").read_bytes() == before


def test_an_edited_schema_is_obeyed_and_resumed(tmp_path: Path) -> None:
    csv.write_csv(TABLE, tmp_path / "in.csv")
    first = unveil.fit(tmp_path / "in.csv", epochs=1)
    first.save(tmp_path / "first")
    path = tmp_path / "schema.json"
    text = (tmp_path / "first" / "schema.json").read_text(encoding="utf-8")
    path.write_text(text.replace('"kind": "amount"', '"kind": "count"'), encoding="utf-8")
    again = unveil.fit(tmp_path / "in.csv", epochs=1, schema=str(path))
    assert [column.kind for column in again.schema.columns][4] == "count"
    assert again.settings.request.schema == str(path)


def test_many_columns_are_counted_by_kind(tmp_path: Path, capsys: Any) -> None:
    columns = {f"w{i}": RNG.choice(["a", "b", "c"], N) for i in range(31)}
    csv.write_csv(pa.table(columns), tmp_path / "wide.csv")
    assert run(["fit", str(tmp_path / "wide.csv"), "-o", str(tmp_path / "m"), "--epochs", "1"]) == 0
    assert "w0, w1, w2 and 28 more" in " ".join(capsys.readouterr().out.split())
