"""The faces that scikit-learn knows: reduce, impute, detect, estimate a density, by one model.

Each is ``unveil.fit`` in a role of scikit-learn's, to be put in its pipelines and searches. What a
role does not say is found in ``fitted_``, the model itself: bounds, intervals, p-values, odd cells.
"""

from abc import ABC
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any, TypeVar, final

import narwhals as nw
import numpy as np
from numpy.typing import NDArray
from sklearn.base import (
    BaseEstimator,
    DensityMixin,
    OneToOneFeatureMixin,
    OutlierMixin,
    TransformerMixin,
)
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import FLOAT_DTYPES, check_is_fitted, validate_data

from unveil.data.read import numbered
from unveil.errors import InputError
from unveil.evidence.importance import importance
from unveil.fitted import Fitted
from unveil.fitting import fit
from unveil.request import Request
from unveil.scoring.densities import DRAWS

# scikit-learn refuses one row in words of its own; how many more are needed, ``fit`` knows.
FEWEST_ROWS = 2

Role = TypeVar("Role", bound="_VAEEstimator")


# Options are of any type until ``fit`` looks at them: scikit-learn sets them as it likes before.
@dataclass(kw_only=True, eq=False, repr=False)
class _VAEEstimator(BaseEstimator, ABC):
    """A variational autoencoder that is fitted to tables, gaps allowed."""

    latent: Any = None
    likelihood: Any = None
    prior: Any = None
    posterior: Any = None
    network: Any = None
    objective: Any = None
    epochs: Any = None
    max_minutes: Any = None
    validation: Any = None
    random_state: Any = 0

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def fit(self: Role, X: Any, y: Any = None) -> Role:
        """Fit a model to a table X (row, column), NaN where a cell is missing; y is not looked at.

        A frame keeps its words, dates and booleans; anything else is read as numbers. Learned are
        ``fitted_``, ``n_features_in_`` and, of a frame, ``feature_names_in_``. Raises InputError,
        which is a ValueError, for a table or options that cannot be fitted.
        """
        self.n_features_in_: int  # told by scikit-learn's validate_data
        if is_named(X):
            table = validate_data(self, X, skip_check_array=True)
        else:
            table = self._numbers(X, ensure_min_samples=FEWEST_ROWS)
        options = {one.name for one in fields(Request)} & self.get_params(deep=False).keys()
        asked = {name: plain(getattr(self, name)) for name in sorted(options)}
        self.fitted_: Fitted = fit(table, seed=seed_of(self.random_state), **asked)
        return self

    def _read(self, X: Any) -> Any:
        """A table as the fitted model reads it: by name where both have names, else by place."""
        check_is_fitted(self)
        if is_named(X) and hasattr(self, "feature_names_in_"):
            return validate_data(self, X, skip_check_array=True, reset=False)
        return self._numbers(X, reset=False)

    def _numbers(self, X: Any, **asked: Any) -> NDArray[np.floating]:
        return np.asarray(
            validate_data(self, X, dtype=FLOAT_DTYPES, ensure_all_finite="allow-nan", **asked)
        )

    def _put(self, values: NDArray[np.floating], into: NDArray[Any]) -> NDArray[Any]:
        """The modelled columns (row, modelled) in their places among all columns (row, column)."""
        names = list(getattr(self, "feature_names_in_", numbered(into.shape[1])))
        into[:, [names.index(name) for name in self.fitted_.schema.names]] = values
        return into

    def _whole(self, table: Any) -> Any:
        """New rows as the kind of table that was fitted to: of an array, a column in which not one
        value was seen is NaN; of a frame, one that is not modelled is not there."""
        if not isinstance(table, np.ndarray):
            return table
        return self._put(table, np.full((len(table), self.n_features_in_), np.nan))


class _VAEScorer(_VAEEstimator, ABC):
    """One that says how probable rows are."""

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """log p(x) of each row's observed cells, nats, (row,): the higher, the more usual.

        Estimated by importance weighting, a lower bound in expectation, and bitwise a function of
        the row; 0 for a row with nothing observed. Raises InputError for values that their column
        cannot take, such as words never seen.
        """
        table = self._read(X)
        x, given = self.fitted_.tensors(table)
        found = importance(self.fitted_.vae, x, num_samples=DRAWS, given=given)
        return found.log_evidence.numpy()


@final
class VAEReducer(TransformerMixin, _VAEEstimator):
    """Fewer columns that tell the rows apart: the means of q(z|x).

    Arguments are those of ``unveil.fit``; ``random_state`` is its seed, where it is a number. None
    or a RandomState draws the seed from scikit-learn's global state or from that one.

    >>> table = np.random.default_rng(0).normal(size=(60, 4))
    >>> reducer = VAEReducer(latent=2, epochs=2).fit(table)
    >>> reducer.transform(table[:5]).shape, reducer.get_feature_names_out().tolist()
    ((5, 2), ['z0', 'z1'])
    """

    def transform(self, X: Any) -> NDArray[np.float64]:
        """E[z|x] under q, (row, latent), bitwise a function of the row."""
        table = self._read(X)
        return self.fitted_.encode(table)[0]

    def inverse_transform(self, X: Any) -> Any:
        """E[x|z] of latents (row, latent), in the data's units, as the kind of table fitted to.

        Raises InputError where they are not as many as the model has.
        """
        check_is_fitted(self)
        return self._whole(self.fitted_.decode(X))

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """z0, z1, …: the latents' names, whatever those of the columns are."""
        check_is_fitted(self)
        return np.array([f"z{k}" for k in range(self.fitted_.vae.num_latents)], dtype=object)


