"""`alignlab generate` and `alignlab chat`, with the tiny model."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignlab.cli.generate import Options
from alignlab.cli.words import settings_of, split_words
from alignlab.errors import ConfigError

CLI = Callable[..., Any]
SHORT = "max_new_tokens=4"


@pytest.fixture
def prompts(tmp_path: Path) -> None:
    rows = [{"prompt": "Say hello."}, {"turns": ["First?", "Second?"], "question_id": 7}]
    Path(tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_one_answer(alignlab: CLI, prompts: None) -> None:
    Path("one.jsonl").write_text('{"prompt": "Hello there"}')
    assert "tiny: 1 answer, 1 ended by itself\n" in alignlab("generate", "tiny", "one.jsonl", "max_new_tokens=200").err


def test_answers_to_a_file(alignlab: CLI, prompts: None) -> None:
    done = alignlab("generate", "tiny", "prompts.jsonl", SHORT, "samples=2")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [(row["prompt"], row["sample"], row.get("question_id")) for row in rows] == [
        ("Say hello.", 0, None), ("Say hello.", 1, None), ("First?", 0, "7"), ("First?", 1, "7"),
    ]  # fmt: skip
    assert rows[0]["completion"] != rows[1]["completion"]
    assert "tiny: 4 answers, 0 ended by themselves; 1 second turn not asked" in done.err
    assert alignlab("generate", "tiny", "prompts.jsonl", "answers.jsonl", SHORT, "samples=2").code == 0
    assert Path("answers.jsonl").read_text() == done.out, "the same answers every time"
    Path("answers.jsonl").write_text("mine")
    refused = alignlab("generate", "tiny", "prompts.jsonl", "answers.jsonl", SHORT)
    assert (refused.code, "type: overwrite=true" in refused.err) == (2, True)
    assert Path("answers.jsonl").read_text() == "mine"
    assert (
        alignlab("generate", "tiny", "prompts.jsonl", "answers.jsonl", SHORT, "samples=2", "overwrite=true").code == 0
    )
    assert Path("answers.jsonl").read_text() == done.out


def test_where_answers_are_not_written(alignlab: CLI, prompts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is told before a model is loaded."""

    def sampled(*args: Any, **named: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("alignlab.pipeline.named_policy.named_policy", sampled)
    run = Path("outputs/runs/dpo-1")
    (run / "policy").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    Path("link").symlink_to(run / "policy")
    Path("folder.jsonl").mkdir()
    os.mkfifo("pipe.jsonl")
    for name, told in (
        (f"{run}/run.json", "lies in the folder of a run"),
        (f"{run}/policy/new.jsonl", "lies in the folder of a run"),
        ("link/new.jsonl", "lies in the folder of a run"),
        ("/dev/full", "is a device or a pipe"),
        ("pipe.jsonl", "is a device or a pipe"),
        ("folder.jsonl", "is a folder"),
        ("prompts.jsonl/new.jsonl", "lies below prompts.jsonl, which is no folder"),
        (f"{300 * 'a'}.jsonl", "can't be written: File name too long"),
        ("thesis.txt", "must end in .jsonl"),
    ):
        found = alignlab("generate", "tiny", "prompts.jsonl", name, "overwrite=true")
        assert (found.code, told in found.err) == (2, True), (name, found.err)
    assert (run / "run.json").read_text() == "{}"


def test_what_is_wrong_is_told_at_once(alignlab: CLI, prompts: None) -> None:
    found = alignlab("generate", "tiny", "prompts.jsonl", "max_new_token=3", "temperature=-1", "samples=x")
    assert found.code == 2
    assert [text in found.err for text in ("3 problems", "type: max_new_tokens=3", "must be a whole number")] == [
        True
    ] * 3
    assert "is neither a run, a folder, a name on the hub" in alignlab("generate", "nothing", "prompts.jsonl").err
    assert "no such folder" in alignlab("generate", "./nothing", "prompts.jsonl").err
    assert "is trained first (lab_sft)" in alignlab("generate", "lab", "prompts.jsonl").err
    assert "none.jsonl: there is no such file (looked in " in alignlab("generate", "tiny", "none.jsonl").err
    named = alignlab("generate", "./no=thing,(", "prompts.jsonl")
    assert (named.code, "no such folder" in named.err) == (2, True)
    before = Path("prompts.jsonl").read_bytes()
    assert "which the answers would replace" in alignlab("generate", "tiny", "prompts.jsonl", "./prompts.jsonl").err
    assert Path("prompts.jsonl").read_bytes() == before
    assert alignlab("generate").code == 2
    assert "usage" in alignlab("generate", "--help").out


def test_a_conversation_beside_another(alignlab: CLI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n/new\nhello\nmore\n/quit\nnever\n"))
    done = alignlab("chat", "tiny", "--against", "tiny", SHORT)
    assert done.code == 0, done.err
    answers = done.out.split("tiny: ")[1:]
    assert len(answers) == 6
    assert answers[0] == answers[1] == answers[2], "a new conversation begins as the first one did"
    assert answers[4] != answers[2]
    assert "[cut off after 4 tokens]" in done.out


def test_a_line_that_is_too_long_ends_no_conversation(alignlab: CLI, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["hello", "x" * 3000, "more", "/help", "/new", "hello"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    done = alignlab("chat", "tiny", SHORT)
    assert done.code == 1
    first, second, again = done.out.splitlines()
    assert (first, second) == (again, second)
    assert "and the model 2048 positions\n  use a shorter prompt\n  or type /new" in done.err
    assert "/quit ends it" in done.err
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\nmore"))
    assert alignlab("chat", "tiny", SHORT).out.splitlines() == [first, second], "as if the line had not been said"
    monkeypatch.setattr("sys.stdin", io.StringIO("x" * 2000))
    assert "  type: max_new_tokens=" in alignlab("chat", "tiny", "max_new_tokens=500").err


def test_a_conversation_that_can_not_begin(alignlab: CLI) -> None:
    assert "there is no policy before its training" in alignlab("chat", "tiny", "--against", "reference").err
    assert alignlab("chat").code == 2
    assert alignlab("chat", "tiny", "--agains").code == 2
    assert "--against reference" in alignlab("chat", "--help").out


def test_words_of_a_command_line() -> None:
    assert split_words(["a", "samples=3", "./x=y", "--no", "seed=1", "seed=2"]) == (
        ["a", "./x=y", "--no"],
        {"samples": "3", "seed": "2"},
    )
    made = settings_of(Options, {"temperature": "1e-1", "progress": "False", "output_root": "a b"})
    assert (made.temperature, made.progress, made.output_root) == (0.1, False, "a b")
    with pytest.raises(ConfigError) as caught:
        settings_of(Options, {"progress": "perhaps", "seed": "1.5", "temperature": "nan"})
    assert [(p.key, p.allowed) for p in caught.value.problems[:2]] == [
        ("progress", "must be true or false"),
        ("seed", "must be a whole number"),
    ]
