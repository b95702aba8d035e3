"""Training: one loop around one pure step.

Nothing here keeps hidden state. The rows' order is a function of (seed, epoch) and the noise of
(seed, step), so a run that was stopped anywhere goes on exactly where it would have gone.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import kl_divergence

from unveil.data.stream import Source, Stored
from unveil.latent import LatentVariableModel
from unveil.noise import generator
from unveil.objectives import ELBO, Objective
from unveil.shapes import Given, Rows
from unveil.step import Batch, Recipe, State, Tensors, begin, compiled_step, eager_step
from unveil.tiles import RowsAlike, tiles
from unveil.units import active_units, collapse_warning

# A run limited by the clock alone is counted as this many steps: its schedules see only the share
# of the time that is over.
CLOCKED_STEPS = 10_000
# How many evaluations on held-out rows a whole run makes, at most.
EVALUATIONS = 60
# Nothing is saved more often than this, so that short epochs do not wait for the disk.
SECONDS_BETWEEN_CHECKPOINTS = 10.0
# Unused latents are only worth a word once the model has had time to use them.
SHARE_BEFORE_COLLAPSE_WARNING = 0.5

History = list[dict[str, Any]]


class NonFiniteError(ArithmeticError):
    """Training met a loss or gradient that is not a number; the state before it was kept."""


@final
@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run is: the share that is over, seconds so far and still to go, the last figures.

    ``latest`` is the newest line of the history (None before the first); ``warning`` is a sentence
    or None.
    """

    fraction: float
    epoch: int
    seconds: float
    latest: Mapping[str, Any] | None = None
    warning: str | None = None

    @property
    def seconds_left(self) -> float:
        """What the run still needs if it goes on as it went."""
        return self.seconds * (1 - self.fraction) / max(self.fraction, 1e-9)


@runtime_checkable
class Saves(Protocol):
    """Where a run's states go: what ``storage.Checkpoints`` offers."""

    def save(
        self, number: int, tensors: Mapping[str, Tensor], document: dict[str, Any]
    ) -> None: ...

    def latest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None: ...


