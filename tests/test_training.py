"""The loop: resuming, stopping, choosing weights, and refusing numbers that are not numbers."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unveil
from oracles import nonlinear_vae, normal, seeded, shake
from unveil.objectives.base import Objective
from unveil.step import Batch, Recipe, begin, can_compile, eager_step
from unveil.storage import Checkpoints
from unveil.training import (
    NonFiniteError,
    Progress,
    Trained,
    held_out_figures,
    learning_rate,
    train,
)

X = (normal(80, 100, 3) @ normal(81, 3, 3)).float()
HELD_OUT = (normal(82, 40, 3) @ normal(81, 3, 3)).float()
RECIPE = Recipe(batch_size=32, learning_rate=1e-2, learning_rate_warmup=5, patience=1.0)
STEPS_PER_EPOCH = 100 // 32


def vae() -> unveil.VAE:
    return nonlinear_vae(unveil.Gaussian(3), latents=1, width=8)


def bits(tensors: dict[str, Tensor]) -> dict[str, bytes]:
    return {name: t.detach().numpy().tobytes() for name, t in tensors.items()}


def weights(model: nn.Module) -> dict[str, bytes]:
    return bits(dict(model.named_parameters()))


def state_bits(trained: Trained) -> tuple[dict[str, bytes], ...]:
    state = trained.state
    groups = (state.parameters, state.first_moment, state.second_moment, {"step": state.step})
    return tuple(bits(group) for group in groups)


def timeless(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in history]


def after(steps: int) -> Callable[[], bool]:
    """A ``should_stop`` that lets so many steps pass."""
    left = iter(range(steps))
    return lambda: next(left, None) is None


# ---- resuming ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 7, 14, 17], ids=lambda n: f"after {n} steps")
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path: Path, stop: int) -> None:
    settings = {"held_out": HELD_OUT, "recipe": RECIPE, "epochs": 6, "seed": 3}
    whole_vae, vae_ = vae(), vae()
    whole = train(whole_vae, X, **settings)
    begun = train(vae_, X, **settings, checkpoints=Checkpoints(tmp_path), should_stop=after(stop))
    assert (begun.ending, int(begun.state.step)) == ("interrupted", stop)
    shake(vae_, seed=9)  # nothing but the saved state may carry over
    resumed = train(vae_, X, **settings, checkpoints=Checkpoints(tmp_path))
    assert resumed.ending == whole.ending == "finished"
    assert state_bits(resumed) == state_bits(whole)
    assert weights(vae_) == weights(whole_vae)
    assert timeless(resumed.history) == timeless(whole.history)


def test_the_best_weights_survive_a_resume(tmp_path: Path) -> None:
    """They were best before the stop and the last ones are worse: overfitting, on purpose."""
    settings = {"held_out": HELD_OUT[:8], "recipe": OVERFIT, "epochs": 120}
    whole_vae, vae_ = vae(), vae()
    whole = train(whole_vae, X[:8], **settings)
    best = max(whole.history, key=lambda line: line["objective"])
    assert best["step"] < 90
    train(vae_, X[:8], **settings, checkpoints=Checkpoints(tmp_path), should_stop=after(100))
    resumed = train(vae_, X[:8], **settings, checkpoints=Checkpoints(tmp_path))
    assert weights(vae_) == weights(whole_vae)
    assert weights(vae_) != bits(resumed.state.parameters)


def test_resuming_what_is_finished_changes_nothing(tmp_path: Path) -> None:
    first_vae, second_vae = vae(), vae()
    first = train(first_vae, X, recipe=RECIPE, epochs=2, checkpoints=Checkpoints(tmp_path))
    second = train(second_vae, X, recipe=RECIPE, epochs=2, checkpoints=Checkpoints(tmp_path))
    assert state_bits(first) == state_bits(second)
    assert weights(first_vae) == weights(second_vae)
    assert first.history == second.history


def test_training_is_a_function_of_its_seed_and_moves_no_global_state() -> None:
    models = [vae() for _ in range(3)]
    before = torch.get_rng_state()
    a, b, other = (
        state_bits(train(model, X, held_out=HELD_OUT, recipe=RECIPE, epochs=2, seed=seed))
        for model, seed in zip(models, (0, 0, 1), strict=True)
    )
    assert a == b
    assert a != other
    assert torch.equal(torch.get_rng_state(), before)


# ---- the step ----------------------------------------------------------------------------------


def linear_vae() -> unveil.VAE:
    model = unveil.VAE(
        prior=unveil.StandardNormal(1),
        likelihood=unveil.Conditional(nn.Linear(1, 3), unveil.Gaussian(3)),
        posterior=unveil.Conditional(nn.Linear(3, 2), unveil.DiagonalGaussian(1)),
    )
    shake(model, seed=7)
    return model


def steps_taken(make, objective: Objective, number: int) -> tuple[dict[str, Tensor], list[float]]:
    """The parameters after some steps on one batch, and the objective at each."""
    model = linear_vae()
    state, step, values = begin(model), make(model, objective, RECIPE), []
    for i in range(number):
        noise, batch = normal(90 + i, objective.num_samples, 32, 1).float(), Batch(X[:32], None)
        state, info = step(state, batch, noise, torch.tensor(float(i)), torch.tensor(1e-2))
        values.append(float(info.value))
        assert info.finite
    assert float(state.step) == number
    return state.parameters, values


# In a process of its own: the compiler cannot read through the annotation checks that pytest adds.
COMPARE = """
import torch
from test_training import steps_taken, unveil
from unveil.step import compiled_step, eager_step

