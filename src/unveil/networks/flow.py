"""Invertible networks: a vector bent into another, with the logarithm of the change of volume."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast, final

import torch
from torch import Generator, LongTensor, Size, Tensor, nn
from torch.distributions import Distribution
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def _torch_s_checks_kept() -> Iterator[None]:
    """Leave torch's distributions as they were: zuko switches off their checks as it is loaded."""
    names = ("_validate_args", "arg_constraints")
    before = {name: vars(Distribution)[name] for name in names}
    yield
    for name, value in before.items():
        setattr(Distribution, name, value)


with _torch_s_checks_kept():
    from zuko.flows.autoregressive import MaskedAutoregressiveTransform
    from zuko.transforms import MonotonicRQSTransform


# The least slope of a spline at its knots, where the greatest is its inverse: steeper ones would
# leave float32 no digits to invert them with.
SMALLEST_SLOPE = 0.01


@final
class _DrawsFrom(TorchDispatchMode):
    """Within this context weights are drawn from one generator, whoever draws them."""

    def __init__(self, generator: Generator | None) -> None:
        super().__init__()
        self.generator = generator

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.uniform_.default:
            kwargs = {**kwargs, "generator": self.generator}
        return func(*args, **kwargs)


@final
class _Spline(MonotonicRQSTransform):
    """zuko's rational-quadratic spline, with an inverse that rounding cannot break.

    Its discriminant is a difference, which float32 can make negative; written as a sum of squares,

        (q (d₀ + d₁) − d₀)² + 4 s² q (1 − q),   q = (y − y₀)/(y₁ − y₀),

    it cannot be, and of the root's two forms the one is taken that does not subtract.
    """

    def _inverse(self, y: Tensor) -> Tensor:
        bin_of_y = cast(LongTensor, self.searchsorted(self.vertical, y) - 1)
        inside, x0, x1, y0, y1, d0, d1, s = self.bin(bin_of_y)
        q = (inside * (y - y0) / (y1 - y0)).clamp(0, 1)
        b = d0 - q * (d0 + d1 - 2 * s)
        root = torch.sqrt((q * (d0 + d1) - d0).square() + 4 * s.square() * q * (1 - q))
        rising = 2 * s * q / (b.clamp(min=0) + root)
        falling = (root - b) / (2 * (s - b.clamp(max=0)))
        z = torch.where(b > 0, rising, falling)
        return torch.where(inside, x0 + z * (x1 - x0), y)


@final
class _Strength(nn.Module):
    """A network's outputs times its last input."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, value: Tensor) -> Tensor:
        return value[..., -1:] * self.network(value)


@final
class SplineFlow(nn.Module):
    """Monotone splines of each number given those before it, several times over: R^d → R^d.

        y_i = spline(x_i; φ_i),   φ_i = s · network(x_1 … x_{i−1}, c),
        log|∂y/∂x| = Σ_i log ∂y_i/∂x_i

    in alternating order of the numbers. ``context`` (..., context) holds c and, last, the strength
    s: at s = 0 the flow is the identity, whatever its weights. A spline bends (−5, 5) into itself
    and leaves the rest in place. The network runs in the precision of ``value`` under autocast too,
    or the inverse would not be one.
    Source: Durkan et al. 2019 (neural spline flows); Kingma et al. 2016 (the autoregressive map).

    >>> flow = SplineFlow(2, context=1, width=8, generator=Generator().manual_seed(0))
    >>> x, strength = torch.tensor([[0.5, -1.0]]), torch.ones(1)
    >>> y, log_det = flow(x, strength)
    >>> torch.allclose(flow.inverse(y, strength)[0], x, atol=1e-4), log_det.shape
    (True, torch.Size([1]))
    """

    def __init__(
        self,
        num_latents: int,
        *,
        context: int,
        transforms: int = 3,
        bins: int = 8,
        width: int = 64,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        upwards = torch.arange(num_latents)
        orders = (upwards, upwards.flip(0))
        with _DrawsFrom(generator):
            maps = [
                MaskedAutoregressiveTransform(
                    num_latents,
                    context,
                    order=cast(LongTensor, orders[i % 2]),
                    univariate=partial(_Spline, slope=SMALLEST_SLOPE),
                    shapes=[Size([bins]), Size([bins]), Size([bins - 1])],
                    hidden_features=(width, width),
                    activation=nn.SiLU,
                )
                for i in range(transforms)
            ]
        for one in maps:
            one.register_module("hyper", _Strength(cast(nn.Module, one.hyper)))
        self.maps = nn.ModuleList(maps)

    def forward(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """y and log|∂y/∂x|: value (..., d) to (..., d) and (...), in one pass."""
        total = value.new_zeros(())
        with torch.autocast(value.device.type, enabled=False):
            for one in self.maps:
                value, log_det = one(context).call_and_ladj(value)
                total = total + log_det
        return value, total

    def inverse(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """x and log|∂x/∂y|, in d passes, differentiable like ``forward``."""
        with torch.autocast(value.device.type, enabled=False):
            for one in reversed(self.maps):
                value = one(context).inv(value)
        return value, -self(value, context)[1]
