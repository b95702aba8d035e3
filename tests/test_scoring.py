"""Scores belong to their rows, p-values hold whatever the model is, and the odd cells are found."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import torch
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torch.distributions import MultivariateNormal

import unveil
from linear_model import LinearModel
from oracles import CAUGHT, SURELY_WRONG, nonlinear_vae, normal, with_gaps
from unveil.cli.main import run
from unveil.data.schema import Column, Schema
from unveil.errors import InputError
from unveil.evidence.importance import importance
from unveil.fitted import load
from unveil.fitting import fit
from unveil.scoring import comparison, densities
from unveil.scoring.calibration import KeptFigures, KeptRows
from unveil.scoring.comparison import Telling, auroc, compare_scores, telling
from unveil.scoring.densities import hidden, log_densities_of_cells
from unveil.scoring.kinds import KINDS
from unveil.scoring.odd import odd_cells, usual_log_densities
from unveil.scoring.rows import score_rows

MODEL = LinearModel()
CELLS = 6
MEAN = MODEL.model.mean
COVARIANCE = MODEL.model.weight @ MODEL.model.weight.T + (
    MODEL.model.noise_variance * torch.eye(CELLS).double()
)


def rows_of_the_model(seed: int, number: int) -> Tensor:
    return MEAN + normal(seed, number, CELLS) @ torch.linalg.cholesky(COVARIANCE).mT


def with_patterns(x: Tensor) -> Tensor:
    """x with a third of the rows lacking cells 0 and 1, and a third cell 5."""
    x = x.clone()
    x[::3, :2] = math.nan
    x[1::3, 5] = math.nan
    return x


def kolmogorov(p_values: np.ndarray, calibrated: int) -> float:
    """√n sup|F(p) − p|, n the number of rows and of calibration rows taken together; above 3.2 by
    chance once in a billion."""
    together = len(p_values) * calibrated / (len(p_values) + calibrated)
    return float(stats.kstest(p_values, "uniform").statistic) * math.sqrt(together)


NEVER_BY_CHANCE = 3.2

# ---- log-evidence -------------------------------------------------------------------------------


def test_scores_are_bitwise_those_of_their_rows() -> None:
    """In any order and subset, with any gaps, p-values included."""
    vae = nonlinear_vae(unveil.Gaussian(5))
    x = with_gaps(normal(1, 300, 5).float(), seed=2, share=0.1)
    kept = KeptRows(x=normal(3, 60, 5).float())
    whole = score_rows(vae, x, kept, num_samples=7)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))[:123]
    some = score_rows(vae, x[order], kept, num_samples=7)
    assert np.array_equal(whole.log_evidence[order], some.log_evidence)
    assert np.array_equal(whole.p_value[order], some.p_value)
    cells = log_densities_of_cells(vae, x[:40], num_samples=7)
    assert torch.equal(
        cells[11:14].nan_to_num(), log_densities_of_cells(vae, x[11:14], num_samples=7).nan_to_num()
    )


def test_log_evidence_is_that_of_the_observed_cells() -> None:
    x = with_patterns(rows_of_the_model(4, 30))
    found = score_rows(MODEL, x, KeptRows(x=x[:0]), num_samples=3).log_evidence
    for row, one in zip(x, found, strict=True):
        seen = ~torch.isnan(row)
        exact = MultivariateNormal(MEAN[seen], COVARIANCE[seen][:, seen]).log_prob(row[seen])
        assert one == pytest.approx(float(exact), abs=1e-9)


def test_a_row_with_nothing_observed_is_as_usual_as_can_be() -> None:
    x = torch.full((1, CELLS), math.nan).double()
    scores = score_rows(MODEL, x, KeptRows(x=rows_of_the_model(5, 30)))
    assert (scores.log_evidence[0], scores.p_value[0]) == (0.0, 1.0)


# ---- p-values -----------------------------------------------------------------------------------

WRONG = LinearModel(gain=0.7, width=1.2, spread=1.5)  # p-values hold all the same
KEPT = KeptRows(x=rows_of_the_model(6, 600))
FRESH = with_patterns(rows_of_the_model(7, 900))


@pytest.mark.parametrize("kind", KINDS)
def test_p_values_of_fresh_rows_are_uniform_whatever_the_model(kind: str) -> None:
    found = score_rows(WRONG, FRESH, KEPT, kind=kind, num_samples=5).p_value
    assert kolmogorov(found, KEPT.num_rows) < NEVER_BY_CHANCE


def test_calibration_without_the_rows_gaps_is_caught(monkeypatch) -> None:
    monkeypatch.setattr(KeptRows, "_hidden", lambda self, rows, shown: self.x[rows])
    found = score_rows(WRONG, FRESH, KEPT, num_samples=5).p_value
    assert kolmogorov(found, KEPT.num_rows) > 2 * NEVER_BY_CHANCE


def test_calibration_by_rows_that_were_trained_on_is_caught() -> None:
    """They are more probable under the model than new rows are, as here, where they drew it."""
    spent = MEAN + 0.6 * (KEPT.x - MEAN)
    found = score_rows(WRONG, FRESH, KeptRows(x=spent), num_samples=5).p_value
    assert kolmogorov(found, KEPT.num_rows) > 2 * NEVER_BY_CHANCE


@pytest.mark.parametrize("kind", KINDS)
def test_a_p_value_counts_the_calibration_rows_that_show_as_much(kind: str) -> None:
    """Beside a brute force that hides and weighs row by row."""
    kept = rows_of_the_model(8, 90)
    kept[::4, 2] = math.nan  # these cannot be compared with a row that shows cell 2
    x = with_patterns(rows_of_the_model(9, 12))
    x[0, 2] = math.nan
    found = score_rows(WRONG, x, KeptRows(x=kept), kind=kind, num_samples=4)
    for number, row in enumerate(x):
        shown = ~torch.isnan(row)
        alike = kept[~torch.isnan(kept[:, shown]).any(1)]
        others = torch.where(shown, alike, torch.nan)
        figures = [
            KINDS[kind].figure(importance(WRONG, some, num_samples=4)).numpy()
            for some in (row[None], others)
        ]
        own, theirs = figures[0][0], figures[1]
        if kind == "typicality":
            middle = np.append(theirs, own).mean()
            own, theirs = -abs(own - middle), -abs(theirs - middle)
        assert found.p_value[number] == pytest.approx(
            (1 + (theirs <= own).sum()) / (len(theirs) + 1)
        )
    assert found.notes == ()


def test_too_few_rows_to_compare_with_give_no_p_value() -> None:
    kept = rows_of_the_model(8, 40)
    kept[:25, 2] = math.nan
    x = rows_of_the_model(9, 3)
    x[0, 2] = math.nan
    scores = score_rows(MODEL, x, KeptRows(x=kept), num_samples=2)
    assert np.isnan(scores.p_value).tolist() == [False, True, True]
    assert scores.notes[0].startswith("2 rows have no p-value: fewer than 20 of the 40 rows kept")
    assert np.isnan(score_rows(MODEL, x, KeptRows(x=kept[:0]), num_samples=2).p_value).all()


def test_patterns_beyond_what_may_be_weighed_give_no_p_value() -> None:
    scores = score_rows(MODEL, FRESH[:10], KEPT, num_samples=2, most_weighed=2 * KEPT.num_rows)
    assert np.isnan(scores.p_value).sum() == 3
    assert scores.notes[0].startswith("3 rows have no p-value: their cells are missing in patterns")


def test_progress_rises_to_the_end() -> None:
    told: list[float] = []
    score_rows(MODEL, FRESH, KEPT, num_samples=2, on_part=told.append)
    assert told == sorted(told)
    assert (told[-1], max(told)) == (1.0, 1.0)


def test_figures_alone_are_enough_for_complete_rows() -> None:
    x = rows_of_the_model(9, 4)
    x[3, 0] = math.nan
    figures = KeptFigures.of(WRONG, KEPT.x, None, 5)
    for kind in KINDS:
        alone = score_rows(WRONG, x, figures, kind=kind, num_samples=5)
        beside = score_rows(WRONG, x, KEPT, kind=kind, num_samples=5)
        assert np.array_equal(alone.p_value[:3], beside.p_value[:3])
        assert np.isnan(alone.p_value[3])
    assert np.isnan(score_rows(WRONG, x, figures, num_samples=6).p_value).all()
    assert KeptFigures.of(WRONG, x[3:], None, 5).num_rows == 0


def test_covariates_of_calibration_rows_are_their_own() -> None:
    """Rows at c = 3 are compared with rows at their own c: a mutant without it finds them odd."""
    shift = 3.0 * MODEL.of_given[:, 0]
    x, of_x = rows_of_the_model(11, 200) + shift, torch.full((200, 1), 3.0).double()
    kept = KeptRows(x=rows_of_the_model(12, 200), given=torch.zeros(200, 1).double())
    told = score_rows(MODEL, x, kept, given=of_x, num_samples=3).p_value
    untold = score_rows(MODEL, x, kept, given=0 * of_x, num_samples=3).p_value
    assert kolmogorov(told, 200) < NEVER_BY_CHANCE
    assert kolmogorov(untold, 200) > 2 * NEVER_BY_CHANCE


# ---- the odd cells ------------------------------------------------------------------------------


def exact_given_rest(x: Tensor, cell: int) -> tuple[Tensor, Tensor]:
    """Mean (row,) and sd of p(x_j|x₋ⱼ)."""
    rest = [j for j in range(CELLS) if j != cell]
    gain = COVARIANCE[cell, rest] @ torch.linalg.inv(COVARIANCE[rest][:, rest])
    mean = MEAN[cell] + (x[:, rest] - MEAN[rest]) @ gain
    return mean, (COVARIANCE[cell, cell] - gain @ COVARIANCE[rest, cell]).sqrt()


@pytest.mark.parametrize("model", [MODEL, LinearModel(gain=0.9, width=1.3)])
def test_the_density_of_a_cell_is_that_given_the_rest(model: LinearModel) -> None:
    """Whether q is exact or poor; that of the cell by itself is another."""
    x = rows_of_the_model(13, 20)
    found = log_densities_of_cells(model, x, num_samples=2000)
    for cell in range(CELLS):
        mean, sd = exact_given_rest(x, cell)
        exact = torch.distributions.Normal(mean, sd).log_prob(x[:, cell])
        assert float((found[:, cell] - exact).abs().max()) < 0.3
        alone = torch.distributions.Normal(MEAN[cell], COVARIANCE[cell, cell].sqrt())
        assert float((found[:, cell] - alone.log_prob(x[:, cell])).abs().max()) > 0.5


def test_a_cell_that_misleads_the_encoder_is_the_least_expected() -> None:
    """Far off, it drags q along wherever it is shown. The mutant takes p(x) from the draws of each
    cell alone, and blames others."""
    model, x = LinearModel(gain=1.2, width=0.5), rows_of_the_model(16, 40)
    cells = torch.arange(40) % CELLS
    for row, cell in enumerate(cells.tolist()):
        mean, sd = exact_given_rest(x[[row]], cell)
        x[row, cell] = mean[0] + 20 * sd
    assert torch.equal(log_densities_of_cells(model, x).argmin(1), cells)
    masses = [densities._log_masses(model, x, None, cell, 100, 0) for cell in range(CELLS)]
    mutant = torch.stack([whole - rest for rest, whole in masses], dim=1)
    assert int((mutant.argmin(1) == cells).sum()) < 32


def test_what_is_missing_has_no_density() -> None:
    x = with_patterns(rows_of_the_model(13, 6))
    assert torch.equal(torch.isnan(log_densities_of_cells(MODEL, x, num_samples=3)), torch.isnan(x))


TABLE = Schema(
    (CELLS,),
    tuple(Column(f"x{i}", "real", shift=10.0 * i, unit=2.0) for i in range(CELLS)),
    gaps=False,
)


def test_an_exchanged_cell_is_named_with_the_range_that_was_expected() -> None:
    x = rows_of_the_model(14, 60)
    cells = torch.arange(60) % CELLS
    for row, cell in enumerate(cells.tolist()):
        mean, sd = exact_given_rest(x[[row]], cell)
        x[row, cell] = mean[0] + 6 * sd
    found = odd_cells(MODEL, TABLE, x, KEPT)
    named = [cells_[0].column for cells_ in found if cells_]
    assert sum(name == f"x{int(cell)}" for name, cell in zip(named, cells, strict=True)) >= 50
    first = found[0][0]
    mean, sd = exact_given_rest(x[:1], 0)
    low, high = (float(end) for end in first.expected.split(" to "))
    ends = 2.0 * (float(mean[0]) + torch.tensor([-1.645, 1.645]) * float(sd))
    assert [low, high] == pytest.approx(ends.tolist(), abs=0.4 * float(sd) * 2.0)
    assert first.sentence == f"x0 {first.value}, expected {first.expected} given the rest"
    assert float(first.value) == pytest.approx(2.0 * float(x[0, 0]), rel=1e-3)


def test_usual_rows_have_few_odd_cells() -> None:
    found = odd_cells(MODEL, TABLE, rows_of_the_model(15, 100), KEPT)
    assert sum(len(cells) for cells in found) < 0.1 * 100 * CELLS


def test_what_is_told_of_a_row_is_its_own() -> None:
    x = rows_of_the_model(14, 8) * 3
    whole = odd_cells(MODEL, TABLE, x, KEPT)
    assert odd_cells(MODEL, TABLE, x[[5, 2]], KEPT) == (whole[5], whole[2])
    assert any(whole)


def test_what_is_usual_without_calibration_rows_is_what_the_model_makes() -> None:
    x = rows_of_the_model(16, 5)
    by_rows = usual_log_densities(MODEL, KEPT, x)
    by_model = usual_log_densities(MODEL, KeptRows(x=x[:0]), x)
    assert float((by_rows - by_model).abs().max()) < 0.3


def test_classes_and_angles_are_told_in_their_own_way() -> None:
    codes: dict[str, Any] = {"step": 1.0, "low": 0.0, "high": 1.0}
    schema = Schema(
        (3,),
        (
            Column("sex", "binary", **codes),
            Column("kind", "category", **codes, levels=(3.0, 7.0)),
            Column("wind", "angle", unit=360.0 / math.tau, low=0.0, high=360.0),
        ),
        gaps=False,
    )
    family = unveil.Columns(
        [
            ((0,), unveil.Bernoulli(1)),
            ((1,), unveil.Categorical(1, 2)),
            ((2,), unveil.VonMises(1, unit=360.0 / math.tau)),
        ]
    )
    constant = torch.nn.Linear(1, 5)
    with torch.no_grad():
        constant.weight.zero_()
        constant.bias.copy_(torch.tensor([4.0, -2.0, 2.0, 9.0, 0.0]))
    vae = unveil.VAE(
        prior=unveil.StandardNormal(1),
        likelihood=unveil.Conditional(constant, family),
        posterior=unveil.Conditional(Silent(), unveil.DiagonalGaussian(1)),
    )
    odd = torch.tensor([[0.0, 0.0, math.pi]])
    (cells,) = odd_cells(vae, schema, odd, KeptRows(x=odd[:0]))
    told = {cell.column: cell for cell in cells}
    assert told["sex"].expected.startswith("1 (9")
    assert told["kind"].expected.startswith("7 (9")
    low, high = (float(end) for end in told["wind"].expected.split(" to "))
    assert 300 < low < 345 and 15 < high < 60  # about north, through the end of the period


class Silent(torch.nn.Module):
    """An encoder that says nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 2)


