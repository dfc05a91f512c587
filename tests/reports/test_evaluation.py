"""The lines of an evaluation beside its tables."""

from __future__ import annotations

from typing import Any

from alignlab.reports.evaluation import _power


def test_the_difference_that_a_number_of_prompts_can_show() -> None:
    """Comparisons with the same number of prompts and ties share a line; 783 is the table's number for five points."""

    def rates(prompts: int, ties: float) -> dict[str, Any]:
        return {"judge": {"win_rate": {"n": float(prompts), "tie_rate": ties}}}

    assert _power({"one": rates(783, 0.0), "other": rates(783, 0.0)}) == [
        "with 783 prompts, a win-rate that differs from 0.5 by 0.05 can be detected (power 80 %); "
        "a difference of 0.05 needs 783"
    ]
    assert _power({"one": rates(2, 0.0)})[0].startswith(
        "with 2 prompts, no difference of a win-rate from 0.5 can be detected (power 80 %); a difference of 0.05 needs"
    )
    assert _power({"one": rates(400, 0.95)})[0].endswith("can be detected (power 80 %, 95% ties)")
    assert _power({"one": rates(256, 255 / 256)}) == []
    assert _power({"one": rates(9, 1.0), "other": {"judge": {"score_difference": {}}}}) == []
