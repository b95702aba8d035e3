"""Annotated matrices of counts from end to end: read, fitted given their totals, and written."""

import builtins
import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import torch
from scipy import sparse, stats

import unveil
from unveil import feed
from unveil.baselines import Baselines, Grid, fit_baselines
from unveil.cli.main import run
from unveil.data.encode import encode
from unveil.data.infer import infer
from unveil.data.read import Rows, read
from unveil.data.sparse import SparseCounts
from unveil.data.write import write_rows
from unveil.errors import InputError
from unveil.fitting import plan, train_planned
from unveil.request import Request

RNG = np.random.default_rng(0)
CELLS, GENES = 120, 60
TOTALS = np.exp(RNG.normal(5.5, 0.7, CELLS))
SHARES = RNG.dirichlet(np.full(GENES, 0.6))
COUNTS = RNG.poisson(RNG.gamma(3.0, TOTALS[:, None] * SHARES / 3.0))
BATCH = np.array(["b1", "b2"])[np.arange(CELLS) % 2]
NAMES = [f"g{j}" for j in range(GENES)]


def objects(cells: Any) -> pd.Series:
    """Text as objects, which every anndata writes whatever the pandas beside it."""
    return pd.Series(np.array(cells, object), dtype=object)


def matrix(x: Any, names: list[str] | None = None) -> anndata.AnnData:
    obs = pd.DataFrame({"batch": objects(BATCH), "size": np.arange(CELLS) + 1.0})
    obs.index = pd.Index([f"cell{i}" for i in range(CELLS)], dtype=object)
    var = pd.DataFrame(index=pd.Index(NAMES if names is None else names, dtype=object))
    return anndata.AnnData(X=x, obs=obs, var=var)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("omics") / "cells.h5ad"
    matrix(sparse.csr_matrix(COUNTS.astype(np.float32))).write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def model(cells: Path) -> Path:
    folder = cells.parent / "m"
    asked = ["--given", "batch", "--label", "size", "--latent", "2", "--epochs", "2", "--quiet"]
    assert run(["fit", str(cells), "-o", str(folder), *asked]) == 0
    return folder


def said(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr()
    return " ".join((printed.out + printed.err).split())


# In


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, np.array])
def test_a_file_is_x_by_its_names_with_obs_as_labels(form: Any, tmp_path: Path) -> None:
    matrix(form(COUNTS.astype(np.float32))).write_h5ad(tmp_path / "cells.h5ad")
    rows = read(tmp_path / "cells.h5ad")
    assert isinstance(rows.values, SparseCounts)
    assert rows.names == tuple(NAMES)
    assert {name: cells[0] for name, cells in rows.labels.items()} == {"batch": "b1", "size": 1.0}
    np.testing.assert_array_equal(rows.dense, COUNTS)


def test_anndata_in_memory_is_the_file(cells: Path) -> None:
    rows, read_ = read(matrix(sparse.csc_matrix(COUNTS)), given=["batch"]), read(cells)
    np.testing.assert_array_equal(rows.dense, read_.dense)
    assert (rows.names, list(rows.labels)) == (read_.names, ["size"])
    np.testing.assert_array_equal(rows.given["batch"], BATCH)
    np.testing.assert_array_equal(read(anndata.read_h5ad(cells, backed="r")).dense, COUNTS)


