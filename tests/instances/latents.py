"""Every prior and posterior."""

import unveil
from unveil.families import Family
from unveil.priors.base import Prior

PRIORS: tuple[Prior, ...] = (unveil.StandardNormal(3),)
POSTERIORS: tuple[Family, ...] = (unveil.DiagonalGaussian(3),)
