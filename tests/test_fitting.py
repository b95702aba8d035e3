"""From data to a fitted model: what was asked for, what was kept, and whose numbers they are."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import unveil
from unveil import fitting
from unveil.data.encode import digests
from unveil.data.read import Rows, read
from unveil.errors import InputError
from unveil.evidence.importance import importance
from unveil.fitted import MODEL_FILES, load
from unveil.fitting import Plan, finish, fit, train_planned
from unveil.request import Request

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(120, 2)) @ RNG.normal(size=(2, 5)) + 0.3 * RNG.normal(size=(120, 5))


def plan(data: object, *, device: str = "auto", **asked: object) -> Plan:
    return fitting.plan(data, Request(**asked), device=device)


@pytest.fixture(scope="module")
def fitted() -> unveil.Fitted:
    return fit("digits", latent=4, epochs=3, seed=1)


def test_a_fit_is_a_function_of_data_and_seed() -> None:
    first, again, other = (fit(TABLE, epochs=2, seed=seed) for seed in (0, 0, 1))
    weights = [torch.cat([p.flatten() for p in f.vae.parameters()]) for f in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_fitting_moves_no_global_randomness() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]
    fit(TABLE, epochs=1).sample(3)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])


def test_a_saved_model_answers_as_the_fitted_one(fitted: unveil.Fitted, tmp_path) -> None:
    fitted.save(tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert loaded.evaluation == fitted.evaluation
    assert loaded.evaluate("digits", draws=5, budget=0.01) == fitted.evaluate(
        "digits", draws=5, budget=0.01
    )
    assert np.array_equal(loaded.encode("digits")[0], fitted.encode("digits")[0])
    assert np.array_equal(loaded.sample(5, seed=2), fitted.sample(5, seed=2))
    assert loaded.history == fitted.history
    assert repr(loaded) == repr(fitted)


def test_a_model_that_is_saved_again_says_still_what_it_was_fitted_by(
    fitted: unveil.Fitted, tmp_path
) -> None:
    elsewhere = {"unveil": "0.0.1", "torch": "1.0", "threads": 99}
    replace(fitted, made_by=elsewhere).save(tmp_path / "once")
    load(tmp_path / "once").save(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "model.json").read_text())
    assert {name: again[name] for name in elsewhere} == elsewhere


def test_the_saved_folder_is_what_the_contract_says(fitted: unveil.Fitted, tmp_path) -> None:
    fitted.save(tmp_path / "m")
    written = {path.name for path in (tmp_path / "m").iterdir()}
    assert written == {*MODEL_FILES, "model.json", "README.md"}
    evaluation = json.loads((tmp_path / "m" / "evaluation.json").read_text())
    assert {
        "rows", "dims", "split", "elbo", "rate", "distortion", "lower", "upper", "bits_per_dim",
        "active_units", "kl_per_unit", "khat", "ess", "simulated", "baselines",
    } <= set(evaluation)  # fmt: skip
    assert {
        "value",
        "guarantee",
        "delta",
        "mc_se",
        "data_se",
        "method",
        "settings",
        "warnings",
    } <= set(evaluation["lower"])
    assert evaluation["upper"]["value"] is None
    assert evaluation["upper"]["reason"]
    lines = [
        json.loads(line) for line in (tmp_path / "m" / "history.jsonl").read_text().splitlines()
    ]
    assert {
        "step", "epoch", "seconds", "elbo", "rate", "distortion", "active_units", "learning_rate",
    } <= set(lines[-1])  # fmt: skip


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_flipped_byte_is_found_and_named(fitted: unveil.Fitted, tmp_path, name: str) -> None:
    fitted.save(tmp_path / "m")
    path = tmp_path / "m" / name
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"{name} is not the file that was saved"):
        load(tmp_path / "m")


@pytest.mark.parametrize("name", [*MODEL_FILES, "model.json"])
def test_a_missing_file_is_named(fitted: unveil.Fitted, tmp_path, name: str) -> None:
    fitted.save(tmp_path / "m")
    (tmp_path / "m" / name).unlink()
    with pytest.raises(InputError, match=name):
        load(tmp_path / "m")


def test_a_newer_format_is_refused(fitted: unveil.Fitted, tmp_path) -> None:
    fitted.save(tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(InputError, match=r"expected a model of format_version 4 .* but 99 came"):
        load(tmp_path / "m")


def test_a_changed_setting_is_found(fitted: unveil.Fitted, tmp_path) -> None:
    fitted.save(tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 2'))
    with pytest.raises(InputError, match=r"model\.json is not the file that was saved"):
        load(tmp_path / "m")


def test_a_model_document_with_a_hole_is_refused(fitted: unveil.Fitted, tmp_path) -> None:
    fitted.save(tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    document = json.loads(path.read_text())
    del document["sha256"]["schema.json"]
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"as unveil wrote them|not the file"):
        load(tmp_path / "m")


def test_rate_and_distortion_make_the_elbo(fitted: unveil.Fitted) -> None:
    e = fitted.evaluation
    assert e.elbo == pytest.approx(-(e.rate + e.distortion), abs=1e-9)
    assert e.kl_per_unit is not None
    assert sum(e.kl_per_unit) == pytest.approx(e.rate, abs=1e-9)
    assert e.lower.value is not None and e.lower.value > e.elbo


def test_bits_per_dimension_are_the_lower_bound_in_other_units(fitted: unveil.Fitted) -> None:
    e = fitted.evaluation
    assert e.lower.value is not None
    assert e.bits_per_dim == pytest.approx(-e.lower.value / 64 / np.log(2))
    assert fit(TABLE, epochs=1).evaluation.bits_per_dim is None  # a density has no bits


def test_training_rows_are_judged_by_the_held_out_ones(fitted: unveil.Fitted) -> None:
    e = fitted.evaluate("digits", draws=2, budget=0.01)
    assert (e.rows, e.split) == (90, "held-out rows (they chose nothing)")


def test_unseen_rows_are_told_apart(fitted: unveil.Fitted) -> None:
    rows = read("digits").take(slice(0, 50))
    new = Rows(17 - np.maximum(rows.values[:20], 1), rows.names, {}, "new")
    both = Rows(np.concatenate([rows.values, new.values]), (), {}, "both")
    assert fitted.evaluate(new, draws=2, budget=0.01).split == "unseen rows"
    mixed = fitted.evaluate(both, draws=2, budget=0.01)
    assert (mixed.rows, mixed.split) == (20, "unseen rows (50 seen in fitting left out)")


def test_rows_that_were_all_trained_on_are_refused(fitted: unveil.Fitted) -> None:
    rows = read("digits")
    trained = {tuple(key) for key in fitted.train_digests.tolist()}
    index = [i for i, key in enumerate(digests(rows.values).tolist()) if tuple(key) in trained]
    with pytest.raises(InputError, match="every one was; give other"):
        fitted.evaluate(rows.take(index[:5]))


def test_equal_rows_fall_on_one_side() -> None:
    planned = plan(np.repeat(TABLE, 2, axis=0))
    training = planned.rows.take(planned.training)
    sides = [{row.tobytes() for row in side.values} for side in (training, planned.held_out)]
    assert not sides[0] & sides[1]


def test_units_of_the_data_do_not_move_the_log_likelihood() -> None:
    """log p is per unit of the data: a rescaled table's differs by Σ log of the factors."""
    factors = np.array([1.0, 1e3, 1e-3, 7.0, 2.0])
    plain, scaled = (fit(x, epochs=3, seed=0) for x in (TABLE, TABLE * factors + 5))
    for quantity in ("elbo", "distortion"):
        jacobian = np.log(factors).sum() * (1 if quantity == "distortion" else -1)
        moved = getattr(scaled.evaluation, quantity) - getattr(plain.evaluation, quantity)
        # Rescaled rows are other rows with noise of their own, so the split is another as well.
        assert abs(moved - jacobian) < 1.5


