"""How the cells of a row enter an encoder: each kind of column in its own way, gaps as zeros."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain
from typing import TypeAlias, cast, final

import torch
from torch import Tensor, nn

# Stands in for a missing cell until its number is made zero: every way of entering is finite here.
STAND_IN = 1.0


class Way(nn.Module, ABC):
    """A way for columns of one kind to enter a network: cells in, numbers out."""

    @abstractmethod
    def reads(self, columns: Sequence[int]) -> tuple[int, ...]:
        """The column that each number is made of, in the order in which ``forward`` makes them."""

    @abstractmethod
    def forward(self, cells: Tensor) -> Tensor:
        """The numbers (..., number) made of the cells that they read (..., number)."""


@final
class AsItIs(Way):
    """Any number: x.

    >>> AsItIs()(torch.tensor([0.5, -1.0]))
    tensor([ 0.5000, -1.0000])
    """

    def reads(self, columns: Sequence[int]) -> tuple[int, ...]:
        return tuple(columns)

    def forward(self, cells: Tensor) -> Tensor:
        return cells


@final
class Log(Way):
    """A positive number: log x.

    >>> Log()(torch.tensor([1.0, 10.0]))
    tensor([0.0000, 2.3026])
    """

    def reads(self, columns: Sequence[int]) -> tuple[int, ...]:
        return tuple(columns)

    def forward(self, cells: Tensor) -> Tensor:
        return torch.log(cells)


@final
class Log1p(Way):
    """A count: log(1 + x), which is 0 for none and spans a few units where counts span decades.

    >>> Log1p()(torch.tensor([0.0, 9.0]))
    tensor([0.0000, 2.3026])
    """

    def reads(self, columns: Sequence[int]) -> tuple[int, ...]:
        return tuple(columns)

    def forward(self, cells: Tensor) -> Tensor:
        return torch.log1p(cells)


@final
class CosSin(Way):
    """An angle in radians: its point on the circle, cos x and sin x, so that 2π is 0 again.

    All cosines come first.

    >>> CosSin()(torch.zeros(2))        # one angle, read twice
    tensor([1., 0.])
    """

    def reads(self, columns: Sequence[int]) -> tuple[int, ...]:
        return (*columns, *columns)

    def forward(self, cells: Tensor) -> Tensor:
        first, again = cells.chunk(2, dim=-1)
        return torch.cat([torch.cos(first), torch.sin(again)], dim=-1)


@final
class OneHot(Way):
    """A class, by its code 0 … C−1: one number for each code, 1 where x is that code, else 0.

    ``classes`` is how many codes each column has. Raises ValueError for a column without any, and
    where the columns are not as many.

    >>> OneHot([3])(torch.tensor([2.0, 2.0, 2.0]))      # one class of three, read three times
    tensor([0., 0., 1.])
    """

    codes: Tensor

    def __init__(self, classes: Sequence[int]) -> None:
        super().__init__()
        if min(classes, default=0) < 1:
            raise ValueError(
                f"expected at least one class in each column, got {list(classes)}; give the number "
                "of codes of every column"
            )
        self.classes = tuple(classes)
        codes = torch.cat([torch.arange(number) for number in classes])
        self.register_buffer("codes", codes, persistent=False)

    def reads(self, columns: Sequence[int]) -> tuple[int, ...]:
        if len(columns) != len(self.classes):
            raise ValueError(
                f"expected {len(self.classes)} columns, one for each number of classes, got "
                f"{len(columns)}; give as many"
            )
        return tuple(
            column
            for column, number in zip(columns, self.classes, strict=True)
            for _ in range(number)
        )

    def forward(self, cells: Tensor) -> Tensor:
        return (cells == self.codes).to(cells.dtype)


# Pairs (columns, the way in which they enter); the columns that no pair names enter as they are.
Parts: TypeAlias = Sequence[tuple[Sequence[int], Way]]


class Gaps(nn.Module, ABC):
    """What an encoder is told of the gaps in its rows."""

    inputs_per_cell: int

    @abstractmethod
    def forward(self, numbers: Tensor, observed: Tensor) -> Tensor:
        """The numbers (..., number), with what is said of the cells observed (..., column)."""


@final
class FillsGaps(Gaps):
    """Nothing: for data without gaps, where a sign per cell would double the input."""

    inputs_per_cell = 1

    def forward(self, numbers: Tensor, observed: Tensor) -> Tensor:
        return numbers


@final
class MarksGaps(Gaps):
    """A sign for each cell (1 where observed), so that a gap differs from a central value."""

    inputs_per_cell = 2

    def forward(self, numbers: Tensor, observed: Tensor) -> Tensor:
        return torch.cat([numbers, observed.to(numbers.dtype)], dim=-1)


@final
class Entrance(nn.Module):
    """The numbers that the cells of a row make, each kind of column in its own way.

    ``parts`` are pairs (columns, way); the columns that no part names enter as they are, and come
    first. Takes cells (..., column) and which of them were observed, and returns (..., number);
    the numbers of a missing cell are 0. ``reads`` (number,) is the column that each is made of.
    Raises ValueError for a column named twice or that is not there.

    >>> entrance = Entrance(3, parts=[((1,), OneHot([2])), ((2,), Log1p())])
    >>> entrance(torch.tensor([7.0, 1.0, 0.0]), torch.tensor([True, True, True]))
    tensor([7., 0., 1., 0.])
    >>> entrance.reads
    tensor([0, 1, 1, 2])
    """

    reads: Tensor

    def __init__(self, num_columns: int, *, parts: Parts = ()) -> None:
        super().__init__()
        named = list(chain.from_iterable(columns for columns, _ in parts))
        if len(set(named)) < len(named) or not set(named) <= set(range(num_columns)):
            raise ValueError(
                f"expected the parts to name columns among 0 … {num_columns - 1}, each once at "
                f"most, got {sorted(named)}; give every column one way to enter"
            )
        rest = [column for column in range(num_columns) if column not in set(named)]
        self.ways = nn.ModuleList([AsItIs(), *(way for _, way in parts)])
        reads = [rest, *(way.reads(columns) for columns, way in parts)]
        self.widths = [len(columns) for columns in reads]
        self.num_numbers = sum(self.widths)
        index = torch.tensor(list(chain.from_iterable(reads)), dtype=torch.long)
        self.register_buffer("reads", index, persistent=False)

    def forward(self, cells: Tensor, observed: Tensor) -> Tensor:
        if len(self.ways) == 1:  # spares a copy of every image
            return torch.where(observed, cells, 0.0)
        seen = observed[..., self.reads]
        pieces = torch.where(seen, cells[..., self.reads], STAND_IN).split(self.widths, dim=-1)
        ways = cast(Sequence[Way], self.ways)
        numbers = [way(piece) for way, piece in zip(ways, pieces, strict=True)]
        return torch.where(seen, torch.cat(numbers, dim=-1), 0.0)


@final
class Mouth(nn.Module):
    """What an encoder takes in: the numbers that the cells make, and what is said of the gaps.

    Cells (..., column), of which some were observed, to (..., ``width``); for images a column is
    a channel. ``parts`` are pairs (columns, way of entering), see ``Entrance``.

    >>> mouth = Mouth(2, gaps=MarksGaps(), parts=[((1,), CosSin())])
    >>> mouth(torch.tensor([3.0, torch.nan]), torch.tensor([True, False]))
    tensor([3., 0., 0., 1., 0.])
    >>> mouth.width
    5
    """

    def __init__(self, num_columns: int, *, gaps: Gaps, parts: Parts = ()) -> None:
        super().__init__()
        self.entrance, self.gaps = Entrance(num_columns, parts=parts), gaps
        self.width = self.entrance.num_numbers + num_columns * (gaps.inputs_per_cell - 1)

    def forward(self, cells: Tensor, observed: Tensor) -> Tensor:
        return self.gaps(self.entrance(cells, observed), observed)
