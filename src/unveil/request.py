"""What a person asks of a fit: each option once, for the library and the command line alike."""

from dataclasses import dataclass
from math import inf
from numbers import Integral, Real
from typing import final

from unveil.errors import InputError

# What options are that count nothing.
_NUMBERS: dict[str, tuple[type, str]] = {"--max-minutes": (Real, "number")}


@final
@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of a fit; None leaves a choice to the data (see ``defaults``).

    A name may carry options of its own, as in ``iwae:num_samples=50``.
    Raises InputError for a size that is no number above 0.

    >>> Request(latent=8, objective="iwae:num_samples=50").levels
    1
    """

    latent: int | None = None
    """Number of latent variables, or of those on the top level above feature maps [default: one for
    every four cells, at most 40]."""
    levels: int = 1
    """Levels that the latent variables stand on, each predicted from those above it."""
    likelihood: str | None = None
    """What a cell may be: auto, bernoulli, gaussian, student_t, discretized_logistic,
    discretized_logistic_mixture, poisson, negative_binomial, zero_inflated_poisson,
    zero_inflated_negative_binomial, log_normal, spiked_log_normal, von_mises, continuous_bernoulli,
    categorical or ordinal [default: auto, as suits each column]."""
    prior: str | None = None
    """standard, mixture, aggregate, vamp, flow or conditioned [default: standard]."""
    posterior: str | None = None
    """diagonal, full or flow [default: diagonal]."""
    network: str | None = None
    """mlp, conv or sets [default: mlp, as wide as suits the data]."""
    objective: str | None = None
    """elbo, sampled_elbo, sticking_the_landing, iwae, dreg, renyi, free_bits_per_row,
    free_bits_per_batch, beta_elbo, total_correlation, info_vae or negative_renyi [default: elbo, or
    dreg:num_samples=5 for a table with gaps]."""
    epochs: int | None = None
    """Passes over the training rows [default: about 15,000 steps; a minute of a long table]."""
    max_minutes: float | None = None
    """Longest time to train."""
    validation: float | None = None
    """Share of rows held out [default: 0.1, at most 5,000 rows]."""
    label: tuple[str, ...] = ()
    """Column that rides along, unmodelled."""
    drop: tuple[str, ...] = ()
    """Column to forget."""
    given: tuple[str, ...] = ()
    """Column to condition on, never modelled."""
    schema: str | None = None
    """File that says what each column is, as schema.json in a model folder."""
    exposure: str | None = None
    """Column of exposures (depth, area, time) that counts are proportional to; total is each row's
    own, none is none [default: total for a matrix of counts of 50 columns or more]."""

    def __post_init__(self) -> None:
        for name in ("label", "drop", "given"):
            names = getattr(self, name)
            object.__setattr__(self, name, (names,) if isinstance(names, str) else tuple(names))
        sizes = {
            "--latent": self.latent,
            "--levels": self.levels,
            "--epochs": self.epochs,
            "--max-minutes": self.max_minutes,
        }
        for name, size in sizes.items():
            kind, called = _NUMBERS.get(name, (Integral, "whole number"))
            if size is not None and (not isinstance(size, kind) or isinstance(size, bool)):
                raise InputError(
                    f"expected {name} to be a {called}, but {size!r} came; give another"
                )
            if size is not None and not 0 < size < inf:
                raise InputError(
                    f"expected {name} to be above 0 and finite, but {size} came; give another"
                )