def test_categories_booleans_and_gaps_of_obs_are_labels() -> None:
    annotated = matrix(COUNTS)
    annotated.obs["type"] = pd.Categorical(np.array(["T", None] * (CELLS // 2), object))
    annotated.obs["good"] = np.arange(CELLS) % 3 == 0
    labels = read(annotated).labels
    assert labels["type"][:2].tolist() == ["T", ""]
    assert labels["good"][:2].tolist() == [1, 0]


# The model


def test_a_sparse_matrix_is_fitted_as_the_dense_one_to_the_last_bit() -> None:
    asked: dict[str, Any] = {"latent": 2, "epochs": 2, "likelihood": "negative_binomial"}
    dense = plan(COUNTS.astype(float), Request(exposure="total", **asked))
    sparse_ = plan(sparse.csr_array(COUNTS), Request(**asked))
    assert dense.settings.fingerprint == sparse_.settings.fingerprint
    assert dense.settings.request == sparse_.settings.request
    np.testing.assert_array_equal(dense.training, sparse_.training)
    one, other = (train_planned(planned)[1].state_dict() for planned in (dense, sparse_))
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), name


def test_batches_made_dense_at_the_last_moment_train_the_same_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned = plan(sparse.csr_array(COUNTS), Request(latent=2, epochs=2))
    resident = train_planned(planned)[1].state_dict()
    monkeypatch.setattr(feed, "LARGEST_DENSE", 0.0)
    for name, weight in train_planned(planned)[1].state_dict().items():
        assert torch.equal(weight, resident[name]), name


def test_totals_are_given_by_default_to_matrices_of_many_counts_alone() -> None:
    def exposure(data: Any, **asked: Any) -> str | None:
        return plan(data, Request(latent=2, epochs=1, **asked)).settings.request.exposure

    counts = sparse.csr_array(COUNTS)
    assert exposure(counts) == exposure(matrix(counts)) == exposure(matrix(COUNTS)) == "total"
    assert exposure(counts, exposure="none") == "none"
    assert exposure(counts[:, :20]) is None
    assert exposure(sparse.csr_array(COUNTS > 2)) is None
    assert exposure(COUNTS.astype(float)) is None
    assert exposure(matrix(counts), exposure="size") == "size"


def test_none_is_no_exposure_and_leaves_no_condition() -> None:
    planned = plan(sparse.csr_array(COUNTS), Request(exposure="none", latent=2, epochs=1))
    assert planned.covariates.columns == ()
    assert planned.settings.architecture.exposure is None
    assert not any("total" in note for note in planned.notes)
    conditional = plan(sparse.csr_array(COUNTS), Request(latent=2, epochs=1))
    assert any("conditional on each row's total" in note for note in conditional.notes)


def test_means_are_proportional_to_the_totals(model: Path) -> None:
    fitted, z = unveil.load(model), np.zeros((1, 2))

    def mean(**given: Any) -> np.ndarray:
        return fitted.decode(z, given={"batch": "b1", **given}).X

    np.testing.assert_allclose(mean(total=1000), 10 * mean(total=100), rtol=1e-5)
    unit = fitted.covariates.usual["total"]
    assert unit == pytest.approx(np.exp(np.log(COUNTS.sum(1)).mean()))
    np.testing.assert_allclose(mean(), mean(total=100) * unit / 100, rtol=1e-5)


def test_nothing_but_the_counts_is_filled(model: Path) -> None:
    np.testing.assert_array_equal(unveil.load(model).impute(matrix(COUNTS)), COUNTS)


def test_what_is_told_of_a_model_given_totals_says_so(model: Path, cells: Path) -> None:
    fitted = unveil.load(model)
    sentence = "conditional on each row's total"
    assert fitted.evaluation.split.endswith(sentence)
    assert sentence in repr(fitted) and sentence in (model / "README.md").read_text()
    assert fitted.evaluate(cells, draws=5, budget=0.01).split.endswith(sentence)
    assert fitted.evaluation.baselines["ppca"] is None


# The baseline


def baseline(x: np.ndarray, exposure: np.ndarray | None) -> tuple[Baselines, torch.Tensor, Grid]:
    rows = Rows(SparseCounts(sparse.csr_array(x)), names=tuple(f"g{j}" for j in range(x.shape[1])))
    schema = infer(rows)
    flat, e = torch.from_numpy(encode(schema, rows)).double(), exposure
    told = None if e is None else torch.from_numpy(e).double()
    fitted = fit_baselines(flat, flat, schema, 1, seed=0, exposure=told)
    return fitted, fitted.independent.log_evidence(flat, Grid.of(schema), told), Grid.of(schema)


def test_the_baseline_is_a_negative_binomial_a_column_given_the_totals() -> None:
    """Against SciPy's masses, at rates that are shares of all that was counted."""
    exposure = COUNTS.sum(1).astype(float)
    varying = COUNTS[:, COUNTS.max(0) > 0]
    fitted, log_p, _ = baseline(varying, exposure)
    rate = (varying.sum(0) + 0.5) / exposure.sum()
    r = 1 / fitted.independent.dispersion.numpy()
    mean = exposure[:, None] * rate
    expected = stats.nbinom.logpmf(varying, r, r / (r + mean)).sum(1)
    assert log_p.numpy() == pytest.approx(expected, rel=1e-9)
    # No other dispersion is likelier, by SciPy: its neighbours a tenth away are not.
    for factor in (0.8, 1.25):
        moved = stats.nbinom.logpmf(varying, r * factor, r * factor / (r * factor + mean)).sum(0)
        best = stats.nbinom.logpmf(varying, r, r / (r + mean)).sum(0)
        assert (moved <= best + 0.1).all()


def test_a_baseline_that_is_not_told_the_totals_is_the_worse() -> None:
    """The mutant: without totals, columns must put their differences down to chance."""
    varying = COUNTS[:, COUNTS.max(0) > 0]
    told, untold = (baseline(varying, e)[1].mean() for e in (COUNTS.sum(1).astype(float), None))
    assert float(told) > float(untold) + 5


def test_a_column_never_counted_in_training_may_count_in_a_new_row() -> None:
    fitted, _, grid = baseline(np.array([[1, 2]] + [[0, 3]] * 19), None)
    new = torch.tensor([[5.0, 2.0], [torch.nan, torch.nan]], dtype=torch.float64)
    log_p = fitted.independent.log_evidence(new, grid)
    assert bool(torch.isfinite(log_p).all()) and float(log_p[1]) == 0.0


# Out


def test_encode_writes_a_copy_with_the_posterior(model: Path, cells: Path, tmp_path: Path) -> None:
    before, out = cells.read_bytes(), tmp_path / "out.h5ad"
    assert run(["encode", str(model), str(cells), "-o", str(out), "--quiet"]) == 0
    written, came = anndata.read_h5ad(out), anndata.read_h5ad(cells)
    mean, sd = unveil.load(model).encode(cells)
    np.testing.assert_array_equal(written.obsm["X_unveil"], mean)
    np.testing.assert_array_equal(written.obsm["X_unveil_sd"], sd)
    np.testing.assert_array_equal(written.X.toarray(), came.X.toarray())
    assert written.obs.equals(came.obs) and written.var_names.equals(came.var_names)
    assert cells.read_bytes() == before
    again = tmp_path / "again.h5ad"
    assert run(["encode", str(model), str(out), "-o", str(again), "--quiet"]) == 0
    np.testing.assert_array_equal(anndata.read_h5ad(again).obsm["X_unveil"], mean)
    table = tmp_path / "z.parquet"
    assert run(["encode", str(model), str(cells), "-o", str(table), "--quiet"]) == 0
    assert pyarrow.parquet.read_table(table).column_names == [
        "z0_mean", "z0_sd", "z1_mean", "z1_sd", "size",
    ]  # fmt: skip


def test_rows_are_drawn_at_a_total_and_written_as_such_matrices(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new.h5ad"
    asked = ["sample", str(model), "-n", "40", "-o", str(out), "--where", "batch=b1"]
    assert run(asked) == 0
    usual = unveil.load(model).covariates.usual["total"]
    assert f"at the usual total of {usual:.9g}; --where total=N" in said(capsys)
    assert run([*asked[:-1], "batch=b1", "--where", f"total={20 * usual}", "--quiet"]) == 0
    new = anndata.read_h5ad(out)
    assert (new.n_obs, list(new.var_names)) == (40, NAMES)
    assert set(new.obs["batch"]) == {"b1"}
    assert isinstance(new.X, sparse.csr_matrix | sparse.csr_array) and new.X.dtype == np.float32
    assert 10 * usual < new.X.sum(1).mean() < 40 * usual
    np.testing.assert_array_equal(read(out).dense, new.X.toarray())
    csv = tmp_path / "new.csv"
    assert run(["sample", str(model), "-n", "3", "-o", str(csv), "--where", "batch=b2"]) == 0
    assert read(csv, drop=["batch", "total"]).names == tuple(NAMES)


def test_what_is_made_is_annotated_as_what_came(model: Path, cells: Path) -> None:
    fitted = unveil.load(model)
    made = fitted.reconstruct(cells)
    assert isinstance(made, anndata.AnnData)
    assert (made.shape, list(made.obs)) == ((CELLS, GENES), ["size", "batch"])
    assert isinstance(fitted.sample(2, given={"batch": "b1"}), anndata.AnnData)


def test_a_fitted_model_reads_other_orders_and_forms(model: Path, cells: Path) -> None:
    fitted = unveil.load(model)
    order = RNG.permutation(GENES)
    shuffled = matrix(COUNTS[:, order], [NAMES[j] for j in order])
    for one, other in zip(fitted.encode(cells), fitted.encode(shuffled), strict=True):
        np.testing.assert_array_equal(one, other)


# What is refused


def refused(capsys: pytest.CaptureFixture[str], *asked: str) -> str:
    assert run(list(asked)) == 2
    return said(capsys)


def test_bad_files_get_a_sentence(
    cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, bad = str(tmp_path / "m"), tmp_path / "bad.h5ad"

    def fit_bad(x: Any, *more: str, names: list[str] | None = None) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.warn", lambda *args, **kwargs: None)
            matrix(x, names).write_h5ad(bad)
        return refused(capsys, "fit", str(bad), "-o", out, "--epochs", "1", *more)

    counts = COUNTS.astype(np.float32)
    halves, holes = counts.copy(), counts.copy()
    halves[3, 5], holes[7, 2] = 0.5, np.nan
    asked = ("--likelihood", "negative_binomial")
    assert "column 'g5', but row 3 (counted from 0)" in fit_bad(halves, *asked)
    assert "step 1 from 0 on in column 'g0', but row 0" in fit_bad(-1 - counts, *asked)
    assert "column 2 of row 7 (both counted from 0) of" in fit_bad(sparse.csr_matrix(holes))
    assert "one of row 7" in fit_bad(holes, *asked, "--exposure", "total")
    assert "g1 came more than once in var_names" in fit_bad(
        counts, names=["g0", "g1", "g1", *NAMES[3:]]
    )
    assert "expected a matrix X in" in fit_bad(None, names=None)
    unknown = refused(capsys, "fit", str(cells), "-o", out, "--given", "donor")
    assert "expected 'donor' to be a column of" in unknown and "batch, size, g0" in unknown
    bad.write_bytes(b"no such file")
    assert "it may be truncated or damaged" in refused(capsys, "fit", str(bad), "-o", out)
    assert not Path(out).exists()


def test_outputs_that_cannot_be_get_a_sentence(
    model: Path, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = cells.read_bytes()
    same = refused(capsys, "encode", str(model), str(cells), "-o", str(cells))
    assert "expected a file to write apart from what is read" in same
    out = tmp_path / "z.h5ad"
    other = refused(capsys, "encode", str(model), "wine", "-o", str(out))
    assert "expected DATA to end in .h5ad" in other
    assert cells.read_bytes() == before and not out.exists()
    rows = Rows(np.zeros((1, 1)), ("sex",), words={"sex": ("f",)})
    with pytest.raises(InputError, match=r"expected numbers only, as X of an .h5ad holds"):
        write_rows(out, rows)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_row_has_no_total(tmp_path: Path) -> None:
    empty = COUNTS.copy()
    empty[11] = 0
    with pytest.raises(InputError, match=r"that of row 11 .* is 0; leave the row out, or fit with"):
        unveil.fit(sparse.csr_array(empty), epochs=1)


def test_without_anndata_there_is_one_sentence(
    cells: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "anndata":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    told = refused(capsys, "fit", str(cells), "-o", str(cells.parent / "never"))
    assert "install it with pip install 'unveil[omics]'" in told


def test_json_names_the_condition(model: Path) -> None:
    document = json.loads((model / "evaluation.json").read_text())
    assert document["split"].endswith("conditional on each row's total")
    assert document["baselines"]["independent"] < 0
