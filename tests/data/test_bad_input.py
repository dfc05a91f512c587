"""Input that can't be used ends in one message, which names the file, the row and what is allowed. Never a traceback.

Each case is a file (or several), the source that reads it, and the words that its message must have.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from alignlab.data.rows import Split
from alignlab.data.sources.base import Source
from alignlab.data.sources.hh_rlhf import HHRLHF
from alignlab.data.sources.pairs import Pairs
from alignlab.data.sources.rankings import Rankings
from alignlab.data.sources.unpaired import Unpaired
from alignlab.errors import AlignlabError, ConfigError, UnreachableError

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}
GOOD = {"prompt": "p", "chosen": "a", "rejected": "b"}
OTHER = {"prompt": "q", "chosen": "a", "rejected": "b"}
LABELLED = {"prompt": "p", "completion": "a", "label": True}
RANKED = {"prompt": "p", "completions": ["a", "b"], "grades": [1, 2]}


@dataclass(frozen=True)
class Case:
    """A bad input.

    words:  what its message must have, besides the name of the file.
    source: class of the source that reads it.
    name:   the file that is wrong, below the folder of the test.
    files:  further files.
    fields: of the source, besides the path.
    """

    content: bytes | None
    words: tuple[str, ...]
    source: type[Any] = Pairs
    name: str = "rows.jsonl"
    files: Mapping[str, bytes] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def bad_pair(words: str, **changes: Any) -> Case:
    """A second row that is wrong, after one that is right."""
    return Case(lines(OTHER, {**GOOD, **changes}), ("row 2", words))


def bad_label(words: str, label: Any) -> Case:
    return Case(lines(LABELLED, {**LABELLED, "label": label}), ("row 2", words), Unpaired)


def bad_ranking(words: str, **changes: Any) -> Case:
    return Case(lines(RANKED, {**RANKED, **changes}), ("row 2", words), Rankings)


CASES = {
    # files
    "no such file": Case(None, ("no such file", "type: data.path=")),
    "another format": Case(b"prompt", ("must be one of: .jsonl, .json, .parquet, .csv",), name="rows.txt"),
    "empty file": Case(b"", ("is empty",)),
    "only empty lines": Case(b"\n\n", ("is empty",)),
    "truncated gzip": Case(gzip.compress(lines(GOOD) * 50, mtime=0)[:-9], ("can't be read",), name="rows.jsonl.gz"),
    "invalid UTF-8": Case(lines(GOOD) + b'{"prompt": "caf\xe9"}\n', ("line 2 is not UTF-8", "save the file as UTF-8")),
    "UTF-16": Case("".join(json.dumps(GOOD)).encode("utf-16"), ("is not UTF-8",)),
    "JSON lines, one cut off": Case(lines(GOOD) + b'{"prompt": "q", "cho\n', ("line 2", "is not JSON")),
    "JSON lines, one not an object": Case(lines(GOOD, 5), ("line 2", "must be an object with named columns, not 5")),
    "JSON, cut off": Case(json.dumps([GOOD]).encode()[:-1], ("is not JSON",), name="rows.json"),
    "JSON, one object": Case(
        json.dumps({"data": [GOOD]}).encode(), ("must contain a list of rows", "data"), name="rows.json"
    ),
    "JSON, a number": Case(b"5", ("must contain a list of rows",), name="rows.json"),
    "JSON, a list of texts": Case(b'["a", "b"]', ("row 1", "must be an object"), name="rows.json"),
    "JSON, nested too deep": Case(b"[" * 100_000, ("is not JSON",), name="rows.json"),
    "CSV, a row with too many cells": Case(
        b"prompt,chosen,rejected\np,a,b\nq,a,b,c\n", ("row 2", "has 4 cells, but the header has 3"), name="rows.csv"
    ),
    "CSV, a column twice": Case(
        b"prompt,chosen,chosen\np,a,b\n", ("more than one column chosen",), name="rows.csv"
    ),
    "CSV, an open quote": Case(b'prompt,chosen,rejected\np,"a,b\n', ("is not CSV",), name="rows.csv"),
    "CSV, semicolons": Case(
        b"prompt;chosen;rejected\np;a;b\n", ("separated by ';': save it with commas",), name="rows.csv"
    ),
    "CSV, names in another case": Case(
        b"Prompt, Chosen ,REJECTED\np,a,b\n", ("type: 'data.columns={chosen: \" Chosen \", rejected: \"REJECTED\"}'",),
        name="rows.csv",
    ),
    "Parquet, damaged": Case(b"PAR1 no", ("can't be read",), name="rows.parquet"),
    "folder without rows": Case(None, ("can't be read",), name="folder", files={"folder/README.md": b"# rows\n"}),
    # columns
    "missing column": Case(lines({"prompt": "p", "chosen": "a"}), ("rejected", "it has: prompt, chosen")),
    "missing label": Case(lines({"prompt": "p", "completion": "a"}), ("label",), Unpaired),
    "missing grades": Case(lines({"prompt": "p", "completions": ["a", "b"]}), ("grades",), Rankings),
    "images": bad_pair("images", images=["cat.png"]),
    "tools": bad_pair("tools", tools=[{"name": "search"}]),
    # rows
    "prompt is a number": bad_pair("prompt must be text or a list", prompt=5),
    "prompt is null": bad_pair("prompt is missing or null", prompt=None),
    "answer is null": bad_pair("chosen is missing or null", chosen=None),
    "answer is a number": bad_pair("rejected must be text or a list", rejected=1.5),
    "half a surrogate pair": bad_pair("half of a surrogate pair", chosen="\ud83d"),
    "empty conversation": bad_pair("chosen is an empty conversation", chosen=[]),
    "conversation as JSON text": bad_pair("holds a list as some programs write it", chosen=json.dumps([USER, ANSWER])),
    "conversation as Python text": bad_pair("holds a list as some programs write it", prompt=str([USER])),
    "conversation as numpy text": bad_pair(
        "holds a list as some programs write it", rejected=f"[{USER}\n {ANSWER}]"
    ),
    "parts as text": bad_pair("or put the text into a turn", chosen=str([{"type": "text", "text": "a"}])),
    "tool calls in a column": bad_pair("'data.columns={tool_calls: \"\"}'", tool_calls=[{"name": "search"}]),
    "a thought beside the content": bad_pair(
        "has reasoning_content", chosen=[{**ANSWER, "reasoning_content": "Hm."}]
    ),
    "parts that are no objects": bad_pair("part 1 of turn 1", chosen=[{**ANSWER, "content": ["a", "b"]}]),
    "unknown role": bad_pair("has the role 'narrator'", prompt=[{"role": "narrator", "content": "Once"}]),
    "turn without content": bad_pair("turn 1 of chosen has no content", chosen=[{"role": "assistant"}]),
    "content is null": bad_pair("has no text", chosen=[{"role": "assistant", "content": None}]),
    "content is an image": bad_pair(
        "must be {type: text, text: ...}", chosen=[{"role": "assistant", "content": [{"type": "image"}]}]
    ),
    "tool calls": bad_pair(
        "tool_calls", chosen=[{"role": "assistant", "content": "", "tool_calls": [{"name": "search"}]}]
    ),
    "answer ends with the user": bad_pair("must end with an assistant turn", chosen=[ANSWER, USER]),
    "conversations that differ": bad_pair(
        "differ before the answer", prompt=None, chosen=[USER, ANSWER], rejected=[{**USER, "content": "Bye"}, ANSWER]
    ),
    "another conversation than the prompt": bad_pair(
        "another conversation than prompt", chosen=[USER, ANSWER], rejected=[USER, ANSWER]
    ),
    "label is NaN": bad_label("label must be", float("nan")),
    "label is 2": bad_label("label must be", 2),
    "label is an unknown word": bad_label("label must be", "perhaps"),
    "label is null": bad_label("label must be", None),
    "grades of another length": bad_ranking("must be lists of the same length", grades=[1]),
    "one answer to rank": bad_ranking("at least two", completions=["a"], grades=[1]),
    "grade is NaN": bad_ranking("grade 2 must be a finite number", grades=[1, float("nan")]),
    "grade is a word": bad_ranking("grade 1 must be a finite number, not 'good'", grades=["good", 1]),
    "empty answer to rank": bad_ranking("an answer is empty", completions=["a", " "]),
    # rows that are read, but of which none is left
    "all pairs identical": Case(
        lines(*({**GOOD, "prompt": prompt, "rejected": "a"} for prompt in "pqr")),
        ("has no row that can be used", "identical answers: "),
    ),
    "all answers empty": Case(
        lines(*({**LABELLED, "prompt": prompt, "completion": ""} for prompt in "pqr")),
        ("has no row that can be used", "empty answer: "),
        Unpaired,
    ),
    "all grades equal": Case(
        lines(*({**RANKED, "prompt": prompt, "grades": [1, 1]} for prompt in "pqr")),
        ("has no row that can be used", "no two grades differ: "),
        Rankings,
    ),
    "one prompt for all rows": Case(
        lines(GOOD, {**GOOD, "chosen": "c"}), ("the same prompt", "type: data.eval_path="),
    ),
    "empty held-out file": Case(
        b"", ("is empty",), name="eval.jsonl", files={"rows.jsonl": lines(GOOD)}, fields={"path": "rows.jsonl"}
    ),
    # HH-RLHF
    "unknown subset": Case(
        None, ("no such subset", "there are: helpful-base"), HHRLHF, "hh",
        {"hh/helpful-base.test.jsonl.gz": gzip.compress(lines({"chosen": "a", "rejected": "b"}))},
        {"subsets": ["helpful"], "eval_subsets": ["helpful-base"]},
    ),
    "transcript is a list": Case(
        None, ("harmless-base.test.jsonl.gz", "row 1", "chosen must be text, not []"), HHRLHF, "hh",
        {
            f"hh/{name}.test.jsonl.gz": gzip.compress(lines({"chosen": [], "rejected": "b"}))
            for name in ("helpful-base", "harmless-base")
        },
        {"subsets": ["harmless-base"], "eval_subsets": ["helpful-base"]},
    ),
}  # fmt: skip


def message(source: Source) -> str:
    """The message of everything that is wrong: with the files first, then with the rows of both splits."""
    problems = [problem.under("data") for problem in source.missing()]
    if problems:
        return str(ConfigError(problems))
    splits: tuple[Split, ...] = ("train", "eval")
    try:
        for split in splits:
            source.completions(split)
    except AlignlabError as error:
        return str(error)
    return ""


def test_at_least_forty_kinds() -> None:
    assert len(CASES) >= 50


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_one_message(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    contents = {**case.files, **({} if case.content is None else {case.name: case.content})}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    key = "eval_path" if "path" in case.fields else "path"
    told = message(case.source(**{key: case.name}, **case.fields))
    assert case.name in told
    for words in case.words:
        assert words in told
    assert "Traceback" not in told


def test_a_hub_out_of_reach() -> None:
    with pytest.raises(UnreachableError, match="nobody/no-such-set can't be reached"):
        Pairs(path="nobody/no-such-set").pairs("train", None)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"drop": ["identicals"]}, "type: drop=[identical]"),
        ({"max_length": 10, "max_prompt_length": 10}, "smaller than max_length (10)"),
        ({"eval_fraction": 1.0}, "must lie in [0.0, 0.9]"),
        ({"eval_fraction": 0.0}, "leaves no rows to evaluate on"),
        ({"train_limit": -1}, "must be at least 0"),
    ],
)
def test_wrong_settings(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Pairs(path="rows.jsonl", **fields)
    assert words in str(caught.value)
