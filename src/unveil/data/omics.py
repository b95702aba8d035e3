"""Annotated matrices of single cells: `.h5ad` files and AnnData in, and out again."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import narwhals as nw
import numpy as np

from unveil.data.read import Rows, label_cells, listed, of_matrix
from unveil.data.sparse import counts_of
from unveil.errors import InputError

SUFFIX = ".h5ad"
ANNOTATED = "anndata"  # the form of rows that came as such a matrix
EMBEDDING = "X_unveil"  # what posterior means are called in obsm; their spreads end in _sd
_OBJECT = {"U": object}


def annotated_rows(x: Any, obs: Any, var: Any, source: str) -> Rows:
    """Rows of an annotated matrix: X by the names of `var`, each column of `obs` a label.

    Counts stay sparse, and those of a dense matrix become so; other numbers are made dense.

    Raises InputError for a matrix that is not there, and names that repeat.

    >>> import pandas as pd
    >>> obs, var = pd.DataFrame({"batch": ["a", "b"]}), pd.DataFrame(index=["ACTB", "GAPDH"])
    >>> rows = annotated_rows(np.array([[0.0, 3.0], [1.0, 0.0]]), obs, var, "the data")
    >>> rows.names, rows.labels["batch"].tolist()
    (('ACTB', 'GAPDH'), ['a', 'b'])
    """
    if x is None:
        raise InputError(
            f"expected a matrix X in {source}, but there is none; put the counts there, for "
            f"instance with adata.X = adata.layers['counts']"
        )
    names = tuple(map(str, var.index))
    if len(set(names)) < len(names):
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        raise InputError(
            f"expected every column of {source} to have a name of its own, but "
            f"{listed(twice, 5)} came more than once in var_names; call "
            f"adata.var_names_make_unique() first"
        )
    frame = nw.from_native(obs.reset_index(drop=True), eager_only=True)
    labels = {str(name): label_cells(frame.get_column(name)) for name in frame.columns}
    rows = of_matrix(x, source)
    return Rows(rows.values, names=names, labels=labels, source=source, form=ANNOTATED)


def annotated(rows: Rows) -> Any:
    """Rows as AnnData: their columns X, sparse where they are counts; labels and covariates obs.

    Raises InputError for words, of which X has none, and where anndata is not installed.

    >>> annotated(Rows(np.eye(2), ("ACTB", "GAPDH"), {"batch": np.array(["a", "b"])}))
    AnnData object with n_obs × n_vars = 2 × 2
        obs: 'batch'
    """
    import pandas as pd

    with _installed():
        from anndata import AnnData
    if rows.words:
        raise InputError(
            f"expected numbers only, as X of an {SUFFIX} holds, but {listed(rows.words)} came as "
            f"text; write to a .csv, .parquet or .feather"
        )
    # As objects, for not every anndata can write the text type of every pandas.
    beside = {**rows.labels, **rows.given}
    columns = {n: pd.Series(c, dtype=_OBJECT.get(c.dtype.kind)) for n, c in beside.items()}
    obs = pd.DataFrame(columns, index=range(len(rows)))
    obs.index = pd.Index([str(row) for row in range(len(rows))], dtype=object)
    var = pd.DataFrame(index=pd.Index(rows.names, dtype=object))
    counts = counts_of(np.asarray(rows.values), rows.source)
    x = np.asarray(rows.values) if counts is None else counts.to_scipy(np.float32)
    return AnnData(X=x, obs=obs, var=var)


def read_h5ad(path: Path) -> Rows:
    """The rows of an `.h5ad`: of all that it holds, X, obs and var alone are read.

    Raises InputError for a file without them, and where anndata is not installed.
    """
    with _installed():
        from anndata.io import read_elem
        from h5py import File
    with cast(Any, File(path)) as file:
        missing = [part for part in ("obs", "var") if part not in file]
        if missing:
            raise InputError(
                f"expected X, obs and var in {path}, as AnnData writes them, but {listed(missing)} "
                f"is not there; write it with adata.write_h5ad"
            )
        x = read_elem(file["X"]) if "X" in file else None
        return annotated_rows(x, read_elem(file["obs"]), read_elem(file["var"]), str(path))


def write_h5ad(path: Path, rows: Rows) -> None:
    """Write rows to a file that is whole or not there, as `annotated` makes of them."""
    annotated(rows).write_h5ad(path)


def require_copy(source: Path, output: Path) -> None:
    """Nothing, once `source` is an `.h5ad`, of which `output` may be a copy.

    Raises InputError otherwise.
    """
    if source.suffix.lower() != SUFFIX:
        raise InputError(
            f"expected DATA to end in {SUFFIX}, for {output} is to be a copy of it, but {source} "
            f"came; write to a .parquet or .csv"
        )


def write_copy(path: Path, source: Path, embeddings: Mapping[str, np.ndarray]) -> None:
    """Write a copy of an `.h5ad` to `path`, with embeddings (row, latent) in its obsm.

    All else in it is copied byte by byte.
    """
    with _installed():
        from anndata.io import write_elem
        from h5py import File
    shutil.copyfile(source, path)
    with cast(Any, File(path, "r+")) as file:
        if "obsm" not in file:
            write_elem(file, "obsm", {})
        for name, embedding in embeddings.items():
            write_elem(file["obsm"], name, embedding)


@contextmanager
def _installed() -> Iterator[None]:
    """Raises InputError where what is imported inside is not installed."""
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"expected anndata to be installed for {SUFFIX} files, but it is not; install it with "
            f"pip install 'unveil[omics]'"
        ) from error
