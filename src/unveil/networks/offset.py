"""Counts taken over different exposures: sequencing depth, area, time at risk."""

from typing import final

import torch
from torch import Tensor, nn

from unveil.shapes import Given


@final
class WithOffset(nn.Module):
    """A decoder of log means with the log of an exposure added.

        log μ = network(z, c without c_k) + log c_k

    ``network`` takes z (*sample, row, latent) and c (row, covariate); the first ``cells`` of its
    outputs are log means, as the Poisson and the NegativeBinomial have them, zero-inflated or not,
    and the others pass as they are. ``covariate`` is k. The network does not see c_k, or counts
    would not be proportional to it; it is called with ``given`` only when other covariates are
    left. Raises ValueError where there are no covariates, or an exposure
    is not above 0 (which a compiled step, that cannot look into its rows, leaves unsaid).

    >>> from unveil.networks.mlp import Decoder
    >>> decoder = Decoder(2, covariates=0, outputs=3, width=8, depth=1)
    >>> shifted = WithOffset(decoder, covariate=0, cells=3)
    >>> z, exposure = torch.zeros(1, 2), torch.full((1, 1), 2.0)
    >>> bool(shifted(z, exposure).equal(decoder(z) + exposure.log()))
    True
    """

    def __init__(self, network: nn.Module, *, covariate: int, cells: int) -> None:
        super().__init__()
        self.network, self.covariate, self.cells = network, covariate, cells

    def forward(self, z: Tensor, given: Given = None) -> Tensor:
        if given is None:
            raise ValueError(
                f"expected covariates, of which number {self.covariate} is an exposure, got none; "
                "give the exposure of every row, or take the network without WithOffset"
            )
        exposure = given[:, self.covariate, None]
        if not torch.compiler.is_compiling() and not bool((exposure > 0).all()):
            raise ValueError(
                f"expected exposures above 0 in covariate {self.covariate}, got "
                f"{float(exposure.min())}; leave out the rows that were not exposed"
            )
        rest = torch.cat([given[:, : self.covariate], given[:, self.covariate + 1 :]], dim=-1)
        raw = self.network(z, rest) if rest.shape[-1] else self.network(z)
        log_mean, others = raw.tensor_split([self.cells], dim=-1)
        return torch.cat([log_mean + torch.log(exposure), others], dim=-1)

    def start(self, raw: Tensor) -> None:
        """Start near the raw parameters (outputs,), at an exposure of 1."""
        self.network.start(raw)  # pyright: ignore
