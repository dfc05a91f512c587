"""Verdicts follow from bands and values alone."""

from __future__ import annotations

import math

import pytest

from alignlab.papers.claim import above, below, near
from alignlab.papers.verdict import decide

ONE = [near("p", 0.5, 0.1, "derived")]


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(0.5, "reproduced"), (0.6, "reproduced"), (0.61, "contradicted"), (0.39, "contradicted"),
     (math.nan, "underdetermined"), (math.inf, "underdetermined")],
)  # fmt: skip
def test_a_closed_form_is_inside_its_band_or_not(value: float, verdict: str) -> None:
    assert decide(ONE, {"p": [value]}, kind="closed form").verdict == verdict


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.50, 0.52, 0.48, 0.51, 0.49], "reproduced"),
        ([0.58, 0.60, 0.62, 0.59, 0.61], "underdetermined"),  # 0.60 ± 0.02 crosses the bound
        ([0.7, 0.71, 0.69, 0.7, 0.7], "contradicted"),
        ([0.2, 0.8, 0.5, 0.1, 0.9], "underdetermined"),  # 0.5 ± 0.45
        ([0.5, 0.5, 0.5, 0.5], "underdetermined"),  # four seeds
        ([0.5, 0.5, 0.5, 0.5, math.nan], "underdetermined"),
        ([], "underdetermined"),
    ],
)
def test_an_interval_over_seeds_decides(values: list[float], verdict: str) -> None:
    assert decide(ONE, {"p": values}, kind="estimator").verdict == verdict


def test_the_interval_is_students() -> None:
    """t(0.975, 4) = 2.776, s = 0.01581, so the half-width is 2.776 * 0.01581 / sqrt 5 = 0.01963."""
    (result,) = decide(ONE, {"p": [0.50, 0.52, 0.48, 0.51, 0.49]}, kind="trained").results
    assert (result.value, result.high - result.low) == (pytest.approx(0.5), pytest.approx(2 * 0.01963, abs=1e-5))


def test_one_sided_bands() -> None:
    assert decide([above("lead", 0.0, "printed")], {"lead": [1e-3]}, kind="closed form").verdict == "reproduced"
    assert decide([above("lead", 0.0, "printed")], {"lead": [-1e-3]}, kind="closed form").verdict == "contradicted"
    assert decide([below("error", 1e-9, "derived")], {"error": [1e-8]}, kind="closed form").verdict == "contradicted"


def test_no_difference_is_no_lead() -> None:
    lead = [above("A - B", 0.0, "printed")]
    assert decide(lead, {"A - B": [0.0]}, kind="closed form").verdict == "contradicted"
    assert decide(lead, {"A - B": [0.0] * 5}, kind="trained").verdict == "contradicted"
    assert decide([near("p", 0.0, 0.0, "printed")], {"p": [0.0]}, kind="closed form").verdict == "reproduced"


def test_all_expectations_must_hold() -> None:
    bands = [*ONE, above("q", 1.0, "derived")]
    assert decide(bands, {"p": [0.5], "q": [2.0]}, kind="closed form").verdict == "reproduced"
    wrong = decide(bands, {"p": [0.5], "q": [0.0]}, kind="closed form")
    assert (wrong.verdict, wrong.why) == ("contradicted", "q: 0, expected > 1 (derived)")
    missing = decide(bands, {"p": [0.5]}, kind="closed form")
    assert (missing.verdict, missing.why) == ("underdetermined", "q was not measured")
    both = decide(bands, {"p": [0.9]}, kind="closed form")
    assert both.verdict == "contradicted", "what is known to be wrong outweighs what is missing"


def test_many_quantities_do_not_contradict_by_chance() -> None:
    """An interval that misses its band at 95 % but not at the level for 20 quantities is not enough."""
    values = [0.40, 0.42, 0.38, 0.37, 0.34]  # 0.382 ± 0.038
    band = near("p", 0.5, 0.07, "derived")
    others = [near(f"q{i}", 0.0, 1.0, "derived") for i in range(19)]
    measured = {"p": values, **{band.quantity: [0.0] * 5 for band in others}}
    assert decide([band], measured, kind="trained").verdict == "contradicted"
    assert decide([band, *others], measured, kind="trained").verdict == "underdetermined"


def test_a_premise_that_fails_leaves_the_claim_open() -> None:
    premises = [above("gradient", 1e-9, "derived")]
    measured = {"p": [0.9], "gradient": [0.0]}
    found = decide(ONE, measured, kind="closed form", premises=premises)
    assert found.verdict == "underdetermined"
    assert found.why == "this set-up can't decide the claim: gradient: 0, expected > 1e-09 (derived)"
    assert decide(ONE, {**measured, "gradient": [1.0]}, kind="closed form", premises=premises).verdict == "contradicted"


def test_nothing_expected_is_nothing_reproduced() -> None:
    assert decide([], {"p": [0.5]}, kind="closed form").verdict == "underdetermined"
