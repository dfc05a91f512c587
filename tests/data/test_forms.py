"""Forms of rows: which columns are the prompt and the answers, what they are called here, and what is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from alignlab.data.conversations import UnusableRowError
from alignlab.data.forms import completion_of, labelled_of, pair_of, prompt_of, ranking_of
from alignlab.data.rows import Completion, Labelled, Pair, Place, PromptOnly, Ranking
from alignlab.data.sources.completions import Completions
from alignlab.data.sources.pairs import Pairs
from alignlab.data.sources.prompts import Prompts
from alignlab.data.sources.rankings import Rankings
from alignlab.data.sources.unpaired import Unpaired
from alignlab.errors import ConfigError, DataError
from tests.conftest import SHARED

SOURCES: dict[str, type[Any]] = {
    "pairs": Pairs, "unpaired": Unpaired, "rankings": Rankings, "completions": Completions, "prompts": Prompts,
}  # fmt: skip


def turn(who: str, text: Any) -> dict[str, Any]:
    return {"role": {"s": "system", "u": "user", "a": "assistant"}[who], "content": text}


def talk(*texts: str) -> list[dict[str, Any]]:
    """Turns from short texts: `u: Hi` is a user turn."""
    return [turn(text[0], text[3:]) for text in texts]


def share(*texts: str) -> list[dict[str, str]]:
    return [{"from": {"s": "system", "u": "human", "a": "gpt"}[text[0]], "value": text[3:]} for text in texts]


def written(folder: Path, *rows: dict[str, Any], name: str = "rows.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


TURNS = ("s: Be kind.", "u: Hi", "a: Yes?", "u: Why?")
ANSWERS = {"chosen": "good", "rejected": "bad"}


@pytest.mark.parametrize(
    ("columns", "prompt"),
    [
        ({"question": "Why?"}, "Why?"),
        ({"instruction": "Why?", "input": ""}, "Why?"),
        ({"instruction": "Sort.", "input": "b a"}, "Sort.\nb a"),
        ({"input": "Why?"}, "Why?"),
        ({"prompt": "Why?", "question": " Why? "}, "Why?"),
        ({"prompt": talk(*TURNS)}, talk(*TURNS)),
        ({"messages": talk(*TURNS)}, talk(*TURNS)),
        ({"messages": talk(*TURNS, "a: good")}, talk(*TURNS)),
        ({"conversations": share(*TURNS)}, talk(*TURNS)),
        ({"conversation": [{"input": "Hi", "output": "Yes?"}, {"input": "Why?", "output": None}]}, talk(*TURNS[1:])),
        ({"conversation": [{"input": "Hi", "output": "Yes?"}, {"input": "Why?", "output": "bad"}]}, talk(*TURNS[1:])),
        ({"system": "Be kind.", "question": "Why?"}, talk("s: Be kind.", "u: Why?")),
        ({"system_prompt": "Be kind.", "conversations": share(*TURNS[1:])}, talk(*TURNS)),
        ({"system": "Be  kind.", "prompt": talk(*TURNS)}, talk(*TURNS)),
        ({"system": "Be kind.", "prompt": talk(*TURNS[1:]), "messages": talk(*TURNS, "a: good")}, talk(*TURNS)),
        ({"system": "", "prompt": "Why?"}, "Why?"),
        ({"system": " ", "instruction": "Why?", "input": "\n"}, "Why?"),
        ({"prompt": "", "question": None}, ""),
    ],
)
def test_the_prompt_in_every_form(columns: dict[str, Any], prompt: Any) -> None:
    assert pair_of({**columns, **ANSWERS}) == Pair(prompt, "good", "bad")
    assert ranking_of({**columns, "completions": ["good", "bad"], "grades": [1, 0]}).prompt == prompt
    if "messages" not in columns and "conversation" not in columns:
        assert completion_of({**columns, "completion": "good"}) == Completion(prompt, "good")


@pytest.mark.parametrize("name", ["completion", "response", "answer", "output"])
def test_single_answers_in_every_form(name: str) -> None:
    assert completion_of({"prompt": "Why?", name: "good"}) == Completion("Why?", "good")
    assert labelled_of({"instruction": "Why?", name: "good", "label": 0}, {}) == Labelled("Why?", "good", False)
    assert not completion_of({"prompt": "Why?", name: "goo", "ended": False}).ended
    for row in (
        {"messages": talk(*TURNS, "a: good")},
        {"conversations": share(*TURNS, "a: good")},
        {
            "system": "Be kind.",
            "conversation": [{"input": "Hi", "output": "Yes?"}, {"input": "Why?", "output": "good"}],
        },
    ):
        assert completion_of(row) == Completion(talk(*TURNS), "good")


def test_prompts_alone() -> None:
    assert prompt_of({"prompt": "Why?"}) == PromptOnly("Why?")
    assert prompt_of({"conversations": share(*TURNS)}).prompt == talk(*TURNS)
    assert prompt_of({"prompt": talk("u: Count.", "a: 1, ")}).prompt == talk("u: Count.", "a: 1, "), "is continued"
    with pytest.raises(UnusableRowError, match="messages ends with an answer\n    type: data=completions"):
        prompt_of({"messages": talk("u: Hi", "a: Yes?")})


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (
            {"prompt": "a", "question": "b"},
            "different prompts\n    type: 'data.columns={question: \"\"}' to read prompt",
        ),
        ({"instruction": "a", "question": "b"}, "'data.columns={prompt: question, instruction: \"\"}'"),
        ({"prompt": "a", "input": "b"}, "prompt and input hold different prompts"),
        ({"system": "x", "system_prompt": "y", "prompt": "a"}, "different system texts"),
        ({"system": "x", "prompt": talk(*TURNS)}, "system is 'x', but the prompt has the system turn 'Be kind.'"),
        ({"instruction": ["a"], "input": "b"}, "instruction must be text"),
        ({"conversations": share(*TURNS, "a: other")}, "conversations ends with an answer that the row does not have"),
        ({"prompt": "a", "chosen_ended": "maybe"}, "chosen_ended must be true or false"),
    ],
)
def test_columns_that_disagree_are_refused(row: dict[str, Any], fault: str) -> None:
    with pytest.raises(UnusableRowError) as caught:
        pair_of({**row, **ANSWERS})
    assert fault in str(caught.value)
    with pytest.raises(UnusableRowError, match="completion and output hold different answers"):
        completion_of({"prompt": "a", "completion": "b", "output": "c"})


def test_the_cut_answers_of_pairs_and_rankings() -> None:
    assert pair_of({"prompt": "a", **ANSWERS, "rejected_ended": 0}) == Pair("a", "good", "bad", rejected_ended=False)
    row = {"prompt": "a", "completions": ["x", "y"], "grades": [1, 2], "ended": [True, "false"]}
    assert ranking_of(row) == Ranking("a", ["x", "y"], [1.0, 2.0], [True, False])
    with pytest.raises(UnusableRowError, match="ended must be a list of the same length"):
        ranking_of({**row, "ended": [True]})


@pytest.mark.parametrize(
    ("label", "labels", "expected"),
    [
        ("good", {}, True), (" Bad", {}, False), ("desirable", {}, True), ("no", {}, False), (1.0, {}, True),
        ("up", {}, True), ("Thumbs_Down", {}, False), ("thumbs-up", {}, True), ("\N{THUMBS DOWN SIGN}", {}, False),
        ("Hilfreich", {"hilfreich": True, "falsch": False}, True), (-1, {"1": True, "-1": False}, False),
        (True, {"true": False, "false": True}, False),
        (-1, {1: True, -1: False}, False), ("5", {5: True, 2.5: False}, True), (5.0, {5: True}, True),
        ("2.5", {5: True, 2.5: False}, False), (5, {"5": True}, True),
    ],
)  # fmt: skip
def test_words_as_labels(label: Any, labels: dict[Any, bool], expected: bool) -> None:
    assert labelled_of({"prompt": "a", "answer": "b", "label": label}, labels).desirable == expected
    with pytest.raises(UnusableRowError, match=r"label must be one of hilfreich \(data.labels\), not 'good'"):
        labelled_of({"prompt": "a", "answer": "b", "label": "good"}, {"hilfreich": True})


def test_labels_that_are_no_words_are_listed(tmp_path: Path) -> None:
    """Once, however many rows have them, and with what is known of them."""
    labels = ["oui", "non", "good", "o là", "non", "oui", None]
    rows = ({"prompt": f"Q{i}", "answer": "a", "label": label} for i, label in enumerate(labels))
    path = written(tmp_path, *rows)
    with pytest.raises(DataError) as caught:
        Unpaired(path=path).labelled("train", None)
    assert str(caught.value).splitlines() == [
        f"{path}: 6 rows can't be used",
        "  row 1: label must be true or false, 1 or 0, not 'oui' (also 1 other row)",
        "  row 2: label must be true or false, 1 or 0, not 'non' (also 1 other row)",
        "  row 4: label must be true or false, 1 or 0, not 'o là'",
        "  row 7: label must be true or false, 1 or 0, not None",
        "  type: 'data.labels={oui: <true or false>, non: <true or false>, good: true, \"o là\": <true or false>}'",
    ]
    path = written(tmp_path, *({"prompt": "Q", "answer": "a", "label": f"w{i}"} for i in range(12)))
    with pytest.raises(
        DataError, match=r"and 7 more\n  there are 12 different labels\n  type: .*w7: <true or false>}'"
    ):
        Unpaired(path=path).labelled("train", None)


def test_labels_that_leave_rows_out(tmp_path: Path) -> None:
    """A label with the value null is left out and counted; the message about a label that is not listed says so."""
    path = written(tmp_path, *({"prompt": f"Q{i}", "answer": "a", "label": i % 5 + 1} for i in range(20)))
    labels: dict[Any, bool | None] = {5: True, 4: True, 3: None, 2: False, 1: False}
    loaded = Unpaired(path=path, eval_path=path, labels=labels).labelled("train", None)
    assert [row.desirable for row in loaded.rows] == [False, False, True, True] * 4
    assert dict(loaded.dropped) == {"label that data.labels leaves out": 4}
    del labels[3]
    with pytest.raises(DataError) as caught:
        Unpaired(path=path, labels=labels).labelled("train", None)
    assert "type: 'data.labels={5: true, 4: true, 2: false, 1: false, 3: null}' to leave such rows out" in str(
        caught.value
    )


def test_the_same_label_twice(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has the same word twice"):
        Unpaired(path="x.jsonl", labels={5: True, "5": False})


def test_limits_take_rows_from_everywhere(tmp_path: Path) -> None:
    """Files are often sorted by label, and several files follow one another."""
    rows = [{"prompt": f"Q{i}", "completion": "A", "label": i < 40} for i in range(80)]
    first, second = written(tmp_path, *rows[:40]), written(tmp_path, *rows[40:], name="second.jsonl")
    source = Unpaired(path=[first, second], eval_path=[first, second], train_limit=4, eval_limit=8)
    train, held_out = source.labelled("train", None), source.labelled("eval", None)
    assert [row.prompt for row in train.rows] == ["Q0", "Q20", "Q40", "Q60"]
    assert [row.desirable for row in held_out.rows] == [True] * 4 + [False] * 4
    assert (train.beyond, held_out.beyond) == (76, 72)
    assert len(Unpaired(path=first, eval_path=first, eval_limit=40).labelled("eval", None).rows) == 40
    prompts = Prompts(path=[first, second], eval_path=[first, second], train_limit=2)
    assert [row.prompt for row in prompts.completions("train").rows] == ["Q0", "Q40"]


def test_columns_are_called_otherwise(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {"q": {"text": f"Q{i}"}, "good": "a", "rejected": "b", "s1": 3.5, "s2": 1, "context": "c", "id": i}
        for i in range(3)
    ]
    path = written(tmp_path, *rows)
    columns = {"prompt": "q.text", "chosen": "good", "margin": "s1 - s2", "context": ""}
    with caplog.at_level(logging.INFO):
        source = Pairs(path=path, eval_path=path, columns=columns)
        assert source.pairs("train", None).rows == [Pair(f"Q{i}", "a", "b", margin=2.5) for i in range(3)]
        source.pairs("eval", None)
    assert [record.getMessage() for record in caplog.records] == [f"{path}: columns not read: id"], "once"
    with pytest.raises(DataError, match=r"has no column best, s3 - s2 \(data.columns\); it has: q, good, rejected, s1"):
        Pairs(path=path, eval_path=path, columns={"chosen": "best", "margin": "s3 - s2"}).pairs("train", None)
    with pytest.raises(DataError, match="row 1: context: such a column is not supported; make it a part of the prompt"):
        Pairs(path=path, eval_path=path, columns={"prompt": "q.text", "chosen": "good"}).pairs("train", None)
    with pytest.raises(ConfigError, match=r"type: 'columns=\{chosen:good\}'"):
        Pairs(path=path, columns={"chosn": "good"})


def test_rows_say_where_they_come_from(tmp_path: Path) -> None:
    """Numbers count the rows of each file from 1, and survive the split, filters and conversions."""
    rows = [{"prompt": f"Q{i}", "chosen": "a" if i else " ", "rejected": "b"} for i in range(10)]
    first, second = written(tmp_path, *rows[:4], name="1.jsonl"), written(tmp_path, *rows[4:], name="2.jsonl")
    source = Pairs(path=[first, second], eval_fraction=0.2)
    found = {row.prompt: row.place for split in ("train", "eval") for row in source.pairs(split, None).rows}
    assert found == {f"Q{i}": Place(first, i + 1) if i < 4 else Place(second, i - 3) for i in range(1, 10)}
    assert source.labelled("eval", None).rows[1].place == source.pairs("eval", None).rows[0].place
    graded = {"prompt": "q", "completions": ["x", "y"], "grades": [1, 2]}
    ranked = Rankings(path=written(tmp_path, graded), eval_path="x")
    assert ranked.pairs("train", None).rows[0].place == Place(str(ranked.path), 1)
    bad = written(tmp_path, {**rows[1], "chosen": 1}, name="3.jsonl")
    with pytest.raises(DataError, match=r"3.jsonl, row 1: chosen must be text"):
        Pairs(path=[first, bad]).pairs("train", None)
    with pytest.raises(ConfigError, match="must be a file, a folder or a hub name, or a list of these"):
        Pairs(path=[first, 3])


def test_splits_and_subsets_of_a_folder(tmp_path: Path) -> None:
    for subset in ("one", "two"):
        (tmp_path / subset).mkdir()
        for split in ("train", "test"):
            written(
                tmp_path / subset,
                *({"prompt": f"{subset} {split} {i}", **ANSWERS} for i in range(3)),
                name=f"{split}.jsonl",
            )
    source = Pairs(path=str(tmp_path), subset="two", eval_split="test")
    assert not list(source.missing())
    assert [row.prompt for row in source.pairs("train", None).rows] == [f"two train {i}" for i in range(3)]
    assert [row.prompt for row in source.pairs("eval", None).rows] == [f"two test {i}" for i in range(3)]
    (problem,) = Pairs(path=str(tmp_path), subset="one", split="dev", eval_split="test").missing()
    assert "has no split dev; it has: train, test\n  type: data.split=train data.eval_split=test" in problem.allowed
    with pytest.raises(ConfigError, match="is the split that the run trains on"):
        Pairs(path="x", split="test", eval_split="test")


def test_a_file_with_a_column_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"split": "test" if i % 3 else "train", "prompt": f"Q{i}", **ANSWERS} for i in range(9)]
    source = Pairs(path=written(tmp_path, *rows), eval_split="test")
    train = source.pairs("train", None).rows
    assert [(row.prompt, row.place and row.place.row) for row in train] == [("Q0", 1), ("Q3", 4), ("Q6", 7)]
    assert len(source.pairs("eval", None).rows) == 6
    with pytest.raises(DataError, match="has no rows of the split dev; it has: train, test"):
        Pairs(path=source.path, eval_split="dev").pairs("eval", None)
    for row in rows:
        del row["split"]
    plain = Pairs(path=written(tmp_path, *rows, name="plain.jsonl"), eval_split="test", eval_fraction=0.3)
    assert len(plain.pairs("eval", None).rows) == 3
    assert (
        "plain.jsonl has no column split, so data.eval_split=test is not used: 0.3 of its rows are held out"
        in caplog.text
    )
    plain.pairs("train", None)
    assert caplog.text.count("has no column split") == 1


def test_splits_that_are_not_used_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"split": "test" if i % 3 else "train", "prompt": f"Q{i}", **ANSWERS} for i in range(9)]
    source = Pairs(path=written(tmp_path, *rows), eval_fraction=0.3)
    for split in ("train", "eval"):
        source.pairs(split, None)
    (told,) = [record.getMessage() for record in caplog.records]
    assert told == (
        f"{source.path}: the rows of all splits are used (train, test)\n  type: data.split=train data.eval_split=test"
    )
    caplog.clear()
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("train", "test"):
        written(folder, *({"prompt": f"{name} {i}", **ANSWERS} for i in range(10)), name=f"{name}.jsonl")
    assert len(Pairs(path=str(folder)).pairs("train", None).rows) == 9
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder}: not read: the split test; 0.1 of the split train is held out\n  type: data.eval_split=test"
    ]
    caplog.clear()
    assert len(Pairs(path=str(folder), eval_split="test").pairs("train", None).rows) == 10
    assert not caplog.records


def test_what_to_type_for_columns_repeats_those_that_are_set(tmp_path: Path) -> None:
    path = written(tmp_path, *({"Question": f"Q{i}", "good": "a", "s 1": 1, "": i} for i in range(3)))
    with pytest.raises(DataError) as caught:
        Pairs(path=path).pairs("train", None)
    assert "it has: Question, good, s 1, (without a name)\n" in str(caught.value)
    any_ = '"<its name>"'  # one of the columns has a name that needs quotes
    assert f"type: 'data.columns={{prompt: {any_}, chosen: {any_}, rejected: {any_}}}'" in str(caught.value)
    with pytest.raises(DataError) as caught:
        Pairs(path=path, columns={"prompt": "Question", "margin": "s 1", "question": ""}).pairs("train", None)
    kept = 'prompt: Question, margin: "s 1", question: ""'
    assert f"type: 'data.columns={{{kept}, chosen: {any_}, rejected: {any_}}}'" in str(caught.value)
    with pytest.raises(DataError) as caught:
        Completions(path=path, columns={"completion": "good"}).completions("train")
    assert f"type: 'data.columns={{completion: good, prompt: {any_}}}'" in str(caught.value)
    with pytest.raises(DataError) as caught:
        Completions(path=path, columns={"prompt": "Question", "completion": "best"}).completions("train")
    assert f"type: 'data.columns={{prompt: Question, completion: {any_}}}', or" in str(caught.value)


def test_names_of_columns_that_need_quotes_are_typed_with_quotes(tmp_path: Path) -> None:
    path = written(tmp_path, *({"q": f"Q{i}", "good": "a"} for i in range(3)))
    names = {"prompt": "Best (v2)", "margin": "a.b", "question": "null", "chosen": "Réponse", "rejected": "2nd"}
    with pytest.raises(DataError) as caught:
        Pairs(path=path, columns=names | {"input": "q"}).pairs("train", None)
    kept = "prompt: <its name>, margin: <its name>, question: <its name>, chosen: <its name>, rejected: <its name>"
    assert f"type: 'data.columns={{{kept}, input: q}}', or" in str(caught.value)
    path = written(tmp_path, *(dict.fromkeys(names.values(), "a") for _ in range(3)))
    with pytest.raises(DataError) as caught:
        Pairs(path=path, columns=names | {"rejected": "x"}).pairs("train", None)
    kept = 'prompt: "Best (v2)", margin: a.b, question: "null", chosen: "Réponse", rejected: "<its name>"'
    assert f"type: 'data.columns={{{kept}}}', or" in str(caught.value)


# file of `cases/own_files` -> source, its settings, and (training rows, held-out rows) or words of the message
OWN_FILES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "alpaca.jsonl": ("completions", {}, (36, 4)),
    "dups.jsonl": ("pairs", {}, (27, 3)),
    "evalsame.jsonl": ("pairs", {}, (9, 1)),
    "few.jsonl": ("pairs", {}, (2, 1)),
    "kto.jsonl": ("unpaired", {}, (36, 4)),
    "kto_ok.jsonl": ("unpaired", {}, (36, 4)),
    "lenbias.jsonl": ("pairs", {}, (27, 3)),
    "long.jsonl": ("pairs", {}, (27, 3)),
    "margin.jsonl": ("pairs", {}, (36, 4)),
    "messages.jsonl": ("completions", {}, (36, 4)),
    "mix7k.jsonl": ("pairs", {"columns": {"margin": "chosen_rating - rejected_rating"}}, (36, 4)),
    "mixed_messages_prompt.jsonl": ("pairs", {}, (36, 4)),
    "null.jsonl": ("pairs", {}, "row 6: chosen is missing or null: fill it in, or remove the row"),
    "orca.jsonl": ("pairs", {}, (36, 4)),
    "pares.json": ("pairs", {}, (36, 4)),
    "pares.jsonl": ("pairs", {}, (36, 4)),
    "preguntas.jsonl": ("prompts", {}, (18, 2)),
    "prompts.jsonl": ("prompts", {}, (36, 4)),
    "same.jsonl": ("pairs", {}, "no row that can be used (identical answers: 30)"),
    "score_kto.jsonl": ("unpaired", {}, (36, 4)),
    "sharegpt.jsonl": ("pairs", {}, (36, 4)),
    "sharegpt_sft.jsonl": ("completions", {}, (36, 4)),
    "solo_chosen.jsonl": ("unpaired", {}, (36, 4)),
    "solo_chosen2.jsonl": ("pairs", {}, "or: data=completions 'data.columns={completion: chosen}'"),
    "swapped.jsonl": ("pairs", {}, (18, 2)),
    "uf.jsonl": ("pairs", {"columns": {"margin": "score_chosen - score_rejected"}}, (36, 4)),
}


@pytest.fixture
def own_files() -> Path:
    folder = SHARED / "cases" / "own_files"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder


def test_no_file_of_the_cases_is_left_out(own_files: Path) -> None:
    assert sorted(file.name for file in own_files.iterdir()) == sorted(OWN_FILES)


@pytest.mark.parametrize("name", OWN_FILES)
def test_own_files_load_by_config_alone_or_are_refused(name: str, own_files: Path) -> None:
    kind, settings, expected = OWN_FILES[name]
    source = SOURCES[kind](path=str(own_files / name), eval_limit=0, **settings)
    problems = list(source.missing())
    if isinstance(expected, str):
        (problem,) = problems
        assert expected in problem.allowed
    else:
        assert not problems
        assert tuple(len(source.usable(split).rows) for split in ("train", "eval")) == expected