def test_standardising_moves_nothing_beyond_rounding() -> None:
    """The same x in model units from two tables in different units: exactly the Jacobian apart."""
    factors = torch.tensor([1.0, 1e3, 1e-3, 7.0, 2.0], dtype=torch.float64)
    x = torch.from_numpy(TABLE).float()
    log_evidence = []
    for unit in (torch.ones(5, dtype=torch.float64), factors):
        family = unveil.Gaussian(5, unit=unit)
        decoder, encoder = torch.nn.Linear(2, 5), torch.nn.Linear(5, 4)
        for layer in (decoder, encoder):
            torch.nn.init.constant_(layer.weight, 0.1)
            torch.nn.init.constant_(layer.bias, 0.1)
        vae = unveil.VAE(
            prior=unveil.StandardNormal(2),
            likelihood=unveil.Conditional(decoder, family),
            posterior=unveil.Conditional(encoder, unveil.DiagonalGaussian(2)),
        )
        log_evidence.append(importance(vae, x, num_samples=20).log_evidence)
    shift = log_evidence[1] - log_evidence[0] + factors.log().sum()
    assert shift.abs().max() < 1e-5


def test_the_dtype_of_the_data_moves_nothing() -> None:
    pixels = read("digits").values[:200]
    kinds = [pixels.astype(dtype) for dtype in ("uint8", "int64", "float32", "float64")]
    results = [fit(kind, latent=2, epochs=2).evaluation.elbo for kind in kinds]
    assert results == pytest.approx([results[0]] * 4, abs=1e-3)


