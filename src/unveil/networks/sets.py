"""An encoder that sees the cells which were observed, and nothing in the place of the others."""

import math
from typing import final

import torch
from torch import Generator, Tensor, nn

from unveil.networks.mlp import ResidualMLP, join, linear
from unveil.networks.mouth import Entrance, Parts
from unveil.shapes import Given

# Numbers that enter at a time: bounds the memory of what is summed, and stays in the cache.
NUMBERS_PER_BLOCK = 64


@final
class SetEncoder(nn.Module):
    """An encoder of sparse rows: the mean over the observed cells of what each one says.

        h_j = act(x_j a(e_j) + b(e_j)),  raw = MLP(Σ_{j observed} h_j / n, log n, c)

    ``a`` and ``b`` are linear in the column's embedding e_j, so that a cell says which column it
    is of and what stands in it; n is how many were observed. A missing cell has no part in the
    sum, and the order of the columns none in the result. Where a column enters as several numbers
    (a class, an angle; see ``Entrance``), each has an embedding of its own. Takes x (row, *event)
    with gaps, and covariates; returns (row, outputs), raw zeros for a row with nothing observed.

    Source: Zaheer et al. 2017 (Deep Sets), theorem 2; Ma et al. 2019 (EDDI), section 3.2.

    >>> encoder = SetEncoder((3,), covariates=0, outputs=4, width=8, depth=1)
    >>> encoder(torch.tensor([[0.5, math.nan, 1.0], [math.nan] * 3])).abs().amax(1) > 0
    tensor([ True, False])
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        *,
        covariates: int,
        outputs: int,
        width: int,
        depth: int,
        embedding: int = 16,
        parts: Parts = (),
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.entrance = Entrance(math.prod(event_shape), parts=parts)
        numbers = torch.empty(self.entrance.num_numbers, embedding)
        nn.init.uniform_(numbers, -math.sqrt(3), math.sqrt(3), generator=generator)  # variance 1
        self.embeddings = nn.Parameter(numbers)
        self.says = linear(embedding, 2 * width, generator=generator)
        self.activation = nn.SiLU()
        self.body = ResidualMLP(
            inputs=width + 1 + covariates,
            outputs=outputs,
            width=width,
            depth=depth,
            generator=generator,
        )

    def forward(self, x: Tensor, given: Given = None) -> Tensor:
        cells = x.flatten(1)
        observed = ~torch.isnan(cells)
        numbers, seen = self.entrance(cells, observed), observed[:, self.entrance.reads]
        slopes, offsets = self.says(self.embeddings).to(x.dtype).chunk(2, dim=-1)
        total = x.new_zeros(len(x), slopes.shape[-1])
        for start in range(0, len(slopes), NUMBERS_PER_BLOCK):
            some = slice(start, start + NUMBERS_PER_BLOCK)
            said = self.activation(numbers[:, some, None] * slopes[some] + offsets[some])
            total = total + (said * seen[:, some, None]).sum(1)
        count = observed.sum(-1, keepdim=True).clamp(min=1).to(x.dtype)
        raw = self.body(join(torch.cat([total / count, torch.log(count)], dim=-1), given))
        return raw * observed.any(-1, keepdim=True)
