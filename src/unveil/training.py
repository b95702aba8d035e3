"""Training: one loop around one step.

Nothing here keeps hidden state. The rows' order is a function of (seed, epoch) and the noise of
(seed, step), so a run that was stopped anywhere goes on exactly where it would have gone.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import singledispatch
from typing import Any, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unveil.data.stream import Source, Stored
from unveil.latent import LatentVariableModel
from unveil.noise import generator
from unveil.objectives.base import BatchObjective, Objective
from unveil.objectives.elbo import ELBO
from unveil.shapes import Given, Rows
from unveil.step import (
    Batch,
    Info,
    Recipe,
    State,
    Tensors,
    begin,
    compiled_step,
    eager_step,
    trainable,
)
from unveil.tiles import ROWS_PER_TILE, RowsAlike, Tile, tiles
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
class Ending(StrEnum):
    """How a run came to its end."""

    FINISHED = "finished"
    NO_LONGER_IMPROVING = "no longer improving"
    INTERRUPTED = "interrupted"


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

    ``history`` has one line per evaluation; ``state`` is the last training state (not the best).
    """

    history: History
    ending: Ending
    warnings: tuple[str, ...]
    state: State


@final
@dataclass(kw_only=True)
class _Run:
    """What a run carries from step to step: the training state, the best weights, its history."""

    state: State
    best: Tensors = field(default_factory=dict)
    best_value: float | None = None
    best_fraction: float = 0.0
    count: int = 0
    epochs: int = 0
    epoch_sum: float = 0.0
    epoch_rows: int = 0
    seconds: float = 0.0
    history: History = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def take(self, info: Info, rows: int, seconds: float) -> None:
        """Count one step over so many rows."""
        self.count += 1
        self.epoch_sum += float(info.value) * rows
        self.epoch_rows += rows
        self.seconds = seconds

    def mean_of_epoch(self) -> float:
        """The mean training objective per row since the last epoch ended, and begin the next."""
        mean = self.epoch_sum / self.epoch_rows
        self.epochs, self.epoch_sum, self.epoch_rows = self.epochs + 1, 0.0, 0
        return mean

    def tensors(self) -> Tensors:
        """All tensors under flat names, for safetensors."""
        groups = {**self.state._asdict(), "best": self.best}
        step = groups.pop("step")
        flat = {f"{g}/{name}": t for g, named in groups.items() for name, t in named.items()}
        return flat | {"step": step}

    def document(self) -> dict[str, Any]:
        """All that is no tensor, as plain JSON."""
        return {name: value for name, value in vars(self).items() if name not in ("state", "best")}

    @classmethod
    def restore(cls, tensors: Tensors, document: dict[str, Any], device: torch.device) -> "_Run":
        """The run that ``tensors`` and ``document`` were taken from."""
        groups: dict[str, Tensors] = {name: {} for name in (*State._fields, "best")}
        for key, tensor in tensors.items():
            group, _, name = key.partition("/")
            groups[group][name] = tensor.to(device)
        step = groups.pop("step")[""]
        best = groups.pop("best")
        return cls(state=State(**groups, step=step), best=best, **document)


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
    >>> str(unveil.train(vae, x, objective=unveil.IWAE(num_samples=5), epochs=2).ending)
    'finished'
    """
    objective, recipe = objective or ELBO(), recipe or Recipe()
    if epochs is None and max_minutes is None:
        raise ValueError("expected an end to the run, got none; give epochs or max_minutes")
    source = Stored(x) if isinstance(x, Tensor) else x
    rows = _rows_to_train_on(x)
    order = _Order(rows=rows, batch_size=recipe.batch_size, seed=seed)
    length = _Length.of(epochs, max_minutes, order.steps_per_epoch)
    objective = objective.scheduled(length.total_steps, len(rows))
    judge = _Judge(objective, held_out, held_out_given, length, recipe, seed)
    device = next(model.parameters()).device
    step = (compiled_step if recipe.compiled else eager_step)(model, objective, recipe)

    saved = None if checkpoints is None else checkpoints.latest()
    run = _Run(state=begin(model)) if saved is None else _Run.restore(*saved, device)
    _require_rows_apart(model)
    started, last_save = time.monotonic() - run.seconds, time.monotonic()
    ending = Ending.FINISHED
    while (share := length.fraction(run.count, run.seconds)) < 1:
        if should_stop():
            ending = Ending.INTERRUPTED
            break
        if judge.has_waited_long_enough(run):
            ending = Ending.NO_LONGER_IMPROVING
            break
        index = order.batch(run.count).to(device)
        randomness = generator(seed, "train", run.count, device=device)
        batch = Batch(source.batch(index, randomness), None if given is None else given[index])
        noise = torch.randn(
            (objective.num_samples, len(index), model.num_latents),
            generator=randomness,
            device=device,
            dtype=batch.x.dtype,
        )
        step_size = learning_rate(share, run.count, length.total_steps, recipe)
        clock = torch.tensor(share * length.total_steps, device=device)
        run.state, info = step(
            run.state, batch, noise, clock, torch.tensor(step_size, device=device)
        )
        if not info.finite:
            _save(run, checkpoints)
            put(run.state.parameters, model)
            raise NonFiniteError(_what_is_not_finite(model, batch, noise, index, run.count))
        run.take(info, len(index), time.monotonic() - started)

        fraction = length.fraction(run.count, run.seconds)
        if run.count % order.steps_per_epoch and fraction < 1:
            continue
        warning = judge.look(model, run, fraction, step_size)
        latest = run.history[-1] if run.history else None
        on_progress(
            Progress(
                fraction=fraction,
                epoch=run.epochs,
                seconds=run.seconds,
                latest=latest,
                warning=warning,
            )
        )
        if time.monotonic() - last_save > SECONDS_BETWEEN_CHECKPOINTS:
            _save(run, checkpoints)
            last_save = time.monotonic()
    _save(run, checkpoints)
    put(run.best or run.state.parameters, model)
    return Trained(
        history=run.history, ending=ending, warnings=tuple(run.warnings), state=run.state
    )


def _require_rows_apart(model: LatentVariableModel) -> None:
    """Raises ValueError for a module that mixes rows or draws noise that no seed reaches."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd | nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"expected networks that treat each row by itself and draw no noise of their own, "
                f"got {type(module).__name__} at {name}; use LayerNorm, or weight decay, instead"
            )


