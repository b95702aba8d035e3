"""unveil fit: from data to a model folder, safe against every way of being stopped."""

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from unveil.cli.common import Common
from unveil.request import Request

if TYPE_CHECKING:
    from unveil.fitted import Fitted
    from unveil.fitting import Plan

CHECKPOINTS = "checkpoint"
# Stands beside the training states of a run until its model is written.
UNFINISHED = "unfinished"
MOST_ROWS_DRAWN = 2_000
PICTURES = 40


def fit(
    data: Annotated[str, Parameter(help="Built-in name, file or folder of images.")],
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Folder for the model.")],
    asked: Annotated[Request, Parameter(name="*")] = Request(),  # noqa: B008 (frozen)
    resume: Annotated[bool, Parameter(negative=(), help="Go on where a run stopped.")] = False,
    overwrite: Annotated[bool, Parameter(negative=(), help="Replace the model there.")] = False,
    common: Common = Common(),  # noqa: B008 (frozen)
) -> None:
    """Fit a variational autoencoder to rows of data, and say how good it is."""
    from unveil.cli.screen import show_columns, show_evaluation, training_line
    from unveil.fitting import finish, plan, train_planned
    from unveil.imputation.intervals import TOLD_LEVEL
    from unveil.storage import recover
    from unveil.training import Ending

    common.require_writable(read=[data, *([] if asked.schema is None else [asked.schema])])
    recover(output)
    _require_free(output, resume, overwrite)
    planned = plan(data, asked, seed=common.seed, device=common.device)
    if resume and (finished := _finished(output, planned)) is not None:
        common.say(f"{output} is finished already; nothing to do")
        show_evaluation(finished.evaluation, common)
        common.finish(finished.evaluation.document())
        return
    common.say(_summary(planned))
    likelihood = planned.settings.architecture.likelihood
    show_columns(planned.schema, planned.rows, likelihood, common)
    for note in planned.notes:
        common.say(f"note: {note}")
    dims = planned.schema.dims if planned.schema.has_masses_only else None
    with _stop_signals() as should_stop, training_line(dims, common) as on_progress:
        _begin(output / CHECKPOINTS, afresh=not resume)
        planned, vae, trained = train_planned(
            planned,
            device=common.device,
            checkpoints=output / CHECKPOINTS,
            on_progress=on_progress,
            should_stop=should_stop,
        )
    if trained.ending is Ending.INTERRUPTED:
        instead = " in place of --overwrite" if overwrite else ""
        raise KeyboardInterrupt(
            f"stopped and saved in {output}; the same command with --resume{instead} goes on from "
            "here"
        )
    fitted = finish(planned, vae, trained)
    _write(fitted, planned, output)
    seconds = fitted.history[-1]["seconds"] if fitted.history else 0.0
    common.say(f"{fitted.ending} after {seconds:.0f} s of training")
    show_evaluation(fitted.evaluation, common)
    if fitted.intervals.says(TOLD_LEVEL):
        common.say(fitted.intervals.sentence(TOLD_LEVEL))
    common.say(f"the model is in {output}, its pictures in {output / 'figures'}")
    common.finish(fitted.evaluation.document())


def _require_free(output: Path, resume: bool, overwrite: bool) -> None:
    """Raises InputError unless the folder is new, empty, or a model that may be gone on with."""
    from unveil.data.read import listed
    from unveil.errors import InputError
    from unveil.fitted import MODEL_FILES
    from unveil.fitting import SETTINGS

    if resume and overwrite:
        raise InputError(
            "expected --resume or --overwrite, but both came; --resume goes on with the run in "
            "the folder, --overwrite starts it afresh"
        )
    if output.is_file():
        raise InputError(f"expected a folder for the model, but {output} is a file; name another")
    if not output.is_dir() or not any(output.iterdir()):
        return
    names = {path.name for path in output.iterdir()}
    # A folder with anything else in it is somebody's.
    ours = {*MODEL_FILES, "model.json", "README.md", "figures", CHECKPOINTS}
    begun = (output / CHECKPOINTS / SETTINGS).is_file()
    if not (names <= ours and (begun or "model.json" in names)):
        raise InputError(
            f"expected a new folder or a model in {output}, but it holds something else "
            f"({listed(sorted(names - ours or names), most=3)}); name another folder"
        )
    if not (resume or overwrite):
        raise InputError(
            f"expected a new folder, but {output} holds a model; add --overwrite to replace it, "
            "--resume to go on with its run, or name another folder"
        )


