"""How usual a row is: its log-evidence, a p-value beside rows kept apart, and the odd cells.

A row's score is a function of the row. Its p-value compares it with rows that the model has never
seen, each with the same cells hidden, and holds whatever the model is. Which cells are responsible
is a heuristic: each is hidden in turn, and held against what the rest of the row makes of it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from unveil.data.encode import decode
from unveil.data.native import NUMBER
from unveil.data.read import listed
from unveil.data.schema import ANGLE, BINARY, CATEGORY, Column, Schema
from unveil.distributions import draw
from unveil.errors import InputError
from unveil.evidence.importance import Importance, importance
from unveil.evidence.simulated import simulate
from unveil.evidence.weights import log_sum_exp
from unveil.latent import LatentVariableModel
from unveil.noise import RowStreams, generator
from unveil.shapes import Given, PerRow, Rows
from unveil.tiles import (
    RowsAlike,
    chunks,
    floats_per_draw,
    log_likelihoods,
    row_digests,
    tiles,
)

# Draws of z per row, of the rows that are scored and of those that they are compared with.
DRAWS = 100
# Beside fewer rows a p-value cannot be below a twentieth, and says nothing.
FEWEST_CALIBRATION = 20
# Rows that are weighed to find p-values: each pattern of missing cells takes all of them anew.
MOST_WEIGHED = 100_000
ROWS_AT_ONCE = 4096

Others: TypeAlias = Float[Tensor, " other"]

# ---- kinds of score -----------------------------------------------------------------------------


class Kind(ABC):
    """What a row's draws say of how usual it is: the higher, the more usual."""

    @abstractmethod
    def figure(self, of: Importance) -> PerRow:
        """What is compared, nats, (row,)."""

    @abstractmethod
    def score(self, own: PerRow, others: Others) -> PerRow:
        """The score of rows with a figure of their own, beside those of calibration rows."""

    @abstractmethod
    def as_unusual(self, own: PerRow, others: Others) -> Tensor:
        """How many of the others are at least as unusual as each row, (row,)."""


class Absolute(Kind, ABC):
    """A figure that is a score by itself."""

    def score(self, own: PerRow, others: Others) -> PerRow:
        return own

    def as_unusual(self, own: PerRow, others: Others) -> Tensor:
        return torch.searchsorted(others.sort().values, own.contiguous(), right=True)


@final
class Evidence(Absolute):
    """log p(x) by K importance-weighted draws: how probable the row is, all in all."""

    def figure(self, of: Importance) -> PerRow:
        return of.log_evidence


@final
class Reconstruction(Absolute):
    """E_q[log p(x|z)]: how well the row's own latents explain it, however improbable they are."""

    def figure(self, of: Importance) -> PerRow:
        return -of.distortion


@final
class Typicality(Kind):
    """−|log p(x) − mean|: a row may be too probable as well, such as a blank among pictures.

    The mean is over the calibration rows; to count those that are as unusual, over them and the
    row itself, which leaves all of them alike. Source: Nalisnick et al. 2019.
    """

    def figure(self, of: Importance) -> PerRow:
        return of.log_evidence

    def score(self, own: PerRow, others: Others) -> PerRow:
        return -(own - others.mean()).abs()

    def as_unusual(self, own: PerRow, others: Others) -> Tensor:
        middle = (others.sum() + own) / (len(others) + 1)
        apart = (own - middle).abs()
        ascending = others.sort().values
        below = torch.searchsorted(ascending, middle - apart, right=True)
        above = len(others) - torch.searchsorted(ascending, middle + apart)
        return torch.where(apart == 0, len(others), below + above)


EVIDENCE = "evidence"
KINDS: Mapping[str, Kind] = {
    EVIDENCE: Evidence(),
    "reconstruction": Reconstruction(),
    "typicality": Typicality(),
}


def kind_of(name: str) -> Kind:
    """The kind of score that a name stands for. Raises InputError for an unknown one."""
    if name not in KINDS:
        raise InputError(
            f"expected the kind of score to be one of {listed(KINDS)}, but {name!r} came; choose "
            "one of them"
        )
    return KINDS[name]


