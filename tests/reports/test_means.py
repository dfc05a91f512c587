"""Means with intervals as reports show them: the interval of a rate ends at 0 and at 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alignlab.reports.against import against
from alignlab.reports.collect import read_sweep
from alignlab.reports.frames import settings_frame as notebook_frame
from alignlab.reports.means import ends, in_range, mean_text
from alignlab.reports.page.content import content
from alignlab.reports.seeds_table import settings_frame, settings_markdown
from alignlab.reports.series import curves_frame, metric_frame
from alignlab.statistics.intervals import mean_interval
from alignlab.tracking.metrics import is_rate
from tests.reports.made_sweep import write_accuracies


@pytest.mark.parametrize(
    ("low", "high", "over", "text"),
    [
        (0.85, 0.95, "seeds", "0.900 ± 0.050"),
        (0.9, 0.9, "seeds", "0.900 ± 0.000"),
        (0.5, 1.0, "seeds and prompts", "0.900 [0.500, 1.000]"),  # a rate ends at 1
        (0.85, 0.95, "prompts", "0.900 [0.850, 0.950]"),
        (None, None, "", "0.900"),
        (float("nan"), float("nan"), "seeds", "0.900"),
    ],
)
def test_only_a_symmetric_interval_over_seeds_is_half_a_width(low: Any, high: Any, over: str, text: str) -> None:
    assert mean_text(0.9, low, high, ".3f", over) == text


def test_rates_are_accuracies_win_rates_and_areas_under_curves() -> None:
    rates = ("eval/pairs/accuracy", "eval/labels/auc", "train/rewards/accuracies", "tail/accuracy", "exact/winrate")
    rates += ("eval/winrate/a", "questions/f/winrate/a/reference", "eval/refusals/refusal", "exact/winrate/gold")
    others = ("eval/pairs/margin", "eval/score/a/mean", "exact/kl", "eval/winrate/a/n", "eval/loss", "")
    assert [name for name in (*rates, *others) if is_rate(name)] == list(rates)


def test_two_seeds_of_a_rate_leave_the_unit_interval_and_are_cut() -> None:
    """0.578 and 0.672: 0.625 ± 12.706 * 0.0470 = 0.5972. A reward keeps this interval."""
    found = mean_interval([0.578, 0.672])
    assert found.half == pytest.approx(0.5972, abs=1e-4)
    cut = in_range("eval/pairs/accuracy", found)
    assert (cut.low, cut.high) == (pytest.approx(0.0278, abs=1e-4), 1.0)
    assert in_range("exact/reward", found) == found
    assert ends("eval/labels/auc", -0.2, 1.3) == (0.0, 1.0)


def test_the_cut_is_the_same_in_every_table_and_the_comparison_is_not_cut(tmp_path: Path) -> None:
    """Accuracies of 0.6 and 1.0: 0.8 ± 12.706 * 0.2. Differences of 0 and 0.2: 0.1 ± 12.706 * 0.1."""
    found = read_sweep(write_accuracies(tmp_path, {"a": (0.6, 1.0), "b": (0.6, 0.8)}))
    ((_, settings),) = found.settings
    metric, text = "eval/pairs/accuracy", "0.800 [0.000, 1.000]"
    page = content(found, "", against(found, found))
    ((_, table, _, _),) = page.settings
    cell = table.rows[0][table.header.index("held-out pair accuracy")]
    assert (cell.text, cell.low, cell.high) == (text, 0.0, 1.0)
    assert page.against is not None
    assert [c.text for c in page.against.rows[0][2:4]] == [text, text]
    assert text in settings_markdown(settings)
    for frame, prefix in ((settings_frame(settings), f"{metric}/"), (notebook_frame(found), f"{metric} ")):
        assert frame.loc[0, [f"{prefix}low", f"{prefix}high"]].tolist() == [0.0, 1.0]
    assert metric_frame(found, metric)[["low", "high"]].iloc[0].tolist() == [0.0, 1.0]
    assert curves_frame(found, [metric])[["low", "high"]].iloc[0].tolist() == [0.0, 1.0]
    difference = settings.compared.comparisons["objective b"].difference
    assert difference is not None
    assert difference.low < -1, "what compares is not cut"
    assert any(f"objective a ({text})" in line for _, told in page.answers for line in told)
