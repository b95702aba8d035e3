"""The training step: one function of its arguments, (State, Batch, noise) → (State, Info).

The State that is handed in is spent: the eager step updates it in place.

Purity makes resuming exact, keeps the noise outside, and lets the whole step be compiled. The ways
of taking the gradient and of applying it are handed in, because what is fastest run operation by
operation is slowest compiled, and the other way round.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.adamw import adamw

from unveil.latent import LatentVariableModel
from unveil.objectives.base import Objective
from unveil.shapes import Given, Noise, Rows

Tensors = dict[str, Tensor]

BETAS = (0.9, 0.999)
EPSILON = 1e-8


@final
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the objective is climbed: AdamW with warm-up, cosine decay and gradient clipping.

    ``patience`` is the share of the planned run that may pass without a better held-out value.
    ``precision`` is what the networks compute in; densities are always in the data's precision.
    """

    batch_size: int = 128
    learning_rate: float = 1e-3
    learning_rate_warmup: int = 200
    weight_decay: float = 1e-4
    clip_norm: float = 200.0
    patience: float = 0.25
    precision: torch.dtype = torch.float32
    compiled: bool = False


class State(NamedTuple):
    """What a step carries: parameters, AdamW's moments, and the number of steps taken."""

    parameters: Tensors
    first_moment: Tensors
    second_moment: Tensors
    step: Tensor


class Info(NamedTuple):
    """What a step shows: the mean objective, the gradient's norm, and whether both are finite."""

    value: Tensor
    gradient_norm: Tensor
    finite: Tensor


class Batch(NamedTuple):
    """Rows in model units and, for a conditional model, their covariates."""

    x: Rows
    given: Given


Inputs = tuple[Batch, Noise, Tensor]
Gradient = Callable[["Loss", Tensors, Inputs], tuple[Tensors, Tensor]]
Update = Callable[[State, Tensors, Tensor, Tensor, Tensor, Recipe], State]


@runtime_checkable
class Step(Protocol):
    def __call__(
        self, state: State, batch: Batch, noise: Noise, clock: Tensor, learning_rate: Tensor
    ) -> tuple[State, Info]: ...


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training moves: those that are not frozen."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def begin(model: nn.Module) -> State:
    """The state before the first step: copies of the model's parameters and zero moments."""
    parameters = {name: p.detach().clone() for name, p in trainable(model).items()}
    zeros = {name: torch.zeros_like(p) for name, p in parameters.items()}
    device = next(iter(parameters.values())).device
    return State(
        parameters,
        zeros,
        {name: z.clone() for name, z in zeros.items()},
        torch.zeros((), dtype=torch.float32, device=device),
    )


@final
class Loss(nn.Module):
    """The mean of −objective over a batch, as a module whose parameters are the model's."""

    def __init__(
        self, model: LatentVariableModel, objective: Objective, precision: torch.dtype
    ) -> None:
        super().__init__()
        self.model, self.objective, self.precision = model, objective, precision

    def forward(self, batch: Batch, noise: Noise, clock: Tensor) -> Tensor:
        lowered = self.precision != torch.float32
        with torch.autocast(batch.x.device.type, self.precision, enabled=lowered):
            return -self.objective(self.model, batch.x, noise, clock, batch.given).mean()


def make_step(
    model: LatentVariableModel,
    objective: Objective,
    recipe: Recipe,
    *,
    gradient: Gradient,
    update: Update,
) -> Step:
    """The training step as one function of its arguments, with the ways of taking the gradient
    and of applying it.

    ``clock`` is the step as the objective's schedule counts it. A step whose loss or gradient is
    not finite leaves the parameters as they were and says so in its Info.
    """
    loss = Loss(model, objective, recipe.precision)

    def step(
        state: State, batch: Batch, noise: Noise, clock: Tensor, learning_rate: Tensor
    ) -> tuple[State, Info]:
        gradients, value = gradient(loss, state.parameters, (batch, noise, clock))
        norm = torch.nn.utils.get_total_norm(list(gradients.values()))
        finite = torch.isfinite(value) & torch.isfinite(norm)
        shrink = torch.clamp(norm / recipe.clip_norm, min=1.0)  # gradients are divided by this
        state = update(state, gradients, shrink, finite, learning_rate, recipe)
        return state, Info(-value, norm, finite)

    return step


def eager_gradient(loss: Loss, parameters: Tensors, inputs: Inputs) -> tuple[Tensors, Tensor]:
    """Gradient and value by ordinary autograd, the loss's own parameters lent the state's tensors.

    Calling through torch.func instead would take twice as long when not compiled.
    """
    lent = trainable(loss.model)
    for name, p in lent.items():
        p.data = parameters[name]
    value = loss(*inputs)
    gradients = torch.autograd.grad(
        value, list(lent.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(lent, gradients, strict=True)), value.detach()


def functional_gradient(loss: Loss, parameters: Tensors, inputs: Inputs) -> tuple[Tensors, Tensor]:
    """Gradient and value as a function transform, which compiles with the rest of the step."""

    def value_at(parameters: Tensors) -> Tensor:
        named = {f"model.{name}": p for name, p in parameters.items()}
        return functional_call(loss, named, inputs)

    return torch.func.grad_and_value(value_at)(parameters)


def fused_update(
    state: State,
    gradients: Tensors,
    shrink: Tensor,
    finite: Tensor,
    learning_rate: Tensor,
    recipe: Recipe,
) -> State:
    """AdamW in one fused pass, in place: the state handed in is spent."""
    names = list(state.parameters)
    adamw(
        [state.parameters[name] for name in names],
        [_laid_out_as(p, gradients[name]) for name, p in state.parameters.items()],
        [state.first_moment[name] for name in names],
        [state.second_moment[name] for name in names],
        [],
        list(state.step.expand(len(names)).clone().unbind()),
        fused=True,
        grad_scale=shrink.to(torch.float32),
        found_inf=(~finite).to(torch.float32),
        amsgrad=False,
        beta1=BETAS[0],
        beta2=BETAS[1],
        lr=learning_rate,
        weight_decay=recipe.weight_decay,
        eps=EPSILON,
        maximize=False,
    )
    return state._replace(step=state.step + finite)


def _laid_out_as(like: Tensor, value: Tensor) -> Tensor:
    """The same numbers in the memory order of ``like``: the fused update pairs numbers as they lie
    in memory, and a convolution's gradient may come with its channels last."""
    return value if value.stride() == like.stride() else torch.empty_like(like).copy_(value)


def plain_update(
    state: State,
    gradients: Tensors,
    shrink: Tensor,
    finite: Tensor,
    learning_rate: Tensor,
    recipe: Recipe,
) -> State:
    """AdamW as its equations (Loshchilov & Hutter 2019, algorithm 2), for the compiler to fuse."""
    count = state.step + 1
    first_bias, second_bias = 1 - BETAS[0] ** count, 1 - BETAS[1] ** count
    new = State({}, {}, {}, state.step + finite)
    for name, p in state.parameters.items():
        g = gradients[name] / shrink
        m = torch.lerp(state.first_moment[name], g, 1 - BETAS[0])
        v = BETAS[1] * state.second_moment[name] + (1 - BETAS[1]) * g.square()
        direction = (m / first_bias) / (torch.sqrt(v / second_bias) + EPSILON)
        moved = p * (1 - learning_rate * recipe.weight_decay) - learning_rate * direction
        new.parameters[name] = torch.where(finite, moved, p)
        new.first_moment[name] = torch.where(finite, m, state.first_moment[name])
        new.second_moment[name] = torch.where(finite, v, state.second_moment[name])
    return new


def eager_step(model: LatentVariableModel, objective: Objective, recipe: Recipe) -> Step:
    """The step run operation by operation: ready at once."""
    return make_step(model, objective, recipe, gradient=eager_gradient, update=fused_update)


def compiled_step(model: LatentVariableModel, objective: Objective, recipe: Recipe) -> Step:
    """The step compiled whole: faster on small networks, ready after some seconds."""
    step = make_step(model, objective, recipe, gradient=functional_gradient, update=plain_update)
    return torch.compile(step, fullgraph=True, dynamic=False)


def can_compile() -> bool:
    """Whether this machine has the C++ compiler that torch.compile needs on a CPU."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))
