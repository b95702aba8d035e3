"""Evidence that no draw has to estimate: linear decoders of normal latents, and discrete latents.

p(x) = Σ_k π_k N(x; W m_k + b, W S_k Wᵀ + Ψ)   for   z ~ Σ_k π_k N(m_k, S_k),  x|z ~ N(Wz + b, Ψ)
p(x) = Σ_z p(x, z)                             for   z in a finite set
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.distributions import Distribution, MultivariateNormal, Normal

from unveil.distributions import LOG_2PI, Cells, DiagonalNormal, Plain, draw
from unveil.evidence.weights import require_finite
from unveil.latent import VAE, LatentVariableModel
from unveil.likelihoods.real import Gaussian
from unveil.priors.mixture import MixtureOfNormals
from unveil.shapes import Given, PerRow, Rows
from unveil.tiles import RowsAlike, Tile, chunks, floats_per_draw, tiles

# A discrete z of more values than this is not summed over.
LARGEST_SUPPORT = 2**16


def exact_evidence(model: LatentVariableModel, x: Rows, given: Given = None) -> PerRow | None:
    """log p(x) of each row where it has a closed form, nats, (row,) float64; None where it has not.

    It knows what ``closed_form`` knows, and raises as ``ClosedForm.log_evidence`` does.

    >>> import unveil
    >>> vae = unveil.VAE(
    ...     prior=unveil.StandardNormal(1),
    ...     likelihood=unveil.Conditional(nn.Linear(1, 3), unveil.Gaussian(3)),
    ...     posterior=unveil.Conditional(nn.Linear(3, 2), unveil.DiagonalGaussian(1)),
    ... )
    >>> log_p = exact_evidence(vae, torch.tensor([[1.0, 0.0, 2.0], [math.nan] * 3]))
    >>> bool(log_p[0] < 0), float(log_p[1])
    (True, 0.0)
    """
    form = closed_form(model, given)
    return None if form is None else form.log_evidence(x, given)


class ClosedForm(ABC):
    """A model whose evidence is known."""

    def log_evidence(self, x: Rows, given: Given = None) -> PerRow:
        """log p(x), nats, (row,) float64: of what each row shows, and bitwise its own.

        Raises ArithmeticError for a density that is NaN or +∞.
        """
        parts = []
        with torch.no_grad(), RowsAlike():
            for tile in tiles(x, given):
                log_p = torch.where(tile.observed, self.of_tile(tile), 0.0)
                parts.append(log_p[: tile.count].cpu())
        return require_finite(torch.cat(parts), "log-evidence")

    @abstractmethod
    def of_tile(self, tile: Tile) -> PerRow:
        """log p(x) of a tile's rows, whatever it is where nothing is observed."""


def closed_form(model: LatentVariableModel, given: Given = None) -> ClosedForm | None:
    """The closed form of a model's evidence, or None.

    Known are the models whose prior enumerates its support, of ``LARGEST_SUPPORT`` values at most
    and event shape (latent,), whatever their likelihood; and a VAE
    without covariates whose prior is a normal or a mixture of normals, whose decoder is one
    nn.Linear, or several in a row, and whose family is Gaussian with a FixedScale or ColumnScale.

    >>> import unveil
    >>> vae = unveil.VAE(
    ...     prior=unveil.GaussianMixture(2, 3, Generator().manual_seed(0)),
    ...     likelihood=unveil.Conditional(nn.Linear(2, 4), unveil.Gaussian(4)),
    ...     posterior=unveil.Conditional(nn.Linear(4, 4), unveil.DiagonalGaussian(2)),
    ... )
    >>> form = closed_form(vae)
    >>> form.posterior(torch.zeros(5, 4)).log_weights.shape                # (row, component)
    torch.Size([5, 3])
    """
    with torch.no_grad():
        prior = model.prior(None if given is None else given[:1])
        summed = Enumeration.of(model, prior)
        if summed is not None or given is not None:
            return summed
        return LinearMixture.of(model, prior)


@final
@dataclass(frozen=True)
class Enumeration(ClosedForm):
    """p(x|c) = Σ_z p(x, z|c) over every z that there is."""

    model: LatentVariableModel

    @classmethod
    def of(cls, model: LatentVariableModel, prior: Distribution) -> "Enumeration | None":
        """The sum over a prior's support, or None where it has none, or too large a one."""
        if not prior.has_enumerate_support or prior.event_shape != (model.num_latents,):
            return None
        few = len(prior.enumerate_support(expand=False)) <= LARGEST_SUPPORT
        return cls(model) if few else None

    def of_tile(self, tile: Tile) -> PerRow:
        values = self.model.prior(tile.given).enumerate_support(expand=False)
        rows, latents = len(tile.x), self.model.num_latents
        log_sum = torch.full((rows,), -math.inf, dtype=torch.float64, device=tile.x.device)
        sizes = chunks(len(values), floats_per_draw=floats_per_draw(self.model, tile))
        for z in values.reshape(len(values), -1, latents).split(list(sizes)):
            each = z.expand(len(z), rows, latents)
            log_joint = self.model.log_joint(tile.x, each, tile.given).double()
            log_sum = torch.logaddexp(log_sum, log_joint.logsumexp(0))
        return log_sum


