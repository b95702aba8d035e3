"""Encoders and decoders: plain modules from numbers to numbers.

Any ``nn.Module`` whose last axis has the width that its family asks for can take their place.
"""

import math
from typing import cast, final

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import skip_init

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
    """The mouth of a posterior's network: takes x (row, *event) with gaps, and covariates.

    A missing cell enters as the column's centre (0 in model units) beside a sign that it was
    missing, when ``gaps`` says that rows have any. A row with nothing observed gives raw zeros,
    which is the prior: where nothing was seen there is nothing to infer.

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
        gaps: "FillsGaps | MarksGaps",
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        cells = math.prod(event_shape)
        self.gaps = gaps
        self.body = ResidualMLP(
            inputs=cells * gaps.inputs_per_cell + covariates,
            outputs=outputs,
            width=width,
            depth=depth,
            generator=generator,
        )

    def forward(self, x: Tensor, given: Given = None) -> Tensor:
        cells = x.flatten(1)
        observed = ~torch.isnan(cells)
        raw = self.body(join(self.gaps(torch.where(observed, cells, 0.0), observed), given))
        return raw * observed.any(-1, keepdim=True)


@final
class FillsGaps(nn.Module):
    """Cells as they are: for data without gaps, where a sign per cell would double the input."""

    inputs_per_cell = 1

    def forward(self, filled: Tensor, observed: Tensor) -> Tensor:
        return filled


@final
class MarksGaps(nn.Module):
    """Cells beside their signs (1 where observed), so that a gap differs from a central value."""

    inputs_per_cell = 2

    def forward(self, filled: Tensor, observed: Tensor) -> Tensor:
        return torch.cat([filled, observed.to(filled.dtype)], dim=-1)


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
