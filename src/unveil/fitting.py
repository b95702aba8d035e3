"""fit: from data in any form to a fitted model, in three steps: plan, train, judge."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias, cast, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unveil import defaults
from unveil.baselines import fit_baselines
from unveil.build import Architecture, build, start, with_lasting_prior
from unveil.conditional import Conditions, seen_range
from unveil.data.admit import fits
from unveil.data.covariates import Covariates, infer_covariates
from unveil.data.edited import obeyed
from unveil.data.encode import encode, split
from unveil.data.infer import infer
from unveil.data.read import TOTAL, Rows, blocks, listed, read
from unveil.data.schema import DENSITIES, Schema
from unveil.data.sparse import SparseCounts
from unveil.diagnostics.means import Mean
from unveil.errors import InputError
from unveil.evidence.importance import importance
from unveil.evidence.tuning import tune_both
from unveil.feed import digests_of, to_exposures, to_given, to_source, to_tensors
from unveil.fitted import CALIBRATION_ROWS, HELD_OUT_ROWS, Fitted
from unveil.imputation.intervals import Intervals, Measures, calibrate
from unveil.judge import Case, judge
from unveil.latent import VAE
from unveil.noise import generator
from unveil.objectives.base import BatchObjective, Objective
from unveil.priors.mixture import GaussianMixture, aggregate
from unveil.registry import cells
from unveil.registry.latents import lasting_prior
from unveil.registry.objectives import objective
from unveil.request import Request
from unveil.scoring.calibration import (
    FEWEST_CALIBRATION,
    Calibration,
    KeptFigures,
    KeptRows,
)
from unveil.scoring.densities import DRAWS
from unveil.settings import Settings, made_here
from unveil.storage import Checkpoints, read_document, write_document
from unveil.training import CLOCKED_STEPS, Progress, Trained, train
from unveil.units import posterior_moments

SETTINGS = "settings.json"
# So many cells say enough of the columns' means, or of a baseline.
ENOUGH_CELLS = 50_000_000
# Enough for a first honest bound without making a short fit wait for it.
DRAWS_AFTER_FIT = 100
# A gain of so many standard errors is seldom chance.
CLEAR = 2.0
# Of the held-out rows half are kept apart, and no more than these: p-values become no finer by it.
MOST_CALIBRATION = 1_000

# The places of the rows to train on, of those that choose the weights, and of those kept apart.
Sides: TypeAlias = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]


@final
@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a fit will do, and the model before its first step.

    It is settled before anything is written or trained, so that what cannot be is refused in time.
    ``training`` are the places of the rows to train on among ``rows``. The others choose the
    weights (``held_out``) or nothing at all (``calibration``).
    """

    settings: Settings
    schema: Schema
    covariates: Covariates
    rows: Rows
    training: NDArray[np.intp]
    held_out: Rows
    calibration: Rows
    vae: VAE
    densities_on_grids: tuple[str, ...] = ()

    @property
    def sample_of_training(self) -> Rows:
        """The training rows, or as many of them as are enough for a column's mean or a baseline."""
        enough = max(1, ENOUGH_CELLS // self.schema.dims)
        some = self.training[:: 1 + len(self.training) // enough]
        return self.rows.take(some)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of how the data were read."""
        columns = self.schema.columns
        set_aside = [column.name for column in columns if column.is_constant]
        total = [TOTAL] if self.covariates.usual else []
        return (
            *_note(
                total,
                "what a row counts in all is given, so that figures are conditional on each row's "
                "total; --exposure none models it too",
            ),
            *_note(set_aside, "one value only, so set aside and put back in what comes out"),
            *(
                f"{listed(names)}: {why}; kept beside, not modelled"
                for why, names in self._names_aside.items()
            ),
            *_note(
                self.densities_on_grids,
                "values a step apart, read as having a density, which is no probability and has "
                "no limit; --likelihood auto gives them true ones",
            ),
        )

    @property
    def _names_aside(self) -> dict[str, list[str]]:
        """The columns that are set aside, by the reason why."""
        names: dict[str, list[str]] = {}
        for column in self.schema.aside:
            names.setdefault(column.why, []).append(column.name)
        return names


def _note(names: Sequence[str], what: str) -> tuple[str, ...]:
    return (f"{listed(names)}: {what}",) if names else ()


def plan(data: Any, request: Request, *, seed: int = 0, device: str = "auto") -> Plan:
    """Read the data and settle every choice of a fit, as ``fit`` describes them."""
    rows = read(
        data,
        label=request.label,
        drop=request.drop,
        given=request.given,
        exposure=request.exposure,
    )
    inferred = infer(rows) if request.schema is None else obeyed(request.schema, rows)
    rows = fits(inferred, rows)
    schema = cells.read_as(request.likelihood or cells.AUTO, inferred, rows)
    rows = _with_something_observed(rows)
    exposure = defaults.exposure(request, schema, rows)
    covariates = infer_covariates(rows, exposure)
    keys = digests_of(rows, covariates)
    validation = request.validation
    if validation is None:
        validation = defaults.validation(len(rows))
    training, held_out, calibration = _sides(keys, validation, seed)
    named = request.objective or defaults.objective(schema)
    asked = objective(named)
    architecture = defaults.architecture(request, schema, len(training), covariates)
    recipe = defaults.recipe(schema, len(training), architecture, find_device(device))
    epochs = request.epochs
    if epochs is None and request.max_minutes is None:
        epochs = defaults.epochs(schema, len(training), recipe.batch_size, asked.num_samples)
    steps = None if epochs is None else epochs * max(1, len(training) // recipe.batch_size)
    _require_room_to_warm_up(asked, steps, len(training))
    compiled = defaults.worth_compiling(schema, len(training), steps, request.max_minutes)
    settings = Settings(
        source=rows.source,
        rows=len(rows),
        fingerprint=_fingerprint(schema, keys),
        seed=seed,
        request=replace(
            request, objective=named, epochs=epochs, validation=validation, exposure=exposure
        ),
        architecture=architecture,
        recipe=replace(recipe, compiled=compiled),
    )
    return replace(
        _planned(settings, schema, covariates, rows, (training, held_out, calibration)),
        densities_on_grids=tuple(
            column.name
            for column, before in zip(schema.columns, inferred.columns, strict=True)
            if column.kind in DENSITIES and before.step > 0
        ),
    )


def _planned(
    settings: Settings, schema: Schema, covariates: Covariates, rows: Rows, sides: Sides
) -> Plan:
    """The plan of these settings, its model started at the data, where nothing stands against
    carrying it out."""
    training, held_out, calibration = sides
    planned = Plan(
        settings=settings,
        schema=schema,
        covariates=covariates,
        rows=rows,
        training=training,
        held_out=rows.take(held_out),
        calibration=rows.take(calibration),
        vae=build(schema, settings.architecture, settings.seed),
    )
    asked, sample = objective(settings.objective), planned.sample_of_training
    expected, drawn = _expected_and_drawn(planned)
    start(planned.vae, expected, drawn, settings.seed)
    given = to_given(covariates, sample.take(slice(0, 2)))
    _require_value(asked, planned.vae, drawn[:2], given, len(training))
    _require_company(asked, len(held_out))
    _require_components(settings.architecture, len(sample))
    return planned


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
    vae, covariates = deepcopy(planned.vae).to(place), planned.covariates
    x, held_out_given = to_tensors(schema, covariates, planned.held_out, settings.seed, place)
    c = to_given(covariates, planned.rows, place)
    trained = train(
        vae,
        to_source(schema, planned.rows, planned.training).to(place),
        objective=objective(settings.objective),
        held_out=x,
        given=c[planned.training] if c is not None else None,
        held_out_given=held_out_given,
        recipe=settings.recipe,
        seed=settings.seed,
        epochs=settings.request.epochs,
        max_minutes=settings.request.max_minutes,
        checkpoints=saves,
        on_progress=on_progress,
        should_stop=should_stop,
    )
    return planned, vae, trained


def finish(planned: Plan, vae: VAE, trained: Trained) -> Fitted:
    """Judge a trained model on held-out rows, beside its baselines: on those that chose nothing,
    where there are any."""
    schema, seed = planned.schema, planned.settings.seed
    vae, said = _settled(planned, vae)
    expected, drawn = _expected_and_drawn(planned)
    exposure = to_exposures(
        planned.covariates, to_given(planned.covariates, planned.sample_of_training)
    )
    baselines = fit_baselines(
        _flat(expected), _flat(drawn), schema, vae.num_latents, seed, exposure
    )
    x, given = to_tensors(schema, planned.covariates, planned.held_out, seed, _device(vae))
    kept_apart = len(planned.calibration) > 0
    case = Case(
        vae=vae, schema=schema, covariates=planned.covariates, baselines=baselines, seed=seed
    )
    evaluation = judge(
        case,
        planned.calibration if kept_apart else planned.held_out,
        draws=DRAWS_AFTER_FIT,
        seed=0,
        split=CALIBRATION_ROWS if kept_apart else HELD_OUT_ROWS,
    )
    evaluation = replace(evaluation, warnings=evaluation.warnings + said)
    return Fitted(
        vae=vae,
        schema=schema,
        covariates=planned.covariates,
        settings=planned.settings,
        baselines=baselines,
        sizes=tune_both(vae, x, given, seed=seed),
        train_digests=digests_of(planned.rows, planned.covariates)[planned.training],
        held_out_digests=digests_of(planned.held_out, planned.covariates),
        calibration_digests=digests_of(planned.calibration, planned.covariates),
        calibration=_calibration(planned, vae),
        intervals=_intervals(planned, vae, torch.isnan(drawn)),
        seen=_seen(planned).to(_device(vae)),
        history=trained.history,
        evaluation=evaluation,
        ending=str(trained.ending),
        made_by=made_here(),
        device=_device(vae),
    )


def refit(fitted: Fitted, rows: Rows, *, seed: int = 0) -> VAE:
    """A model like the fitted one, but fitted to other rows of the same columns.

    Columns are read, and all is chosen, as they were for the fitted one; its weights begin, and its
    rows are held out, by ``seed``. Raises InputError for rows that are too few, or all equal.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(60, 4))
    >>> fitted = fit(x, latent=2, epochs=2)
    >>> refit(fitted, fitted.rows(x[:50]), seed=1).num_latents
    2
    """
    schema, covariates = fitted.schema, fitted.covariates
    settings = replace(fitted.settings, seed=seed, rows=len(rows))
    validation = settings.request.validation
    assert validation is not None  # settled before anything is recorded
    sides = _sides(digests_of(rows, covariates), validation, seed)
    planned = _planned(settings, schema, covariates, rows, sides)
    carried_out, vae, _ = train_planned(planned, device=str(fitted.device))
    return _settled(carried_out, vae)[0]


def _sides(keys: np.ndarray, validation: float, seed: int) -> Sides:
    """The rows to train on; of the others, those that choose the weights, and those that nothing
    looks at before new rows are compared with them: half, or none where that is too few to compare
    with."""
    training, held_out = split(keys, validation, seed)
    distinct = len(np.unique(keys[held_out], axis=0))
    apart = min(distinct // 2, MOST_CALIBRATION)
    if apart < FEWEST_CALIBRATION:
        return training, held_out, held_out[:0]
    choosing, kept = split(keys[held_out], apart / distinct, seed)
    return training, held_out[choosing], held_out[kept]


def _seen(planned: Plan) -> Conditions:
    """The range of each column; beside an exposure counts have none, for each has another there."""
    if planned.covariates.exposure is not None:
        return Conditions.none(planned.schema.dims)
    return seen_range(planned.schema, planned.rows)


def _calibration(planned: Plan, vae: VAE) -> Calibration:
    """The rows kept apart as they are saved: a table's themselves, of pictures what is made of
    them."""
    x, given = to_tensors(
        planned.schema,
        planned.covariates,
        planned.calibration,
        planned.settings.seed,
        _device(vae),
    )
    if planned.schema.shared:
        return KeptFigures.of(vae, x, given, DRAWS)
    return KeptRows(x=x, given=given)


def _intervals(planned: Plan, vae: VAE, gaps: Tensor) -> Intervals:
    """How wide a table's intervals must be, by cells of rows not trained on, hidden as ``gaps`` of
    the training rows have it; of pictures nothing is hidden."""
    schema = planned.schema
    if schema.shared:
        return Intervals.none()
    seed, place = planned.settings.seed, _device(vae)
    parts = [
        to_tensors(schema, planned.covariates, rows, seed, place)
        for rows in (planned.held_out, planned.calibration)
    ]
    covariates = [given for _, given in parts if given is not None]
    return calibrate(
        vae,
        torch.cat([x for x, _ in parts]),
        gaps.to(place),
        Measures.of(schema),
        given=torch.cat(covariates) if covariates else None,
        seed=seed,
    )


def _settled(planned: Plan, vae: VAE) -> tuple[VAE, tuple[str, ...]]:
    """The trained model, and what is to be said of it: its prior is fitted to the aggregate
    posterior, where that was asked for, unless held-out rows become no likelier by it."""
    lasting = with_lasting_prior(vae, planned.settings.architecture).to(_device(vae))
    if lasting is vae:
        return vae, ()
    mixture, seed = cast(GaussianMixture, lasting.p_z), planned.settings.seed
    x, c = to_tensors(
        planned.schema, planned.covariates, planned.sample_of_training, seed, _device(vae)
    )
    means, sds = (moment.cpu() for moment in posterior_moments(vae, x, c))
    components = len(mixture.logits)
    mixture.load_state_dict(aggregate(means, sds, components, seed).state_dict())
    gain = _gain(planned, vae, lasting)
    if gain.value > CLEAR * (gain.error or 0.0):
        return lasting, ()
    standard = GaussianMixture(means.shape[1], components, generator(seed), spread=0.0)
    mixture.load_state_dict(standard.state_dict())
    return lasting, (
        f"the prior fitted to the aggregate posterior gains {gain.value:.3f} ± "
        f"{gain.error or 0.0:.3f} nats on held-out rows, no clear gain, so the prior is left at "
        "N(0, I); train longer, or learn one with the model by --prior mixture",
    )


def _gain(planned: Plan, before: VAE, after: VAE) -> Mean:
    """By how much the rows that choose the weights become likelier, nats."""
    x, c = to_tensors(
        planned.schema, planned.covariates, planned.held_out, planned.settings.seed, _device(before)
    )
    old, new = (
        importance(vae, x, num_samples=DRAWS_AFTER_FIT, given=c).log_evidence
        for vae in (before, after)
    )
    return Mean.over_rows(new - old)


def _require_components(architecture: Architecture, rows: int) -> None:
    """Raises InputError when a mixture to be fitted afterwards has more components than rows."""
    mixture = lasting_prior(architecture.prior, architecture.latents[0])
    if mixture is not None and len(mixture.logits) > rows:
        raise InputError(
            f"expected at most as many components as the {rows} rows to train on, but "
            f"{len(mixture.logits)} came; write for instance --prior aggregate:components=10"
        )


def _expected_and_drawn(planned: Plan) -> tuple[Tensor, Tensor]:
    """Training rows in model units, where a grey level that is read as a probability is that
    probability, and where it is a draw."""
    schema, rows = planned.schema, planned.sample_of_training
    drawn, _ = to_tensors(schema, planned.covariates, rows, planned.settings.seed)
    return torch.from_numpy(encode(schema, rows)), drawn


def fit(
    data: Any,
    *,
    seed: int = 0,
    device: str = "auto",
    on_progress: Callable[[Progress], None] = lambda progress: None,
    **asked: Any,
) -> Fitted:
    """Fit a variational autoencoder to rows of numbers.

    ``data`` is a built-in name, a file, a folder of images, a frame, an array, a tensor, a SciPy
    sparse matrix or AnnData; a missing cell is NaN. ``asked`` are the options of ``Request``, which
    are the command line's: ``latent``, ``levels``, ``likelihood``, ``prior``, ``posterior``,
    ``network``, ``objective``, ``epochs``, ``max_minutes``, ``validation``, ``label``, ``drop``,
    ``given``, ``schema``, ``exposure``. What is left open suits the data. The run ends after
    ``epochs`` or ``max_minutes``, or when held-out rows no longer gain.

    Raises InputError, in one sentence, for data or options that cannot be fitted, TypeError for an
    option that there is not, and NonFiniteError when training met a number that is not one.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(60, 4))
    >>> fit(x, latent=2, epochs=2).vae.num_latents
    2
    """
    planned = plan(data, Request(**asked), seed=seed, device=device)
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
    if isinstance(rows.values, SparseCounts):
        return rows
    cells = rows.values.reshape(len(rows), -1)
    observed = np.concatenate([~np.isnan(cells[block]).all(axis=1) for block in blocks(cells)])
    return rows if observed.all() else rows.take(np.flatnonzero(observed))


def _require_room_to_warm_up(objective: Objective, steps: int | None, rows: int) -> None:
    """Raises InputError when the objective would never reach its final settings."""
    try:
        objective.scheduled(CLOCKED_STEPS if steps is None else steps, rows)
    except ValueError as error:
        raise InputError(str(error)) from error


def _require_value(asked: Objective, vae: VAE, x: Tensor, given: Tensor | None, rows: int) -> None:
    """Raises InputError when the objective has no value for these few rows and this model."""
    noise = torch.zeros(asked.num_samples, len(x), vae.num_latents)
    try:
        with torch.no_grad():
            asked.scheduled(CLOCKED_STEPS, rows)(vae, x, noise, torch.tensor(0.0), given)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from error


def _require_company(asked: Objective, held_out: int) -> None:
    """Raises InputError when rows that are compared with each other would stand alone."""
    if isinstance(asked, BatchObjective) and held_out < 2:
        raise InputError(
            f"expected at least 2 held-out rows for {type(asked).__name__}, which compares rows, "
            f"but {held_out} is held out; hold out more with --validation, or give more rows"
        )


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


def _device(vae: VAE) -> torch.device:
    return next(vae.parameters()).device


def _flat(x: Tensor) -> Tensor:
    return x.double().flatten(1)
