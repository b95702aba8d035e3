"""Tensors and documents in folders: written whole or not at all, and checked when read back.

Tensors go into safetensors files and everything else into JSON, so that loading runs no code and a
person can read what was saved. Every write goes through a temporary beside its target and one
rename. A killed process therefore leaves the old file or the new one, and at worst a temporary,
which the next writer sweeps away.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, final

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from unveil.errors import InputError

Document = dict[str, Any]

# A temporary is hidden and tells whose it is: `.model.json.0123456789abcdef.tmp` will become
# `model.json`, and `.digits.0123456789abcdef.old` is what `digits` was while it is being replaced.
_TEMPORARY = re.compile(r"\.(?P<target>.+)\.[0-9a-f]{16}\.(?P<kind>tmp|old)")


# ---- files -------------------------------------------------------------------------------------


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old file or the new one, never a part.

    >>> write_bytes(getfixture("tmp_path") / "greeting", b"hello")
    >>> (getfixture("tmp_path") / "greeting").read_bytes()
    b'hello'
    """
    temporary = _beside(path, "tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def sweep(folder: Path) -> None:
    """Remove the temporary files that a killed process left in ``folder``.

    >>> sweep(getfixture("tmp_path"))
    """
    for entry in _temporaries(folder):
        if entry.is_file():
            os.unlink(entry)


def sha256(path: Path) -> str:
    """The SHA-256 digest of a file, in hexadecimal.

    >>> write_bytes(getfixture("tmp_path") / "empty", b"")
    >>> sha256(getfixture("tmp_path") / "empty")[:8]
    'e3b0c442'
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The digest of each named file in ``folder``, for ``verify`` to hold the files to later.

    >>> write_bytes(getfixture("tmp_path") / "empty", b"")
    >>> list(manifest(getfixture("tmp_path"), ["empty"]))
    ['empty']
    """
    return {name: sha256(folder / name) for name in names}


def verify(folder: Path, digests: Mapping[str, str]) -> None:
    """Hold the files in ``folder`` to the digests that ``manifest`` took of them.

    Raises InputError naming the first file that is missing or altered.

    >>> write_bytes(getfixture("tmp_path") / "empty", b"")
    >>> verify(getfixture("tmp_path"), manifest(getfixture("tmp_path"), ["empty"]))
    """
    for name, digest in digests.items():
        path = folder / name
        if not path.is_file():
            raise InputError(
                f"{path} is missing, and the rest of its folder cannot be used without it; "
                "restore the folder from a copy, or fit again."
            )
        if sha256(path) != digest:
            raise InputError(
                f"{path} is not the file that was saved: its contents changed since; "
                "restore the folder from a copy, or fit again."
            )


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(
            f"{path} was expected and is not there; restore it from a copy, or make it again."
        ) from None


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.{kind}")


def _temporaries(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if _TEMPORARY.fullmatch(entry.name)]


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder outlast a power cut, as fsync does for a file's contents."""
    if os.name == "nt":
        return  # Windows opens no folders, and its rename is already written through
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- documents and tensors ---------------------------------------------------------------------


def write_document(path: Path, document: Document) -> None:
    """Write ``document`` as JSON that a person can read.

    Raises ValueError if it holds a NaN or an infinity, which JSON has no word for, and TypeError
    if it holds anything else that JSON cannot: a caller turns these into null, text or lists first.

    >>> write_document(getfixture("tmp_path") / "model.json", {"latent": 8})
    >>> print((getfixture("tmp_path") / "model.json").read_text(), end="")
    {
      "latent": 8
    }
    """
    write_bytes(path, _document_text(document, path).encode())


def read_document(path: Path) -> Document:
    """Read what ``write_document`` wrote.

    Raises InputError if the file is missing or does not hold one JSON object.

    >>> write_document(getfixture("tmp_path") / "model.json", {"latent": 8})
    >>> read_document(getfixture("tmp_path") / "model.json")
    {'latent': 8}
    """
    data = _read_bytes(path)
    try:
        document = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} was expected to hold a JSON document and cannot be read as one ({error}); "
            "restore it from a copy, or make it again."
        ) from error
    if not isinstance(document, dict):
        raise InputError(
            f"{path} was expected to hold a JSON object and holds a {type(document).__name__}; "
            "restore it from a copy, or make it again."
        )
    return document


