"""scikit-learn's own checks hold of every face, and each does in its role what the model does."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import unveil
from unveil import VAEDensity, VAEDetector, VAEImputer, VAEReducer, fitting
from unveil.errors import InputError
from unveil.evidence.tuning import Sizes

TINY: dict[str, Any] = {"latent": 1, "network": "mlp:width=8,depth=1", "epochs": 1}
ROLES = (VAEReducer, VAEImputer, VAEDetector, VAEDensity)
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(80, 3)) @ np.array([[1.0, 0.9, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 1.0]])
HOLES = np.where(RANDOM.random(X.shape) < 0.2, np.nan, X)
EMPTY = np.column_stack([X[:, 0], np.full(len(X), np.nan), HOLES[:, 1:]])  # of a column, nothing


@pytest.fixture(scope="module", autouse=True)
def _fit_once() -> Iterator[None]:
    """Equal arrays, options and seeds are fitted once: a fit is a function of them, which the tests
    of ``fit`` hold it to, and the checks ask the same few fits of every role time and again. The
    sizes of annealing's moves, most of the time of so small a fit, are no estimator's business."""
    sizes = Sizes(from_posterior=torch.ones(9, 1), from_prior=torch.ones(9, 1))
    models: dict[Any, unveil.Fitted] = {}

    def fit(table: Any, **asked: Any) -> unveil.Fitted:
        if not isinstance(table, np.ndarray):
            return unveil.fit(table, **asked)
        key = table.tobytes(), table.dtype.str, table.shape, repr(sorted(asked.items()))
        if key not in models:
            models[key] = unveil.fit(table, **asked)
        return models[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "tune_both", lambda *args, **options: sizes)
        patch.setattr("unveil.estimators.fit", fit)
        yield


@parametrize_with_checks([role(**TINY) for role in ROLES])
def test_the_checks_of_scikit_learn_pass(
    estimator: BaseEstimator, check: Callable[[BaseEstimator], None]
) -> None:
    check(estimator)


# ---- every role ---------------------------------------------------------------------------------


def test_a_number_as_random_state_is_the_seed_and_the_options_are_those_of_fit() -> None:
    options = {**TINY, "latent": np.int64(2), "prior": "mixture:components=3", "validation": 0.2}
    mine = VAEReducer(**options, random_state=3).fit(HOLES)
    theirs = unveil.fit(HOLES, **{**options, "latent": 2}, seed=3)
    assert np.array_equal(mine.transform(HOLES), theirs.encode(HOLES)[0])
    assert mine.fitted_.settings == theirs.settings
    other = VAEReducer(**options, random_state=4).fit(HOLES)
    assert not np.array_equal(mine.transform(HOLES), other.transform(HOLES))


def test_a_random_state_of_numpys_draws_the_seed() -> None:
    first, again = (VAEReducer(**TINY, random_state=np.random.RandomState(5)) for _ in range(2))
    assert first.fit(X).fitted_.settings.seed == again.fit(X).fitted_.settings.seed
    assert first.fit(X).fitted_.settings.seed != again.fitted_.settings.seed  # it moves on


@pytest.mark.parametrize("role", ROLES)
def test_what_is_said_of_a_row_is_its_own_bit_for_bit(role: type) -> None:
    estimator = role(**TINY).fit(HOLES)
    tell = getattr(estimator, "score_samples", None) or estimator.transform
    whole, order = tell(HOLES), RANDOM.permutation(len(HOLES))
    assert np.array_equal(tell(HOLES[order]), whole[order])
    assert np.array_equal(tell(HOLES[7:10]), whole[7:10])


@pytest.mark.parametrize("role", ROLES)
def test_a_clone_is_unfitted_with_the_same_options(role: type) -> None:
    fitted = role(**TINY, random_state=2).fit(X)
    fresh = clone(fitted)
    assert fresh.get_params() == fitted.get_params() == role(**TINY, random_state=2).get_params()
    assert not hasattr(fresh, "fitted_")


@pytest.mark.parametrize("options", [{}, {"prior": "flow"}, {"posterior": "flow"}], ids=str)
def test_a_fitted_estimator_goes_through_pickle_and_joblib(
    options: dict[str, Any], tmp_path: Path
) -> None:
    reducer = VAEReducer(**TINY, **options).fit(HOLES)
    joblib.dump(reducer, tmp_path / "reducer")
    for back in (joblib.load(tmp_path / "reducer"), pickle.loads(pickle.dumps(reducer))):
        assert np.array_equal(back.transform(HOLES), reducer.transform(HOLES))


# ---- frames -------------------------------------------------------------------------------------


def a_frame() -> pd.DataFrame:
    """Numbers, words, categories, days and the names of rows, with gaps and an index of its own."""
    frame = pd.DataFrame(
        {
            "who": [f"person {row}" for row in range(len(X))],
            "income": X[:, 0],
            "sex": RANDOM.choice(["f", "m"], len(X)),
            "town": pd.Categorical(RANDOM.choice(["Bath", "Ely", "York"], len(X))),
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(RANDOM.integers(0, 90, 80), "D"),
        },
        index=pd.RangeIndex(100, 100 + len(X)),
    )
    frame.loc[103, "income"] = np.nan
    frame.loc[104, ["sex", "town", "day"]] = None
    return frame


FRAME = a_frame()
MODELLED = ["income", "sex", "town", "day"]  # and ``who`` names rows
FORMS: dict[str, Callable[[pd.DataFrame], Any]] = {
    "pandas": lambda frame: frame,
    "polars": pl.from_pandas,
    "pyarrow": lambda frame: pa.Table.from_pandas(frame, preserve_index=False),
}


def to_pandas(frame: Any) -> pd.DataFrame:
    return frame if isinstance(frame, pd.DataFrame) else frame.to_pandas()


def types_of(frame: Any) -> Any:
    return frame.schema if isinstance(frame, pa.Table) else list(frame.dtypes)


@pytest.mark.parametrize("form", FORMS)
def test_a_frame_is_filled_as_its_own_kind_with_its_types(form: str) -> None:
    frame = FORMS[form](FRAME)
    filled = VAEImputer(**TINY).fit_transform(frame)
    assert type(filled) is type(frame)
    assert types_of(filled) == types_of(frame)
    before, after = to_pandas(frame), to_pandas(filled)
    assert after.index.equals(before.index)
    assert not after.isna().to_numpy().any()
    assert set(after["town"]) == {"Bath", "Ely", "York"}
    observed = before.notna()
    assert after.astype(object).where(observed).equals(before.astype(object).where(observed))


@pytest.mark.parametrize("form", FORMS)
def test_what_is_made_of_a_frame_is_a_frame_of_its_kind(form: str) -> None:
    frame = FORMS[form](FRAME)
    density, reducer = VAEDensity(**TINY).fit(frame), VAEReducer(**TINY).fit(frame)
    means = reducer.transform(frame)
    assert isinstance(means, np.ndarray) and means.shape == (80, 1)
    for made, rows in ((density.sample(30), 30), (reducer.inverse_transform(means), 80)):
        assert type(made) is type(frame)
        table = to_pandas(made)
        assert table.shape == (rows, 4) and list(table) == MODELLED
        assert set(table["sex"]) <= {"f", "m"} and set(table["town"]) <= {"Bath", "Ely", "York"}
        assert table["day"].dtype.kind == "M"


def test_columns_are_found_by_name_and_arrays_by_place() -> None:
    numbers = pd.DataFrame(HOLES, columns=["a", "b", "c"])
    density = VAEDensity(**TINY).fit(numbers)
    assert density.feature_names_in_.tolist() == ["a", "b", "c"]
    scores = density.score_samples(numbers)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        assert np.array_equal(density.score_samples(HOLES), scores)
    with pytest.raises(ValueError, match="feature names should match"):
        density.score_samples(numbers[["b", "a", "c"]])
    nameless = VAEDensity(**TINY).fit(HOLES)
    assert not hasattr(nameless, "feature_names_in_")
    with pytest.warns(UserWarning, match="was fitted without feature names"):
        found = nameless.score_samples(numbers)
    assert np.array_equal(found, nameless.score_samples(HOLES))


def test_a_frame_whose_columns_are_numbered_is_an_array() -> None:
    imputer = VAEImputer(**TINY).fit(pd.DataFrame(HOLES))
    assert np.array_equal(imputer.transform(HOLES), VAEImputer(**TINY).fit_transform(HOLES))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_output_is_set_to_a_library(library: str) -> None:
    kind = {"pandas": pd.DataFrame, "polars": pl.DataFrame}[library]
    reducer = VAEReducer(**{**TINY, "latent": 2}).set_output(transform=library)
    means = reducer.fit_transform(FRAME)
    assert isinstance(means, kind) and list(means.columns) == ["z0", "z1"]
    assert np.array_equal(means.to_numpy(), reducer.fitted_.encode(FRAME)[0])
    filled = VAEImputer(**TINY).set_output(transform=library).fit_transform(FRAME)
    assert isinstance(filled, kind) and list(filled.columns) == list(FRAME)


# ---- reducing -----------------------------------------------------------------------------------


def test_the_way_back_is_what_the_means_make_expected() -> None:
    reducer = VAEReducer(**{**TINY, "latent": 2}).fit(HOLES)
    back = reducer.inverse_transform(reducer.transform(HOLES))
    assert np.array_equal(back, reducer.fitted_.reconstruct(HOLES))
    assert np.array_equal(reducer.inverse_transform(reducer.transform(HOLES[:2])), back[:2])


# ---- imputing -----------------------------------------------------------------------------------


def test_arrays_are_filled_in_their_dtype_and_observed_cells_stay() -> None:
    for table in (HOLES.copy(), HOLES.astype(np.float32)):
        before = table.tobytes()
        filled = VAEImputer(**TINY).fit_transform(table)
        assert filled.dtype == table.dtype
        assert not np.isnan(filled).any()
        seen = ~np.isnan(table)
        assert filled[seen].tobytes() == table[seen].tobytes()
        assert table.tobytes() == before


def test_gaps_are_filled_by_what_the_model_expects() -> None:
    imputer = VAEImputer(**TINY).fit(HOLES)
    assert np.array_equal(imputer.transform(HOLES), imputer.fitted_.impute(HOLES))
    assert np.array_equal(imputer.transform(HOLES[:9]), imputer.transform(HOLES)[:9])


def test_a_column_without_a_value_stays_and_keeps_its_place() -> None:
    imputer = VAEImputer(**TINY).fit(EMPTY)
    filled = imputer.transform(EMPTY)
    assert np.isnan(filled[:, 1]).all()
    assert not np.isnan(filled[:, [0, 2, 3]]).any()
    assert np.array_equal(filled[:, 0], EMPTY[:, 0])
    assert len(imputer.get_feature_names_out()) == 4
    made = VAEDensity(**TINY).fit(EMPTY).sample(3)
    assert np.array_equal(np.isnan(made), np.tile([False, True, False, False], (3, 1)))


# ---- detecting ----------------------------------------------------------------------------------


def test_scores_are_the_models_own_log_evidence() -> None:
    for role in (VAEDetector, VAEDensity):
        estimator = role(**TINY).fit(HOLES)
        own = estimator.fitted_.score(HOLES).log_evidence
        assert np.array_equal(estimator.score_samples(HOLES), own)
    assert estimator.score(HOLES) == own.mean()


@pytest.mark.parametrize("contamination", [0.05, 0.25, 0.5])
def test_the_share_flagged_of_the_rows_fitted_to_is_the_contamination(contamination: float) -> None:
    detector = VAEDetector(contamination=contamination, **TINY)
    flags = detector.fit_predict(X)
    assert (flags == -1).sum() == contamination * len(X)
    scores = detector.score_samples(X)
    assert scores[flags == -1].max() < detector.offset_ <= scores[flags == 1].min()
    assert np.array_equal(detector.decision_function(X), scores - detector.offset_)


def test_rows_far_from_the_others_are_the_odd_ones() -> None:
    detector = VAEDetector(**TINY).fit(X)
    assert detector.predict([[0.0, 0.0, 0.0], [9.0, -9.0, 9.0]]).tolist() == [1, -1]


@pytest.mark.parametrize("contamination", [0.0, -0.1, 0.6, float("nan"), "auto", None])
def test_a_contamination_out_of_range_is_refused(contamination: Any) -> None:
    with pytest.raises(InputError, match="contamination above 0 and at most"):
        VAEDetector(contamination=contamination, **TINY).fit(X)


# ---- estimating a density -----------------------------------------------------------------------


def test_new_rows_are_a_function_of_the_random_state() -> None:
    density = VAEDensity(**TINY).fit(X)
    assert np.array_equal(density.sample(5, random_state=7), density.fitted_.sample(5, seed=7))
    assert not np.array_equal(density.sample(5), density.sample(5, random_state=7))
    assert density.sample().shape == (1, 3)


# ---- in company ---------------------------------------------------------------------------------


def test_pipelines_scale_reduce_and_classify() -> None:
    """The class is the sign of the first column, which one latent of a trained model knows."""
    labels = X[:, 0] > 0
    options = {**TINY, "latent": 2, "epochs": 60, "network": "mlp:width=32,depth=1"}
    pipeline = make_pipeline(StandardScaler(), VAEReducer(**options), LogisticRegression())
    assert pipeline.fit(X[:60], labels[:60]).score(X[60:], labels[60:]) >= 0.85
    with_gaps = make_pipeline(VAEImputer(**TINY), StandardScaler(), LogisticRegression())
    assert with_gaps.fit(HOLES, labels).predict(HOLES).shape == (80,)
    assert pipeline[:-1].get_feature_names_out().tolist() == ["z0", "z1"]


def test_a_search_over_latents_goes_by_held_out_evidence() -> None:
    search = GridSearchCV(
        VAEDensity(**TINY), {"latent": np.arange(1, 3)}, cv=2, error_score="raise"
    ).fit(HOLES)
    scores = search.cv_results_["mean_test_score"]
    assert search.best_params_["latent"] == 1 + int(np.argmax(scores))
    halves = (HOLES[40:], HOLES[:40]), (HOLES[:40], HOLES[40:])
    by_hand = [VAEDensity(**TINY).fit(train).score(test) for train, test in halves]
    assert scores[0] == pytest.approx(np.mean(by_hand), rel=1e-12)


# ---- what cannot be -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (X[:1], "minimum of 2 is required"),
        (X[:5], "at least 10 rows"),
        (np.ones((20, 2)), "a column that varies"),
        (np.full((20, 2), np.nan), "a column to model"),
        (np.where(X > 1, np.inf, X), "infinity"),
        (X[:, 0], "Reshape your data"),
        ([["a", "b"]] * 20, "could not convert string to float"),
        (pd.DataFrame(X, columns=["a", "b", "a"]), "unique column names"),
        (FRAME[["who"]], "a column to model"),
    ],
)
def test_a_table_that_cannot_be_fitted_is_refused(table: Any, words: str) -> None:
    estimator = VAEDensity(**TINY)
    with pytest.raises(ValueError, match=words):
        estimator.fit(table)
    assert not hasattr(estimator, "fitted_")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"latent": 0}, "above 0"),
        ({"prior": "none such"}, "expected the prior"),
        ({"random_state": -1}, "Seed must be between"),
        ({"random_state": "a"}, "cannot be used to seed"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VAEReducer(**{**TINY, **options}).fit(X)


def test_rows_that_the_model_cannot_read_are_refused() -> None:
    density = VAEDensity(**TINY).fit(FRAME)
    with pytest.raises(ValueError, match="yet now missing"):
        density.score(FRAME[MODELLED])
    with pytest.raises(InputError, match="expected f or m in column 'sex'"):
        density.score(FRAME.assign(sex="none such"))
    with pytest.raises(InputError, match="at least 1 row"):
        density.sample(0)


@pytest.mark.parametrize("z", [np.zeros((2, 3)), np.zeros(1), [[np.nan]], np.zeros((2, 1, 1))])
def test_latents_of_another_shape_are_refused(z: Any) -> None:
    with pytest.raises(InputError, match="finite latents of shape"):
        VAEReducer(**TINY).fit(X).inverse_transform(z)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: VAEReducer().transform([[0.0]]),
        lambda: VAEReducer().inverse_transform([[0.0]]),
        lambda: VAEReducer().get_feature_names_out(),
        lambda: VAEDensity().sample(),
    ],
)
def test_nothing_is_answered_before_a_fit(ask: Callable[[], Any]) -> None:
    with pytest.raises(NotFittedError):
        ask()