@final
@dataclass(frozen=True, kw_only=True)
class LinearMixture(ClosedForm):
    """z ~ Σ_k π_k N(m_k, diag s_k²), x|z ~ N(Wz + b, diag ψ²), as a density per unit of the data.

    Cells are counted one after the other whatever the event's shape; all tensors are float64.
    ``log_weights`` are log π, and ``log_unit`` is that of the family.

        log p(x) = logsumexp_k [log π_k + log N(x; W m_k + b, W S_k Wᵀ + Ψ)] − Σ_j log unit_j

    A row's own observed cells alone enter W, b and Ψ. By the matrix-inversion and determinant
    lemmas no matrix is factorised that is larger than the latents are many.
    Source: Tipping & Bishop 1999; Ghahramani & Hinton 1996 (mixtures).
    """

    weight: Float[Tensor, "cell latent"]
    bias: Float[Tensor, " cell"]
    noise_sd: Float[Tensor, " cell"]
    log_unit: Float[Tensor, " cell"]
    log_weights: Float[Tensor, " component"]
    loc: Float[Tensor, "component latent"]
    scale: Float[Tensor, "component latent"]

    @classmethod
    def of(cls, model: LatentVariableModel, prior: Distribution) -> "LinearMixture | None":
        """The closed form of a model with this prior, or None where it has none."""
        mixture = _as_mixture(prior)
        if mixture is None or not isinstance(model, VAE):
            return None
        decoder = model.p_x_given_z
        family, affine = decoder.family, _affine(decoder.network)
        if affine is None or not isinstance(family, Gaussian) or family.scale.outputs_per_cell:
            return None
        weight, bias = affine
        cells = family(bias)
        assert isinstance(cells, Cells) and isinstance(cells.base, Normal)
        log_unit = family.log_unit.expand(family.event_shape)
        return cls(
            weight=weight,
            bias=bias,
            noise_sd=cells.base.scale.flatten().double(),
            log_unit=log_unit.flatten().double(),
            log_weights=mixture.log_weights.double(),
            loc=mixture.loc.double(),
            scale=mixture.scale.double(),
        )

    def of_tile(self, tile: Tile) -> PerRow:
        return torch.cat([part.log_joint.logsumexp(-1) for part in self._answers(tile)])

    def posterior(self, x: Rows) -> "NormalMixture":
        """p(z|x), exactly: a mixture of normals with covariances in full, batch shape (row,)."""
        parts = []
        with torch.no_grad(), RowsAlike():
            for tile in tiles(x):
                answers = list(self._answers(tile))
                weights = torch.cat([a.log_joint for a in answers]).log_softmax(-1)
                loc, covariance = (
                    torch.cat([getattr(a, name) for a in answers]) for name in ("loc", "covariance")
                )
                parts.append([t[: tile.count] for t in (weights, loc, covariance)])
        return NormalMixture(*(torch.cat(t) for t in zip(*parts, strict=True)))

    def _answers(self, tile: Tile) -> "list[_Answer]":
        components, latents = self.loc.shape
        floats = self.weight.numel() + components * latents**2
        x = tile.x.flatten(1).double()
        return [self._answer(rows) for rows in x.split(list(chunks(len(x), floats)))]

    def _answer(self, x: Tensor) -> "_Answer":
        observed = ~torch.isnan(x)
        # In units of the noise: r = Ψ^−½(x − b), V = Ψ^−½W, and zeros for what is missing.
        r = torch.where(observed, (x - self.bias) / self.noise_sd, 0.0)
        v = observed[..., None] * (self.weight / self.noise_sd[:, None])
        precision = v.mT @ v
        projected = (v.mT @ r[..., None])[..., 0]
        # z = m + s ⊙ e, and e ~ N(0, I) a priori: its posterior precision is A = I + s VᵀV s.
        of_means = (precision @ self.loc.T).mT
        g = self.scale * (projected[:, None] - of_means)
        a = self.scale[:, :, None] * precision[:, None] * self.scale[:, None, :]
        chol = torch.linalg.cholesky(a + torch.eye(len(self.scale.T)).to(a))
        y = torch.linalg.solve_triangular(chol, g[..., None], upper=False)
        square = (
            r.square().sum(-1, keepdim=True)
            + (self.loc * (of_means - 2 * projected[:, None])).sum(-1)
            - y.square().sum((-2, -1))
        )
        log_det = 2 * chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constants = 0.5 * LOG_2PI + self.noise_sd.log() + self.log_unit
        per_row = torch.where(observed, constants, 0.0).sum(-1, keepdim=True)
        return _Answer(self, self.log_weights - 0.5 * (square + log_det) - per_row, chol, y)