def test_digits_beat_their_baselines_soon() -> None:
    e = fit("digits", latent=8, epochs=120).evaluation
    assert e.elbo > max(v for v in e.baselines.values() if v is not None)


def test_grey_levels_are_binarised_once_for_evaluation_and_afresh_for_training() -> None:
    from unveil.feed import to_source, to_tensor

    planned = plan("digits", likelihood="bernoulli")
    rows = planned.held_out
    once, again = (to_tensor(planned.schema, rows, seed=0) for _ in range(2))
    assert torch.equal(once, again)
    assert torch.equal(to_tensor(planned.schema, rows.take([7, 3]), seed=0), once[[7, 3]])
    assert set(once.unique().tolist()) == {0.0, 1.0}
    source, index = to_source(planned.schema, rows), torch.arange(len(rows))
    batches = [source.batch(index, torch.Generator().manual_seed(s)) for s in range(200)]
    assert not torch.equal(batches[0], batches[1])
    grey = torch.from_numpy(rows.values / 16).float()
    z = (torch.stack(batches).mean(0) - grey) / torch.sqrt(grey * (1 - grey) / 200 + 1e-12)
    assert z[(grey > 0) & (grey < 1)].abs().max() < 5
    inverted = (1 - torch.stack(batches)).mean(0)  # the mutant: zeros for ones
    mutant = (inverted - grey) / torch.sqrt(grey * (1 - grey) / 200 + 1e-12)
    assert mutant[(grey > 0) & (grey < 1)].abs().max() > 20


def test_missing_cells_are_fitted_evaluated_and_decoded() -> None:
    holes = TABLE.copy()
    holes[RNG.random(TABLE.shape) < 0.2] = np.nan
    fitted = fit(holes, epochs=3)
    assert fitted.schema.gaps
    assert np.isfinite(fitted.evaluation.elbo)
    assert fitted.evaluation.baselines["ppca"] is None
    assert np.isfinite(fitted.reconstruct(holes)).all()


def test_rows_that_show_nothing_are_not_trained_on() -> None:
    table = np.concatenate([TABLE, np.full((7, 5), np.nan)])
    planned = plan(table, epochs=1)
    assert len(planned.training) + len(planned.held_out) == len(TABLE)


def test_a_single_row_says_nothing_of_collapse() -> None:
    fitted = fit(TABLE, epochs=1)
    assert not any(
        "latent" in warning for warning in fitted.evaluate(TABLE[:1] + 9, budget=0.01).warnings
    )


