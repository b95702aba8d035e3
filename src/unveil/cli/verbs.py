"""The verbs: each a question to a model, answered from its saved folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from unveil.cli.common import Common
from unveil.cli.fit import fit

if TYPE_CHECKING:
    import numpy as np

    from unveil.data.read import Rows
    from unveil.evaluation import Evaluation
    from unveil.evidence.effort import Effort
    from unveil.fitted import Fitted
    from unveil.imputation.table import Imputation
    from unveil.scoring.rows import Scores
    from unveil.synthesis.report import SynthesisReport

Model = Annotated[Path, Parameter(help="Folder that unveil fit wrote.")]
Data = Annotated[str, Parameter(help="Built-in name, file or folder of images.")]
Output = Annotated[Path, Parameter(name=["--output", "-o"], help="File to write.")]

DEFAULT = Common()


def _open(model: Path, common: Common) -> "Fitted":
    from unveil.fitted import load
    from unveil.fitting import find_device

    return load(model, find_device(common.device))


def evaluate(
    model: Model,
    data: Data,
    /,
    *,
    draws: Annotated[int | None, Parameter(help="Draws of z per row; 1000 unless named.")] = None,
    budget: Annotated[
        float | None, Parameter(help="Seconds that annealing and diagnosing may take.")
    ] = None,
    delta: Annotated[
        float | None, Parameter(help="Chance that certified ends may fail with; 0.05 unless named.")
    ] = None,
    replay: Annotated[
        Path | None, Parameter(help="JSON of an earlier evaluation, whose settings are used.")
    ] = None,
    figure: Annotated[
        Path | None, Parameter(help="Picture of q(z|x)'s calibration: .png, .svg or .pdf.")
    ] = None,
    common: Common = DEFAULT,
) -> None:
    """How good is the model on these rows, and how sure is that?"""
    from unveil.cli.screen import bar, show_evaluation

    common.require_writable(figure, read=[model, data, *([] if replay is None else [replay])])
    effort, seed = None, common.seed
    if replay is not None:
        _require_alone(draws, budget, delta, common.named_seed)
        effort, seed = _settings_of(replay)
    fitted = _open(model, common)
    if figure is not None:
        _require_figure(figure)
    with bar("evaluating", common) as on_part:
        result = fitted.evaluate(
            data,
            draws=draws,
            budget=budget,
            delta=delta,
            effort=effort,
            seed=seed,
            on_part=on_part,
        )
    show_evaluation(result, common)
    if figure is not None:
        _draw_calibration(figure, result, common)
    common.finish(result.document())


def _require_figure(figure: Path) -> None:
    """Raises InputError before the work when the figure could not be written after it."""
    from unveil.data.write import require_suffix
    from unveil.figures import FIGURE_SUFFIXES

    require_suffix(figure, FIGURE_SUFFIXES)


def _draw_calibration(figure: Path, result: "Evaluation", common: Common) -> None:
    """Draw where truths stood among draws of q(z|x), or say why there is nothing to draw."""
    from unveil.figures import calibration, save

    if result.calibration is None:
        common.warn(f"{figure} was not drawn, as nothing was calibrated; raise --budget")
        return
    save(calibration(result.calibration["tests"]), figure)
    common.say(f"\ncalibration of q(z|x): {figure}")


def _require_alone(*others: object) -> None:
    """Raises InputError for what would contradict an earlier evaluation's settings."""
    from unveil.errors import InputError

    if any(other is not None for other in others):
        raise InputError(
            "expected --replay without --draws, --budget, --delta or --seed, whose values it takes "
            "from the file, but one of them came as well; leave it out"
        )


def _settings_of(replay: Path) -> "tuple[Effort, int]":
    """The settings and the seed of an earlier evaluation. Raises InputError for a file that holds
    none."""
    from unveil.errors import InputError
    from unveil.evidence.effort import Effort
    from unveil.storage import read_document

    try:
        settings = read_document(replay)["settings"]
        return Effort.from_document(settings), int(settings["seed"])
    except InputError:
        raise
    except (KeyError, TypeError) as error:
        raise InputError(
            f"expected the --json of an earlier unveil evaluate in {replay}, but its settings are "
            f"not there ({error!r}); name a file that evaluate wrote"
        ) from error
    except ValueError as error:
        raise InputError(
            f"expected the --json of an earlier unveil evaluate in {replay}, but its settings "
            f"cannot be: {error}"
        ) from error


