"""Pairs of an encoder and a decoder, as a network's name has them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar, final

from torch import Generator, nn

from unveil.data.schema import Schema
from unveil.errors import InputError
from unveil.networks.conv import ConvDecoder, ConvEncoder, ConvLevel, image_shape, resolutions
from unveil.networks.mlp import Decoder, Encoder, ResidualMLP
from unveil.networks.sets import SetEncoder
from unveil.registry.cells import gaps, parts
from unveil.registry.spec import Spec, make, resolve

# Numbers that an encoder says of x to each level of vectors below the top.
FEATURES = 128


@final
@dataclass(frozen=True, kw_only=True)
class Ends:
    """What stands at the ends of the networks: rows, as the schema measures them and the likelihood
    shapes them, with so many covariates; so many latents on each level, the top one first; and
    where fresh weights come from."""

    schema: Schema
    event_shape: tuple[int, ...]
    covariates: int
    latents: tuple[int, ...]
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
    def decoder(self, ends: Ends, outputs: int) -> nn.Module:
        """From z (*sample, row, latent) to (*sample, row, outputs)."""

    def between(self, inputs: int, outputs: int, weights: Generator) -> nn.Module:
        """From numbers to numbers: between levels of latents, and from covariates to a prior."""
        return ResidualMLP(
            inputs=inputs, outputs=outputs, width=self.width, depth=1, generator=weights
        )

    def levels(self, event_shape: tuple[int, ...], latents: int, number: int) -> tuple[int, ...]:
        """So many latents on each of so many levels, the top one first, for rows of this shape.

        >>> MLP().levels((5,), 40, 3)
        (13, 13, 14)

        Raises InputError for more levels than latents.
        """
        if number > latents:
            raise InputError(
                f"expected at most one level for each of {latents} latents, got {number}; ask for "
                "more latents, or fewer levels"
            )
        return tuple((latents * (i + 1)) // number - (latents * i) // number for i in range(number))

    def features_of_x(self, ends: Ends) -> int:
        """How many numbers an encoder says of x to each level below the top."""
        return FEATURES

    def level(
        self, ends: Ends, level: int, *, seen: Sequence[int] = (), covariates: int = 0
    ) -> nn.Module:
        """From the levels above one, then what is seen of x, then covariates, side by side, to two
        numbers for each of its latents."""
        inputs = sum(ends.latents[:level]) + sum(seen) + covariates
        return self.between(inputs, 2 * ends.latents[level], ends.weights)


class _DecodesAnything(Networks, ABC):
    """A decoder that knows nothing of where a cell stands."""

    def decoder(self, ends: Ends, outputs: int) -> nn.Module:
        return Decoder(
            sum(ends.latents),
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


@dataclass(frozen=True, kw_only=True)
class _Convolutions(Networks, ABC):
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

    @abstractmethod
    def maps_among(self, ends: Ends, sizes: Sequence[int]) -> Sequence[int]:
        """The channels of levels below the top, or of what is said to them, that are maps."""

    def encoder(self, ends: Ends, outputs: int) -> nn.Module:
        said = [self.features_of_x(ends) for _ in ends.latents[1:]]
        return ConvEncoder(
            ends.event_shape,
            covariates=ends.covariates,
            outputs=outputs,
            channels=self.features,
            depth=self.depth,
            width=self.width,
            maps=self.maps_among(ends, said),
            gaps=gaps(ends.schema),
            parts=parts(ends.schema, image_shape(ends.event_shape)[2]),
            generator=ends.weights,
        )

    def decoder(self, ends: Ends, outputs: int) -> nn.Module:
        return ConvDecoder(
            ends.event_shape,
            num_latents=sum(ends.latents),
            covariates=ends.covariates,
            outputs=outputs,
            channels=self.features,
            depth=self.depth,
            width=self.width,
            maps=self.maps_among(ends, ends.latents[1:]),
            generator=ends.weights,
        )


@final
class Conv(_Convolutions):
    """Convolutions over images between vectors of latents."""

    def maps_among(self, ends: Ends, sizes: Sequence[int]) -> Sequence[int]:
        return ()


@final
@dataclass(frozen=True, kw_only=True)
class ConvMaps(_Convolutions):
    """Convolutions over images, and over levels of latents: every one below the top is a map of
    ``maps`` channels at the smallest resolution."""

    maps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.maps < 1:
            raise ValueError(
                f"expected maps of one channel or more, got maps={self.maps}; maps=2 suits small "
                "images, and 0 is vectors"
            )

    def levels(self, event_shape: tuple[int, ...], latents: int, number: int) -> tuple[int, ...]:
        """So many latents on the top level, and a map on each of the others.

        >>> networks("conv:maps=2").levels((28, 28), 10, 3)
        (10, 98, 98)

        Raises InputError where no level is below the top, ValueError for rows that are no images.
        """
        if number < 2:
            raise InputError(
                f"expected two levels or more where those below the top are maps, got {number}; "
                "ask for --levels 2, or leave maps out"
            )
        h, w = self.resolution(event_shape)
        return latents, *(h * w * self.maps for _ in range(number - 1))

    def features_of_x(self, ends: Ends) -> int:
        return prod(self.resolution(ends.event_shape)) * self.features[-1]

    def level(
        self, ends: Ends, level: int, *, seen: Sequence[int] = (), covariates: int = 0
    ) -> nn.Module:
        above, size = ends.latents[:level], ends.latents[level]
        return ConvLevel(
            (*self.resolution(ends.event_shape), self.maps),
            inputs=sum(above) + sum(seen),
            covariates=covariates,
            outputs=2 * size,
            maps=self.maps_among(ends, [*above[1:], *seen]),
            features=self.features[-1],
            depth=self.depth,
            width=self.width,
            generator=ends.weights,
        )

    def maps_among(self, ends: Ends, sizes: Sequence[int]) -> Sequence[int]:
        pixels = prod(self.resolution(ends.event_shape))
        return [size // pixels for size in sizes]

    def resolution(self, event_shape: tuple[int, ...]) -> tuple[int, int]:
        """The smallest resolution (h, w). Raises ValueError for rows that are no images."""
        h, w, _ = image_shape(event_shape)
        return resolutions(h, w, len(self.features))[-1]


def conv(
    width: int = _Convolutions.width,
    depth: int = _Convolutions.depth,
    channels: str = _Convolutions.channels,
    maps: int = 0,
) -> Networks:
    """Convolutions, and levels below the top that are maps of so many channels, or else vectors."""
    if maps == 0:
        return Conv(width=width, depth=depth, channels=channels)
    return ConvMaps(width=width, depth=depth, channels=channels, maps=maps)


NETWORKS: Mapping[str, Callable[..., Networks]] = {"mlp": MLP, "conv": conv, "sets": Sets}


def networks(text: str) -> Networks:
    """The networks that a name such as ``mlp:width=512,depth=2`` stands for.

    >>> networks("conv:channels=16/32").features
    (16, 32)

    Raises InputError for an unknown name or option.
    """
    spec = Spec.parse(text)
    return make("the network", resolve("the network", NETWORKS, spec.name), spec)