@final
@dataclass(frozen=True, kw_only=True)
class _Length:
    """How long a run is, and how much of it is over: by steps, by the clock, or what is ahead.

    ``total_steps`` is what schedules count in; a run limited by the clock alone is counted as
    ``CLOCKED_STEPS``, whatever number it will take.
    """

    total_steps: int
    counts_steps: bool
    max_seconds: float

    @classmethod
    def of(cls, epochs: int | None, max_minutes: float | None, steps_per_epoch: int) -> "_Length":
        return cls(
            total_steps=CLOCKED_STEPS if epochs is None else max(1, epochs * steps_per_epoch),
            counts_steps=epochs is not None,
            max_seconds=math.inf if max_minutes is None else 60 * max_minutes,
        )

    def fraction(self, count: int, seconds: float) -> float:
        by_steps = count / self.total_steps if self.counts_steps else 0.0
        return min(1.0, max(by_steps, seconds / self.max_seconds))


@final
class _Order:
    """Which rows each step takes: a new order every epoch, a function of (seed, epoch) alone.

    Rows beyond the last whole batch wait for the next epoch's order.
    """

    def __init__(self, *, rows: Tensor, batch_size: int, seed: int) -> None:
        if len(rows) == 0:
            raise ValueError("expected at least one row to train on, got none")
        self._rows, self._seed = rows, seed
        self._size = min(batch_size, len(rows))
        self.steps_per_epoch = len(rows) // self._size
        self._epoch, self._shuffled = -1, rows

    def batch(self, count: int) -> Tensor:
        """The places of the rows that step number ``count`` takes, (row,)."""
        epoch, position = divmod(count, self.steps_per_epoch)
        if epoch != self._epoch:
            shuffle = generator(self._seed, "order", epoch)
            self._epoch = epoch
            self._shuffled = self._rows[torch.randperm(len(self._rows), generator=shuffle)]
        return self._shuffled[position * self._size : (position + 1) * self._size]


