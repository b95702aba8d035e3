import json
import os
import random
import shutil
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unveil.errors import InputError
from unveil.storage import (
    Checkpoints,
    manifest,
    read_document,
    read_tensors,
    replace_folder,
    sha256,
    sweep,
    verify,
    write_bytes,
    write_document,
    write_tensors,
)

TENSORS = {
    "float32": torch.tensor([[1.5, -0.0], [float("nan"), float("-inf")]]),
    "float64": torch.tensor(1 / 3, dtype=torch.float64),
    "bfloat16": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
    "int64": torch.tensor([-(2**63), 2**63 - 1]),
    "uint8": torch.arange(256, dtype=torch.uint8),
    "bool": torch.tensor([True, False]),
    "empty": torch.empty(0, 3),
}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal type, shape and bytes: NaN equals itself, and zero differs from minus zero."""
    bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)


# ---- documents and tensors ---------------------------------------------------------------------


def test_a_document_comes_back_as_it_was_and_in_its_order(tmp_path: Path) -> None:
    document = {"z": [1, 2.5, None, True], "a": {"name": "Größe σ"}, "tiny": 5e-324, "third": 1 / 3}
    write_document(tmp_path / "d.json", document)
    assert read_document(tmp_path / "d.json") == document
    assert list(read_document(tmp_path / "d.json")) == list(document)
    text = (tmp_path / "d.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert "Größe σ" in text
    assert names(tmp_path) == {"d.json"}


@pytest.mark.parametrize(
    ("value", "error"),
    [(float("nan"), ValueError), (float("inf"), ValueError), (torch.ones(1), TypeError)],
)
def test_a_document_refuses_what_json_cannot_hold(
    tmp_path: Path, value: object, error: type[Exception]
) -> None:
    write_document(tmp_path / "d.json", {"elbo": 1.0})
    with pytest.raises(error, match=r"d\.json was to hold a JSON document.*into None"):
        write_document(tmp_path / "d.json", {"elbo": value})
    assert read_document(tmp_path / "d.json") == {"elbo": 1.0}
    assert names(tmp_path) == {"d.json"}


@pytest.mark.parametrize(
    "data", [b"", b'{"a": 1', b"[1, 2]", b'{"a": NaN}', b'{"a": "\xff"}', b"[" * 100_000]
)
def test_a_broken_document_is_an_input_error_naming_the_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "d.json").write_bytes(data)
    with pytest.raises(InputError, match=r"d\.json was expected to hold a JSON .*restore it"):
        read_document(tmp_path / "d.json")


def test_a_missing_file_is_an_input_error_naming_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"d\.json was expected and is not there; restore it"):
        read_document(tmp_path / "d.json")
    with pytest.raises(InputError, match=r"t\.safetensors was expected and is not there"):
        read_tensors(tmp_path / "t.safetensors")


@pytest.mark.parametrize("tensors", [TENSORS, {}], ids=["every type", "none"])
def test_tensors_come_back_bit_for_bit(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    write_tensors(tmp_path / "t.safetensors", tensors, {"format": "1"})
    read = read_tensors(tmp_path / "t.safetensors")
    assert read.keys() == tensors.keys()
    assert all(same_bits(read[name], tensors[name]) for name in tensors)
    assert names(tmp_path) == {"t.safetensors"}


def test_views_of_one_buffer_are_saved_as_what_they_show(tmp_path: Path) -> None:
    buffer = torch.arange(6.0, requires_grad=True)
    views = {"all": buffer, "tail": buffer[4:], "turned": buffer.reshape(2, 3).T}
    write_tensors(tmp_path / "t.safetensors", views)
    read = read_tensors(tmp_path / "t.safetensors")
    assert all(torch.equal(read[name], views[name]) for name in views)
    read["tail"].zero_()  # what was read is the reader's own
    assert torch.equal(read["all"], buffer)


def test_tensors_cut_short_anywhere_are_an_input_error_naming_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"weight": torch.ones(4)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"t\.safetensors was expected to be a safetensors"):
            read_tensors(path)


def test_any_flipped_byte_of_a_tensor_file_is_harmless_or_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"weight": torch.ones(4), "steps": torch.tensor([3])})
    whole = path.read_bytes()
    for position in range(len(whole)):
        flip(path, position)
        try:
            read_tensors(path)
        except InputError as error:
            assert "t.safetensors" in str(error)
        path.write_bytes(whole)


# ---- files -------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes(tmp_path / "f", b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_bytes(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert names(tmp_path) == {"f"}


def test_sweep_removes_temporaries_and_nothing_else(tmp_path: Path) -> None:
    kept = {"f", ".f", ".f.tmp", "f.0123456789abcdef.tmp"}
    for name in {*kept, ".f.0123456789abcdef.tmp"}:
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert names(tmp_path) == kept


def test_the_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256(tmp_path / "f") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_verify_names_the_first_file_that_is_missing_or_altered(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model.safetensors", {"weight": torch.ones(4)})
    write_document(tmp_path / "model.json", {"latent": 8})
    digests = manifest(tmp_path, ["model.safetensors", "model.json"])
    verify(tmp_path, digests)

    flip(tmp_path / "model.safetensors", -3)
    assert read_tensors(tmp_path / "model.safetensors")  # which the format alone cannot see
    with pytest.raises(InputError, match=r"model\.safetensors is not the file .*fit again"):
        verify(tmp_path, digests)

    flip(tmp_path / "model.safetensors", -3)
    (tmp_path / "model.json").unlink()
    with pytest.raises(InputError, match=r"model\.json is missing.*from a copy, or fit again"):
        verify(tmp_path, digests)


# ---- folders -----------------------------------------------------------------------------------


def fill_with(text: str):
    def fill(folder: Path) -> None:
        (folder / "figures").mkdir()
        (folder / "figures" / "a.txt").write_text(text)
        (folder / "b.txt").write_text(text)

    return fill


def texts(folder: Path) -> set[str]:
    """What the files of a folder that ``fill_with`` filled say: one text where it is whole."""
    return {(folder / "figures" / "a.txt").read_text(), (folder / "b.txt").read_text()}


def test_replace_folder_makes_parents_and_replaces_everything(tmp_path: Path) -> None:
    target = tmp_path / "runs" / "digits"
    replace_folder(target, fill_with("old"))
    (target / "stray").touch()
    replace_folder(target, fill_with("new"))
    assert texts(target) == {"new"}
    assert names(target) == {"figures", "b.txt"}
    assert names(target.parent) == {"digits"}


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failed_fill_leaves_the_old_folder_untouched(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    def fill(folder: Path) -> None:
        fill_with("new")(folder)
        raise failure

    replace_folder(tmp_path / "digits", fill_with("old"))
    with pytest.raises(failure):
        replace_folder(tmp_path / "digits", fill)
    assert texts(tmp_path / "digits") == {"old"}
    assert names(tmp_path) == {"digits"}


def test_replace_folder_follows_a_link(tmp_path: Path) -> None:
    replace_folder(tmp_path / "digits", fill_with("old"))
    (tmp_path / "newest").symlink_to(tmp_path / "digits")
    replace_folder(tmp_path / "newest", fill_with("new"))
    assert (tmp_path / "newest").is_symlink()
    assert texts(tmp_path / "digits") == {"new"}


def test_replace_folder_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt was expected to be a folder.*is a file"):
        replace_folder(tmp_path / "notes.txt", fill_with("new"))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_replace_folder_leaves_the_temporaries_of_its_neighbours(tmp_path: Path) -> None:
    neighbour = tmp_path / ".digits.wide.0123456789abcdef.tmp"
    own = tmp_path / ".digits.0123456789abcdef.tmp"
    neighbour.mkdir()
    own.mkdir()
    replace_folder(tmp_path / "digits", fill_with("new"))
    assert names(tmp_path) == {"digits", neighbour.name}


# ---- death at any moment -----------------------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL: from one call on, every call that touches the disk raises it."""


