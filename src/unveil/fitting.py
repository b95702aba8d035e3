"""fit: from data in any form to a fitted model, in three steps: plan, train, judge."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from unveil import defaults, registry
from unveil.baselines import fit_baselines
from unveil.build import build, start_at_mean
from unveil.data.encode import digests, encode, fits, split
from unveil.data.read import Rows, read
from unveil.data.schema import Schema, infer
from unveil.errors import InputError
from unveil.feed import to_source, to_tensor
from unveil.fitted import HELD_OUT_ROWS, Fitted
from unveil.judge import judge
from unveil.latent import VAE
from unveil.objectives.base import Objective
from unveil.settings import Settings
from unveil.storage import Checkpoints, read_document, write_document
from unveil.training import CLOCKED_STEPS, Progress, Trained, train

HELD_OUT = 0.1
# Enough rows to choose the weights by; more would be kept from training for little.
MOST_HELD_OUT_BY_DEFAULT = 5_000
SETTINGS = "settings.json"
# Enough for a first honest bound without making a short fit wait for it.
DRAWS_AFTER_FIT = 100


@final
@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a fit will do, settled before anything is written or trained."""

    settings: Settings
    schema: Schema
    training: Rows
    held_out: Rows

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of how the data were read."""
        set_aside = [column.name for column in self.schema.columns if column.is_constant]
        if not set_aside:
            return ()
        return (
            f"{', '.join(set_aside)}: one value only, so set aside and put back in what comes out",
        )


def plan(
    data: Any,
    *,
    latent: int | None = None,
    likelihood: str = "auto",
    objective: str = "elbo",
    seed: int = 0,
    epochs: int | None = None,
    max_minutes: float | None = None,
    validation: float | None = None,
    label: Sequence[str] = (),
    drop: Sequence[str] = (),
    device: str = "auto",
) -> Plan:
    """Read the data and settle every choice of a fit, as ``fit`` describes them."""
    _require_sizes(latent, epochs, max_minutes)
    asked = registry.objective(objective)
    rows = read(data, label=label, drop=drop)
    schema, scale = registry.read_as(likelihood, infer(rows))
    rows = _with_something_observed(fits(schema, rows))
    keys = digests(rows.values)
    if validation is None:
        validation = min(HELD_OUT, MOST_HELD_OUT_BY_DEFAULT / len(rows))
    training, held_out = split(keys, validation, seed)
    recipe = defaults.recipe(schema, len(training), find_device(device))
    if epochs is None and max_minutes is None:
        epochs = defaults.epochs(len(training), recipe.batch_size)
    steps = None if epochs is None else epochs * max(1, len(training) // recipe.batch_size)
    _require_room_to_warm_up(asked, steps)
    compiled = defaults.worth_compiling(schema, len(training), steps, max_minutes)
    recipe = replace(recipe, compiled=compiled)
    settings = Settings(
        source=rows.source,
        rows=len(rows),
        fingerprint=_fingerprint(schema, keys),
        label=tuple(label),
        drop=tuple(drop),
        likelihood=likelihood,
        objective=objective,
        seed=seed,
        epochs=epochs,
        max_minutes=max_minutes,
        validation=validation,
        architecture=defaults.architecture(schema, len(training), scale, latent),
        recipe=recipe,
    )
    return Plan(
        settings=settings, schema=schema, training=rows.take(training), held_out=rows.take(held_out)
    )


def train_planned(
    planned: Plan,
    *,
    device: str = "auto",
    checkpoints: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[Plan, VAE, Trained]:
    """Train as planned: the plan as it was carried out, the model, and how its training went.

    With a ``checkpoints`` folder the run goes on from the newest state there, in the precision and
    the form of step that the record names. Raises InputError when that run was another.
    """
    place, saves = find_device(device), None
    if checkpoints is not None:
        planned = replace(planned, settings=_obeying_record(planned.settings, checkpoints))
        saves = Checkpoints(checkpoints)
    settings, schema = planned.settings, planned.schema
    vae = build(schema, settings.architecture, settings.seed)
    start_at_mean(vae, _expected(planned).nanmean(0).nan_to_num(nan=0.0))
    trained = train(
        vae.to(place),
        to_source(schema, planned.training).to(place),
        objective=registry.objective(settings.objective),
        held_out=to_tensor(schema, planned.held_out, settings.seed).to(place),
        recipe=settings.recipe,
        seed=settings.seed,
        epochs=settings.epochs,
        max_minutes=settings.max_minutes,
        checkpoints=saves,
        on_progress=on_progress,
        should_stop=should_stop,
    )
    return planned, vae, trained


def finish(planned: Plan, vae: VAE, trained: Trained) -> Fitted:
    """Judge a trained model on the held-out rows, beside its baselines."""
    settings, schema = planned.settings, planned.schema
    drawn = to_tensor(schema, planned.training, settings.seed)
    latents = settings.architecture.num_latents
    baselines = fit_baselines(
        _flat(_expected(planned)), _flat(drawn), schema, latents, settings.seed
    )
    evaluation = judge(
        vae,
        schema,
        baselines,
        planned.held_out,
        binarisation_seed=settings.seed,
        draws=DRAWS_AFTER_FIT,
        seed=0,
        split=HELD_OUT_ROWS,
    )
    return Fitted(
        vae=vae,
        schema=schema,
        settings=settings,
        baselines=baselines,
        train_digests=digests(planned.training.values),
        held_out_digests=digests(planned.held_out.values),
        history=trained.history,
        evaluation=evaluation,
        ending=str(trained.ending),
        device=next(vae.parameters()).device,
    )


def _expected(planned: Plan) -> Tensor:
    """The training rows in model units; a grey level read as a probability is that probability."""
    return torch.from_numpy(encode(planned.schema, planned.training))


def fit(
    data: Any,
    *,
    latent: int | None = None,
    likelihood: str = "auto",
    objective: str = "elbo",
    seed: int = 0,
    epochs: int | None = None,
    max_minutes: float | None = None,
    validation: float | None = None,
    label: Sequence[str] = (),
    drop: Sequence[str] = (),
    device: str = "auto",
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Fitted:
    """Fit a variational autoencoder to rows of numbers.

    ``data`` is a built-in name, a file, a frame, an array or a tensor; a missing cell is NaN.
    ``latent`` is the number of latent variables (default: one for every four cells, at most 40).
    ``likelihood`` is auto, bernoulli, gaussian or discretized_logistic, ``objective`` elbo,
    sampled_elbo or iwae, both with options as in ``iwae:num_samples=50``. ``validation`` is the
    share of rows held out to choose the weights and to judge them (default 0.1, at most 5,000
    rows). ``label`` columns ride along unmodelled, ``drop`` columns are forgotten. The run ends
    after ``epochs`` or ``max_minutes``, or when held-out rows no longer gain.

    Raises InputError, in one sentence, for data or settings that cannot be fitted, and
    NonFiniteError when training met a number that is not one.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(60, 4))
    >>> fit(x, latent=2, epochs=2).vae.num_latents
    2
    """
    planned = plan(
        data,
        latent=latent,
        likelihood=likelihood,
        objective=objective,
        seed=seed,
        epochs=epochs,
        max_minutes=max_minutes,
        validation=validation,
        label=label,
        drop=drop,
        device=device,
    )
    return finish(*train_planned(planned, device=device, on_progress=on_progress))


def find_device(name: str) -> torch.device:
    """The device that a name such as auto, cpu or cuda stands for.

    Raises InputError when it is unknown or not on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"expected --device to be auto, cpu or cuda, but {name!r} came; use auto")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"expected {name} to be on this machine, but it is not; use --device auto")
    return device


