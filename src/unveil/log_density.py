"""Variational inference of any log-density: a model of one row, so that all that serves rows
serves it."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

from unveil.distributions import DiagonalNormal, Plain, Pushforward, draw
from unveil.evidence.importance import importance
from unveil.families import Family
from unveil.inference import Inference
from unveil.latent import LatentVariableModel
from unveil.noise import generator
from unveil.objectives.base import require_count
from unveil.objectives.sticking import StickingTheLanding
from unveil.posteriors.full import FullGaussian
from unveil.refining import JUDGING_DRAWS, Climb, Rescaled, cosine
from unveil.shapes import Given, Latent, Latents, Rows
from unveil.step import Recipe
from unveil.tiles import Tile
from unveil.training import train

Density = Callable[[Tensor], Tensor]
Place = tuple[Latent, Latent]  # a mean and a standard deviation of each latent

# The row that a log-density is a model of.
ONE_ROW = torch.zeros(1, 1, dtype=torch.float64)
# Annealing's second start is q, so many times as wide: what lies beside q is found from there.
WIDER = 2.0
# The points at which a log-density is asked for the first time.
FIRST_POINTS = 8
# The first step's size, in sds of the start and for a network's weights.
CLIMBING_RATE, TRAINING_RATE = 0.1, 0.03


def approximate(
    log_density: Density,
    dim: int,
    family: Family | None = None,
    *,
    steps: int = 1000,
    num_samples: int = 8,
    learning_rate: float | None = None,
    seed: int = 0,
) -> Inference:
    """Approximate any density that is known up to its normalising constant Z.

        q = argmax_q E_q [log f(z) − log q(z)],   f = Z p,   log Z ≥ E_q [log f(z) − log q(z)]

    ``log_density`` takes z (..., dim), float64, and returns log f (...), nats, by torch's
    operations. Far from its mass it may return −∞ or NaN, where no draw stays, but must not fail.
    The default family is FullGaussian. A family whose numbers are all its own is climbed as
    ``refine`` climbs, and one with parameters (FlowPosterior) as ``train`` does, in ``steps`` steps
    of ``num_samples`` draws each, of size ``learning_rate`` at first (0.1 and 0.03 where none is
    given): once from N(0, I) and once from a mode and its curvature. The better end is kept.

    What is returned has one row, whose evidence is Z: its ``khat`` judges q, its ``evidence``
    bounds log Z, its ``draw_hmc`` corrects q. Raises ValueError for a log-density that torch cannot
    differentiate or that has another shape, for a family over another number of latents, for a
    learning rate that is not above 0, and for less than one step or draw; ArithmeticError for a
    log-density that is NaN or +∞, or −∞ everywhere, at the points of a first look.
    Source: Kucukelbir et al. 2017 (automatic differentiation variational inference), with the path
    gradient of Roeder, Wu & Duvenaud 2017.

    >>> banana = lambda z: -z[..., 0] ** 2 / 2 - (z[..., 1] - z[..., 0] ** 2) ** 2 / 2
    >>> inference = approximate(banana, 2, steps=200)
    >>> inference.draw(5).shape
    torch.Size([5, 1, 2])
    """
    require_count("dim", dim, least=1)
    require_count("steps", steps, least=1)
    require_count("num_samples", num_samples, least=1)
    if learning_rate is not None and not 0 < learning_rate < math.inf:
        raise ValueError(
            f"expected a learning rate above 0, got {learning_rate}; leave it out for a usual one"
        )
    family = FullGaussian(dim) if family is None else family
    if family.event_shape != (dim,):
        raise ValueError(
            f"expected a family over {dim} latents, got one over {family.event_shape}; give both "
            "the same number"
        )
    _require_log_density(log_density, dim)
    fit = _Fit(log_density, family.double(), steps, num_samples, learning_rate, seed)
    zero = torch.zeros(dim, dtype=torch.float64)
    ends = [fit.end(place) for place in ((zero, zero + 1), *_mode(log_density, dim))]
    judged = [importance(end, ONE_ROW, num_samples=JUDGING_DRAWS, seed=seed).elbo for end in ends]
    return Inference(ends[int(torch.cat(judged).nan_to_num(nan=-math.inf).argmax())], ONE_ROW)


@final
class LogDensity(LatentVariableModel):
    """A log-density as a model whose one row is a dummy: log p(x, z) = log f(z), p(x) = Z.

    ``q`` makes the approximate posterior, of batch shape (1,). ``prior`` is any density of z, and
    p(x|z) = f(z)/p(z): nothing but annealing's second start depends on it.
    """

    def __init__(
        self,
        log_density: Density,
        num_latents: int,
        *,
        q: Callable[[], Pushforward],
        prior: Distribution,
    ) -> None:
        super().__init__()
        self.num_latents = num_latents
        self.log_density, self.q, self.p_z = log_density, q, prior

    def prior(self, given: Given = None) -> Distribution:
        return self.p_z

    def likelihood(self, z: Latents, given: Given = None) -> Distribution:
        return _Remainder(self._log_f(z) - self.p_z.log_prob(z))

    def posterior(self, x: Rows, given: Given = None) -> Pushforward:
        return self.q()

    def log_joint(self, x: Rows, z: Latents, given: Given = None) -> Tensor:
        return self._log_f(z)

    def _log_f(self, z: Tensor) -> Tensor:
        # A tile is filled with copies of the one row. Where their draws are copies too, the density
        # is asked once, and the mean over copies shares its gradient out among them.
        first = z[..., :1, :].detach()
        if z.dim() > 1 and bool((z.detach() == first).all()):
            one = first + (z - z.detach()).mean(-2, keepdim=True)
            return self.log_density(one).to(z).expand(z.shape[:-1])
        return self.log_density(z).to(z)


@final
class _Remainder(Plain):
    """A density of the one dummy row, known by its logarithm."""

    def __init__(self, log_density: Tensor) -> None:
        self.log_density = log_density
        super().__init__(log_density.shape, torch.Size([1]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_density


@draw.register
def _(distribution: _Remainder, shape: Sequence[int], generator: Generator) -> Tensor:
    batch = (*shape, *distribution.batch_shape)
    return ONE_ROW[0].to(distribution.log_density).expand(*batch, 1)


@final
class Widened(Plain):
    """The law of m + c (z − m), z ~ q with mean m: q of one row, c times as wide, batch shape ().

    >>> from unveil.distributions import DiagonalNormal
    >>> q = DiagonalNormal(torch.zeros(1, 2), torch.ones(1, 2))
    >>> wide = Widened(q, torch.zeros(2), factor=2.0)
    >>> bool(wide.log_prob(torch.ones(2)) == DiagonalNormal(0 * q.loc, 2 * q.scale).log_prob(
    ...     torch.ones(1, 2)))
    True
    """

    def __init__(self, q: Pushforward, mean: Latent, *, factor: float) -> None:
        self.q, self.mean_of_q, self.factor = q, mean, factor
        super().__init__(torch.Size(), q.event_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        inside = self.mean_of_q + (value - self.mean_of_q) / self.factor
        log_q = self.q.log_prob(inside.unsqueeze(-2))[..., 0]
        return log_q - len(self.mean_of_q) * math.log(self.factor)


@draw.register
def _(distribution: Widened, shape: Sequence[int], generator: Generator) -> Tensor:
    mean = distribution.mean_of_q
    z = draw(distribution.q, shape, generator)[..., 0, :]
    return mean + distribution.factor * (z - mean)


@final
class _Placed(nn.Module):
    """A family's member in units of a place: z = m + s ⊙ w, w ~ family(raw), batch shape (1,)."""

    def __init__(self, family: Family, place: Place) -> None:
        super().__init__()
        self.family, self.place = family, place
        self.raw = nn.Parameter(torch.zeros(1, family.num_parameters, dtype=torch.float64))

    def forward(self) -> Rescaled:
        mean, sd = self.place
        return Rescaled(cast(Pushforward, self.family(self.raw)), mean[None], sd[None])


