"""The verdict on a fitted model: evaluated on rows in the data's units, beside its baselines."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from unveil.baselines import Baselines, Grid, ppca_log_evidence
from unveil.data.covariates import Covariates
from unveil.data.read import Rows
from unveil.data.schema import Schema
from unveil.evaluation import Evaluation, Subject, evaluate, examine
from unveil.evidence.effort import Effort
from unveil.evidence.tuning import Sizes
from unveil.feed import to_exposures, to_tensors
from unveil.latent import VAE
from unveil.likelihoods.real import LocationScaleDensity
from unveil.likelihoods.scale import ColumnScale


@final
@dataclass(frozen=True, kw_only=True)
class Case:
    """A fitted VAE with all that it takes to see rows as it does, and its baselines.

    ``seed`` is that of the fit, by which grey levels are drawn.
    """

    vae: VAE
    schema: Schema
    covariates: Covariates
    baselines: Baselines
    seed: int

    def subject(self, rows: Rows, *, seed: int, split: str) -> Subject:
        """The model and rows in the data's units, as they are to be judged."""
        schema = self.schema
        x, given = self._seen(rows)
        return Subject(
            model=self.vae,
            x=x,
            given=given,
            seed=seed,
            split=", ".join(filter(None, (split, self.covariates.condition))),
            counts_cells=schema.has_masses_only,
            baselines=self._baselines(x.cpu(), to_exposures(self.covariates, given)),
            names=None if schema.shared else [schema.columns[j].name for j in schema.modelled],
        )

    def trained_on(self, rows: Rows, *, seed: int) -> Subject:
        """The model and rows that it was trained on."""
        x, given = self._seen(rows)
        return Subject(model=self.vae, x=x, given=given, seed=seed)

    def _seen(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        device = next(self.vae.parameters()).device
        return to_tensors(self.schema, self.covariates, rows, self.seed, device)

    def _baselines(self, x: Tensor, exposure: Tensor | None) -> dict[str, Tensor | None]:
        """The rows' log-evidence under each simpler model, (row,)."""
        flat, grid = x.double().flatten(1), Grid.of(self.schema)
        independent = self.baselines.independent.log_evidence(flat, grid, exposure)
        if self.baselines.ppca is None or torch.isnan(flat).any():
            return {"independent": independent, "ppca": None}
        ppca = ppca_log_evidence(self.baselines.ppca, flat, grid, self.seed)
        return {"independent": independent, "ppca": ppca}


def judge(case: Case, rows: Rows, *, draws: int, seed: int, split: str) -> Evaluation:
    """Evaluate a VAE by draws of q(z|x), and its baselines, on the same rows, nats per row of the
    data's own units."""
    result = evaluate(case.subject(rows, seed=seed, split=split), num_samples=draws)
    return replace(result, warnings=result.warnings + _floor_warnings(case.vae))


def cross_examine(
    case: Case,
    subject: Subject,
    effort: Effort,
    sizes: Sizes,
    *,
    on_part: Callable[[float], None] = lambda fraction: None,
) -> Evaluation:
    """Evaluate a VAE as ``judge`` does, by one of its case's subjects, and examine how far its
    numbers can be trusted."""
    result = examine(subject, effort, sizes, on_part=on_part)
    return replace(result, warnings=result.warnings + _floor_warnings(case.vae))


def _floor_warnings(vae: VAE) -> tuple[str, ...]:
    """What to say of columns whose learned spread rests on its floor."""
    densities = [part for part in vae.modules() if isinstance(part, LocationScaleDensity)]
    scales = [(d.scale, d.floor) for d in densities if isinstance(d.scale, ColumnScale)]
    resting = sum(int((scale([], floor) < 1.1 * floor).sum()) for scale, floor in scales)
    if not resting:
        return ()
    return (
        f"the learned spread of {resting} columns rests on its floor: the density there is the "
        "floor's choice (do columns repeat each other?)",
    )
