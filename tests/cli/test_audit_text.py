"""The audit as text for people."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from alignlab.cli.audit_text import _split, print_points
from alignlab.cli.check import CheckedPoint


@pytest.mark.parametrize(
    ("left_out", "text"),
    [
        ({}, "9, 8 different prompts"),
        ({"identical answers": 2}, "9, 8 different prompts"),
        ({"identical after cutting": 1}, "9, 8 different prompts before cutting"),
    ],
)
def test_prompts_are_counted_before_cutting(left_out: dict[str, int], text: str) -> None:
    """Rows that are left out after cutting are not in the number of rows, but their prompts are counted."""
    assert ", ".join(_split({"rows": 9, "prompts": 8, "left_out": left_out})) == text


def test_overrides_are_printed_as_a_shell_takes_them(capsys: pytest.CaptureFixture[str]) -> None:
    plan: Any = SimpleNamespace(id="dpo-1", chain=list)
    print_points([CheckedPoint(plan, ["seed=1", "data.drop=[tie]", "sweep.question=Is it so?"])])
    assert capsys.readouterr().out.splitlines()[0] == "dpo-1  seed=1 'data.drop=[tie]' 'sweep.question=Is it so?'"
