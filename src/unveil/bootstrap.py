"""Completed tables that carry what the training rows leave open as well."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from unveil.data.encode import among
from unveil.errors import InputError
from unveil.feed import digests_of
from unveil.fitted import Fitted
from unveil.fitting import refit
from unveil.imputation.table import Imputation, complete
from unveil.noise import generator

REFITTED = (
    "each completed table is drawn by a model of its own, fitted anew to rows drawn from the table "
    "with replacement: the tables differ by what the rows leave open, the parameters included"
)


def bootstrapped(
    fitted: Fitted,
    data: Any,
    models: int,
    *,
    intervals: float | None = None,
    unseen: str = "error",
    shift: float | Mapping[str, float] = 0.0,
    seed: int = 0,
    on_part: Callable[[float], None] = lambda fraction: None,
) -> Imputation:
    """The table completed by as many models, each fitted to a bootstrap resample of it.

        θ_b = the fit to N rows drawn with replacement from the N fitted ones
        x_mis ~ p(x_mis | x_obs, θ_b),   b = 1 … B
        Var = mean_b Var_b + (1 + 1/B) var_b(estimate_b)

    The last line is Rubin's rule for what is estimated from each of the ``draws``, (model, row,
    *event); everything else is as ``Fitted.imputation`` finds it by the fitted model alone.
    ``data`` hold the rows that the model was fitted to, which are those resampled, and may hold
    others to be filled beside them. Models take the fitted one's columns and settings. A function
    of (seed, table). Raises InputError for less than one model, where rows that the model was
    fitted to are not there, and as ``Fitted.imputation`` does.
    Sources: Rubin 1987, chapter 3; Honaker, King & Blackwell 2011, section 3 (draws by bootstrap).

    >>> import unveil
    >>> table = np.random.default_rng(0).normal(size=(60, 2)) @ [[1.0, 0.9], [0.0, 0.1]]
    >>> table[:20, 1] = np.nan
    >>> found = bootstrapped(unveil.fit(table, latent=1, epochs=1), table, models=2)
    >>> found.draws.shape, bool((found.draws[:, 20:] == table[20:]).all())
    ((2, 60, 2), True)
    """
    if models < 1:
        raise InputError(f"expected at least 1 model to refit, but {models} came; 20 are usual")
    rows = fitted.rows(data, unseen)
    places = _fitted_places(fitted, digests_of(rows, fitted.covariates))
    found = fitted.imputation(rows, intervals=intervals, unseen=unseen, shift=shift, seed=seed)
    x, given = fitted.tensors(rows)
    tables = []
    for number in range(models):
        randomness = generator(seed, "bootstrap", number)
        picked = torch.randint(len(places), (len(places),), generator=randomness).numpy()
        own = int(torch.randint(2**31, (), generator=randomness))
        vae = refit(fitted, rows.take(places[picked]), seed=own)
        made = complete(
            vae, fitted.schema, rows, x, given, 1, within=fitted.within, shift=shift, seed=own
        )
        tables.append(made)
        on_part((number + 1) / models)
    return replace(found, draws=np.concatenate(tables))


def _fitted_places(fitted: Fitted, keys: np.ndarray) -> np.ndarray:
    """The places of the rows that the model was fitted to, by digest.

    Raises InputError where some of them are not there.
    """
    seen = np.concatenate(
        [fitted.train_digests, fitted.held_out_digests, fitted.calibration_digests]
    )
    known = np.unique(seen, axis=0)
    absent = int((~among(known, keys)).sum())
    if absent:
        raise InputError(
            f"expected the table that the model was fitted to, whose rows are resampled, but "
            f"{absent} of its {len(known)} different rows are not among those that came; give "
            "all of it, with new rows below, or draw by the fitted model with --draws"
        )
    return among(keys, seen).nonzero()[0]
