"""Convolutional encoders and decoders of images of any size.

Data have their channels last, (row, h, w) or (row, h, w, c), and so has the memory behind every
tensor here: the axes are named in torch's order, (row, channel, h, w), and nothing is copied.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast, final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.utils import skip_init

from unveil.networks.mlp import join, linear
from unveil.networks.mouth import Gaps, Mouth, Parts
from unveil.shapes import Given

# Features at each resolution, from half the image's own downwards.
CHANNELS = (32, 64)


def convolution(
    inputs: int,
    outputs: int,
    size: int,
    *,
    stride: int = 1,
    gain: float = 1.0,
    generator: Generator | None = None,
) -> nn.Conv2d:
    """A convolution of odd ``size`` with weights ~ U(±gain/√(inputs·size²)), and zero bias.

    With stride 2 it makes ⌈h/2⌉ × ⌈w/2⌉ of h × w.

    >>> convolution(3, 8, 3, stride=2)(torch.zeros(5, 3, 7, 4)).shape
    torch.Size([5, 8, 4, 2])
    """
    layer = cast(
        nn.Conv2d,
        skip_init(nn.Conv2d, inputs, outputs, size, stride=stride, padding=size // 2),
    )
    bound = gain / (math.sqrt(inputs) * size)
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    nn.init.zeros_(cast(Tensor, layer.bias))
    return layer


def image_shape(event_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """An image's (h, w, c), where a shape of two axes is of one channel.

    Raises ValueError for a shape that is not an image's.

    >>> image_shape((28, 20)), image_shape((32, 32, 3))
    ((28, 20, 1), (32, 32, 3))
    """
    if len(event_shape) not in (2, 3) or min(event_shape) < 1:
        raise ValueError(
            f"expected images of shape (h, w) or (h, w, channels), got {event_shape}; give their "
            "rows such a shape, or use networks without convolutions"
        )
    h, w, *rest = event_shape
    return h, w, *(rest or [1])  # pyright: ignore[reportReturnType]


def resolutions(h: int, w: int, levels: int) -> list[tuple[int, int]]:
    """h × w and its halves, each rounded up, ``levels`` of them.

    >>> resolutions(28, 5, levels=3)
    [(28, 5), (14, 3), (7, 2), (4, 1)]
    """
    return [(-(-h // 2**level), -(-w // 2**level)) for level in range(levels + 1)]


def _require_channels(channels: Sequence[int]) -> None:
    if min(channels, default=0) < 1:
        raise ValueError(
            f"expected the features at one or more resolutions, got {tuple(channels)}; "
            f"{CHANNELS} suits small images"
        )


@final
class ConvBlock(nn.Module):
    """h → h + W₂ act(W₁ * act(h)), W₁ of 3×3 pixels and W₂ of one; W₂ starts at zero."""

    def __init__(self, channels: int, *, generator: Generator | None = None) -> None:
        super().__init__()
        self.first = convolution(channels, channels, 3, generator=generator)
        self.second = convolution(channels, channels, 1, gain=0.0, generator=generator)
        self.activation = nn.SiLU()

    def forward(self, h: Tensor) -> Tensor:
        return h + self.second(self.activation(self.first(self.activation(h))))


@final
class Doubled(nn.Module):
    """Twice the resolution: each pixel makes 2 × 2, and what exceeds (h, w) is cut off."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        resolution: tuple[int, int],
        *,
        size: int,
        gain: float = 1.0,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.spread = convolution(inputs, 4 * outputs, size, gain=gain, generator=generator)
        self.activation = nn.SiLU()

    def forward(self, h: Tensor) -> Tensor:
        height, width = self.resolution
        doubled = F.pixel_shuffle(self.spread(self.activation(h)), 2)[..., :height, :width]
        return doubled.contiguous(memory_format=torch.channels_last)


def blocks(channels: int, depth: int, *, generator: Generator | None = None) -> nn.Sequential:
    """``depth`` residual blocks, which start as the identity."""
    return nn.Sequential(*(ConvBlock(channels, generator=generator) for _ in range(depth)))


def as_image(numbers: Tensor, resolution: tuple[int, int]) -> Tensor:
    """(row, h·w·c) in C order of (h, w, c) as an image (row, c, h, w).

    >>> as_image(torch.arange(8).reshape(1, 8), (2, 2))[0, 1]     # the second of two channels
    tensor([[1, 3],
            [5, 7]])
    """
    side_by_side = numbers.unflatten(-1, (*resolution, -1)).permute(0, 3, 1, 2)
    return side_by_side.contiguous(memory_format=torch.channels_last)  # a copy of a part alone


def as_numbers(image: Tensor) -> Tensor:
    """An image (row, c, h, w) as (row, h·w·c) in C order of (h, w, c).

    >>> as_numbers(torch.arange(8).reshape(1, 2, 2, 2))
    tensor([[0, 4, 1, 5, 2, 6, 3, 7]])
    """
    return image.permute(0, 2, 3, 1).flatten(1)