@final
@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run left behind. The model itself holds the best weights.

    ``history`` has one line per evaluation; ``ending`` is "finished", "no longer improving" or
    "interrupted"; ``state`` is the last training state (not the best).
    """

    history: History
    ending: str
    warnings: tuple[str, ...]
    state: State


@final
@dataclass(kw_only=True)
class _Run:
    """What a run carries from step to step besides the training state."""

    state: State
    best: Tensors
    best_value: float = -math.inf
    best_fraction: float = 0.0
    epoch_sum: float = 0.0
    epoch_rows: int = 0
    seconds: float = 0.0
    history: History = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    _DOCUMENT = ("best_value", "best_fraction", "epoch_sum", "epoch_rows", "seconds", "history",
                 "warnings")  # fmt: skip

    def tensors(self) -> Tensors:
        groups = {
            "parameters": self.state.parameters,
            "first_moment": self.state.first_moment,
            "second_moment": self.state.second_moment,
            "best": self.best,
        }
        flat = {f"{g}/{name}": t for g, named in groups.items() for name, t in named.items()}
        return flat | {"step": self.state.step}

    def document(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self._DOCUMENT}
        return plain | {"best_value": None if self.best_value == -math.inf else self.best_value}

    @classmethod
    def restore(cls, tensors: Tensors, document: dict[str, Any], device: torch.device) -> "_Run":
        def group(name: str) -> Tensors:
            start = f"{name}/"
            return {
                k[len(start) :]: t.to(device) for k, t in tensors.items() if k.startswith(start)
            }

        best_value = document["best_value"]
        return cls(
            state=State(
                group("parameters"),
                group("first_moment"),
                group("second_moment"),
                tensors["step"].to(device),
            ),
            best=group("best"),
            **{name: document[name] for name in cls._DOCUMENT if name != "best_value"},
            best_value=-math.inf if best_value is None else best_value,
        )


def train(
    model: LatentVariableModel,
    x: Rows | Source,
    *,
    objective: Objective | None = None,
    held_out: Float[Tensor, "held_out *event"] | None = None,
    given: Given = None,
    held_out_given: Float[Tensor, "held_out covariate"] | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    epochs: int | None = 100,
    max_minutes: float | None = None,
    checkpoints: Saves | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Maximise an objective over rows, and leave the best weights in the model.

    ``x`` (row, *event) are rows in model units (NaN where missing) or a ``Source`` of them;
    ``held_out`` are rows that choose the weights and stop the run early, by the held-out value of
    the objective at its final settings, after its warm-up. Without them the last weights stand.
    The run ends after ``epochs`` or ``max_minutes``, whichever comes first. With ``checkpoints``
    it starts from the newest saved state, and equals the run that was never stopped, bit for bit
    (when its length is given in epochs). Raises NonFiniteError, naming the rows and the term, when
    the loss or its gradient is not finite; ValueError when there is nothing to train on or no end.

    >>> import unveil
    >>> from torch import nn
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 3), unveil.Gaussian(3)),
    ...     posterior=unveil.Conditional(nn.Linear(3, 2), unveil.DiagonalGaussian(1)),
    ... )
    >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    >>> unveil.train(vae, x, objective=unveil.IWAE(num_samples=5), epochs=2).ending
    'finished'
    """
    objective, recipe = objective or ELBO(), recipe or Recipe()
    source = Stored(x) if isinstance(x, Tensor) else x
    rows = _rows_to_train_on(x)
    batch_size = min(recipe.batch_size, len(rows))
    if batch_size == 0:
        raise ValueError("expected at least one row to train on, got none")
    if epochs is None and max_minutes is None:
        raise ValueError("expected an end to the run, got none; give epochs or max_minutes")
    # Rows beyond the last whole batch wait for the next epoch's order.
    steps_per_epoch = len(rows) // batch_size
    total_steps = CLOCKED_STEPS if epochs is None else max(1, epochs * steps_per_epoch)
    objective = objective.scheduled(total_steps)
    device = next(model.parameters()).device

    make = compiled_step if recipe.compiled else eager_step
    step = make(model, objective, recipe)
    saved = None if checkpoints is None else checkpoints.latest()
    if saved is None:
        state = begin(model)
        run = _Run(state=state, best=_copies(state.parameters))
    else:
        run = _Run.restore(*saved, device)

    started = time.monotonic() - run.seconds
    last_save = started + run.seconds
    ending = "finished"
    count = int(run.state.step)

    def fraction() -> float:
        """The share of the run that is over: by steps, by the clock, or whichever is ahead."""
        by_steps = 0.0 if epochs is None else count / total_steps
        by_clock = 0.0 if max_minutes is None else run.seconds / (60 * max_minutes)
        return min(1.0, max(by_steps, by_clock))

    def save() -> None:
        if checkpoints is not None:
            checkpoints.save(count, run.tensors(), run.document())

    order = torch.empty(0)
    order_of = -1
    evaluated_at = run.history[-1]["fraction"] if run.history else 0.0
    while fraction() < 1:
        if should_stop():
            ending = "interrupted"
            break
        epoch, position = divmod(count, steps_per_epoch)
        if epoch != order_of:
            shuffle = generator(seed, "order", epoch)
            order = rows[torch.randperm(len(rows), generator=shuffle)].to(device)
            order_of = epoch
        index = order[position * batch_size : (position + 1) * batch_size]
        randomness = generator(seed, "train", count, device=device)
        batch = Batch(source.batch(index, randomness), None if given is None else given[index])
        noise = torch.randn(
            (objective.num_samples, batch_size, model.num_latents),
            generator=randomness,
            device=device,
            dtype=batch.x.dtype,
        )
        share = fraction()
        rate = learning_rate(share, count, total_steps, recipe)
        run.state, info = step(
            run.state,
            batch,
            noise,
            torch.tensor(share * total_steps, device=device),
            torch.tensor(rate, device=device),
        )
        if not info.finite:
            save()
            load(model, run.state.parameters)
            raise NonFiniteError(_what_is_not_finite(model, batch, noise, index, count))
        count += 1
        run.epoch_sum += float(info.value) * batch_size
        run.epoch_rows += batch_size
        run.seconds = time.monotonic() - started

        if count % steps_per_epoch:
            continue
        training = run.epoch_sum / run.epoch_rows
        run.epoch_sum, run.epoch_rows = 0.0, 0
        warning = None
        if fraction() - evaluated_at >= 1 / EVALUATIONS or fraction() == 1:
            evaluated_at = fraction()
            load(model, run.state.parameters)
            line = {
                "step": count,
                "epoch": count // steps_per_epoch,
                "seconds": run.seconds,
                "fraction": evaluated_at,
                "learning_rate": rate,
                "training": training,
            }
            if held_out is not None:
                line |= held_out_figures(
                    model, held_out, objective, total_steps, seed, held_out_given
                )
                if share * total_steps >= objective.warmup and line["objective"] > run.best_value:
                    run.best_value, run.best_fraction = line["objective"], evaluated_at
                    run.best = _copies(run.state.parameters)
                warning = _collapse(line, run, evaluated_at)
            run.history.append(line)
        on_progress(
            Progress(
                fraction=fraction(),
                epoch=count // steps_per_epoch,
                seconds=run.seconds,
                latest=run.history[-1] if run.history else None,
                warning=warning,
            )
        )
        if run.best_value > -math.inf and fraction() - run.best_fraction > recipe.patience:
            ending = "no longer improving"
            break
        if time.monotonic() - last_save > SECONDS_BETWEEN_CHECKPOINTS:
            save()
            last_save = time.monotonic()
    save()
    load(model, run.best if run.best_value > -math.inf else run.state.parameters)
    return Trained(
        history=run.history, ending=ending, warnings=tuple(run.warnings), state=run.state
    )


