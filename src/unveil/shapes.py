"""Named tensor shapes, and the notation that names them.

Axes always come in the order ``(sample, row, *event)``: draws of z, then rows of data, then the
cells of one row.

| symbol | in code | meaning |
|---|---|---|
| x | ``x`` | one row of data; a missing cell is NaN |
| c | ``given`` | covariates that are conditioned on and never modelled |
| z | ``z`` | the latent variables of one row |
| ε | ``noise`` | parameter-free noise; a posterior pushes it to z |
| p(z), p(x|z) | ``prior``, ``likelihood`` | the generative model, parameters θ |
| q(z|x) | ``posterior`` | the approximate posterior, parameters φ |
| K | ``num_samples`` | draws of z per row |
| log w | ``log_weights`` | log p(z) + log p(x|z) − log q(z|x) |
| −E_q log p(x|z), KL(q‖p) | ``distortion``, ``rate`` | the two terms of the ELBO, nats per row |
"""

from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

Rows: TypeAlias = Float[Tensor, "row *event"]
Given: TypeAlias = Float[Tensor, "row covariate"] | None
Noise: TypeAlias = Float[Tensor, "sample row latent"]
Latent: TypeAlias = Float[Tensor, " latent"]
Latents: TypeAlias = Float[Tensor, "*sample row latent"]
PerRow: TypeAlias = Float[Tensor, " row"]
PerDraw: TypeAlias = Float[Tensor, "sample row"]
PerUnit: TypeAlias = Float[Tensor, "row latent"]
