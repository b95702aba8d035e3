"""Joint distributions of several levels of latents, each conditioned on those above it.

    p(z) = p(z₁) p(z₂|z₁) … p(z_L|z₁ … z_{L−1}),   z = [z₁ … z_L] side by side

The same product makes a hierarchical prior, and, with x behind every factor, its posterior.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, cast, final

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from unveil.distributions import Plain, Pushforward, draw

D = TypeVar("D", bound=Distribution)
# p(z_l | ·) for the levels above, side by side, (*sample, row, latents above).
Below = Callable[[Tensor], Distribution]
PushedBelow = Callable[[Tensor], Pushforward]


@final
class Chain(Plain):
    """p(z) = p(z₁) Π_l p(z_l|z_<l): the top level, and from there down each given those above.

    ``sizes`` are the latents of each level, ``top`` is p(z₁), ``below`` hold the conditionals.

    >>> from unveil.distributions import DiagonalNormal
    >>> one = torch.ones(1)
    >>> walk = Chain((1, 1), DiagonalNormal(0 * one, one), [lambda z: DiagonalNormal(z, one)])
    >>> walk.log_prob(torch.tensor([2.0, 2.0]))     # log N(2; 0, 1) + log N(2; 2, 1)
    tensor(-3.8379)
    """

    def __init__(self, sizes: Sequence[int], top: Distribution, below: Sequence[Below]) -> None:
        self.sizes, self.top, self.below = tuple(sizes), top, tuple(below)
        super().__init__(top.batch_shape, torch.Size([sum(sizes)]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return _log_prob(self.conditionals(value), value, self.sizes)

    def conditionals(self, z: Tensor) -> list[Distribution]:
        """Every level's distribution where those above it are as in z."""
        return [self.top, *_conditionals(self.below, z, self.sizes)]


@draw.register
def _(distribution: Chain, shape: Sequence[int], generator: Generator) -> Tensor:
    z = draw(distribution.top, shape, generator)
    for below in distribution.below:
        z = torch.cat([z, draw(below(z), (), generator)], dim=-1)
    return z


@final
class PushedChain(Pushforward):
    """The same product as a pushforward: each level's noise is pushed where those above it fell.

    >>> from unveil.distributions import DiagonalNormal
    >>> one = torch.ones(3, 1)
    >>> q = PushedChain((1, 1), DiagonalNormal(0 * one, one), [lambda z: DiagonalNormal(z, one)])
    >>> q.push(torch.ones(1, 3, 2))[0, 0]
    tensor([1., 2.])
    """

    def __init__(
        self, sizes: Sequence[int], top: Pushforward, below: Sequence[PushedBelow]
    ) -> None:
        self.sizes, self.top, self.below = tuple(sizes), top, tuple(below)
        # The last draw and what each level was when it fell: to weigh it needs no second pass.
        self._pushed: tuple[Tensor, list[Pushforward], bool] | None = None
        super().__init__(top.batch_shape, torch.Size([sum(sizes)]), validate_args=False)

    def push(self, noise: Tensor) -> Tensor:
        first, *rest = torch.split(noise, list(self.sizes), dim=-1)
        z, levels = self.top.push(first), [self.top]
        for below, ε in zip(self.below, rest, strict=True):
            level = below(z)
            z = torch.cat([z, level.push(ε)], dim=-1)
            levels.append(level)
        self._pushed = z, levels, torch.is_grad_enabled()
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        return _log_prob(self.conditionals(value), value, self.sizes)

    def conditionals(self, z: Tensor) -> list[Pushforward]:
        """Every level's distribution where those above it are as in z."""
        if self._pushed is not None:
            pushed, levels, have_gradient = self._pushed
            # What was pushed without gradient is a constant when gradients are asked for later.
            if z is pushed and (have_gradient or not torch.is_grad_enabled()):
                return levels
        return [self.top, *_conditionals(self.below, z, self.sizes)]

    def kl(self, p: Distribution, z: Tensor) -> Tensor:
        """Σ_l E[KL(q(z_l|z_<l, x) ‖ p(z_l|z_<l))]: only the levels above are left to the draws."""
        if not (isinstance(p, Chain) and p.sizes == self.sizes):
            return super().kl(p, z)
        top, *below = zip(
            self.conditionals(z),
            p.conditionals(z),
            torch.split(z, list(self.sizes), dim=-1),
            strict=True,
        )
        q_top, p_top, z_top = top
        rate = q_top.kl(p_top, z_top)
        # Each draw of the levels above has a conditional of its own, of which it holds one draw.
        return rate + sum((q_l.kl(p_l, z_l[None]).mean(0) for q_l, p_l, z_l in below), 0 * rate)


@draw.register
def _(distribution: PushedChain, shape: Sequence[int], generator: Generator) -> Tensor:
    like = distribution.top.push(distribution.top.mean).detach()
    size = (*shape, *distribution.batch_shape, *distribution.event_shape)
    noise = torch.randn(size, generator=generator, device=like.device, dtype=like.dtype)
    with torch.no_grad():
        return distribution.push(noise)


def _conditionals(
    below: Sequence[Callable[[Tensor], D]], z: Tensor, sizes: Sequence[int]
) -> Iterator[D]:
    above = 0
    for conditional, size in zip(below, sizes, strict=False):
        above += size
        yield conditional(z[..., :above])


def _log_prob(levels: Sequence[Distribution], z: Tensor, sizes: Sequence[int]) -> Tensor:
    parts = zip(levels, torch.split(z, list(sizes), dim=-1), strict=True)
    return cast(Tensor, sum(level.log_prob(part) for level, part in parts))
