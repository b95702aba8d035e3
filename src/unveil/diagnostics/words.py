"""What the diagnostics found, in plain sentences that say what to do about it."""

import math
from collections.abc import Sequence

from unveil.diagnostics.means import Mean
from unveil.diagnostics.surgery import Between
from unveil.units import FEWEST_ROWS_TO_JUDGE

# A tenth of a nat changes a row's probability by a tenth: less is not worth anyone's time.
LEAST_NATS = 0.1
# Standard errors by which a finding must exceed that, or it may be chance.
SURELY = 2.0
# A lower side so near to log N is held there by the number of rows, not by what the latents hold.
NEAR_SATURATION = 0.5


def in_words(
    *,
    rows: int,
    active_units: int,
    latents: int,
    amortisation: Mean | None = None,
    approximation: Mean | None = None,
    encoder_gap: Mean | None = None,
    mutual_information: Between | None = None,
    marginal_kl: Between | None = None,
    calibration: Sequence[str] = (),
) -> str:
    """One paragraph of what is worth doing something about, each finding with what to do; empty
    when there is none.

    The figures are means over ``rows`` rows, nats per row: the two gaps and the encoder's of
    ``diagnostics.gap``, the two parts of the rate of ``diagnostics.surgery``. ``calibration`` are
    findings without a capital or a full stop, and come last.

    >>> print(in_words(rows=500, active_units=6, latents=16,
    ...                amortisation=Mean(value=1.2, error=0.1)))
    6 of 16 latents are used: fewer would do as well. The encoder loses at least 1.2 nats that \
refining each row recovers: train longer, widen the encoder, or refine.
    """
    sentences = [
        _of_units(active_units, latents, rows),
        _of_amortisation(amortisation),
        _of_encoder(encoder_gap),
        _of_approximation(approximation),
        _of_information(mutual_information, rows),
        _of_distance(marginal_kl),
        *(f"{_begun(finding)}." for finding in calibration),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _begun(finding: str) -> str:
    """A finding as the beginning of a sentence; a symbol stays what it is.

    >>> _begun("cells are right"), _begun("q(z|x) is too narrow")
    ('Cells are right', 'q(z|x) is too narrow')
    """
    return finding if finding.startswith("q(") else f"{finding[0].upper()}{finding[1:]}"


def _matters(mean: Mean | None) -> bool:
    """Whether a mean is large enough to act on, and surely so."""
    return mean is not None and mean.value - SURELY * (mean.error or 0.0) > LEAST_NATS


def _nats(value: float) -> str:
    """
    >>> _nats(1.234), _nats(12.6)
    ('1.2 nats', '13 nats')
    """
    return f"{value:.1f} nats" if abs(value) < 10 else f"{value:.0f} nats"


def _of_units(active: int, latents: int, rows: int) -> str:
    if active == latents or rows < FEWEST_ROWS_TO_JUDGE:
        return ""
    if active == 0:
        return (
            f"None of {latents} latents is used, so the decoder ignores z: warm the rate up for "
            "longer, or lower beta."
        )
    verb = "is" if active == 1 else "are"
    return f"{active} of {latents} latents {verb} used: fewer would do as well."


def _of_amortisation(gap: Mean | None) -> str:
    if gap is None or not _matters(gap):
        return ""
    return (
        f"The encoder loses at least {_nats(gap.value)} that refining each row recovers: train "
        "longer, widen the encoder, or refine."
    )


def _of_encoder(gap: Mean | None) -> str:
    if gap is None or not _matters(gap):
        return ""
    return (
        f"It loses {_nats(gap.value)} more on rows that it was not trained on: more rows, a "
        "smaller encoder or an earlier stop would help."
    )


def _of_approximation(gap: Mean | None) -> str:
    if gap is None or not _matters(gap):
        return ""
    return (
        f"The best posterior of its kind falls up to {_nats(gap.value)} short of the evidence: one "
        "whose latents depend on one another, or a flow, may close that."
    )


def _of_information(between: Between | None, rows: int) -> str:
    if between is None:
        return ""
    lower, upper = between.lower, between.upper
    if upper.value + SURELY * (upper.error or 0.0) < LEAST_NATS:
        return "The latents say next to nothing of a row: encodings are of no use."
    if math.log(rows) - lower.value < NEAR_SATURATION:
        return (
            f"The latents hold at least {_nats(lower.value)} of a row, as much as {rows} rows can "
            "show: take more rows to learn how much."
        )
    return ""


def _of_distance(between: Between | None) -> str:
    if between is None or not _matters(between.lower):
        return ""
    return (
        f"The posteriors together miss the prior by at least {_nats(between.lower.value)}, so that "
        "samples come from where no row is: a prior that is fitted to them (a mixture, a flow) "
        "would take that up."
    )