def write_lines(path: Path, documents: Iterable[Document]) -> None:
    """Write JSON documents atomically, one to a line.

    >>> path = getfixture("tmp_path") / "history.jsonl"
    >>> write_lines(path, [{"step": 1}, {"step": 2}])
    >>> read_lines(path)
    [{'step': 1}, {'step': 2}]
    """
    lines = (json.dumps(document, allow_nan=False) + "\n" for document in documents)
    write_bytes(path, "".join(lines).encode())


def read_lines(path: Path) -> list[Document]:
    """The JSON documents of a file with one to a line. Raises InputError for anything else."""
    try:
        return [json.loads(line) for line in _read_bytes(path).decode().splitlines()]
    except ValueError as error:
        raise InputError(
            f"{path} was expected to hold one JSON document to a line, and does not ({error}); "
            "restore it from a copy, or fit the model again."
        ) from error


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors, of any shapes and types, as one safetensors file.

    >>> write_tensors(getfixture("tmp_path") / "model.safetensors", {"weight": torch.ones(2, 3)})
    """
    write_bytes(path, _tensor_bytes(tensors, metadata))


def read_tensors(path: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Read what ``write_tensors`` wrote, onto ``device``.

    Raises InputError if the file is missing, truncated or no safetensors file. A changed byte in
    the middle of a tensor it cannot see: for that there are ``manifest`` and ``verify``.

    >>> write_tensors(getfixture("tmp_path") / "model.safetensors", {"weight": torch.ones(2, 3)})
    >>> read_tensors(getfixture("tmp_path") / "model.safetensors")["weight"].shape
    torch.Size([2, 3])
    """
    tensors = _tensors_from(_read_bytes(path), path)
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def _document_text(document: Document, path: Path) -> str:
    try:
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{path.name} was to hold a JSON document, and this one cannot be written as JSON "
            f"({error}); turn NaN and infinities into None, and arrays into lists, first."
        ) from error


def _refuse_constant(token: str) -> NoReturn:
    raise ValueError(f"{token} is no JSON number")


def _tensor_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> bytes:
    # Copies, because safetensors refuses two names that share memory, as views of one buffer do.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    return safetensors.torch.save(copies, dict(metadata) if metadata else None)


def _tensors_from(data: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} was expected to be a safetensors file and cannot be read as one ({error}); "
            "restore it from a copy, or make it again."
        ) from error


# ---- folders -----------------------------------------------------------------------------------


