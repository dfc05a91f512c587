"""Single and graded answers from files, and pairs converted to them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from alignlab.data import held_out
from alignlab.data.conversations import prompt_key
from alignlab.data.rows import Labelled, Pair, Ranking, Split
from alignlab.data.sources.lab import Lab
from alignlab.data.sources.pairs import Pairs
from alignlab.data.sources.rankings import Rankings
from alignlab.data.sources.unpaired import Unpaired
from alignlab.errors import DataError

SIDES = ("chosen", "rejected")


def written(folder: Path, *rows: dict[str, Any], name: str = "rows.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def test_pairs_are_labelled_answers_and_rankings_of_two() -> None:
    pair = Pair("p", "good", "bad", chosen_ended=False, margin=0.5)
    assert pair.halves() == [Labelled("p", "good", True, ended=False), Labelled("p", "bad", False)]
    assert pair.ranking() == Ranking("p", ["good", "bad"], [1.0, 0.0], [False, True], 0.5)


def test_the_lab_splits_its_pairs(tmp_path: Path) -> None:
    lab = Lab(alphabet="ab", length=2, prompts=2, prompt_length=1, pair_count=10, eval_limit=4)
    table = [[-2.0] * 7] * 2
    pairs = lab.pairs("train", lambda world: table).rows
    labelled = lab.labelled("train", lambda world: table).rows
    assert [row.completion for row in labelled] == [text for pair in pairs for text in (pair.chosen, pair.rejected)]
    assert [row.desirable for row in labelled] == [True, False] * 10
    assert len(lab.rankings("eval", lambda world: table).rows) == 4


@pytest.mark.parametrize("yes", [True, 1, "true", "True", "1"])
def test_labels_in_every_usual_form(yes: Any, tmp_path: Path) -> None:
    no = type(yes)(0) if not isinstance(yes, str) else {"1": "0"}.get(yes, "false")
    rows = [{"prompt": f"p{i}", "completion": f"c{i}", "label": yes if i % 3 else no} for i in range(9)]
    found = Unpaired(path=written(tmp_path, *rows), eval_fraction=0.2).labelled("train", None)
    assert len(found.rows) == 7
    assert all(row.desirable == bool(int(row.prompt[1:]) % 3) for row in found.rows)


def test_labels_from_csv(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,completion,label\na,NA,True\nb,None,False\nc,x,True\n")
    source = Unpaired(path=str(tmp_path / "rows.csv"), eval_path=str(tmp_path / "rows.csv"))
    assert [(r.completion, r.desirable) for r in source.labelled("train", None).rows] == [
        ("NA", True), ("None", False), ("x", True),
    ]  # fmt: skip


def test_conversations_with_labels(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    path = written(tmp_path, {"messages": turns, "label": True})
    (row,) = Unpaired(path=path, eval_path=path).labelled("train", None).rows
    assert row == Labelled([{"role": "user", "content": "Hi"}], "Yes?", True)


def test_a_field_of_a_column_that_is_itself_a_prompt(tmp_path: Path) -> None:
    path = written(tmp_path, {"question": {"text": "2 + 2?", "id": 7}, "chosen": "4", "rejected": "5"})
    (row,) = Pairs(path=path, eval_path=path, columns={"prompt": "question.text"}).pairs("train", None).rows
    assert row == Pair("2 + 2?", "4", "5")


def test_single_answers_are_counted_where_they_are_left_out(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": c, "label": i < 2} for i, c in enumerate(["a", " ", "b", "c"])]
    path = written(tmp_path, *rows)
    source = Unpaired(path=path, eval_path=path)
    labelled, imitated = source.labelled("train", None), source.completions("train")
    assert [row.completion for row in labelled.rows] == ["a", "b", "c"]
    assert dict(labelled.dropped) == {"empty answer": 1}
    assert [row.completion for row in imitated.rows] == ["a"]
    assert dict(imitated.dropped) == {"empty answer": 1, "bad answer": 2}
    with pytest.raises(DataError, match="single answers, but the objective needs pairs"):
        source.pairs("train", None)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"prompt": "p", "completion": "c", "label": 2}, "row 1: label must be true or false, 1 or 0, not 2"),
        ({"prompt": "p", "completion": "c", "label": "fine"}, "row 1: label must be"),
        ({"prompt": "p", "completion": "c", "label": [True]}, "row 1: label must be"),
        ({"prompt": "p", "completion": 5, "label": True}, "row 1: completion must be text or a list of"),
        ({"prompt": "p", "text": "c", "label": True}, "has no column completion; it has: prompt, text, label"),
        (
            {"prompt": "p", "text": "c", "label": True},
            "type: 'data.columns={completion: <its name>}'   or: data=prompts",
        ),
        (
            {"messages": [{"role": "user", "content": "Hi"}], "label": True},
            "row 1: messages must end with an assistant turn",
        ),
        ({"messages": "Human: Hi Assistant: Hello", "label": True}, "row 1: messages must be a list"),
        ({"messages": None, "label": True}, "row 1: messages must be a list"),
    ],
)
def test_unusable_labelled_rows(row: dict[str, Any], text: str, tmp_path: Path) -> None:
    path = written(tmp_path, row)
    with pytest.raises(DataError) as caught:
        Unpaired(path=path, eval_path=path).labelled("train", None)
    assert text in str(caught.value)
    (problem,) = Unpaired(path=path).missing()
    assert problem.key == "path"
    assert text in problem.allowed


def test_rankings(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "completions": ["a", "b", "c"], "grades": [1, 3.5, 2]},
        {"prompt": "q", "completions": ["a", "b"], "grades": [1, 1]},
    ]
    path = written(tmp_path, *rows)
    source = Rankings(path=path, eval_path=path)
    found = source.rankings("train", None)
    assert found.rows == [Ranking("p", ["a", "b", "c"], [1.0, 3.5, 2.0], [True] * 3)]
    assert dict(found.dropped) == {"no two grades differ": 1}
    assert source.pairs("train", None).rows == [Pair("p", "b", "a")], "the best against the worst"


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"completions": ["a", "b"], "grades": [1.0]}, "must be lists of the same length"),
        ({"completions": ["a"], "grades": [1.0]}, "at least two"),
        ({"completions": ["a", " "], "grades": [1.0, 2.0]}, "an answer is empty"),
        ({"completions": ["a", "b"], "grades": [1.0, None]}, "grade 2 must be a finite number, not None"),
        ({"completions": ["a", "b"]}, "has no column grades"),
    ],
)
def test_unusable_rankings(row: dict[str, Any], text: str, tmp_path: Path) -> None:
    path = written(tmp_path, {"prompt": "p", **row})
    with pytest.raises(DataError, match=text):
        Rankings(path=path, eval_path=path).rankings("train", None)


def test_margins_of_pairs(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b", "margin": m} for m in (1, 0.5, None)]
    path = written(tmp_path, *rows)
    assert [r.margin for r in Pairs(path=path, eval_path=path).rankings("train", None).rows] == [1.0, 0.5, None]
    words = written(tmp_path, {**rows[0], "margin": "much better"}, name="words.jsonl")
    assert Pairs(path=words, eval_path=words).pairs("train", None).rows[0].margin is None
    (tmp_path / "gaps.csv").write_text("prompt,chosen,rejected,margin\np,a,b,0.5\np,a,b,\n")
    gaps = str(tmp_path / "gaps.csv")
    assert [r.margin for r in Pairs(path=gaps, eval_path=gaps).pairs("train", None).rows] == [0.5, None]


def test_a_real_set_of_single_answers(shared_data: Path, tmp_path: Path) -> None:
    """LLaMA-Factory's KTO demo: 150 good and 150 bad conversations."""
    content = gzip.decompress((shared_data / "llama_factory/kto_en_demo.jsonl.gz").read_bytes()).decode()
    (tmp_path / "kto.jsonl").write_text(content)
    source = Unpaired(path=str(tmp_path / "kto.jsonl"), eval_path=str(tmp_path / "kto.jsonl"), eval_limit=0)
    rows = source.labelled("train", None).rows
    assert [sum(r.desirable for r in rows), len(rows)] == [150, 300]
    assert all(isinstance(r.prompt, list) and r.prompt[-1]["role"] == "user" for r in rows)


