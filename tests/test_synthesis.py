"""Drawn rows beside real ones: honest draws pass, and copies, shuffles and gaps are told apart."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pyarrow import csv
from scipy import stats
from sklearn.metrics import roc_auc_score

import unveil
from oracles import CAUGHT, SURELY_WRONG
from unveil.cli.main import run
from unveil.data.covariates import infer_covariates
from unveil.data.read import Rows
from unveil.data.schema import Column, Schema
from unveil.errors import InputError
from unveil.feed import digests_of
from unveil.synthesis import nearness as nearness_module
from unveil.synthesis.detection import TOO_FEW, detection
from unveil.synthesis.fidelity import WAY_TO_GET_IT, fidelity
from unveil.synthesis.nearness import LARGEST_SHARE, NOBODY, copies, nearness
from unveil.synthesis.report import NO_GUARANTEE, NO_TARGET, report
from unveil.synthesis.trial import Trial, trial
from unveil.synthesis.utility import utility

Table = NDArray[np.float64]
SCHEMA = Schema(
    (4,),
    (
        Column("height", "real", shift=100.0, unit=10.0),
        Column("weight", "real"),
        Column("size", "category", step=1.0, low=0.0, high=2.0, levels=(3.0, 5.0, 9.0)),
        Column("sex", "binary", step=1.0, low=0.0, high=1.0),
    ),
    gaps=True,
)
NAMES = SCHEMA.names


def people(seed: int, rows: int) -> Table:
    """Rows of SCHEMA whose every column hangs together with the others."""
    random = np.random.default_rng(seed)
    sex = random.integers(0, 2, rows)
    height = 170 + 10 * sex + 5 * random.normal(size=rows)
    weight = 0.9 * height + 3 * random.normal(size=rows)
    size = np.array([3.0, 5.0, 9.0])[np.digitize(weight, [152, 162])]
    return np.column_stack([height, weight, size, sex])


def beside(training: Table, held_out: Table, drawn: Table, **options: int) -> Trial:
    return trial(SCHEMA, *(Rows(x, NAMES) for x in (training, held_out, drawn)), **options)


def shuffled(table: Table, seed: int = 9) -> Table:
    """Every column as it was, and nothing between them."""
    return np.random.default_rng(seed).permuted(table, axis=0)


def numbers(*sides: Table) -> Trial:
    """Sides of columns of plain numbers."""
    names = tuple(f"x{column}" for column in range(sides[0].shape[1]))
    schema = Schema((len(names),), tuple(Column(name, "real") for name in names), gaps=False)
    return trial(schema, *(Rows(side, names) for side in sides))


# ---- fidelity -----------------------------------------------------------------------------------


def test_a_copy_is_perfectly_faithful_and_shuffled_columns_only_one_by_one() -> None:
    pytest.importorskip("sdmetrics")
    real = people(0, 500)
    same = fidelity(beside(real, real, real))
    apart = fidelity(beside(real, real, shuffled(real)))
    assert same is not None and apart is not None
    assert (same.quality, same.column_shapes, same.pair_trends) == (1.0, 1.0, 1.0)
    assert apart.column_shapes == 1.0 and apart.pair_trends is not None
    assert apart.pair_trends < 0.8
    first, second, score = apart.worst_pairs[0]
    assert {first, second} <= set(NAMES) and score < 0.6


def test_column_scores_are_the_distances_that_they_are_said_to_be() -> None:
    pytest.importorskip("sdmetrics")
    real, drawn = people(0, 500), people(1, 300)
    drawn[:, 0] += 2.0
    drawn[:40, 2] = 3.0
    found = fidelity(beside(real, real, drawn))
    assert found is not None
    for place in (0, 1):
        distance = stats.ks_2samp(real[:, place], drawn[:, place]).statistic
        assert found.columns[NAMES[place]] == pytest.approx(1 - distance, abs=1e-12)
    for place in (2, 3):
        levels = np.unique(real[:, place])
        shares = [(side[:, place, None] == levels).mean(axis=0) for side in (real, drawn)]
        variation = 0.5 * np.abs(shares[0] - shares[1]).sum()
        assert found.columns[NAMES[place]] == pytest.approx(1 - variation, abs=1e-12)
    pairs = {(a, b): score for a, b, score in found.worst_pairs}
    correlations = [np.corrcoef(side[:, 0], side[:, 1])[0, 1] for side in (real, drawn)]
    expected = 1 - abs(correlations[0] - correlations[1]) / 2
    assert pairs["height", "weight"] == pytest.approx(expected, abs=1e-9)
    assert found.column_shapes == pytest.approx(np.mean(list(found.columns.values())))


def test_without_sdmetrics_the_rest_of_the_report_is_made(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sdmetrics.reports.single_table", None)
    found = report(beside(people(0, 200), people(1, 100), people(2, 200)))
    assert found.fidelity is None and WAY_TO_GET_IT in found.notes
    assert found.detection is not None and found.nearness is not None
    assert "sdmetrics is not installed" in found.markdown()


# ---- utility ------------------------------------------------------------------------------------


def test_honest_draws_teach_what_real_rows_do_and_shuffled_ones_nothing() -> None:
    sides = people(0, 600), people(1, 300)
    for target, name in (("sex", "auroc"), ("size", "macro_f1"), ("weight", "r2")):
        honest = utility(beside(*sides, people(2, 600)), target)
        useless = utility(beside(*sides, shuffled(people(2, 600))), target)
        ours, real, nothing = honest.drawn[name], honest.real[name], useless.drawn[name]
        assert ours is not None and real is not None and nothing is not None
        assert abs(ours - real) < 0.06 and real > 0.7
        assert nothing < 0.62


def test_utility_is_not_told_apart_from_the_same_rows() -> None:
    real = people(0, 400)
    found = utility(beside(real, people(1, 200), real), "size")
    assert found.drawn == found.real and (found.rows, found.tested) == (400, 200)


def test_as_many_real_rows_are_learned_from_as_were_drawn() -> None:
    assert utility(beside(people(0, 400), people(1, 200), people(2, 150)), "sex").rows == 150
    assert utility(beside(people(0, 100), people(1, 200), people(2, 150)), "sex").rows == 100


def test_the_area_of_several_classes_is_the_mean_of_each_against_the_rest(monkeypatch) -> None:
    from unveil.synthesis import utility as module

    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 200).astype(np.float64)
    p = random.dirichlet([1.0, 1.0, 1.0], 200)
    expected = roc_auc_score(truth, p, multi_class="ovr", average="macro")
    assert module._area(truth, p) == pytest.approx(expected, abs=1e-12)
    assert module._area(np.zeros(5), p[:5]) is None


def test_classes_that_were_never_drawn_are_never_predicted() -> None:
    drawn = people(2, 300)
    one = drawn[drawn[:, 2] == 5.0]
    found = utility(beside(people(0, 300), people(1, 300), one), "size")
    assert found.drawn["auroc"] == 0.5  # always the same answer
    two = drawn[drawn[:, 2] != 5.0]
    found = utility(beside(people(0, 300), people(1, 300), two), "size")
    assert found.drawn["auroc"] is not None and found.drawn["auroc"] > 0.6


def test_figures_that_held_out_rows_leave_undefined_are_none_and_can_be_written() -> None:
    held_out = people(1, 60)
    held_out[:, 3], held_out[:, 1] = 1.0, 150.0
    sides = people(0, 100), held_out, people(2, 100)
    assert utility(beside(*sides), "sex").drawn["auroc"] is None
    assert utility(beside(*sides), "weight").drawn["r2"] is None
    found = report(beside(*sides), target="sex")
    assert json.loads(json.dumps(found.document(), allow_nan=False))["utility"]["target"] == "sex"
    assert "unknown" in found.markdown()


def test_rows_without_the_target_are_left_out() -> None:
    training, held_out = people(0, 100), people(1, 80)
    training[:30, 3], held_out[:20, 3] = np.nan, np.nan
    found = utility(beside(training, held_out, people(2, 100)), "sex")
    assert (found.rows, found.tested) == (70, 60)
    held_out[:, 3] = np.nan
    with pytest.raises(InputError, match="expected rows that have a 'sex'"):
        utility(beside(training, held_out, people(2, 100)), "sex")


# ---- detection ----------------------------------------------------------------------------------


def test_honest_draws_are_not_told_from_real_rows_and_shuffled_ones_are() -> None:
    honest = detection(beside(people(0, 10), people(1, 400), people(2, 400)))
    apart = detection(beside(people(0, 10), people(1, 400), shuffled(people(2, 400))))
    assert honest is not None and apart is not None
    assert abs(honest.auroc - 0.5) < SURELY_WRONG * honest.chance
    assert apart.auroc > 0.9 and apart.auroc - 0.5 > 10 * apart.chance
    m = honest.rows
    assert honest.chance == pytest.approx(math.sqrt((2 * m + 1) / (12 * m * m)))


def test_rows_are_not_told_by_their_gaps_alone() -> None:
    random = np.random.default_rng(3)
    real = people(1, 400)
    real[random.random(real.shape) < 0.3] = np.nan
    drawn = people(2, 400)
    found = detection(beside(people(0, 10), real, drawn))
    assert found is not None and abs(found.auroc - 0.5) < SURELY_WRONG * found.chance
    # Had the drawn rows kept their cells, gaps would tell: every real row with one is known.
    with_gap = np.isnan(real).any(axis=1)
    area = 0.5 + with_gap.mean() / 2
    assert area - 0.5 > 10 * found.chance


def test_too_few_rows_are_not_told_apart() -> None:
    found = report(beside(people(0, 100), people(1, 49), people(2, 100)))
    assert found.detection is None and TOO_FEW in found.notes


# ---- nearness -----------------------------------------------------------------------------------


def test_distances_are_those_of_standardised_numbers_and_classes_coded_0_and_1() -> None:
    training, held_out, drawn = people(0, 40), people(1, 25), people(2, 30)
    training[3, 0] = held_out[5, 2] = np.nan
    found = nearness(beside(training, held_out, drawn))
    real = np.concatenate([training, held_out])

    def coded(table: Table) -> Table:
        standard = (table[:, :2] - np.nanmean(real[:, :2], axis=0)) / np.nanstd(real[:, :2], axis=0)
        hot = [table[:, [2]] == level for level in (3.0, 5.0, 9.0)]
        gap = np.isnan(table[:, [2]])
        sexes = [table[:, [3]] == sex for sex in (0.0, 1.0)]
        return np.column_stack([np.nan_to_num(standard), *hot, gap, *sexes]).astype(np.float64)

    def nearest(side: Table) -> NDArray[np.float64]:
        difference = coded(drawn)[:, None] - coded(side)[None]
        return np.sqrt(np.square(difference).sum(axis=-1)).min(axis=1)

    closer = (nearest(training) < nearest(held_out)).mean()
    rates = closer / 40, (1 - closer) / 25
    assert found is not None and (found.rows, found.training, found.held_out) == (30, 40, 25)
    assert found.share == pytest.approx(rates[0] / sum(rates)) and 0.1 < closer < 0.9


def test_chunks_change_nothing(monkeypatch) -> None:
    sides = beside(people(0, 50), people(1, 50), people(2, 60))
    whole = nearness(sides)
    monkeypatch.setattr(nearness_module, "PAIRS_AT_ONCE", 170)
    assert nearness(sides) == whole


def test_honest_draws_are_as_close_to_either_kind_and_a_memoriser_is_found_out() -> None:
    training, held_out = people(0, 1800), people(1, 200)
    honest = nearness(beside(training, held_out, people(2, 1500)))
    noise = 0.1 * np.random.default_rng(4).normal(size=training.shape) * [1, 1, 0, 0]
    memorised = nearness(beside(training, held_out, training + noise))
    assert honest is not None and memorised is not None
    assert abs(honest.share - 0.5) < SURELY_WRONG * honest.se
    assert memorised.share - 0.5 > CAUGHT * memorised.se and memorised.share > 0.75
    assert not memorised.passes and LARGEST_SHARE == 0.52


def test_the_larger_lot_does_not_win_by_its_number() -> None:
    random = np.random.default_rng(5)
    training, held_out, drawn = (random.normal(size=(n, 2)) for n in (2000, 400, 2000))
    found = nearness(numbers(training, held_out, drawn))
    assert found is not None and (found.training, found.held_out) == (2000, 400)
    assert abs(found.share - 0.5) < SURELY_WRONG * found.se
    # The mutant, the plain share, is what the larger lot wins by.
    plain = found.share * 2000 / (found.share * 2000 + (1 - found.share) * 400)
    assert plain - 0.5 > 10 * found.se


@pytest.mark.parametrize(("kept", "grid"), [(20, 0.0), (60, 0.0), (60, 0.4)])
def test_the_share_is_a_half_and_its_error_holds_where_draws_share_a_closest_row(
    kept: int, grid: float
) -> None:
    random, scores, naive = np.random.default_rng(6), [], []
    for _ in range(300):
        sides = [random.normal(size=(n, 3)) for n in (kept, 20, 600)]
        if grid:  # full of ties between different rows
            sides = [grid * np.rint(side / grid) for side in sides]
        found = nearness(numbers(*sides))
        assert found is not None
        scores.append((found.share - 0.5) / found.se)
        naive.append((found.share - 0.5) / (0.5 / math.sqrt(600)))

    def too_wide(z: list[float]) -> float:
        """Σ z² as a normal score, 0 where z are standard normal."""
        return (np.square(z).sum() - len(z)) / math.sqrt(2 * len(z))

    assert abs(np.mean(scores)) * math.sqrt(300) < SURELY_WRONG
    assert abs(too_wide(scores)) < SURELY_WRONG
    assert too_wide(naive) > CAUGHT  # the mutant: as if every draw stood alone


def test_rows_that_many_share_single_nobody_out() -> None:
    random = np.random.default_rng(7)
    # A third of all rows are one and the same, and fit keeps these on the side of training.
    training, held_out, drawn = (random.normal(size=(n, 2)) for n in (300, 300, 600))
    same = np.zeros((150, 2))
    found = nearness(
        numbers(np.concatenate([training, same]), held_out, np.concatenate([drawn, same, same]))
    )
    assert found is not None and found.held_out == 300
    assert abs(found.share - 0.5) < SURELY_WRONG * found.se
    nobody = report(numbers(same, np.ones((60, 2)), drawn))
    assert nobody.nearness is None and NOBODY in nobody.notes


def test_ties_are_shared() -> None:
    training, held_out, drawn = np.array([[-1.0]]), np.array([[1.0]]), np.array([[0.0], [-2.0]])
    found = nearness(numbers(training, held_out, drawn))
    assert found is not None and (found.share, found.se) == (0.75, pytest.approx(0.25))


def test_numbers_of_any_size_have_distances() -> None:
    training = np.array([[1e300, 1e-300], [-1e300, 3e-300], [1e299, 2e-300]])
    found = nearness(numbers(training, -training, training))
    assert found is not None and found.share == 1.0


# ---- copies -------------------------------------------------------------------------------------


def test_copies_are_rows_that_agree_in_every_cell() -> None:
    training, drawn = people(0, 50), people(1, 30)
    drawn[:7] = training[10:17]
    drawn[7] = training[20] + [0.0, 0.0, 0.0, 1 - 2 * training[20, 3]]
    training[25, 1] = np.nan  # drawn rows have no gaps, so that it can have no copy
    found = copies(beside(training, people(2, 10), drawn))
    assert (found.found, found.rows, found.expected) == (7, 30, 0.0)


def test_as_many_copies_are_expected_as_new_real_rows_have() -> None:
    random = np.random.default_rng(8)
    excess = []
    for _ in range(200):
        training, new = (random.geometric(0.05, size=(n, 1)).astype(float) for n in (40, 30))
        found = copies(numbers(training, new, new))
        # One row fewer is compared with when a training row is held against the others.
        one_fewer = np.isin(new, training[1:]).sum()
        excess.append(found.expected - one_fewer)
    assert abs(np.mean(excess)) < SURELY_WRONG * np.std(excess) / math.sqrt(len(excess))
    assert found.expected > 5


# ---- the report ---------------------------------------------------------------------------------


def test_a_report_is_a_function_of_the_rows_and_the_seed(monkeypatch) -> None:
    monkeypatch.setattr(nearness_module, "MOST_ROWS", 60)
    sides = people(0, 200), people(1, 120), people(2, 200)
    found = report(beside(*sides, seed=1), target="size")
    assert report(beside(*sides, seed=1), target="size") == found
    assert report(beside(*sides, seed=2), target="size").nearness != found.nearness


def test_every_report_says_that_it_guarantees_nothing() -> None:
    found = report(beside(people(0, 200), people(1, 100), people(2, 200)), target="sex")
    page = found.markdown()
    assert NO_GUARANTEE in page and found.document()["privacy"] == NO_GUARANTEE
    assert found.sentences()[-1] == NO_GUARANTEE
    for part in ("utility, AUROC", "utility, macro-F1", "detection", "nearness", "copies"):
        assert f"| {part} |" in page and any(s.startswith(part) for s in found.sentences())
    assert report(beside(*[people(i, 60) for i in range(3)])).notes[0] == NO_TARGET


def test_progress_runs_from_nothing_to_all() -> None:
    parts: list[float] = []
    report(beside(*[people(i, 60) for i in range(3)]), target="sex", on_part=parts.append)
    assert parts == sorted(parts) and parts[-1] == 1.0


def test_what_cannot_be_compared_is_refused() -> None:
    rows, none = Rows(people(0, 5), NAMES), Rows(np.empty((0, 4)), NAMES)
    with pytest.raises(InputError, match="expected training rows of the model"):
        trial(SCHEMA, none, rows, rows)
    with pytest.raises(InputError, match="expected rows that the model was not trained on"):
        trial(SCHEMA, rows, none, rows)
    with pytest.raises(InputError, match="expected drawn rows, but none"):
        trial(SCHEMA, rows, rows, none)
    with pytest.raises(InputError, match="'shoes' came; correct the name"):
        utility(beside(people(0, 5), people(1, 5), people(2, 5)), "shoes")
    with pytest.raises(InputError, match="expected columns beside 'x0'"):
        utility(numbers(*[np.ones((4, 1))] * 3), "x0")
    images = Schema((2, 2), (Column("cell", "real"),), gaps=False)
    with pytest.raises(InputError, match="expected the rows of a table"):
        trial(images, *[Rows(np.zeros((3, 2, 2)))] * 3)


# ---- of a fitted model, and on the command line --------------------------------------------------


def table(seed: int, rows: int) -> pa.Table:
    height, weight, size, sex = people(seed, rows).T
    words = np.array(["f", "m"])[sex.astype(int)]
    return pa.table({"height": height.round(1), "weight": weight, "size": size, "sex": words})


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthesis")
    csv.write_csv(table(0, 200), folder / "people.csv")
    csv.write_csv(table(5, 100), folder / "others.csv")
    unveil.fit(folder / "people.csv", latent=1, epochs=1).save(folder / "m")
    return folder / "m"


def test_training_rows_and_held_out_ones_are_told_apart_by_digest(model: Path) -> None:
    fitted = unveil.load(model)
    drawn = fitted.sample(300, seed=1)
    both = pa.concat_tables([table(0, 200), table(5, 100)])
    found = fitted.sample_report(drawn, both, target="sex")
    trained = len(fitted.train_digests)
    assert (found.training, found.held_out, found.drawn) == (trained, 300 - trained, 300)
    with pytest.raises(InputError, match="expected training rows"):
        fitted.sample_report(drawn, table(5, 100))
    alone = both.take(_trained_on(fitted, both))
    with pytest.raises(InputError, match="expected rows that the model was not trained on"):
        fitted.sample_report(drawn, alone)
    memorised = fitted.sample_report(alone, both)
    assert memorised.copies.found == trained and memorised.nearness is not None
    assert memorised.nearness.share == 1.0 and "does not pass" in memorised.markdown()


def _trained_on(fitted: unveil.Fitted, rows: pa.Table) -> NDArray[np.intp]:
    """Which rows the model was trained on, digest by digest."""
    keys = digests_of(fitted.rows(rows), fitted.covariates).tolist()
    known = fitted.train_digests.tolist()
    return np.array([place for place, key in enumerate(keys) if key in known])


def test_a_conditional_model_has_no_report(model: Path) -> None:
    by_site = infer_covariates(Rows(np.eye(2), given={"site": np.array(["a", "b"])}))
    conditional = replace(unveil.load(model), covariates=by_site)
    with pytest.raises(InputError, match="is conditioned on site"):
        conditional.sample_report(table(1, 5), table(0, 200))


def test_sample_writes_rows_and_a_report(model: Path, tmp_path: Path, capsys) -> None:
    out, page, told = tmp_path / "new.csv", tmp_path / "r.md", tmp_path / "told.json"
    data = str(model.parent / "people.csv")
    verb = ["sample", str(model), "-n", "200", "-o", str(out), "--data", data]
    asked = ["--target", "sex", "--report", str(page), "--json", str(told)]
    assert run([*verb, *asked]) == 0
    said = capsys.readouterr().out
    assert NO_GUARANTEE in said and "utility, AUROC" in said and str(page) in said
    assert page.read_text().startswith("# 200 drawn rows") and len(csv.read_csv(out)) == 200
    document = json.loads(told.read_text())["report"]
    assert document["utility"]["target"] == "sex" and document["privacy"] == NO_GUARANTEE
    written = tmp_path / "r.json"
    assert run([*verb, "--target", "sex", "--report", str(written), "--quiet"]) == 0
    assert json.loads(written.read_text()) == {"format_version": 1, **document}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["--report", "r.md"], "expected --data DATA with --report"),
        (["--data", "DATA"], "expected --report FILE with --data"),
        (["--target", "sex"], "expected --report FILE with --data and --target"),
        (["--report", "r.html", "--data", "DATA"], "ends in one of .md, .json"),
        (["--report", "r.md", "--data", "DATA", "--target", "x"], "'x' came; correct the name"),
        (["--report", "r.md", "--data", "DATA", "--where", "sex=f"], "without conditions"),
        (["--report", "r.md", "--data", "OTHERS"], "expected training rows of the model"),
        (["--report", "r.md", "--data", "nowhere.csv"], "there is none at nowhere.csv"),
    ],
)
def test_bad_requests_get_a_sentence_and_nothing_is_written(
    model: Path, tmp_path: Path, monkeypatch, capsys, asked: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"DATA": model.parent / "people.csv", "OTHERS": model.parent / "others.csv"}
    tokens = [str(files.get(token, token)) for token in asked]
    assert run(["sample", str(model), "-n", "50", "-o", "new.csv", *tokens]) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []
