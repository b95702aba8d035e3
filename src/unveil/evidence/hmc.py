"""Hamiltonian Monte Carlo on the way from a density that can be drawn from to p(x, z).

    log f_b(z) = log f₀(z) + b [log p(x, z) − log f₀(z)],   0 ≤ b ≤ 1

f₀ is q(z|x) or p(z), so that f_b goes from there to the posterior p(z|x), unnormalised: its
integral at b = 1 is the evidence p(x).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from unveil.shapes import Latents, PerDraw


@final
@dataclass(frozen=True)
class Point:
    """Where each chain of each row stands: z (chain, row, latent), with the two log-densities
    (chain, row) that every f_b is made of, and their gradients in z."""

    z: Latents
    log_base: PerDraw
    log_ratio: PerDraw
    base_slope: Latents
    ratio_slope: Latents

    def log_density(self, b: float) -> PerDraw:
        """log f_b = log f₀ + b log [p(x, z)/f₀], nats, float64."""
        return self.log_base.double() + b * self.log_ratio.double()

    def slope(self, b: float) -> Latents:
        """∂ log f_b/∂z."""
        return self.base_slope + b * self.ratio_slope

    def where(self, chosen: Tensor, other: "Point") -> "Point":
        """This point for the chosen chains (chain, row), the other for the rest."""
        wide = chosen[..., None]
        return Point(
            z=torch.where(wide, self.z, other.z),
            log_base=torch.where(chosen, self.log_base, other.log_base),
            log_ratio=torch.where(chosen, self.log_ratio, other.log_ratio),
            base_slope=torch.where(wide, self.base_slope, other.base_slope),
            ratio_slope=torch.where(wide, self.ratio_slope, other.ratio_slope),
        )


@final
@dataclass(frozen=True)
class Bridge:
    """The densities f_b of so many rows at once.

    ``densities`` makes z (chain, row, latent) into log f₀(z) and log p(x, z) − log f₀(z), each
    (chain, row), differentiable in z. ``unit`` (row, latent) is what moves are measured in: any
    function of the rows, never of the chains.
    """

    densities: Callable[[Tensor], tuple[Tensor, Tensor]]
    unit: Tensor

    def at(self, z: Tensor) -> Point:
        """The densities at z and their gradients. Raises TypeError where z does not reach them."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_base, log_ratio = self.densities(z)
            if not (log_base.requires_grad and log_ratio.requires_grad):
                raise TypeError(
                    "expected a log-density with a gradient in z, got one that z does not reach "
                    "through torch's operations; write it in torch, without detach or numpy"
                )
            (base_slope,) = torch.autograd.grad(log_base.sum(), [z], retain_graph=True)
            (ratio_slope,) = torch.autograd.grad(log_ratio.sum(), [z])
        return Point(z.detach(), log_base.detach(), log_ratio.detach(), base_slope, ratio_slope)


def hmc(
    bridge: Bridge,
    point: Point,
    *,
    b: float,
    size: Tensor,
    num_leapfrog: int,
    noise: Tensor,
) -> tuple[Point, Tensor]:
    """One move of Hamiltonian Monte Carlo that leaves f_b as it is, and which chains it moved.

        ρ ~ N(0, I);   ρ ← ρ + ½ ε ∂ log f_b,   z ← z + ε ρ,   ρ ← ρ + ½ ε ∂ log f_b,   L times;
        accepted with probability min(1, exp(log f_b(z') − ½|ρ'|² − log f_b(z) + ½|ρ|²))

    ε is ``size`` (latent,) in units of the bridge, stretched for each chain by its own factor
    between 0.8 and 1.2, so that no orbit closes on itself. Neither depends on where a chain stands
    or has been, or f_b would not stay as it is (a size that each chain adapts to its own success
    moves the variance of a funnel by 3 to 8 %). ``noise`` (chain, row, latent + 2) is standard
    normal: momenta, then one number each for that factor and for acceptance. A proposal whose
    density is not a number is turned down. Returns the new point and a mask (chain, row).
    Source: Duane et al. 1987; Neal 2011, section 5.3.

    >>> from unveil.distributions import DiagonalNormal
    >>> normal = DiagonalNormal(torch.zeros(2), torch.ones(2))
    >>> bridge = Bridge(lambda z: (normal.log_prob(z), -z.square().sum(-1)), torch.ones(2))
    >>> point, moved = hmc(bridge, bridge.at(torch.zeros(4, 3, 2)), b=0.5, size=torch.ones(2) / 9,
    ...                    num_leapfrog=5, noise=torch.ones(4, 3, 4))
    >>> point.z.shape, bool(moved.all())
    (torch.Size([4, 3, 2]), True)
    """
    momentum, luck = noise[..., :-2], torch.special.ndtr(noise[..., -2:])
    ε = (0.8 + 0.4 * luck[..., :1]) * size * bridge.unit
    ρ, there = momentum + 0.5 * ε * point.slope(b), point
    for step in range(num_leapfrog):
        there = bridge.at(there.z + ε * ρ)
        half = 0.5 if step == num_leapfrog - 1 else 1.0
        ρ = ρ + half * ε * there.slope(b)
    kinetic = 0.5 * (ρ.double().square() - momentum.double().square()).sum(-1)
    gain = there.log_density(b) - point.log_density(b) - kinetic
    moved = luck[..., 1].double().log() < gain
    return there.where(moved, point), moved
