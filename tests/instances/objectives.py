"""Every objective."""

import unveil
from unveil.objectives.base import Objective

OBJECTIVES: tuple[Objective, ...] = (
    unveil.ELBO(),
    unveil.ELBO(num_samples=3),
    unveil.ELBO(beta=4.0, warmup_steps=10),
    unveil.SampledELBO(),
    unveil.SampledELBO(num_samples=3, beta=0.5),
    unveil.IWAE(),
    unveil.IWAE(num_samples=2),
)
