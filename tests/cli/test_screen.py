"""What evaluate prints: every estimate with its side, what it rests on and its errors."""

from typing import Any

import pytest

from unveil.cli.common import Common
from unveil.cli.screen import MOST_BARS, bars, show_evaluation
from unveil.evaluation import Evaluation
from unveil.evidence.bound import Bound

BETWEEN = {
    "lower": {"value": 4.2, "se": 0.04},
    "upper": {"value": 4.9, "se": 0.6},
    "guarantee": "in_expectation",
}
FOUND: dict[str, Any] = {
    "rows": 90,
    "dims": 64,
    "split": "held-out rows",
    "elbo": -91.4,
    "rate": 7.5,
    "distortion": 83.9,
    "errors": {"elbo": 1.16, "rate": 0.13, "distortion": 1.2},
    "lower": Bound(
        value=-89.6, side="lower", guarantee="certified", delta=0.025, mc_se=0.02, data_se=1.2,
        method="AIS",
    ),
    "upper": Bound(value=None, side="upper", reason="nothing bounds it"),
    "bits_per_dim": 2.02,
    "active_units": 2,
    "kl_per_unit": [0.0, 2.0, 1.0],
    "khat": None,
    "ess": {"0": 3.0, "0.5": 72.1},
    "baselines": {"independent": -107.0, "ppca": None},
    "gains": {"independent": {"value": 17.3, "se": 0.8, "method": "IWAE"}, "ppca": None},
    "settings": {"draws": 100, "seed": 0},
    "gap": {
        "amortisation": {"value": 1.3, "se": 0.09, "side": "lower", "guarantee": "in_expectation"},
        "approximation": {"value": 0.5, "se": 0.07, "side": "upper", "guarantee": "in_expectation"},
        "encoder": {"value": 0.1, "se": 0.1, "side": None, "guarantee": "heuristic"},
    },
    "latents": {"mutual_information": BETWEEN, "mean_variances": [0.0, 0.9, 0.4]},
    "calibration": {"rejected": [], "coverage": {"0.9": 0.91}, "num_simulations": 1000},
}  # fmt: skip


def screen(capsys: pytest.CaptureFixture[str], **changed: Any) -> list[str]:
    """The lines of the screen, each with single blanks."""
    show_evaluation(Evaluation(**{**FOUND, **changed}), Common())
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_every_estimate_says_what_it_is_worth(capsys) -> None:
    said = screen(capsys)
    for line in (
        "log p(x) ≥ -89.600 certified 97.5 %, AIS; ± 0.020 (draws), ±",
        "log p(x) ≤ unknown nothing bounds it",
        "ELBO -91.400 −(distortion + rate); ± 1.160 (rows)",
        "rate 7.500 KL(q(z|x) ‖ p(z)); ± 0.130 (rows)",
        "amortisation gap ≥ 1.300 in expectation, the encoder's; ± 0.090 (rows)",
        "approximation gap ≤ 0.500 in expectation, the family's; ± 0.070 (rows)",
        "encoder gap ≈ 0.100 heuristic, more on new rows; ± 0.100 (rows)",
        "bits per dimension ≤ 2.0200 as sure as log p(x) ≥",
        "active units 2 of 3 █▄▁ 2.00 to 0.00 nats of KL each",
        "mutual information ≥ 4.200 in expectation, of x and z; ± 0.040 (rows)",
        "mutual information ≤ 4.900 in expectation, of x and z; ± 0.600 (rows)",
        "effective draws 72.1 median of 100; least 3.0",
        "calibration passed at level 0.01; 90 % regions of q(z|x) hold z",
        "independent columns -107.000 baseline, IWAE 17.300 above; ± 0.800 (rows)",
        "probabilistic PCA unknown baseline",
    ):
        assert line in said


def test_a_gap_below_no_upper_bound_has_no_side(capsys) -> None:
    heuristic = {"value": 0.5, "se": None, "side": None, "guarantee": "heuristic"}
    said = screen(capsys, gap={**FOUND["gap"], "approximation": heuristic, "encoder": None})
    assert "approximation gap ≈ 0.500 heuristic, the family's" in said
    assert "encoder gap unknown no row was trained on" in said


def test_latents_whose_divergence_does_not_split_are_told_by_their_variance(capsys) -> None:
    said = screen(capsys, kl_per_unit=None)
    assert "active units 2 of 3 █▄▁ 0.90 to 0.00 of variance each" in said
    assert "active units 2" in screen(capsys, kl_per_unit=None, latents=None)


def test_what_fit_saved_before_is_shown_without_what_it_did_not_know(capsys) -> None:
    said = screen(capsys, errors={}, gains={}, gap=None, latents=None, calibration=None)
    assert "ELBO -91.400 −(distortion + rate)" in said
    assert "independent columns -107.000 baseline" in said


def test_bars_stand_from_the_largest_to_the_smallest() -> None:
    assert bars([0.0, 0.0]) == "▁▁ 0.00 to 0.00"
    assert bars([1.0]) == "█ 1.00 to 1.00"
    many = bars([float(number) for number in range(8 * MOST_BARS)])
    drawn = many.split()[0]
    assert len(drawn) == MOST_BARS
    assert list(drawn) == sorted(drawn, reverse=True)
