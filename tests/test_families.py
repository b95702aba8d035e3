"""How a family is asked, and that none goes without examples."""

import pytest
import torch
from torch import nn

import unveil
import unveil.likelihoods
import unveil.objectives
import unveil.posteriors
import unveil.priors
from instances import (
    CONDITIONED_PRIORS,
    LIKELIHOODS,
    OBJECTIVES,
    POSTERIORS,
    PRIORS,
    SCALES,
    forgotten,
)
from unveil.families import Conditional, positive

DTYPES = (torch.float32, torch.float64)


def test_nothing_is_forgotten() -> None:
    families = [example.make() for example in LIKELIHOODS]
    assert forgotten(unveil.likelihoods, [*families, *SCALES]) == set()
    assert forgotten(unveil.priors, [*PRIORS, *CONDITIONED_PRIORS]) == set()
    assert forgotten(unveil.posteriors, POSTERIORS) == set()
    assert forgotten(unveil.objectives, OBJECTIVES) == set()


def test_what_is_forgotten_is_named() -> None:
    assert forgotten(unveil.objectives, OBJECTIVES[2:]) == {"ELBO"}


def test_a_network_of_the_wrong_width_is_refused_in_words() -> None:
    decoder = Conditional(nn.Linear(2, 4), unveil.Bernoulli(5))
    with pytest.raises(
        ValueError,
        match=r"Bernoulli expected 5 numbers per row from its network, got 4; give the network's",
    ):
        decoder(torch.zeros(3, 2))


def test_columns_that_do_not_name_each_column_once_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected the parts to name columns 0 … d−1 once"):
        unveil.Columns([((0, 1), unveil.Gaussian(2)), ((1,), unveil.Bernoulli(1))])


def test_a_part_with_more_columns_than_its_family_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected .*columns"):
        unveil.Columns([((0, 1, 2), unveil.Gaussian(2))])


def test_a_spread_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a spread above 0, got 0\.0"):
        unveil.FixedScale(0.0)


def test_posterior_and_prior_must_have_as_many_latents() -> None:
    with pytest.raises(ValueError, match=r"expected a posterior over the prior's 3 latents"):
        unveil.VAE(
            prior=unveil.StandardNormal(3),
            likelihood=Conditional(nn.Linear(3, 1), unveil.Bernoulli(1)),
            posterior=Conditional(nn.Linear(1, 4), unveil.DiagonalGaussian(2)),
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_raw_zero_is_a_positive_one(dtype: torch.dtype) -> None:
    assert positive(torch.zeros(33, dtype=dtype)).eq(1).all()