@final
@dataclass(frozen=True)
class _Judge:
    """Looks at a run on held-out rows: writes its history, keeps its best weights, ends it."""

    objective: Objective
    held_out: Float[Tensor, "held_out *event"] | None
    given: Float[Tensor, "held_out covariate"] | None
    length: _Length
    recipe: Recipe
    seed: int

    def look(
        self, model: LatentVariableModel, run: _Run, fraction: float, learning_rate: float
    ) -> str | None:
        """Add a line to the history when one is due; returns a warning when there is a new one."""
        training = run.mean_of_epoch()
        looked_at = run.history[-1]["fraction"] if run.history else 0.0
        if fraction - looked_at < 1 / EVALUATIONS and fraction < 1:
            return None
        line: dict[str, Any] = {
            "step": run.count,
            "epoch": run.epochs,
            "seconds": run.seconds,
            "fraction": fraction,
            "learning_rate": learning_rate,
            "training": training,
        }
        run.history.append(line)
        if self.held_out is None:
            return None
        put(run.state.parameters, model)
        total = self.length.total_steps
        figures, active = held_out_figures(
            model, self.held_out, self.objective, total, self.seed, self.given
        )
        line |= figures
        warm = fraction * total >= self.objective.warmup
        if warm and (run.best_value is None or line["objective"] > run.best_value):
            run.best_value, run.best_fraction = line["objective"], fraction
            run.best = {name: p.clone() for name, p in run.state.parameters.items()}
        warning = collapse_warning(active.tolist(), len(self.held_out))
        if warning is None or run.warnings or fraction < SHARE_BEFORE_COLLAPSE_WARNING:
            return None
        run.warnings.append(warning)
        return warning

    def has_waited_long_enough(self, run: _Run) -> bool:
        """Whether the last look came later after the best value than patience allows."""
        if run.best_value is None:
            return False
        return run.history[-1]["fraction"] - run.best_fraction > self.recipe.patience


def _save(run: _Run, checkpoints: Saves | None) -> None:
    if checkpoints is not None:
        checkpoints.save(run.count, run.tensors(), run.document())


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
) -> tuple[dict[str, Any], Tensor]:
    """The objective at its final settings and the β = 1 ELBO with its two terms, nats per row;
    and which latents are active.

    Every row has its own noise, the same at each call, so that successive figures are paired.
    """
    device = next(model.parameters()).device
    final_clock = torch.tensor(float(total_steps), device=device)
    sums = torch.zeros(3, dtype=torch.float64)
    means = []
    with torch.no_grad(), RowsAlike():
        for tile in judged_together(objective, x, given):
            row_noise = tile.noise(seed, "held out", model.num_latents)
            noise = row_noise(objective.num_samples)
            value = objective(model, tile.x, noise, final_clock, tile.given)
            q = model.posterior(tile.x, tile.given)
            z = q.push(noise)
            distortion = -model.likelihood(z[:1], tile.given).log_prob(tile.x)[0]
            figures = torch.stack([value, q.kl(model.prior(tile.given), z), distortion])
            figures = figures[:, : tile.count]
            sums += figures.double().sum(-1).cpu()
            means.append(q.moments(row_noise)[0][: tile.count])
    value, mean_rate, distortion = (sums / len(x)).tolist()
    active = active_units(torch.cat(means))
    figures = {
        "objective": value,
        "elbo": -(mean_rate + distortion),
        "rate": mean_rate,
        "distortion": distortion,
        "active_units": int(active.sum()),
    }
    return figures, active


@singledispatch
def judged_together(objective: Objective, x: Rows, given: Given = None) -> Iterator[Tile]:
    """The tiles of rows in which an objective is evaluated: padded ones, where rows are apart.

    >>> rows = torch.zeros(257, 2)
    >>> [(tile.count, len(tile.x)) for tile in judged_together(ELBO(), rows)]
    [(256, 256), (1, 256)]
    """
    return tiles(x, given)


@judged_together.register
def _(objective: BatchObjective, x: Rows, given: Given = None) -> Iterator[Tile]:
    """Tiles of real rows alone, of nearly one size, so that no row is left by itself."""
    for index in torch.arange(len(x), device=x.device).tensor_split(-(-len(x) // ROWS_PER_TILE)):
        yield Tile(x=x[index], given=None if given is None else given[index], count=len(index))


def _rows_to_train_on(x: Rows | Source) -> Tensor:
    """The places of the rows with anything observed; a row that shows nothing teaches nothing."""
    if isinstance(x, Source):
        return torch.arange(len(x))
    return (~torch.isnan(x)).flatten(1).any(1).nonzero()[:, 0].cpu()


def put(parameters: Tensors, model: LatentVariableModel) -> None:
    """Give the model copies of parameters; what it held before is left as it was."""
    for name, p in trainable(model).items():
        p.data = parameters[name].clone()


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
