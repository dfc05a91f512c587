"""Repetition and variety of texts."""

from __future__ import annotations

import math

import pytest

from alignlab.evaluation.text_metrics import distinct, repetition


def test_repetition() -> None:
    assert repetition("a b c d e f g h") == 0
    assert repetition("a b c d a b c d") == pytest.approx(1 - 4 / 5)
    assert repetition("no " * 40) == pytest.approx(1 - 1 / 37)
    assert repetition("too short here") == repetition("") == repetition("just four words here") == 0


def test_distinct() -> None:
    assert distinct(["a b", "a b"], 1) == pytest.approx(2 / 4)
    assert distinct(["a b", "b a"], 2) == 1
    assert distinct(["a b c", "a b d"], 2) == pytest.approx(3 / 4)
    assert math.isnan(distinct(["one", "two"], 2))
