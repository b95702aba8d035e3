"""Five posteriors of posteriordb (Magnusson et al.), written from their definitions.

Parameters are unconstrained: a positive one is the exponential of its number, whose Jacobian the
log-density includes.
"""

import json
import math
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import pytest
import torch
from torch import Tensor

from unveil.distributions import LOG_2PI

FOLDER = (
    Path(os.environ.get("UNVEIL_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
    / "posteriordb"
)

Numbers = dict[str, Tensor]


@final
@dataclass(frozen=True, kw_only=True)
class Target:
    """A log-density of z (..., dim), and the named parameters (..., number) that z stands for."""

    name: str
    dim: int
    log_density: Callable[[Tensor], Tensor]
    parameters: Callable[[Tensor], Tensor]
    reference: Tensor  # (draw, number)


def normal(value: Tensor, mean: Tensor | float, sd: Tensor | float) -> Tensor:
    """log N(value; mean, sd²)."""
    sd = torch.as_tensor(sd, dtype=value.dtype)
    return -0.5 * (((value - mean) / sd).square() + LOG_2PI) - sd.log()


def half_cauchy(log_value: Tensor, scale: float) -> Tensor:
    """The density of a half-Cauchy value over its logarithm, up to a constant."""
    return log_value - torch.log1p((log_value.exp() / scale).square())


def half_normal(log_value: Tensor, scale: float) -> Tensor:
    """The density of a half-normal value over its logarithm, up to a constant."""
    return log_value - 0.5 * (log_value.exp() / scale).square()


def auto_regression(data: Numbers) -> tuple[int, Callable[..., Tensor], Callable[..., Tensor]]:
    order, y = 5, data["y"]
    past = torch.stack([y[order - lag : len(y) - lag] for lag in range(1, order + 1)])

    def log_density(z: Tensor) -> Tensor:
        alpha, beta, log_sd = z[..., 0], z[..., 1:6], z[..., 6]
        mean = alpha[..., None] + beta @ past
        fit = normal(y[order:], mean, log_sd.exp()[..., None]).sum(-1)
        priors = normal(z[..., :6], 0.0, 10.0).sum(-1) + half_cauchy(log_sd, 2.5)
        return fit + priors

    return 7, log_density, lambda z: torch.cat([z[..., :6], z[..., 6:].exp()], -1)


def eight_schools(data: Numbers) -> tuple[int, Callable[..., Tensor], Callable[..., Tensor]]:
    def effects(z: Tensor) -> Tensor:
        return z[..., 8:9] + z[..., 9:].exp() * z[..., :8]

    def log_density(z: Tensor) -> Tensor:
        fit = normal(data["y"], effects(z), data["sigma"]).sum(-1)
        priors = normal(z[..., :8], 0.0, 1.0).sum(-1) + normal(z[..., 8], 0.0, 5.0)
        return fit + priors + half_cauchy(z[..., 9], 5.0)

    return 10, log_density, lambda z: torch.cat([effects(z), z[..., 8:9], z[..., 9:].exp()], -1)


def gaussian_process(data: Numbers) -> tuple[int, Callable[..., Tensor], Callable[..., Tensor]]:
    x, y = data["x"], data["y"]
    squares = (x[:, None] - x).square()

    def log_density(z: Tensor) -> Tensor:
        rho, alpha, variance = (v[..., None, None] for v in z.exp().unbind(-1))
        covariance = alpha.square() * torch.exp(-0.5 * squares / rho.square())
        identity = torch.eye(len(x), dtype=x.dtype)
        # A wild move may leave the numbers for which rounding spares the covariance.
        chol, failed = torch.linalg.cholesky_ex(covariance + variance * identity)
        standard = torch.linalg.solve_triangular(
            chol, y.expand(*z.shape[:-1], -1)[..., None], upper=False
        )
        log_det = chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        length = 25 * z[..., 0] - 4 * z[..., 0].exp()  # Gamma(25, 4), its Jacobian included
        priors = length + half_normal(z[..., 1], 2.0) + half_normal(z[..., 2], 1.0)
        log_f = -0.5 * standard.square().sum((-1, -2)) - log_det + priors
        return torch.where(failed > 0, -math.inf, log_f)

    return 3, log_density, torch.exp


def kid_score(data: Numbers) -> tuple[int, Callable[..., Tensor], Callable[..., Tensor]]:
    def log_density(z: Tensor) -> Tensor:
        mean = z[..., 0:1] + z[..., 1:2] * data["mom_iq"]
        fit = normal(data["kid_score"], mean, z[..., 2:].exp()).sum(-1)
        return fit + half_cauchy(z[..., 2], 2.5)

    return 3, log_density, lambda z: torch.cat([z[..., :2], z[..., 2:].exp()], -1)


def linear_regression(data: Numbers) -> tuple[int, Callable[..., Tensor], Callable[..., Tensor]]:
    def log_density(z: Tensor) -> Tensor:
        fit = normal(data["y"], z[..., :5] @ data["X"].T, z[..., 5:].exp()).sum(-1)
        return fit + normal(z[..., :5], 0.0, 10.0).sum(-1) + half_normal(z[..., 5], 10.0)

    return 6, log_density, lambda z: torch.cat([z[..., :5], z[..., 5:].exp()], -1)


POSTERIORS = {
    "arK": ("arK", "arK-arK", auto_regression),
    "eight_schools_noncentered": (
        "eight_schools",
        "eight_schools-eight_schools_noncentered",
        eight_schools,
    ),
    "gp_regr": ("gp_pois_regr", "gp_pois_regr-gp_regr", gaussian_process),
    "kidscore_momiq": ("kidiq", "kidiq-kidscore_momiq", kid_score),
    "blr": ("sblrc", "sblrc-blr", linear_regression),
}


def target(name: str) -> Target:
    """One of ``POSTERIORS`` with its data; skips the test where the data are not at hand."""
    if not FOLDER.is_dir():
        pytest.skip("posteriordb's data are not here: set UNVEIL_DATA to the folder that holds it")
    data_name, draws_name, model = POSTERIORS[name]
    raw = _read(f"{data_name}.data")
    data = {key: torch.tensor(value, dtype=torch.float64) for key, value in raw.items()}
    dim, log_density, parameters = model(data)
    chains = _read(f"{draws_name}.draws")
    reference = torch.tensor(
        [[value for chain in chains for value in chain[key]] for key in chains[0]],
        dtype=torch.float64,
    )
    return Target(
        name=name,
        dim=dim,
        log_density=log_density,
        parameters=parameters,
        reference=reference.T,
    )


def _read(name: str):
    with zipfile.ZipFile(FOLDER / f"{name}.json.zip") as archive:
        return json.loads(archive.read(archive.namelist()[0]))


def distances(draws: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """|mean − reference mean| in reference sds, and |log sd ratio|, of draws (draw, number)."""
    sd = reference.std(0)
    return (draws.mean(0) - reference.mean(0)).abs() / sd, (draws.std(0) / sd).log().abs()


FARTHEST_MEAN, FARTHEST_LOG_SD = 0.3, math.log(1.5)