TOUCHES = [(os, "fsync"), (os, "replace"), (os, "rename"), (os, "unlink"), (shutil, "rmtree")]


def die_after(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left = count(calls, -1)
    for module, name in TOUCHES:
        real = getattr(module, name)

        def touch(*args, real=real, **kwargs):
            if next(left) <= 0:
                raise Killed
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, touch)


def test_a_folder_outlives_death_at_every_step_of_its_replacement(tmp_path: Path) -> None:
    seen = set()
    for calls in count():
        folder = tmp_path / str(calls)
        replace_folder(folder / "digits", fill_with("old"))
        with pytest.MonkeyPatch.context() as monkeypatch:
            die_after(calls, monkeypatch)
            try:
                replace_folder(folder / "digits", fill_with("new"))
                break
            except Killed:
                pass
        if (folder / "digits").exists():
            seen |= texts(folder / "digits")
            assert len(texts(folder / "digits")) == 1

        def fail(temporary: Path) -> None:
            raise RuntimeError

        with pytest.raises(RuntimeError):  # the next writer fails, but first puts things right
            replace_folder(folder / "digits", fail)
        assert len(texts(folder / "digits")) == 1
        assert names(folder) == {"digits"}
    assert seen == {"old", "new"}


def state(number: int) -> tuple[dict[str, Tensor], dict[str, int]]:
    return {"weight": torch.full((64,), float(number))}, {"step": number}


