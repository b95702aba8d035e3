"""From a schema and an architecture to a VAE."""

from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from torch import Tensor

from unveil import registry
from unveil.data.schema import BINARIZED, BINARY, GRID, REAL, Column, Schema
from unveil.families import Conditional, Family
from unveil.latent import VAE
from unveil.likelihoods.binary import Bernoulli
from unveil.likelihoods.columns import Columns
from unveil.likelihoods.grid import DiscretizedLogistic
from unveil.likelihoods.real import Gaussian
from unveil.networks.mlp import Decoder, Encoder, FillsGaps, MarksGaps
from unveil.noise import generator
from unveil.posteriors.diagonal import DiagonalGaussian
from unveil.priors.standard import StandardNormal


@final
@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What is needed, beside a schema, to build a VAE again; plain JSON as a document."""

    num_latents: int
    width: int
    depth: int
    scale: str

    def document(self) -> dict[str, Any]:
        return asdict(self)


def build(schema: Schema, architecture: Architecture, seed: int) -> VAE:
    """The VAE with fresh weights from the seed.

    >>> schema = Schema((2,), (Column("a", REAL), Column("b", BINARY, step=1.0)), gaps=False)
    >>> a = Architecture(num_latents=1, width=8, depth=1, scale="column")
    >>> build(schema, a, seed=0).likelihood(torch.zeros(1, 5, 1)).event_shape
    torch.Size([2])
    """
    weights = generator(seed, "weights")
    latents = architecture.num_latents
    family, q = likelihood_family(schema, architecture.scale), DiagonalGaussian(latents)
    encoder = Encoder(
        family.event_shape,
        covariates=0,
        outputs=q.num_parameters,
        width=architecture.width,
        depth=architecture.depth,
        gaps=MarksGaps() if schema.gaps else FillsGaps(),
        generator=weights,
    )
    decoder = Decoder(
        latents,
        covariates=0,
        outputs=family.num_parameters,
        width=architecture.width,
        depth=architecture.depth,
        generator=weights,
    )
    return VAE(
        prior=StandardNormal(latents),
        likelihood=Conditional(decoder, family),
        posterior=Conditional(encoder, q),
    )


def start_at_mean(vae: VAE, mean: Tensor) -> None:
    """Start the decoder at the columns' means (*event), the best guess without z."""
    decoder, family = vae.p_x_given_z.network, vae.p_x_given_z.family
    with torch.no_grad():
        decoder.body.leave.bias.copy_(family.start(mean))  # pyright: ignore


def likelihood_family(schema: Schema, scale: str) -> Family:
    """One family per kind of column, joined where a table has several kinds."""
    columns = [schema.columns[i] for i in schema.modelled]
    if schema.shared:
        return FAMILIES[columns[0].kind](columns, schema.event_shape, scale)
    parts = []
    for kind in dict.fromkeys(column.kind for column in columns):
        index = [i for i, column in enumerate(columns) if column.kind == kind]
        family = FAMILIES[kind]([columns[i] for i in index], (len(index),), scale)
        parts.append((index, family))
    return parts[0][1] if len(parts) == 1 else Columns(parts)


def _bernoulli(columns: list[Column], event_shape: tuple[int, ...], scale: str) -> Family:
    return Bernoulli(event_shape)


def _gaussian(columns: list[Column], event_shape: tuple[int, ...], scale: str) -> Family:
    unit = torch.tensor([column.unit for column in columns], dtype=torch.float64)
    return Gaussian(event_shape, registry.scale(scale, event_shape), unit=unit)


def _discretized_logistic(
    columns: list[Column], event_shape: tuple[int, ...], scale: str
) -> Family:
    def in_units(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).to(torch.float32)

    return DiscretizedLogistic(
        event_shape,
        registry.scale(scale, event_shape),
        step=in_units([column.spacing for column in columns]),
        low=in_units([(column.low - column.shift) / column.unit for column in columns]),
        high=in_units([(column.high - column.shift) / column.unit for column in columns]),
    )


FAMILIES = {
    REAL: _gaussian,
    GRID: _discretized_logistic,
    BINARY: _bernoulli,
    BINARIZED: _bernoulli,
}