def encode(model: Model, data: Data, /, *, output: Output, common: Common = DEFAULT) -> None:
    """Where does each row lie in latent space? Writes z0_mean, z0_sd, z1_mean, ...

    An .h5ad is a copy of DATA with obsm["X_unveil"] and obsm["X_unveil_sd"].
    """
    import numpy as np

    from unveil.data.omics import SUFFIX, require_copy
    from unveil.data.write import (
        ROW_SUFFIXES,
        require_own_names,
        require_suffix,
        write,
        write_embedded,
    )

    require_suffix(output, ROW_SUFFIXES)
    common.require_writable(output, read=[model, data])
    copies = output.suffix.lower() == SUFFIX
    if copies:
        require_copy(Path(data), output)
    fitted = _open(model, common)
    rows = fitted.rows(data)
    mean, sd = fitted.encode(rows)
    columns: dict[str, np.ndarray] = {}
    for unit in range(mean.shape[1]):
        columns |= {f"z{unit}_mean": mean[:, unit], f"z{unit}_sd": sd[:, unit]}
    require_own_names(rows.labels, columns)
    if copies:
        write_embedded(output, Path(data), mean, sd)
    else:
        write(output, columns | dict(rows.labels))
    common.say(f"{len(rows)} rows, {mean.shape[1]} latents each: {output}")
    common.finish({"rows": len(rows), "latents": mean.shape[1], "output": str(output)})


def reconstruct(model: Model, data: Data, /, *, output: Output, common: Common = DEFAULT) -> None:
    """What does the model expect of each row, having seen it? Writes E[x|z] at the mean of q(z|x).

    A .png shows rows above their reconstructions.
    """
    import numpy as np

    common.require_writable(output, read=[model, data])
    fitted = _open_for_rows(model, output, common)
    rows = fitted.rows(data)
    made = fitted.reconstructed(rows)
    few = slice(0, MOST_PAIRS)
    pairs = np.stack([np.array(rows.values[few], np.float64), made.dense[few]], axis=1)
    _write_rows(fitted, output, made, pictures=_in_rows_of_pairs(pairs))
    _tell(len(made), output, common)


def sample(
    model: Model,
    /,
    *,
    number: Annotated[int, Parameter(name=["-n", "--number"], help="How many rows.")],
    where: Annotated[
        tuple[str, ...],
        Parameter(help="COL=VALUE or COL=LOW..HIGH that rows must meet.", negative=()),
    ] = (),
    report: Annotated[
        Path | None,
        Parameter(help="Compare the rows with real ones, and write how here: .md or .json."),
    ] = None,
    data: Annotated[
        str | None, Parameter(help="For --report: real rows, trained on and held out.")
    ] = None,
    target: Annotated[
        str | None, Parameter(help="For --report: the column to be learned from drawn rows.")
    ] = None,
    output: Output,
    common: Common = DEFAULT,
) -> None:
    """What else could have been? Draws new rows x ~ p(x|z), z ~ p(z), under conditions."""
    from unveil.cli.screen import bar

    _require_whole(report, data, target, where)
    common.require_writable(output, report, read=[model, *([] if data is None else [data])])
    fitted = _open_for_rows(model, output, common)
    values = _values(where)
    given = {name: value for name, value in values.items() if name in fitted.covariates.names}
    _require_single(given)
    asked = {name: _condition(value) for name, value in values.items() if name not in given}
    found: dict[str, object] = {}
    if asked:
        drawn, behind = fitted.sampled_where(number, asked, seed=common.seed, given=given)
        found = {"effective_draws": behind.ess, "proposals": behind.num_proposals}
        common.say(f"{behind.ess:.0f} of {behind.num_proposals} draws count in effect")
    else:
        drawn = fitted.sampled(number, seed=common.seed, given=given)
    for name, value in fitted.covariates.usual.items():
        if name not in given:
            told = f"drawn at the usual {name} of {value:.9g}; --where {name}=N draws at another"
            common.say(told)
    beside = None
    if report is not None:
        with bar("comparing", common) as on_part:
            beside = fitted.sample_report(
                drawn, data, target=target, seed=common.seed, on_part=on_part
            )
        found["report"] = beside.document()
    _write_rows(fitted, output, drawn, pictures=drawn.dense)
    if report is not None and beside is not None:
        _write_report(report, beside, common)
    _tell(number, output, common, **found)


