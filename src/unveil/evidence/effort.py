"""How much an evaluation does, settled before it begins: from a number of seconds, or as before."""

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unveil.evidence.annealing import Schedule
from unveil.evidence.hmc import Bridge
from unveil.evidence.sandwich import Schedules
from unveil.evidence.starts import FromPosterior, FromPrior, Start
from unveil.evidence.tuning import Sizes
from unveil.evidence.weights import require_delta
from unveil.latent import LatentVariableModel
from unveil.shapes import Given, Rows
from unveil.tiles import ROWS_PER_TILE, RowsAlike, tiles

# An evaluation for which no budget is named takes about so long on two ordinary cores, whose speed
# is taken to be this, so that the same command does the same everywhere.
USUAL_SECONDS = 60.0
USUAL_FLOPS_PER_SECOND, USUAL_SECONDS_PER_PASS = 5e10, 2e-3
# Annealing with fewer temperatures than these says nothing that draws of q do not.
FEWEST_NEAR, FEWEST_FAR = 10, 20
FEWEST_STEPS = 50
# More than so many times the usual temperatures buy little: the gap is as small as its error.
MOST_TIMES = 16.0
# What a step of refining costs in passes, with several starts, of rows trained on as well as new
# ones; and what else is done for a tile however little is asked for: comparing what was refined,
# the curve of rate and distortion, each column from the others, calibration (by time, on digits).
PASSES_PER_STEP, OTHER_PASSES = 6, 700
TIMED_PASSES = 5
# What quadrature costs for a row, in passes over a tile, by the number of latents; and its share.
PASSES_TO_INTEGRATE = {1: 0.1, 2: 1.0, 3: 30.0}
SHARE_TO_INTEGRATE = 0.25
COUNTED = {
    "draws": "draw per row",
    "near": "temperature from q(z|x)",
    "far": "temperature from p(z)",
    "chains": "chain",
    "leapfrog": "leapfrog step",
    "climb": "step of refining",
}


@final
@dataclass(frozen=True, kw_only=True)
class Effort:
    """What an evaluation does beyond draws of q(z|x); the settings that it prints.

    Annealing, refining and the diagnostics look at ``rows`` rows at most, none of them where that
    is 0. ``near`` and ``far`` are the temperatures from q(z|x) and from p(z), ``climb`` the steps
    by which rows are refined. Up to ``integrated`` rows are integrated over z, where z is short.
    """

    draws: int = 1000
    delta: float = 0.05
    rows: int = ROWS_PER_TILE
    near: int = 50
    far: int = 200
    chains: int = 8
    leapfrog: int = 5
    climb: int = 300
    integrated: int = 512

    def __post_init__(self) -> None:
        for name in (*COUNTED, "rows", "integrated"):
            if not isinstance(getattr(self, name), int):
                raise ValueError(
                    f"expected {name} to be a whole number, but {getattr(self, name)!r} came; "
                    "round it"
                )
        for name, words in COUNTED.items():
            if getattr(self, name) < 1:
                raise ValueError(
                    f"expected at least 1 {words}, but {getattr(self, name)} came; give more"
                )
        if self.chains < 2 or self.rows < 0 or self.integrated < 0:
            raise ValueError(
                "expected at least 2 chains, and no fewer than 0 rows to anneal or to integrate, "
                f"but {self.chains}, {self.rows} and {self.integrated} came; give more"
            )
        require_delta(self.delta)

    def schedules(self, sizes: Sizes) -> Schedules:
        """Both annealings, with moves of these sizes."""

        def schedule(start: Start, sizes: torch.Tensor, num_temperatures: int) -> Schedule:
            return Schedule(
                start=start,
                sizes=sizes,
                num_temperatures=num_temperatures,
                num_chains=self.chains,
                num_leapfrog=self.leapfrog,
            )

        return Schedules(
            near=schedule(FromPosterior(), sizes.from_posterior, self.near),
            far=schedule(FromPrior(), sizes.from_prior, self.far),
        )

    @property
    def passes_per_tile(self) -> int:
        """How often log p(x, z) and its gradient are taken for a tile of rows: on real rows from
        either start, on simulated ones there and back. What is tried again comes on top."""
        return self._passes_to_anneal_and_climb + OTHER_PASSES

    @property
    def _passes_to_anneal_and_climb(self) -> int:
        annealing = (3 * self.near + self.far) * self.leapfrog
        return annealing + PASSES_PER_STEP * self.climb

    def document(self) -> dict[str, Any]:
        """The settings as plain JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Effort":
        """The settings that ``document`` wrote."""
        return cls(**{field.name: document[field.name] for field in fields(cls)})

    def of_usual(self, model: LatentVariableModel, x: Rows, given: Given = None) -> "Effort":
        """As many rows, or as few temperatures, as ordinary cores can do in ``USUAL_SECONDS``.

        A function of the model's arithmetic and the number of rows alone.
        """
        bridge, z = self._tile(model, x, given)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            bridge.densities(z)
        # The gradient costs two more of the same.
        flops = 3 * counter.get_total_flops()
        seconds = max(flops / USUAL_FLOPS_PER_SECOND, USUAL_SECONDS_PER_PASS)
        return self._for(model, len(x), USUAL_SECONDS / seconds, most_times=1.0)

    def within(
        self, budget: float, model: LatentVariableModel, x: Rows, given: Given = None
    ) -> "Effort":
        """As many rows and temperatures as this machine can do in ``budget`` seconds, as it is now.

        Raises ValueError for a budget that is not above 0.
        """
        require_budget(budget)
        (bridge, z), times = self._tile(model, x, given), []
        for _ in range(TIMED_PASSES):
            began = time.perf_counter()
            with torch.no_grad(), RowsAlike():
                bridge.at(z)
            times.append(time.perf_counter() - began)
        return self._for(model, len(x), budget / statistics.median(times), most_times=MOST_TIMES)

    def _tile(self, model: LatentVariableModel, x: Rows, given: Given) -> tuple[Bridge, Tensor]:
        """A tile of rows, and z for all of its chains."""
        tile, start = next(tiles(x, given)), FromPrior()
        return start.bridge(model, tile), start.draw(model, tile, self.chains, 0, "timing")

    def _for(
        self, model: LatentVariableModel, rows: int, passes: float, most_times: float
    ) -> "Effort":
        """What can be done for so many rows with so many passes over a tile."""
        needed, affordable = -(-rows // ROWS_PER_TILE), passes / self.passes_per_tile
        at_most = most_times if affordable >= needed else 1.0
        left = passes / max(1, min(needed, int(affordable))) - OTHER_PASSES
        times = min(left / self._passes_to_anneal_and_climb, at_most)
        near, far = round(self.near * times), round(self.far * times)
        if near < FEWEST_NEAR or far < FEWEST_FAR:
            return replace(self, rows=0)
        some = min(rows, max(1, int(affordable)) * ROWS_PER_TILE)
        per_row = PASSES_TO_INTEGRATE.get(model.num_latents, math.inf)
        integrated = int(SHARE_TO_INTEGRATE * passes / per_row)
        climb = max(FEWEST_STEPS, round(self.climb * min(times, 1.0)))
        return replace(self, rows=some, near=near, far=far, climb=climb, integrated=integrated)


def require_budget(seconds: float) -> None:
    """Raises ValueError unless the seconds are above 0 and come to an end."""
    if not 0 < seconds < math.inf:
        raise ValueError(f"expected a budget above 0 seconds, but {seconds} came; 60 is usual")