@final
@dataclass(frozen=True)
class _Fit:
    """How q is looked for."""

    log_density: Density
    family: Family
    steps: int
    num_samples: int
    learning_rate: float | None
    seed: int

    def end(self, place: Place) -> LogDensity:
        """The log-density with the q that is found from a mean and sd."""
        mean, sd = place
        shared = any(True for _ in self.family.parameters())
        begun = LogDensity(
            self.log_density,
            len(mean),
            q=_Placed(copy.deepcopy(self.family), place),
            prior=DiagonalNormal(mean, sd),
        )
        q = self._trained(begun) if shared else self._climbed(begun, place)
        noise = generator(self.seed, "moments of q")
        centre = q.moments(lambda n: standard_normal(n, len(mean), noise))[0][0]
        prior = Widened(q, centre, factor=WIDER)
        return LogDensity(self.log_density, len(mean), q=lambda: q, prior=prior)

    def _climbed(self, begun: LogDensity, place: Place) -> Pushforward:
        # One row needs no others beside it, which ``refine`` would add.
        alone = Tile(x=ONE_ROW, given=None, count=1)
        climb = Climb(begun, self.family, alone, place[0][None], place[1][None])
        schedule = cosine(self.steps, self.learning_rate or CLIMBING_RATE)
        with torch.no_grad():
            return climb.posterior(climb.top(schedule, self.num_samples, self.seed))

    def _trained(self, begun: LogDensity) -> Pushforward:
        rate = self.learning_rate or TRAINING_RATE
        train(
            begun,
            ONE_ROW,
            objective=StickingTheLanding(num_samples=self.num_samples, warmup_steps=0),
            recipe=Recipe(batch_size=1, learning_rate=rate, weight_decay=0.0),
            seed=self.seed,
            epochs=self.steps,
        )
        begun.requires_grad_(False)
        return begun.q()


