"""Encoders and decoders: plain modules from numbers to numbers.

Any ``nn.Module`` whose last axis has the width that its family asks for can take their place.
"""

import math
from typing import cast, final

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import skip_init

from unveil.networks.mouth import FillsGaps as FillsGaps
from unveil.networks.mouth import Gaps, Mouth, Parts
from unveil.networks.mouth import MarksGaps as MarksGaps
from unveil.shapes import Given


def linear(
    inputs: int, outputs: int, *, gain: float = 1.0, generator: Generator | None = None
) -> nn.Linear:
    """A linear layer with weights ~ U(±gain/√inputs) from a generator of its own, and zero bias.

    torch's constructor would draw from global state, so it is skipped.

    >>> linear(3, 2, gain=0.0).weight.abs().max().item()
    0.0
    """
    layer = cast(nn.Linear, skip_init(nn.Linear, inputs, outputs))
    bound = gain / math.sqrt(inputs)
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


@final
class ResidualBlock(nn.Module):
    """h → h + W₂ act(W₁ act(h)); W₂ starts at zero, so that a deep stack starts as the identity."""

    def __init__(self, width: int, *, generator: Generator | None = None) -> None:
        super().__init__()
        self.first = linear(width, width, generator=generator)
        self.second = linear(width, width, gain=0.0, generator=generator)
        self.activation = nn.SiLU()

    def forward(self, h: Tensor) -> Tensor:
        return h + self.second(self.activation(self.first(self.activation(h))))


@final
class ResidualMLP(nn.Module):
    """inputs → width → depth residual blocks → outputs.

    The last layer starts small, so that an untrained encoder is near the prior and an untrained
    decoder near its bias, whatever the width.

    >>> ResidualMLP(inputs=8, outputs=3, width=16, depth=2)(torch.zeros(5, 8)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        *,
        inputs: int,
        outputs: int,
        width: int,
        depth: int,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.enter = linear(inputs, width, generator=generator)
        self.blocks = nn.Sequential(
            *(ResidualBlock(width, generator=generator) for _ in range(depth))
        )
        self.activation = nn.SiLU()
        self.leave = linear(width, outputs, gain=0.1, generator=generator)

    def forward(self, value: Tensor) -> Tensor:
        return self.leave(self.activation(self.blocks(self.enter(value))))


def join(value: Tensor, given: Given) -> Tensor:
    """Inputs and covariates side by side; covariates repeat over the sample axis of ``value``."""
    if given is None:
        return value
    return torch.cat([value, given.expand(*value.shape[:-1], given.shape[-1])], dim=-1)


@final
class Encoder(nn.Module):
    """The network of a posterior: takes x (row, *event) with gaps, and covariates.

    Cells enter through a ``Mouth``: those that ``parts`` name in their own way, a missing one as
    zeros beside a sign that it was missing, when ``gaps`` says that rows have any. A row with
    nothing observed gives raw zeros, which is the prior: where nothing was seen there is nothing
    to infer.

    >>> encoder = Encoder((2, 2), covariates=0, outputs=6, width=8, depth=1, gaps=MarksGaps())
    >>> encoder(torch.full((1, 2, 2), float("nan"))).abs().max().item()
    0.0
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        *,
        covariates: int,
        outputs: int,
        width: int,
        depth: int,
        gaps: Gaps,
        parts: Parts = (),
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.mouth = Mouth(math.prod(event_shape), gaps=gaps, parts=parts)
        self.body = ResidualMLP(
            inputs=self.mouth.width + covariates,
            outputs=outputs,
            width=width,
            depth=depth,
            generator=generator,
        )

    def forward(self, x: Tensor, given: Given = None) -> Tensor:
        cells = x.flatten(1)
        observed = ~torch.isnan(cells)
        raw = self.body(join(self.mouth(cells, observed), given))
        return raw * observed.any(-1, keepdim=True)


@final
class Decoder(nn.Module):
    """The network of a likelihood: takes z (*sample, row, latent), and covariates.

    >>> Decoder(2, covariates=0, outputs=5, width=8, depth=1)(torch.zeros(4, 3, 2)).shape
    torch.Size([4, 3, 5])
    """

    def __init__(
        self,
        num_latents: int,
        *,
        covariates: int,
        outputs: int,
        width: int,
        depth: int,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.body = ResidualMLP(
            inputs=num_latents + covariates,
            outputs=outputs,
            width=width,
            depth=depth,
            generator=generator,
        )

    def forward(self, z: Tensor, given: Given = None) -> Tensor:
        return self.body(join(z, given))

    def start(self, raw: Tensor) -> None:
        """Start near the raw parameters (outputs,), whatever z is: they become the last bias."""
        with torch.no_grad():
            self.body.leave.bias.copy_(raw)


@final
class Joined(nn.Module):
    """A network of one input, given a value and its covariates side by side."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, value: Tensor, given: Given = None) -> Tensor:
        return self.network(join(value, given))
