"""Densities that torch.distributions lacks, and the one way of drawing from any of them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.distributions import Distribution, MixtureSameFamily, Normal, register_kl
from torch.distributions.constraints import Constraint

LOG_2PI = math.log(2 * math.pi)
# Draws by which a posterior without closed-form moments is summed up.
MOMENT_DRAWS = 64
# So far below a point of its grid, in steps, a value is still that point.
ROUNDED = 1e-3


@singledispatch
def draw(distribution: Distribution, shape: Sequence[int], generator: Generator) -> Tensor:
    """Draw from a distribution with a generator of its own: the only way that unveil draws.

    torch's ``.sample()`` takes no generator and moves global state, so it is called nowhere.
    Returns a tensor ``(*shape, *batch_shape, *event_shape)`` without gradient. Raises TypeError
    for a distribution that has not been taught to draw: register a function with ``draw.register``.

    >>> g = Generator().manual_seed(0)
    >>> draw(Normal(torch.zeros(2), torch.ones(2)), (3,), g).shape
    torch.Size([3, 2])
    """
    raise TypeError(
        f"expected a distribution that unveil can draw from, got {type(distribution).__name__}; "
        "register a function for it with unveil.distributions.draw.register"
    )


@draw.register
def _(distribution: Normal, shape: Sequence[int], generator: Generator) -> Tensor:
    mean, sd = distribution.loc.detach(), distribution.scale.detach()
    return mean + sd * torch.randn(
        (*shape, *mean.shape), generator=generator, device=mean.device, dtype=mean.dtype
    )


@draw.register
def _(distribution: MixtureSameFamily, shape: Sequence[int], generator: Generator) -> Tensor:
    """A component by its weight, then one draw of it; for components of single numbers."""
    up_to = distribution.mixture_distribution.probs.detach().cumsum(-1)
    u = torch.rand(
        (*shape, *up_to.shape[:-1], 1), generator=generator, device=up_to.device, dtype=up_to.dtype
    )
    # Rounding may leave the last sum below 1: the last component takes what is above it.
    chosen = (u >= up_to[..., :-1]).sum(-1, keepdim=True)
    return draw(distribution.component_distribution, shape, generator).gather(-1, chosen)[..., 0]


def by_scipy(function: Callable[..., Any], *arguments: Tensor) -> Tensor:
    """A special function that torch lacks, computed in float64, without gradient.

    >>> from scipy import special
    >>> by_scipy(special.stdtr, torch.ones(()), torch.zeros(2))    # Cauchy, at its middle
    tensor([0.5000, 0.5000])
    """
    like = torch.broadcast_tensors(*arguments)[-1]
    values = function(*(argument.detach().double().cpu().numpy() for argument in arguments))
    return torch.as_tensor(values).to(like)


class Plain(Distribution, ABC):
    """A distribution that leaves torch nothing to validate: families make only legal parameters."""

    @property
    def arg_constraints(self) -> dict[str, Constraint]:
        return {}


@final
class Binary(Plain):
    """Values 0 and 1: log P(x) = log σ(±logit), + for a 1 and − for a 0.

    One product and one pass, where torch's Bernoulli takes five over the same cells.

    >>> Binary(torch.zeros(2)).log_prob(torch.tensor([0.0, 1.0])).exp()
    tensor([0.5000, 0.5000])
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        return F.logsigmoid((2 * value - 1) * self.logits)

    def cdf(self, value: Tensor) -> Tensor:
        below_one = torch.where(value >= 0, torch.sigmoid(-self.logits), 0.0)
        return torch.where(value >= 1, 1.0, below_one)


@draw.register
def _(distribution: Binary, shape: Sequence[int], generator: Generator) -> Tensor:
    p = distribution.mean.detach()
    u = torch.rand((*shape, *p.shape), generator=generator, device=p.device, dtype=p.dtype)
    return (u < p).to(p.dtype)


