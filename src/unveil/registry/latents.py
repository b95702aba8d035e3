"""The latent side of a model: priors and posteriors by name, on one level or several."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Generator

from unveil.families import Conditional, Family
from unveil.networks.mlp import Joined
from unveil.posteriors.diagonal import DiagonalGaussian
from unveil.posteriors.flow import FlowPosterior
from unveil.posteriors.full import FullGaussian
from unveil.posteriors.topdown import TopDownGaussian
from unveil.priors.base import Prior
from unveil.priors.conditioned import ConditionedPrior
from unveil.priors.flow import FlowPrior
from unveil.priors.mixture import GaussianMixture
from unveil.priors.standard import StandardNormal
from unveil.priors.topdown import TopDownPrior
from unveil.priors.vamp import VampPrior
from unveil.registry.cells import limits
from unveil.registry.networks import Ends, Networks
from unveil.registry.spec import Spec, make, resolve

COMPONENTS = 100
# A mixture that is fitted to the aggregate posterior once the model is trained.
AGGREGATE = "aggregate"


@final
@dataclass(frozen=True, kw_only=True)
class Around:
    """What a prior over so many latents may be made of, beside its options."""

    latents: int
    networks: Networks
    ends: Ends
    posterior: Conditional


def standard(around: Around) -> Prior:
    return StandardNormal(around.latents)


def mixture(around: Around, components: int = COMPONENTS) -> Prior:
    return GaussianMixture(around.latents, components, around.ends.weights)


def vamp(around: Around, components: int = COMPONENTS) -> Prior:
    """The pseudo rows are put in place when the training rows are known (``build.start``)."""
    ends = around.ends
    columns = [ends.schema.columns[i] for i in ends.schema.modelled]
    rows = torch.zeros(components, *ends.event_shape)
    return VampPrior(around.posterior, rows, **limits(columns))


def flow(around: Around, transforms: int = 3, width: int = 64) -> Prior:
    return FlowPrior(
        around.latents,
        covariates=around.ends.covariates,
        transforms=transforms,
        width=width,
        generator=around.ends.weights,
    )


def conditioned(around: Around) -> Prior:
    ends, family = around.ends, DiagonalGaussian(around.latents)
    if not ends.covariates:
        raise ValueError(
            "expected covariates for a prior that is conditioned on them, got none; name their "
            "columns with --given, or choose another prior"
        )
    network = around.networks.between(ends.covariates, family.num_parameters, ends.weights)
    return ConditionedPrior(network, family)


def aggregate(around: Around, components: int = COMPONENTS) -> Prior:
    """What the model is trained with; ``lasting_prior`` is what follows."""
    return StandardNormal(around.latents)


PRIORS: Mapping[str, Callable[..., Prior]] = {
    "standard": standard,
    AGGREGATE: aggregate,
    "mixture": mixture,
    "vamp": vamp,
    "flow": flow,
    "conditioned": conditioned,
}


def prior(text: str, networks: Networks, ends: Ends, posterior: Conditional) -> Prior:
    """The prior that a name such as ``mixture:components=100`` stands for, over the top level; the
    levels below it are predicted from those above them.

    Raises InputError for an unknown name or option, ValueError for one that does not suit.
    """
    spec, sizes = Spec.parse(text), ends.latents
    around = Around(latents=sizes[0], networks=networks, ends=ends, posterior=posterior)
    top = make("the prior", resolve("the prior", PRIORS, spec.name), spec, around)
    if len(sizes) == 1:
        return top
    if spec.name == AGGREGATE:
        raise ValueError(
            "expected one level of latents for a prior that is fitted afterwards, got "
            f"{len(sizes)}; choose --prior mixture, or --levels 1"
        )
    below = []
    for level, size in enumerate(sizes[1:], start=1):
        network = networks.level(ends, level, covariates=ends.covariates)
        below.append(Conditional(Joined(network), DiagonalGaussian(size)))
    return TopDownPrior(top, below)


def lasting_prior(text: str, latents: int) -> GaussianMixture | None:
    """The prior that takes the place of the one trained with, to be fitted to the aggregate
    posterior; None where that one lasts.

    >>> lasting_prior("standard", 2) is None, lasting_prior("aggregate:components=5", 2)().loc.shape
    (True, torch.Size([5, 2]))

    Raises InputError as ``prior`` does.
    """
    spec = Spec.parse(text)
    if spec.name != AGGREGATE:
        return None

    def fitted_afterwards(latents: int, components: int = COMPONENTS) -> GaussianMixture:
        return GaussianMixture(latents, components, Generator().manual_seed(0))

    return make("the prior", fitted_afterwards, spec, latents)


def diagonal(latents: int, weights: Generator) -> Family:
    return DiagonalGaussian(latents)


def full(latents: int, weights: Generator) -> Family:
    return FullGaussian(latents)


def flow_posterior(
    latents: int, weights: Generator, context: int = 16, transforms: int = 2, width: int = 64
) -> Family:
    return FlowPosterior(
        latents, context=context, transforms=transforms, width=width, generator=weights
    )


POSTERIORS: Mapping[str, Callable[..., Family]] = {
    "diagonal": diagonal,
    "full": full,
    "flow": flow_posterior,
}


def posterior(text: str, networks: Networks, ends: Ends) -> Family:
    """The family that a name such as ``full`` stands for; on several levels, every one but the top
    is inferred from features of x and the levels above it.

    Raises InputError for an unknown name or option, ValueError for one that does not suit.
    """
    spec, sizes = Spec.parse(text), ends.latents
    maker = resolve("the posterior", POSTERIORS, spec.name)
    if len(sizes) == 1:
        return make("the posterior", maker, spec, sizes[0], ends.weights)
    if maker is not diagonal:
        raise ValueError(
            f"expected a diagonal posterior on each of {len(sizes)} levels, got {spec.name}; "
            "choose --posterior diagonal, or --levels 1"
        )
    seen, below = networks.features_of_x(ends), range(1, len(sizes))
    return TopDownGaussian(
        sizes,
        features=[seen for _ in below],
        networks=[networks.level(ends, level, seen=[seen]) for level in below],
    )