@final
@dataclass(frozen=True)
class _Answer:
    """log p(x, component), (row, component), and what the posterior is made of."""

    model: LinearMixture
    log_joint: Tensor
    chol: Tensor
    y: Tensor

    @property
    def loc(self) -> Tensor:
        """m + s ⊙ A⁻¹g, (row, component, latent)."""
        e = torch.linalg.solve_triangular(self.chol.mT, self.y, upper=True)[..., 0]
        return self.model.loc + self.model.scale * e

    @property
    def covariance(self) -> Tensor:
        """s A⁻¹ s, (row, component, latent, latent)."""
        scale = self.model.scale
        return scale[:, :, None] * torch.cholesky_inverse(self.chol) * scale[:, None, :]


def _as_mixture(prior: Distribution) -> MixtureOfNormals | None:
    """A prior over (latent,) that is a normal, or several, as a mixture of them."""
    if isinstance(prior, MixtureOfNormals):
        return prior
    if isinstance(prior, DiagonalNormal) and not prior.batch_shape:
        return MixtureOfNormals(prior.loc.new_zeros(1), prior.loc[None], prior.scale[None])
    return None


def _affine(network: nn.Module) -> tuple[Tensor, Tensor] | None:
    """W and b of a network that is Wz + b by its making, float64; None where it is another.

    >>> deep = nn.Sequential(nn.Linear(2, 7), nn.Linear(7, 3))
    >>> weight, bias = _affine(deep)
    >>> z = torch.ones(1, 2)
    >>> torch.allclose((z.double() @ weight.T + bias).float(), deep(z), atol=1e-6)
    True
    """
    layers = list(network) if isinstance(network, nn.Sequential) else [network]
    weight = bias = None
    for layer in layers:
        if not isinstance(layer, nn.Linear):
            return None
        w = layer.weight.detach().double()
        b = w.new_zeros(len(w)) if layer.bias is None else layer.bias.detach().double()
        weight = w if weight is None else w @ weight
        bias = b if bias is None else w @ bias + b
    return None if weight is None or bias is None else (weight, bias)


@final
class NormalMixture(Plain):
    """Σ_k ω_k N(μ_k, Σ_k) of each row, with covariances in full.

    ``log_weights`` (row, component) are log ω; ``loc`` (row, component, latent) and ``covariance``
    (row, component, latent, latent) are those of the components.

    >>> one = torch.ones(1, 1)
    >>> NormalMixture(0 * one, one[None], one[None, None]).log_prob(one).exp()
    tensor([0.3989])
    """

    def __init__(self, log_weights: Tensor, loc: Tensor, covariance: Tensor) -> None:
        self.log_weights, self.loc, self.covariance = log_weights, loc, covariance
        super().__init__(loc.shape[:1], loc.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """(row, latent)."""
        return (self.log_weights.exp()[..., None] * self.loc).sum(1)

    @property
    def variance(self) -> Tensor:
        """Of each latent, (row, latent)."""
        within = self.covariance.diagonal(dim1=-2, dim2=-1)
        apart = (self.loc - self.mean[:, None]).square()
        return (self.log_weights.exp()[..., None] * (within + apart)).sum(1)

    def log_prob(self, value: Tensor) -> Tensor:
        normals = MultivariateNormal(self.loc, self.covariance, validate_args=False)
        return (self.log_weights + normals.log_prob(value[..., None, :])).logsumexp(-1)


@draw.register
def _(distribution: NormalMixture, shape: Sequence[int], generator: Generator) -> Tensor:
    """A component by its weight, then one draw of it."""
    weights, loc = distribution.log_weights.exp(), distribution.loc
    number = math.prod(shape)
    which = torch.multinomial(weights, number, replacement=True, generator=generator).T
    size = (number, len(loc), loc.shape[-1], 1)
    epsilon = torch.randn(size, generator=generator, device=loc.device, dtype=loc.dtype)
    rows = torch.arange(len(loc), device=loc.device)
    chol = torch.linalg.cholesky(distribution.covariance)[rows, which]
    return (loc[rows, which] + (chol @ epsilon)[..., 0]).reshape(*shape, *loc[:, 0].shape)
