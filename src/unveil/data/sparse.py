"""Counts most of which are 0, held as those that are not until a batch of them is needed."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any, TypeAlias, final

import numpy as np
from scipy import sparse

from unveil.errors import InputError


@final
class SparseCounts:
    """A matrix of whole numbers from 0 on, (row, column), of which only those above 0 are held.

    Rows of it, or rows and columns, are such a matrix again, and one column is an array.
    `np.asarray` makes it dense: of a block of rows at a time, and as late as can be.

    >>> counts = SparseCounts(sparse.csr_array([[0, 2], [1, 0], [0, 0]]))
    >>> np.asarray(counts[[1, 0]]).tolist(), counts[:, 1].tolist()
    ([[1, 0], [0, 2]], [2, 0, 0])
    """

    ndim = 2

    def __init__(self, by_row: Any) -> None:
        self._by_row = by_row  # a csr_array
        self.shape, self.dtype = (int(by_row.shape[0]), int(by_row.shape[1])), by_row.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, tuple):
            return SparseCounts(self._by_row[index])
        rows, columns = index
        if isinstance(columns, int | np.integer):
            return self._column(int(columns))[rows]
        return SparseCounts(self._by_row[:, columns][rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._by_row.toarray().astype(self.dtype if dtype is None else dtype, copy=False)

    @property
    def T(self) -> Iterator[np.ndarray]:
        """The columns, one after the other, (row,) each."""
        return map(self._column, range(self.shape[1]))

    @property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and the largest count of each column, (column,) each."""
        low, high = self._by_column.min(axis=0), self._by_column.max(axis=0)
        return low.toarray().ravel(), high.toarray().ravel()

    def to_scipy(self, dtype: Any) -> Any:
        """The same counts as SciPy's csr_array."""
        return self._by_row.astype(dtype)

    def sum(self, axis: int, dtype: Any) -> np.ndarray:
        """Sums along an axis, as those of an array.

        >>> SparseCounts(sparse.csr_array([[0, 2], [1, 3]])).sum(axis=1, dtype=np.float64).tolist()
        [2.0, 4.0]
        """
        return np.asarray(self._by_row.sum(axis=axis, dtype=dtype))

    @cached_property
    def _by_column(self) -> Any:
        return sparse.csc_array(self._by_row)

    def _column(self, place: int) -> np.ndarray:
        held = slice(*self._by_column.indptr[place : place + 2])
        column = np.zeros(len(self), self.dtype)
        column[self._by_column.indices[held]] = self._by_column.data[held]
        return column


# What rows are held in.
Matrix: TypeAlias = np.ndarray | SparseCounts


def counts_of(matrix: Any, source: str) -> SparseCounts | None:
    """A SciPy sparse matrix or an array (row, column) as counts; None where a number is none.

    A zero that is written out is a count like any other. Raises InputError for a gap in a sparse
    matrix, where what is not held is 0 and nothing can be missing.

    >>> counts_of(np.array([[0.0, 3.0]]), "the data").dtype
    dtype('int32')
    >>> counts_of(np.array([[0.5]]), "the data") is None
    True
    """
    if matrix.dtype.kind not in "biuf":
        return None
    by_row = sparse.csr_array(matrix, copy=True)
    by_row.sum_duplicates()
    by_row.eliminate_zeros()
    held = by_row.data
    if sparse.issparse(matrix) and np.isnan(held).any():
        gap = int(np.argmax(np.isnan(held)))
        row = int(np.searchsorted(by_row.indptr, gap, side="right")) - 1
        raise InputError(
            f"expected a number in every cell that a sparse matrix holds, but column "
            f"{by_row.indices[gap]} of row {row} (both counted from 0) of {source} is missing; "
            f"fill it in, or give a dense array, where a gap is one"
        )
    if not (np.isfinite(held).all() and (held >= 0).all() and (held == np.rint(held)).all()):
        return None
    wide = held.size and held.max() > np.iinfo(np.int32).max
    return SparseCounts(by_row.astype(np.int64 if wide else np.int32))
