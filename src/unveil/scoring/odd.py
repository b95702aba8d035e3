"""The odd cells of a row: each is hidden in turn, and held against what the rest makes of it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from unveil.data.encode import decode
from unveil.data.native import NUMBER
from unveil.data.schema import ANGLE, BINARY, CATEGORY, Column, Schema
from unveil.distributions import draw
from unveil.errors import InputError
from unveil.evidence.simulated import simulate
from unveil.imputation.intervals import TOLD_LEVEL
from unveil.latent import LatentVariableModel
from unveil.noise import generator
from unveil.scoring.calibration import FEWEST_CALIBRATION, Calibration, KeptRows
from unveil.scoring.densities import DRAWS, HIDDEN, hidden, log_densities_of_cells
from unveil.shapes import Given, Rows
from unveil.tiles import Tile, row_digests, weighed

# At most so many cells of a row are named, and none that is e² times less probable, or less, than
# is usual for its column.
MOST_NAMED = 3
LEAST_SURPRISE = 2.0
# The range that is told is by so many draws; the usual density is that of so many rows.
DRAWS_OF_RANGE = 500
ROWS_OF_USUAL = 200


@final
@dataclass(frozen=True, kw_only=True)
class OddCell:
    """A cell that the rest of its row does not expect: its value beside what was expected, in the
    data's own units, and by how many nats it is less probable than is usual for its column."""

    column: str
    value: str
    expected: str
    surprise: float

    @property
    def sentence(self) -> str:
        """The cell in words."""
        return f"{self.column} {self.value}, expected {self.expected} given the rest"


def usual_log_densities(
    model: LatentVariableModel,
    calibration: Calibration,
    like: Rows,
    *,
    given: Given = None,
    num_samples: int = DRAWS,
    seed: int = 0,
) -> Float[Tensor, " cell"]:
    """The median over rows of log p(x_j|x₋ⱼ), nats, for each cell of rows ``like``.

    Over calibration rows, or where there are too few of them, over rows that the model makes.
    """
    if isinstance(calibration, KeptRows) and calibration.num_rows >= FEWEST_CALIBRATION:
        x, c = calibration.x[:ROWS_OF_USUAL], calibration.given
        c = None if c is None else c[:ROWS_OF_USUAL]
    else:
        c = None if given is None else given[:1].expand(ROWS_OF_USUAL, -1)
        x, _ = simulate(model, torch.zeros_like(like[:1]).expand(ROWS_OF_USUAL, -1), c, seed=seed)
    found = log_densities_of_cells(model, x, given=c, num_samples=num_samples, seed=seed)
    return found.nanmedian(0).values


def odd_cells(
    model: LatentVariableModel,
    schema: Schema,
    x: Rows,
    calibration: Calibration,
    *,
    given: Given = None,
    num_samples: int = DRAWS,
    seed: int = 0,
    on_part: Callable[[float], None] = lambda fraction: None,
) -> tuple[tuple[OddCell, ...], ...]:
    """The cells of each row that the rest of it makes least probable, the oddest first.

        surprise_j = median over calibration rows of log p(x_j|x₋ⱼ) − log p(x_j|x₋ⱼ)

    so that columns of different units compare; at most ``MOST_NAMED`` of a row, each above
    ``LEAST_SURPRISE``. The range expected holds 90 % of p(x_j|x₋ⱼ). Heuristic. Raises InputError
    for rows that are no table.
    """
    require_table(schema)
    usual = usual_log_densities(
        model, calibration, x, given=given, num_samples=num_samples, seed=seed
    )
    found = log_densities_of_cells(
        model, x, given=given, num_samples=num_samples, seed=seed, on_part=on_part
    )
    surprise = (usual - found).nan_to_num(nan=0.0, posinf=math.inf)
    order = surprise.argsort(dim=1, descending=True, stable=True)[:, :MOST_NAMED]
    return tuple(
        tuple(
            _odd_cell(model, schema, x[[row]], _of_row(given, row), cell, one, seed)
            for cell in order[row].tolist()
            if (one := float(surprise[row, cell])) > LEAST_SURPRISE
        )
        for row in range(len(x))
    )


