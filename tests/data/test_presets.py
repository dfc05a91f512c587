"""Public data sets by one line: rows of their documented columns, and the real files that are there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from alignlab.config.paths import conf_dir
from alignlab.config.registry import schemas
from alignlab.data.own_files import OwnFiles
from alignlab.data.rows import Completion, Labelled, Pair, Ranking
from alignlab.data.sources.base import Source
from alignlab.discovery import classes_by_module


def turn(who: str, text: Any) -> dict[str, Any]:
    return {"role": {"s": "system", "u": "user", "a": "assistant"}[who], "content": text}


def talk(*texts: str) -> list[dict[str, Any]]:
    return [turn(text[0], text[3:]) for text in texts]


def preset(name: str, path: Path, *words: str) -> Source:
    """The source that `data=<name> data.path=<path>` makes."""
    written = yaml.safe_load((conf_dir() / "data" / f"{name}.yaml").read_text())
    (schema, _), values = written.pop("defaults"), written
    cls = schemas()["data"][schema.removeprefix("/schema/data/").removesuffix("@_here_")]
    typed = OmegaConf.from_dotlist([f"path={path}", "eval_limit=0", *words])
    config = OmegaConf.merge(OmegaConf.structured(cls), values, typed)
    return cls(**OmegaConf.to_container(config, resolve=True))


U, A, B = "u: Q", "a: good", "a: bad"
GOOD, BAD = talk(U, A), talk(U, B)
BEFORE = ("u: Hi", "a: Yes?", "u: Q")
UF = {"prompt": "Q", "prompt_id": "7", "chosen": GOOD, "rejected": BAD, "messages": GOOD}
ASPECTS = {"correctness": 3, "coherence": 4, "complexity": 1, "verbosity": 2}
SAFE = {"prompt": "Q", "response_0": "bad", "response_1": "good", "better_response_id": 1, "safer_response_id": 0}
REDDIT = {"history": "Q", "human_ref_A": "bad", "human_ref_B": "good", "labels": 0}
ARENA = {"id": 1, "model_a": "x", "model_b": "y", "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0}
TREE = {"lang": "en", "rank": None, "parent_id": None}
OASST = [
    {**TREE, "message_id": "1", "role": "prompter", "text": "Hi"},
    {**TREE, "message_id": "2", "role": "assistant", "text": "Yes?", "parent_id": "1", "rank": 0},
    {**TREE, "message_id": "3", "role": "prompter", "text": "Q", "parent_id": "2"},
    {**TREE, "message_id": "4", "role": "assistant", "text": "bad", "parent_id": "3", "rank": 1.0},
    {**TREE, "message_id": "5", "role": "assistant", "text": "good", "parent_id": "3", "rank": 0.0},
    {**TREE, "message_id": "6", "role": "assistant", "text": "none", "parent_id": "3"},
]


def comparison(first: float, second: float) -> dict[str, Any]:
    question = {"dataset": "eli5", "id": "1", "full_text": "Q"}
    return {"question": question, "answer_0": "bad", "answer_1": "good", "score_0": first, "score_1": second}


PAIR, RANKING = Pair("Q", "good", "bad"), Ranking("Q", ["bad", "good"], [1.0, 3.5], [True, True])

# (preset, words after it, rows of the set, rows as text, rows left out by reason)
PRESETS: list[tuple[str, list[str], list[dict[str, Any]], Sequence[Any], dict[str, int]]] = [
    (
        "ultrafeedback_binarized", [], [{**UF, "score_chosen": 8.0, "score_rejected": 5.5}],
        [Pair(talk(U), "good", "bad", margin=2.5)], {},
    ),
    (
        "ultrafeedback_cleaned", [],
        [{"source": "x", "prompt": "Q", "chosen": GOOD, "chosen-rating": 5, "rejected": BAD, "rejected-rating": 4.5}],
        [Pair(talk(U), "good", "bad", margin=0.5)], {},
    ),
    (
        "ultrafeedback_raw", [],
        [
            {"instruction": "Q", "models": ["x"], "completions": [
                {"response": "bad", "annotations": {"help": {"Rating": "1"}, "honesty": {"Rating": "N/A"}}},
                {"response": "good", "annotations": {"help": {"Rating": "4"}, "honesty": {"Rating": "3"}}},
                {"response": "unrated", "annotations": {"help": {"Rating": "N/A"}}},
            ]},
            {"instruction": "P", "completions": [{"response": "x", "annotations": {"help": {"Rating": "1"}}}]},
            {"instruction": "P", "completions": [{"response": x, "annotations": {"h": {"Rating": "1"}}} for x in "ab"]},
        ],
        [RANKING], {"fewer than two rated answers": 1, "no two grades differ": 1},
    ),
    (
        "dpo_mix_7k", [],
        [{"dataset": "x", "chosen": talk(*BEFORE, A), "rejected": talk(*BEFORE, B), "chosen_rating": 5.0,
          "rejected_rating": 3.0}],
        [Pair(talk(*BEFORE), "good", "bad", margin=2.0)], {},
    ),
    (
        "capybara_dpo", [],
        [{"conversation": [{"input": "Hi", "output": "Yes?"}, {"input": "Q", "output": "other"}], "prompt": "Q",
          "chosen": talk(*BEFORE, A), "rejected": talk(*BEFORE, B), "rating_chosen": 5, "rating_rejected": 1}],
        [Pair(talk(*BEFORE), "good", "bad", margin=4.0)], {},
    ),
    (
        "orca_dpo_pairs", [],
        [
            {"system": "Be kind.", "input": "Q", "chosen": "good", "rejected": "bad", "rating": [9, 5]},
            {"system": "", "question": "Q", "chosen": "good", "rejected": "bad"},
        ],
        [Pair(talk("s: Be kind.", U), "good", "bad"), PAIR], {},
    ),
    (
        "helpsteer2", ["aspect=helpfulness"],
        [
            {"prompt": "Q", "response": "bad", "helpfulness": 1, **ASPECTS},
            {"prompt": "alone", "response": "x", "helpfulness": 1, **ASPECTS},
            {"prompt": "Q", "response": "good", "helpfulness": 3.5, **ASPECTS},
        ],
        [RANKING], {"only one answer to its prompt": 1},
    ),
    (
        "helpsteer2", [],
        [{"prompt": "Hi\n<extra_id_1>Assistant\nYes?\n<extra_id_1>User\nQ", "response": text, "helpfulness": grade,
          **ASPECTS} for text, grade in (("bad", 1), ("good", 3.5))],
        [Ranking(talk(*BEFORE), ["bad", "good"], [1.0, 3.5], [True, True])], {},
    ),
    (
        "helpsteer3", ["subset=''"],
        [{"domain": "x", "language": "en", "context": talk(*BEFORE), "response1": "good", "response2": "bad",
          "overall_preference": preference} for preference in (-2, 0)]
        + [{"context": talk(*BEFORE), "response1": "bad", "response2": "good", "overall_preference": 1}],
        [Pair(talk(*BEFORE), "good", "bad", margin=margin) for margin in (2.0, 1.0)], {"tie": 1},
    ),
    ("skywork_80k", [], [{"chosen": GOOD, "rejected": BAD, "source": "x"}], [Pair(talk(U), "good", "bad")], {}),
    (
        "tulu3_8b", [], [{"id": "1", "prompt": "Q", "chosen": GOOD, "rejected": BAD, "source": "x"}],
        [Pair(talk(U), "good", "bad")], {},
    ),
    (
        "nectar", [],
        [{"prompt": "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Q\n\nAssistant: ", "turns": 2, "answers": [
            {"answer": "bad", "model": "x", "rank": 2.0}, {"answer": "good", "model": "y", "rank": 1.0}]}],
        [Ranking(talk(*BEFORE), ["bad", "good"], [-2.0, -1.0], [True, True])], {},
    ),
    ("pku_saferlhf", [], [SAFE], [PAIR], {}),
    ("pku_saferlhf", ["preferred=safer"], [SAFE], [Pair("Q", "bad", "good")], {}),
    (
        "shp", [], [{**REDDIT, "score_A": a, "score_B": b} for a, b in ((2, 4), (3, 4))], [PAIR],
        {"score ratio below 2": 1},
    ),
    (
        "shp", ["min_ratio=1"], [{**REDDIT, "score_A": a, "score_B": b} for a, b in ((2, 4), (3, 4))],
        [PAIR, PAIR], {},
    ),
    (
        "arena_55k", [],
        [
            {**ARENA, "prompt": '["Q"]', "response_a": '["bad"]', "response_b": '["good"]'},
            {**ARENA, "prompt": '["Hi", "Q"]', "response_a": '["Yes?", "bad"]', "response_b": '["Yes?", "good"]'},
            {**ARENA, "prompt": '["Hi", "Q"]', "response_a": '["x", "bad"]', "response_b": '["y", "good"]'},
            {**ARENA, "prompt": '["Q"]', "response_a": "[null]", "response_b": '["good"]'},
            {**ARENA, "prompt": '["Q"]', "response_a": '["a"]', "response_b": '["b"]', "winner_tie": 1},
        ],
        [Pair(talk(U), "good", "bad"), Pair(talk(*BEFORE), "good", "bad")],
        {"answers differ before the last turn": 1, "a turn without text": 1, "tie": 1},
    ),
    (
        "webgpt", [], [comparison(-0.5, 0.25), comparison(0.0, 0.0)], [Pair("Q", "good", "bad", margin=0.75)],
        {"tie": 1},
    ),
    (
        "oasst1", ["lang=en"], [*OASST, {**OASST[3], "message_id": "7", "lang": "es"}],
        [Ranking(talk(*BEFORE), ["bad", "good"], [-1.0, -0.0], [True, True])],
        {"no rank": 1, "no ranked sibling": 1, "another language": 1},
    ),
    (
        "kto_mix_15k", [],
        [{"dataset": "x", "prompt": talk(U), "completion": talk(A if good else B), "label": good, "rating": 5}
         for good in (True, False)],
        [Labelled(talk(U), "good", True), Labelled(talk(U), "bad", False)], {},
    ),
    (
        "tldr", ["subset=''"],
        [{"info": {"post": "P", "title": "T", "subreddit": "cats"}, "choice": 1, "worker": "w",
          "summaries": [{"text": "bad", "policy": "x"}, {"text": "good", "policy": "y"}]}],
        [Pair("SUBREDDIT: r/cats\n\nTITLE: T\n\nPOST: P\n\nTL;DR:", "good", "bad")], {},
    ),
    ("tldr_sft", [], [{"prompt": "POST: P\n\nTL;DR:", "completion": " good"}], [
        Completion("POST: P\n\nTL;DR:", " good"),
    ], {}),
    (
        "imdb", [],
        [{"text": f"One two three  four{rest}", "label": 0} for rest in ("\tfive.", "\nfive.", "")],
        [Labelled("One two three  four", "\tfive.", False), Labelled("One two three  four", "\nfive.", False)],
        {"not more than 4 words": 1},
    ),
    (
        "dolly", [],
        [{"instruction": "Sort.", "context": context, "response": "good", "category": "x"} for context in ("b a", "")],
        [Completion("Sort.\nb a", "good"), Completion("Sort.", "good")], {},
    ),
    (
        "llama_factory_dpo", [],
        [{"conversations": [{"from": "human", "value": "Q"}], "chosen": {"from": "gpt", "value": "good"},
          "rejected": {"from": "gpt", "value": "bad"}}],
        [Pair(talk(U), "good", "bad")], {},
    ),
    ("llama_factory_kto", [], [{"messages": BAD, "label": False}], [Labelled(talk(U), "bad", False)], {}),
    (
        "llama_factory_alpaca", [], [{"instruction": "Sort.", "input": "b a", "output": "a b"}],
        [Completion("Sort.\nb a", "a b")], {},
    ),
    (
        "rasbt", [],
        [{"instruction": "Sort.", "input": "b a", "output": "good", "rejected": "bad", "chosen": "good"}],
        [Pair("Sort.\nb a", "good", "bad")], {},
    ),
    (
        "self_instruct", [],
        [{"id": "1", "instruction": "Sort.", "instances": [{"input": x, "output": "good"} for x in ("b a", "")]}],
        [Completion("Sort.\nb a", "good"), Completion("Sort.", "good")], {},
    ),
]  # fmt: skip


def test_every_public_set_is_tested() -> None:
    """A preset that names a set, except HH-RLHF, which has tests of its own."""
    made, hh = {"bandit", "lab", "support_desk", "mixture"}, {"hh_rlhf", "hh_helpful_base"}
    own = {"pairs", "unpaired", "rankings", "completions", "prompts", "candidates", "ratings"}
    options = {file.stem for file in (conf_dir() / "data").glob("*.yaml")}
    assert options - made - hh - own == {name for name, *_ in PRESETS}


def test_presets_read_the_columns_of_their_sets(tmp_path: Path) -> None:
    for number, (name, words, rows, expected, dropped) in enumerate(PRESETS):
        file = tmp_path / f"{number}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        source: Any = preset(name, file, f"eval_path={file}", *words)
        assert not list(source.missing()), name
        loaded = source.usable("train")
        assert (name, loaded.rows, dict(loaded.dropped)) == (name, list(expected), dropped)
        assert all(row.place.file == str(file) for row in loaded.rows)


@pytest.mark.parametrize(
    ("name", "file", "train", "held_out"),
    [
        ("llama_factory_alpaca", "llama_factory/alpaca_en_demo.jsonl.gz", 899, 100),
        ("llama_factory_dpo", "llama_factory/dpo_en_demo.jsonl.gz", 270, 30),
        ("llama_factory_kto", "llama_factory/kto_en_demo.jsonl.gz", 270, 30),
        ("rasbt", "rasbt/instruction_data_with_preference.jsonl.gz", 990, 110),
        ("self_instruct", "self_instruct/seed_tasks.jsonl.gz", 157, 18),
        ("self_instruct", "self_instruct/user_oriented_instructions.jsonl.gz", 227, 25),
        ("imdb", "imdb/reviews_10k.jsonl.gz", 5000, 5000),
    ],
)
def test_real_files(name: str, file: str, train: int, held_out: int, shared_data: Path) -> None:
    """All rows of each file are read. No two splits share a prompt, except IMDb's own."""
    source: Any = preset(name, shared_data / file)
    splits = [source.split_rows(split) for split in ("train", "eval")]
    assert [len(loaded.rows) + sum(loaded.dropped.values()) for loaded in splits] == [train, held_out]
    places = [row.place.row for loaded in splits for row in loaded.rows]
    assert len(places) == len(set(places))


