"""Fitted: one model, the schema it reads rows by, and the record of how it came about."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from unveil.baselines import Baselines
from unveil.build import build, with_lasting_prior
from unveil.card import card
from unveil.conditional import (
    Conditioned,
    Conditions,
    conditions,
    draw_within,
    fulfilled,
    sample_where,
    values_seen,
)
from unveil.data.admit import fits, without_impossible
from unveil.data.covariates import Covariates
from unveil.data.encode import among, decode
from unveil.data.frames import as_it_came, measured
from unveil.data.read import Rows, listed, read_again
from unveil.data.schema import Schema
from unveil.distributions import draw
from unveil.errors import InputError
from unveil.evaluation import Evaluation
from unveil.evidence.effort import Effort, require_budget
from unveil.evidence.tuning import Sizes
from unveil.feed import digests_of, to_given, to_tensors
from unveil.imputation.intervals import TOLD_LEVEL, Intervals
from unveil.imputation.table import ANYWHERE, Imputation, Within, impute
from unveil.inference import Inference
from unveil.judge import Case, cross_examine
from unveil.latent import VAE
from unveil.noise import generator
from unveil.scoring.calibration import Calibration, KeptRows, calibration_from
from unveil.scoring.comparison import Telling, compare_scores, marked_odd, telling
from unveil.scoring.densities import DRAWS as DRAWS_OF_SCORE
from unveil.scoring.kinds import EVIDENCE, KINDS
from unveil.scoring.odd import impossible_cells, odd_cells, require_table
from unveil.scoring.rows import MOST_WEIGHED, Scores, score_rows
from unveil.settings import Settings, made_here
from unveil.storage import (
    manifest,
    read_document,
    read_lines,
    read_tensors,
    recover,
    replace_folder,
    verify,
    write_bytes,
    write_document,
    write_lines,
    write_tensors,
)
from unveil.synthesis.report import SynthesisReport, report
from unveil.synthesis.trial import trial
from unveil.tiles import ROWS_PER_TILE, RowsAlike, tiles
from unveil.training import History
from unveil.units import posterior_moments

FORMAT_VERSION = 4
# The files that are never rewritten; model.json holds their checksums, and its own.
MODEL_FILES = (
    "model.safetensors",
    "schema.json",
    "rows.safetensors",
    "calibration.safetensors",
    "baselines.safetensors",
    "annealing.safetensors",
    "history.jsonl",
    "evaluation.json",
)
ROWS_SAMPLED_AT_ONCE = 4096
# Of rows that are sparse or in a file, so many are in memory as the model sees them.
ROWS_ENCODED = 4096
HELD_OUT_ROWS = "held-out rows (they chose the weights)"
CALIBRATION_ROWS = "held-out rows (they chose nothing)"


@final
@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A fitted model as a user holds it: the VAE, how rows become tensors, and its record.

    Methods take rows in any form that ``unveil.fit`` takes (a file, a frame, an array) and answer
    in the data's own units.
    """

    vae: VAE
    schema: Schema
    covariates: Covariates
    settings: Settings
    baselines: Baselines
    sizes: Sizes
    train_digests: NDArray[np.uint64]
    held_out_digests: NDArray[np.uint64]
    calibration_digests: NDArray[np.uint64]
    calibration: Calibration
    intervals: Intervals
    seen: Conditions
    history: History
    evaluation: Evaluation
    ending: str
    made_by: Mapping[str, Any]
    device: torch.device

    def __repr__(self) -> str:
        return (
            f"Fitted VAE with {self.vae.num_latents} latents of {self.settings.source}: "
            f"{self.settings.rows} rows of {self.schema.dims} cells, {self.ending}\n"
            f"{self.evaluation.lower}, on {self.evaluation.rows} {self.evaluation.split}"
            + "".join(f"\nwarning: {warning}" for warning in self.evaluation.warnings)
        )

    # Rows as the model sees them

    def rows(self, data: Any, unseen: str = "error", *, label: Collection[str] = ()) -> Rows:
        """Any data as rows whose columns are the model's; a ``label`` rides along as at fit.

        Raises InputError where they are not, and for a word that was never seen in training, unless
        ``unseen`` has it read as "missing".
        """
        return fits(self.schema, self.read(data, label=label), unseen)

    def read(self, data: Any, *, label: Collection[str] = ()) -> Rows:
        """Any data as rows, before they are held against the model's columns; a ``label`` rides
        along as at fit."""
        asked = self.settings.request
        brought = self.covariates.brought
        return read_again(data, label=(*asked.label, *label), drop=asked.drop, given=brought)

    def tensor(self, data: Any) -> Tensor:
        """Rows in model units, float32 (row, *event); grey levels read as probabilities are drawn
        once, as a function of the model's seed and of the row."""
        return self.tensors(data)[0]

    def given(self, data: Any) -> Tensor | None:
        """The rows' covariates as the model sees them, (row, covariate); None without any.

        Raises InputError for a covariate that is missing, or that the model has never seen.
        """
        return to_given(self.covariates, self.rows(data), self.device)

    def tensors(self, data: Any) -> tuple[Tensor, Tensor | None]:
        """Rows as ``tensor`` and as ``given`` has them, read once."""
        return self._seen(self.rows(data))

    def _seen(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        """What the model sees of rows."""
        return to_tensors(self.schema, self.covariates, rows, self.settings.seed, self.device)

    # Questions

    def evaluate(
        self,
        data: Any,
        *,
        draws: int | None = None,
        delta: float | None = None,
        budget: float | None = None,
        effort: Effort | None = None,
        seed: int = 0,
        on_part: Callable[[float], None] = lambda fraction: None,
    ) -> Evaluation:
        """Bounds with guarantees on rows that the model was not trained on, nats per row.

        On data that the model has seen, its held-out rows are used and ``split`` says so; where
        some rows are new, the new ones. ``draws`` of q(z|x), 1000 unless named, are taken of every
        row; how much annealing and diagnosing is done suits the model, or takes about ``budget``
        seconds. The interval is certified at 1 − ``delta``, 0.05 unless named, where both its ends
        are, and so is the one of simulated rows. All of that may come as ``effort`` instead, such
        as an earlier evaluation's ``settings``. Raises InputError when no row is left, for draws <
        1, for a delta or a budget out of range, and for any of them beside an ``effort``.
        """
        asked = _asked(draws, delta, budget) if effort is None else effort
        if effort is not None and any(named is not None for named in (draws, delta, budget)):
            raise InputError(
                "expected an effort alone, which settles draws, delta and budget, but one of them "
                "came as well; leave it out, or make it the effort's: replace(effort, draws=500)"
            )
        given_rows = self.rows(data)
        keys = digests_of(given_rows, self.covariates)
        rows, which = self._rows_to_judge(given_rows, keys)
        seen = self._rows_trained_on(given_rows, keys)
        case = Case(
            vae=self.vae,
            schema=self.schema,
            covariates=self.covariates,
            baselines=self.baselines,
            seed=self.settings.seed,
        )
        subject = replace(
            case.subject(rows, seed=seed, split=which),
            training=None if seen is None else case.trained_on(seen, seed=seed),
        )
        if effort is None:
            of = self.vae, subject.x, subject.given
            asked = asked.of_usual(*of) if budget is None else asked.within(budget, *of)
        return cross_examine(case, subject, asked, self.sizes, on_part=on_part)

    def infer(self, data: Any) -> Inference:
        """p(z|x) of rows, as something to work with: refined, drawn from, weighed.

        >>> import unveil
        >>> fitted = unveil.fit(np.random.default_rng(0).normal(size=(60, 3)), latent=1, epochs=2)
        >>> fitted.infer(np.zeros((2, 3))).draw(100).shape
        torch.Size([100, 2, 1])
        """
        x, given = self.tensors(data)
        return Inference(self.vae, x, given, self.sizes)

    def _rows_trained_on(self, rows: Rows, keys: NDArray[np.uint64]) -> Rows | None:
        """Those of the rows, which ``keys`` tell apart, that the model was trained on, so many at
        most as are looked at."""
        (seen,) = among(keys, self.train_digests).nonzero()
        few = seen[np.lexsort(keys[seen].T[::-1])][:ROWS_PER_TILE]
        return rows.take(few) if len(few) > 1 else None

    def _rows_to_judge(self, rows: Rows, keys: NDArray[np.uint64]) -> tuple[Rows, str]:
        """The rows that a fair number may use, and what to call them."""
        trained, chose, calibrated = (
            among(keys, seen)
            for seen in (self.train_digests, self.held_out_digests, self.calibration_digests)
        )
        new = ~(trained | chose | calibrated)
        if new.all():
            return rows, "unseen rows"
        if new.any():
            return rows.take(new), f"unseen rows ({int((~new).sum())} seen in fitting left out)"
        if calibrated.any():
            return rows.take(calibrated), CALIBRATION_ROWS
        if chose.any():
            return rows.take(chose), HELD_OUT_ROWS
        raise InputError(
            "expected rows that the model was not trained on, but every one was; give other "
            "rows to judge it by"
        )

    def encode(self, data: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Means and standard deviations of q(z|x), (row, latent) each."""
        mean, sd = self._moments(self.rows(data))
        return mean.double().cpu().numpy(), sd.double().cpu().numpy()

    def reconstruct(self, data: Any) -> Any:
        """E[x|z] at the posterior mean of z, in the data's units: an array (row, *event), or a
        frame of the kind that the model was fitted to, where classes are the most probable ones."""
        return as_it_came(self.reconstructed(data))

    def reconstructed(self, data: Any) -> Rows:
        """The rows that ``reconstruct`` makes, their labels and covariates beside."""
        rows = self.rows(data)
        given = to_given(self.covariates, rows, self.device)
        values = self._expected(self._moments(rows)[0], given)
        return measured(self.schema, values, rows.labels, rows.given)

    def decode(self, z: Any, *, given: Mapping[str, Any] | None = None) -> Any:
        """E[x|z] of latents z (row, latent), in the data's units, as ``reconstruct`` gives it.

        It is the way back from the means of ``encode``. ``given`` is one value for each covariate
        of a conditional model. Raises InputError for latents that are not finite or not as many as
        the model's, and as ``sample`` does for ``given``.

        >>> import unveil
        >>> fitted = unveil.fit(np.random.default_rng(0).normal(size=(60, 3)), latent=1, epochs=2)
        >>> fitted.decode([[-1.0], [1.0]]).shape
        (2, 3)
        """
        latents, of = np.asarray(z, np.float64), self.vae.num_latents
        if latents.ndim != 2 or latents.shape[1] != of or not np.isfinite(latents).all():
            raise InputError(
                f"expected finite latents of shape (row, {of}), but an array of shape "
                f"{latents.shape} came; give them as encode returns means"
            )
        point = torch.from_numpy(latents).float().to(self.device)
        values = self._expected(point, self._same_given(given or {}, len(point)))
        return as_it_came(measured(self.schema, values))

    def _moments(self, rows: Rows) -> tuple[Tensor, Tensor]:
        parts = [
            posterior_moments(self.vae, *self._seen(rows.take(slice(first, first + ROWS_ENCODED))))
            for first in range(0, len(rows), ROWS_ENCODED)
        ]
        means, sds = zip(*parts, strict=True)
        return torch.cat(means), torch.cat(sds)

    def score(
        self,
        data: Any,
        *,
        why: bool = False,
        top: int | None = None,
        kind: str = EVIDENCE,
        draws: int = DRAWS_OF_SCORE,
        most_weighed: int = MOST_WEIGHED,
        seed: int = 0,
        on_part: Callable[[float], None] = lambda fraction: None,
    ) -> Scores:
        """How usual each row is: log-evidence, and a p-value beside rows kept apart at fit.

        ``kind`` is what is compared: evidence, reconstruction or typicality. With ``why`` the odd
        cells of each row are named, or of the ``top`` most unusual rows alone; that is a heuristic.
        A row with a cell that its column cannot hold, such as a word never seen, has log-evidence
        −inf and the least p-value.
        Raises InputError for an unknown kind, for draws or top below 1, for ``top`` without
        ``why``, and for ``why`` of rows that are no table.

        >>> import unveil
        >>> table = np.random.default_rng(0).normal(size=(400, 3))
        >>> fitted = unveil.fit(table, latent=1, epochs=2)
        >>> scores = fitted.score(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 99.0]]), why=True)
        >>> scores.p_value.round(3), scores.why[1][0].column
        (array([1.   , 0.048]), 'x2')
        """
        if top is not None and top < 1:
            raise InputError(f"expected at least 1 row to explain, but {top} came; give more")
        if top is not None and not why:
            raise InputError(
                "expected --top, of how many rows odd cells are named, beside --why, but it came "
                "alone; ask why as well, or leave it out"
            )
        if why:
            require_table(self.schema)
        rows, beyond = without_impossible(self.schema, self.read(data))
        x, given = self._seen(rows)
        never = torch.tensor([row in beyond for row in range(len(x))])
        share = 0.5 if why else 1.0
        scores = score_rows(
            self.vae, x, self.calibration, given=given, impossible=never, kind=kind,
            num_samples=draws, most_weighed=most_weighed, seed=seed,
            on_part=lambda part: on_part(share * part),
        )  # fmt: skip
        if beyond:
            told = f"{len(beyond)} rows hold what their columns cannot: log p(x) is −∞ there"
            scores = replace(scores, notes=(*scores.notes, told))
        trained = int(among(digests_of(rows, self.covariates), self.train_digests).sum())
        if trained:
            told = f"{trained} rows were trained on: their p-values are too large"
            scores = replace(scores, notes=(*scores.notes, told))
        if not why:
            return scores
        told_of = np.argsort(scores.score, kind="stable")[:top]
        found = odd_cells(
            self.vae, self.schema, x[told_of], self.calibration,
            given=None if given is None else given[told_of],
            num_samples=draws, seed=seed, on_part=lambda part: on_part(0.5 + 0.5 * part),
        )  # fmt: skip
        by_row = {
            row: (*impossible_cells(self.schema, beyond.get(row, {})), *odd)
            for row, odd in zip(told_of.tolist(), found, strict=True)
        }
        return replace(scores, why=tuple(by_row.get(row, ()) for row in range(len(x))))

    def compare_scores(self, *, draws: int = DRAWS_OF_SCORE, seed: int = 0) -> dict[str, float]:
        """The AUROC with which each kind of score tells the rows kept apart at fit from the same
        rows with cells exchanged between them.

        Raises InputError where no rows were kept: of pictures, or of too small a table.
        """
        kept = self.calibration
        if not isinstance(kept, KeptRows):
            raise InputError(
                "expected a model that kept rows apart to compare scores on, but of pictures it "
                "keeps none; compare them by unveil.scoring.comparison.compare_scores on rows of "
                "your own"
            )
        return compare_scores(self.vae, kept.x, given=kept.given, num_samples=draws, seed=seed)

    def tells_odd_rows(
        self, data: Any, label: str, *, draws: int = DRAWS_OF_SCORE, seed: int = 0
    ) -> Telling:
        """How well each kind of score tells rows that ``label`` marks as odd, 1, from others, 0.

        It is said afterwards, and decides nothing: scores never see a label. Raises InputError for
        a label that is not there or says anything else, and where all rows are of one side.

        >>> import pyarrow as pa, unveil
        >>> x = np.random.default_rng(0).normal(size=60)
        >>> fitted = unveil.fit(pa.table({"x": x, "y": x[::-1]}), latent=1, epochs=1)
        >>> marked = pa.table({"x": [0.0, 0.1, 9.0, 8.0], "y": [0.0, 0.1, 9.0, 9.0],
        ...                    "odd": [0, 0, 1, 1]})
        >>> fitted.tells_odd_rows(marked, "odd").by_kind["evidence"].auroc.value
        1.0
        """
        rows = self.read(data, label=(label,))
        odd = marked_odd(rows, label)
        known = rows.take(~np.isnan(odd))
        scores = {
            kind: self.score(known, kind=kind, draws=draws, seed=seed).score for kind in KINDS
        }
        # Typicality has no value beside too few calibration rows.
        whole = {kind: of for kind, of in scores.items() if not np.isnan(of).any()}
        return telling(whole, odd[~np.isnan(odd)] == 1, seed)

    def impute(
        self,
        data: Any,
        *,
        draws: int | None = None,
        intervals: float | None = None,
        unseen: str = "error",
        shift: float | Mapping[str, float] = 0.0,
        seed: int = 0,
    ) -> Any:
        """The rows with their gaps filled, as the kind of frame or array that they came in.

        Observed cells stay as they are, bit for bit. With ``intervals`` at a level the columns
        COL_lo and COL_hi are added for each column with gaps; with ``draws`` that many completed
        tables stand below one another, told apart by a column ``draw``, or along the first axis of
        an array. What is assumed, the probabilities of classes, and warnings are those of
        ``imputation``, which also says what is raised; besides, InputError for intervals of an
        array, whose columns have no names.

        >>> import unveil
        >>> table = np.random.default_rng(0).normal(size=(60, 2)) @ [[1.0, 0.9], [0.0, 0.1]]
        >>> fitted = unveil.fit(table, latent=1, epochs=2)
        >>> fitted.impute(np.array([[1.5, np.nan], [0.5, -0.5]])).shape
        (2, 2)
        """
        return self.imputation(
            data, draws=draws, intervals=intervals, unseen=unseen, shift=shift, seed=seed
        ).as_they_came()

    def imputation(
        self,
        data: Any,
        *,
        draws: int | None = None,
        intervals: float | None = None,
        unseen: str = "error",
        shift: float | Mapping[str, float] = 0.0,
        seed: int = 0,
        on_part: Callable[[float], None] = lambda fraction: None,
    ) -> Imputation:
        """What fills the gaps of rows, and how sure that is, from the observed cells of each row.

        Values are E[x_j|observed], or the most probable class; ``draws`` are of p(missing|observed)
        for every row anew; ``intervals`` are calibrated on cells that were hidden at fit, as
        ``self.intervals`` says. Cells are taken to be missing at random; ``shift`` moves what fills
        gaps of number columns by so many of the column's standard deviations, for an analysis of
        data that are not. A word that was never seen is an error, or, where ``unseen`` is
        "missing", a gap like others. Raises InputError for less than one draw, a level outside
        (0, 1), and shifts of columns that there are not or that hold no numbers.

        >>> import unveil
        >>> table = np.random.default_rng(0).normal(size=(60, 2)) @ [[1.0, 0.9], [0.0, 0.1]]
        >>> fitted = unveil.fit(table, latent=1, epochs=2)
        >>> found = fitted.imputation(np.array([[1.5, np.nan]]), intervals=0.9)
        >>> bool(found.low[0, 1] < found.values[0, 1] < found.high[0, 1]), found.filled
        (True, {'x1': 1})
        """
        rows = self.rows(data, unseen)
        return impute(
            self.vae,
            self.schema,
            rows,
            *self._seen(rows),
            self.intervals,
            within=self.within,
            draws=draws,
            level=intervals,
            shift=shift,
            seed=seed,
            on_part=on_part,
        )

    @property
    def within(self) -> Within:
        """Where what is made up may lie: numbers of a table between the ends that were seen."""
        if self.schema.shared:
            return ANYWHERE
        low, high = values_seen(self.schema, self.seen)
        return Within(drawn=partial(draw_within, self.seen), low=low, high=high)

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        given: Mapping[str, Any] | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> Any:
        """n new rows x ~ p(x|z), z ~ p(z), in the data's units: an array (row, *event), or a frame
        of the kind that the model was fitted to.

        Numbers of a table are drawn within the range of the rows given to fit, where the likelihood
        is cut off. ``given`` is one value for each covariate of a conditional model; a row's
        total is the usual one unless it is given. ``where`` are conditions on columns that are
        modelled, a value or a pair of ends each; ``sample_where`` says more of such rows. Raises
        InputError for n < 1, for covariates that are missing or that the model has never seen, and
        as ``sample_where`` does.
        """
        if where:
            return self.sample_where(n, where, seed=seed, given=given)[0]
        return as_it_came(self.sampled(n, seed=seed, given=given))

    def sampled(self, n: int, *, seed: int = 0, given: Mapping[str, Any] | None = None) -> Rows:
        """The rows that ``sample`` makes, their covariates beside."""
        _require_rows(n)
        randomness = generator(seed, "sample", device=self.device)
        made = self._made(n, self._same_given(given or {}, n), randomness)
        draws = [draw_within(self.seen, likelihood, randomness) for likelihood in made]
        values = self._decode(torch.cat(draws))
        return measured(self.schema, values, given=self._repeated(given, n))

    def sample_where(
        self,
        n: int,
        where: Mapping[str, Any],
        *,
        seed: int = 0,
        given: Mapping[str, Any] | None = None,
    ) -> tuple[Any, Conditioned]:
        """n new rows that meet conditions, as ``sample`` gives them, and what stands behind them.

        ``where`` maps a column's name to the value that it must have, or to a pair of ends that it
        must lie between, None for an open one. Raises InputError for an unknown column, a value
        that it cannot have, conditions that the model finds impossible, and where too few
        effective draws stand behind n rows.

        >>> import unveil
        >>> table = np.random.default_rng(0).normal(size=(60, 2))
        >>> fitted = unveil.fit(table, latent=1, epochs=2)
        >>> values, _ = fitted.sample_where(3, {"x0": 0.5, "x1": (0, None)})
        >>> values[:, 0].tolist(), bool((values[:, 1] >= 0).all())
        ([0.5, 0.5, 0.5], True)
        """
        rows, drawn = self.sampled_where(n, where, seed=seed, given=given)
        return as_it_came(rows), drawn

    def sampled_where(
        self,
        n: int,
        where: Mapping[str, Any],
        *,
        seed: int = 0,
        given: Mapping[str, Any] | None = None,
    ) -> tuple[Rows, Conditioned]:
        """The rows that ``sample_where`` makes, their covariates beside."""
        asked = conditions(self.schema, where).to(self.device)
        c = self._same_given(given or {}, 1)
        drawn = sample_where(self.vae, asked, n, seen=self.seen, given=c, seed=seed)
        values = fulfilled(self.schema, where, drawn.x)
        return measured(self.schema, values, given=self._repeated(given, n)), drawn

    def sample_like(
        self, data: Any, *, seed: int = 0
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """As many new rows as these, each under the covariates of one of them: what its z makes
        expected, E[x|z], and the draw x ~ p(x|z)."""
        rows = self.rows(data)
        _require_rows(len(rows))
        randomness = generator(seed, "sample", device=self.device)
        means, draws = [], []
        given = to_given(self.covariates, rows, self.device)
        for likelihood in self._made(len(rows), given, randomness):
            means.append(likelihood.mean)
            draws.append(draw(likelihood, (), randomness))
        return self._decode(torch.cat(means)), self._decode(torch.cat(draws))

    def sample_report(
        self,
        drawn: Any,
        data: Any,
        *,
        target: str | None = None,
        seed: int = 0,
        on_part: Callable[[float], None] = lambda fraction: None,
    ) -> SynthesisReport:
        """Drawn rows beside real ones: fidelity, utility, detection, nearness, copies.

        ``data`` are real rows, some that the model was trained on and some that it was not, told
        apart by digest; ``target`` is the column to be learned from drawn rows. Nothing in it is a
        formal privacy guarantee. Raises InputError where there are no rows of either kind, for a
        model that is conditional or of no table, and for an unknown target.

        >>> import unveil
        >>> table = np.random.default_rng(0).normal(size=(200, 2)).round(1)
        >>> fitted = unveil.fit(table, latent=1, epochs=2)
        >>> found = fitted.sample_report(fitted.sample(200), table, target="x1")
        >>> found.training + found.held_out, found.copies.rows, found.utility.target
        (200, 200, 'x1')
        """
        if self.covariates.names:
            raise InputError(
                f"expected a model of all its columns, but this one is conditioned on "
                f"{listed(self.covariates.names)}, under one value of which rows are drawn while "
                f"real ones have many; leave the report out"
            )
        rows = self.rows(data)
        trained = among(digests_of(rows, self.covariates), self.train_digests)
        sides = trial(
            self.schema, rows.take(trained), rows.take(~trained), self.rows(drawn), seed=seed
        )
        return report(sides, target=target, on_part=on_part)

    def _made(
        self, n: int, given: Tensor | None, randomness: torch.Generator
    ) -> Iterator[Distribution]:
        """p(x|z) of n draws z ~ p(z), some at a time."""
        with torch.no_grad():
            for first in range(0, n, ROWS_SAMPLED_AT_ONCE):
                some = slice(first, min(n, first + ROWS_SAMPLED_AT_ONCE))
                c = None if given is None else given[some]
                prior = self.vae.prior(c)
                shape = () if prior.batch_shape else (some.stop - some.start,)
                yield self.vae.likelihood(draw(prior, shape, randomness), c)

    def _same_given(self, given: Mapping[str, Any], n: int) -> Tensor | None:
        """One value for each covariate, as the model sees them, the same for n rows."""
        unknown = [name for name in given if name not in self.covariates.names]
        if unknown:
            raise InputError(
                f"expected values for the covariates that the model is conditioned on "
                f"({listed(self.covariates.names) or 'none'}), but {listed(unknown)} came; leave "
                "it out, or correct its name"
            )
        told = {*self.covariates.usual, *given}
        lacking = [name for name in self.covariates.names if name not in told]
        if lacking:
            raise InputError(
                f"expected a value for each covariate that the model is conditioned on, but "
                f"{listed(lacking)} is lacking; give it, as --where {lacking[0]}=VALUE does"
            )
        columns = {
            name: np.array([value if isinstance(value, int | float | np.number) else str(value)])
            for name, value in given.items()
        }
        usual = {name: np.array([value]) for name, value in self.covariates.usual.items()}
        one = Rows(np.zeros((1, 1)), given=usual | columns, source="what is given")
        c = to_given(self.covariates, one, self.device)
        return None if c is None else c.expand(n, -1)

    def _repeated(self, given: Mapping[str, Any] | None, n: int) -> dict[str, NDArray[Any]]:
        """The value of each covariate n times, beside n rows."""
        values = {**self.covariates.usual, **(given or {})}
        return {name: np.full(n, value) for name, value in values.items()}

    def interpolate(self, data: Any, start: int, end: int, steps: int = 10) -> Any:
        """E[x|z] along the prior's path between the posterior means of two rows: an array
        (step, *event), or a frame of the kind that the model was fitted to.

        A conditional model goes from the one row's covariates to the other's in a straight line.
        Rows count from 0. Raises InputError for a row that is not there or fewer than two steps.
        """
        return as_it_came(self.interpolated(data, start, end, steps))

    def interpolated(self, data: Any, start: int, end: int, steps: int = 10) -> Rows:
        """The rows that ``interpolate`` makes."""
        rows = self.rows(data)
        for row in (start, end):
            if not 0 <= row < len(rows):
                raise InputError(
                    f"expected a row from 0 to {len(rows) - 1}, but {row} came; rows count from 0"
                )
        if steps < 2:
            raise InputError(f"expected at least 2 steps, but {steps} came; give more")
        both = rows.take([start, end])
        ends, c = self._moments(both)[0], to_given(self.covariates, both, self.device)
        between = (
            None
            if c is None
            else torch.lerp(c[0], c[1], torch.linspace(0, 1, steps)[:, None].to(c))
        )
        path = self.vae.p_z.path(ends[0], ends[1], steps)
        return measured(self.schema, self._expected(path, between))

    def _expected(self, z: Tensor, given: Tensor | None) -> NDArray[np.float64]:
        """E[x|z] of each row of z (row, latent), bitwise a function of the row."""
        with torch.no_grad(), RowsAlike():
            parts = [
                self.vae.likelihood(tile.x, tile.given).mean[: tile.count]
                for tile in tiles(z, given)
            ]
        return self._decode(torch.cat(parts))

    def _decode(self, x: Tensor) -> NDArray[np.float64]:
        return decode(self.schema, x.cpu().numpy())

    # The saved folder

    def save(self, folder: str | Path) -> None:
        """Write the model as a folder of safetensors and JSON that a person can read.

        The folder is never half written: it is filled beside its place and then moved into it.
        Raises InputError when ``folder`` is a file.
        """
        replace_folder(Path(folder), self.write_into)

    def write_into(self, folder: Path) -> None:
        """Write the model's files into an existing folder."""
        write_tensors(folder / "model.safetensors", self.vae.state_dict())
        measured = self.schema.to_document() | {"given": self.covariates.to_document()}
        write_document(folder / "schema.json", measured)
        seen = {
            "train": self.train_digests,
            "held_out": self.held_out_digests,
            "calibration": self.calibration_digests,
        }
        write_tensors(
            folder / "rows.safetensors",
            {name: torch.from_numpy(keys.view(np.int64)) for name, keys in seen.items()}
            | self.intervals.tensors()
            | {"seen_low": self.seen.low, "seen_high": self.seen.high},
        )
        write_tensors(folder / "calibration.safetensors", self.calibration.tensors())
        write_tensors(folder / "baselines.safetensors", self.baselines.tensors())
        write_tensors(folder / "annealing.safetensors", self.sizes.tensors())
        write_lines(folder / "history.jsonl", self.history)
        write_document(folder / "evaluation.json", self.evaluation.document())
        facts = {**self.made_by, "ending": self.ending}
        document = {
            "format_version": FORMAT_VERSION,
            **facts,
            "settings": self.settings.document(),
            "sha256": manifest(folder, MODEL_FILES),
        }
        document["sha256"]["model.json"] = _own_digest(document)
        write_document(folder / "model.json", document)
        if self.intervals.says(TOLD_LEVEL):
            facts["intervals of imputed cells"] = self.intervals.sentence(TOLD_LEVEL)
        text = card(self.settings, self.schema, self.evaluation, facts)
        write_bytes(folder / "README.md", text.encode())


