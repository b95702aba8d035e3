"""unveil: deep latent-variable models whose every number is what it says it is."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# The public names and where they live, loaded on first use: `import unveil` costs nothing.
_HOME = {
    "Bernoulli": "likelihoods.binary",
    "CellScale": "likelihoods.scale",
    "ColumnScale": "likelihoods.scale",
    "Columns": "likelihoods.columns",
    "DiscretizedLogistic": "likelihoods.grid",
    "FixedScale": "likelihoods.scale",
    "Gaussian": "likelihoods.real",
    "Conditional": "families",
    "Family": "families",
    "DiagonalGaussian": "posteriors.diagonal",
    "StandardNormal": "priors.standard",
    "LatentVariableModel": "latent",
    "Particles": "latent",
    "VAE": "latent",
    "ELBO": "objectives.elbo",
    "IWAE": "objectives.importance",
    "Objective": "objectives.base",
    "SampledELBO": "objectives.elbo",
    "fit": "fitting",
    "Fitted": "fitted",
    "load": "fitted",
    "Recipe": "step",
    "train": "training",
}

__all__ = [*_HOME, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'unveil' has no attribute {name!r}")
    return getattr(import_module(f"unveil.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
