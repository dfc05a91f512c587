"""Input that can't be used ends in one message, which names the file, the row and what is allowed. Never a traceback.

Each case is a file (or several), the source that reads it, and the words that its message must have.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from alignlab.data.conversations import prompt_key
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


def parquet(names: list[str] | None = None, **columns: list[Any]) -> bytes:
    """A Parquet file with these columns, under these names if they are given."""
    table = pyarrow.table(columns)
    out = io.BytesIO()
    pyarrow.parquet.write_table(table.rename_columns(names) if names else table, out)
    return out.getvalue()


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
        json.dumps({"version": 1, "data": [GOOD]}).encode(),
        ("must contain a list of rows", "keys version, data: save the list in data as a file of its own"),
        name="rows.json",
    ),
    "JSON, a table of pandas": Case(
        json.dumps({"prompt": {"0": "p"}, "chosen": {"0": "a"}}).encode(), ("to_json(path, orient='records')",),
        name="rows.json",
    ),
    "TSV, commas": Case(b"prompt,chosen,rejected\np,a,b\n", ("separated by ',': name it *.csv",), name="rows.tsv"),
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
        b"Prompt, Chosen ,REJECTED\np,a,b\n",
        ("type: 'data.columns={prompt: \"Prompt\", chosen: \" Chosen \", rejected: \"REJECTED\"}'",),
        name="rows.csv",
    ),
    "Parquet, damaged": Case(b"PAR1 no", ("can't be read",), name="rows.parquet"),
    "folder without rows": Case(None, ("can't be read",), name="folder", files={"folder/README.md": b"# rows\n"}),
    "UTF-16 without a mark": Case(lines(GOOD).decode().encode("utf-16-le"), ("is not UTF-8 (it has zero bytes)",)),
    "UTF-32": Case(lines(GOOD).decode().encode("utf-32"), ("is not UTF-8", "save the file as UTF-8")),
    "Parquet under another name": Case(b"PAR1" + b"\x15\x84" * 9, ("is a Parquet file: name it *.parquet",)),
    "JSON lines as Parquet": Case(lines(GOOD), ("can't be read", "Parquet"), name="rows.parquet"),
    "CSV under another name": Case(b"prompt,chosen,rejected\np,a,b\n", ("line 1", "is not JSON")),
    "xz": Case(b"\xfd7zXZ\0", ("must be one of: .jsonl",), name="rows.jsonl.xz"),
    "JSON, a key twice": Case(
        lines(OTHER) + b'{"prompt": "p", "chosen": "a", "chosen": "c", "rejected": "b"}\n',
        ("line 2", "more than one chosen"),
    ),
    "JSON, a key of a turn twice": Case(
        lines(OTHER) + b'{"prompt": [{"role": "user", "content": "a", "content": "b"}], "chosen": "", "rejected": ""}',
        ("line 2", "more than one content"),
    ),
    "JSON lines, two rows in a line": Case(lines(GOOD)[:-1] + lines(OTHER), ("line 1", "Extra data")),
    "JSON lines, a zero byte": Case(
        lines(OTHER) + b'{"prompt": "p\0", "chosen": "a", "rejected": "b"}\n', ("line 2", "Invalid control character"),
    ),
    "JSON, nested too deep in a row": Case(
        lines(OTHER) + b'{"prompt": ' + b"[" * 9_000 + b"]" * 9_000 + b"}\n", ("line 2", "JSON that can be read"),
    ),
    "JSON, a number of 5,000 digits": Case(lines(OTHER) + b'{"prompt": ' + b"1" * 5_000 + b"}\n", ("line 2",)),
    "JSON, a row that is null": Case(b"[null]", ("row 1", "not null"), name="rows.json"),
    "CSV, two columns without a name": Case(
        b",,prompt,chosen,rejected\n0,0,p,a,b\n", ("more than one column without a name",), name="rows.csv"
    ),
    "CSV, a space before quotes": Case(
        b'prompt,chosen,rejected\nq,a,b\np, "a","b"\n', ("row 2: has a space before the quotes of a cell",),
        name="rows.csv",
    ),
    "CSV, only a header": Case(b"prompt,chosen,rejected\n", ("is empty",), name="rows.csv"),
    "CSV, tabs": Case(
        b"prompt\tchosen\trejected\np\ta\tb\n", ("'\\t': save it with commas, or name it *.tsv",), name="rows.csv"
    ),
    "Parquet, a column twice": Case(
        parquet(prompt=["p"], chosen=["a"], again=["b"], names=["prompt", "chosen", "chosen"]),
        ("more than one column chosen",), name="rows.parquet",
    ),
    "Parquet, bytes": Case(
        parquet(prompt=[b"p"], chosen=["a"], rejected=["b"]), ("row 1", "prompt must be text"), name="rows.parquet"
    ),
    "Parquet, a turn whose content is null": Case(
        parquet(prompt=["p"], chosen=[[{"role": "assistant", "content": None}]], rejected=["b"]),
        ("row 1", "turn 1 of chosen has no text"), name="rows.parquet",
    ),
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
    "conversation as JSON text": bad_pair("holds a list or a turn", chosen=json.dumps([USER, ANSWER])),
    "conversation as Python text": bad_pair("holds a list or a turn", prompt=str([USER])),
    "conversation as numpy text": bad_pair(
        "holds a list or a turn", rejected=f"[{USER}\n {ANSWER}]"
    ),
    "a turn as JSON text": bad_pair("rejected is a text, but it holds", rejected=json.dumps(ANSWER)),
    "a turn as Python text": bad_pair("prompt is a text, but it holds", prompt=f" {USER}\n"),
    "turns with more keys as JSON text": bad_pair("holds a list or a turn", prompt=json.dumps([{"id": 0, **USER}])),
    "turns of a tool as JSON text": bad_pair("holds a list", prompt=str([USER, {"role": "tool", "content": ""}])),
    "an array of turns as text": bad_pair("holds a list or a turn", prompt=f"array([{USER}], dtype=object)"),
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
        "a different conversation from prompt", chosen=[USER, ANSWER], rejected=[USER, ANSWER]
    ),
    "prompt is NaN": bad_pair("prompt must be text or a list", prompt=float("nan")),
    "prompt is a list of conversations": bad_pair("turn 1 of prompt must be a {role, content}", prompt=[[USER]]),
    "prompt is a list of texts": bad_pair("turn 2 of prompt must be a {role, content} message", prompt=["a", "b"]),
    "half a surrogate pair in a turn": bad_pair("half of a surrogate", prompt=[{"role": "user", "content": "\udc00"}]),
    "half a surrogate pair in system": bad_pair("system has half of a surrogate pair", system="\ud800"),
    "system is a list": bad_pair("system must be text", system=["a"]),
    "role in capitals": bad_pair("has the role 'User'", prompt=[{"role": "User", "content": "Hi"}]),
    "a turn of a tool": bad_pair("has the role 'tool'", prompt=[USER, {"role": "tool", "content": "42"}]),
    "an image beside text": bad_pair(
        "part 2 of turn 1",
        prompt=[{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": "b"}]}],
    ),
    "content is an object": bad_pair("turn 1 of prompt must be text", prompt=[{**USER, "content": {"a": 1}}]),
    "an answer that is not ended": bad_pair("chosen_ended must be true or false", chosen_ended="maybe"),
    "label is -1": bad_label("label must be true or false, 1 or 0, not -1", -1),
    "label is 0.5": bad_label("label must be", 0.5),
    "label is empty": bad_label("label must be", ""),
    "label is a list": bad_label("label must be", [True]),
    "grade is a fraction": bad_ranking("grade 1 must be a finite number, not '7/10'", grades=["7/10", "8/10"]),
    "grade is infinite": bad_ranking("grade 2 must be a finite number", grades=[1, float("inf")]),
    "grade is null": bad_ranking("grade 1 must be a finite number, not None", grades=[None, 1]),
    "grades are booleans": bad_ranking("grade 1 must be a finite number, not True", grades=[True, False]),
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
    assert len(CASES) >= 90


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


READ: dict[str, tuple[str, bytes]] = {
    "gzip under another name": ("rows.jsonl", gzip.compress(lines(GOOD))),
    "no gzip under the name of one": ("rows.jsonl.gz", lines(GOOD)),
    "a byte-order mark in the second line": ("rows.jsonl", b"\n\xef\xbb\xbf" + lines(GOOD)),
    "CSV, carriage returns alone": ("rows.csv", b"prompt,chosen,rejected\rp,a,b\r"),
    "CSV, quotes": ("rows.csv", b'"prompt","chosen","rejected"\r\n"p","a","b"\r\n'),
    "CSV, a text that begins with a space and a quote": (
        "rows.csv", b'prompt,chosen,rejected\np,a,b\nq," ""c"" ", d\n'
    ),
    "an object that is no turn": ("rows.jsonl", lines(
        GOOD, {**GOOD, "prompt": '{"role": "admin", "content": "x"}', "chosen": '{"user": "human"}', "rejected": "[1]"}
    )),
    "a key of a turn that is null": (
        "rows.jsonl", lines({**GOOD, "chosen": [{**ANSWER, "content": "a", "name": None}]})
    ),
    "a margin that is no number": ("rows.jsonl", lines({**GOOD, "margin": "7/10"})),
    "ShareGPT": ("rows.jsonl", lines({
        "conversations": [{"from": "human", "value": "p"}], "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    })),
    "Alpaca without input": ("rows.jsonl", lines({"instruction": "p", "input": "", "chosen": "a", "rejected": "b"})),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content"), READ.values(), ids=READ.keys())
def test_strange_input_that_says_what_it_means(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "eval.jsonl").write_bytes(lines(OTHER))
    row, *_ = Pairs(path=str(tmp_path / name), eval_path=str(tmp_path / "eval.jsonl")).pairs("train", None).rows
    assert (prompt_key(row.prompt), row.chosen, row.rejected, row.margin) == ("user: p", "a", "b", None)


def test_accents_of_two_characters_do_not_leak(tmp_path: Path) -> None:
    """The same prompt, with its accent as a part of the letter and after it, is on one side of the split."""
    rows = [{**GOOD, "prompt": f"caf{e} {i}", "chosen": e} for i in range(20) for e in ("\u00e9", "e\u0301")]
    (tmp_path / "rows.jsonl").write_bytes(lines(*rows))
    source = Pairs(path=str(tmp_path / "rows.jsonl"))
    found = [{row.prompt.split()[1] for row in source.pairs(split, None).rows} for split in ("train", "eval")]  # type: ignore[arg-type, union-attr]
    assert (len(found[0]), len(found[1]), found[0] & found[1]) == (18, 2, set())


def test_files_of_a_folder_that_are_in_no_split_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "train.jsonl").write_bytes(lines(GOOD, OTHER))
    (tmp_path / "train.csv").write_bytes(b"prompt,chosen,rejected\nr,a,b\n")
    source = Pairs(path=str(tmp_path))
    assert [len(source.pairs(split, None).rows) for split in ("train", "eval")] == [1, 1]  # type: ignore[arg-type]
    assert caplog.text.count(f"files that are not read, because they are in no split: {tmp_path}/train.csv") == 1


def test_a_hub_out_of_reach() -> None:
    with pytest.raises(UnreachableError, match="nobody/no-such-set can't be reached"):
        Pairs(path="nobody/no-such-set").pairs("train", None)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"drop": ["identicals"]}, "type: 'drop=[identical]'"),
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