def _finished(output: Path, planned: "Plan") -> "Fitted | None":
    """The model in the folder when its run is over; raises InputError when it was another run."""
    from unveil.fitted import load

    unfinished = (output / CHECKPOINTS / UNFINISHED).exists()
    if unfinished or not (output / "model.json").is_file():
        return None
    fitted = load(output)
    planned.settings.require_same(fitted.settings)
    return fitted


def _begin(checkpoints: Path, *, afresh: bool) -> None:
    """Mark a run as begun, after clearing the states of another where it starts afresh."""
    if afresh and checkpoints.is_dir():
        shutil.rmtree(checkpoints)
    checkpoints.mkdir(parents=True, exist_ok=True)
    (checkpoints / UNFINISHED).touch()


def _summary(planned: "Plan") -> str:
    """One line on what is fitted to what."""
    s, a = planned.settings, planned.settings.architecture
    latents = " + ".join(str(size) for size in a.latents)
    kinds = dict.fromkeys(planned.schema.columns[i].kind for i in planned.schema.modelled)
    return (
        f"{s.source}: {len(planned.training)} rows to train on, {len(planned.held_out)} held out"
        f"{_kept_apart(len(planned.calibration))}; "
        f"{planned.schema.dims} cells ({', '.join(kinds)}), {latents} latents"
    )


def _kept_apart(rows: int) -> str:
    """What is kept for scoring, in words."""
    return f" and {rows} kept apart for p-values" if rows else ", too few for p-values"


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask the run to stop at its next step; a second one stops it at once."""
    asked: list[int] = []
    before = {int(s): signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: object) -> None:
        asked.append(number)
        restore()

    for number in before:
        signal.signal(number, ask)
    try:
        yield lambda: bool(asked)
    finally:
        restore()


def _write(fitted: "Fitted", planned: "Plan", output: Path) -> None:
    """Put the model, its figures and its last training states in the folder, all at once."""
    from unveil.storage import replace_folder

    def fill(folder: Path) -> None:
        fitted.write_into(folder)
        (folder / "figures").mkdir()
        _draw(fitted, planned, folder / "figures")
        if (output / CHECKPOINTS).is_dir():
            ended = shutil.ignore_patterns(UNFINISHED)
            shutil.copytree(output / CHECKPOINTS, folder / CHECKPOINTS, ignore=ended)

    replace_folder(output, fill)


def _draw(fitted: "Fitted", planned: "Plan", folder: Path) -> None:
    """The figures of samples, reconstructions, latent map and training curves."""
    from unveil import figures

    rows = planned.held_out.take(slice(0, MOST_ROWS_DRAWN))
    few = rows.take(slice(0, PICTURES)) if fitted.schema.is_image else rows
    means, draws = fitted.sample_like(few, seed=fitted.settings.seed)
    label = next(iter(rows.labels.values()), None)
    drawn = {
        "samples": figures.samples(fitted.schema, few.dense, means, draws),
        "reconstructions": figures.reconstructions(
            fitted.schema, few.dense, fitted.reconstructed(few).dense
        ),
        "latent_map": figures.latent_map(fitted.encode(rows)[0], label),
        "training_curves": figures.training_curves(fitted.history),
    }
    for name, figure in drawn.items():
        figures.save(figure, folder / f"{name}.png")
