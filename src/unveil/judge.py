"""The verdict on a fitted model: evaluated on rows in the data's units, beside its baselines."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from unveil.baselines import Baselines, Grid, ppca_log_evidence
from unveil.data.covariates import Covariates
from unveil.data.read import Rows
from unveil.data.schema import Schema
from unveil.evaluation import Evaluation, evaluate, examine
from unveil.evidence.effort import Effort
from unveil.evidence.tuning import Sizes
from unveil.feed import to_tensors
from unveil.latent import VAE
from unveil.likelihoods.real import LocationScaleDensity
from unveil.likelihoods.scale import ColumnScale


def judge(
    vae: VAE,
    schema: Schema,
    covariates: Covariates,
    baselines: Baselines,
    rows: Rows,
    *,
    binarisation_seed: int,
    draws: int,
    seed: int,
    split: str,
) -> Evaluation:
    """Evaluate a VAE by draws of q(z|x), and its baselines, on the same rows, nats per row of the
    data's own units."""
    x, given = to_tensors(schema, covariates, rows, binarisation_seed, _device(vae))
    result = evaluate(
        vae,
        x,
        given=given,
        num_samples=draws,
        seed=seed,
        split=split,
        counts_cells=schema.has_masses_only,
        baselines=_baseline_figures(baselines, schema, x.cpu(), binarisation_seed),
    )
    return replace(result, warnings=result.warnings + _floor_warnings(vae))


def cross_examine(
    vae: VAE,
    schema: Schema,
    covariates: Covariates,
    baselines: Baselines,
    rows: Rows,
    trained_on: Rows | None,
    sizes: Sizes,
    settle: Callable[[VAE, Tensor, Tensor | None], Effort],
    *,
    binarisation_seed: int,
    seed: int,
    split: str,
    on_part: Callable[[float], None] = lambda fraction: None,
) -> Evaluation:
    """Evaluate a VAE as ``judge`` does, and examine how far its numbers can be trusted.

    ``settle`` says how much is to be done for the rows as the model sees them. ``trained_on`` are
    rows that the model was trained on, to set its encoder's gap beside that of new ones.
    """
    see = partial(to_tensors, schema, covariates, seed=binarisation_seed, device=_device(vae))
    x, given = see(rows)
    result = examine(
        vae,
        x,
        settle(vae, x, given),
        sizes,
        given=given,
        training=None if trained_on is None else see(trained_on),
        names=None if schema.shared else [schema.columns[j].name for j in schema.modelled],
        seed=seed,
        split=split,
        counts_cells=schema.has_masses_only,
        baselines=_baseline_figures(baselines, schema, x.cpu(), binarisation_seed),
        on_part=on_part,
    )
    return replace(result, warnings=result.warnings + _floor_warnings(vae))


def _device(vae: VAE) -> torch.device:
    return next(vae.parameters()).device


def _baseline_figures(
    baselines: Baselines, schema: Schema, x: Tensor, seed: int
) -> dict[str, float | None]:
    flat, grid = x.double().flatten(1), Grid.of(schema)
    independent = float(baselines.independent.log_evidence(flat, grid).mean())
    if baselines.ppca is None or torch.isnan(flat).any():
        return {"independent": independent, "ppca": None}
    ppca = float(ppca_log_evidence(baselines.ppca, flat, grid, seed).mean())
    return {"independent": independent, "ppca": ppca}


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
