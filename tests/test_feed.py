"""Batches come from memory or from a file, and are the same rows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unveil import feed
from unveil.data import read as reading
from unveil.data.admit import fits
from unveil.data.covariates import infer_covariates
from unveil.data.encode import digests
from unveil.data.infer import infer
from unveil.data.read import Rows, blocks, read
from unveil.data.reread import reread
from unveil.data.stream import Binarized, Drawn, Mapped, Stored
from unveil.feed import to_given, to_source, to_tensor
from unveil.noise import generator

INDEX = torch.tensor([3, 0, 3, 11])
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 3, 5)).astype(np.uint8)


@pytest.fixture
def in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every array is larger than what is read, and than what memory is to hold."""
    monkeypatch.setattr(reading, "LARGEST_READ", 0)
    monkeypatch.setattr(feed, "_memory_to_fill", lambda: 0.0)


def saved(folder: Path, array: np.ndarray) -> Path:
    np.save(folder / "rows.npy", array)
    return folder / "rows.npy"


def arrays() -> list[np.ndarray]:
    table = np.column_stack([np.arange(40.0) ** 1.5, np.arange(40) % 2, np.full(40, 7)])
    holes = np.where(np.arange(120).reshape(40, 3) % 11 == 5, np.nan, table)
    return [PIXELS, table, holes, table.astype(">f4"), PIXELS > 99, PIXELS.astype(np.uint16)]


@pytest.mark.parametrize("array", arrays(), ids=lambda a: f"{a.dtype} {a.shape}")
def test_rows_in_a_file_give_the_batches_of_rows_in_memory(
    tmp_path: Path, in_files: None, array: np.ndarray
) -> None:
    rows, memory = read(saved(tmp_path, array)), read(array)
    assert isinstance(rows.values, np.memmap)
    schema = infer(rows)
    assert schema == infer(memory)
    rows = fits(schema, rows)
    assert isinstance(rows.values, np.memmap)
    np.testing.assert_array_equal(digests(rows.values), digests(memory.values))
    source, resident = to_source(schema, rows), to_source(schema, memory)
    assert isinstance(source, Mapped) and isinstance(resident, Stored)
    assert len(source) == len(resident) == 40
    batch = source.to(torch.device("cpu")).batch(INDEX, generator(0))
    expected = resident.batch(INDEX, generator(0))
    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch, expected, equal_nan=True, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("positions", [np.array([7, 5, 30]), np.arange(39, 20, -1)])
def test_chosen_rows(tmp_path: Path, in_files: None, positions: np.ndarray) -> None:
    rows = read(saved(tmp_path, PIXELS))
    schema, index = infer(rows), torch.tensor([2, 0])
    expected = to_tensor(schema, rows, seed=0)[positions[[2, 0]]]
    for where in (rows, read(PIXELS)):
        source = to_source(schema, where, positions)
        assert len(source) == len(positions)
        torch.testing.assert_close(source.batch(index, generator(0)), expected)


def test_probabilities_in_a_file_are_drawn_as_those_in_memory(
    tmp_path: Path, in_files: None
) -> None:
    rows = read(saved(tmp_path, PIXELS))
    schema = infer(rows).binarized()
    source, resident = to_source(schema, rows), to_source(schema, read(PIXELS))
    assert isinstance(source, Drawn) and isinstance(resident, Binarized)
    one, other = (s.batch(INDEX, generator(1)) for s in (source, resident))
    assert torch.equal(one, other)
    assert set(one.unique().tolist()) == {0.0, 1.0}


def test_small_files_are_read_and_grey_levels_stay_bytes(tmp_path: Path) -> None:
    rows = read(saved(tmp_path, PIXELS))
    assert not isinstance(rows.values, np.memmap)
    source = to_source(infer(rows), rows)
    assert isinstance(source, Stored) and source.values.dtype == torch.uint8


def test_a_mapped_file_that_memory_holds_is_resident(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LARGEST_READ", 0)
    rows = read(saved(tmp_path, PIXELS))
    source = to_source(infer(rows), rows)
    assert isinstance(source, Stored) and source.values.dtype == torch.uint8
    monkeypatch.setattr(feed, "_memory_to_fill", lambda: float(PIXELS.nbytes - 1))
    assert isinstance(to_source(infer(rows), rows), Mapped)


def test_codes_of_bytes_are_no_bytes() -> None:
    images = Rows((PIXELS // 64 * 64).astype(np.uint8))
    schema = reread(infer(images), images, "category")
    batch = to_source(schema, images).batch(INDEX, generator(0))
    np.testing.assert_array_equal(batch.numpy(), PIXELS[INDEX.numpy()] // 64)


def test_a_large_file_is_read_block_by_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sparse file of 256 blocks: nothing that is made of its cells is larger than a block."""
    path, shape = tmp_path / "large.npy", (2**12, 2**10)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    array[:, 0] = np.arange(len(array)) % 251
    del array
    monkeypatch.setattr(reading, "CELLS_PER_BLOCK", 2**14)
    monkeypatch.setattr(reading, "LARGEST_READ", 2**20)
    copied = []
    for name in ("isnan", "isinf", "unique", "rint", "abs"):
        monkeypatch.setattr(np, name, _watched(getattr(np, name), copied))
    monkeypatch.setattr(feed, "_memory_to_fill", lambda: 2.0**20)
    rows = read(path)
    assert isinstance(rows.values, np.memmap)
    schema = infer(rows)
    rows = fits(schema, rows)
    assert len(np.unique(digests(rows.values), axis=0)) == 251
    source = to_source(schema, rows, np.arange(0, len(rows), 2))
    assert isinstance(source, Mapped)
    assert source.batch(torch.tensor([1, 2]), generator(0)).shape == (2, 2**10)
    assert sum(1 for _ in blocks(rows.values)) == 2**8
    assert len(copied) > 2**8
    assert max(copied) <= 2**14


def _watched(function: Callable[..., Any], copied: list[int]) -> Callable[..., Any]:
    """The same function, noting how many cells it is given at a time."""

    def watched(values: Any, *args: Any, **kwargs: Any) -> Any:
        copied.append(np.size(values))
        return function(values, *args, **kwargs)

    return watched


# Covariates


def test_covariates_become_a_tensor() -> None:
    rows = Rows(np.eye(4), given={"arm": np.array(["a", "b", "b", "a"])})
    given = to_given(infer_covariates(rows), rows)
    assert given is not None
    assert given.tolist() == [[1, 0], [0, 1], [0, 1], [1, 0]]
    assert to_given(infer_covariates(Rows(np.eye(2))), rows) is None


def test_draws_of_probabilities_belong_to_the_row_and_its_covariates() -> None:
    images = Rows(np.full((3, 8, 8), 128, np.uint8))
    schema = replace(infer(read(PIXELS)).binarized(), event_shape=(8, 8))
    given = torch.tensor([[0.0], [1.0], [0.0]])
    first, second, third = to_tensor(schema, images, 0, given)
    assert torch.equal(first, third)
    assert not torch.equal(first, second)
    assert torch.equal(*to_tensor(schema, images, 0)[:2])
