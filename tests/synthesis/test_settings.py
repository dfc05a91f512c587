"""Settings of a synthesis: ranges, and settings that would have no effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alignlab.errors import ConfigError
from alignlab.synthesis.settings import Synthesis


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({"samples": 1}, ["samples"]),
        ({"samples": 1, "preferred": "data"}, []),
        ({"samples": 1, "form": "labels"}, ["samples"]),
        ({"samples": 1, "form": "labels", "threshold": 0.0}, []),
        ({"samples": 1, "form": "labels", "threshold": 0.0, "judging": "compare"}, ["samples"]),
        ({"form": "pair", "format": "csv", "prompts": -1}, ["prompts", "form", "format"]),
        ({"form": "labels", "pairs": "all", "min_margin": 0.5}, ["pairs", "min_margin"]),
        ({"threshold": 1.0}, ["threshold"]),
        ({"preferred": "data", "judging": "compare", "min_margin": 0.1}, ["min_margin", "judging"]),
        ({"form": "labels", "threshold": float("nan")}, ["threshold"]),
        ({"max_new_tokens": 0, "temperature": 0.0}, ["max_new_tokens", "temperature"]),
    ],
)
def test_problems(settings: dict[str, Any], keys: list[str]) -> None:
    try:
        Synthesis(**settings)
        found = []
    except ConfigError as error:
        found = [problem.key for problem in error.problems]
    assert found == keys


def test_a_file_of_prompts_must_be_readable_and_have_what_is_preferred(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n')
    assert list(Synthesis(questions=str(file)).missing()) == []
    (problem,) = Synthesis(questions=str(file), preferred="data").missing()
    assert problem.key == "questions"
    assert "has no answers" in problem.allowed
    file.write_text('{"text": "a"}\n')
    (problem,) = Synthesis(questions=str(file)).missing()
    assert "row 1: needs instruction, turns or prompt" in problem.allowed
    assert not problem.type_this
    table = tmp_path / "prompts.csv"
    table.write_text("prompt\na\n")
    (problem,) = Synthesis(questions=str(table)).missing()
    assert "must have the columns 'id', 'prompt', 'type', 'label'" in problem.allowed
    assert problem.type_this == f"data=prompts data.path={table}"
