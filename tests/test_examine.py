"""A whole examination of every kind of model and rows: it ends, and its JSON says all of it."""

import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from matplotlib.image import imread

import unveil
from unveil import evaluation
from unveil.cli.common import Common
from unveil.cli.main import run
from unveil.cli.screen import show_evaluation
from unveil.diagnostics.calibration import calibrate
from unveil.errors import InputError
from unveil.evaluation import Evaluation
from unveil.evidence import tuning
from unveil.evidence.effort import Effort

SMALL = Effort(draws=50, rows=64, near=4, far=8, chains=2, leapfrog=1, climb=2)
RANDOM = np.random.default_rng(0)
TABLE = RANDOM.normal(size=(120, 4))
GAPS = np.where(RANDOM.random(TABLE.shape) < 0.3, np.nan, TABLE)
COUNTS = RANDOM.poisson(3.0, size=(120, 5)).astype(float)
SITES = pyarrow.table(
    {"x": TABLE[:, 0], "n": COUNTS[:, 0], "site": np.array(["a", "b"])[np.arange(120) % 2]}
)
NEW = RANDOM.normal(size=(20, 4))
EMPTY = np.full((3, 4), np.nan)
SLIGHT = "mlp:width=8,depth=1"

CASES: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "a mixture as prior": (TABLE, {"prior": "mixture:components=3", "latent": 4}, NEW),
    "levels": (TABLE, {"levels": 2, "latent": 4}, NEW),
    "full covariance, one latent": (TABLE, {"posterior": "full", "latent": 1}, NEW),
    "a flow": (TABLE, {"posterior": "flow:transforms=1,width=8", "latent": 4}, NEW[:3]),
    "counts": (COUNTS, {"latent": 4}, RANDOM.poisson(3.0, size=(20, 5)).astype(float)),
    "covariates": (SITES, {"given": ("site",), "prior": "conditioned", "latent": 4}, SITES),
    "one row": (TABLE, {"latent": 4}, NEW[:1]),
    "equal rows": (TABLE, {"latent": 4}, np.ones((30, 4))),
    "gaps, and rows that show nothing": (GAPS, {"latent": 4}, np.concatenate([EMPTY, NEW])),
    "nothing but rows that show nothing": (GAPS, {"latent": 1, "network": SLIGHT}, EMPTY),
    "an empty column": (GAPS, {"latent": 4}, np.where(np.arange(4) == 2, np.nan, NEW)),
}


Fits = Callable[[Any, dict[str, Any]], unveil.Fitted]


@pytest.fixture(scope="module", autouse=True)
def brief() -> Iterator[None]:
    """Little is done of everything: it is that all of it is done that is asked here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "MOVES", 1)
        patch.setattr(evaluation, "CURVE_TEMPERATURES", 5)
        patch.setattr(evaluation, "calibrate", partial(calibrate, num_simulations=50))
        yield


@pytest.fixture(scope="module")
def fitted_to(brief: None) -> Fits:
    """A model of data, fitted the first time that a test asks for it."""
    made: dict[tuple[int, str], unveil.Fitted] = {}

    def fits(data: Any, asked: dict[str, Any]) -> unveil.Fitted:
        key = id(data), str(asked)
        if key not in made:
            made[key] = unveil.fit(data, epochs=1, seed=0, **asked)
        return made[key]

    return fits


@pytest.fixture(scope="module")
def folder(fitted_to: Fits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model, and new rows beside it."""
    folder = tmp_path_factory.mktemp("examined")
    fitted_to(TABLE, {"latent": 4}).save(folder / "m")
    np.save(folder / "new.npy", NEW)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_model_and_rows_is_examined(case: str, fitted_to: Fits, capsys) -> None:
    data, asked, rows = CASES[case]
    found = fitted_to(data, asked).evaluate(rows, effort=SMALL)
    document = json.loads(json.dumps(found.document(), allow_nan=False))
    assert Evaluation.from_document(document).document() == found.document()
    show_evaluation(found, Common())
    said = capsys.readouterr().out
    assert "on simulated rows" in said
    assert found.lower.guarantee in ("exact", "numerical", "certified")
    assert found.upper.value is None or found.upper.value >= (found.lower.value or 0.0)
    if rows is EMPTY:
        assert (found.lower.value, found.upper.value) == (0.0, 0.0)