objective = unveil.IWAE(num_samples=2)
eager, eager_values = steps_taken(eager_step, objective, 5)
compiled, compiled_values = steps_taken(compiled_step, objective, 5)
torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)
torch.testing.assert_close(compiled_values, eager_values, rtol=1e-5, atol=1e-5)
print("equal")
"""


def test_the_compiled_step_is_the_eager_one_to_rounding() -> None:
    if not can_compile():
        assert not any(shutil.which(name) for name in ("g++", "clang++", "c++"))
        return
    ran = subprocess.run(
        [sys.executable, "-c", COMPARE],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout == "equal\n", ran.stderr


def test_one_step_is_adamw_s() -> None:
    """Against torch.optim.AdamW, gradients clipped by their total norm, for several steps."""
    objective, recipe = unveil.ELBO(warmup_steps=0), Recipe(clip_norm=0.5, weight_decay=0.1)
    model, peer = vae(), vae()
    optimiser = torch.optim.AdamW(peer.parameters(), lr=1e-2, weight_decay=0.1)
    state, step = begin(model), eager_step(model, objective, recipe)
    for i in range(4):
        noise, clock = normal(95 + i, 1, 32, 1).float(), torch.tensor(0.0)
        batch = Batch(X[:32], None)
        state, info = step(state, batch, noise, clock, torch.tensor(1e-2))
        optimiser.zero_grad()
        (-objective(peer, X[:32], noise, clock).mean()).backward()
        norm = nn.utils.clip_grad_norm_(peer.parameters(), 0.5)
        optimiser.step()
        assert norm > 0.5
        torch.testing.assert_close(info.gradient_norm, norm)
    torch.testing.assert_close(
        state.parameters, {k: p.detach() for k, p in peer.named_parameters()}
    )


def test_a_parameter_that_the_objective_does_not_use_stays_as_it_is() -> None:
    class Idle(nn.Linear):
        def __init__(self) -> None:
            super().__init__(1, 3)
            self.idle = nn.Parameter(torch.ones(2))

    model = unveil.VAE(
        prior=unveil.StandardNormal(1),
        likelihood=unveil.Conditional(Idle(), unveil.Gaussian(3)),
        posterior=unveil.Conditional(nn.Linear(3, 2), unveil.DiagonalGaussian(1)),
    )
    recipe = Recipe(batch_size=32, weight_decay=0.0)
    assert train(model, X, recipe=recipe, epochs=2).ending == "finished"
    assert model.p_x_given_z.network.idle.tolist() == [1.0, 1.0]


def test_the_learning_rate_rises_in_a_line_and_falls_to_zero() -> None:
    recipe = Recipe(learning_rate=1.0, learning_rate_warmup=10)
    rates = [learning_rate(0.0, step, 1000, recipe) for step in (0, 4, 9, 50)]
    assert rates == [0.1, 0.5, 1.0, 1.0]
    assert learning_rate(0.5, 50, 1000, recipe) == pytest.approx(0.5)
    assert learning_rate(1.0, 50, 1000, recipe) == pytest.approx(0.0)


def test_the_learning_rate_has_risen_after_a_tenth_of_a_short_run() -> None:
    recipe = Recipe(learning_rate=1.0, learning_rate_warmup=1000)
    assert learning_rate(0.0, 4, 50, recipe) == 1.0


# ---- numbers that are not numbers --------------------------------------------------------------


def poisoned() -> Tensor:
    x = X.clone()
    x[57] = 1e30
    return x


def test_a_poisoned_row_stops_the_run_and_is_named_with_its_term(tmp_path: Path) -> None:
    with pytest.raises(
        NonFiniteError, match=r"expected a finite log p\(x\|z\) at step \d+, got .* rows 57;"
    ):
        train(vae(), poisoned(), recipe=RECIPE, epochs=3, checkpoints=Checkpoints(tmp_path))


def test_the_state_before_the_poisoned_step_is_kept(tmp_path: Path) -> None:
    stopped_vae, sound_vae = vae(), vae()
    with pytest.raises(NonFiniteError):
        train(stopped_vae, poisoned(), recipe=RECIPE, epochs=3, checkpoints=Checkpoints(tmp_path))
    tensors, _ = Checkpoints(tmp_path).latest() or ({}, {})
    steps = int(tensors["step"])
    sound = train(sound_vae, poisoned(), recipe=RECIPE, epochs=3, should_stop=after(steps))
    kept = {k.removeprefix("parameters/"): t for k, t in tensors.items() if "parameters/" in k}
    assert bits(kept) == bits(sound.state.parameters)
    assert weights(stopped_vae) == bits(kept)


def test_a_gradient_that_overflows_stops_the_run_though_every_term_is_finite() -> None:
    class Cliff(nn.Linear):
        """A value of 0 with an infinite slope: √w at w = 0."""

        def __init__(self) -> None:
            super().__init__(1, 3)
            self.w = nn.Parameter(torch.zeros(()))

        def forward(self, z: Tensor) -> Tensor:
            return super().forward(z) + self.w.sqrt()

    model = unveil.VAE(
        prior=unveil.StandardNormal(1),
        likelihood=unveil.Conditional(Cliff(), unveil.Gaussian(3)),
        posterior=unveil.Conditional(nn.Linear(3, 2), unveil.DiagonalGaussian(1)),
    )
    before = weights(model)
    with pytest.raises(NonFiniteError, match=r"expected a finite gradient at step 0"):
        train(model, X, recipe=RECIPE, epochs=1)
    assert weights(model) == before


# ---- which weights are left --------------------------------------------------------------------

OVERFIT = Recipe(batch_size=8, learning_rate=0.05, learning_rate_warmup=1, patience=1.0)


def overfit(objective: Objective, recipe: Recipe = OVERFIT) -> tuple[unveil.VAE, Trained]:
    """Eight rows to learn by heart: the held-out objective rises, then falls."""
    model = vae()
    trained = train(
        model, X[:8], held_out=HELD_OUT[:8], objective=objective, recipe=recipe, epochs=120
    )
    return model, trained


def test_the_best_weights_are_chosen_by_the_objective_that_was_asked_for() -> None:
    objective = unveil.BetaELBO(beta=0.1, warmup_steps=0)
    model, trained = overfit(objective)
    best = max(trained.history, key=lambda line: line["objective"])
    assert best is not max(trained.history, key=lambda line: line["elbo"])
    assert best is not trained.history[-1]
    left, _ = held_out_figures(model, HELD_OUT[:8], objective, 120, 0)
    assert {k: left[k] for k in ("objective", "elbo")} == {
        k: best[k] for k in ("objective", "elbo")
    }


def test_no_weights_are_chosen_before_the_warm_up_is_over() -> None:
    objective = unveil.ELBO(warmup_steps=70)
    model, trained = overfit(objective)
    best = max(trained.history, key=lambda line: line["objective"])
    settled = [line for line in trained.history if line["step"] > 70]
    best_settled = max(settled, key=lambda line: line["objective"])
    assert best["step"] <= 70
    left, _ = held_out_figures(model, HELD_OUT[:8], objective, 120, 0)
    assert left["objective"] == best_settled["objective"]


def test_held_out_figures_are_at_the_final_settings_from_the_start() -> None:
    """At β = 4: objective = −distortion − 4 rate on every line, during the warm-up too."""
    _, trained = overfit(unveil.BetaELBO(beta=4.0, warmup_steps=100))
    for line in trained.history:
        assert line["elbo"] == pytest.approx(-line["distortion"] - line["rate"])
        assert line["objective"] == pytest.approx(-line["distortion"] - 4 * line["rate"], rel=1e-5)


def test_patience_ends_a_run_that_gets_no_better() -> None:
    impatient = Recipe(batch_size=8, learning_rate=0.05, learning_rate_warmup=1, patience=0.2)
    _, trained = overfit(unveil.ELBO(warmup_steps=0), impatient)
    best = max(trained.history, key=lambda line: line["objective"])
    assert trained.ending == "no longer improving"
    assert trained.history[-1]["fraction"] < 0.8
    assert trained.history[-1]["fraction"] - best["fraction"] >= 0.2 - 1e-9


def test_without_held_out_rows_the_last_weights_stand() -> None:
    model = vae()
    trained = train(model, X, recipe=RECIPE, epochs=3)
    assert weights(model) == bits(trained.state.parameters)
    assert "elbo" not in trained.history[-1]


def test_an_interrupted_run_leaves_the_best_weights_so_far() -> None:
    model = vae()
    objective = unveil.ELBO(warmup_steps=0)
    trained = train(
        model,
        X[:8],
        held_out=HELD_OUT[:8],
        objective=objective,
        recipe=OVERFIT,
        epochs=120,
        should_stop=after(100),
    )
    best = max(line["objective"] for line in trained.history)
    assert trained.ending == "interrupted"
    assert held_out_figures(model, HELD_OUT[:8], objective, 120, 0)[0]["objective"] == best


def test_training_makes_the_model_better() -> None:
    trained = train(vae(), X, held_out=HELD_OUT, recipe=RECIPE, epochs=40)
    assert trained.history[-1]["elbo"] > trained.history[0]["elbo"] + 1.0


# ---- what the history says ---------------------------------------------------------------------


class FirstCell(Objective):
    """x₁ of each row, whatever the model: a value whose mean is known."""

    def __call__(self, model, x, noise, step, given=None) -> Tensor:
        return x[:, 0] + 0 * model.particles(x, noise, given).log_weights.sum(0)


def test_figures_are_means_over_rows_not_over_tiles_or_batches() -> None:
    held_out = normal(83, 300, 3).float()  # a tile of 256 rows and one of 44
    x = X[:96]
    trained = train(vae(), x, held_out=held_out, objective=FirstCell(), recipe=RECIPE, epochs=2)
    for line in trained.history:
        assert line["objective"] == pytest.approx(float(held_out[:, 0].mean()), abs=1e-6)
        assert line["training"] == pytest.approx(float(x[:, 0].mean()), abs=1e-6)
    halves = (held_out[:256, 0].mean() + held_out[256:, 0].mean()) / 2
    assert abs(float(halves - held_out[:, 0].mean())) > 1e-3  # a mean over tiles would be noticed


def test_every_epoch_sees_every_row_once() -> None:
    seen: list[Tensor] = []

    class Watch(Objective):
        def __call__(self, model, x, noise, step, given=None) -> Tensor:
            seen.append(x.detach().clone())
            return unveil.ELBO(warmup_steps=0)(model, x, noise, step, given)

    train(vae(), X[:96], objective=Watch(), recipe=RECIPE, epochs=2)
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    for epoch in (first, second):
        assert torch.equal(epoch.sort(0).values, X[:96].sort(0).values)
    assert not torch.equal(first, second)


def test_an_epoch_s_noise_is_never_used_twice() -> None:
    seen: list[Tensor] = []

    class Watch(Objective):
        def __call__(self, model, x, noise, step, given=None) -> Tensor:
            seen.append(noise.detach().clone().flatten())
            return unveil.ELBO(warmup_steps=0)(model, x, noise, step, given)

    train(vae(), X, objective=Watch(), recipe=RECIPE, epochs=3)
    numbers = torch.cat(seen)
    assert len(numbers.unique()) == len(numbers) == 3 * STEPS_PER_EPOCH * 32


def test_progress_rises_to_one() -> None:
    heard: list[Progress] = []
    train(vae(), X, recipe=RECIPE, epochs=4, on_progress=heard.append)
    assert [progress.epoch for progress in heard] == [1, 2, 3, 4]
    assert heard[-1].fraction == 1.0
    assert heard[-1].seconds_left == 0.0


def test_a_row_alone_is_a_batch_of_its_own() -> None:
    assert train(vae(), X[:1], epochs=2).ending == "finished"


def test_rows_with_gaps_can_be_trained_on() -> None:
    x = torch.where(torch.rand(X.shape, generator=seeded(84)) < 0.3, torch.nan, X)
    trained = train(vae(), x, held_out=x[:20], recipe=RECIPE, epochs=2)
    assert all(torch.isfinite(p).all() for p in trained.state.parameters.values())


# ---- refusals ----------------------------------------------------------------------------------


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^expected at least one row to train on, got none$"):
        train(vae(), X[:0], epochs=1)


def test_a_run_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^expected an end to the run, got none; give epochs or"):
        train(vae(), X, epochs=None)
