"""Numbers of benchmarks: intervals over items, and the paired difference of policy and reference."""

from __future__ import annotations

import pytest

from alignlab.evaluation.benchmarked import benchmark_numbers, flat_benchmarks


def test_shares_have_score_intervals_and_differences_are_paired() -> None:
    policy, reference = [1.0] * 60 + [0.0] * 40, [1.0] * 58 + [0.0] * 42
    found = benchmark_numbers({"policy": {"acc": policy}, "reference": {"acc": reference}})["acc"]
    assert (found["policy"]["value"], found["policy"]["n"]) == (0.6, 100)
    wilson = (0.5020, 0.6906)  # 60 of 100
    assert (found["policy"]["low"], found["policy"]["high"]) == pytest.approx(wilson, abs=1e-3)
    assert found["difference"]["value"] == pytest.approx(0.02)
    assert found["difference"]["high"] - found["difference"]["low"] < 0.1, "of unpaired shares it would be 0.27"


def test_other_numbers_have_a_mean() -> None:
    found = benchmark_numbers({"policy": {"words": [10.0, 20.0, 30.0]}})["words"]
    assert found["policy"]["value"] == 20.0
    assert "difference" not in found
    assert dict(flat_benchmarks({"b": {"words": found}})) == {
        "benchmark/b/words": 20.0,
        "benchmark/b/words/ci_low": found["policy"]["low"],
        "benchmark/b/words/ci_high": found["policy"]["high"],
        "benchmark/b/words/n": 3,
    }