def join_everywhere(image: Tensor, given: Given) -> Tensor:
    """Features (row, c, h, w), and beside those of each pixel the row's covariates."""
    if given is None:
        return image
    features = image.permute(0, 2, 3, 1)
    everywhere = given[:, None, None].expand(*features.shape[:-1], -1)
    return torch.cat([features, everywhere], dim=-1).permute(0, 3, 1, 2)


def _of_maps(total: int, resolution: tuple[int, int], maps: Sequence[int]) -> list[int]:
    """How many of so many numbers are a vector, and then each of the maps."""
    sizes = [math.prod(resolution) * channels for channels in maps]
    if total <= sum(sizes):
        raise ValueError(
            f"expected more numbers than the {sum(sizes)} of the maps, got {total}; let a vector "
            "of one number or more stand before the maps"
        )
    return [total - sum(sizes), *sizes]


@final
class ConvEncoder(nn.Module):
    """The network of a posterior over images: takes x (row, h, w) or (row, h, w, c) with gaps.

    Each resolution, half the one before it rounded up, has ``channels`` features and ``depth``
    residual blocks; the last one's features and the covariates meet in a layer of ``width``.
    Cells enter through a ``Mouth`` whose columns are the channels. Returns (row, outputs), raw
    zeros for a row with nothing observed; the last of these numbers are ``maps``, so many features
    each, at the last resolution and in C order of (h, w, features). Raises ValueError for shapes
    and settings that are not an image's.

    >>> from unveil.networks.mouth import FillsGaps
    >>> encoder = ConvEncoder((28, 20), covariates=0, outputs=6, gaps=FillsGaps())
    >>> encoder(torch.zeros(5, 28, 20)).shape
    torch.Size([5, 6])
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        *,
        covariates: int,
        outputs: int,
        channels: Sequence[int] = CHANNELS,
        depth: int = 1,
        width: int = 256,
        maps: Sequence[int] = (),
        gaps: Gaps,
        parts: Parts = (),
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        _require_channels(channels)
        self.image = h, w, c = image_shape(event_shape)
        self.mouth = Mouth(c, gaps=gaps, parts=parts)
        stages, before = [], self.mouth.width
        for features in channels:
            stages.append(convolution(before, features, 3, stride=2, generator=generator))
            stages.append(blocks(features, depth, generator=generator))
            before = features
        self.body = nn.Sequential(*stages)
        smallest = resolutions(h, w, len(channels))[-1]
        vector, *_ = _of_maps(outputs, smallest, maps)
        self.gather = linear(math.prod(smallest) * before + covariates, width, generator=generator)
        self.leave = linear(width, vector, gain=0.1, generator=generator)
        self.maps = nn.ModuleList(
            convolution(before + covariates, features, 3, generator=generator) for features in maps
        )
        self.activation = nn.SiLU()

    def forward(self, x: Tensor, given: Given = None) -> Tensor:
        cells = x.reshape(len(x), *self.image)
        observed = ~torch.isnan(cells)
        h = self.activation(self.body(self.mouth(cells, observed).permute(0, 3, 1, 2)))
        vector = self.leave(self.activation(self.gather(join(as_numbers(h), given))))
        maps = [as_numbers(layer(join_everywhere(h, given))) for layer in self.maps]
        return torch.cat([vector, *maps], dim=-1) * observed.flatten(1).any(-1, keepdim=True)


class _FromOneResolution(nn.Module, ABC):
    """Numbers side by side, met in features at one resolution, made into parameters of cells.

        h = U act(W [v, c]) + Σ_k V_k * m_k,   numbers [v, m₁ … m_K, c]

    Of the ``inputs`` numbers the last are ``maps``, so many channels each, in C order of (h, w,
    channel); what stands before them is a vector v, unfolded together with the covariates c.
    """

    body: nn.Module

    def __init__(
        self,
        event_shape: tuple[int, ...],
        smallest: tuple[int, int, int],
        *,
        inputs: int,
        covariates: int,
        outputs: int,
        width: int,
        maps: Sequence[int],
        generator: Generator | None,
    ) -> None:
        super().__init__()
        h, w, c = image_shape(event_shape)
        if outputs < 1 or outputs % (h * w * c):
            raise ValueError(
                f"expected a multiple of {h * w * c} outputs, a whole number for each cell of "
                f"{event_shape}, got {outputs}; use a decoder without convolutions for such a "
                "family"
            )
        self.groups = (outputs // (h * w * c), c)
        self.smallest = smallest
        self.sizes = [*_of_maps(inputs, smallest[:2], maps), covariates]
        self.enter = linear(self.sizes[0] + covariates, width, generator=generator)
        self.unfold = linear(width, math.prod(smallest), generator=generator)
        self.maps = nn.ModuleList(
            convolution(channels, smallest[2], 3, generator=generator) for channels in maps
        )
        self.activation = nn.SiLU()

    @abstractmethod
    def leaves(self, h: Tensor) -> Tensor:
        """From features (draw, feature, h, w) to images (draw, group·c, h, w) of the cells."""

    def forward(self, value: Tensor, given: Given = None) -> Tensor:
        h = self.body(self.meet(join(value, given).flatten(0, -2)))
        images = self.leaves(h).unflatten(1, self.groups)  # (draw, group, c, h, w)
        return images.permute(0, 1, 3, 4, 2).flatten(1).unflatten(0, value.shape[:-1])

    def meet(self, side_by_side: Tensor) -> Tensor:
        vector, *maps, given = torch.split(side_by_side, self.sizes, dim=-1)
        unfolded = self.unfold(self.activation(self.enter(join(vector, given))))
        h = as_image(unfolded, self.smallest[:2])
        for layer, numbers in zip(self.maps, maps, strict=True):
            h = h + layer(as_image(numbers, self.smallest[:2]))
        return h


@final
class ConvLevel(_FromOneResolution):
    """The network of a level of latents that is a map (h, w, c): from what is known to its cells.

    Takes (*sample, row, inputs): the levels above, of which the top is a vector and the others
    maps of the same resolution, and then maps of ``features`` that x is said to have, if any; the
    channels of all these maps are ``maps``. Covariates come beside them or last among them.
    Returns (*sample, row, outputs): for each parameter of a cell one map, side by side, each in C
    order of (h, w, c). Raises ValueError when ``outputs`` is no multiple of the cells, and where
    no vector stands before the maps.
    Source: Kingma et al. 2016, section 5; Vahdat & Kautz 2020, section 3.

    >>> level = ConvLevel((7, 5, 2), inputs=3 + 70, covariates=0, outputs=2 * 70, maps=(2,))
    >>> level(torch.zeros(4, 6, 73)).shape
    torch.Size([4, 6, 140])
    """

    def __init__(
        self,
        event_shape: tuple[int, int, int],
        *,
        inputs: int,
        covariates: int,
        outputs: int,
        maps: Sequence[int] = (),
        features: int = CHANNELS[-1],
        depth: int = 1,
        width: int = 256,
        generator: Generator | None = None,
    ) -> None:
        h, w, _ = event_shape
        super().__init__(
            event_shape,
            (h, w, features),
            inputs=inputs,
            covariates=covariates,
            outputs=outputs,
            width=width,
            maps=maps,
            generator=generator,
        )
        self.body = blocks(features, depth, generator=generator)
        self.leave = convolution(features, math.prod(self.groups), 3, gain=0.1, generator=generator)

    def leaves(self, h: Tensor) -> Tensor:
        return self.leave(self.activation(h))


@final
class ConvDecoder(_FromOneResolution):
    """The network of a likelihood of images: takes z (*sample, row, latent), and covariates.

    ``channels`` are those of the encoder, from half the image's resolution downwards; z comes in
    at the last, where the last of its latents are ``maps`` of so many channels each. Returns
    (*sample, row, outputs): for each parameter of a cell one image, side by side, each in C order
    of (h, w, c), as ``families.split_parameters`` takes them apart. Every cell has a bias of its
    own. Raises ValueError when ``outputs`` is no multiple of the cells.

    >>> decoder = ConvDecoder((28, 20), num_latents=2, covariates=0, outputs=2 * 28 * 20)
    >>> decoder(torch.zeros(4, 3, 2)).shape
    torch.Size([4, 3, 1120])
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        *,
        num_latents: int,
        covariates: int,
        outputs: int,
        channels: Sequence[int] = CHANNELS,
        depth: int = 1,
        width: int = 256,
        maps: Sequence[int] = (),
        generator: Generator | None = None,
    ) -> None:
        _require_channels(channels)
        h, w, _ = image_shape(event_shape)
        sizes = resolutions(h, w, len(channels))
        super().__init__(
            event_shape,
            (*sizes[-1], channels[-1]),
            inputs=num_latents,
            covariates=covariates,
            outputs=outputs,
            width=width,
            maps=maps,
            generator=generator,
        )
        stages = []
        for level in range(len(channels) - 1, 0, -1):
            now, after = channels[level], channels[level - 1]
            stages.append(blocks(now, depth, generator=generator))
            stages.append(Doubled(now, after, sizes[level], size=1, generator=generator))
        self.body = nn.Sequential(*stages, blocks(channels[0], depth, generator=generator))
        self.leave = Doubled(
            channels[0], math.prod(self.groups), (h, w), size=3, gain=0.1, generator=generator
        )
        self.leave.spread.bias = None  # every cell has its own
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, value: Tensor, given: Given = None) -> Tensor:
        return super().forward(value, given) + self.bias

    def leaves(self, h: Tensor) -> Tensor:
        return self.leave(h)

    def start(self, raw: Tensor) -> None:
        """Start near the raw parameters (outputs,), whatever z is: they become the bias."""
        with torch.no_grad():
            self.bias.copy_(raw)
