"""Every name that a person may type makes a model that fits, is saved and is loaded the same."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch

import unveil
from unveil.errors import InputError
from unveil.registry.cells import FAMILIES
from unveil.registry.latents import POSTERIORS, PRIORS
from unveil.registry.networks import NETWORKS
from unveil.registry.objectives import OBJECTIVES

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(80, 2))
LINE = Z @ RNG.normal(size=(2, 4))
REAL = LINE + 0.3 * RNG.normal(size=(80, 4))
COUNTS = RNG.poisson(np.exp(LINE)).astype(float)
IMAGES = RNG.integers(0, 17, size=(60, 5, 4)).astype(np.uint8)

# What the columns must hold for each likelihood, and the options that it cannot do without.
SUITABLE = {
    "bernoulli": (IMAGES, ""),
    "gaussian": (REAL, ":scale=cell"),
    "student_t": (REAL, ""),
    "discretized_logistic": (np.round(REAL), ""),
    "discretized_logistic_mixture": (IMAGES, ":components=3"),
    "poisson": (COUNTS, ""),
    "negative_binomial": (COUNTS, ":scale=cell"),
    "zero_inflated_poisson": (COUNTS, ""),
    "zero_inflated_negative_binomial": (COUNTS, ""),
    "log_normal": (np.exp(REAL), ""),
    "spiked_log_normal": (np.exp(REAL) * (REAL > -0.5), ""),
    "von_mises": (np.degrees(REAL) % 360, ":period=360"),
    "continuous_bernoulli": (1 / (1 + np.exp(-REAL)), ":low=0,high=1"),
    "categorical": (RNG.integers(1, 4, size=(80, 3)).astype(float), ""),
    "ordinal": (RNG.integers(1, 6, size=(80, 3)).astype(float), ""),
}
NEEDED = {
    "renyi": ":alpha=0.5",
    "negative_renyi": ":alpha=-1.0",
    "free_bits_per_row": ":free_nats=0.1",
    "free_bits_per_batch": ":free_nats=0.1",
    "beta_elbo": ":beta=4.0",
    "total_correlation": ":beta=4.0",
    "info_vae": ":scaling=10.0",
}


def fit(data: object, **asked: object) -> unveil.Fitted:
    return unveil.fit(data, **{"latent": 2, "epochs": 1, **asked})


def survives_the_disk(fitted: unveil.Fitted, rows: object, folder: object) -> None:
    fitted.save(folder)
    loaded = unveil.load(folder)
    assert np.isfinite(fitted.evaluation.elbo)
    np.testing.assert_array_equal(loaded.encode(rows)[0], fitted.encode(rows)[0])
    np.testing.assert_array_equal(loaded.reconstruct(rows), fitted.reconstruct(rows))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_likelihood_fits_draws_what_it_admits_and_is_saved(name: str, tmp_path) -> None:
    data, options = SUITABLE[name]
    fitted = fit(data, likelihood=name + options)
    drawn = fitted.sample(20)
    assert fitted.rows(drawn).values.shape == drawn.shape or name == "bernoulli"
    survives_the_disk(fitted, data[:5], tmp_path / "model")


@pytest.mark.parametrize("name", PRIORS)
def test_every_prior_fits_and_is_saved(name: str, tmp_path) -> None:
    components = ":components=5" if name in ("mixture", "aggregate", "vamp") else ""
    data, given = (REAL, ()) if name != "conditioned" else (with_group(), ("group",))
    fitted = fit(data, prior=name + components, given=given)
    survives_the_disk(fitted, data[:5] if isinstance(data, np.ndarray) else data, tmp_path / "m")


@pytest.mark.parametrize("name", POSTERIORS)
def test_every_posterior_fits_and_is_saved(name: str, tmp_path) -> None:
    survives_the_disk(fit(REAL, posterior=name), REAL[:5], tmp_path / "model")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_fits_images_with_gaps_and_is_saved(name: str, tmp_path) -> None:
    images = IMAGES.astype(float)
    images[RNG.random(images.shape) < 0.2] = np.nan
    survives_the_disk(fit(images, network=name), images[:5], tmp_path / "model")


@pytest.mark.parametrize("prior", ["standard", "mixture:components=3", "flow"])
def test_several_levels_fit_under_any_top_prior(prior: str, tmp_path) -> None:
    fitted = fit(REAL, latent=5, levels=2, prior=prior)
    assert fitted.settings.architecture.latents == (2, 3)
    survives_the_disk(fitted, REAL[:5], tmp_path / "model")


@pytest.mark.parametrize("prior", ["standard", "mixture:components=3"])
def test_levels_of_maps_fit_under_any_top_prior(prior: str, tmp_path) -> None:
    """Images of 5 × 4 have one resolution of 3 × 2 pixels below their own."""
    fitted = fit(IMAGES, levels=3, prior=prior, network="conv:maps=2,channels=8,width=16")
    assert fitted.settings.architecture.latents == (2, 12, 12)
    assert fitted.encode(IMAGES[:5])[0].shape == (5, 26)
    survives_the_disk(fitted, IMAGES[:5], tmp_path / "model")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains(name: str) -> None:
    assert np.isfinite(fit(REAL, objective=name + NEEDED.get(name, "")).evaluation.elbo)


def test_colour_images_of_odd_sizes_fit() -> None:
    colour = RNG.integers(0, 256, size=(40, 5, 7, 3)).astype(np.uint8)
    fitted = fit(colour, network="conv:channels=4/8,width=16")
    assert fitted.sample(3).shape == (3, 5, 7, 3)


# ---- what is given -----------------------------------------------------------------------------


def with_group() -> pa.Table:
    """A table whose groups lie far apart; what is left once the group is known is noise."""
    group = np.arange(80) % 3
    columns = {f"x{j}": REAL[:, j] + 50.0 * group for j in range(4)}
    return pa.table({**columns, "group": np.array(["a", "b", "c"])[group]})


def test_a_conditional_model_draws_the_group_that_it_is_told() -> None:
    fitted = fit(with_group(), given=("group",), epochs=150)
    means = [fitted.sampled(200, given={"group": group}).values.mean() for group in "abc"]
    assert np.diff(means) == pytest.approx([50.0, 50.0], abs=10.0)


def exposed() -> pa.Table:
    """Counts at a rate of 3, or of 1, per unit of time at risk."""
    time = np.exp(RNG.normal(size=400))
    counts = {f"n{j}": RNG.poisson(time * rate) for j, rate in enumerate((3.0, 1.0))}
    return pa.table({**counts, "time": time})


def test_counts_are_proportional_to_their_exposure() -> None:
    fitted = fit(exposed(), exposure="time", likelihood="poisson", epochs=150)
    for time in (0.5, 5.0, 50.0):  # the last is far outside the data
        drawn = fitted.sampled(2_000, given={"time": time}).values.mean(0)
        np.testing.assert_allclose(drawn, [3 * time, time], rtol=0.35)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (exposed().append_column("size", pa.array(RNG.normal(size=400))), "counts alone beside an"),
        (pa.table({"n": [0, 1, 2, 3, 4, 5, 6, 9, 9, 20], "time": [0.0] + [1.0] * 9}), "above 0 in"),
    ],
)
def test_exposures_that_cannot_be_get_a_sentence(table: pa.Table, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        fit(table, exposure="time")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "covariate that the model is conditioned on, but group is lacking"),
        ({"group": "z"}, "expected covariate 'group' to be one of a, b, c"),
        ({"group": "a", "sex": 1}, r"conditioned on \(group\), but sex came"),
    ],
)
def test_a_group_that_is_not_there_gets_a_sentence(given, sentence: str) -> None:
    fitted = fit(with_group(), given=("group",))
    with pytest.raises(InputError, match=sentence):
        fitted.sample(3, given=given)


# ---- where a decoder starts -------------------------------------------------------------------


def test_angles_start_at_their_mean_direction_and_classes_at_their_shares() -> None:
    around_north = torch.tensor([[6.1], [0.1], [6.2], [0.2]])
    angles = unveil.VonMises(1)
    direction = angles(angles.start_at(around_north)).mean
    assert abs(math.remainder(float(direction) - 0.009, 2 * math.pi)) < 0.01
    classes = unveil.Categorical(1, num_classes=3)
    codes = torch.tensor([[0.0]] * 8 + [[2.0]] * 1 + [[math.nan]])
    shares = classes(classes.start_at(codes)).log_prob(torch.tensor([[0.0], [1.0], [2.0]])).exp()
    torch.testing.assert_close(shares, torch.tensor([9.0, 1.0, 2.0]) / 12)


# ---- what does not go together -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"objective": "total_correlation:beta=4.0", "posterior": "flow"}, "expected"),
        ({"objective": "info_vae", "prior": "mixture"}, "expected"),
        ({"objective": "dreg:beta=4.0"}, "expected the options num_samples for the objective"),
        ({"prior": "mixture:components=0"}, "expected at least 1 component"),
        ({"posterior": "flow:context=0"}, "expected a context of at least 1"),
        ({"likelihood": "categorical"}, "expected"),
        ({"likelihood": "von_mises:period=-1"}, "expected a period above 0"),
        ({"likelihood": "von_mises:period=abc"}, "expected von_mises:period to be a number"),
        (
            {"likelihood": "auto:count=poisson"},
            "expected auto to be told of kinds that the",
        ),
        ({"prior": "mixture:components=abc"}, "expected mixture:components to be a whole number"),
        ({"prior": "mixture:components=2.5"}, "expected mixture:components to be a whole number"),
        ({"prior": "aggregate:components=abc"}, "expected aggregate:components to be a whole"),
        ({"prior": "aggregate:components=9000"}, "expected at most as many components as the"),
        ({"network": "mlp:width=abc"}, "expected mlp:width to be a whole number"),
        ({"objective": "renyi"}, "expected the objective 'renyi' to be told its alpha"),
        ({"objective": "renyi:alpha=abc"}, "expected renyi:alpha to be a number"),
        ({"validation": 0.0}, "expected a fraction of rows between 0 and 1"),
    ],
)
def test_what_does_not_go_together_is_refused_before_training(asked, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        fit(np.tile(REAL, (20, 1)) + RNG.normal(size=(1600, 4)), **asked)


@pytest.mark.parametrize(
    ("data", "asked", "sentence"),
    [
        (IMAGES, {"levels": 1, "network": "conv:maps=2"}, "expected two levels or more"),
        (IMAGES, {"levels": 2, "network": "conv:maps=-1"}, "expected maps of one channel or more"),
        (IMAGES, {"levels": 2, "network": "conv:maps=2,channels=x"}, "expected channels such as"),
        (REAL, {"levels": 2, "network": "conv:maps=2"}, "expected images of shape"),
        (IMAGES, {"levels": 3, "network": "conv"}, "expected at most one level for each of 2"),
    ],
)
def test_levels_that_cannot_be_get_a_sentence(data, asked, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        fit(data, **asked)


def test_rows_that_are_compared_need_company() -> None:
    with pytest.raises(InputError, match="expected at least 2 held-out rows for InfoVAE"):
        fit(REAL[:12], objective="info_vae")


def test_a_mixture_of_posteriors_does_not_take_covariates() -> None:
    with pytest.raises(InputError, match="expected no covariates with a mixture of posteriors"):
        fit(with_group(), given=("group",), prior="vamp:components=5")