def test_a_spread_for_zeros_and_ones_is_refused() -> None:
    with pytest.raises(
        InputError, match="expected no options for the likelihood 'bernoulli', but scale"
    ):
        plan((TABLE > 0).astype(float), likelihood="bernoulli:scale=cell")


def test_a_constant_column_is_set_aside_and_put_back() -> None:
    table = np.column_stack([TABLE, np.full(len(TABLE), 3.5)])
    planned = plan(table, epochs=1)
    assert planned.notes == ("x5: one value only, so set aside and put back in what comes out",)
    assert (finish(*train_planned(planned)).sample(4)[:, 5] == 3.5).all()


def test_a_density_over_a_grid_that_was_asked_for_is_noted() -> None:
    prices = np.round(np.exp(TABLE), 1) + 0.1
    (note,) = plan(prices, likelihood="log_normal", epochs=1).notes
    assert note.startswith("x0, x1, x2, x3, x4: values a step apart, read as having a density")
    assert plan(np.exp(TABLE), likelihood="log_normal", epochs=1).notes == ()


def test_mixed_columns_are_fitted_together() -> None:
    whole = RNG.integers(0, 30, size=(120, 1))
    coin = RNG.integers(0, 2, size=(120, 1))
    fitted = fit(np.column_stack([TABLE, whole, coin]), epochs=2)
    drawn = fitted.sample(50)
    assert set(np.unique(drawn[:, 6])) <= {0.0, 1.0}
    assert np.array_equal(drawn[:, 5], np.round(drawn[:, 5]))
    assert np.isfinite(fitted.evaluation.elbo)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"latent": 0}, "expected --latent to be above 0 and finite, but 0 came"),
        ({"epochs": 0}, "expected --epochs to be above 0"),
        ({"max_minutes": -1.0}, "expected --max-minutes to be above 0"),
        ({"validation": 1.5}, "expected a fraction of rows between 0 and 1"),
        ({"likelihood": "poison"}, "expected the likelihood to be one of auto, bernoulli"),
        ({"likelihood": "poisson"}, "expected a value on the grid of step 1 from 0 on"),
        ({"likelihood": "log_normal"}, "expected a number above 0 in column 'x0'"),
        ({"likelihood": "auto:real=poisson"}, "choose among gaussian, student_t"),
        ({"likelihood": "auto:reel=gaussian"}, "expected auto to be told a kind of column"),
        ({"likelihood": "gaussian:scale=x"}, "expected the likelihood's scale to be one of column"),
        ({"likelihood": "gaussian:size=2"}, "expected the options scale for the likelihood"),
        ({"likelihood": "bernoulli"}, "expected values between two known ends"),
        ({"likelihood": "discretized_logistic"}, "for the discretized_logistic likelihood"),
        ({"objective": "elb"}, "expected the objective to be one of elbo, "),
        ({"objective": "elbo:warmup_steps=-1"}, "expected warmup_steps of at least 0"),
        ({"objective": "iwae:num_samples=0"}, "expected num_samples of at least 1"),
        ({"objective": "iwae:k=5"}, "expected the options num_samples for the objective 'iwae'"),
        ({"prior": "vamp:components=1000"}, "expected at least 1000 distinct rows"),
        ({"prior": "vamp", "posterior": "flow"}, "expected a posterior that is a diagonal normal"),
        ({"prior": "conditioned"}, "name their columns with --given"),
        ({"levels": 2, "posterior": "full"}, "expected a diagonal posterior on each of 2 levels"),
        ({"levels": 2, "prior": "aggregate"}, "expected one level of latents"),
        ({"levels": 9, "latent": 3}, "expected at most one level for each of 3 latents"),
        ({"levels": 0}, "expected --levels to be above 0"),
        ({"network": "conv"}, "expected images of shape"),
        ({"network": "mlp:width=0"}, "expected networks of width and depth 1 or more"),
        ({"network": "conv:channels=a"}, "expected channels such as 32/64"),
        ({"given": ("nowhere",)}, "expected .*nowhere"),
        ({"objective": "iwae:5"}, "expected options such as name:key=value"),
        ({"device": "tpu"}, "expected --device to be auto, cpu or cuda, but 'tpu' came"),
    ],
)
def test_settings_that_cannot_be_get_a_sentence(options, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        plan(TABLE, **options)


def test_a_density_over_whole_numbers_is_refused() -> None:
    with pytest.raises(InputError, match="for the gaussian likelihood, but column"):
        plan(np.round(TABLE * 10), likelihood="gaussian")


def test_an_interrupted_fit_resumes_to_the_same_model(tmp_path) -> None:
    planned = plan(TABLE, epochs=6)
    _, whole, history = train_planned(planned)
    calls = iter(range(100))
    *_, part = train_planned(planned, checkpoints=tmp_path, should_stop=lambda: next(calls) == 3)
    assert part.ending == "interrupted"
    _, resumed, again = train_planned(planned, checkpoints=tmp_path)
    for ours, theirs in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    timeless = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in trained.history]
        for trained in (history, again)
    ]
    assert timeless[0] == timeless[1]