def test_a_hidden_cell_is_hidden_alone() -> None:
    image = torch.arange(8.0).view(2, 2, 2)
    rest, alone = hidden(image, 3)
    assert torch.isnan(rest).flatten(1).tolist() == [[False, False, False, True]] * 2
    assert torch.isnan(alone).flatten(1).tolist() == [[True, True, True, False]] * 2


# ---- kinds beside each other --------------------------------------------------------------------


def test_area_under_the_curve_is_scikit_learns() -> None:
    usual, odd = normal(1, 30).round(decimals=1), normal(2, 40).round(decimals=1) - 0.5
    expected = roc_auc_score([1] * 30 + [0] * 40, torch.cat([usual, odd]).numpy())
    assert auroc(usual, odd) == pytest.approx(expected)


def test_evidence_tells_rows_whose_cells_were_exchanged() -> None:
    found = compare_scores(MODEL, rows_of_the_model(17, 300), num_samples=10)
    assert found["evidence"] > 0.85
    independent = MEAN + normal(18, 300, CELLS) * COVARIANCE.diagonal().sqrt()
    assert abs(compare_scores(MODEL, independent, num_samples=10)["evidence"] - 0.5) < 0.15


def test_too_few_rows_to_compare_kinds_on_are_refused() -> None:
    with pytest.raises(InputError, match="expected at least 20 rows to compare scores on, but 5"):
        compare_scores(MODEL, rows_of_the_model(17, 5))


