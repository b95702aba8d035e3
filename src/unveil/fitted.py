"""Fitted: one model, the schema it reads rows by, and the record of how it came about."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unveil.baselines import Baselines
from unveil.build import build, with_lasting_prior
from unveil.card import card
from unveil.data.covariates import Covariates
from unveil.data.encode import decode, fits
from unveil.data.read import Rows, listed, read_again
from unveil.data.schema import Schema
from unveil.distributions import draw
from unveil.errors import InputError
from unveil.evaluation import Evaluation
from unveil.evidence.effort import Effort, require_budget
from unveil.evidence.tuning import Sizes
from unveil.feed import digests_of, to_given, to_tensors
from unveil.inference import Inference
from unveil.judge import cross_examine
from unveil.latent import VAE
from unveil.noise import generator
from unveil.settings import Settings
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
from unveil.tiles import ROWS_PER_TILE, RowsAlike, tiles
from unveil.training import History
from unveil.units import posterior_moments

FORMAT_VERSION = 2
# The files that are never rewritten; model.json holds their checksums, and its own.
MODEL_FILES = (
    "model.safetensors",
    "schema.json",
    "rows.safetensors",
    "baselines.safetensors",
    "annealing.safetensors",
    "history.jsonl",
    "evaluation.json",
)
# Draws of z per row when a model is evaluated, unless asked for otherwise.
DRAWS = 1000
# The chance with which an interval may fail where both its ends are certified.
DELTA = 0.05
ROWS_SAMPLED_AT_ONCE = 4096
HELD_OUT_ROWS = "held-out rows (they chose the weights)"


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
    history: History
    evaluation: Evaluation
    ending: str
    device: torch.device

    def __repr__(self) -> str:
        return (
            f"Fitted VAE with {self.vae.num_latents} latents of {self.settings.source}: "
            f"{self.settings.rows} rows of {self.schema.dims} cells, {self.ending}\n"
            f"{self.evaluation.lower}, on {self.evaluation.rows} {self.evaluation.split}"
            + "".join(f"\nwarning: {warning}" for warning in self.evaluation.warnings)
        )

    # Rows as the model sees them

    def rows(self, data: Any) -> Rows:
        """Any data as rows whose columns are the model's. Raises InputError where they are not."""
        asked = self.settings.request
        rows = read_again(data, label=asked.label, drop=asked.drop, given=asked.covariates)
        return fits(self.schema, rows)

    def tensor(self, data: Any) -> Tensor:
        """Rows in model units, float32 (row, *event); grey levels read as probabilities are drawn
        once, as a function of the model's seed and of the row."""
        return self._seen(self.rows(data))[0]

    def given(self, data: Any) -> Tensor | None:
        """The rows' covariates as the model sees them, (row, covariate); None without any.

        Raises InputError for a covariate that is missing, or that the model has never seen.
        """
        return self._seen(self.rows(data))[1]

    def _seen(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        """What the model sees of rows."""
        return to_tensors(self.schema, self.covariates, rows, self.settings.seed, self.device)

    # Questions

    def evaluate(
        self,
        data: Any,
        *,
        draws: int = DRAWS,
        delta: float = DELTA,
        budget: float | None = None,
        effort: Effort | None = None,
        seed: int = 0,
        on_part: Callable[[float], None] = lambda fraction: None,
    ) -> Evaluation:
        """Bounds with guarantees on rows that the model was not trained on, nats per row.

        On data that the model has seen, its held-out rows are used and ``split`` says so; where
        some rows are new, the new ones. ``draws`` of q(z|x) are taken of every row; how much
        annealing and diagnosing is done suits the model, or takes about ``budget`` seconds, or is
        ``effort``, such as an earlier evaluation's ``settings``. The interval is certified at 1 −
        ``delta`` where both its ends are, and so is the one of simulated rows. Raises InputError
        when no row is left, for draws < 1, and for a delta or a budget out of range.
        """
        try:
            asked = Effort(draws=draws, delta=delta)
            if budget is not None:
                require_budget(budget)
        except ValueError as error:
            raise InputError(str(error)) from error

        def settle(vae: VAE, x: Tensor, given: Tensor | None) -> Effort:
            if effort is not None:
                return effort
            return (
                asked.of_usual(vae, x, given)
                if budget is None
                else asked.within(budget, vae, x, given)
            )

        given_rows = self.rows(data)
        rows, which = self._rows_to_judge(given_rows)
        return cross_examine(
            self.vae,
            self.schema,
            self.covariates,
            self.baselines,
            rows,
            self._rows_trained_on(given_rows),
            self.sizes,
            settle,
            binarisation_seed=self.settings.seed,
            seed=seed,
            split=which,
            on_part=on_part,
        )

    def infer(self, data: Any) -> Inference:
        """p(z|x) of rows, as something to work with: refined, drawn from, weighed.

        >>> import unveil
        >>> fitted = unveil.fit(np.random.default_rng(0).normal(size=(60, 3)), latent=1, epochs=2)
        >>> fitted.infer(np.zeros((2, 3))).draw(100).shape
        torch.Size([100, 2, 1])
        """
        x, given = self._seen(self.rows(data))
        return Inference(self.vae, x, given, self.sizes)

    def _rows_trained_on(self, rows: Rows) -> Rows | None:
        """Those of the rows that the model was trained on, so many at most as are looked at."""
        trained = {tuple(key) for key in self.train_digests.tolist()}
        keys = [tuple(key) for key in digests_of(rows, self.covariates).tolist()]
        seen = [i for _, i in sorted((key, i) for i, key in enumerate(keys) if key in trained)]
        return rows.take(np.array(seen[:ROWS_PER_TILE])) if len(seen) > 1 else None

    def _rows_to_judge(self, rows: Rows) -> tuple[Rows, str]:
        """The rows that a fair number may use, and what to call them."""
        keys = [tuple(key) for key in digests_of(rows, self.covariates).tolist()]
        trained = {tuple(key) for key in self.train_digests.tolist()}
        held_out = {tuple(key) for key in self.held_out_digests.tolist()}
        new = np.array([key not in trained and key not in held_out for key in keys])
        if new.all():
            return rows, "unseen rows"
        if new.any():
            return rows.take(new), f"unseen rows ({int((~new).sum())} seen in fitting left out)"
        kept = np.array([key in held_out for key in keys])
        if not kept.any():
            raise InputError(
                "expected rows that the model was not trained on, but every one was; give other "
                "rows to judge it by"
            )
        return rows.take(kept), HELD_OUT_ROWS

    def encode(self, data: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Means and standard deviations of q(z|x), (row, latent) each."""
        mean, sd = self._moments(self.rows(data))
        return mean.double().cpu().numpy(), sd.double().cpu().numpy()

    def reconstruct(self, data: Any) -> NDArray[np.float64]:
        """E[x|z] at the posterior mean of z, in the data's units, (row, *event)."""
        rows = self.rows(data)
        return self._expected(self._moments(rows)[0], self._seen(rows)[1])

    def _moments(self, rows: Rows) -> tuple[Tensor, Tensor]:
        return posterior_moments(self.vae, *self._seen(rows))

    def sample(
        self, n: int, *, seed: int = 0, given: Mapping[str, Any] | None = None
    ) -> NDArray[np.float64]:
        """n new rows x ~ p(x|z), z ~ p(z), in the data's units, (row, *event).

        ``given`` is one value for each covariate of a conditional model. Raises InputError for
        n < 1, and for covariates that are missing or that the model has never seen.
        """
        return self._sample(n, self._same_given(given or {}, n), seed)[1]

    def sample_like(
        self, data: Any, *, seed: int = 0
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """As many new rows as these, each under the covariates of one of them: what its z makes
        expected, E[x|z], and the draw x ~ p(x|z)."""
        rows = self.rows(data)
        return self._sample(len(rows), self._seen(rows)[1], seed)

    def _sample(
        self, n: int, given: Tensor | None, seed: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if n < 1:
            raise InputError(f"expected at least 1 row to sample, but {n} came; give more")
        randomness = generator(seed, "sample", device=self.device)
        means, draws = [], []
        with torch.no_grad():
            for first in range(0, n, ROWS_SAMPLED_AT_ONCE):
                some = slice(first, min(n, first + ROWS_SAMPLED_AT_ONCE))
                c = None if given is None else given[some]
                prior = self.vae.prior(c)
                shape = () if prior.batch_shape else (some.stop - some.start,)
                z = draw(prior, shape, randomness)
                likelihood = self.vae.likelihood(z, c)
                means.append(self._decode(likelihood.mean))
                draws.append(self._decode(draw(likelihood, (), randomness)))
        return np.concatenate(means), np.concatenate(draws)

    def _same_given(self, given: Mapping[str, Any], n: int) -> Tensor | None:
        """One value for each covariate, as the model sees them, the same for n rows."""
        unknown = [name for name in given if name not in self.covariates.names]
        if unknown:
            raise InputError(
                f"expected values for the covariates that the model is conditioned on "
                f"({listed(self.covariates.names) or 'none'}), but {listed(unknown)} came; leave "
                "it out, or correct its name"
            )
        columns = {
            name: np.array([value if isinstance(value, int | float | np.number) else str(value)])
            for name, value in given.items()
        }
        one = Rows(np.zeros((1, 1)), given=columns, source="what is given")
        c = to_given(self.covariates, one, self.device)
        return None if c is None else c.expand(n, -1)

    def interpolate(self, data: Any, start: int, end: int, steps: int = 10) -> NDArray[np.float64]:
        """E[x|z] along the prior's path between the posterior means of two rows, (step, *event).

        A conditional model goes from the one row's covariates to the other's in a straight line.
        Rows count from 0. Raises InputError for a row that is not there or fewer than two steps.
        """
        rows = self.rows(data)
        for row in (start, end):
            if not 0 <= row < len(rows):
                raise InputError(
                    f"expected a row from 0 to {len(rows) - 1}, but {row} came; rows count from 0"
                )
        if steps < 2:
            raise InputError(f"expected at least 2 steps, but {steps} came; give more")
        both = rows.take([start, end])
        ends, c = self._moments(both)[0], self._seen(both)[1]
        between = (
            None
            if c is None
            else torch.lerp(c[0], c[1], torch.linspace(0, 1, steps)[:, None].to(c))
        )
        return self._expected(self.vae.p_z.path(ends[0], ends[1], steps), between)

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
        seen = {"train": self.train_digests, "held_out": self.held_out_digests}
        write_tensors(
            folder / "rows.safetensors",
            {name: torch.from_numpy(keys.view(np.int64)) for name, keys in seen.items()},
        )
        write_tensors(folder / "baselines.safetensors", self.baselines.tensors())
        write_tensors(folder / "annealing.safetensors", self.sizes.tensors())
        write_lines(folder / "history.jsonl", self.history)
        write_document(folder / "evaluation.json", self.evaluation.document())
        facts = {"unveil": version("unveil"), "torch": torch.__version__, "ending": self.ending}
        document = {
            "format_version": FORMAT_VERSION,
            **facts,
            "threads": torch.get_num_threads(),
            "settings": self.settings.document(),
            "sha256": manifest(folder, MODEL_FILES),
        }
        document["sha256"]["model.json"] = _own_digest(document)
        write_document(folder / "model.json", document)
        text = card(self.settings, self.schema, self.evaluation, facts)
        write_bytes(folder / "README.md", text.encode())


def load(folder: str | Path, device: str | torch.device = "cpu") -> Fitted:
    """The model that was saved in a folder, its files verified against their checksums.

    Raises InputError for a folder that is no model, was altered or is incomplete, or was written
    by a newer unveil.
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
        history=read_lines(folder / "history.jsonl"),
        evaluation=Evaluation.from_document(read_document(folder / "evaluation.json")),
        ending=document["ending"],
        device=device,
    )
