"""Pairs of an encoder and a decoder, as a network's name has them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar, final

from torch import Generator, nn

from unveil.data.schema import Schema
from unveil.networks.conv import ConvDecoder, ConvEncoder, image_shape
from unveil.networks.mlp import Decoder, Encoder, ResidualMLP
from unveil.networks.sets import SetEncoder
from unveil.registry.cells import gaps, parts
from unveil.registry.spec import Spec, make, resolve


@final
@dataclass(frozen=True, kw_only=True)
class Ends:
    """What stands at the ends of the networks: rows, as the schema measures them and the likelihood
    shapes them, with so many covariates; and where fresh weights come from."""

    schema: Schema
    event_shape: tuple[int, ...]
    covariates: int
    weights: Generator


@dataclass(frozen=True, kw_only=True)
class Networks(ABC):
    """Networks of one design for any data, with ``width`` numbers in a hidden layer."""

    width: int = 128
    depth: int = 2
    # Rows in a batch where there are many rows of many cells: enough to keep the cores busy.
    large_batch: ClassVar[int] = 250

    def __post_init__(self) -> None:
        if self.width < 1 or self.depth < 1:
            raise ValueError(
                f"expected networks of width and depth 1 or more, got width={self.width}, "
                f"depth={self.depth}; 128 and 2 suit small tables"
            )

    @abstractmethod
    def encoder(self, ends: Ends, outputs: int) -> nn.Module:
        """From rows with gaps, (row, *event), to (row, outputs)."""

    @abstractmethod
    def decoder(self, ends: Ends, num_latents: int, outputs: int) -> nn.Module:
        """From z (*sample, row, latent) to (*sample, row, outputs)."""

    def between(self, inputs: int, outputs: int, weights: Generator) -> nn.Module:
        """From numbers to numbers: between levels of latents, and from covariates to a prior."""
        return ResidualMLP(
            inputs=inputs, outputs=outputs, width=self.width, depth=1, generator=weights
        )


class _DecodesAnything(Networks, ABC):
    """A decoder that knows nothing of where a cell stands."""

    def decoder(self, ends: Ends, num_latents: int, outputs: int) -> nn.Module:
        return Decoder(
            num_latents,
            covariates=ends.covariates,
            outputs=outputs,
            width=self.width,
            depth=self.depth,
            generator=ends.weights,
        )


@final
class MLP(_DecodesAnything):
    """Residual networks that know nothing of where a cell stands."""

    def encoder(self, ends: Ends, outputs: int) -> nn.Module:
        return Encoder(
            ends.event_shape,
            covariates=ends.covariates,
            outputs=outputs,
            width=self.width,
            depth=self.depth,
            gaps=gaps(ends.schema),
            parts=parts(ends.schema, prod(ends.event_shape)),
            generator=ends.weights,
        )


@final
class Sets(_DecodesAnything):
    """An encoder that takes in the observed cells alone, for sparse rows."""

    def encoder(self, ends: Ends, outputs: int) -> nn.Module:
        return SetEncoder(
            ends.event_shape,
            covariates=ends.covariates,
            outputs=outputs,
            width=self.width,
            depth=self.depth,
            parts=parts(ends.schema, prod(ends.event_shape)),
            generator=ends.weights,
        )


@final
@dataclass(frozen=True, kw_only=True)
class Conv(Networks):
    """Convolutions over images; ``channels`` are the features at each resolution, as in 32/64."""

    width: int = 256
    depth: int = 1
    channels: str = "32/64"
    large_batch: ClassVar[int] = 128  # a row is work enough, and more steps are worth more

    @property
    def features(self) -> tuple[int, ...]:
        """The features at each resolution. Raises ValueError where they are not numbers."""
        try:
            return tuple(int(features) for features in str(self.channels).split("/"))
        except ValueError as error:
            raise ValueError(
                f"expected channels such as 32/64, one number for each resolution, got "
                f"{self.channels}; separate them by /"
            ) from error

    def encoder(self, ends: Ends, outputs: int) -> nn.Module:
        return ConvEncoder(
            ends.event_shape,
            covariates=ends.covariates,
            outputs=outputs,
            channels=self.features,
            depth=self.depth,
            width=self.width,
            gaps=gaps(ends.schema),
            parts=parts(ends.schema, image_shape(ends.event_shape)[2]),
            generator=ends.weights,
        )

    def decoder(self, ends: Ends, num_latents: int, outputs: int) -> nn.Module:
        return ConvDecoder(
            ends.event_shape,
            num_latents=num_latents,
            covariates=ends.covariates,
            outputs=outputs,
            channels=self.features,
            depth=self.depth,
            width=self.width,
            generator=ends.weights,
        )


NETWORKS: Mapping[str, Callable[..., Networks]] = {"mlp": MLP, "conv": Conv, "sets": Sets}


def networks(text: str) -> Networks:
    """The networks that a name such as ``mlp:width=512,depth=2`` stands for.

    >>> networks("conv:channels=16/32").features
    (16, 32)

    Raises InputError for an unknown name or option.
    """
    spec = Spec.parse(text)
    return make("the network", resolve("the network", NETWORKS, spec.name), spec)
