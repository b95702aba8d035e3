"""Objectives by name."""

from collections.abc import Callable, Mapping

from unveil.objectives.base import Objective
from unveil.objectives.dreg import DReG
from unveil.objectives.elbo import ELBO, BetaELBO, SampledELBO
from unveil.objectives.free_bits import FreeBitsPerBatch, FreeBitsPerRow
from unveil.objectives.importance import IWAE
from unveil.objectives.mmd import InfoVAE
from unveil.objectives.renyi import NegativeRenyi, Renyi
from unveil.objectives.sticking import StickingTheLanding
from unveil.objectives.total_correlation import TotalCorrelation
from unveil.registry.spec import Spec, make, resolve

OBJECTIVES: Mapping[str, Callable[..., Objective]] = {
    "elbo": ELBO,
    "sampled_elbo": SampledELBO,
    "sticking_the_landing": StickingTheLanding,
    "iwae": IWAE,
    "dreg": DReG,
    "renyi": Renyi,
    "free_bits_per_row": FreeBitsPerRow,
    "free_bits_per_batch": FreeBitsPerBatch,
    "beta_elbo": BetaELBO,
    "total_correlation": TotalCorrelation,
    "info_vae": InfoVAE,
    "negative_renyi": NegativeRenyi,
}


def objective(text: str) -> Objective:
    """The objective that a name such as ``iwae:num_samples=50`` stands for.

    >>> objective("iwae:num_samples=50")
    IWAE(num_samples=50)

    Raises InputError for an unknown name or option, or a value that it cannot have.
    """
    spec = Spec.parse(text)
    return make("the objective", resolve("the objective", OBJECTIVES, spec.name), spec)
