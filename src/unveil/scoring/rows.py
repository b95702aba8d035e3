"""How usual a row is: its log-evidence, and a p-value beside rows kept apart.

A row's score is a function of the row. Its p-value compares it with rows that the model has never
seen, each with the same cells hidden, and holds whatever the model is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from unveil.errors import InputError
from unveil.evidence.importance import importance
from unveil.latent import LatentVariableModel
from unveil.scoring.calibration import FEWEST_CALIBRATION, Calibration
from unveil.scoring.densities import DRAWS
from unveil.scoring.kinds import EVIDENCE, kind_of
from unveil.scoring.odd import OddCell
from unveil.shapes import Given, Rows

# Rows that are weighed to find p-values: each pattern of missing cells takes all of them anew.
MOST_WEIGHED = 100_000


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
    impossible: Bool[Tensor, " row"] | None = None,
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
    has log-evidence 0 and p-value 1. Rows marked as ``impossible``, for what they hold beside x,
    have log-evidence −inf, and are less usual than any other. Scores are bitwise functions of their
    rows, and p-values of them and the calibration. Raises InputError for an unknown kind and less
    than one draw.
    Source: Vovk, Gammerman & Shafer 2005, chapter 4 (conformal p-values).

    >>> import unveil
    >>> from torch import nn
    >>> from unveil.noise import generator
    >>> from unveil.scoring.calibration import KeptRows
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
    never = torch.zeros(len(x), dtype=torch.bool) if impossible is None else impossible.cpu()
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
        unusual = torch.where(never[rows], 0, compared.as_unusual(own[rows], others)).double()
        p_values[rows] = (1 + unusual) / (len(others) + 1)
        on_part((len(x) + (number + 1) * calibration.num_rows) / worth)
    on_part(1.0)
    beyond = int((which >= affordable).sum())
    return Scores(
        kind=kind,
        log_evidence=of.log_evidence.masked_fill(never, -math.inf).numpy(),
        score=scores.masked_fill(never, -math.inf).numpy(),
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