@final
class VAEImputer(OneToOneFeatureMixin, TransformerMixin, _VAEEstimator):
    """Tables with their gaps filled: E[x_j|observed], or the most probable class.

    Cells are taken to be missing at random. A frame comes back as its own kind, types kept, and an
    array as an array; a column in which not one value was seen stays as it is. Arguments are those
    of ``VAEReducer``; intervals and draws are those of ``fitted_.imputation``.

    >>> table = np.random.default_rng(0).normal(size=(60, 2)) @ [[1.0, 0.9], [0.0, 0.1]]
    >>> imputer = VAEImputer(latent=1, epochs=2).fit(table)
    >>> bool(np.isnan(imputer.transform([[1.5, np.nan], [np.nan, 0.5]])).any())
    False
    """

    def transform(self, X: Any) -> Any:
        """The rows with their gaps filled; observed cells as they are, bit for bit."""
        table = self._read(X)
        filled = self.fitted_.impute(table)
        return self._put(filled, table.copy()) if isinstance(table, np.ndarray) else filled


@final
@dataclass(kw_only=True, eq=False, repr=False)
class VAEDetector(OutlierMixin, _VAEScorer):
    """Rows that the model finds improbable: log p(x) below that of most of the rows fitted to.

    ``contamination``, in (0, 0.5], is the share of those rows that are flagged; new rows, which the
    model was not fitted to, are flagged somewhat more often. Where the share of false alarms
    matters, use the p-values of ``fitted_.score``. Other arguments are those of ``VAEReducer``.

    >>> table = np.random.default_rng(0).normal(size=(60, 3))
    >>> detector = VAEDetector(contamination=0.05, latent=1, epochs=2).fit(table)
    >>> detector.predict([[0.0, 0.0, 0.0], [9.0, -9.0, 9.0]])
    array([ 1, -1])
    """

    contamination: Any = 0.1

    def fit(self, X: Any, y: Any = None) -> "VAEDetector":
        """As every estimator here fits, and then ``offset_``, the score below which rows are odd.

        Raises InputError for a contamination outside (0, 0.5] as well.
        """
        if not (isinstance(self.contamination, int | float) and 0 < self.contamination <= 0.5):
            raise InputError(
                "expected a contamination above 0 and at most 0.5, but "
                f"{self.contamination!r} came; 0.1 is usual"
            )
        super().fit(X)
        self.offset_ = float(np.quantile(self.score_samples(X), self.contamination))
        return self

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """``score_samples`` less ``offset_``, nats, (row,): below 0 for an odd row."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:
        """−1 for an odd row and 1 for another, (row,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)


@final
class VAEDensity(DensityMixin, _VAEScorer):
    """How probable rows are, and new rows like them; arguments are those of ``VAEReducer``.

    >>> table = np.random.default_rng(0).normal(size=(60, 3))
    >>> density = VAEDensity(latent=1, epochs=2).fit(table)
    >>> density.sample(4).shape, density.score(table) < 0
    ((4, 3), True)
    """

    def score(  # pyright: ignore[reportIncompatibleMethodOverride]  (a mixin's, which has none)
        self, X: Any, y: Any = None
    ) -> float:
        """The mean of log p(x) over the rows, nats: what a search over options should raise.

        Options compare only where they give every cell the same kind of value: a mass is not
        comparable with a density.
        """
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = 0) -> Any:
        """New rows x ~ p(x|z), z ~ p(z), as the kind of table fitted to.

        They are a function of the model and ``random_state``. Raises InputError for less than one.
        """
        check_is_fitted(self)
        return self._whole(self.fitted_.sample(n_samples, seed=seed_of(random_state)))


# ---- scikit-learn's conventions -----------------------------------------------------------------


def is_named(X: Any) -> bool:
    """Whether X is a frame all of whose columns are named by words.

    >>> import pyarrow as pa
    >>> is_named(pa.table({"a": [1.0]})), is_named(np.zeros((1, 1)))
    (True, False)
    """
    return nw.dependencies.is_into_dataframe(X) and all(
        isinstance(name, str) for name in nw.from_native(X).columns
    )


def plain(option: Any) -> Any:
    """An option as Python's own number where it is numpy's, as those of a search often are.

    >>> type(plain(np.int64(8))), plain("iwae")
    (<class 'int'>, 'iwae')
    """
    return option.item() if isinstance(option, np.generic) else option


def seed_of(random_state: Any) -> int:
    """The seed that a ``random_state`` stands for: a whole number itself, else one that is drawn.

    >>> seed_of(3), seed_of(np.random.RandomState(0)) == seed_of(np.random.RandomState(0))
    (3, True)
    """
    randomness = check_random_state(random_state)
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(randomness.randint(2**31 - 1))
