"""Sizes and settings that suit the data, chosen once and recorded with the model."""

from pathlib import Path

import torch

from unveil.build import Architecture
from unveil.data.covariates import Covariates
from unveil.data.schema import GRID, REAL, Schema
from unveil.errors import InputError
from unveil.registry import cells
from unveil.registry.networks import networks
from unveil.request import Request
from unveil.step import Recipe, can_compile

MOST_LATENTS = 40
CELLS_PER_LATENT = 4
# What remains of a row with gaps says less of each latent, and an importance weighted bound prunes
# fewer (bench/imputation.py).
CELLS_PER_LATENT_WITH_GAPS = 3
# A run of about this many steps suits data that fit in memory; more rarely help small tables.
USUAL_STEPS = 15_000
MOST_EPOCHS = 1_000
# Compiling costs some tens of seconds, and only steps of small networks gain by it.
STEPS_WORTH_COMPILING = 20_000
MINUTES_WORTH_COMPILING = 5.0
CELLS_OF_A_LARGE_ROW = 256
ROWS_OF_LARGE_DATA = 10_000
HELD_OUT = 0.1
# Enough rows to choose the weights by; more would be kept from training for little.
MOST_HELD_OUT = 5_000


def validation(rows: int) -> float:
    """The share of rows held out."""
    return min(HELD_OUT, MOST_HELD_OUT / rows)


def architecture(
    request: Request, schema: Schema, rows: int, covariates: Covariates
) -> Architecture:
    """A latent for every few cells, and wider networks for many rows of many cells."""
    per_latent = CELLS_PER_LATENT_WITH_GAPS if schema.gaps else CELLS_PER_LATENT
    suggested = min(MOST_LATENTS, max(2, schema.dims // per_latent))
    latents = suggested if request.latent is None else request.latent
    width = 512 if is_large(schema, rows) else 128
    network = request.network or f"mlp:width={width},depth=2"
    return Architecture(
        latents=levels(network, schema, latents, request.levels),
        covariates=len(covariates.inputs),
        exposure=covariates.exposure,
        network=network,
        likelihood=request.likelihood or likelihood(schema),
        prior=request.prior or "standard",
        posterior=request.posterior or "diagonal",
    )


def objective(schema: Schema) -> str:
    """The importance weighted bound where cells are missing, for what fills them is weighted by
    importance (bench/imputation.py); the ELBO elsewhere."""
    return "dreg:num_samples=5" if schema.gaps else "elbo"


def likelihood(schema: Schema) -> str:
    """What suits each column, with a spread of its own for each cell (bench/defaults.py)."""
    kinds = {schema.columns[i].kind for i in schema.modelled}
    return f"{cells.AUTO}:{cells.SPREAD}=cell" if kinds & {REAL, GRID} else cells.AUTO


def levels(network: str, schema: Schema, latents: int, number: int) -> tuple[int, ...]:
    """How many latents stand on each level, the top one first, where so many were asked for.

    Raises InputError for rows or a number of levels that do not suit the network.
    """
    try:
        return networks(network).levels(schema.event_shape, latents, number)
    except ValueError as error:  # rows that are no images, in a sentence
        raise InputError(str(error)) from error


def is_large(schema: Schema, rows: int) -> bool:
    """Whether matrix products, not the calls to them, are what a step costs."""
    return schema.dims >= CELLS_OF_A_LARGE_ROW and rows >= ROWS_OF_LARGE_DATA


def recipe(schema: Schema, rows: int, architecture: Architecture, device: torch.device) -> Recipe:
    """How to train such a model on so many rows of this kind on this device."""
    if not is_large(schema, rows):
        return Recipe()
    # A wide network learns its rows by heart within some tens of epochs; decay holds it back.
    return Recipe(
        batch_size=networks(architecture.network).large_batch,
        learning_rate=2e-3,
        weight_decay=0.1,
        precision=torch.bfloat16 if multiplies_bfloat16(device) else torch.float32,
    )


def epochs(rows: int, batch_size: int) -> int:
    """So many passes over the rows that about ``USUAL_STEPS`` steps are taken.

    >>> epochs(60_000, 250), epochs(1_600, 128)
    (62, 1000)
    """
    per_epoch = max(1, rows // batch_size)
    return max(1, min(MOST_EPOCHS, USUAL_STEPS // per_epoch))


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16 products, which double a large step."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def worth_compiling(schema: Schema, rows: int, steps: int | None, minutes: float | None) -> bool:
    """Whether a run is long enough, and its steps small enough, to gain by being compiled."""
    long = (steps or 0) >= STEPS_WORTH_COMPILING or (minutes or 0) >= MINUTES_WORTH_COMPILING
    return long and not is_large(schema, rows) and can_compile()
