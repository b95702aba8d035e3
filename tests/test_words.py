"""What is said, and what is left unsaid."""

import math
from typing import Any

import pytest

from unveil.diagnostics.means import Mean
from unveil.diagnostics.surgery import Between
from unveil.diagnostics.words import in_words

FINE: dict[str, Any] = {"rows": 500, "active_units": 8, "latents": 8}
LARGE, SMALL = Mean(value=1.2, error=0.1), Mean(value=0.04, error=0.001)


def said_of(**findings: Any) -> str:
    settings: dict[str, Any] = {**FINE, **findings}
    return in_words(**settings)


def between(lower: float, upper: float) -> Between:
    return Between(lower=Mean(value=lower, error=0.01), upper=Mean(value=upper, error=0.01))


def test_nothing_is_said_where_nothing_is_to_be_done() -> None:
    assert said_of() == ""
    gaps = {name: SMALL for name in ("amortisation", "approximation", "encoder_gap")}
    parts = {"mutual_information": between(2.0, 2.1), "marginal_kl": between(-0.1, 0.2)}
    assert said_of(**gaps, **parts) == ""


@pytest.mark.parametrize(
    ("finding", "words"),
    [
        ({"active_units": 6, "latents": 16}, "6 of 16 latents are used: fewer would do as well."),
        ({"active_units": 1}, "1 of 8 latents is used: fewer"),
        ({"active_units": 0}, "None of 8 latents is used, so the decoder ignores z: warm"),
        ({"amortisation": LARGE}, "loses at least 1.2 nats that refining each row recovers: train"),
        ({"encoder_gap": LARGE}, "loses 1.2 nats more on rows that it was not trained on: more"),
        ({"approximation": Mean(value=31.4, error=None)}, "up to 31 nats short of the evidence:"),
        ({"mutual_information": between(0.0, 0.01)}, "say next to nothing of a row: encodings"),
        (
            {"mutual_information": between(math.log(500) - 0.1, 9.0)},
            "at least 6.1 nats of a row, as much as 500 rows can show: take more rows",
        ),
        (
            {"marginal_kl": between(2.0, 2.5)},
            "miss the prior by at least 2.0 nats, so that samples",
        ),
        ({"calibration": ["its intervals are too narrow"]}, "Its intervals are too narrow."),
        ({"calibration": ["q(z|x) is too narrow"]}, "q(z|x) is too narrow."),
    ],
)
def test_each_finding_is_one_sentence_with_a_consequence(
    finding: dict[str, Any], words: str
) -> None:
    said = said_of(**finding)
    assert words in said
    assert said.endswith(".")
    assert said.count(". ") == 0


def test_what_may_be_chance_is_not_said() -> None:
    assert said_of(amortisation=Mean(value=1.2, error=0.9)) == ""
    assert said_of(rows=20, active_units=2) == ""


def test_findings_stand_in_one_paragraph() -> None:
    said = said_of(amortisation=LARGE, encoder_gap=LARGE, calibration=["a", "b"])
    assert said.count("\n") == 0
    assert said.startswith("The encoder loses")
    assert said.endswith("earlier stop would help. A. B.")