def told(seed: int, odd: int = 40, usual: int = 60) -> Telling:
    """Two kinds of score of the same rows, one of which says less; Pr(usual > odd) is Φ(1/√2)."""
    marks = np.arange(odd + usual) < odd
    score = normal(seed, odd + usual).numpy() + ~marks
    blurred = score + normal(seed + 10_000, odd + usual).numpy()
    return telling({"evidence": blurred, "reconstruction": score}, marks)


def test_areas_are_scikit_learns_and_the_best_is_named() -> None:
    found = told(1)
    marks = np.arange(100) < 40
    score = normal(1, 100).numpy() + ~marks
    areas = found.by_kind["reconstruction"]
    assert areas.auroc.value == pytest.approx(roc_auc_score(marks, -score))
    assert areas.average_precision.value == pytest.approx(average_precision_score(marks, -score))
    assert (found.best, found.odd, found.usual) == ("reconstruction", 40, 60)
    gap = areas.auroc.value - found.by_kind["evidence"].auroc.value
    assert found.lead.value == pytest.approx(gap)


def spread_z(errors: list[float], values: list[float]) -> float:
    """How far errors that were told are from the spread of values: log sd/error, standardised."""
    ratio = np.std(values, ddof=1) / math.sqrt(np.square(errors).mean())
    return float(math.log(ratio) * math.sqrt(2 * len(values)))


