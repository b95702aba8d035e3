"""A bound carries its guarantee, and two that cross do not pass."""

import json
import math
from typing import Any

import pytest

from unveil.evidence.bound import Bound, InversionError, require_order


def bound(side: str, value: float | None, guarantee: str = "in_expectation", **rest: Any) -> Bound:
    names = {"lower": "IWAE", "upper": "AIS from p(z)"}
    return Bound(side=side, value=value, guarantee=guarantee, **{"method": names[side], **rest})


CERTIFIED = bound(
    "lower",
    -84.5,
    "certified",
    delta=0.025,
    mc_se=0.01,
    data_se=0.2,
    settings={"num_samples": 100, "seed": 3},
    warnings=("few effective draws",),
)


@pytest.mark.parametrize(
    ("guarantee", "delta", "words"),
    [
        ("exact", None, "exact"),
        ("numerical", None, "numerical"),
        ("certified", 0.025, "certified 97.5 %"),
        ("certified", 0.05, "certified 95 %"),
        ("certified", 0.001, "certified 99.9 %"),
        ("in_expectation", None, "in expectation"),
        ("heuristic", None, "heuristic"),
    ],
)
def test_printing_a_bound_prints_its_guarantee(
    guarantee: str, delta: float | None, words: str
) -> None:
    printed = str(bound("upper", -1.0, guarantee, delta=delta))
    assert printed == f"log p(x) ≤ -1.000 nats per row, {words} (AIS from p(z))"


def test_a_bound_survives_being_written_down() -> None:
    for one in (CERTIFIED, CERTIFIED.withdrawn("it crosses another")):
        written = json.loads(json.dumps(one.document(), allow_nan=False))
        assert Bound.from_document(written, "lower") == one
        assert Bound.from_document(written, "upper") != one


def test_a_withdrawn_bound_claims_nothing_and_keeps_how_it_was_made() -> None:
    withdrawn = CERTIFIED.withdrawn("it crosses another")
    assert str(withdrawn) == "log p(x) ≥ unknown: it crosses another"
    assert (withdrawn.value, withdrawn.guarantee, withdrawn.delta) == (None, None, None)
    assert (withdrawn.mc_se, withdrawn.data_se) == (None, None)
    assert withdrawn.settings == CERTIFIED.settings
    assert withdrawn.method == CERTIFIED.method
    assert withdrawn.warnings == CERTIFIED.warnings


# Lower and upper bound, and the standard error of their difference where it is known: at 5 standard
# errors a pair still passes, and at 5.1 no longer.
EDGES = {
    "errors of both": ({"mc_se": 0.3}, {"mc_se": 0.4}, None, 2.5),
    "one error": ({"mc_se": 0.3}, {"guarantee": "exact"}, None, 1.5),
    "a paired error": ({"mc_se": 0.3}, {"mc_se": 0.4}, 0.1, 0.5),
    "a paired error of none": ({"mc_se": 0.3, "guarantee": "certified"}, {"mc_se": 0.4}, 0.0, 0.0),
    "errors not known": ({}, {}, None, 0.0),
    "heuristic": ({"guarantee": "heuristic", "mc_se": 0.1}, {"guarantee": "exact"}, None, 0.5),
    "both certified": (
        {"guarantee": "certified", "delta": 0.05, "mc_se": 0.3},
        {"guarantee": "certified", "delta": 0.05, "mc_se": 0.4},
        0.5,
        0.0,
    ),
    "certified and exact": (
        {"guarantee": "certified", "delta": 0.05, "mc_se": 0.3}, {"guarantee": "exact"}, None, 0.0,
    ),
    "certified and numerical": (
        {"guarantee": "certified", "delta": 0.05, "mc_se": 0.3},
        {"guarantee": "numerical", "settings": {"error": 0.2}},
        None,
        0.2,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("lower", "upper", "paired", "edge"), EDGES.values(), ids=EDGES)
def test_a_pair_passes_until_it_crosses_by_more_than_chance_allows(
    lower: dict[str, Any], upper: dict[str, Any], paired: float | None, edge: float
) -> None:
    for crossing in (-10.0, -0.01, edge - 1e-4):
        require_order(
            bound("lower", -84.0 + crossing, **lower),
            bound("upper", -84.0, **upper),
            difference_se=paired,
        )
    with pytest.raises(InversionError):
        require_order(
            bound("lower", -84.0 + 1.02 * edge + 1e-3, **lower),
            bound("upper", -84.0, **upper),
            difference_se=paired,
        )


def test_two_ways_of_summing_the_same_float32_numbers_do_not_cross() -> None:
    a = bound("lower", -84.00001, "exact")
    require_order(a, bound("upper", -84.00002, "exact"))


def test_a_crossing_names_both_methods_by_how_much_and_the_way_out() -> None:
    lower, upper = bound("lower", -84.0, mc_se=0.03), bound("upper", -84.5, mc_se=0.04)
    with pytest.raises(ValueError) as raised:
        require_order(lower, upper)
    assert str(raised.value) == (
        "expected an upper bound above the lower one, got -84.5000 by AIS from p(z) (in "
        "expectation) below -84.0000 by IWAE (in expectation), by 0.5000 nats per row, 10.0 "
        "standard errors: one of the two is wrong; take more temperatures, start annealing at the "
        "prior, or take more draws"
    )


def test_what_has_no_value_crosses_nothing() -> None:
    lower, upper = bound("lower", 1e9, "exact"), bound("upper", -1e9, "exact")
    require_order(lower.withdrawn("gone"), upper)
    require_order(lower, upper.withdrawn("gone"))
    require_order(bound("lower", -math.inf), upper)