def split_prompts(source: Pairs, split: Split) -> list[str]:
    return [prompt_key(row.prompt) for row in source.pairs(split, None).rows]


def test_no_prompt_is_on_both_sides(tmp_path: Path) -> None:
    """40 prompts, each in four rows with different white space or as a conversation. A tenth of the 160 rows is 16."""
    rows = [
        {"prompt": prompt, "chosen": f"a{i}", "rejected": f"b{i}"}
        for i in range(40)
        for prompt in (f"Q {i}", f" Q  {i}\n", [{"role": "user", "content": f"Q {i}"}], f"Q {i}")
    ]
    source = Pairs(path=written(tmp_path, *rows), eval_limit=0)
    train, held_out = split_prompts(source, "train"), split_prompts(source, "eval")
    assert (len(train), len(held_out)) == (144, 16)
    assert (len(set(train)), len(set(held_out))) == (36, 4)
    assert not set(train) & set(held_out)


def test_all_turns_before_the_answer_make_the_prompt(tmp_path: Path) -> None:
    """Ten conversations with the same first turn are ten different prompts."""
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    rows = [
        {"prompt": [*talk, {"role": "user", "content": f"Q{i}"}], "chosen": "a", "rejected": "b"} for i in range(10)
    ]
    source = Pairs(path=written(tmp_path, *rows), eval_fraction=0.3)
    assert (len(split_prompts(source, "train")), len(split_prompts(source, "eval"))) == (7, 3)