def test_errors_are_how_far_areas_vary(monkeypatch) -> None:
    monkeypatch.setattr(comparison, "RESAMPLES", 10)
    found = [told(seed) for seed in range(150)]
    areas = [one.by_kind["reconstruction"].auroc for one in found]
    assert abs(spread_z([a.error for a in areas], [a.value for a in areas])) < SURELY_WRONG
    assert abs(spread_z([a.error / 4 for a in areas], [a.value for a in areas])) > CAUGHT
    expected = stats.norm.cdf(1 / math.sqrt(2))
    mean = np.mean([a.value for a in areas])
    assert abs(mean - expected) < SURELY_WRONG * np.std([a.value for a in areas]) / math.sqrt(150)
    precisions = [one.by_kind["reconstruction"].average_precision for one in found]
    z = spread_z([p.error for p in precisions], [p.value for p in precisions])
    assert abs(z) < SURELY_WRONG


# ---- a fitted model -----------------------------------------------------------------------------

RNG = np.random.default_rng(0)
DATA = RNG.normal(size=(500, 2)) @ RNG.normal(size=(2, 5)) + 0.3 * RNG.normal(size=(500, 5))


@pytest.fixture(scope="module")
def fitted() -> unveil.Fitted:
    return fit(DATA, latent=2, epochs=2, seed=1)


def test_rows_are_kept_apart_from_training_and_from_choosing(fitted: unveil.Fitted) -> None:
    splits = [fitted.train_digests, fitted.held_out_digests, fitted.calibration_digests]
    assert [len(keys) for keys in splits] == [450, 25, 25]
    assert len({tuple(key) for keys in splits for key in keys.tolist()}) == 500
    assert (fitted.evaluation.rows, fitted.evaluation.split) == (
        25, "held-out rows (they chose nothing)",
    )  # fmt: skip


def test_a_small_table_keeps_no_rows_apart() -> None:
    small = fit(DATA[:390], latent=2, epochs=1)
    assert (small.calibration.num_rows, len(small.held_out_digests)) == (0, 39)
    scores = small.score(DATA[:3])
    assert np.isnan(scores.p_value).all()
    assert "fewer than 20 of the 0 rows kept apart" in scores.notes[0]
    assert small.evaluation.split == "held-out rows (they chose the weights)"


def test_a_saved_model_scores_as_the_fitted_one(fitted: unveil.Fitted, tmp_path: Path) -> None:
    fitted.save(tmp_path / "m")
    odd = DATA[:4] + np.array([0, 0, 9, 0, 0])
    ours, theirs = (f.score(odd, why=True, draws=20) for f in (fitted, load(tmp_path / "m")))
    assert np.array_equal(ours.log_evidence, theirs.log_evidence)
    assert np.array_equal(ours.p_value, theirs.p_value)
    assert ours.why == theirs.why
    assert ours.notes == ()
    assert fitted.compare_scores(draws=5) == load(tmp_path / "m").compare_scores(draws=5)


