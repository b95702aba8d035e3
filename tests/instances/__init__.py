"""One or more examples of everything that has a contract to keep; tests quantify over them.

A new family, prior or objective that is not named here fails ``test_nothing_is_forgotten``.
"""

import inspect
from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from instances.latents import CONDITIONED_PRIORS, ONE_LEVEL_POSTERIORS, POSTERIORS, PRIORS
from instances.likelihoods import LIKELIHOODS, SCALES, Likelihood
from instances.objectives import OBJECTIVES
from unveil.families import Family
from unveil.likelihoods.scale import Scale
from unveil.objectives.base import Objective
from unveil.priors.base import Prior

__all__ = [
    "CONDITIONED_PRIORS",
    "LIKELIHOODS",
    "OBJECTIVES",
    "ONE_LEVEL_POSTERIORS",
    "POSTERIORS",
    "PRIORS",
    "SCALES",
    "Likelihood",
    "concrete",
    "forgotten",
]


def concrete(package: ModuleType, kinds: tuple[type, ...]) -> set[type]:
    """The classes of these kinds that a package's modules define and that can be made."""
    names = [f"{package.__name__}.{module.name}" for module in iter_modules(package.__path__)]
    return {
        value
        for name in names
        for value in vars(import_module(name)).values()
        if inspect.isclass(value)
        and issubclass(value, kinds)
        and value.__module__ == name
        and not inspect.isabstract(value)
    }


def forgotten(package: ModuleType, examples: Iterable[object]) -> set[str]:
    """The names of a package's concrete families, priors, scales and objectives without example."""
    kinds = (Family, Prior, Scale, Objective)
    made = {type(example) for example in examples}
    return {cls.__name__ for cls in concrete(package, kinds) - made}
