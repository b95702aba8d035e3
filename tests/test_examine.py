"""A whole examination of every kind of model and rows: it ends, and its JSON says all of it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch

import unveil
from unveil.cli.main import run
from unveil.cli.screen import show_evaluation
from unveil.evaluation import Evaluation
from unveil.evidence.effort import Effort

SMALL = Effort(draws=50, rows=64, near=10, far=20, chains=2, leapfrog=2, climb=5)
RANDOM = np.random.default_rng(0)
TABLE = RANDOM.normal(size=(120, 4))
GAPS = np.where(RANDOM.random(TABLE.shape) < 0.3, np.nan, TABLE)
COUNTS = RANDOM.poisson(3.0, size=(120, 5)).astype(float)
SITES = pyarrow.table(
    {"x": TABLE[:, 0], "n": COUNTS[:, 0], "site": np.array(["a", "b"])[np.arange(120) % 2]}
)
NEW = RANDOM.normal(size=(20, 4))
EMPTY = np.full((3, 4), np.nan)

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
    "nothing but rows that show nothing": (GAPS, {"latent": 4}, EMPTY),
    "an empty column": (GAPS, {"latent": 4}, np.where(np.arange(4) == 2, np.nan, NEW)),
}


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_model_and_rows_is_examined(case: str, capsys) -> None:
    data, asked, rows = CASES[case]
    fitted = unveil.fit(data, epochs=1, seed=0, **asked)
    found = fitted.evaluate(rows, effort=SMALL)
    document = json.loads(json.dumps(found.document(), allow_nan=False))
    assert Evaluation.from_document(document).document() == found.document()
    show_evaluation(found, quiet=False)
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


def test_an_evaluation_is_replayed_to_the_last_digit(tmp_path: Path) -> None:
    fitted = unveil.fit(TABLE, latent=4, epochs=1, seed=0)
    fitted.save(tmp_path / "m")
    np.save(tmp_path / "new.npy", NEW)
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    found = fitted.evaluate(NEW, effort=SMALL, seed=7)
    first.write_text(json.dumps(found.document()))
    words = ["evaluate", str(tmp_path / "m"), str(tmp_path / "new.npy"), "--quiet"]
    assert run([*words, "--replay", str(first), "--json", str(second)]) == 0
    assert json.loads(second.read_text()) == json.loads(first.read_text())


def test_what_contradicts_a_replay_is_refused(tmp_path: Path, capsys) -> None:
    fitted = unveil.fit(TABLE, latent=4, epochs=1, seed=0)
    fitted.save(tmp_path / "m")
    np.save(tmp_path / "new.npy", NEW)
    words = ["evaluate", str(tmp_path / "m"), str(tmp_path / "new.npy")]
    none = tmp_path / "none.json"
    none.write_text("{}")
    torn = tmp_path / "torn.json"
    torn.write_text(json.dumps({"settings": {**SMALL.document(), "near": -5, "seed": 0}}))
    for options, sentence in (
        (["--replay", str(none), "--draws", "3"], "expected --replay without --draws"),
        (["--replay", str(none)], "its settings are not there"),
        (["--replay", str(torn)], "expected at least 1 temperature from q(z|x), but -5 came"),
        (["--budget", "inf"], "expected a budget above 0 seconds, but inf came"),
        (["--budget", "-1"], "expected a budget above 0 seconds, but -1.0 came"),
        (["--delta", "1"], "expected delta between 0 and 1"),
    ):
        assert run([*words, *options]) == 2
        assert sentence in capsys.readouterr().err


def test_the_smallest_budget_leaves_a_certified_bound() -> None:
    fitted = unveil.fit(TABLE, latent=4, epochs=1, seed=0)
    found = fitted.evaluate(NEW, draws=20, budget=1e-6)
    assert found.lower.guarantee == "certified"
    assert found.lower.delta == 0.025
    assert found.upper.value is None
    assert "--budget" in str(found.upper.reason)
    assert not math.isnan(found.elbo)
