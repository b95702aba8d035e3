"""The latent side of a model: priors and posteriors by name, on one level or several."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Generator

from unveil.errors import InputError
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
# Numbers that an encoder says of x to each level below the top.
FEATURES = 128
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
    """What the aggregate's mixture is fitted in place of, once the model is trained with it."""
    return StandardNormal(around.latents)


PRIORS: Mapping[str, Callable[..., Prior]] = {
    "standard": standard,
    AGGREGATE: aggregate,
    "mixture": mixture,
    "vamp": vamp,
    "flow": flow,
    "conditioned": conditioned,
}


def prior(
    text: str, sizes: Sequence[int], networks: Networks, ends: Ends, posterior: Conditional
) -> Prior:
    """The prior that a name such as ``mixture:components=100`` stands for, over the top level; the
    levels below it are predicted from those above them.

    Raises InputError for an unknown name or option, ValueError for one that does not suit.
    """
    spec = Spec.parse(text)
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
        family = DiagonalGaussian(size)
        above = sum(sizes[:level]) + ends.covariates
        network = networks.between(above, family.num_parameters, ends.weights)
        below.append(Conditional(Joined(network), family))
    return TopDownPrior(top, below)


def aggregate_components(text: str | None) -> int | None:
    """How many components a prior fitted afterwards has; None where the prior is another.

    >>> aggregate_components("aggregate:components=20"), aggregate_components("standard")
    (20, None)
    """
    spec = None if text is None else Spec.parse(text)
    if spec is None or spec.name != AGGREGATE:
        return None
    return int(spec.options.get("components", COMPONENTS))


def levels(latents: int, number: int) -> tuple[int, ...]:
    """So many latents on each of so many levels, the top one first.

    >>> levels(40, 3)
    (13, 13, 14)

    Raises InputError for more levels than latents.
    """
    if number > latents:
        raise InputError(
            f"expected at most one level for each of {latents} latents, got {number}; ask for more "
            "latents, or fewer levels"
        )
    return tuple((latents * (i + 1)) // number - (latents * i) // number for i in range(number))


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


def posterior(text: str, sizes: Sequence[int], networks: Networks, ends: Ends) -> Family:
    """The family that a name such as ``full`` stands for; on several levels, every one but the top
    is inferred from features of x and the levels above it.

    Raises InputError for an unknown name or option, ValueError for one that does not suit.
    """
    spec = Spec.parse(text)
    maker = resolve("the posterior", POSTERIORS, spec.name)
    if len(sizes) == 1:
        return make("the posterior", maker, spec, sizes[0], ends.weights)
    if maker is not diagonal:
        raise ValueError(
            f"expected a diagonal posterior on each of {len(sizes)} levels, got {spec.name}; "
            "choose --posterior diagonal, or --levels 1"
        )
    below = [
        networks.between(sum(sizes[:level]) + FEATURES, 2 * size, ends.weights)
        for level, size in enumerate(sizes[1:], start=1)
    ]
    return TopDownGaussian(sizes, features=[FEATURES] * len(below), networks=below)
