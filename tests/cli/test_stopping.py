"""A run may be stopped at any moment: what was saved goes on as if nothing had happened."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from unveil.storage import Checkpoints, read_tensors

EPOCHS = "30"


def command(folder: Path, *words: str) -> list[str]:
    """A fit in a process of its own, saving at every chance, and brief about what comes after."""
    program = (
        "import unveil.training as t, unveil.evidence.tuning as u, unveil.cli.fit as f, sys;"
        "t.SECONDS_BETWEEN_CHECKPOINTS = 0.0; u.MOVES = 1; f._draw = lambda *drawn: None;"
        "from unveil.cli.main import run; sys.exit(run(sys.argv[1:]))"
    )
    data = str(folder.parent / "data.npy")
    return [
        sys.executable, "-c", program,
        "fit", data, "-o", str(folder), "--epochs", EPOCHS, "--quiet", *words,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped, beside its data."""
    folder = tmp_path_factory.mktemp("whole")
    rng = np.random.default_rng(0)
    np.save(folder / "data.npy", rng.normal(size=(600, 3)) @ rng.normal(size=(3, 8)))
    subprocess.run(command(folder / "m"), check=True)
    return folder / "m"


@pytest.fixture
def place(whole: Path, tmp_path: Path) -> Path:
    """A folder with the same data."""
    shutil.copy(whole.parent / "data.npy", tmp_path)
    return tmp_path


def finished_as(folder: Path) -> tuple[dict, dict, list]:
    """All that must be equal: weights, the last training state, and the history without times."""
    saved = Checkpoints(folder / "checkpoint").latest()
    assert saved is not None
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    timeless = [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
    return read_tensors(folder / "model.safetensors"), saved[0], timeless


def assert_equal(folder: Path, other: Path) -> None:
    for ours, theirs in zip(finished_as(folder)[:2], finished_as(other)[:2], strict=True):
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert torch.equal(tensor, theirs[name]), name
    assert finished_as(folder)[2] == finished_as(other)[2]


def wait_for(path: Path, process: subprocess.Popen) -> None:
    """Until the process has saved something (or, wrongly, ended)."""
    while not list(path.glob("*/state-*.json")) and process.poll() is None:
        time.sleep(0.01)


def test_a_run_killed_at_random_moments_ends_as_one_that_was_not(whole: Path, place: Path) -> None:
    moments = random.Random(0)
    kills = 0
    for _ in range(3):
        with subprocess.Popen(command(place / "killed", "--resume")) as process:
            wait_for(place / "killed", process)
            time.sleep(moments.uniform(0.0, 0.4))
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
    assert kills >= 1
    subprocess.run(command(place / "killed", "--resume"), check=True)
    assert_equal(whole, place / "killed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_stop_saves_and_says_how_to_resume(
    whole: Path, place: Path, number: signal.Signals
) -> None:
    with subprocess.Popen(command(place / "m"), stderr=subprocess.PIPE, text=True) as process:
        wait_for(place / "m", process)
        os.kill(process.pid, number)
        _, said = process.communicate()
    assert process.returncode == 130
    assert "the same command with --resume goes on from here" in said.replace("\n", " ")
    assert not (place / "m" / "model.json").exists()
    subprocess.run(command(place / "m", "--resume"), check=True)
    assert_equal(whole, place / "m")


def test_an_overwriting_run_that_was_stopped_goes_on(whole: Path, place: Path) -> None:
    shutil.copytree(whole, place / "m")
    with subprocess.Popen(command(place / "m", "--overwrite")) as process:
        while not (place / "m" / "checkpoint" / "unfinished").exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 130
    subprocess.run(command(place / "m", "--resume"), check=True)
    assert not (place / "m" / "checkpoint" / "unfinished").exists()


def test_an_unfinished_run_is_not_begun_again_by_accident(place: Path) -> None:
    with subprocess.Popen(command(place / "m")) as process:
        wait_for(place / "m", process)
        process.send_signal(signal.SIGKILL)
    again = subprocess.run(command(place / "m"), capture_output=True, text=True)
    assert again.returncode == 2
    assert "--resume to go on with its run" in again.stderr


def test_help_answers_at_once() -> None:
    """Nothing heavy is imported: by what was loaded, which no load on the machine can change."""
    program = (
        "import sys; from unveil.cli.main import run; run(['--help']);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'matplotlib', 'sklearn')))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0