def standard_normal(n: int, num_latents: int, randomness: Generator) -> Tensor:
    """Noise for one row, (n, 1, latent), float64."""
    return torch.randn(n, 1, num_latents, generator=randomness, dtype=torch.float64)


def _mode(log_density: Density, dim: int) -> list[Place]:
    """A mode and the standard deviations that the curvature there makes, or none where the
    log-density grows without end or its curvature is not that of a mode."""

    def fall(z: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        place = torch.tensor(z, requires_grad=True)
        value = -log_density(place[None])[0]
        (slope,) = torch.autograd.grad(value, [place])
        return float(value.detach()), slope.numpy()

    found = minimize(fall, np.zeros(dim), jac=True, method="L-BFGS-B")
    mode = torch.from_numpy(found.x)
    with torch.enable_grad():
        curvature = -torch.autograd.functional.hessian(lambda z: log_density(z[None])[0], mode)
    chol, failed = torch.linalg.cholesky_ex(cast(Tensor, curvature))
    if failed:
        return []
    sd = torch.cholesky_inverse(chol).diagonal().sqrt()
    return [(mode, sd)] if bool((sd.isfinite() & mode.isfinite()).all()) else []


def _require_log_density(log_density: Density, dim: int) -> None:
    """Raises ValueError or ArithmeticError unless log_density is one, as far as a look tells."""
    start = standard_normal(FIRST_POINTS, dim, generator(0, "first look"))
    z = start.requires_grad_()
    try:
        value = log_density(z)
    except Exception as error:
        raise ValueError(
            f"expected a log-density of z (..., {dim}) in torch's operations, got an error for z "
            f"of shape {tuple(z.shape)}: {error}; let it take any axes before the last, and no "
            "numpy"
        ) from error
    if not isinstance(value, Tensor) or value.shape != z.shape[:-1]:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"expected one number (...) for each z (..., {dim}), got {got} for z of shape "
            f"{tuple(z.shape)}; sum over the last axis alone"
        )
    if not value.is_floating_point():
        raise ValueError(
            f"expected a log-density that is a real number, got {value.dtype}; take its real part, "
            "or write it in floating point"
        )
    if not value.requires_grad:
        raise ValueError(
            "expected a log-density that torch can differentiate, got one that z does not reach "
            "through torch's operations; write it in torch, without detach or numpy"
        )
    value = value.detach()
    bad = value[~(value < math.inf)]
    if len(bad):
        raise ArithmeticError(
            f"expected a log-density that is finite or −∞, got {float(bad[0])} near z = 0; check "
            "its logarithms and square roots there"
        )
    if bool((value == -math.inf).all()):
        raise ArithmeticError(
            "expected a log-density that is finite somewhere near z = 0, got −∞ at every point of "
            "N(0, I) that was tried; shift or stretch z so that its mass is there"
        )
