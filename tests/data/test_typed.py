"""What is typed for data: columns, labels, prompts without answers, and sets that can't be reached."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignlab.config.open_dicts import with_own_keys
from alignlab.data.sources.pairs import Pairs
from alignlab.errors import DataError

Run = Callable[..., Any]

SMALL = [
    "model=tiny", "model.hidden_size=8", "model.layers=1", "model.heads=1", "model.intermediate_size=8",
    "trainer.max_steps=1", "trainer.batch_size=2", "data.max_length=64", "data.max_prompt_length=32", "tracking=none",
]  # fmt: skip


def write(file: Path, *rows: dict[str, Any]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_keys_of_the_users_own_need_no_signs() -> None:
    for text, expected in (
        ("data.columns={prompt: q}", "++data.columns={prompt: q}"),
        ("data.columns.prompt=q", "++data.columns.prompt=q"),
        ("data.parts.a.labels={x: true}", "++data.parts.a.labels={x: true}"),
        ("data.weights={a: 1}", "++data.weights={a: 1}"),
        ("objective.settings.beta=1", "++objective.settings.beta=1"),
        ("data.settings.answers=4", "++data.settings.answers=4"),
        ("model.settings.width=3", "++model.settings.width=3"),
        ("judge.llm.options={seed: 1}", "++judge.llm.options={seed: 1}"),
        ("judge.word_classifier.columns={text: review}", "++judge.word_classifier.columns={text: review}"),
        ("data.parts.a=pairs", "+data@data.parts.a=pairs"),
        ("data.parts.a.path=x.jsonl", "data.parts.a.path=x.jsonl"),
        ("data.path=columns", "data.path=columns"),
        ("+data.columns={prompt: q}", "+data.columns={prompt: q}"),
    ):
        assert with_own_keys(text) == expected


def test_columns_and_labels_are_typed(alignlab: Run, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", *({"q": f"Q{i}", "a": f"A{i}", "v": "oui" if i % 2 else "non"} for i in range(20)))
    words = ["check", "model=tiny", "objective=kto", "data=unpaired", "data.path=rows.jsonl"]
    columns = "data.columns={prompt: q, completion: a, label: v}"
    result = alignlab(*words, columns, "data.labels={oui: true, non: false}")
    assert result.code == 0, result.err
    assert "KTO: 9 good and 9 bad answers" in result.out
    unknown = alignlab(*words, columns)
    assert "label must be true or false, 1 or 0, not 'non' (also 9 other rows)\n" in unknown.err
    assert "type: 'data.labels={non: <true or false>, oui: <true or false>}'\n" in unknown.err
    write(tmp_path / "rows.jsonl", *({"q": f"Q{i}", "a": f"A{i}", "v": 5 if i % 2 else -1} for i in range(20)))
    result = alignlab(*words, columns, "data.labels={5: true, -1: false}")
    assert "KTO: 9 good and 9 bad answers" in result.out, result.err
    wrong = alignlab(*words, "data.columns={prompt: q, completions: a}")
    assert wrong.code == 2
    assert "type: 'data.columns={completion:a}'" in wrong.err


def test_prompts_without_answers(alignlab: Run, tmp_path: Path) -> None:
    write(tmp_path / "prompts.jsonl", *({"prompt": f"Q{i}"} for i in range(8)))
    (tmp_path / "rule.py").write_text("def length(prompt, answer):\n    return len(answer)\n")
    words = [*SMALL, "data=prompts", "data.path=prompts.jsonl"]
    online = ["objective=rloo", "objective.samples=2", "rollout.max_new_tokens=3", "reward=gold"]
    result = alignlab("train", *words, *online, "reward.function=rule:length")
    assert result.code == 0, result.err
    assert "eval score" in result.out
    audited = alignlab("check", *words, *online, "reward.function=rule:length", "data.drop=[empty]").out
    assert "empty" not in audited.replace("data.drop=[empty]", "")
    for objective, text in (
        ("sft", "has prompts without answers, but this objective works on completions"),
        ("dpo", "has prompts without answers, but this objective works on pairs"),
        ("spin", "has prompts without answers, but this objective learns from the data's answers too"),
    ):
        assert text in alignlab("check", *words, f"objective={objective}").err


def test_a_set_that_can_not_be_reached(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"org/nothing can't be reached: .*\n  type: data.path=<a local copy>"):
        Pairs(path="org/nothing").pairs("train", None)
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: one\n  data_files: 1.jsonl\n- config_name: two\n  data_files: 2.jsonl\n---\n"
    )
    for name in ("1", "2"):
        write(
            tmp_path / f"{name}.jsonl", *({"prompt": f"{name} {i}", "chosen": "a", "rejected": "b"} for i in range(4))
        )
    (problem,) = Pairs(path=str(tmp_path)).missing()
    assert "['one', 'two']" in problem.allowed
    assert problem.allowed.endswith("type: data.subset=<one of these>")
    assert Pairs(path=str(tmp_path), subset="two").pairs("train", None).rows[0].prompt.startswith("2 ")  # type: ignore[union-attr]