def _require_whole(
    report: Path | None, data: str | None, target: str | None, where: tuple[str, ...]
) -> None:
    """Nothing, once a report has all that it takes, and nothing is asked of one that is not made.

    Raises InputError otherwise.
    """
    from unveil.data.write import require_suffix
    from unveil.errors import InputError

    if report is None:
        if (data, target) != (None, None):
            raise InputError(
                "expected --report FILE with --data and --target, which say what it compares the "
                "rows with, but it did not come; name the file, or leave them out"
            )
        return
    require_suffix(report, REPORT_SUFFIXES)
    if data is None:
        raise InputError(
            "expected --data DATA with --report, real rows to compare with, but it did not come; "
            "name the data that the model was fitted to"
        )
    if where:
        raise InputError(
            "expected --report of rows drawn without conditions, as real rows have none, but "
            f"--where {where[0]} came; leave one of them out"
        )


def _write_report(path: Path, report: "SynthesisReport", common: Common) -> None:
    """Write a report in the format that its suffix names, and say it in a few lines."""
    from unveil.storage import write_bytes, write_document

    if path.suffix.lower() == REPORT_SUFFIXES[0]:
        write_bytes(path, report.markdown().encode())
    else:
        write_document(path, {"format_version": 1, **report.document()})
    for sentence in (*report.sentences(), *report.notes):
        common.say(sentence)
    common.say(f"report: {path}")


def score(
    model: Model,
    data: Data,
    /,
    *,
    why: Annotated[
        bool, Parameter(negative=(), help="Name the odd cells of each row (a heuristic).")
    ] = False,
    top: Annotated[
        int | None, Parameter(help="Name them of so many rows, the most unusual.")
    ] = None,
    kind: Annotated[
        str | None, Parameter(help="evidence (the default), reconstruction or typicality.")
    ] = None,
    draws: Annotated[int | None, Parameter(help="Draws of z per row; 100 unless named.")] = None,
    label: Annotated[
        str | None,
        Parameter(help="Column that marks odd rows by 1: tells how well each kind finds them."),
    ] = None,
    output: Output,
    common: Common = DEFAULT,
) -> None:
    """How unusual is each row? Writes log_evidence and p_value, and why with --why."""
    import numpy as np

    from unveil.cli.screen import bar
    from unveil.data.admit import without_impossible
    from unveil.data.write import TABLE_SUFFIXES, require_own_names, require_suffix, write
    from unveil.scoring.densities import DRAWS
    from unveil.scoring.kinds import EVIDENCE

    require_suffix(output, [s for s in TABLE_SUFFIXES if not (why and s == ".npy")])
    common.require_writable(output, read=[model, data])
    fitted = _open(model, common)
    rows = fitted.read(data, label=() if label is None else (label,))
    labels = without_impossible(fitted.schema, rows)[0].labels
    require_own_names(labels, ("log_evidence", "p_value", "why", kind or EVIDENCE))
    told = None
    if label is not None:
        told = fitted.tells_odd_rows(
            rows, label, draws=DRAWS if draws is None else draws, seed=common.seed
        )
    with bar("scoring", common) as on_part:
        scores = fitted.score(
            rows,
            why=why,
            top=top,
            kind=EVIDENCE if kind is None else kind,
            draws=DRAWS if draws is None else draws,
            seed=common.seed,
            on_part=on_part,
        )
    write(output, _columns_of(scores) | dict(labels))
    for note in scores.notes:
        common.warn(note)
    for sentence in () if told is None else told.sentences():
        common.say(sentence)
    known = scores.p_value[~np.isnan(scores.p_value)]
    unusual = int((known <= UNUSUAL).sum())
    common.say(
        f"{len(rows)} rows, {unusual} of {len(known)} with a p-value of {UNUSUAL} or less: {output}"
    )
    common.finish(
        {
            "rows": len(rows),
            "kind": scores.kind,
            "unusual": unusual,
            "notes": list(scores.notes),
            "telling": None if told is None else told.document(),
            "output": str(output),
        }
    )


def _columns_of(scores: "Scores") -> dict[str, Any]:
    """What is written of scores, column by column."""
    import numpy as np

    from unveil.scoring.kinds import EVIDENCE

    own = {} if scores.kind == EVIDENCE else {scores.kind: scores.score}
    why = {} if scores.why is None else {"why": np.array(scores.reasons)}
    return {"log_evidence": scores.log_evidence, **own, "p_value": scores.p_value, **why}