def test_the_split_is_the_same_for_every_order_and_every_shape(tmp_path: Path) -> None:
    pairs = [{"prompt": f"Q{i % 30}", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(60)]
    first = Pairs(path=written(tmp_path, *pairs))
    other = Pairs(path=written(tmp_path, *pairs[::-1], name="turned.jsonl"))
    held_out = set(split_prompts(first, "eval"))
    assert len(held_out) == 3
    assert set(split_prompts(other, "eval")) == held_out
    assert {prompt_key(row.prompt) for row in first.labelled("eval", None).rows} == held_out
    halves = [{"prompt": row["prompt"], "completion": row[k], "label": k == "chosen"} for row in pairs for k in SIDES]
    single = Unpaired(path=written(tmp_path, *halves, name="halves.jsonl"))
    assert {prompt_key(row.prompt) for row in single.labelled("eval", None).rows} == held_out
    graded = [{"prompt": row["prompt"], "completions": [row[k] for k in SIDES], "grades": [2, 1]} for row in pairs]
    ranked = Rankings(path=written(tmp_path, *graded, name="graded.jsonl"))
    assert {prompt_key(row.prompt) for row in ranked.rankings("eval", None).rows} == held_out


def test_rows_are_read_and_divided_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks before a run and both splits read the same file. A changed file is read and divided again."""
    divided: list[int] = []
    monkeypatch.setattr(held_out, "_held_out", lambda rows, *rest: divided.append(len(rows)) or {0})
    source = Pairs(path=written(tmp_path, *({"prompt": p, "chosen": "a", "rejected": "b"} for p in "pqrs")))
    assert list(source.missing()) == []
    assert (len(source.pairs("train", None).rows), len(source.pairs("eval", None).rows)) == (3, 1)
    assert len(source.labelled("train", None).rows) == 6
    assert divided == [4]
    written(tmp_path, *({"prompt": p, "chosen": "a", "rejected": "b"} for p in "pqr"))
    assert len(source.pairs("train", None).rows) == 2
    assert divided == [4, 3]


def test_a_prompt_of_most_rows_is_trained_on(tmp_path: Path) -> None:
    rows = [{"prompt": "Q" if i < 80 else f"Q{i}", "chosen": f"a{i}", "rejected": "b"} for i in range(100)]
    source = Pairs(path=written(tmp_path, *rows))
    assert len(split_prompts(source, "eval")) == 10
    assert "user: Q" not in split_prompts(source, "eval")
    doubled = [{"prompt": f"Q{i % 7}", "chosen": f"a{i}", "rejected": "b"} for i in range(14)]
    held_out = [split_prompts(Pairs(path=written(tmp_path, *some)), "eval") for some in (doubled, doubled[::-1])]
    assert held_out[0] == held_out[1]
    assert len(held_out[0]) == 2
    two = Pairs(path=written(tmp_path, *rows[79:81]), eval_fraction=0.9)
    assert (len(split_prompts(two, "train")), len(split_prompts(two, "eval"))) == (1, 1)


@pytest.mark.parametrize("count", [1, 5])
def test_one_prompt_can_not_be_held_out(count: int, tmp_path: Path) -> None:
    rows = [{"prompt": "Q" + " " * i, "chosen": f"a{i}", "rejected": "b"} for i in range(count)]
    path = written(tmp_path, *rows)
    (problem,) = Pairs(path=path).missing()
    assert "the same prompt, so no part of them can be held out\n  type: data.eval_path=" in problem.allowed
    assert not list(Pairs(path=path, eval_path=path).missing())
    assert len(Pairs(path=path, eval_path=path).pairs("train", None).rows) == count


@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_part_without_a_row_that_can_be_used_is_told_before_the_run(split: Split, tmp_path: Path) -> None:
    """Two of ten prompts are held out. The rows of one split have nothing to learn from."""
    pairs = [{"prompt": f"Q{i}", "chosen": "a", "rejected": "b"} for i in range(10)]
    source = Pairs(path=written(tmp_path, *pairs), eval_fraction=0.2)
    assert not list(source.missing())
    spoilt = [row.prompt for row in source.split_rows(split).rows]
    count, part = {"train": (8, "training"), "eval": (2, "held-out")}[split]
    assert len(spoilt) == count

    graded = [
        {"prompt": r["prompt"], "completions": ["a", "b"], "grades": [1, 1 + (r["prompt"] not in spoilt)]}
        for r in pairs
    ]
    single = [{"prompt": r["prompt"], "completion": " " * (r["prompt"] in spoilt) or "a", "label": True} for r in pairs]
    pairs = [{**r, "rejected": "a" if r["prompt"] in spoilt else "b"} for r in pairs]
    cases: list[tuple[Any, list[dict[str, Any]], str]] = [
        (Pairs, pairs, "identical answers"),
        (Rankings, graded, "no two grades differ"),
        (Unpaired, single, "empty answer"),
    ]
    for kind, rows, reason in cases:
        path = written(tmp_path, *rows)
        (problem,) = kind(path=path, eval_fraction=0.2).missing()
        assert problem.key == "path"
        assert f"the {part} part of {path} has no row that can be used ({reason}: {count})" in problem.allowed
        assert not list(kind(path=path, eval_path=path).missing()), "some rows of the whole file can be used"
        few = written(tmp_path, *(row for row in rows if row["prompt"] in spoilt), name="few.jsonl")
        (problem,) = kind(path=path, eval_path=few).missing()
        assert (problem.key, problem.allowed) == (
            "eval_path",
            f"{few} has no row that can be used ({reason}: {count})",
        )
        assert [p.key for p in kind(path=few, eval_path=few).missing()] == ["path", "eval_path"]
        (problem,) = kind(path=few).missing()
        assert (problem.key, problem.allowed) == ("path", f"{few} has no row that can be used ({reason}: {count})")


SPLITS = [{"prompt": f"p{i}", "chosen": "a", "rejected": "b", "split": ("train", "test")[i % 3 == 0]} for i in range(9)]


def prompts_of(source: Pairs, split: Split) -> set[str]:
    return {str(row.prompt) for row in source.pairs(split, None).rows}


def test_rows_of_all_splits_of_a_file_are_used_only_if_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = Pairs(path=written(tmp_path, *SPLITS))
    assert len(prompts_of(source, "train") | prompts_of(source, "eval")) == 9
    assert "the rows of all splits are used (test, train)\n  type: data.split=train data.eval_split=test" in caplog.text
    caplog.clear()
    chosen = Pairs(path=source.path, eval_split="test")
    assert (prompts_of(chosen, "eval"), len(prompts_of(chosen, "train"))) == ({"p0", "p3", "p6"}, 6)
    only = Pairs(path=source.path, split="test", eval_fraction=0.3)
    assert prompts_of(only, "train") | prompts_of(only, "eval") == {"p0", "p3", "p6"}
    assert not caplog.text


def test_a_split_of_the_held_out_file(tmp_path: Path) -> None:
    train = written(tmp_path, *SPLITS[:2])
    source = Pairs(path=train, eval_path=written(tmp_path, *SPLITS, name="eval.jsonl"), eval_split="test")
    assert prompts_of(source, "eval") == {"p0", "p3", "p6"}
    assert prompts_of(source, "train") == {"p1"}


def test_settings_that_a_file_does_not_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt": f"p{i}", "chosen": "a", "rejected": "b"} for i in range(4)]
    source = Pairs(path=written(tmp_path, *rows), split="test", subset="english")
    assert len(prompts_of(source, "train") | prompts_of(source, "eval")) == 4
    assert "rows.jsonl has no column split: data.split=test is not used" in caplog.text
    assert "rows.jsonl is a file: data.subset=english is not used" in caplog.text