def learning_rate(fraction: float, step: int, total_steps: int, recipe: Recipe) -> float:
    """Linear warm-up over the first steps (at most a tenth of the run), half a cosine down to 0.

    >>> learning_rate(0.5, 1000, 2000, Recipe(learning_rate=1e-3))
    0.0005
    """
    warmup = max(1, min(recipe.learning_rate_warmup, total_steps // 10))
    cosine = 0.5 * (1 + math.cos(math.pi * fraction))
    return recipe.learning_rate * min(1.0, (step + 1) / warmup) * cosine


def held_out_figures(
    model: LatentVariableModel,
    x: Rows,
    objective: Objective,
    total_steps: int,
    seed: int,
    given: Given = None,
) -> dict[str, Any]:
    """The objective at its final settings and the β = 1 ELBO with its two terms, nats per row.

    Every row has its own noise, the same at each call, so that successive figures are paired.
    """
    device = next(model.parameters()).device
    final_clock = torch.tensor(float(total_steps), device=device)
    sums = torch.zeros(3, dtype=torch.float64)
    means = []
    with torch.no_grad(), RowsAlike():
        for tile in tiles(x, given):
            noise = tile.noise(seed, "held out")(objective.num_samples, model.num_latents)
            value = objective(model, tile.x, noise, final_clock, tile.given)
            q = model.posterior(tile.x, tile.given)
            distortion = -model.likelihood(q.push(noise[:1]), tile.given).log_prob(tile.x)[0]
            rate = kl_divergence(q, model.prior(tile.given))
            figures = torch.stack([value, rate, distortion])[:, : tile.count]
            sums += figures.double().sum(-1).cpu()
            means.append(q.mean[: tile.count])
    value, rate, distortion = (sums / len(x)).tolist()
    active = active_units(torch.cat(means))
    return {
        "objective": value,
        "elbo": -(rate + distortion),
        "rate": rate,
        "distortion": distortion,
        "active_units": int(active.sum()),
        "active": active.tolist(),
    }


def _rows_to_train_on(x: Rows | Source) -> Tensor:
    """The places of the rows with anything observed; a row that shows nothing teaches nothing."""
    if isinstance(x, Source):
        return torch.arange(len(x))
    return (~torch.isnan(x)).flatten(1).any(1).nonzero()[:, 0].cpu()


def load(model: LatentVariableModel, parameters: Tensors) -> None:
    """Give the model copies of parameters; what it held before is left as it was."""
    for name, p in model.named_parameters():
        p.data = parameters[name].clone()


def _copies(parameters: Tensors) -> Tensors:
    return {name: p.clone() for name, p in parameters.items()}


def _collapse(line: dict[str, Any], run: _Run, fraction: float) -> str | None:
    """The collapse warning, once, when the model has had time to use its latents."""
    warning = collapse_warning(line.pop("active"))
    if warning is None or run.warnings or fraction < SHARE_BEFORE_COLLAPSE_WARNING:
        return None
    run.warnings.append(warning)
    return warning


def _what_is_not_finite(
    model: LatentVariableModel, batch: Batch, noise: Tensor, index: Tensor, step: int
) -> str:
    """A sentence that names the term and the rows at which a step's numbers failed."""
    with torch.no_grad():
        particles = model.particles(batch.x, noise, batch.given)
    terms = {
        "log p(x|z)": particles.log_likelihood,
        "log p(z)": particles.log_prior,
        "log q(z|x)": particles.log_posterior,
    }
    for name, values in terms.items():
        bad = ~torch.isfinite(values).all(0)
        if bad.any():
            rows = index[bad].tolist()
            named = ", ".join(str(row) for row in rows[:10]) + (", …" if len(rows) > 10 else "")
            return (
                f"expected a finite {name} at step {step}, got {values[:, bad].flatten()[0]:g} in "
                f"training rows {named}; look at those rows, or lower the learning rate. The last "
                "good state was kept"
            )
    return (
        f"expected a finite gradient at step {step}, but it overflowed while every term was "
        f"finite (training rows {index[:10].tolist()} …); lower the learning rate. The last good "
        "state was kept"
    )
