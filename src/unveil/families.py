"""Family: parameters → distribution. Conditional: a network and the family it feeds."""

import math
from abc import ABC, abstractmethod
from typing import cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from unveil.shapes import Given

_RAW_OF_ONE = math.log(math.e - 1)  # softplus of this is 1


def positive(raw: Tensor) -> Tensor:
    """A positive number from an unconstrained one: softplus(raw + log(e − 1)).

    A raw 0 gives 1, and large values grow linearly, so that no overflow follows.

    >>> float(positive(torch.zeros(())))
    1.0
    """
    return F.softplus(raw + _RAW_OF_ONE)


def raw_of(value: Tensor) -> Tensor:
    """The unconstrained number that ``positive`` makes into ``value``.

    >>> float(raw_of(torch.ones(())))
    0.0
    """
    return value + torch.log(-torch.expm1(-value)) - _RAW_OF_ONE


class Family(nn.Module, ABC):
    """A parametric family: the unconstrained outputs of a network, made into a distribution.

    ``event_shape`` is the shape of one value; ``num_parameters`` is how many numbers per row the
    network must deliver. Parameters that no network predicts (a variance per column, say) are the
    family's own ``nn.Parameter``s.
    """

    event_shape: tuple[int, ...]
    num_parameters: int

    @abstractmethod
    def forward(self, raw: Tensor) -> Distribution:
        """raw (..., num_parameters) → a distribution with batch shape (...)."""

    def start(self, mean: Tensor) -> Tensor:
        """The raw parameters (num_parameters,) that put the mean of a value at ``mean`` (*event).

        A decoder that starts there starts as the best guess without z. Zeros when not known.
        """
        return torch.zeros(self.num_parameters)

    def start_at(self, x: Tensor) -> Tensor:
        """The raw parameters (num_parameters,) that suit rows x (row, *event) without z: those of
        the columns' means, where a mean says it."""
        return self.start(x.nanmean(0).nan_to_num(nan=0.0))

    def log_supremum(self, x: Tensor) -> Tensor:
        """A bound on log p(x|z) that no z exceeds, whatever the network, nats, (row,).

        x (row, *event) may have gaps, which count nothing. +∞ where none is known.
        """
        observed = ~torch.isnan(x).flatten(1).all(1)
        return torch.where(observed, math.inf, 0.0).to(x)


class MassFamily(Family, ABC):
    """A family whose values have true probabilities, so that none is above 1."""

    def log_supremum(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x))


@final
class Conditional(nn.Module):
    """A network joined to a family: calling it is conditioning, and returns a distribution.

        p(· | v, c) = family(network(v, c))

    ``network`` is any module whose last axis has ``family.num_parameters`` numbers; it is called
    with ``given`` only when there are covariates. Raises ValueError when the width is another.

    >>> from unveil.posteriors.diagonal import DiagonalGaussian
    >>> encoder = Conditional(nn.Linear(5, 4), DiagonalGaussian(2))
    >>> encoder(torch.zeros(3, 5)).batch_shape
    torch.Size([3])
    """

    def __init__(self, network: nn.Module, family: Family) -> None:
        super().__init__()
        self.network, self.family = network, family

    def forward(self, value: Tensor, given: Given = None) -> Distribution:
        raw = self.network(value) if given is None else self.network(value, given)
        if raw.shape[-1] != self.family.num_parameters:
            raise ValueError(
                f"{type(self.family).__name__} expected {self.family.num_parameters} numbers per "
                f"row from its network, got {raw.shape[-1]}; give the network's last layer that "
                "many outputs"
            )
        # Densities are evaluated in the data's precision, also when the network ran in bfloat16.
        return cast(Distribution, self.family(raw.to(value.dtype)))


def as_shape(shape: int | tuple[int, ...]) -> tuple[int, ...]:
    """An event shape from a width or a shape: ``784`` is ``(784,)``."""
    return (shape,) if isinstance(shape, int) else tuple(shape)


def beside_cells(raw: Tensor, number: int, shape: tuple[int, ...]) -> Tensor:
    """So many numbers for each cell, (..., *shape, number), of groups of prod(shape) side by side.

    Groups are what a network delivers for every cell alike, so that one that draws images draws
    each of them as one.

    >>> beside_cells(torch.arange(6), 2, (3,))
    tensor([[0, 3],
            [1, 4],
            [2, 5]])
    """
    return raw.unflatten(-1, (number, *shape)).movedim(-1 - len(shape), -1)


def side_by_side(numbers: Tensor) -> Tensor:
    """The raw parameters of one value that ``beside_cells`` makes into numbers (*shape, number).

    >>> side_by_side(torch.tensor([[0, 3], [1, 4], [2, 5]]))
    tensor([0, 1, 2, 3, 4, 5])
    """
    return numbers.movedim(-1, 0).flatten()


def split_parameters(raw: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """The groups of prod(shape) numbers that stand side by side in raw, each (..., *shape)."""
    width = math.prod(shape)
    return tuple(part.unflatten(-1, shape) for part in torch.split(raw, width, dim=-1))