def _require_rows(n: int) -> None:
    if n < 1:
        raise InputError(f"expected at least 1 row to sample, but {n} came; give more")


def _asked(draws: int | None, delta: float | None, budget: float | None) -> Effort:
    """The usual effort but for what is named, before it is settled for a model and its rows."""
    try:
        asked = Effort(
            draws=Effort.draws if draws is None else draws,
            delta=Effort.delta if delta is None else delta,
        )
        if budget is not None:
            require_budget(budget)
    except ValueError as error:
        raise InputError(str(error)) from error
    return asked


def load(folder: str | Path, device: str | torch.device = "cpu") -> Fitted:
    """The model that was saved in a folder, its files verified against their checksums.

    Raises InputError for a folder that is no model, was altered or is incomplete, or was written
    by an unveil of another format.
    """
    folder = Path(folder)
    recover(folder)
    if not (folder / "model.json").is_file():
        raise InputError(
            f"expected a fitted model in {folder}, but there is no model.json in it; name the "
            "folder that unveil fit wrote"
        )
    document = read_document(folder / "model.json")
    if document.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"expected a model of format_version {FORMAT_VERSION} in {folder}, but "
            f"{document.get('format_version')} came; use the unveil that wrote it "
            f"({document.get('unveil')})"
        )
    try:
        if document["sha256"]["model.json"] != _own_digest(document):
            raise InputError(
                f"{folder / 'model.json'} is not the file that was saved: its contents changed "
                "since; restore the folder from a copy, or fit again"
            )
        verify(folder, {name: document["sha256"][name] for name in MODEL_FILES})
        return _read(folder, document, torch.device(device))
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"expected the files in {folder} to be as unveil wrote them, but they do not fit "
            f"together ({error!r}); restore them from a copy, or fit the model again"
        ) from error


