"""What a model says about rows, each number with its unit, its guarantee and its error."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from unveil.evidence.bound import Bound
from unveil.evidence.importance import Importance, importance
from unveil.latent import LatentVariableModel
from unveil.shapes import Given, PerRow, Rows
from unveil.tiles import row_digests
from unveil.units import active_units, collapse_warning

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
# Fewer effective draws than this say little about a row's evidence beyond the ELBO.
FEWEST_EFFECTIVE_DRAWS = 10


@final
@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The figures of one set of rows, nats per row unless a name says otherwise.

    ``split`` says which rows; ``ess`` maps quantiles over rows to effective draws; ``baselines``
    are mean log-evidences of simpler models on the same rows.
    """

    rows: int
    dims: int
    split: str
    elbo: float
    rate: float
    distortion: float
    lower: Bound
    upper: Bound
    bits_per_dim: float | None
    active_units: int
    kl_per_unit: Sequence[float] | None
    ess: Mapping[str, float]
    baselines: Mapping[str, float | None]
    warnings: tuple[str, ...] = field(default_factory=tuple)

    def document(self) -> dict[str, Any]:
        """The evaluation as plain JSON, by the contract of ``unveil evaluate --json``."""
        return {
            "format_version": 1,
            "rows": self.rows,
            "dims": self.dims,
            "split": self.split,
            "elbo": self.elbo,
            "rate": self.rate,
            "distortion": self.distortion,
            "lower": self.lower.document(),
            "upper": self.upper.document(),
            "bits_per_dim": self.bits_per_dim,
            "active_units": self.active_units,
            "kl_per_unit": None if self.kl_per_unit is None else list(self.kl_per_unit),
            "khat": None,
            "ess": dict(self.ess),
            "simulated": {"lower": None, "upper": None},
            "baselines": dict(self.baselines),
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Evaluation":
        """The evaluation that ``document`` wrote."""
        not_fields = ("format_version", "khat", "simulated")
        plain = {name: value for name, value in document.items() if name not in not_fields}
        return cls(
            **plain
            | {
                "lower": Bound.from_document(document["lower"], "lower"),
                "upper": Bound.from_document(document["upper"], "upper"),
                "warnings": tuple(document["warnings"]),
            }
        )


def evaluate(
    model: LatentVariableModel,
    x: Rows,
    *,
    num_samples: int = 100,
    seed: int = 0,
    given: Given = None,
    split: str = "the rows given",
    counts_cells: bool = False,
    baselines: Mapping[str, float | None] | None = None,
    on_tile: Callable[[float], None] = lambda fraction: None,
) -> Evaluation:
    """Evaluate a model on rows x (row, *event) with ``num_samples`` draws of q(z|x) each.

    ``counts_cells`` says that every cell has a true probability, so that bits per dimension mean
    something. Raises as ``importance`` does.
    """
    result = importance(model, x, num_samples=num_samples, seed=seed, given=given, on_tile=on_tile)
    dims = math.prod(x.shape[1:])
    lower = lower_bound(result, row_digests(x, given), seed)
    active = active_units(result.means)
    collapse = collapse_warning(active.tolist(), len(x))
    units = result.rate_per_unit
    ess = torch.quantile(result.ess, torch.tensor(QUANTILES, dtype=torch.float64))
    bits = None
    if counts_cells and lower.value is not None:
        observed = float((~torch.isnan(x)).flatten(1).sum(1).double().mean())
        bits = -lower.value / (observed * math.log(2))
    return Evaluation(
        rows=len(x),
        dims=dims,
        split=split,
        elbo=float(result.elbo.mean()),
        rate=float(result.rate.mean()),
        distortion=float(result.distortion.mean()),
        lower=lower,
        upper=Bound(
            value=None,
            side="upper",
            reason="draws of q(z|x) alone cannot bound log p(x) from above",
        ),
        bits_per_dim=bits,
        active_units=int(active.sum()),
        kl_per_unit=None if units is None else units.mean(0).tolist(),
        ess={f"{q:g}": float(value) for q, value in zip(QUANTILES, ess, strict=True)},
        baselines=baselines or {"independent": None, "ppca": None},
        warnings=(() if collapse is None else (collapse,)) + lower.warnings,
    )


def lower_bound(result: Importance, digests: NDArray[np.uint64], seed: int) -> Bound:
    """The mean of log (1/K) Σ w_k over rows as a bound that holds in expectation."""
    few = float((result.ess < FEWEST_EFFECTIVE_DRAWS).double().mean())
    warning = (
        f"{few:.0%} of rows have fewer than {FEWEST_EFFECTIVE_DRAWS} effective draws of "
        f"{result.num_samples}: there the bound is loose; take more draws"
    )
    enough = result.num_samples < 2 * FEWEST_EFFECTIVE_DRAWS or few < 0.05
    return Bound(
        value=float(result.log_evidence.mean()),
        side="lower",
        guarantee="in_expectation",
        mc_se=draw_error(result.log_evidence_variance, digests),
        data_se=row_error(result.log_evidence),
        method="IWAE",
        settings={"num_samples": result.num_samples, "seed": seed},
        warnings=() if enough else (warning,),
    )


def draw_error(variance: PerRow | None, digests: NDArray[np.uint64]) -> float | None:
    """Standard error of the mean over rows from the draws of z alone; None where one draw was
    taken, which cannot tell.

    Equal rows share their draws, so their errors add before they are squared.
    """
    if variance is None:
        return None
    _, which = np.unique(digests, axis=0, return_inverse=True)
    multiplicity = torch.from_numpy(np.bincount(which.reshape(-1)))[which.reshape(-1)]
    return float((variance * multiplicity).sum().sqrt() / len(digests))


def row_error(values: PerRow) -> float | None:
    """Standard error of the mean from which rows were seen; None for a single row."""
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else None
