"""From a schema and an architecture to a VAE."""

from dataclasses import asdict, dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from unveil.data.schema import COUNT, Schema
from unveil.errors import InputError
from unveil.families import Conditional
from unveil.latent import VAE
from unveil.networks.offset import WithOffset
from unveil.noise import generator
from unveil.priors.vamp import VampPrior, distinct_rows
from unveil.registry import cells
from unveil.registry.latents import lasting_prior, posterior, prior
from unveil.registry.networks import Ends, networks


@final
@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What is needed, beside a schema, to build a VAE again; plain JSON as a document.

    ``latents`` are those of each level, the top one first; ``covariates`` how many numbers are
    given with a row, and ``exposure`` which of them counts are proportional to; the others are
    names with options, as a person would type them.
    """

    latents: tuple[int, ...]
    covariates: int = 0
    exposure: int | None = None
    network: str
    likelihood: str
    prior: str
    posterior: str

    def document(self) -> dict[str, Any]:
        return asdict(self)


def build(schema: Schema, architecture: Architecture, seed: int) -> VAE:
    """The VAE with fresh weights from the seed.

    Raises InputError for names and options that do not exist, or do not fit the data or each other.

    >>> from unveil.data.schema import BINARY, REAL, Column
    >>> schema = Schema((2,), (Column("a", REAL), Column("b", BINARY, step=1.0)), gaps=False)
    >>> a = Architecture(
    ...     latents=(1,), network="mlp", likelihood="auto", prior="standard", posterior="diagonal"
    ... )
    >>> build(schema, a, seed=0).likelihood(torch.zeros(1, 5, 1)).event_shape
    torch.Size([2])
    """
    try:
        return _build(schema, architecture, seed)
    except ValueError as error:  # a part that refuses its size or its neighbour, in a sentence
        raise InputError(str(error)) from error


def _build(schema: Schema, architecture: Architecture, seed: int) -> VAE:
    made_of = networks(architecture.network)
    p_x = cells.family(schema, architecture.likelihood)
    ends = Ends(
        schema=schema,
        event_shape=p_x.event_shape,
        covariates=architecture.covariates,
        latents=architecture.latents,
        weights=generator(seed, "weights"),
    )
    q_z = posterior(architecture.posterior, made_of, ends)
    encoder = made_of.encoder(ends, q_z.num_parameters)
    decoder = _decoder(architecture, ends, p_x.num_parameters)
    q_z_given_x = Conditional(encoder, q_z)
    p_z = prior(architecture.prior, made_of, ends, q_z_given_x)
    p_z(torch.zeros(1, ends.covariates) if ends.covariates else None)  # one that refuses says so
    return VAE(prior=p_z, likelihood=Conditional(decoder, p_x), posterior=q_z_given_x)


def _decoder(architecture: Architecture, ends: Ends, outputs: int) -> nn.Module:
    """The decoder; beside an exposure, one that does not see it and has its log added."""
    made_of = networks(architecture.network)
    if architecture.exposure is None:
        return made_of.decoder(ends, outputs)
    for column in (ends.schema.columns[i] for i in ends.schema.modelled):
        if column.kind != COUNT:
            raise InputError(
                f"expected counts alone beside an exposure, but column {column.name!r} holds "
                f"{column.expected}; choose --likelihood negative_binomial, which reads every "
                "column so, or --given in place of --exposure"
            )
    unexposed = made_of.decoder(replace(ends, covariates=ends.covariates - 1), outputs)
    return WithOffset(unexposed, covariate=architecture.exposure, cells=ends.schema.dims)


def with_lasting_prior(vae: VAE, architecture: Architecture) -> VAE:
    """The VAE with the prior that follows the one it is trained with, where one does."""
    prior = lasting_prior(architecture.prior, architecture.latents[0])
    if prior is None:
        return vae
    return VAE(prior=prior, likelihood=vae.p_x_given_z, posterior=vae.q_z_given_x)


def start(vae: VAE, expected: Tensor, drawn: Tensor, seed: int) -> None:
    """Start where the training rows say, (row, *event) in model units.

    The decoder starts at the best guess without z, such as the columns' means; pseudo rows start at
    rows.
    ``expected`` holds a grey level that is read as a probability as that probability, ``drawn`` as
    a draw. Raises InputError when there are fewer distinct rows than pseudo rows.
    """
    vae.p_x_given_z.network.start(vae.p_x_given_z.family.start_at(expected))  # pyright: ignore
    for part in vae.p_z.modules():
        if isinstance(part, VampPrior):
            _start_pseudo_rows(part, drawn, seed)


def _start_pseudo_rows(prior: VampPrior, x: Tensor, seed: int) -> None:
    try:
        rows = distinct_rows(x, len(prior.pseudo_rows), generator(seed, "pseudo rows"))
    except ValueError as error:
        raise InputError(str(error)) from error
    with torch.no_grad():
        prior.pseudo_rows.copy_(rows)