def test_resuming_obeys_the_recorded_recipe(tmp_path) -> None:
    planned = plan(TABLE, epochs=2)
    slow = replace(planned.settings.recipe, learning_rate=1e-9)
    train_planned(
        replace(planned, settings=replace(planned.settings, recipe=slow)), checkpoints=tmp_path
    )
    carried_out, *_ = train_planned(planned, checkpoints=tmp_path)
    assert carried_out.settings.recipe == slow


def test_another_run_is_not_resumed(tmp_path) -> None:
    train_planned(plan(TABLE, epochs=1), checkpoints=tmp_path)
    with pytest.raises(InputError, match="its epochs was 1 and 2 came"):
        train_planned(plan(TABLE, epochs=2), checkpoints=tmp_path)
    with pytest.raises(InputError, match="its fingerprint was"):
        train_planned(plan(TABLE + 1, epochs=1), checkpoints=tmp_path)
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(InputError, match="it is not as unveil wrote it"):
        train_planned(plan(TABLE, epochs=1), checkpoints=tmp_path)


def test_a_run_by_the_clock_ends_with_it_and_is_judged_at_its_end() -> None:
    planned = plan(TABLE, max_minutes=0.03)
    patient = replace(planned.settings.recipe, patience=1.0)
    planned = replace(planned, settings=replace(planned.settings, recipe=patient))
    *_, trained = train_planned(planned)
    assert trained.ending == "finished"
    assert trained.history[-1]["fraction"] == 1
    assert 1.8 <= trained.history[-1]["seconds"] < 20


def test_a_cell_that_training_never_saw_is_no_trouble() -> None:
    table = np.column_stack([TABLE, np.full(len(TABLE), np.nan)])
    split = plan(table[:, :5], epochs=1)
    keys = {row.tobytes() for row in split.held_out.values}
    for i, row in enumerate(table):
        if row[:5].tobytes() in keys:
            table[i, 5] = i
    fitted = fit(table, epochs=1, seed=0)
    assert np.isfinite(fitted.evaluation.elbo)


def test_too_long_a_warm_up_is_refused() -> None:
    with pytest.raises(InputError, match="expected warmup_steps below the 1 steps of the run"):
        plan(TABLE, objective="elbo:warmup_steps=500", epochs=1)
    with pytest.raises(InputError, match=r"1000\.0"):
        plan(TABLE, objective="iwae:num_samples=1e3")


def test_sizes_that_are_no_numbers_are_refused() -> None:
    """Apart from here, where annotations are checked before."""
    program = """
from unveil.request import Request
for asked in ({"latent": "two"}, {"epochs": 1.5}, {"levels": True}, {"max_minutes": "1"}):
    try:
        Request(**asked)
    except ValueError as error:
        print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert said.stdout.splitlines() == [
        "expected --latent to be a whole number, but 'two' came; give another",
        "expected --epochs to be a whole number, but 1.5 came; give another",
        "expected --levels to be a whole number, but True came; give another",
        "expected --max-minutes to be a number, but '1' came; give another",
    ]