def test_rows_that_were_trained_on_are_told_of(fitted: unveil.Fitted) -> None:
    (note,) = fitted.score(DATA).notes
    assert note == "450 rows were trained on: their p-values are too large"


def test_the_most_unusual_rows_alone_are_explained(fitted: unveil.Fitted) -> None:
    odd = DATA[:6].copy()
    odd[4, 2] += 30
    scores = fitted.score(odd, why=True, top=1, draws=20)
    assert scores.why is not None
    assert [bool(cells) for cells in scores.why] == [False, False, False, False, True, False]
    assert scores.reasons[4].startswith("x2 ")
    assert fitted.score(odd).why is None


MIXED = pa.table(
    {
        "size": np.resize([0, 1, 2, 3], 420),
        "weight": np.exp(normal(20, 420).numpy()),
        "colour": np.resize(["red", "blue"], 420),
    }
)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_column_cannot_hold_is_less_usual_than_all_else(kind: str, tmp_path: Path) -> None:
    fitted = fit(MIXED, latent=2, epochs=1)
    new = {"size": [1, 1.5, 2, 3], "weight": [1, 1, -4.0, 1], "colour": ["red"] * 3 + ["green"]}
    scores = fitted.score(pa.table(new), kind=kind, why=True, draws=5)
    assert np.isfinite(scores.log_evidence).tolist() == [True, False, False, False]
    assert (scores.score[1:] == -np.inf).all() and scores.score[0] > -np.inf
    assert scores.p_value[1:].tolist() == [1 / (1 + fitted.calibration.num_rows)] * 3
    assert scores.p_value[0] > scores.p_value[1]
    assert [reason.split(", expected ")[0] for reason in scores.reasons[1:]] == [
        "size 1.5", "weight -4", "colour green",
    ]  # fmt: skip
    assert scores.notes[-1].startswith("3 rows hold what their columns cannot")
    possible = pa.table({**new, "size": [1, 1, 2, 3], "weight": [1] * 4, "colour": ["red"] * 4})
    assert scores.score[0] == fitted.score(possible, kind=kind, draws=5).score[0]
    marked = pa.table({**new, "odd": [0, 1, 1, 1]})
    assert fitted.tells_odd_rows(marked, "odd", draws=5).by_kind[kind].auroc.value == 1.0