# ---- what rows are compared with ----------------------------------------------------------------


class Calibration(ABC):
    """What the model makes of rows that neither trained it nor chose its weights."""

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def figures(
        self,
        model: LatentVariableModel,
        patterns: Bool[Tensor, "pattern cell"],
        kind: Kind,
        num_samples: int,
        seed: int,
    ) -> Iterator[PerRow]:
        """For each pattern of observed cells, the figure of every row that shows them all, with
        the others hidden, float64 (row,): none where nothing can be compared."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What is saved."""


@final
@dataclass(frozen=True, kw_only=True)
class KeptRows(Calibration):
    """The rows themselves, in model units, which any cells can be hidden of."""

    x: Rows
    given: Given = None

    @property
    def num_rows(self) -> int:
        return len(self.x)

    def figures(
        self,
        model: LatentVariableModel,
        patterns: Bool[Tensor, "pattern cell"],
        kind: Kind,
        num_samples: int,
        seed: int,
    ) -> Iterator[PerRow]:
        shows = ~torch.isnan(self.x).flatten(1)
        for some in patterns.split(max(1, ROWS_AT_ONCE // max(1, len(self.x)))):
            fitting = [(shows | ~shown).all(1).nonzero()[:, 0] for shown in some]
            hidden = [self._hidden(rows, shown) for rows, shown in zip(fitting, some, strict=True)]
            places = torch.cat(fitting)
            if not len(places):
                yield from (torch.empty(0, dtype=torch.float64) for _ in fitting)
                continue
            given = None if self.given is None else self.given[places]
            of = importance(
                model, torch.cat(hidden), num_samples=num_samples, seed=seed, given=given
            )
            yield from kind.figure(of).split([len(rows) for rows in fitting])

    def _hidden(self, rows: Tensor, shown: Tensor) -> Tensor:
        """Those rows with nothing left but the cells shown."""
        x = self.x[rows]
        return torch.where(shown.view(x.shape[1:]), x, torch.nan)

    def tensors(self) -> dict[str, Tensor]:
        return {"x": self.x, **({} if self.given is None else {"given": self.given})}


@final
@dataclass(frozen=True, kw_only=True)
class KeptFigures(Calibration):
    """The figures of rows that are not kept themselves, such as pictures: of complete rows alone,
    and by one number of draws. ``by_kind`` holds those of each name in KINDS, float64 (row,)."""

    num_samples: int
    by_kind: Mapping[str, PerRow]

    @classmethod
    def of(
        cls, model: LatentVariableModel, x: Rows, given: Given, num_samples: int
    ) -> "KeptFigures":
        """Those of the complete rows among x."""
        complete = ~torch.isnan(x).flatten(1).any(1)
        nothing = {name: torch.empty(0, dtype=torch.float64) for name in KINDS}
        if not bool(complete.any()):
            return cls(num_samples=num_samples, by_kind=nothing)
        c = None if given is None else given[complete]
        of = importance(model, x[complete], num_samples=num_samples, given=c)
        by_kind = {name: kind.figure(of) for name, kind in KINDS.items()}
        return cls(num_samples=num_samples, by_kind=by_kind)

    @property
    def num_rows(self) -> int:
        return len(self.by_kind[EVIDENCE])

    def figures(
        self,
        model: LatentVariableModel,
        patterns: Bool[Tensor, "pattern cell"],
        kind: Kind,
        num_samples: int,
        seed: int,
    ) -> Iterator[PerRow]:
        (kept,) = (self.by_kind[name] for name, one in KINDS.items() if one is kind)
        for shown in patterns:
            known = num_samples == self.num_samples and bool(shown.all())
            yield kept if known else kept[:0]

    def tensors(self) -> dict[str, Tensor]:
        return {"draws": torch.tensor(self.num_samples), **self.by_kind}


def calibration_from(tensors: Mapping[str, Tensor], device: torch.device) -> Calibration:
    """The calibration whose ``tensors`` were saved."""
    if "x" in tensors:
        return KeptRows(**{name: kept.to(device) for name, kept in tensors.items()})
    by_kind = {name: tensors[name] for name in KINDS}
    return KeptFigures(num_samples=int(tensors["draws"]), by_kind=by_kind)


# ---- scores -------------------------------------------------------------------------------------


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


@final
@dataclass(frozen=True, kw_only=True)
class Scores:
    """How usual each row is, float64 (row,) each.

    ``log_evidence`` estimates log p(x), nats, a lower bound in expectation. ``score`` is what
    ``kind`` compares, the higher the more usual; ``p_value`` is NaN where too few calibration rows
    can be compared, and ``notes`` say why. ``why`` names each row's odd cells; None if not asked.
    """

    kind: str
    log_evidence: NDArray[np.float64]
    score: NDArray[np.float64]
    p_value: NDArray[np.float64]
    notes: tuple[str, ...] = ()
    why: tuple[tuple[OddCell, ...], ...] | None = None

    @property
    def reasons(self) -> tuple[str, ...]:
        """The odd cells of each row in one line of words; "" where there is none."""
        return tuple("; ".join(cell.sentence for cell in cells) for cells in self.why or ())


def score_rows(
    model: LatentVariableModel,
    x: Rows,
    calibration: Calibration,
    *,
    given: Given = None,
    kind: str = EVIDENCE,
    num_samples: int = DRAWS,
    most_weighed: int = MOST_WEIGHED,
    seed: int = 0,
    on_part: Callable[[float], None] = lambda fraction: None,
) -> Scores:
    """Score rows x (row, *event), and compare each with calibration rows that show what it shows.

        p = (1 + #{i: s_i ≤ s})/(n + 1)

    over the n calibration rows that show every cell that the row shows, with their other cells
    hidden. If rows are alike and cells go missing at random, P(p ≤ α) ≤ α whatever the model is,
    for a row that the model was not fitted to. Of many patterns of missing cells the most frequent
    are compared, as many as ``most_weighed`` calibration rows allow. A row with nothing observed
    has log-evidence 0 and p-value 1. Scores are bitwise functions of their rows, and p-values of
    them and the calibration. Raises InputError for an unknown kind and less than one draw.
    Source: Vovk, Gammerman & Shafer 2005, chapter 4 (conformal p-values).

    >>> import unveil
    >>> from torch import nn
    >>> from unveil.noise import generator
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 3), unveil.Gaussian(3)),
    ...     posterior=unveil.Conditional(nn.Linear(3, 2), unveil.DiagonalGaussian(1)),
    ... )
    >>> calibration = KeptRows(x=torch.randn(99, 3, generator=generator(0, "demo")))
    >>> score_rows(vae, torch.full((1, 3), 9.0), calibration).p_value
    array([0.01])
    """
    compared = kind_of(kind)
    if num_samples < 1:
        raise InputError(f"expected at least 1 draw per row, but {num_samples} came; give more")
    patterns, which = _patterns(x)
    affordable = most_weighed // max(1, calibration.num_rows)
    worth = len(x) + min(len(patterns), affordable) * calibration.num_rows
    of = importance(
        model, x, num_samples=num_samples, seed=seed, given=given,
        on_tile=lambda fraction: on_part(fraction * len(x) / worth),
    )  # fmt: skip
    own = compared.figure(of)
    scores = compared.score(own, own[:0]).clone()
    p_values = torch.full_like(own, math.nan)
    too_few = 0
    found = calibration.figures(model, patterns[:affordable], compared, num_samples, seed)
    for number, others in enumerate(found):
        rows = (which == number).nonzero()[:, 0]
        if len(others) < FEWEST_CALIBRATION:
            too_few += len(rows)
            continue
        scores[rows] = compared.score(own[rows], others)
        unusual = compared.as_unusual(own[rows], others).double()
        p_values[rows] = (1 + unusual) / (len(others) + 1)
        on_part((len(x) + (number + 1) * calibration.num_rows) / worth)
    on_part(1.0)
    beyond = int((which >= affordable).sum())
    return Scores(
        kind=kind,
        log_evidence=of.log_evidence.numpy(),
        score=scores.numpy(),
        p_value=p_values.numpy(),
        notes=(*_told_too_few(too_few, calibration), *_told_beyond(beyond, most_weighed)),
    )


def _patterns(x: Rows) -> tuple[Bool[Tensor, "pattern cell"], Tensor]:
    """The patterns of observed cells, the most frequent first, and which of them each row has."""
    shown = (~torch.isnan(x)).flatten(1).cpu()
    packed = np.packbits(shown.numpy(), axis=1)
    _, first, which, counts = np.unique(
        packed, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(-counts, kind="stable")
    place = torch.from_numpy(np.argsort(order, kind="stable")[which.reshape(-1)])
    return shown[torch.from_numpy(first[order])].to(x.device), place


def _told_too_few(rows: int, calibration: Calibration) -> tuple[str, ...]:
    if not rows:
        return ()
    return (
        f"{rows} rows have no p-value: fewer than {FEWEST_CALIBRATION} of the "
        f"{calibration.num_rows} rows kept apart at fit can be compared with them; fit on more "
        "rows, or hold out more with --validation",
    )


def _told_beyond(rows: int, most_weighed: int) -> tuple[str, ...]:
    if not rows:
        return ()
    return (
        f"{rows} rows have no p-value: their cells are missing in patterns that few rows share, "
        f"and {most_weighed} weighed rows were spent on the others; score them by themselves, or "
        "raise most_weighed",
    )


def log_densities_of_cells(
    model: LatentVariableModel,
    x: Rows,
    *,
    given: Given = None,
    num_samples: int = DRAWS,
    seed: int = 0,
    on_part: Callable[[float], None] = lambda fraction: None,
) -> Float[Tensor, "row cell"]:
    """log p(x_j|x₋ⱼ) of every cell, nats, float64; NaN where the cell is missing.

        z_k ~ q(z|x₋ⱼ),   w_k = p(x₋ⱼ, z_k)/q(z_k|x₋ⱼ)
        log p(x_j|x₋ⱼ) ≈ log Σ_k w_k p(x_j|z_k) − log Σ_k w_k

    Each cell is hidden from the encoder in turn. Heuristic: as good as q is without it, and as the
    number of draws. A bitwise function of the row. Raises ArithmeticError for a weight that is NaN.
    """
    found = torch.full((len(x), x[0].numel()), math.nan, dtype=torch.float64)
    for cell in range(found.shape[1]):
        seen = ~torch.isnan(x.flatten(1)[:, cell])
        if bool(seen.any()):
            c = None if given is None else given[seen]
            found[seen.cpu(), cell] = _log_densities(model, x[seen], c, cell, num_samples, seed)
        on_part((cell + 1) / found.shape[1])
    return found


def _log_densities(
    model: LatentVariableModel, x: Rows, given: Given, cell: int, num_samples: int, seed: int
) -> PerRow:
    """log p(x_j|x₋ⱼ) of one cell that each of the rows shows."""
    rest, alone = hidden(x, cell)
    parts = []
    with torch.no_grad(), RowsAlike():
        for tile, only in zip(tiles(rest, given), tiles(alone, given), strict=True):
            noise = tile.noise(seed, HIDDEN, model.num_latents)
            q, prior = model.posterior(tile.x, tile.given), model.prior(tile.given)
            log_w, log_p = [], []
            for size in chunks(num_samples, floats_per_draw(model, tile)):
                z = q.push(noise(size))
                log_rest = log_likelihoods(model, tile, z)
                log_w.append(prior.log_prob(z) + log_rest - q.log_prob(z))
                log_p.append(log_likelihoods(model, only, z))
            weights = torch.cat(log_w).double().cpu().mT.contiguous()
            together = weights + torch.cat(log_p).double().cpu().mT
            parts.append((log_sum_exp(together) - log_sum_exp(weights))[: tile.count])
    return torch.cat(parts)


# ---- the odd cells ------------------------------------------------------------------------------

HIDDEN = "one cell hidden"
# At most so many cells of a row are named, and none that is e² times less probable, or less, than
# is usual for its column.
MOST_NAMED = 3
LEAST_SURPRISE = 2.0
# The range that is told holds so much, by so many draws; the usual density is that of so many rows.
TOLD = 0.9
DRAWS_OF_RANGE = 500
ROWS_OF_USUAL = 200


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


def require_table(schema: Schema) -> None:
    """Raises InputError for a model of cells that are all alike, where none can be odd by name."""
    if schema.shared:
        raise InputError(
            "expected a table to name odd cells of, but the model is of cells that are all alike; "
            "leave why out"
        )


def hidden(x: Rows, cell: int) -> tuple[Rows, Rows]:
    """Rows with one cell missing, and with that cell alone.

    >>> [part.tolist() for part in hidden(torch.tensor([[1.0, 2.0]]), 0)]
    [[[nan, 2.0]], [[1.0, nan]]]
    """
    here = (torch.arange(x[0].numel(), device=x.device) == cell).view(x.shape[1:])
    return torch.where(here, torch.nan, x), torch.where(here, x, torch.nan)


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
    noise = RowStreams(seed, HIDDEN, key).normal(DRAWS_OF_RANGE, model.num_latents).to(x)
    randomness = generator(seed, HIDDEN, *key[0].tolist(), device=x.device)
    with torch.no_grad():
        q, prior = model.posterior(rest, given), model.prior(given)
        z = q.push(noise)
        likelihood = model.likelihood(z, given)
        log_w = prior.log_prob(z) + likelihood.log_prob(rest) - q.log_prob(z)
        made = draw(likelihood, (), randomness)[:, 0, cell]
    weights = log_w[:, 0].double().softmax(0)
    return made.double().cpu().numpy(), weights.cpu().numpy()


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
    share = (1 - TOLD) / 2
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


# ---- which kind of score tells odd rows best ----------------------------------------------------


def compare_scores(
    model: LatentVariableModel,
    x: Rows,
    *,
    given: Given = None,
    num_samples: int = DRAWS,
    seed: int = 0,
) -> dict[str, float]:
    """The AUROC with which each kind of score tells rows from the same rows with cells exchanged.

        AUROC = P(score of a row > score of an exchanged one) + ½ P(equal)

    In the exchanged table every column has its own half of the rows, and their cells are dealt
    anew among them: each column keeps its values, and rows lose what holds them together. Rows x
    should be none that the model was trained on. Raises InputError for fewer than
    FEWEST_CALIBRATION rows.

    >>> import unveil
    >>> from torch import nn
    >>> from unveil.noise import generator
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 3), unveil.Gaussian(3)),
    ...     posterior=unveil.Conditional(nn.Linear(3, 2), unveil.DiagonalGaussian(1)),
    ... )
    >>> list(compare_scores(vae, torch.randn(40, 3, generator=generator(0, "demo"))))
    ['evidence', 'reconstruction', 'typicality']
    """
    if len(x) < FEWEST_CALIBRATION:
        raise InputError(
            f"expected at least {FEWEST_CALIBRATION} rows to compare scores on, but {len(x)} came; "
            "give more rows, or hold out more with --validation"
        )
    real, exchanged = (
        importance(model, rows, num_samples=num_samples, seed=seed, given=given)
        for rows in (x, with_cells_exchanged(x, seed))
    )
    found = {}
    for name, kind in KINDS.items():
        usual = kind.figure(real)
        scores = (kind.score(kind.figure(of), usual) for of in (real, exchanged))
        found[name] = auroc(*scores)
    return found


def with_cells_exchanged(x: Rows, seed: int) -> Rows:
    """The same cells, of every column half of them at other rows."""
    randomness = generator(seed, "exchange cells")
    flat = x.flatten(1).clone()
    for cell in range(flat.shape[1]):
        half = torch.randperm(len(flat), generator=randomness)[: len(flat) // 2].to(x.device)
        flat[half, cell] = flat[half.roll(1), cell]
    return flat.view(x.shape)


def auroc(usual: PerRow, odd: Float[Tensor, " odd_row"]) -> float:
    """P(a score of the usual > one of the odd) + ½ P(equal), over all pairs.

    >>> auroc(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0]))
    0.875
    """
    ranks = stats.rankdata(torch.cat([usual, odd]).cpu().numpy())[: len(usual)]
    least = len(usual) * (len(usual) + 1) / 2
    return float((ranks.sum() - least) / (len(usual) * len(odd)))