@final
class Cells(Plain):
    """Independent cells of one row, summed over the cells that were observed.

        log p(x|z) = Σ_{j observed} [log p_j(x_j|z) − log unit_j]

    ``base`` has batch shape (..., *event) and one scalar density or mass per cell. ``log_unit``
    (broadcasting to *event) is the Jacobian of x = (value − shift)/unit: with it a density is one
    over the data's own units. A mass needs none. A missing cell (NaN) is replaced *before* the
    density is evaluated, so that its gradient is exactly zero and never NaN.

    >>> row = torch.tensor([0.5, float("nan")])
    >>> cells = Cells(Normal(torch.zeros(2), torch.ones(2)), event_dims=1)
    >>> torch.allclose(cells.log_prob(row), Normal(0.0, 1.0).log_prob(torch.tensor(0.5)))
    True
    """

    def __init__(
        self, base: Distribution, *, event_dims: int, log_unit: Tensor | None = None
    ) -> None:
        self.base, self.log_unit = base, log_unit
        cut = len(base.batch_shape) - event_dims
        super().__init__(base.batch_shape[:cut], base.batch_shape[cut:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.base.mean

    def log_prob_cells(self, x: Tensor) -> Tensor:
        """log p_j(x_j|z) in nats, one per cell, (..., *event); 0 where the cell is missing."""
        # Rows without gaps, told by one pass over x, are spared three passes over every draw's
        # cells. A compiled step cannot look into its rows, and fuses the passes away.
        if not torch.compiler.is_compiling() and not bool(torch.isnan(x.sum())):
            return self._density(x)
        observed = ~torch.isnan(x)
        return torch.where(observed, self._density(torch.where(observed, x, 0.0)), 0.0)

    def _density(self, x: Tensor) -> Tensor:
        log_density = self.base.log_prob(x)
        return log_density if self.log_unit is None else log_density - self.log_unit

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_prob_cells(value).flatten(-len(self.event_shape)).sum(-1)

    def cdf_cells(self, x: Tensor) -> Tensor:
        """P(X_j ≤ x_j|z) of each cell, x in model units, (..., *event); no cell missing."""
        return self.base.cdf(x)


@draw.register
def _(distribution: Cells, shape: Sequence[int], generator: Generator) -> Tensor:
    return draw(distribution.base, shape, generator)


@final
class Joined(Plain):
    """Columns of several kinds side by side: log p(x|z) = Σ_g log p_g(x[columns of g] | z).

    ``parts`` are pairs (index of the columns, distribution over those columns); together the
    indices name every column 0 … d−1 once.

    >>> a = Cells(Normal(torch.zeros(2), torch.ones(2)), event_dims=1)
    >>> b = Cells(Binary(torch.zeros(1)), event_dims=1)
    >>> joined = Joined([(torch.tensor([0, 2]), a), (torch.tensor([1]), b)])
    >>> joined.mean
    tensor([0.0000, 0.5000, 0.0000])
    """

    def __init__(self, parts: Sequence[tuple[Tensor, Cells]]) -> None:
        self.parts = tuple(parts)
        self._back = torch.argsort(torch.cat([index for index, _ in self.parts]))
        batch = torch.broadcast_shapes(*(part.batch_shape for _, part in self.parts))
        super().__init__(batch, torch.Size([len(self._back)]), validate_args=False)

    def _side_by_side(self, columns: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(columns), dim=-1)[..., self._back]

    @property
    def mean(self) -> Tensor:
        return self._side_by_side([part.mean for _, part in self.parts])

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.stack([p.log_prob(value[..., index]) for index, p in self.parts]).sum(0)

    def log_prob_cells(self, x: Tensor) -> Tensor:
        """log p_j(x_j|z) in nats, one per cell, (..., column); 0 where the cell is missing."""
        return self._side_by_side([p.log_prob_cells(x[..., index]) for index, p in self.parts])

    def cdf_cells(self, x: Tensor) -> Tensor:
        """P(X_j ≤ x_j|z) of each cell, x in model units, (..., column); no cell missing."""
        return self._side_by_side([p.cdf_cells(x[..., index]) for index, p in self.parts])


@draw.register
def _(distribution: Joined, shape: Sequence[int], generator: Generator) -> Tensor:
    return distribution._side_by_side([draw(p, shape, generator) for _, p in distribution.parts])


@final
class DiscretizedLogistic(Plain):
    """The mass that a logistic density puts on a grid of spacing ``step``.

        P(x) = σ((x + step/2 − μ)/s) − σ((x − step/2 − μ)/s)

    and, on a bounded grid, ``low`` and ``high`` take the whole of their tail. It is computed as
    log σ(b) + log σ(−a) + log(1 − e^(a−b)), which never subtracts two near-equal numbers, however
    fine the grid. All arguments broadcast; ``low`` and ``high`` may be infinite, and then 0 is a
    point of the grid. Source: Salimans et al. 2017 (PixelCNN++), eq. 2.

    >>> p = DiscretizedLogistic(torch.tensor(1.3), torch.tensor(0.7), step=1.0, low=0.0, high=3.0)
    >>> round(float(p.log_prob(torch.arange(4.0)).exp().sum()), 6)
    1.0
    """

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        *,
        step: Tensor | float,
        low: Tensor | float = -math.inf,
        high: Tensor | float = math.inf,
    ) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.step, self.low, self.high = (
            torch.as_tensor(t, dtype=loc.dtype, device=loc.device) for t in (step, low, high)
        )
        super().__init__(self.loc.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Mean of the logistic clipped to the grid's range; rounding moves it by < step/2."""
        soft = lambda t: self.scale * F.softplus(t / self.scale)  # noqa: E731 (∫ P(Y > t) dt)
        low = torch.where(torch.isfinite(self.low), self.low, self.loc - 40 * self.scale)
        high = torch.where(torch.isfinite(self.high), self.high, self.loc + 40 * self.scale)
        return low + soft(self.loc - low) - soft(self.loc - high)

    def cdf(self, value: Tensor) -> Tensor:
        origin = torch.where(torch.isfinite(self.low), self.low, 0.0)
        # A value on the grid may be rounded to just below its point.
        steps = torch.floor((value - origin) / self.step + ROUNDED)
        up_to = origin + (steps + 0.5) * self.step
        inside = torch.sigmoid((up_to - self.loc) / self.scale)
        outside = (up_to > self.high).to(inside)
        return torch.where((up_to > self.low) & (up_to < self.high), inside, outside)

    def log_prob(self, value: Tensor) -> Tensor:
        half = self.step / 2
        at_low, at_high = value < self.low + half, value > self.high - half
        below = F.logsigmoid((value + half - self.loc) / self.scale)  # log P(X ≤ x)
        above = F.logsigmoid((self.loc + half - value) / self.scale)  # log P(X ≥ x)
        inside = torch.log(-torch.expm1(-self.step / self.scale))
        return (
            torch.where(at_high, 0.0, below)
            + torch.where(at_low, 0.0, above)
            + torch.where(at_low | at_high, 0.0, inside)
        )


@draw.register
def _(distribution: DiscretizedLogistic, shape: Sequence[int], generator: Generator) -> Tensor:
    loc, scale = distribution.loc.detach(), distribution.scale.detach()
    # A uniform of 0 or 1 would put the draw at ±∞, which no grid point answers to.
    eps = torch.finfo(loc.dtype).eps
    u = torch.rand((*shape, *loc.shape), generator=generator, device=loc.device, dtype=loc.dtype)
    u = u.clamp(eps / 4, 1 - eps / 2)
    origin = torch.where(torch.isfinite(distribution.low), distribution.low, 0.0)
    steps = torch.round((loc + scale * torch.logit(u) - origin) / distribution.step)
    return torch.clamp(origin + steps * distribution.step, distribution.low, distribution.high)


class Pushforward(Plain, ABC):
    """A distribution made by pushing parameter-free noise: z = push(ε), ε ~ N(0, I).

    Every posterior is one. The noise is drawn outside, so a training step draws nothing itself and
    a gradient reaches φ through ``push`` (the reparameterisation trick; Kingma & Welling 2014).
    """

    @abstractmethod
    def push(self, noise: Tensor) -> Tensor:
        """z = g_φ(ε): noise (*sample, *batch, latent) to z of the same shape, differentiable."""

    def kl(self, p: Distribution, z: Tensor) -> Tensor:
        """KL(q‖p), nats, (*batch): the mean of log q(z) − log p(z) over draws z (sample, *batch,
        latent) of q. A q that knows more in closed form leaves less to the draws."""
        return (self.log_prob(z) - p.log_prob(z)).mean(0)

    def moments(self, noise: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each latent, (*batch, latent): of ``MOMENT_DRAWS`` draws,
        or exact where they have a closed form. ``noise(n)`` delivers n draws of ε.

        Every ε comes with −ε, or the means of a posterior that is the same for all rows would vary
        over rows by 1/``MOMENT_DRAWS`` of its variance, as if it said something of them.
        """
        half = noise(MOMENT_DRAWS // 2)
        z = self.push(torch.cat([half, -half]))
        return z.mean(0), z.std(0)


@final
class DiagonalNormal(Pushforward):
    """N(μ, diag σ²): z = μ + σ ⊙ ε.

    ``loc`` and ``scale`` have shape (*batch, latent).

    >>> q = DiagonalNormal(torch.zeros(5, 2), torch.ones(5, 2))
    >>> q.push(torch.randn(3, 5, 2)).shape, q.log_prob(torch.zeros(3, 5, 2)).shape
    (torch.Size([3, 5, 2]), torch.Size([3, 5]))
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = loc, scale
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def stddev(self) -> Tensor:
        return self.scale

    def push(self, noise: Tensor) -> Tensor:
        return self.loc + self.scale * noise

    def kl(self, p: Distribution, z: Tensor) -> Tensor:
        return kl_per_unit(self, p).sum(-1) if isinstance(p, DiagonalNormal) else super().kl(p, z)

    def moments(self, noise: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
        return self.loc, self.scale

    def log_prob(self, value: Tensor) -> Tensor:
        standard = (value - self.loc) / self.scale
        return -0.5 * (standard.square() + 2 * torch.log(self.scale) + LOG_2PI).sum(-1)


@draw.register
def _(distribution: DiagonalNormal, shape: Sequence[int], generator: Generator) -> Tensor:
    return draw(Normal(distribution.loc, distribution.scale, validate_args=False), shape, generator)


class Bent(Pushforward, ABC):
    """An invertible map h of noise, spread and moved: z = μ + σ ⊙ h(ε).

        log q(z) = log N(ε; 0, I) − log|∂h/∂ε| − Σ_u log σ_u,   ε = h⁻¹((z − μ)/σ)

    ``loc`` and ``scale`` have shape (*batch, latent). The very tensor that was pushed last is
    weighed by the noise it came from; any other z, a detached copy included, is straightened first.
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = loc, scale
        self._pushed: tuple[Tensor, Tensor, bool] | None = None
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @abstractmethod
    def bend(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """h(ε) (..., latent) and log|∂h/∂ε|, broadcasting to (...)."""

    @abstractmethod
    def straighten(self, bent: Tensor) -> tuple[Tensor, Tensor]:
        """h⁻¹ (..., latent) and log|∂h⁻¹/∂h|, broadcasting to (...)."""

    def push(self, noise: Tensor) -> Tensor:
        bent, log_det = self.bend(noise)
        z = self.loc + self.scale * bent
        self._pushed = z, self._weigh(noise, -log_det), torch.is_grad_enabled()
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        if self._pushed is not None:
            z, log_prob, has_gradient = self._pushed
            # What was pushed without gradient is a constant when gradients are asked for later.
            if value is z and (has_gradient or not torch.is_grad_enabled()):
                return log_prob
        return self._weigh(*self.straighten((value - self.loc) / self.scale))

    def _weigh(self, noise: Tensor, log_det: Tensor) -> Tensor:
        standard = -0.5 * (noise.square() + LOG_2PI).sum(-1)
        return standard + log_det - torch.log(self.scale).sum(-1)


@draw.register
def _(distribution: Bent, shape: Sequence[int], generator: Generator) -> Tensor:
    loc = distribution.loc.detach()
    standard = Normal(torch.zeros_like(loc), torch.ones_like(loc), validate_args=False)
    with torch.no_grad():
        return distribution.push(draw(standard, shape, generator))


@final
class FullNormal(Bent):
    """N(μ, LLᵀ), L = diag(σ)(I + R) with R strictly lower triangular: z = μ + σ ⊙ (ε + Rε).

    Any lower L with a positive diagonal is one of these. ``loc`` and ``scale`` have shape (*batch,
    latent), ``lower`` (*batch, latent, latent) holds R. No product of matrices is taken but one
    column at a time: draws of many rows stay (sample, *batch, latent), and keep their precision
    under autocast.

    >>> half = torch.tensor([[0.0, 0.0], [0.5, 0.0]])
    >>> q = FullNormal(torch.zeros(2), torch.tensor([1.0, 2.0]), half)
    >>> q.push(torch.tensor([1.0, 0.0]))
    tensor([1., 1.])
    """

    def __init__(self, loc: Tensor, scale: Tensor, lower: Tensor) -> None:
        self.lower = lower
        super().__init__(loc, scale)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def stddev(self) -> Tensor:
        return self.scale * torch.sqrt(1 + self.lower.square().sum(-1))

    def bend(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        bent = noise
        for column, one in zip(self.lower.unbind(-1), noise.split(1, -1), strict=True):
            bent = bent + column * one
        return bent, noise.new_zeros(())

    def straighten(self, bent: Tensor) -> tuple[Tensor, Tensor]:
        # Draws stand side by side as columns, or each of them would get its own copy of R.
        columns = bent.reshape(-1, *self.loc.shape).movedim(0, -1)
        noise = torch.linalg.solve_triangular(  # reads below the diagonal only, and 1 on it
            self.lower, columns, upper=False, unitriangular=True
        )
        return noise.movedim(-1, 0).reshape(bent.shape), bent.new_zeros(())

    def kl(self, p: Distribution, z: Tensor) -> Tensor:
        """½ Σ_u [(Σ_uu + (μ_u − m_u)²)/s_u² − 1 − log(σ_u²/s_u²)] for p = N(m, diag s²)."""
        if not isinstance(p, DiagonalNormal):
            return super().kl(p, z)
        mixed = (self.scale / p.scale).square() * self.lower.square().sum(-1)
        diagonal = DiagonalNormal(self.loc, self.scale)
        return (kl_per_unit(diagonal, p) + 0.5 * mixed).sum(-1)

    def moments(self, noise: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
        return self.mean, self.stddev


Bijection = Callable[[Tensor], tuple[Tensor, Tensor]]


@final
class Flowed(Bent):
    """Noise through an invertible network: z = μ + σ ⊙ h(ε) (Rezende & Mohamed 2015).

    ``bending`` is h and ``straightening`` its inverse, each a function from (..., latent) to that
    and the log-determinant (...) of its own Jacobian.

    >>> twice = lambda e: (2 * e, torch.full(e.shape[:-1], e.shape[-1] * math.log(2)))
    >>> half = lambda e: (e / 2, torch.full(e.shape[:-1], -e.shape[-1] * math.log(2)))
    >>> q = Flowed(torch.zeros(1), torch.ones(1), bending=twice, straightening=half)
    >>> q.log_prob(torch.zeros(1)).exp()                   # 1/(2 √2π)
    tensor(0.1995)
    """

    def __init__(
        self, loc: Tensor, scale: Tensor, *, bending: Bijection, straightening: Bijection
    ) -> None:
        self._bending, self._straightening = bending, straightening
        super().__init__(loc, scale)

    def bend(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        return self._bending(noise)

    def straighten(self, bent: Tensor) -> tuple[Tensor, Tensor]:
        return self._straightening(bent)


def kl_per_unit(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    """KL(q‖p) of each latent unit, nats, (*batch, latent).

        KL_u = ½ [(σ_q² + (μ_q − μ_p)²)/σ_p² − 1 − log(σ_q²/σ_p²)]

    >>> one, half = torch.ones(1), torch.full((1,), 0.5)
    >>> float(kl_per_unit(DiagonalNormal(one, one), DiagonalNormal(0 * one, one)))
    0.5
    """
    ratio = q.scale / p.scale
    shift = (q.loc - p.loc) / p.scale
    return 0.5 * (ratio.square() + shift.square() - 1) - torch.log(ratio)


@register_kl(DiagonalNormal, DiagonalNormal)
def _kl_diagonal(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    return kl_per_unit(q, p).sum(-1)