def _own_digest(document: Mapping[str, Any]) -> str:
    """A checksum of model.json: of all that it says but the checksum itself."""
    others = {k: v for k, v in document["sha256"].items() if k != "model.json"}
    text = json.dumps({**document, "sha256": others}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(folder: Path, document: dict[str, Any], device: torch.device) -> Fitted:
    settings = Settings.from_document(document["settings"])
    measured = read_document(folder / "schema.json")
    schema = Schema.from_document(measured)
    vae = build(schema, settings.architecture, settings.seed)
    vae = with_lasting_prior(vae, settings.architecture)
    vae.load_state_dict(read_tensors(folder / "model.safetensors"))
    seen = read_tensors(folder / "rows.safetensors")
    return Fitted(
        vae=vae.to(device),
        schema=schema,
        covariates=Covariates.from_document(measured["given"]),
        settings=settings,
        baselines=Baselines.from_tensors(read_tensors(folder / "baselines.safetensors")),
        sizes=Sizes(**read_tensors(folder / "annealing.safetensors")).to(device),
        train_digests=seen["train"].numpy().view(np.uint64),
        held_out_digests=seen["held_out"].numpy().view(np.uint64),
        calibration_digests=seen["calibration"].numpy().view(np.uint64),
        calibration=calibration_from(read_tensors(folder / "calibration.safetensors"), device),
        intervals=Intervals.from_tensors(seen),
        seen=replace(Conditions.none(schema.dims), low=seen["seen_low"], high=seen["seen_high"]).to(
            device
        ),
        history=read_lines(folder / "history.jsonl"),
        evaluation=Evaluation.from_document(read_document(folder / "evaluation.json")),
        ending=document["ending"],
        made_by={name: document[name] for name in made_here()},
        device=device,
    )