def test_pictures_keep_figures_and_no_rows(tmp_path: Path) -> None:
    pictures = np.random.default_rng(1).integers(0, 17, size=(400, 4, 4))
    images = fit(pictures, latent=2, epochs=1)
    images.save(tmp_path / "m")
    tensors = set(load(tmp_path / "m").calibration.tensors())
    assert tensors == {"draws", *KINDS}
    scores = load(tmp_path / "m").score(pictures[:5])
    assert np.isfinite(scores.p_value).all()
    assert np.array_equal(scores.p_value, images.score(pictures[:5]).p_value)
    with pytest.raises(InputError, match="expected a table to name odd cells of"):
        images.score(pictures[:5], why=True)
    with pytest.raises(InputError, match="of pictures it keeps none"):
        images.compare_scores()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kind": "density"}, "expected the kind of score to be one of evidence, reconstruction"),
        ({"draws": 0}, "expected at least 1 draw per row, but 0 came"),
        ({"top": 3}, "expected --top, of how many rows odd cells are named, beside --why"),
        ({"why": True, "top": 0}, "expected at least 1 row to explain, but 0 came"),
    ],
)
def test_what_cannot_be_scored_gets_a_sentence(fitted, options, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        fitted.score(DATA[:2], **options)


# ---- the command line ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(fitted: unveil.Fitted, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scoring") / "m"
    fitted.save(folder)
    return folder


@pytest.fixture(scope="module")
def csv(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    odd = DATA[:6].copy()
    odd[4, 2] += 30
    lines = [",".join(f"x{i}" for i in range(5)), *(",".join(map(str, row)) for row in odd)]
    path.write_text("\n".join(lines))
    return path


def test_score_writes_what_the_contract_says(folder: Path, csv: Path, tmp_path: Path) -> None:
    out, document = tmp_path / "s.csv", tmp_path / "s.json"
    assert run(["score", str(folder), str(csv), "-o", str(out), "--json", str(document)]) == 0
    assert pyarrow.csv.read_csv(out).column_names == ["log_evidence", "p_value"]
    assert set(json.loads(document.read_text())) == {
        "format_version", "rows", "kind", "unusual", "notes", "telling", "output",
    }  # fmt: skip
    kinds = ["--kind", "typicality", "--why", "--top", "2", "--draws", "20", "--quiet"]
    assert run(["score", str(folder), str(csv), "-o", str(out), *kinds]) == 0
    table = pyarrow.csv.read_csv(out)
    assert table.column_names == ["log_evidence", "typicality", "p_value", "why"]
    assert table["why"][4].as_py().startswith("x2 ")


def test_where_odd_rows_are_marked_the_best_score_is_told(
    folder: Path, csv: Path, tmp_path: Path, capsys
) -> None:
    model = load(folder)
    marked = zip(csv.read_text().split("\n"), ["odd", 0, 0, "", 0, 1, 0], strict=True)
    (tmp_path / "m.csv").write_text("\n".join(f"{line},{mark}" for line, mark in marked))
    out, document = tmp_path / "s.csv", tmp_path / "s.json"
    words = ["score", str(folder), str(tmp_path / "m.csv"), "-o", str(out), "--label", "odd"]
    assert run([*words, "--json", str(document)]) == 0
    said = json.loads(document.read_text())["telling"]
    assert (said["odd"], said["usual"]) == (1, 4)
    assert said["kinds"]["evidence"]["auroc"] == {"value": 1.0, "se": None}
    assert said == model.tells_odd_rows(tmp_path / "m.csv", "odd").document()
    assert "would have told them best" in capsys.readouterr().out
    table = pyarrow.csv.read_csv(out)
    assert table.column_names == ["log_evidence", "p_value", "odd"]
    assert table["log_evidence"].to_pylist() == model.score(csv).log_evidence.tolist()


@pytest.mark.parametrize("kind", ["uint8", "int64", "float32", "bool"])
def test_marks_may_be_numbers_of_any_kind(fitted, kind: str) -> None:
    names = [f"x{column}" for column in range(DATA.shape[1])]
    columns = dict(zip(names, DATA[:6].T, strict=True))
    said = [
        fitted.tells_odd_rows(pyarrow.table({**columns, "odd": marks}), "odd", draws=5)
        for marks in (np.array([0, 1, 0, 0, 1, 0], kind), [0, 1, 0, 0, 1, 0])
    ]
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("marks", "sentence"),
    [
        ([0, 1, 2], "by 1 and others by 0, but 0, 1, 2 came"),
        ([0, 0, 0], "but of 3 rows 0 are"),
        (["a", "b", "a"], "but a, b came"),
    ],
)
def test_marks_are_ones_and_zeros(fitted, marks: list[Any], sentence: str) -> None:
    names = [f"x{column}" for column in range(DATA.shape[1])]
    columns = dict(zip(names, DATA[:3].T, strict=True))
    with pytest.raises(InputError, match=sentence):
        fitted.tells_odd_rows(pyarrow.table({**columns, "odd": marks}), "odd")
    with pytest.raises(InputError, match="expected a column 'eve' that marks odd rows"):
        fitted.tells_odd_rows(pyarrow.table(columns), "eve")


def test_what_is_asked_of_sampled_rows_is_met(folder: Path, tmp_path: Path, capsys) -> None:
    out, document = tmp_path / "s.csv", tmp_path / "s.json"
    where = ["--where", "x0=0.5", "--where", "x1=-1..1", "--where", "x2=0.."]
    command = ["sample", str(folder), "-n", "7", "-o", str(out), *where, "--json", str(document)]
    assert run(command) == 0
    table = pyarrow.csv.read_csv(out).to_pydict()
    assert table["x0"] == [0.5] * 7
    assert all(-1 <= value <= 1 for value in table["x1"])
    assert all(value >= 0 for value in table["x2"])
    assert json.loads(document.read_text())["effective_draws"] > 20
    assert "draws count in effect" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (
            ["sample", "-n", "3", "--where", "y=3"],
            "expected conditions on the columns of the model",
        ),
        (["sample", "-n", "3", "--where", "x0=old"], "'old' came"),
        (["sample", "-n", "3", "--where", "x0=900..901"], "draws of the model could"),
        (["sample", "-n", "3", "--where", "x0"], "expected --where COL=VALUE, but 'x0' came"),
        (["score", "CSV", "--kind", "odd"], "expected the kind of score to be one of"),
        (["score", "CSV", "--draws", "0"], "expected at least 1 draw per row"),
    ],
)
def test_what_cannot_be_done_writes_nothing(
    folder: Path, csv: Path, tmp_path: Path, capsys, command: list[str], sentence: str
) -> None:
    verb, *rest = (str(csv) if token == "CSV" else token for token in command)
    out = tmp_path / "out.csv"
    assert run([verb, str(folder), *rest, "-o", str(out)]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_reasons_do_not_fit_an_array_of_numbers(folder: Path, csv: Path, tmp_path: Path) -> None:
    assert run(["score", str(folder), str(csv), "--why", "-o", str(tmp_path / "s.npy")]) == 2