def _with_something_observed(rows: Rows) -> Rows:
    """The rows without those that show nothing: they say nothing of the data either."""
    observed = (~np.isnan(rows.values)).reshape(len(rows), -1).sum(axis=1)
    return rows if observed.all() else rows.take(np.flatnonzero(observed))


def _require_sizes(latent: int | None, epochs: int | None, max_minutes: float | None) -> None:
    """Raises InputError for a size that is not above 0."""
    sizes = {"--latent": latent, "--epochs": epochs, "--max-minutes": max_minutes}
    for name, size in sizes.items():
        if size is not None and not 0 < size < math.inf:
            raise InputError(
                f"expected {name} to be above 0 and finite, but {size} came; give another"
            )


def _require_room_to_warm_up(objective: Objective, steps: int | None) -> None:
    """Raises InputError when the objective would never reach its final settings."""
    try:
        objective.scheduled(CLOCKED_STEPS if steps is None else steps)
    except ValueError as error:
        raise InputError(str(error)) from error


def _fingerprint(schema: Schema, keys: np.ndarray) -> str:
    """A digest of the rows, in their order, and of how their columns are read."""
    reading = str(schema.to_document()).encode()
    return blake2b(keys.tobytes() + reading, digest_size=16).hexdigest()


def _obeying_record(settings: Settings, folder: Path) -> Settings:
    """The settings with the recipe that the run in the folder began with; a new run is recorded."""
    path = folder / SETTINGS
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_document(path, settings.document())
        return settings
    try:
        recorded = Settings.from_document(read_document(path))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"expected the record of a run in {path}, but it is not as unveil wrote it; start "
            "afresh with --overwrite"
        ) from error
    settings.require_same(recorded)
    return replace(settings, recipe=recorded.recipe)


def _flat(x: Tensor) -> Tensor:
    return x.double().flatten(1)
