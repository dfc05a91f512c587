"""The audit as text for people."""

from __future__ import annotations

import pytest

from alignlab.cli.audit_text import _split


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