def holds(checkpoints: Checkpoints, number: int) -> bool:
    latest = checkpoints.latest()
    tensors, document = state(number)
    return (
        latest is not None
        and latest[1] == document
        and torch.equal(latest[0]["weight"], tensors["weight"])
    )


def test_checkpoints_keep_the_newest_two(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoint")
    assert checkpoints.latest() is None
    assert not (tmp_path / "checkpoint").exists()
    for number in (0, 9, 10, 11):
        checkpoints.save(number, *state(number))
        assert holds(checkpoints, number)
    assert names(tmp_path / "checkpoint") == {
        "state-10.safetensors",
        "state-10.json",
        "state-11.safetensors",
        "state-11.json",
    }


def test_the_state_saved_last_is_the_latest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for number in (10, 20, 15):
        checkpoints.save(number, *state(number))
    assert holds(checkpoints, 15)
    assert {int(path.stem[6:]) for path in tmp_path.iterdir()} == {10, 15}


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_damaged_state_is_passed_over_for_the_one_before(tmp_path: Path, suffix: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, *state(1))
    checkpoints.save(2, *state(2))
    path = tmp_path / f"state-2{suffix}"
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        flip(path, position)
        assert holds(checkpoints, 1) or (path.suffix == ".json" and holds(checkpoints, 2)), position
        path.write_bytes(whole[:position])
        assert holds(checkpoints, 1)
        path.write_bytes(whole)
    assert holds(checkpoints, 2)
    path.unlink()
    assert holds(checkpoints, 1)


def test_a_number_altered_in_a_state_s_json_is_noticed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, *state(1))
    checkpoints.save(2, *state(2))
    for forged in (3, 1e999):
        envelope = json.loads((tmp_path / "state-2.json").read_text())
        envelope["document"]["step"] = forged
        text = json.dumps(envelope).replace("Infinity", "1e999")
        (tmp_path / "state-2.json").write_text(text)
        assert holds(checkpoints, 1)


def test_none_when_every_state_is_damaged(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, *state(1))
    flip(tmp_path / "state-1.safetensors", -1)
    assert checkpoints.latest() is None


def test_opening_sweeps_what_a_killed_process_left(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(1, *state(1))
    whole = names(tmp_path)
    (tmp_path / ".state-2.json.0123456789abcdef.tmp").touch()
    (tmp_path / "state-2.safetensors").touch()
    assert holds(Checkpoints(tmp_path), 1)
    assert names(tmp_path) == whole


def test_checkpoints_outlive_death_at_every_step_of_a_save(tmp_path: Path) -> None:
    seen = set()
    for calls in count():
        folder = tmp_path / str(calls)
        Checkpoints(folder).save(1, *state(1))
        Checkpoints(folder).save(2, *state(2))
        with pytest.MonkeyPatch.context() as monkeypatch:
            die_after(calls, monkeypatch)
            try:
                Checkpoints(folder).save(3, *state(3))
                break
            except Killed:
                pass
        stems = {path.stem for path in folder.glob("*.json")}
        assert stems <= {path.stem for path in folder.glob("*.safetensors")}
        found = [number for number in (1, 2, 3) if holds(Checkpoints(folder), number)]
        assert found in ([2], [3])
        seen |= set(found)
    assert seen == {2, 3}


# Forks a child that saves without end, and kills it so many seconds after its first state is whole.
KILLER = """
import os, signal, sys, time
from itertools import count
from pathlib import Path
import torch
from unveil.storage import Checkpoints

def whole():
    return set(folder.glob("*.json"))

def save_without_end():
    checkpoints = Checkpoints(folder)
    latest = checkpoints.latest()
    for number in count(latest[1]["step"] + 1 if latest else 0):
        checkpoints.save(number, {"weight": torch.full((64,), float(number))}, {"step": number})

folder = Path(sys.argv[1])
torch.set_num_threads(1)
for seconds in sys.stdin:
    before = whole()
    child = os.fork()
    if child == 0:
        save_without_end()
    while not whole() - before:
        time.sleep(0.001)
    time.sleep(float(seconds))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print("killed", flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_process_always_leaves_a_loadable_state(tmp_path: Path) -> None:
    moments = random.Random(0)
    number = -1
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", KILLER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as killer:
        assert killer.stdin is not None and killer.stdout is not None
        for _ in range(8):
            killer.stdin.write(f"{0.05 * moments.random()}\n")
            killer.stdin.flush()
            assert killer.stdout.readline() == "killed\n"
            latest = Checkpoints(tmp_path).latest()
            assert latest is not None and latest[1]["step"] > number
            number = latest[1]["step"]
            assert holds(Checkpoints(tmp_path), number)
