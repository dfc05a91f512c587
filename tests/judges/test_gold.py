"""A gold function that exits or fails, when it is imported or called, is reported in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignlab.errors import DataError
from alignlab.judges.base import Answer
from alignlab.judges.gold import Gold

MODULES = {
    "exits_when_called": "import sys\ndef score(prompt, answer):\n    sys.exit(0)\n",
    "fails_when_called": "def score(prompt, answer):\n    return 1 / 0\n",
    "calls_what_fails_when_called": "import json\ndef score(prompt, answer):\n    return json.loads(answer)\n",
    "exits_when_imported": "raise SystemExit(0)\n",
    "fails_when_imported": "1 / 0\n",
    "cannot_be_parsed": "def score(:\n",
    "has_none": "",
    "is_a_number": "score = 1\n",
}


@pytest.mark.parametrize("name", MODULES)
def test_functions_that_fail(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"gold_{name}.py").write_text(MODULES[name])
    judge = Gold(function=f"gold_{name}:score")
    problems = [problem.allowed for problem in judge.missing()]
    if name.endswith("_when_called"):
        assert problems == []
        with pytest.raises(
            DataError, match=rf"(?s)gold_{name}:score returned no number: \w+.*gold_{name}\.py, line [23]\)"
        ):
            judge.score([Answer("1", ("a",), ("b",))])
    else:
        (problem,) = problems
        assert problem.startswith("can't be imported: ")
        assert f"gold_{name}" in problem
