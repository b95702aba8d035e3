"""Intervals that hold what they say they hold, whatever the model got wrong."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy import stats
from torch import Tensor

import unveil
from linear_model import LinearModel
from oracles import CAUGHT, SURELY_WRONG, nonlinear_vae, normal, seeded, with_gaps
from unveil.data.read import read
from unveil.data.schema import Column, Schema
from unveil.evidence.simulated import simulate
from unveil.imputation import intervals as module
from unveil.imputation.intervals import (
    LEVELS,
    NORMAL_REACH,
    QUANTILES,
    Intervals,
    Measures,
    Reach,
    calibrate,
    hide,
    reach,
)
from unveil.noise import generator

NONE_GONE = torch.zeros(1, 6, dtype=torch.bool)


def reals(number: int) -> Measures:
    zero = torch.zeros(number)
    return Measures(ordered=zero == 0, step=zero, period=zero)


def linear_rows(number: int, seed: int) -> Tensor:
    return simulate(LinearModel(), torch.zeros(number, 6, dtype=torch.float64), seed=seed)[0]


def coverage_z(model: LinearModel, intervals: Intervals, level: float) -> float:
    """How far the coverage of new rows' gaps is from the level, in standard errors."""
    whole = linear_rows(1000, seed=9)
    x = with_gaps(whole, seed=10, share=0.2)
    low, high = reach(model, x, reals(6)).ends(intervals.stretch(6, level))
    gone = torch.isnan(x)
    held = ((low <= whole) & (whole <= high) & gone).sum(1).double() - level * gone.sum(1)
    return float(held.mean() / (held.std() / math.sqrt(len(held))))


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_a_right_model_covers_before_it_is_calibrated(level: float) -> None:
    assert abs(coverage_z(LinearModel(), Intervals.none(), level)) < SURELY_WRONG


@pytest.mark.parametrize("spread", [0.4, 2.5])
def test_a_wrong_model_covers_once_it_is_calibrated(spread: float) -> None:
    wrong = LinearModel(spread=spread)
    assert abs(coverage_z(wrong, Intervals.none(), 0.8)) > CAUGHT  # the mutant: not calibrated
    intervals = calibrate(wrong, linear_rows(1000, seed=3), NONE_GONE, reals(6))
    # Calibration has an error of its own, of as many rows as the judgement has.
    assert abs(coverage_z(wrong, intervals, 0.8)) < 2 * SURELY_WRONG
    assert abs(intervals.coverage(0.8) - 0.8) < 0.02


def test_the_coverage_told_is_that_of_other_rows() -> None:
    """Every row is off by a size of its own: that of the widest is held by no other's."""
    rows = torch.arange(20)
    lots = Intervals(cells=0 * rows, distances=rows.double(), rows=rows)
    held = [float(d) <= sorted(rows[rows % 10 != r % 10].tolist())[17] for r, d in enumerate(rows)]
    assert lots.coverage(0.9) == np.mean(held) < 1.0
    assert lots.stretch(1, 0.9).item() == 18.0  # which holds 19 of all 20


def test_the_stretch_is_the_conformal_rank() -> None:
    distances = torch.arange(1.0, 100.0).double()
    lots = Intervals(cells=torch.zeros(99).long(), distances=distances, rows=torch.arange(99))
    assert lots.stretch(1, 0.9).tolist() == [90.0]
    assert lots.stretch(1, 0.99).tolist() == [99.0]
    assert not lots.says(0.995)
    normal_end = stats.norm.ppf(0.9975) / stats.norm.ppf(0.9)
    assert lots.stretch(1, 0.995).item() == pytest.approx(normal_end)
    assert pytest.approx(stats.norm.ppf(QUANTILES[2])) == NORMAL_REACH


def test_exchangeable_distances_are_held_as_often_as_is_said() -> None:
    """n calibrating distances and one more, time and again: P(held) = ⌈(n + 1)p⌉/(n + 1)."""
    draws = torch.rand(4000, 20, generator=seeded(1)).double()
    held = []
    for row in draws:
        some = Intervals(cells=torch.zeros(19).long(), distances=row[:19],
                         rows=torch.arange(19))  # fmt: skip
        held.append(float(row[19] <= some.stretch(1, 0.9)[0]))
    share = np.mean(held)
    assert abs(share - 18 / 20) < SURELY_WRONG * math.sqrt(0.09 / 4000)