def test_all_pairs_of_hh_rlhf(shared_data: Path) -> None:
    subsets = "[helpful-base,harmless-base,helpful-online,helpful-rejection-sampled]"
    loaded = preset("hh_rlhf", shared_data / "hh_rlhf", f"eval_subsets={subsets}").pairs("eval", None)
    assert loaded.dropped["identical answers"] == 36
    assert loaded.dropped["transcripts differ before the last answer"] == 17
    assert loaded.dropped["empty answer"] == 11
    assert len(loaded.rows) + sum(loaded.dropped.values()) == 8552
    assert loaded.dropped["the last turn is not the assistant's"] == 2
    assert len(loaded.rows) == 8552 - 36 - 17 - 11 - 2


def test_a_limit_takes_held_out_rows_from_everywhere(shared_data: Path) -> None:
    reviews: Any = preset("imdb", shared_data / "imdb/reviews_10k.jsonl.gz", "eval_limit=64")  # sorted by label
    assert [row.desirable for row in reviews.labelled("eval", None).rows].count(True) == 32
    source = preset("hh_rlhf", shared_data / "hh_rlhf", "eval_subsets=[helpful-base,harmless-base]", "eval_limit=64")
    files = [Path(row.place.file).name for row in source.pairs("eval", None).rows if row.place]
    assert [files.count(f"{subset}-base.test.jsonl.gz") for subset in ("helpful", "harmless")] == [33, 31]


SOURCES = classes_by_module("alignlab.data.sources", Source)


@pytest.mark.parametrize("name", [name for name, kind in SOURCES.items() if issubclass(kind, OwnFiles)])
def test_a_wrong_column_is_told_with_data_columns(name: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"foo": "a"}\n{"foo": "b"}\n')
    source = SOURCES[name](path=str(tmp_path / "rows.jsonl"))
    (problem,) = source.missing()
    text = str(problem)
    assert "has no column" in text
    assert "it has: foo" in text
    assert "data.columns={" in text


@pytest.mark.parametrize(
    "preset", ["skywork_80k", "arena_55k", "ultrafeedback_cleaned", "helpsteer2", "tldr", "tldr_sft"]
)
def test_what_is_not_verified_is_marked(preset: str) -> None:
    text = (Path(__file__).parents[2] / "docs/sources.md").read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith("|") and f"`{preset}`" in line]
    assert "not verified: " in row