def test_a_linear_model_is_known_for_all_rows_whatever_is_spent() -> None:
    linear = unveil.VAE(
        prior=unveil.StandardNormal(2),
        likelihood=unveil.Conditional(torch.nn.Linear(2, 4), unveil.Gaussian(4)),
        posterior=unveil.Conditional(torch.nn.Linear(4, 4), unveil.DiagonalGaussian(2)),
    )
    from unveil.evaluation import Subject, examine
    from unveil.evidence.tuning import tune_both

    x = torch.from_numpy(NEW).float()
    for effort in (Effort(rows=0), Effort(draws=5, rows=10, near=10, far=10, climb=1)):
        found = examine(Subject(model=linear, x=x), effort, tune_both(linear, x))
        assert found.lower.guarantee == found.upper.guarantee == "exact"
        assert found.lower.value == found.upper.value


def test_an_evaluation_is_replayed_to_the_last_digit_and_its_calibration_drawn(
    fitted_to: Fits, folder: Path, tmp_path: Path
) -> None:
    first, second, figure = (tmp_path / name for name in ("a.json", "b.json", "c.png"))
    found = fitted_to(TABLE, {"latent": 4}).evaluate(NEW, effort=SMALL, seed=7)
    first.write_text(json.dumps(found.document()))
    words = ["evaluate", str(folder / "m"), str(folder / "new.npy"), "--quiet"]
    words += ["--replay", str(first), "--json", str(second), "--figure", str(figure)]
    assert run(words) == 0
    assert json.loads(second.read_text()) == json.loads(first.read_text())
    assert imread(figure).std() > 0.05


def test_a_calibration_that_was_not_done_is_not_drawn(folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "c.png"
    words = ["evaluate", str(folder / "m"), str(folder / "new.npy"), "--draws", "2"]
    assert run([*words, "--budget", "1e-6", "--figure", str(out)]) == 0
    assert "was not drawn, as nothing was calibrated; raise --budget" in capsys.readouterr().err
    assert run([*words, "--figure", str(tmp_path / "c.doc")]) == 2
    assert "ends in one of" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_contradicts_a_replay_is_refused(folder: Path, tmp_path: Path, capsys) -> None:
    words = ["evaluate", str(folder / "m"), str(folder / "new.npy")]
    none = tmp_path / "none.json"
    none.write_text("{}")
    torn = tmp_path / "torn.json"
    torn.write_text(json.dumps({"settings": {**SMALL.document(), "near": -5, "seed": 0}}))
    for options, sentence in (
        (["--replay", str(none), "--draws", "3"], "expected --replay without --draws"),
        (["--replay", str(none), "--seed", "0"], "expected --replay without --draws"),
        (["--replay", str(none)], "its settings are not there"),
        (["--replay", str(torn)], "expected at least 1 temperature from q(z|x), but -5 came"),
        (["--budget", "inf"], "expected a budget above 0 seconds, but inf came"),
        (["--budget", "-1"], "expected a budget above 0 seconds, but -1.0 came"),
        (["--delta", "1"], "expected delta between 0 and 1"),
    ):
        assert run([*words, *options]) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("named", [{"draws": 5}, {"delta": 0.05}, {"budget": 9.0}])
def test_an_effort_is_not_overruled_in_silence(named: dict[str, Any], fitted_to: Fits) -> None:
    with pytest.raises(InputError, match="expected an effort alone"):
        fitted_to(TABLE, {"latent": 4}).evaluate(NEW, effort=SMALL, **named)


def test_the_smallest_budget_leaves_a_certified_bound(fitted_to: Fits) -> None:
    found = fitted_to(TABLE, {"latent": 4}).evaluate(NEW, draws=20, budget=1e-6)
    assert found.lower.guarantee == "certified"
    assert found.lower.delta == 0.025
    assert found.upper.value is None
    assert "--budget" in str(found.upper.reason)
    assert not math.isnan(found.elbo)