def replace_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Let ``fill`` write into a new folder, then put that in the place of ``target``, whole.

    ``target`` is untouched until ``fill`` has returned; what it held before is then removed.
    Whether it may be replaced at all is for the caller to decide.

    Raises InputError if ``target`` is a file. What ``fill`` raises passes through.

    >>> target = getfixture("tmp_path") / "model"
    >>> replace_folder(target, lambda folder: write_bytes(folder / "weights", b"1 2 3"))
    >>> [path.name for path in target.iterdir()]
    ['weights']
    """
    target = target.resolve()  # through a link to the folder it names, and free of later chdir's
    if target.is_file():
        raise InputError(
            f"{target} was expected to be a folder, or not to exist, and is a file; "
            "choose another name, or move the file away."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    recover(target)
    temporary = _beside(target, "tmp")
    try:
        temporary.mkdir()
        fill(temporary)
        _sync_tree(temporary)
        _swap(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _swap(temporary: Path, target: Path) -> None:
    # No portable call exchanges two folders. Between these two renames `target` does not exist;
    # whoever is killed there leaves the old folder whole for `recover` to put back.
    old = _beside(target, "old")
    if target.exists():
        os.rename(target, old)
    os.rename(temporary, target)
    _sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover(target: Path) -> None:
    """Put back a ``target`` that a killed process had moved aside, and sweep its other remains."""
    if not target.parent.is_dir():
        return
    for entry in _temporaries(target.parent):
        match = _TEMPORARY.fullmatch(entry.name)
        if match is None or match["target"] != target.name:
            continue
        if match["kind"] == "old" and not target.exists():
            os.rename(entry, target)
        elif entry.is_dir():
            shutil.rmtree(entry)


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            with open(Path(parent, name), "rb") as file:
                os.fsync(file.fileno())
        _sync_folder(Path(parent))


# ---- checkpoints -------------------------------------------------------------------------------


@final
class Checkpoints:
    """The last two good states of a long run, in a folder of their own.

    State 7 is ``state-7.safetensors`` and, written after it, ``state-7.json``: a state whose JSON
    stands is whole. The JSON holds the digests of both, so that a state damaged later is passed
    over for the one before it.

    >>> checkpoints = Checkpoints(getfixture("tmp_path") / "checkpoint")
    >>> checkpoints.save(7, {"weight": torch.ones(2)}, {"epoch": 1})
    >>> checkpoints.latest()
    ({'weight': tensor([1., 1.])}, {'epoch': 1})
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if folder.is_dir():
            self._sweep()

    def save(self, number: int, tensors: Mapping[str, Tensor], document: Document) -> None:
        """Save state ``number``, and keep the one before it; every other is removed.

        The state saved last is the latest: what stands under a higher number was left by a run
        that this one has gone back behind.

        Raises ValueError and TypeError as ``write_document`` does.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        text = _document_text(document, self._paths(number)[1])
        data = _tensor_bytes(tensors, None)
        envelope = {"sha256": _digests(data, text), "document": document}
        tensors_path, document_path = self._paths(number)
        write_bytes(tensors_path, data)
        write_document(document_path, envelope)
        self._keep_before(number)

    def latest(self) -> tuple[dict[str, Tensor], Document] | None:
        """The tensors and the document of the newest state that verifies; None if none does."""
        for number in self._numbers():
            with suppress(ValueError):  # InputError among them: the one before may be whole
                return self._read(number)
        return None

    def _read(self, number: int) -> tuple[dict[str, Tensor], Document]:
        tensors_path, document_path = self._paths(number)
        envelope = read_document(document_path)
        data = _read_bytes(tensors_path)
        document = envelope.get("document")
        if not isinstance(document, dict) or envelope.get("sha256") != _digests(
            data, _document_text(document, document_path)
        ):
            raise InputError(f"{document_path} or its tensors changed after they were saved.")
        return _tensors_from(data, tensors_path), document

    def _keep_before(self, number: int) -> None:
        numbers = self._numbers()
        kept = [number, *[older for older in numbers if older < number][:1]]
        for surplus in set(numbers).difference(kept):
            self._remove(surplus)

    def _remove(self, number: int) -> None:
        tensors_path, document_path = self._paths(number)
        os.unlink(document_path)  # first: where a JSON stands, its tensors must
        os.unlink(tensors_path)

    def _sweep(self) -> None:
        sweep(self._folder)
        for tensors_path in self._folder.glob("state-*.safetensors"):
            if not tensors_path.with_suffix(".json").exists():
                os.unlink(tensors_path)

    def _numbers(self) -> list[int]:
        """The numbers of the whole states, newest first."""
        names = [path.stem.removeprefix("state-") for path in self._folder.glob("state-*.json")]
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def _paths(self, number: int) -> tuple[Path, Path]:
        stem = self._folder / f"state-{number}"
        return stem.with_suffix(".safetensors"), stem.with_suffix(".json")


def _digests(data: bytes, text: str) -> dict[str, str]:
    return {
        "tensors": hashlib.sha256(data).hexdigest(),
        "document": hashlib.sha256(text.encode()).hexdigest(),
    }