def test_rows_count_where_the_cells_of_a_row_err_together() -> None:
    """Eleven rows of thirty cells and a new one, each row as hard all over: 11/12 are held. The
    mutant, which takes every cell for a row of its own, holds 10/12."""
    draws = torch.rand(1500, 12, generator=seeded(2)).double()
    row = torch.arange(11).repeat_interleave(30)
    held, by_cells = [], []
    for hard in draws:
        for found, rows in ((held, row), (by_cells, torch.arange(330))):
            some = Intervals(cells=0 * row, distances=hard[row], rows=rows)
            found.append(float(hard[11] <= some.stretch(1, 0.9)[0]))
    error = math.sqrt(0.09 / len(draws))
    assert abs(np.mean(held) - 11 / 12) < SURELY_WRONG * error
    assert np.mean(by_cells) < 0.9 - SURELY_WRONG * error


def test_a_column_with_enough_cells_has_a_stretch_of_its_own() -> None:
    cells = torch.cat([torch.zeros(200), torch.ones(30)]).long()
    distances = torch.cat([torch.full((200,), 2.0), torch.full((30,), 5.0)]).double()
    found = Intervals(cells=cells, distances=distances, rows=torch.arange(230))
    assert found.stretch(3, 0.9).tolist() == [2.0, 5.0, 5.0]
    assert found.stretch(3, 0.5).tolist() == [2.0, 2.0, 2.0]


def test_a_column_speaks_for_itself_at_the_levels_that_its_rows_can_tell() -> None:
    """60 rows say where 90 % lie, and not where 99 % do, which 300 together say."""
    cells = torch.cat([torch.zeros(60), torch.ones(240)]).long()
    distances = torch.cat([torch.full((60,), 2.0), torch.full((240,), 3.0)]).double()
    found = Intervals(cells=cells, distances=distances, rows=torch.arange(300))
    assert found.stretch(2, 0.9).tolist() == [2.0, 3.0]
    assert found.stretch(2, 0.99).tolist() == [3.0, 3.0]


def test_a_grid_holds_what_its_rounded_ends_hold() -> None:
    """Brute force over the grid: distance ≤ c just where the ends, rounded, hold x."""
    step = 0.5
    measures = Measures(
        ordered=torch.tensor([True]), step=torch.tensor([step]), period=torch.zeros(1)
    )
    found = Reach(
        middle=torch.tensor([[0.3]]).double(),
        below=torch.tensor([[0.7]]).double(),
        above=torch.tensor([[1.1]]).double(),
    )
    for c in (0.03, 0.4, 1.13, 2.21):
        low, high = (torch.round(end / step) * step for end in found.ends(torch.tensor([c])))
        for x in step * torch.arange(-12.0, 13.0).double():
            inside = bool(low <= x <= high)
            assert inside == bool(found.distances(x.view(1, 1), measures) <= c)


def test_an_angle_is_measured_the_shorter_way_around() -> None:
    measures = Measures(
        ordered=torch.tensor([True]), step=torch.zeros(1), period=torch.tensor([math.tau])
    )
    one = torch.ones(1, 1).double()
    found = Reach(middle=3.0 * one, below=0.5 * one, above=0.5 * one)
    assert float(found.distances(-3.0 * one, measures)) == pytest.approx(2 * (math.tau - 6.0))
    draws = (math.pi + 0.1 * normal(0, 4000, 1, 1) + math.pi).remainder(math.tau) - math.pi
    middle, below, above = module._reach(draws, measures)
    assert float(middle.cos()) == pytest.approx(-1.0, abs=0.01)
    assert float(below) == pytest.approx(0.1 * NORMAL_REACH, rel=0.1)
    assert float(above) == pytest.approx(0.1 * NORMAL_REACH, rel=0.1)


def test_certainty_leaves_half_a_step_or_a_hair() -> None:
    measures = Measures(
        ordered=torch.tensor([True, True]), step=torch.tensor([0.5, 0.0]), period=torch.zeros(2)
    )
    _, below, above = module._reach(torch.zeros(50, 1, 2).double(), measures)
    assert below[0].tolist() == pytest.approx([0.25, module.LEAST_REACH])
    assert torch.equal(below, above)


def test_classes_have_no_order() -> None:
    kinds = ("real", "grid", "binary", "constant", "category", "ordinal", "angle")
    levels = {"category": (1.0, 4.0), "ordinal": (1.0, 4.0)}
    columns = tuple(
        Column(kind, kind, step=float(kind not in ("real", "constant", "angle")),
               low=0.0 if kind in levels else -math.inf, high=1.0 if kind in levels else math.inf,
               levels=levels.get(kind, ()))
        for kind in kinds
    )  # fmt: skip
    measures = Measures.of(Schema((7,), columns, gaps=True))
    assert measures.ordered.tolist() == [True, True, False, False, True, True]
    assert measures.step.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    assert measures.period.tolist() == pytest.approx([0.0] * 5 + [math.tau])


# ---- what is hidden ------------------------------------------------------------------------------


