"""The examples of docs/evaluation.md run, and print what the page shows."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

DOC = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"


def test_examples() -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for block in blocks:
            exec(block, {"__name__": "docs"})
    at_equal_kl, *lines = said.getvalue().splitlines()[1:]
    assert at_equal_kl.startswith("at 2.51 nats: best objective ipo; objective dpo 1.31 [")
    assert lines[0].startswith("71.4% [")
    assert lines[0].endswith("of 4 prompts; 4 won, 2 tied, 1 invalid")
    assert lines[1].startswith("consistent 86% [")
    assert lines[2] == "783 0.049"
    assert lines[3].startswith("beta 0.1 +0.50 [")
    assert "'wins': 1.0" in lines[5]