def impute(
    model: Model,
    data: Data,
    /,
    *,
    draws: Annotated[
        int | None, Parameter(help="Completed tables to write below one another.")
    ] = None,
    bootstrap: Annotated[
        int | None,
        Parameter(help="The same, each by a model fitted anew to resampled rows of DATA."),
    ] = None,
    intervals: Annotated[
        float | None, Parameter(help="Level of intervals COL_lo, COL_hi, such as 0.9.")
    ] = None,
    unseen: Annotated[
        str, Parameter(help="Words never seen in training: error or missing.")
    ] = "error",
    shift: Annotated[
        float, Parameter(help="Standard deviations to move what fills gaps of numbers by.")
    ] = 0.0,
    output: Output,
    common: Common = DEFAULT,
) -> None:
    """What is in the gaps? Writes the rows with their missing cells filled."""
    from functools import partial

    from unveil.bootstrap import REFITTED, bootstrapped
    from unveil.cli.screen import bar
    from unveil.errors import InputError
    from unveil.imputation.table import ASSUMPTION, HELD_FIXED

    if draws is not None and bootstrap is not None:
        raise InputError(
            "expected --draws or --bootstrap, but both came; take --bootstrap for tables that "
            "carry the uncertainty of the parameters"
        )
    common.require_writable(output, read=[model, data])
    fitted = _open_for_rows(model, output, common)
    rows = fitted.rows(data, unseen)
    if not rows.names and (draws, bootstrap, intervals) != (None, None, None):
        raise InputError(
            "expected named columns to write draws or intervals of, but these rows have none; "
            "leave --draws, --bootstrap and --intervals out, or use Fitted.imputation in Python"
        )
    with bar("imputing", common) as on_part:
        if bootstrap is None:
            drawn = None if draws is None else HELD_FIXED
            completed = partial(fitted.imputation, draws=draws)
        else:
            drawn = REFITTED
            completed = partial(bootstrapped, fitted, models=bootstrap)
        found = completed(
            data=rows,
            intervals=intervals,
            shift=shift,
            seed=common.seed,
            on_part=on_part,
        )
    _write_completed(fitted, output, rows, found)
    known = None if intervals is None else fitted.intervals.sentence(intervals)
    _tell_of_gaps(output, rows, found, [drawn, known], common)
    common.finish(
        {
            "rows": len(rows),
            "output": str(output),
            "filled": found.filled,
            "assumption": ASSUMPTION,
            "drawn": drawn,
            "intervals": known,
            "warnings": list(found.warnings),
        }
    )


def _write_completed(fitted: "Fitted", output: Path, rows: "Rows", found: "Imputation") -> None:
    """Write completed rows as the frame they came as, as a table or as pictures."""
    from dataclasses import replace

    from unveil.data.write import FRAME_SUFFIXES, write_frame, write_rows

    if rows.frame is not None and output.suffix.lower() in FRAME_SUFFIXES:
        write_frame(output, found.as_they_came())
    elif rows.names:
        write_rows(output, found.table())
    else:
        made = replace(rows, values=found.values)
        _write_rows(fitted, output, made, pictures=made.dense)


def _tell_of_gaps(
    output: Path, rows: "Rows", found: "Imputation", known: list[str | None], common: Common
) -> None:
    """How many gaps were filled, on what assumption, and what is ``known`` of what fills them."""
    from unveil.imputation.table import ASSUMPTION

    filled = found.filled
    common.say(f"{sum(filled.values())} gaps filled in {len(rows)} rows: {output}")
    for name, number in filled.items() if rows.names else ():
        common.say(f"  {name}: {number}")
    for sentence in (ASSUMPTION, *known):
        if sentence is not None and sentence not in found.warnings:
            common.say(sentence)
    for warning in found.warnings:
        common.warn(warning)


def interpolate(
    model: Model,
    data: Data,
    /,
    *,
    start: Annotated[int, Parameter(name="--from", help="First row, counted from 0.")],
    end: Annotated[int, Parameter(name="--to", help="Last row, counted from 0.")],
    steps: Annotated[int, Parameter(help="Rows to write, both ends included.")] = 10,
    output: Output,
    common: Common = DEFAULT,
) -> None:
    """What lies between two rows? Decodes the path between them in latent space."""
    common.require_writable(output, read=[model, data])
    fitted = _open_for_rows(model, output, common)
    made = fitted.interpolated(data, start, end, steps)
    _write_rows(fitted, output, made, pictures=made.dense)
    _tell(steps, output, common)


