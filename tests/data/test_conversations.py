"""Reading the prompt and the answers of a row: no turn is lost or invented, and unusable rows are rejected."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from alignlab.data.conversations import UnusableRowError, prompt_key, read_conversation, read_prompt
from alignlab.data.rows import Labelled, Pair, Ranking
from alignlab.data.sources.hh_rlhf import HHRLHF
from alignlab.data.sources.pairs import Pairs
from alignlab.data.sources.rankings import Rankings
from alignlab.data.sources.unpaired import Unpaired
from alignlab.errors import DataError


def turn(who: str, text: Any, **more: Any) -> dict[str, Any]:
    return {"role": {"s": "system", "u": "user", "a": "assistant"}.get(who, who), "content": text, **more}


def talk(*texts: str) -> list[dict[str, Any]]:
    """Turns from short texts: `u: Hi` is a user turn."""
    return [turn(text[0], text[3:]) for text in texts]


SHORT, ABOUT, MORE = "s: Short.", "u: Name a river.", ("a: The Rhine.", "u: How long?")


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "expected"),
    [
        ("Name a river.", "Rhine", "no", "Name a river."),
        ("Name a river.", talk("a: Rhine"), "no", "Name a river."),
        (talk(ABOUT, "a: The "), "Rhine", "no", [ABOUT, "a: The "]),
        (talk(ABOUT, "a: The "), talk("a: Rhine"), talk("a: no"), [ABOUT, "a: The "]),
        ("Name a river.", talk("a: Rhine"), talk("a: no"), "Name a river."),
        (talk(ABOUT), "Rhine", talk("a: no"), [ABOUT]),
        ("Name a river.", talk(ABOUT, *MORE, "a: Rhine"), talk(ABOUT, *MORE, "a: no"), [ABOUT, *MORE]),
        (" Name a\nriver. ", talk(ABOUT, *MORE, "a: Rhine"), talk(ABOUT, *MORE, "a: no"), [ABOUT, *MORE]),
        ("How long?", talk(ABOUT, *MORE, "a: Rhine"), talk(ABOUT, *MORE, "a: no"), [ABOUT, *MORE]),
        (talk(ABOUT), talk(ABOUT, *MORE, "a: Rhine"), talk(ABOUT, *MORE, "a: no"), [ABOUT, *MORE]),
        (talk(ABOUT, *MORE), talk(ABOUT, *MORE, "a: Rhine"), talk(ABOUT, *MORE, "a: no"), [ABOUT, *MORE]),
        (talk(ABOUT), talk(*MORE, "a: Rhine"), talk(*MORE, "a: no"), [ABOUT, *MORE]),
        ("Name a river.", talk(*MORE, "a: Rhine"), talk(*MORE, "a: no"), [ABOUT, *MORE]),
        (None, talk(ABOUT, "a: Rhine"), talk(ABOUT, "a: no"), [ABOUT]),
        ([], talk(ABOUT, "a: Rhine"), talk(ABOUT, "a: no"), [ABOUT]),
        ("", talk(ABOUT, "a: Rhine"), talk(ABOUT, "a: no"), [ABOUT]),
        (None, talk(ABOUT, "a: Rhine"), "no", [ABOUT]),
        ("Name a river.", talk(ABOUT, "a: Rhine"), talk("a: no"), [ABOUT]),
        (None, talk(ABOUT, "a: Rhine"), talk("u: Name a  river.\n", "a: no"), [ABOUT]),
        ("Name a river.", talk("s: Short.", ABOUT, "a: Rhine"), talk("s: Short.", ABOUT, "a: no"), [SHORT, ABOUT]),
        ("Name a river.", talk("s: Short.", "a: Rhine"), talk("s: Short.", "a: no"), ["s: Short.", ABOUT]),
        (talk("s: Short.", ABOUT), talk(ABOUT, "a: Rhine"), talk(ABOUT, "a: no"), ["s: Short.", ABOUT]),
        (talk("s: Short."), talk(ABOUT, "a: Rhine"), talk(ABOUT, "a: no"), ["s: Short.", ABOUT]),
        (talk("s: Short.", ABOUT), "Rhine", "no", ["s: Short.", ABOUT]),
        ("Name a river.", turn("a", "Rhine"), turn("a", "no"), "Name a river."),
        ("Name a river.", {"from": "gpt", "value": "Rhine"}, "no", "Name a river."),
        ([{"from": "human", "value": "Name a river."}], "Rhine", [{"from": "gpt", "value": "no"}], [ABOUT]),
        ("", "Rhine", "no", ""),
        ([turn("u", [{"type": "text", "text": t} for t in ("Name a ", "river.")])], "Rhine", "no", [ABOUT]),
        ("Name a river.", [turn("a", [{"type": "text", "text": "Rhine", "image_url": None}])], "no", "Name a river."),
        ("Name a river.", [turn("a", "Rhine", tool_calls=None, name="", refusal=None)], "no", "Name a river."),
    ],
)  # fmt: skip
def test_every_turn_before_the_answer_is_the_prompt(prompt: Any, chosen: Any, rejected: Any, expected: Any) -> None:
    found = read_conversation(prompt, {"chosen": chosen, "rejected": rejected})
    assert found == (talk(*expected) if isinstance(expected, list) else expected, ["Rhine", "no"])


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "fault"),
    [
        ("Cats", talk("u: Dogs", "a: x"), talk("u: Dogs", "a: y"), "chosen is a different conversation from prompt"),
        (talk("u: Cats"), talk("u: Dogs", "a: x"), "y", "user: 'Dogs', and prompt begins with user: 'Cats'"),
        ("Cats", talk("u: Cats", "a: x"), talk("u: Birds", "a: y"), "rejected is a different conversation from prompt"),
        (None, talk("u: Dogs", "a: x"), talk("u: Birds", "a: y"), "chosen and rejected differ before the answer"),
        ("Cats", talk("u: Cats", "a: 1", "u: 2", "a: x"), talk("u: Cats", "a: 3", "u: 2", "a: y"), ": '1', and"),
        ("Cats", talk("u: Cats", "a: 1", "u: 2", "a: x"), talk("u: Cats", "a: y"), "3 turns, and rejected has 1"),
        ("Cats", talk("u: Cats", "a: 1", "u: 2", "a: x"), "y", "differ before the answer"),
        (talk("s: A", "u: Cats"), talk("s: B", "u: Cats", "a: x"), "y", "prompt and chosen differ before the answer"),
        ("Cats", talk("s: A", "u: Cats", "a: x"), talk("s: B", "u: Cats", "a: y"), "'A', and rejected has system: 'B'"),
        (None, talk("u: Cats", "a: So", "a: x"), talk("u: Cats", "a: So", "a: y"), "is an assistant turn too"),
        ("Cats", talk("u: Cats"), "y", "chosen must end with an assistant turn, but ends with one of role user"),
        ("Cats", [], "y", "chosen is an empty conversation"),
        ("Cats", None, "y", "chosen is missing or null"),
        ("Cats", 7, "y", "chosen must be text or a list of {role, content} messages, not 7"),
        ("Cats", ["x"], "y", "turn 1 of chosen must be a {role, content} message, not 'x'"),
        (7, "x", "y", "prompt must be text or a list of {role, content} messages, not 7"),
        (None, "x", "y", "prompt is missing or null, and no answer holds the turns before it"),
        (None, "\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: c", "type data=hh_rlhf"),
        ([], talk("a: x"), "y", "prompt is missing or null, and no answer holds the turns before it"),
        ("Cats", [turn("a", None)], "y", "turn 1 of chosen has no text (content: null)"),
        ("Cats", [turn("a", [])], "y", "turn 1 of chosen has no text (content: [])"),
        ("Cats", [turn("a", 5)], "y", "the content of turn 1 of chosen must be text, not 5"),
        ("Cats", [{"role": "assistant"}], "y", "turn 1 of chosen has no content"),
        ("Cats", [turn("a", None, tool_calls=[{"name": "w"}])], "y", "turn 1 of chosen has tool_calls, but only"),
        ("Cats", [turn("a", "x", reasoning_content="hm", name="Al")], "y", "has reasoning_content, name, but only"),
        ([turn("u", "Cats"), turn("tool", "12")], "x", "y", "turn 2 of prompt has the role 'tool', which must"),
        ([turn("u", [{"type": "image_url", "image_url": "x"}])], "x", "y", "part 1 of turn 1 of prompt must be"),
        ([turn("u", [{"type": "text", "text": "a"}, "b"])], "x", "y", "part 2 of turn 1 of prompt must be {type: text"),
        ("Cats", "\ud83d", "y", "chosen has half of a surrogate pair"),
    ],
)  # fmt: skip
def test_what_tells_of_no_answer_is_refused(prompt: Any, chosen: Any, rejected: Any, fault: str) -> None:
    with pytest.raises(UnusableRowError) as caught:
        read_conversation(prompt, {"chosen": chosen, "rejected": rejected})
    (found,) = caught.value.faults
    assert fault in found


def test_all_faults_of_a_row_are_told() -> None:
    with pytest.raises(UnusableRowError) as caught:
        read_conversation([turn("u", None), turn("x", "y")], {"chosen": 1, "rejected": None})
    assert [fault.split(" ha")[0].split(" m")[0] for fault in caught.value.faults] == [
        "turn 1 of prompt", "turn 2 of prompt", "chosen", "rejected is"
    ]  # fmt: skip


def test_prompts_that_are_equal_but_for_white_space() -> None:
    same = ["a  b\n", " a b", talk("u: a\tb")]
    assert {prompt_key(prompt) for prompt in same} == {"user: a b"}
    others = ["ab", talk("s: a b"), talk("u: a b", "a: c", "u: d"), talk("u: a b assistant: c", "u: d")]
    assert len({prompt_key(prompt) for prompt in others}) == 4
    assert read_prompt(talk("u: a b")) == talk("u: a b")
    for nothing in (None, "", []):
        with pytest.raises(UnusableRowError, match="question is missing or empty"):
            read_prompt(nothing, "question")


def written(folder: Path, *rows: Any) -> str:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "rows.jsonl")


def test_conversations_in_pairs_single_answers_and_rankings(tmp_path: Path) -> None:
    before = ("s: Short.", ABOUT, *MORE)
    good, bad = talk(*before, "a: 1230 km"), talk(*before, "a: long")
    path = written(tmp_path, {"chosen": good, "rejected": bad})
    assert Pairs(path=path, eval_path=path).pairs("train", None).rows == [Pair(talk(*before), "1230 km", "long")]
    for row in ({"messages": good, "prompt": "Name a river."}, {"messages": good}, {"completion": good}):
        path = written(tmp_path, {**row, "label": 1})
        assert Unpaired(path=path, eval_path=path).labelled("train", None).rows == [
            Labelled(talk(*before), "1230 km", True)
        ]
    path = written(tmp_path, {"completions": [good, bad], "grades": [2, "1.5"]})
    assert Rankings(path=path, eval_path=path).rankings("train", None).rows == [
        Ranking(talk(*before), ["1230 km", "long"], [2.0, 1.5], [True, True])
    ]


def test_all_rows_that_can_not_be_used_are_told_together(tmp_path: Path) -> None:
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    bad = [{**good, "chosen": 1, "rejected": None}, {**good, "prompt": talk("x: q")}, {"prompt": "p"}]
    path = written(tmp_path, good, *bad, good, *({**good, "context": "Short."} for _ in range(3)))
    with pytest.raises(DataError) as caught:
        Pairs(path=path, eval_path=path).pairs("train", None)
    head, *lines = str(caught.value).split("\n")
    assert head == f"{path}: 6 rows can't be used"
    assert [line.split(":")[0].strip() for line in lines] == ["row 2", "row 2", "row 3", "row 4", "row 6"]
    assert [line.endswith("(also 1 other row)") for line in lines] == [False, True, False, False, False]
    assert lines[-1].endswith("(also 2 other rows)")


@pytest.mark.parametrize("column", [
    "history", "query", "context", "documents", "tools", "functions", "images", "audios", "video",
])  # fmt: skip
def test_a_part_of_the_conversation_in_a_column_of_its_own_is_refused(column: str, tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    path = written(tmp_path, {**row, column: None}, {**row, column: ["x"]})
    with pytest.raises(DataError, match=f"row 2: {column}: such a column is not supported"):
        Pairs(path=path, eval_path=path).pairs("train", None)


def test_conversations_beside_a_prompt_may_repeat_the_row(tmp_path: Path) -> None:
    """The form of UltraFeedback (binarized): `messages` is the prompt with the chosen answer."""
    before, same = (ABOUT, *MORE), ("u:  Name a\nriver.", *MORE)
    row = {"prompt": talk(*before), "chosen": "1230 km", "rejected": "long"}
    wholes = [talk(*before, "a: 1230 km"), talk(*before, "a: long"), talk(*before), talk(*same), [], None]
    path = written(tmp_path, *({**row, name: w} for w in wholes for name in ("messages", "conversations")))
    assert Pairs(path=path, eval_path=path).pairs("train", None).rows == [Pair(talk(*before), "1230 km", "long")] * 12
    row = {"prompt": "Name a river.", "chosen": talk(*before, "a: x"), "rejected": talk(*before, "a: y")}
    path = written(tmp_path, {**row, "messages": talk(*before, "a: x")})
    assert Pairs(path=path, eval_path=path).pairs("train", None).rows == [Pair(talk(*before), "x", "y")]
    single = {"prompt": "Name a river.", "completion": "Rhine", "label": True}
    path = written(tmp_path, {**single, "messages": talk(ABOUT, "a: Rhine")}, {**single, "messages": talk(ABOUT)})
    assert (
        Unpaired(path=path, eval_path=path).labelled("train", None).rows
        == [Labelled("Name a river.", "Rhine", True)] * 2
    )


@pytest.mark.parametrize("name", ["messages", "conversations"])
@pytest.mark.parametrize(
    ("whole", "fault"),
    [
        (talk(ABOUT, *MORE, "a: Rhine"), "prompt and {} differ before the answer: prompt has 1 turn, and {} has 3"),
        (talk("u: Name a lake.", "a: Rhine"), "user: 'Name a river.', and {} has user: 'Name a lake.'"),
        (talk("s: Short.", ABOUT, "a: Rhine"), "user: 'Name a river.', and {} has system: 'Short.'"),
        (talk("s: Short.", ABOUT), "and {} has system: 'Short.'"),
        (talk(ABOUT, "a: Elbe"), "{} ends with an answer that the row does not have (assistant: 'Elbe')"),
        (talk("u: Lake?", "a: Elbe"), "or remove it)\n  row 1: {} ends with an answer that the row does not have"),
        (talk("a: Rhine"), "prompt and {} differ before the answer"),
        ("Name a river.", "{} must be a list of"),
        ([turn("u", None)], "turn 1 of {} has no text"),
    ],
)
def test_conversations_beside_a_prompt_must_not_disagree(whole: Any, name: str, fault: str, tmp_path: Path) -> None:
    rows = {
        Pairs: {"prompt": "Name a river.", "chosen": "Rhine", "rejected": "no"},
        Unpaired: {"prompt": "Name a river.", "completion": "Rhine", "label": 1},
        Rankings: {"prompt": "Name a river.", "completions": ["Rhine", "no"], "grades": [2, 1]},
    }
    for source, row in rows.items():
        path = written(tmp_path, {**row, name: whole})
        with pytest.raises(DataError) as caught:
            source(path=path, eval_path=path).split_rows("train")
        assert "row 1: " in str(caught.value)
        assert fault.replace("{}", name) in str(caught.value)


def test_columns_are_told_where_the_prompt_is_called_otherwise(tmp_path: Path) -> None:
    path = written(tmp_path, {"frage": "p", "chosen": "a", "rejected": "b"})
    with pytest.raises(DataError, match=r"the columns are: frage, chosen, rejected\n  type: 'data.columns={prompt: "):
        Pairs(path=path, eval_path=path).pairs("train", None)


def test_transcripts_without_an_answer_at_their_end_are_counted(tmp_path: Path) -> None:
    ask = "\n\nHuman: Hi\n\nAssistant:"
    rows = [
        (f"{ask} a", f"{ask} b"),
        (f"{ask} a\n\nHuman: Thanks", f"{ask} b"),
        (f"Note. {ask} a", f"Note. {ask} b"),
        (f"{ask} a\n\nAssistant: b", f"{ask} a\n\nAssistant: c"),
        ("\n\nAssistant: a", "\n\nAssistant: b"),
        ("\n\nHuman: Hi", "\n\nHuman: Hi"),
    ]
    for split in ("train", "test"):
        lines = [json.dumps({"chosen": chosen, "rejected": rejected}) for chosen, rejected in rows]
        (tmp_path / f"x.{split}.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    found = HHRLHF(path=str(tmp_path), subsets=["x"], eval_subsets=["x"]).pairs("train", None)
    assert found.rows == [Pair(talk("u: Hi"), "a", "b")]
    assert dict(found.dropped) == {
        "the last turn is not the assistant's": 1,
        "text before the first turn": 1,
        "two turns of the assistant in a row before the end": 1,
        "no turn before the answer": 1,
        "no answer": 1,
    }
    (tmp_path / "x.train.jsonl.gz").write_bytes(gzip.compress(b'{"chosen": "a"}\n{"chosen": 1, "rejected": null}'))
    with pytest.raises(DataError, match="2 rows can't be used\n  row 1: rejected must be text, not None"):
        HHRLHF(path=str(tmp_path), subsets=["x"], eval_subsets=["x"]).pairs("train", None)
