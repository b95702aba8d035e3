"""Sizes and settings that suit the data, chosen once and recorded with the model."""

from pathlib import Path
from statistics import median

import torch

from unveil.build import Architecture
from unveil.data.covariates import Covariates
from unveil.data.read import TOTAL, Rows
from unveil.data.schema import AMOUNT, CATEGORY, COUNT, GRID, POSITIVE, REAL, Schema
from unveil.data.sparse import SparseCounts
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
# Of a long table twice as many take two minutes (bench/synthesis.py says how long a fit takes).
STEPS_OF_A_LONG_TABLE = 7_000
MIXTURE = "discretized_logistic_mixture"
# Most of a column lies within so many of its units, which are about its standard deviation.
SPREAD_OF_VALUES = 4.0
MOST_EPOCHS = 1_000
# A step of so many draws of z for each row takes about twice as long as one of a single draw.
DRAWS_AT_USUAL_COST = 2
# Compiling costs some tens of seconds, and only steps of small networks gain by it.
STEPS_WORTH_COMPILING = 20_000
MINUTES_WORTH_COMPILING = 5.0
CELLS_OF_A_LARGE_ROW = 256
ROWS_OF_LARGE_DATA = 10_000
# A matrix of counts is conditioned on its rows' totals, unless each count is much of the total.
COLUMNS_OF_A_TOTAL = 50
HELD_OUT = 0.1
# Enough rows to choose the weights by; more would be kept from training for little.
MOST_HELD_OUT = 5_000


def validation(rows: int) -> float:
    """The share of rows held out."""
    return min(HELD_OUT, MOST_HELD_OUT / rows)


def architecture(
    request: Request, schema: Schema, rows: int, covariates: Covariates
) -> Architecture:
    """A latent for every few cells, where one of classes counts twice, for it can vary in more than
    one direction; and wider networks for many rows of many cells."""
    per_latent = CELLS_PER_LATENT_WITH_GAPS if schema.gaps else CELLS_PER_LATENT
    varied = schema.dims + sum(schema.columns[i].kind == CATEGORY for i in schema.modelled)
    suggested = min(MOST_LATENTS, max(2, varied // per_latent))
    latents = suggested if request.latent is None else request.latent
    width = 512 if is_large(schema, rows) else 128
    network = request.network or f"mlp:width={width},depth=2"
    return Architecture(
        latents=levels(network, schema, latents, request.levels),
        covariates=len(covariates.inputs),
        exposure=covariates.exposure,
        network=network,
        likelihood=request.likelihood or likelihood(schema, rows),
        prior=request.prior or "standard",
        posterior=request.posterior or "diagonal",
    )


def exposure(request: Request, schema: Schema, rows: Rows) -> str | None:
    """Each row's total, where a matrix of counts (an .h5ad, AnnData, a sparse one) has many
    columns: how much of a row was counted is seldom what is asked."""
    counted = {schema.columns[i].kind for i in schema.modelled} == {COUNT}
    many = len(schema.columns) >= COLUMNS_OF_A_TOTAL
    usual = TOTAL if counted and many and isinstance(rows.values, SparseCounts) else None
    return usual if request.exposure is None else request.exposure


def objective(schema: Schema) -> str:
    """The importance weighted bound where cells are missing, for what fills them is weighted by
    importance (bench/imputation.py); the ELBO elsewhere."""
    return "dreg:num_samples=5" if schema.gaps else "elbo"


def likelihood(schema: Schema, rows: int) -> str:
    """What suits each column: a spread of its own for each cell, and on the grids of a table, where
    single values come time and again and may stand out, a mixture (bench/defaults.py)."""
    kinds = {schema.columns[i].kind for i in schema.modelled}
    steps = [c.spacing for c in schema.columns if c.kind == GRID]
    mixed = bool(steps) and not schema.shared and SPREAD_OF_VALUES / median(steps) <= rows
    spread = kinds & ({REAL, POSITIVE, AMOUNT} if mixed else {REAL, GRID})
    told = (
        *([f"{cells.SPREAD}=cell"] if spread else []),
        *([f"{GRID}={MIXTURE}"] if mixed else []),
    )
    return f"{cells.AUTO}:{','.join(told)}" if told else cells.AUTO


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
        return Recipe() if rows < ROWS_OF_LARGE_DATA else Recipe(batch_size=256, learning_rate=2e-3)
    # A wide network learns its rows by heart within some tens of epochs; decay holds it back.
    return Recipe(
        batch_size=networks(architecture.network).large_batch,
        learning_rate=2e-3,
        weight_decay=0.1,
        precision=torch.bfloat16 if multiplies_bfloat16(device) else torch.float32,
    )


def epochs(schema: Schema, rows: int, batch_size: int, draws: int) -> int:
    """So many passes over the rows that about ``USUAL_STEPS`` steps are taken.

    Of a long table so many rows are seen as are in ``STEPS_OF_A_LONG_TABLE`` usual steps, whatever
    the size of a batch, and fewer where each is given several draws of z: a minute on two cores.

    >>> from unveil.data.schema import Column
    >>> table = Schema((1,), (Column("a", REAL),), gaps=False)
    >>> epochs(table, 1_600, 128, 5), epochs(table, 30_000, 256, 1), epochs(table, 30_000, 256, 5)
    (1000, 29, 11)
    """
    if is_large(schema, rows) or rows < ROWS_OF_LARGE_DATA:
        seen = USUAL_STEPS * batch_size
    else:
        affordable = min(1.0, DRAWS_AT_USUAL_COST / draws)
        seen = int(STEPS_OF_A_LONG_TABLE * Recipe.batch_size * affordable)
    return max(1, min(MOST_EPOCHS, seen // rows))


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