def check(*, common: Common = DEFAULT) -> int:
    """Are the numbers right here? Runs models whose answers are known through every estimator."""
    from unveil.check.lines import SelfTest
    from unveil.check.run import self_test
    from unveil.cli.screen import show_check

    common.require_writable()
    test = SelfTest(tuple(self_test(common.seed)))
    show_check(test, common)
    lines = [vars(line) | {"holds": line.holds} for line in test.lines]
    common.finish({"right": test.right, "lines": lines})
    return 0 if test.right else 1


ALL = (fit, evaluate, encode, reconstruct, sample, score, impute, interpolate, check)

# Rows that one in so many would be as unusual as are counted on the screen.
UNUSUAL = 0.01
REPORT_SUFFIXES = (".md", ".json")
MOST_PAIRS = 40
PAIRS_ABREAST = 10


def _open_for_rows(model: Path, output: Path, common: Common) -> "Fitted":
    """The model, once the output has a format that its rows can take."""
    from unveil.data.write import ROW_SUFFIXES, require_suffix

    fitted = _open(model, common)
    drawable = (".png",) if fitted.schema.is_image else ()
    require_suffix(output, (*ROW_SUFFIXES, *drawable))
    return fitted


def _values(where: tuple[str, ...]) -> dict[str, str]:
    """The values of COL=VALUE, as text. Raises InputError for anything else, or a COL twice."""
    from unveil.data.read import listed
    from unveil.errors import InputError

    for pair in where:
        if "=" not in pair:
            raise InputError(
                f"expected --where COL=VALUE, but {pair!r} came; write for instance --where dose=3"
            )
    names = [pair.split("=", 1)[0] for pair in where]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"expected one --where for each column, but {listed(twice)} came more than once; "
            "write an interval as --where COL=LOW..HIGH"
        )
    return dict(pair.split("=", 1) for pair in where)


def _require_single(given: dict[str, str]) -> None:
    """Raises InputError for an interval of a covariate."""
    from unveil.errors import InputError

    for name, value in given.items():
        if isinstance(_condition(value), tuple):
            raise InputError(
                f"expected one value of covariate {name!r}, which rows are drawn under, but the "
                f"interval {value!r} came; write --where {name}=VALUE"
            )


def _condition(text: str) -> "str | tuple[str | None, str | None]":
    """A value, or the ends of LOW..HIGH, one of which may be left open.

    >>> _condition("3"), _condition("20..40"), _condition("..5")
    ('3', ('20', '40'), (None, '5'))
    """
    from unveil.errors import InputError

    if "..." in text:
        raise InputError(
            f"expected the ends of an interval with two dots between them, but {text!r} came; "
            "write for instance --where age=20..40"
        )
    low, dots, high = text.partition("..")
    return (low or None, high or None) if dots else text


def _write_rows(fitted: "Fitted", output: Path, rows: "Rows", *, pictures: "np.ndarray") -> None:
    """Write rows in the data's units, or their pictures where the suffix asks for them."""
    from unveil.data.write import write_rows
    from unveil.figures import black_and_white, picture_grid, save_picture

    if output.suffix.lower() == ".png":
        low, high = black_and_white(fitted.schema, pictures)
        mosaic = picture_grid(
            pictures.reshape(len(pictures), *(fitted.schema.picture_shape or ())),
            columns=min(PAIRS_ABREAST, len(pictures)),
            low=low,
            high=high,
        )
        save_picture(output, mosaic)
        return
    write_rows(output, rows)


def _in_rows_of_pairs(pairs: "np.ndarray") -> "np.ndarray":
    """Pairs (pair, 2, *event) as a sequence that fills a grid with rows above reconstructions."""
    import numpy as np

    if len(pairs) > PAIRS_ABREAST:  # the last line is filled up with blanks
        blanks = -len(pairs) % PAIRS_ABREAST
        pairs = np.concatenate([pairs, np.full((blanks, *pairs.shape[1:]), np.nan)])
    lines = [pairs[i : i + PAIRS_ABREAST] for i in range(0, len(pairs), PAIRS_ABREAST)]
    return np.concatenate([line[:, side] for line in lines for side in (0, 1)])


def _tell(number: int, output: Path, common: Common, **more: object) -> None:
    common.say(f"{number} rows: {output}")
    common.finish({"rows": number, **more, "output": str(output)})