def impossible_cells(schema: Schema, cells: Mapping[str, str]) -> tuple[OddCell, ...]:
    """Cells that their columns cannot hold, each in words, by the column's name.

    >>> a = Column("a", "binary", step=1.0, low=0.0, high=1.0)
    >>> schema = Schema((1,), (a,), gaps=False)
    >>> impossible_cells(schema, {"a": "7"})[0].sentence
    'a 7, expected 0 or 1 given the rest'
    """
    expected = {column.name: column.expected for column in schema.columns}
    return tuple(
        OddCell(column=name, value=value, expected=expected[name], surprise=math.inf)
        for name, value in cells.items()
    )


def require_table(schema: Schema) -> None:
    """Raises InputError for a model of cells that are all alike, where none can be odd by name."""
    if schema.shared:
        raise InputError(
            "expected a table to name odd cells of, but the model is of cells that are all alike; "
            "leave why out"
        )


def _of_row(given: Given, row: int) -> Given:
    return None if given is None else given[[row]]


def _odd_cell(
    model: LatentVariableModel,
    schema: Schema,
    x: Float[Tensor, "1 cell"],
    given: Float[Tensor, "1 covariate"] | None,
    cell: int,
    surprise: float,
    seed: int,
) -> OddCell:
    place = schema.modelled[cell]
    column = schema.columns[place]
    made, weights = _made(model, x, given, cell, seed)
    values = np.append(made, float(x[0, cell]))
    rows = np.zeros((len(values), x.shape[1]))
    rows[:, cell] = values
    *expected, value = decode(schema, rows)[:, place].tolist()
    told = EXPECTED.get(column.kind, _range)(column, np.array(expected), weights)
    return OddCell(
        column=column.name, value=_written(column, value), expected=told, surprise=surprise
    )


def _made(
    model: LatentVariableModel,
    x: Float[Tensor, "1 cell"],
    given: Float[Tensor, "1 covariate"] | None,
    cell: int,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draws of a row's cell from p(x_j|x₋ⱼ), model units, and their weights, which sum to 1.

    One row at a time, with randomness of its own: nothing beside it can change what it is told.
    """
    rest, _ = hidden(x, cell)
    key = row_digests(rest, given)
    randomness = generator(seed, HIDDEN, *key[0].tolist(), device=x.device)
    log_w, made = [], []
    with torch.no_grad():
        tile = Tile(x=rest, given=given, count=1)
        noise = tile.noise(seed, HIDDEN, model.num_latents)
        for likelihood, _, of_chunk in weighed(model, tile, DRAWS_OF_RANGE, noise):
            log_w.append(of_chunk[:, 0])
            made.append(draw(likelihood, (), randomness)[:, 0, cell].double())
    return torch.cat(made).cpu().numpy(), torch.cat(log_w).softmax(0).cpu().numpy()


Draws: TypeAlias = NDArray[np.float64]


def _range(column: Column, values: Draws, weights: Draws) -> str:
    """The values between which 90 % lie."""
    low, high = (_written(column, value) for value in _ends(values, weights))
    return low if low == high else f"{low} to {high}"


def _arc(column: Column, values: Draws, weights: Draws) -> str:
    """The angles between which 90 % lie, about their mean direction."""
    turns = (values - column.low) / column.unit
    mean = np.angle((weights * np.exp(1j * turns)).sum())
    around = mean + np.angle(np.exp(1j * (turns - mean)))
    ends = np.array(_ends(around, weights)) * column.unit + column.low
    low, high = (_written(column, value) for value in column.settle(ends).tolist())
    return f"{low} to {high}"


def _most_probable(column: Column, values: Draws, weights: Draws) -> str:
    """The most probable class and its probability."""
    classes, which = np.unique(values, return_inverse=True)
    shares = np.bincount(which, weights=weights)
    best = int(shares.argmax())
    return f"{_written(column, float(classes[best]))} ({shares[best]:.0%})"


def _ends(values: Draws, weights: Draws) -> list[float]:
    """The weighted quantiles between which 90 % lie."""
    order = np.argsort(values)
    up_to = np.cumsum(weights[order])
    share = (1 - TOLD_LEVEL) / 2
    return values[order][np.searchsorted(up_to, np.array([share, 1 - share]) * up_to[-1])].tolist()


def _written(column: Column, value: float) -> str:
    """A value as a person writes it: a measured one by four digits, others in full."""
    is_measured = column.type == NUMBER and column.step == 0
    return f"{value:.4g}" if is_measured else column.written(value)


# What to tell of a cell's distribution, by its column's kind; a range where nothing else is said.
EXPECTED: Mapping[str, Callable[[Column, Draws, Draws], str]] = {
    BINARY: _most_probable,
    CATEGORY: _most_probable,
    ANGLE: _arc,
}
