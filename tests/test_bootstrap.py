"""Completed tables that differ by what the training rows leave open as well."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import unveil
from oracles import SURELY_WRONG
from unveil import bootstrap
from unveil.bootstrap import bootstrapped
from unveil.cli.main import run
from unveil.data.read import Rows
from unveil.errors import InputError
from unveil.imputation.table import Imputation

RNG = np.random.default_rng(3)
SIZE, MODELS = 100, 10
FACTOR = RNG.normal(size=SIZE)
WHOLE = {
    "real": FACTOR + 0.3 * RNG.normal(size=SIZE),
    "few": FACTOR + 0.3 * RNG.normal(size=SIZE),
    "word": np.where(FACTOR > 1.5, 2.0, np.where(FACTOR > 0, 1.0, 0.0)),
}
GAPS = {"real": 0.1, "few": 0.92, "word": 0.1}
HOLED = {n: np.where(RNG.random(SIZE) < GAPS[n], np.nan, column) for n, column in WHOLE.items()}
WORDS = np.array(["low", "middle", "high"], object)
TABLE = pa.table(
    {
        "real": pa.array(HOLED["real"], from_pandas=True),
        "few": pa.array(HOLED["few"], from_pandas=True),
        "word": [None if math.isnan(w) else WORDS[int(w)] for w in HOLED["word"]],
        "label": np.arange(SIZE),
    }
)


@pytest.fixture(scope="module")
def fitted() -> unveil.Fitted:
    return unveil.fit(TABLE, label=("label",), latent=1, epochs=1)


@pytest.fixture(scope="module")
def found(fitted: unveil.Fitted) -> Imputation:
    return bootstrapped(fitted, TABLE, models=MODELS)


def log_ratio_z(ours: Imputation, fixed: Imputation) -> float:
    """How far the mean of a column with few cells varies more between our tables than between those
    of one model: log s₁²/s₂² in standard deviations of what it would be were both alike."""
    ours_, fixed_ = (np.asarray(of.draws)[:, :, 1].mean(axis=1) for of in (ours, fixed))
    ratio = math.log(ours_.var(ddof=1) / fixed_.var(ddof=1))
    return ratio / math.sqrt(2 / (len(ours_) - 1) + 2 / (len(fixed_) - 1))


def test_tables_differ_by_the_parameters_as_well(fitted: unveil.Fitted, found: Imputation) -> None:
    assert log_ratio_z(found, fitted.imputation(TABLE, draws=100)) > SURELY_WRONG


def test_models_that_are_not_refitted_are_caught(fitted: unveil.Fitted, monkeypatch) -> None:
    monkeypatch.setattr(bootstrap, "refit", lambda fitted, rows, seed: fitted.vae)
    once = bootstrapped(fitted, TABLE, models=MODELS)
    assert log_ratio_z(once, fitted.imputation(TABLE, draws=100)) < SURELY_WRONG


def test_observed_cells_stay_in_every_table(found: Imputation) -> None:
    shown = ~np.isnan(found.rows.values)
    assert found.draws is not None and found.draws.shape == (MODELS, SIZE, 3)
    for table in found.draws:
        assert np.array_equal(table[shown], found.rows.values[shown])
        assert not np.isnan(table).any()
        assert np.isin(table[:, 2], np.arange(3.0)).all()
        for made, seen in zip(table.T, found.rows.values.T, strict=True):
            assert np.nanmin(seen) <= made.min() and made.max() <= np.nanmax(seen)


def test_models_are_fitted_to_as_many_rows_drawn_with_replacement(
    fitted: unveil.Fitted, monkeypatch
) -> None:
    seen = []

    def refitted(fitted: unveil.Fitted, rows: Rows, seed: int) -> unveil.VAE:
        seen.append(rows.labels["label"])
        return fitted.vae

    monkeypatch.setattr(bootstrap, "refit", refitted)
    monkeypatch.setattr(bootstrap, "complete", lambda *args, **asked: np.zeros((1, SIZE + 1, 3)))
    new = pa.table({"real": [50.0], "few": [None], "word": ["low"], "label": [SIZE]})
    bootstrapped(fitted, pa.concat_tables([TABLE, new.cast(TABLE.schema)]), models=20)
    times = np.bincount(np.concatenate(seen).astype(int), minlength=SIZE + 1)
    showing = fitted.settings.rows
    assert {len(rows) for rows in seen} == {showing}
    assert times[SIZE] == 0, "a row that the model was not fitted to"
    assert (times > 0).sum() == showing
    distinct = np.array([len(np.unique(rows)) for rows in seen]) / showing
    expected = 1 - (1 - 1 / showing) ** showing
    assert abs(distinct.mean() - expected) < SURELY_WRONG * distinct.std() / math.sqrt(len(seen))


def test_seeds_decide(fitted: unveil.Fitted) -> None:
    one, same, other = (bootstrapped(fitted, TABLE, models=2, seed=s).draws for s in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one[0], one[1])


def test_fewer_rows_or_no_model_are_refused(fitted: unveil.Fitted) -> None:
    with pytest.raises(InputError, match="different rows are not among those that came"):
        bootstrapped(fitted, TABLE[:-5], models=2)
    with pytest.raises(InputError, match="at least 1 model to refit, but 0 came"):
        bootstrapped(fitted, TABLE, models=0)


# ---- the verb ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(fitted: unveil.Fitted, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bootstrap")
    fitted.save(folder / "m")
    TABLE.to_pandas().to_csv(folder / "holes.csv", index=False)
    return folder


def test_the_verb_writes_the_tables_below_one_another(folder: Path, capsys) -> None:
    out = folder / "full.csv"
    words = ["impute", f"{folder}/m", f"{folder}/holes.csv", "-o", str(out), "--bootstrap", "2"]
    assert run([*words, "--json", f"{folder}/said.json"]) == 0
    written = pd.read_csv(out)
    assert written["draw"].tolist() == [1] * SIZE + [2] * SIZE
    assert not written.isna().any().any()
    assert set(written["word"]) <= set(WORDS)
    assert bootstrap.REFITTED in capsys.readouterr().out
    assert pd.read_json(folder / "said.json", typ="series")["drawn"] == bootstrap.REFITTED


@pytest.mark.parametrize("wrong", [["--bootstrap", "0"], ["--bootstrap", "2", "--draws", "2"]])
def test_the_verb_refuses_in_a_sentence(folder: Path, wrong: list[str], capsys) -> None:
    out = folder / "never.csv"
    words = ["impute", f"{folder}/m", f"{folder}/holes.csv", "-o", str(out)]
    assert run([*words, *wrong]) == 2
    assert not out.exists()
    assert capsys.readouterr().err