def test_only_what_goes_missing_in_the_table_is_hidden() -> None:
    patterns = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    x = normal(0, 500, 4)
    hidden = hide(x, patterns, generator(0, "test"))
    found = {tuple(row) for row in hidden.long().tolist()}
    assert found == {(1, 1, 0, 0), (0, 0, 1, 1)}
    share = hidden[:, 2].double().mean()
    assert abs(float(share) - 0.5) < SURELY_WRONG * math.sqrt(0.25 / 500)


def test_a_row_with_gaps_shows_as_much_as_the_pattern_does_and_never_nothing() -> None:
    patterns = torch.rand(200, 10, generator=seeded(2)) < 0.5
    x = with_gaps(normal(1, 600, 10), seed=3, share=0.5)
    hidden = hide(x, patterns, generator(1, "test"))
    seen = ~torch.isnan(x)
    left = (seen & ~hidden).sum(1)
    assert not (hidden & ~seen).any()
    assert bool((left >= 1)[seen.any(1)].all())
    # One at least is taken of rows that show what the pattern lacks: half a cell on the average.
    assert 0.5 < float((seen.sum(1) - left).double().mean()) < 3


def test_a_table_without_gaps_hides_a_fifth() -> None:
    hidden = hide(normal(0, 2000, 10), torch.zeros(3, 10).bool(), generator(0, "test"))
    assert float(hidden.double().mean()) == pytest.approx(0.2, abs=0.02)


def test_columns_without_gaps_are_calibrated_beside_those_with_gaps() -> None:
    """A table whose words alone have gaps says nothing of how its numbers would go missing."""
    gaps = torch.zeros(10, 4, dtype=torch.bool)
    gaps[3, 0] = True
    hidden = hide(torch.zeros(4000, 4), gaps, generator(0, "test"))
    follows = hidden[:, 0]
    assert not (follows[:, None] & hidden[:, 1:]).any()
    assert 0.45 < float(follows.double().mean()) < 0.55
    assert 0.15 < float(hidden[~follows, 1:].double().mean()) < 0.3


def test_a_single_cell_is_never_hidden() -> None:
    x = torch.tensor([[1.0, math.nan], [math.nan, math.nan]])
    patterns = torch.tensor([[True, False]])
    assert not hide(x, patterns, generator(0, "test")).any()


def test_cells_are_expected_without_having_been_seen(monkeypatch) -> None:
    shown = []
    whole = module.reach

    def watched(model, x, measures, **asked):
        shown.append(x)
        return whole(model, x, measures, **asked)

    monkeypatch.setattr(module, "reach", watched)
    x = linear_rows(30, seed=5)
    found = calibrate(LinearModel(), x, NONE_GONE, reals(6))
    assert int(torch.isnan(shown[0]).sum()) == len(found.cells) > 100
    assert len(shown[0]) <= 30 * module.MOST_ROUNDS


def test_calibration_is_a_function_of_the_seed_and_survives_saving() -> None:
    x = linear_rows(20, seed=5)
    one, same, other = (
        calibrate(LinearModel(), x, NONE_GONE, reals(6), seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(one.distances, same.distances)
    assert not torch.equal(one.distances[:20], other.distances[:20])
    saved = one.tensors()
    again = Intervals.from_tensors(saved)
    assert torch.equal(again.stretch(6, 0.9), one.stretch(6, 0.9))
    assert saved["interval_coverage"].tolist() == [one.coverage(level) for level in LEVELS]


def test_one_row_of_one_cell_calibrates_nothing() -> None:
    vae = nonlinear_vae(unveil.Gaussian(1))
    found = calibrate(vae, torch.zeros(1, 1), torch.zeros(1, 1).bool(), reals(1))
    assert len(found.cells) == 0
    assert math.isnan(found.coverage(0.9))
    assert "not calibrated" in found.sentence(0.9)


# ---- fitted --------------------------------------------------------------------------------------


def test_a_fit_calibrates_on_rows_that_it_was_not_trained_on() -> None:
    factor = normal(3, 400, 1).numpy()
    table = factor + 0.5 * normal(4, 400, 4).numpy()
    table[np.random.default_rng(0).random(table.shape) < 0.2] = np.nan
    fitted = unveil.fit(pa.table({f"c{j}": table[:, j] for j in range(4)}), latent=2, epochs=5)
    assert fitted.intervals.says(0.9)
    assert "90% intervals hold" in fitted.intervals.sentence(0.9)
    assert abs(fitted.intervals.coverage(0.9) - 0.9) < 0.08


def test_pictures_are_not_calibrated() -> None:
    fitted = unveil.fit(read("digits").values[:40], latent=2, epochs=1)
    assert not fitted.intervals.says(0.5)
