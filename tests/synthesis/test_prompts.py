"""The prompts of a data source or a file: each once, with the good answers of the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alignlab.data.sources.lab import Lab
from alignlab.data.sources.pairs import Pairs
from alignlab.data.sources.rankings import Rankings
from alignlab.data.sources.unpaired import Unpaired
from alignlab.synthesis.prompts import OwnAnswer, Prompts, prompts_of_data, prompts_of_file


def written(folder: Path, *rows: dict[str, Any]) -> str:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def own(prompts: Prompts) -> dict[str, list[str]]:
    return {str(row.prompt): [answer.text for answer in row.own] for row in prompts.rows}


def test_pairs(tmp_path: Path) -> None:
    """Prompts that differ only in white space are one prompt. Pairs that can't be used are counted."""
    rows = [{"prompt": p, "chosen": c, "rejected": "x"} for p, c in (("a", "1"), ("b", "2"), ("a ", "3"), ("c", "x"))]
    path = written(tmp_path, *rows)
    held_out = written(tmp_path / "..", {"prompt": "z", "chosen": "1", "rejected": "x"})
    found = prompts_of_data(Pairs(path=path, eval_path=held_out), 0)
    assert own(found) == {"a": ["1", "3"], "b": ["2"]}
    assert found.left_out == {"rows of the data: identical answers": 1}
    first = prompts_of_data(Pairs(path=path, eval_path=held_out), 1)
    assert (own(first), first.found) == ({"a": ["1", "3"]}, 2)


def test_labelled_answers(tmp_path: Path) -> None:
    rows = [("a", "1", True), ("a", "2", False), ("b", "3", False), ("a", "1", True)]
    path = written(tmp_path, *({"prompt": p, "completion": c, "label": label} for p, c, label in rows))
    held_out = written(tmp_path / "..", {"prompt": "z", "completion": "1", "label": True})
    found = prompts_of_data(Unpaired(path=path, eval_path=held_out), 0)
    assert own(found) == {"a": ["1"], "b": []}
    assert found.left_out == {"bad answers of the data": 2}


def test_rankings(tmp_path: Path) -> None:
    path = written(tmp_path, *({"prompt": p, "completions": ["x", "y"], "grades": [1, 2]} for p in "abc"))
    found = prompts_of_data(Rankings(path=path, eval_path=path), 0)
    assert own(found) == {"a": ["y"], "b": ["y"], "c": ["y"]}


def test_the_lab() -> None:
    """All prompts of the world, with the answers of its author."""
    found = prompts_of_data(Lab(alphabet="ab", length=2, prompts=4, prompt_length=2, demonstrations=200), 0)
    assert sorted(own(found)) == ["aa", "ab", "ba", "bb"]
    assert OwnAnswer("b", True) in found.rows[0].own
    assert OwnAnswer("ba", False) in found.rows[0].own, "the longest answers have no end token"


def test_a_file(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    path = written(
        tmp_path, {"prompt": "a"}, {"prompt": turns}, {"turns": ["t", "u"]}, {"instruction": "a", "output": "1"}
    )
    found = prompts_of_file(path, 0)
    assert [row.prompt for row in found.rows] == ["a", turns, "t"]
    assert [[answer.text for answer in row.own] for row in found.rows] == [["1"], [], []]
    assert found.left_out == {"second turns of prompts": 1}
