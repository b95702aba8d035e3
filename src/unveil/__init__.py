"""unveil: deep latent-variable models whose every number is what it says it is."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# The public names and where they live, loaded on first use: `import unveil` costs nothing.
_HOME = {
    "Bernoulli": "likelihoods.binary",
    "Categorical": "likelihoods.classes",
    "CellScale": "likelihoods.scale",
    "ColumnScale": "likelihoods.scale",
    "Columns": "likelihoods.columns",
    "ContinuousBernoulli": "likelihoods.proportions",
    "DiscretizedLogistic": "likelihoods.grid",
    "DiscretizedLogisticMixture": "likelihoods.grid",
    "FixedScale": "likelihoods.scale",
    "Gaussian": "likelihoods.real",
    "LogNormal": "likelihoods.positive",
    "StudentT": "likelihoods.real",
    "VonMises": "likelihoods.angles",
    "NegativeBinomial": "likelihoods.counts",
    "Ordinal": "likelihoods.classes",
    "Poisson": "likelihoods.counts",
    "SpikedLogNormal": "likelihoods.amounts",
    "ZeroInflated": "likelihoods.inflated",
    "WithOffset": "networks.offset",
    "Conditional": "families",
    "Family": "families",
    "DiagonalGaussian": "posteriors.diagonal",
    "FlowPosterior": "posteriors.flow",
    "FullGaussian": "posteriors.full",
    "FlowPrior": "priors.flow",
    "StandardNormal": "priors.standard",
    "ConditionedPrior": "priors.conditioned",
    "GaussianMixture": "priors.mixture",
    "VampPrior": "priors.vamp",
    "TopDownPrior": "priors.topdown",
    "TopDownGaussian": "posteriors.topdown",
    "LatentVariableModel": "latent",
    "Particles": "latent",
    "VAE": "latent",
    "BatchObjective": "objectives.base",
    "BetaELBO": "objectives.elbo",
    "DReG": "objectives.dreg",
    "ELBO": "objectives.elbo",
    "FreeBitsPerBatch": "objectives.free_bits",
    "FreeBitsPerRow": "objectives.free_bits",
    "InfoVAE": "objectives.mmd",
    "IWAE": "objectives.importance",
    "LowerBound": "objectives.base",
    "NegativeRenyi": "objectives.renyi",
    "Objective": "objectives.base",
    "Renyi": "objectives.renyi",
    "SampledELBO": "objectives.elbo",
    "StickingTheLanding": "objectives.sticking",
    "TotalCorrelation": "objectives.total_correlation",
    "fit": "fitting",
    "Fitted": "fitted",
    "load": "fitted",
    "VAEDensity": "estimators",
    "VAEDetector": "estimators",
    "VAEImputer": "estimators",
    "VAEReducer": "estimators",
    "Recipe": "step",
    "refine": "refining",
    "Refined": "refining",
    "train": "training",
    "Bound": "evidence.bound",
    "InversionError": "evidence.bound",
    "Weights": "evidence.weights",
    "anneal": "evidence.annealing",
    "Schedule": "evidence.annealing",
    "FromPosterior": "evidence.starts",
    "FromPrior": "evidence.starts",
    "tune": "evidence.tuning",
    "importance": "evidence.importance",
    "exact_evidence": "evidence.closed_form",
    "quadrature": "evidence.quadrature",
    "bounded_evidence": "evidence.bounded",
    "simulate": "evidence.simulated",
    "Inference": "inference",
    "approximate": "log_density",
    "calibrate": "diagnostics.calibration",
    "leave_one_out": "diagnostics.criticism",
    "predictive_checks": "diagnostics.criticism",
    "gap": "diagnostics.gap",
    "surgery": "diagnostics.surgery",
    "rate_distortion": "diagnostics.surgery",
}

__all__ = [*_HOME, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'unveil' has no attribute {name!r}")
    return getattr(import_module(f"unveil.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
