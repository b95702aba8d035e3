"""Which kind of score tells odd rows best."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import average_precision_score
from torch import Tensor

from unveil.data.read import Rows as Read
from unveil.data.read import listed
from unveil.diagnostics.means import Mean
from unveil.errors import InputError
from unveil.evidence.importance import importance
from unveil.latent import LatentVariableModel
from unveil.noise import generator
from unveil.scoring.calibration import FEWEST_CALIBRATION
from unveil.scoring.densities import DRAWS
from unveil.scoring.kinds import EVIDENCE, KINDS
from unveil.shapes import Given, PerRow, Rows


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
    return float(_placements(usual.cpu().numpy(), odd.cpu().numpy())[0].mean())


# ---- where odd rows are known --------------------------------------------------------------------

RESAMPLES = 200


@final
@dataclass(frozen=True, kw_only=True)
class Areas:
    """How well scores tell odd rows from usual ones, each with its standard error over rows: the
    area under the ROC curve, and the mean precision at each odd row."""

    auroc: Mean
    average_precision: Mean


@final
@dataclass(frozen=True, kw_only=True)
class Telling:
    """The areas of each kind of score, on so many odd and usual rows; ``lead`` is by how much the
    AUROC of ``best`` is above that of the evidence, on the same rows."""

    odd: int
    usual: int
    by_kind: Mapping[str, Areas]
    best: str
    lead: Mean

    def sentences(self) -> tuple[str, ...]:
        """What was found, in words."""
        return (
            f"{self.odd} rows marked as odd beside {self.usual} others:",
            *(
                f"  {kind}: AUROC {_told(of.auroc)}, average precision "
                f"{_told(of.average_precision)}"
                for kind, of in self.by_kind.items()
            ),
            f"{self.best} would have told them best{self._lead}; no score has seen the marks",
        )

    @property
    def _lead(self) -> str:
        """By how much the best is above the default, where it is another."""
        by = f", by {_told(self.lead)} above the default"
        return ", as the default does" if self.best == EVIDENCE else by

    def document(self) -> dict[str, Any]:
        """The same as plain JSON."""
        of = {
            kind: {
                "auroc": areas.auroc.document(),
                "average_precision": areas.average_precision.document(),
            }
            for kind, areas in self.by_kind.items()
        }
        rows = {"odd": self.odd, "usual": self.usual}
        return {**rows, "kinds": of, "best": self.best, "lead": self.lead.document()}


def telling(
    scores: Mapping[str, NDArray[np.float64]], odd: NDArray[np.bool_], seed: int = 0
) -> Telling:
    """How well each kind's scores (row,), the higher the more usual, tell the odd rows.

        AUROC = mean_i V_i,   V_i = the share of odd rows below usual row i, ties by half; W_j alike
        se² = var(V)/m + var(W)/n,   of a difference with differences of V and of W

    Average precision is scikit-learn's; its error is that of rows drawn anew within each side.
    Raises InputError where all rows are of one side. Source: DeLong, DeLong & Clarke-Pearson 1988.

    >>> said = telling({"evidence": np.array([2.0, 3, 1])}, np.array([False, False, True]))
    >>> said.by_kind["evidence"].auroc.value
    1.0
    """
    if odd.all() or not odd.any():
        raise InputError(
            f"expected rows marked as odd, by 1, and others, by 0, but of {len(odd)} rows "
            f"{int(odd.sum())} are; leave --label out"
        )
    placed = {kind: _placements(score[~odd], score[odd]) for kind, score in scores.items()}
    by_kind = {
        kind: Areas(auroc=_area(*placed[kind]), average_precision=_precision(-score, odd, seed))
        for kind, score in scores.items()
    }
    best = max(by_kind, key=lambda kind: by_kind[kind].auroc.value)
    ours, default = placed[best], placed[EVIDENCE]
    lead = _area(ours[0] - default[0], ours[1] - default[1])
    usual = int((~odd).sum())
    return Telling(odd=len(odd) - usual, usual=usual, by_kind=by_kind, best=best, lead=lead)


def marked_odd(rows: Read, label: str) -> NDArray[np.float64]:
    """The marks of rows, (row,): 1 odd, 0 usual, NaN unknown.

    Raises InputError for a label that is not there, or says anything else.
    """
    if label not in rows.labels:
        raise InputError(
            f"expected a column {label!r} that marks odd rows, but {rows.source} has none that is "
            "not modelled; correct its name"
        )
    marks = np.asarray(rows.labels[label])
    told = sorted({str(mark) for mark in np.unique(marks)} - {"nan"})
    if marks.dtype.kind not in "biuf" or not np.isin(marks[~np.isnan(marks)], (0, 1)).all():
        raise InputError(
            f"expected {label!r} to mark odd rows by 1 and others by 0, but {listed(told, 5)} "
            "came; write it so"
        )
    return marks.astype(np.float64)


def _placements(
    usual: NDArray[np.floating], odd: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each usual row the share of odd ones below, of each odd one that of usual ones above."""
    ranks = stats.rankdata(np.concatenate([usual, odd]))
    of_usual, of_odd = ranks[: len(usual)], ranks[len(usual) :]
    below = (of_usual - stats.rankdata(usual)) / len(odd)
    above = 1 - (of_odd - stats.rankdata(odd)) / len(usual)
    return below, above


def _area(of_usual: NDArray[np.float64], of_odd: NDArray[np.float64]) -> Mean:
    """The mean of placements with its standard error; None for a side of one row."""
    sides = (of_usual, of_odd)
    known = min(map(len, sides)) > 1
    error = math.sqrt(sum(side.var(ddof=1) / len(side) for side in sides)) if known else None
    return Mean(value=float(of_usual.mean()), error=error)


def _precision(oddness: NDArray[np.float64], odd: NDArray[np.bool_], seed: int) -> Mean:
    """Average precision, and its standard error by rows drawn anew within each side."""
    randomness = generator(seed, "average precision")
    oddness = stats.rankdata(oddness)  # which scikit-learn takes where a score is infinite too
    again = []
    for _ in range(RESAMPLES):
        picked = np.concatenate([_again(side.nonzero()[0], randomness) for side in (odd, ~odd)])
        again.append(average_precision_score(odd[picked], oddness[picked]))
    value = float(average_precision_score(odd, oddness))
    return Mean(value=value, error=float(np.std(again, ddof=1)))


def _again(places: NDArray[np.intp], randomness: torch.Generator) -> NDArray[np.intp]:
    return places[torch.randint(len(places), (len(places),), generator=randomness).numpy()]


def _told(mean: Mean) -> str:
    return f"{mean.value:.3f}" + ("" if mean.error is None else f" ± {mean.error:.3f}")
