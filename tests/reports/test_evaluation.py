"""What an evaluation says beside its tables."""

from __future__ import annotations

from typing import Any

from alignlab.reports.evaluation import _power


def test_what_so_many_prompts_can_show() -> None:
    """One line for comparisons that are alike; 783 is the power table's number for five points."""

    def rates(prompts: int, ties: float) -> dict[str, Any]:
        return {"judge": {"win_rate": {"n": float(prompts), "tie_rate": ties}}}

    assert _power({"one": rates(783, 0.0), "other": rates(783, 0.0)}) == [
        "783 prompts show a win-rate 0.05 away from 0.5 in 4 of 5 tries; for 0.05 it takes 783"
    ]
    assert _power({"one": rates(2, 0.0)})[0].startswith("2 prompts show no difference from 0.5 in 4 of 5 tries; for")
    assert _power({"one": rates(400, 0.95)})[0].endswith("in 4 of 5 tries (with 95% ties)")
    assert _power({"one": rates(256, 255 / 256)}) == []
    assert _power({"one": rates(9, 1.0), "other": {"judge": {"score_difference": {}}}}) == []
