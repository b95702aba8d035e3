"""The verbs: each a question to a model, answered from its saved folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from unveil.cli.common import Common
from unveil.cli.fit import fit

if TYPE_CHECKING:
    import numpy as np

    from unveil.data.read import Rows
    from unveil.evidence.effort import Effort
    from unveil.fitted import Fitted

Model = Annotated[Path, Parameter(help="Folder that unveil fit wrote.")]
Data = Annotated[str, Parameter(help="Built-in name, file or folder of images.")]
Output = Annotated[Path, Parameter(name=["--output", "-o"], help="File to write.")]

DEFAULT = Common()


def _open(model: Path, common: Common) -> "Fitted":
    from unveil.fitted import load
    from unveil.fitting import find_device

    common.require_writable()
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
    common: Common = DEFAULT,
) -> None:
    """How good is the model on these rows, and how sure is that?"""
    from unveil.cli.screen import bar, show_evaluation
    from unveil.fitted import DELTA, DRAWS

    effort, seed = None, common.seed
    if replay is not None:
        _require_alone(draws, budget, delta)
        effort, seed = _settings_of(replay)
    fitted = _open(model, common)
    with bar("evaluating", common.quiet) as on_part:
        result = fitted.evaluate(
            data,
            draws=DRAWS if draws is None else draws,
            budget=budget,
            delta=DELTA if delta is None else delta,
            effort=effort,
            seed=seed,
            on_part=on_part,
        )
    show_evaluation(result, common.quiet)
    common.finish(result.document())


def _require_alone(*others: object) -> None:
    """Raises InputError for what would contradict an earlier evaluation's settings."""
    from unveil.errors import InputError

    if any(other is not None for other in others):
        raise InputError(
            "expected --replay without --draws, --budget or --delta, whose values it takes from "
            "the file, but one of them came as well; leave it out"
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
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(
            f"expected the --json of an earlier unveil evaluate in {replay}, but its settings are "
            f"not there ({error!r}); name a file that evaluate wrote"
        ) from error


def encode(model: Model, data: Data, /, *, output: Output, common: Common = DEFAULT) -> None:
    """Where does each row lie in latent space? Writes z0_mean, z0_sd, z1_mean, ..."""
    import numpy as np

    from unveil.cli.screen import say
    from unveil.data.write import TABLE_SUFFIXES, require_suffix, write

    require_suffix(output, TABLE_SUFFIXES)
    fitted = _open(model, common)
    rows = fitted.rows(data)
    mean, sd = fitted.encode(rows)
    columns: dict[str, np.ndarray] = {}
    for unit in range(mean.shape[1]):
        columns |= {f"z{unit}_mean": mean[:, unit], f"z{unit}_sd": sd[:, unit]}
    write(output, columns | dict(rows.labels))
    say(f"{len(rows)} rows, {mean.shape[1]} latents each: {output}", common.quiet)
    common.finish({"rows": len(rows), "latents": mean.shape[1], "output": str(output)})


def reconstruct(model: Model, data: Data, /, *, output: Output, common: Common = DEFAULT) -> None:
    """What does the model expect of each row, having seen it? Writes E[x|z] at the mean of q(z|x).

    A .png shows rows above their reconstructions.
    """
    import numpy as np

    fitted = _open_for_rows(model, output, common)
    rows = fitted.rows(data)
    values = fitted.reconstruct(rows)
    pairs = np.stack([rows.values.astype(np.float64), values], axis=1)[:MOST_PAIRS]
    _write_rows(fitted, output, values, rows, pictures=_in_rows_of_pairs(pairs))
    _tell(len(values), output, common)


def sample(
    model: Model,
    /,
    *,
    number: Annotated[int, Parameter(name=["-n", "--number"], help="How many rows.")],
    where: Annotated[
        tuple[str, ...], Parameter(help="COL=VALUE of a column that was given.", negative=())
    ] = (),
    output: Output,
    common: Common = DEFAULT,
) -> None:
    """What else could have been? Draws new rows x ~ p(x|z), z ~ p(z)."""
    import numpy as np

    from unveil.data.read import Rows

    fitted = _open_for_rows(model, output, common)
    values = fitted.sample(number, seed=common.seed, given=_values(where))
    given = {name: np.full(number, value) for name, value in _values(where).items()}
    _write_rows(fitted, output, values, Rows(values, given=given), pictures=values)
    _tell(number, output, common)


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
    fitted = _open_for_rows(model, output, common)
    values = fitted.interpolate(data, start, end, steps)
    _write_rows(fitted, output, values, None, pictures=values)
    _tell(steps, output, common)


def check(*, common: Common = DEFAULT) -> int:
    """Are the numbers right here? Runs models whose answers are known through every estimator."""
    from unveil.cli.screen import show_check
    from unveil.evidence.check import self_test

    common.require_writable()
    identities, estimates = self_test(common.seed)
    show_check(identities, estimates, common.quiet)
    lines = [*identities, *estimates]
    right = all(line.holds for line in lines)
    common.finish({"right": right, "lines": [vars(line) | {"holds": line.holds} for line in lines]})
    return 0 if right else 1


ALL = (fit, evaluate, encode, reconstruct, sample, interpolate, check)

MOST_PAIRS = 40
PAIRS_ABREAST = 10


def _open_for_rows(model: Path, output: Path, common: Common) -> "Fitted":
    """The model, once the output has a format that its rows can take."""
    from unveil.data.write import TABLE_SUFFIXES, require_suffix

    fitted = _open(model, common)
    drawable = (".png",) if fitted.schema.is_image else ()
    require_suffix(output, (*TABLE_SUFFIXES, *drawable))
    return fitted


def _values(where: tuple[str, ...]) -> dict[str, str]:
    """The values of COL=VALUE, as text. Raises InputError for anything else."""
    from unveil.errors import InputError

    for pair in where:
        if "=" not in pair:
            raise InputError(
                f"expected --where COL=VALUE, but {pair!r} came; write for instance --where dose=3"
            )
    return dict(pair.split("=", 1) for pair in where)


def _write_rows(
    fitted: "Fitted",
    output: Path,
    values: "np.ndarray",
    like: "Rows | None",
    *,
    pictures: "np.ndarray",
) -> None:
    """Write rows in the data's units, or their pictures where the suffix asks for them."""
    from unveil.data.read import Rows
    from unveil.data.write import write_rows
    from unveil.figures import picture_grid, save_picture

    if output.suffix.lower() == ".png":
        column, shape = fitted.schema.columns[0], fitted.schema.picture_shape
        low, high = (column.low, column.high) if column.is_bounded else _range(pictures)
        mosaic = picture_grid(
            pictures.reshape(len(pictures), *(shape or ())),
            columns=min(PAIRS_ABREAST, len(pictures)),
            low=low,
            high=high,
        )
        save_picture(output, mosaic)
        return
    names = () if fitted.schema.shared else fitted.schema.names
    labels, given = ({}, {}) if like is None else (like.labels, like.given)
    write_rows(output, Rows(values, names, labels, given=given))


def _range(values: "np.ndarray") -> tuple[float, float]:
    import numpy as np

    return float(np.nanmin(values)), float(np.nanmax(values))


def _in_rows_of_pairs(pairs: "np.ndarray") -> "np.ndarray":
    """Pairs (pair, 2, *event) as a sequence that fills a grid with rows above reconstructions."""
    import numpy as np

    if len(pairs) > PAIRS_ABREAST:  # the last line is filled up with blanks
        blanks = -len(pairs) % PAIRS_ABREAST
        pairs = np.concatenate([pairs, np.full((blanks, *pairs.shape[1:]), np.nan)])
    lines = [pairs[i : i + PAIRS_ABREAST] for i in range(0, len(pairs), PAIRS_ABREAST)]
    return np.concatenate([line[:, side] for line in lines for side in (0, 1)])


def _tell(number: int, output: Path, common: Common) -> None:
    from unveil.cli.screen import say

    say(f"{number} rows: {output}", common.quiet)
    common.finish({"rows": number, "output": str(output)})
