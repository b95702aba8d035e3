"""Every objective."""

import unveil
from unveil.objectives.base import Objective

OBJECTIVES: tuple[Objective, ...] = (
    unveil.ELBO(),
    unveil.ELBO(num_samples=3),
    unveil.BetaELBO(beta=4.0, warmup_steps=10),
    unveil.BetaELBO(beta=0.5, num_samples=3),
    unveil.SampledELBO(),
    unveil.SampledELBO(num_samples=3),
    unveil.StickingTheLanding(),
    unveil.StickingTheLanding(num_samples=3, warmup_steps=10),
    unveil.IWAE(),
    unveil.IWAE(num_samples=2),
    unveil.DReG(),
    unveil.DReG(num_samples=2),
    unveil.Renyi(alpha=0.5),
    unveil.Renyi(alpha=2.0, num_samples=3),
    unveil.NegativeRenyi(alpha=-1.0),
    unveil.FreeBitsPerRow(free_nats=1.0),
    unveil.FreeBitsPerBatch(free_nats=3.0, num_samples=3),
    unveil.TotalCorrelation(beta=6.0, rows=50),
    unveil.TotalCorrelation(alpha=0.5, beta=2.0, gamma=3.0, num_samples=3, rows=4),
    unveil.InfoVAE(),
    unveil.InfoVAE(alpha=1.0, scaling=10.0, bandwidth=0.5, num_samples=3),
)
