"""The mixture of normals as a prior: learned with the model, or fitted to it afterwards."""

import math
from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from unveil import noise
from unveil.distributions import LOG_2PI, Plain, draw
from unveil.families import positive, raw_of
from unveil.priors.base import Prior
from unveil.shapes import Given, PerUnit

# The density of a mixture is unbounded without a smallest sd: a component can shrink onto one row.
SMALLEST_SD = 0.01
# The sd of the means at the start: apart, so that components can differ, and near N(0, I) together
# (each within ½ log 1/(1 − 0.3²) = 0.05 nats of it per latent, on average).
START_SPREAD = 0.3
# EM ends with the round that gains less than this, nats per row.
SMALLEST_GAIN = 1e-6
MOST_ROUNDS = 1000
# Rows drawn for each component's first mean, of which the one that helps most is taken.
CANDIDATES = 8


@final
class MixtureOfNormals(Plain):
    """p(z) = Σ_c π_c N(z; μ_c, diag σ_c²), with a density of matrix products alone.

        log p(z) = logsumexp_c [log π_c + log N(z; μ_c, diag σ_c²)]

    ``log_weights`` (component,) are log π, and ``loc`` and ``scale`` are (component, latent). The
    square is expanded, so that no tensor is as large as draws × components × latents. That is done
    in float64: what cancels there is harmless, and autocast leaves it alone.

    >>> ends = torch.tensor([[-3.0], [3.0]])
    >>> p = MixtureOfNormals(torch.full((2,), 0.5).log(), ends, torch.ones(2, 1))
    >>> p.mean, p.variance, p.log_prob(torch.zeros(5, 4, 1)).shape
    (tensor([0.]), tensor([10.]), torch.Size([5, 4]))
    """

    def __init__(self, log_weights: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.log_weights, self.loc, self.scale = log_weights, loc, scale
        super().__init__(event_shape=loc.shape[-1:], validate_args=False)

    @property
    def weights(self) -> Tensor:
        """π, (component,)."""
        return self.log_weights.exp()

    def _averaged(self, per_component: Tensor) -> Tensor:
        return (self.weights[:, None] * per_component).sum(0)

    @property
    def mean(self) -> Tensor:
        return self._averaged(self.loc)

    @property
    def variance(self) -> Tensor:
        return self._averaged(self.scale.square() + (self.loc - self.mean).square())

    def expected_log_joint(self, mean: Tensor, square: Tensor) -> Tensor:
        """log π_c + E log N(z; μ_c, diag σ_c²), nats, float64 (..., component).

        E log N = −½ Σ_u [log 2πσ_u² + (E z_u² − 2 μ_u E z_u + μ_u²)/σ_u²]

        ``mean`` and ``square`` (..., latent) are E z and E z²; of a z that is known, z and z².
        """
        loc, scale = self.loc.double(), self.scale.double()
        precision = scale.square().reciprocal()
        constants = (2 * scale.log() + loc.square() * precision + LOG_2PI).sum(-1)
        moments = torch.cat([square.double(), mean.double()], dim=-1)
        coefficients = torch.cat([precision, -2 * loc * precision], dim=-1)
        # Rows of one matrix: in that form, a product rounds each of them alike (``RowsAlike``).
        products = F.linear(moments.reshape(-1, moments.shape[-1]), coefficients)
        quadratic = products.reshape(*moments.shape[:-1], len(coefficients))
        return self.log_weights.double() - 0.5 * (quadratic + constants)

    def log_prob(self, value: Tensor) -> Tensor:
        z = value.double()
        return self.expected_log_joint(z, z.square()).logsumexp(-1).to(value.dtype)


@draw.register
def _(distribution: MixtureOfNormals, shape: Sequence[int], generator: Generator) -> Tensor:
    weights, loc, scale = (
        t.detach() for t in (distribution.weights, distribution.loc, distribution.scale)
    )
    number = math.prod(shape)
    which = torch.multinomial(weights, number, replacement=True, generator=generator)
    epsilon = torch.randn(
        (number, loc.shape[-1]), generator=generator, device=loc.device, dtype=loc.dtype
    )
    return (loc[which] + scale[which] * epsilon).reshape(*shape, loc.shape[-1])


@final
class GaussianMixture(Prior):
    """p(z) = Σ_c π_c N(μ_c, diag σ_c²), all of it learned with the model.

    It starts near N(0, I): equal weights, means drawn from ``generator``, each component narrower
    by what the means ``spread``; with none, it is N(0, I). No σ is below ``SMALLEST_SD``.
    Covariates change nothing. Raises ValueError for less than one component. Source:
    Dilokthanakul et al. 2016; Tomczak & Welling 2018, section 2.

    >>> p = GaussianMixture(2, 10, Generator().manual_seed(0))()
    >>> p.log_prob(torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    def __init__(
        self,
        num_latents: int,
        components: int,
        generator: Generator,
        *,
        spread: float = START_SPREAD,
    ) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"expected at least 1 component in a mixture, got {components}")
        self.num_latents = num_latents
        shape = (components, num_latents)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(spread * torch.randn(shape, generator=generator))
        self.raw_scale = nn.Parameter(
            raw_of(torch.full(shape, math.sqrt(1 - spread**2), dtype=torch.float64)).float()
        )

    def forward(self, given: Given = None) -> MixtureOfNormals:
        scale = positive(self.raw_scale).clamp_min(SMALLEST_SD)
        return MixtureOfNormals(F.log_softmax(self.logits, dim=0), self.loc, scale)


def aggregate(means: PerUnit, sds: PerUnit, components: int, seed: int = 0) -> GaussianMixture:
    """The mixture nearest to the aggregate posterior q(z) = (1/N) Σ_n N(m_n, diag s_n²), by EM.

        r_nc ∝ π_c exp E log N(z_n; μ_c, σ_c²),   z_n ~ N(m_n, s_n²)
        π_c = Σ_n r_nc/N,   μ_c = Σ_n r_nc m_n/Σ_n r_nc
        σ_c² = Σ_n r_nc [s_n² + (m_n − μ_c)²]/Σ_n r_nc

    ``means`` and ``sds`` (row, latent) are the posteriors' moments. A round never lowers
    (1/N) Σ_n log Σ_c π_c exp E log N(z_n; μ_c, σ_c²), a lower bound on E_q(z) log p(z) by Jensen's
    inequality; the last one gains less than ``SMALLEST_GAIN``. Rows far from those chosen before
    are likelier to be the first means (Arthur & Vassilvitskii 2007). Raises ValueError when there
    are fewer rows than components, or a moment is not finite.
    Source: Hoffman & Johnson 2016 (the aggregate); Dempster, Laird & Rubin 1977 (EM).

    >>> means = torch.tensor([[-2.0], [2.0]]).repeat(50, 1)
    >>> prior = aggregate(means, torch.full((100, 1), 0.5), components=2)
    >>> prior().loc.sort(0).values.flatten().tolist(), prior().variance
    ([-2.0, 2.0], tensor([4.2500], grad_fn=<SumBackward1>))
    """
    if len(means) < components:
        raise ValueError(
            f"expected at least as many rows as the {components} components, got {len(means)}; "
            "ask for fewer components"
        )
    if not (torch.isfinite(means).all() and torch.isfinite(sds).all()):
        raise ValueError("expected finite means and sds of the posteriors, got some that are not")
    generator = noise.generator(seed, "aggregate")
    prior = GaussianMixture(means.shape[1], components, generator).to(means)
    with torch.no_grad():
        mean, square = means.double(), means.double().square() + sds.double().square()
        mixture, reached = _beginning(mean, square, components, generator), -math.inf
        for _ in range(MOST_ROUNDS):
            better, value = em_round(mixture, mean, square)
            if value - reached < SMALLEST_GAIN:
                break
            mixture, reached = better, value
        # A component that no row claims any more keeps a weight that a gradient can still move.
        smallest = math.log(torch.finfo(means.dtype).tiny)
        prior.logits.copy_(mixture.log_weights.clamp_min(smallest))
        prior.loc.copy_(mixture.loc)
        prior.raw_scale.copy_(raw_of(mixture.scale))
    return prior


def em_round(
    mixture: MixtureOfNormals, mean: PerUnit, square: PerUnit
) -> tuple[MixtureOfNormals, float]:
    """The mixture after one round of EM, and the objective before it, nats per row.

    ``mean`` and ``square`` (row, latent) are E z_n and E z_n² of each row, float64.

    >>> one = torch.ones(1, 1, dtype=torch.float64)
    >>> better, before = em_round(MixtureOfNormals(0 * one[0], 0 * one, one), one, 2 * one)
    >>> float(better.loc), float(better.scale), round(before, 4)
    (1.0, 1.0, -1.9189)
    """
    log_joint = mixture.expected_log_joint(mean, square)
    log_evidence = log_joint.logsumexp(-1, keepdim=True)
    shares = (log_joint - log_evidence).exp()  # r_nc
    claimed = shares.sum(0)
    divisor = claimed.clamp_min(torch.finfo(claimed.dtype).tiny)[:, None]
    loc = (shares.T @ mean) / divisor
    # E (z − μ)² = E z² − μ²: in float64, of numbers that are near the origin.
    variance = ((shares.T @ square) / divisor - loc.square()).clamp_min(SMALLEST_SD**2)
    lives = (claimed > 0)[:, None]
    better = MixtureOfNormals(
        (claimed / len(mean)).log(),
        torch.where(lives, loc, mixture.loc),
        torch.where(lives, variance.sqrt(), mixture.scale),
    )
    return better, float(log_evidence.mean())


def _beginning(
    mean: PerUnit, square: PerUnit, components: int, generator: Generator
) -> MixtureOfNormals:
    """Equal components at rows far apart, as wide as the rows lie around the nearest of them."""
    points = mean / mean.std(0, correction=0).clamp_min(SMALLEST_SD)
    distance = torch.full_like(points[:, 0], math.inf)
    chances, nearest = torch.ones_like(distance), torch.zeros_like(distance, dtype=torch.long)
    chosen: list[Tensor] = []
    for c in range(components):
        rows = torch.multinomial(chances, CANDIDATES, replacement=True, generator=generator)
        to_each = torch.cdist(
            points, points[rows], compute_mode="donot_use_mm_for_euclid_dist"
        ).square()
        best = torch.minimum(distance[:, None], to_each).sum(0).argmin()
        chosen.append(mean[rows[best]])
        to_it = to_each[:, best]
        nearest = torch.where(to_it < distance, c, nearest)
        distance = torch.minimum(distance, to_it)
        # Where every row has been chosen, or equals one that has, any will do.
        chances = distance if distance.sum() > 0 else torch.ones_like(distance)
    loc = torch.stack(chosen)
    around = (square - mean.square() + (mean - loc[nearest]).square()).mean(0)
    scale = around.clamp_min(SMALLEST_SD**2).sqrt().expand_as(loc)
    return MixtureOfNormals(torch.full_like(loc[:, 0], -math.log(components)), loc, scale)
