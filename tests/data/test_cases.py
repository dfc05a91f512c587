"""Small inputs of the shapes that public bug reports describe. What is trained on is what their rows say.

"Whole" is the tokenizer's own rendering of a conversation: the ids of prompt and answer must be its first ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from alignlab.data.rows import Message, Pair, messages_of
from alignlab.data.sources.completions import Completions
from alignlab.data.sources.pairs import Pairs
from alignlab.data.sources.prompts import Prompts
from alignlab.data.sources.unpaired import Unpaired
from alignlab.data.template import Template
from alignlab.data.tokenize import Cutter, PairTokens, tokenize_pairs
from alignlab.errors import DataError
from alignlab.evaluation.questions import read_questions
from alignlab.models.generation import save_model, template_of
from alignlab.models.sources.base import load_tokenizer
from tests.conftest import Result
from tests.data.families import FAMILIES, tokenizer_of

CHAT = ("template_without_generation_prompt", "trailing_space_template/plainrole", "end_token_added_not_named/phi3",
        "end_token_added_not_named/llama3_orig", "exported_eos/qwen_base")  # fmt: skip


def pairs_of(path: Path, **fields: Any) -> list[Pair]:
    """All rows of a file, in its order."""
    source = Pairs(path=str(path), **fields)
    rows = [*source.pairs("train", None).rows, *source.pairs("eval", None).rows]
    return sorted(rows, key=lambda row: row.place.row if row.place else 0)


def chatml() -> Any:
    return tokenizer_of(next(family for family in FAMILIES if family.name == "chatml"), words=True)


def tokens_of(row: Pair, template: Template) -> PairTokens:
    (tokens,), _ = tokenize_pairs([row], template, Cutter(512, 384))
    return tokens


def whole_of(tokenizer: Any, row: Pair, answer: str) -> list[int]:
    turns = [*messages_of(row.prompt), Message(role="assistant", content=answer)]
    return list(tokenizer.apply_chat_template(turns, return_dict=False))


def refusal(load: Callable[[], Any]) -> str:
    with pytest.raises(DataError) as raised:
        load()
    return str(raised.value)


def test_shared_turns_are_the_prompt(shared_cases: Path) -> None:
    tokenizer, rows = chatml(), pairs_of(shared_cases / "multiturn_in_chosen/pairs.jsonl")
    assert len(rows) == 4
    for i, row in enumerate(rows):
        assert [turn["content"] for turn in messages_of(row.prompt)] == [
            f"Name a river, number {i}.", "The Rhine.", "And how long is it?"
        ]  # fmt: skip
        tokens = tokens_of(row, Template(tokenizer))
        for ids, answer in ((tokens.chosen, f"About 1230 km ({i})."), (tokens.rejected, f"Very long ({i}).")):
            assert tokenizer.decode(ids) == f"{answer}<|im_end|>"
            assert whole_of(tokenizer, row, answer)[: len(tokens.prompt) + len(ids)] == [*tokens.prompt, *ids]


def test_conversations_that_disagree_are_refused(shared_cases: Path) -> None:
    path = shared_cases / "conversation_disagrees/pairs.jsonl"
    text = refusal(lambda: pairs_of(path))
    assert f"{path}: 4 rows can't be used" in text
    assert "row 1: chosen is a different conversation from prompt" in text


def test_a_system_turn_stands_in_the_prompt(shared_cases: Path) -> None:
    row = pairs_of(shared_cases / "system_in_chosen/pairs.jsonl")[0]
    assert row.prompt == [
        {"role": "system", "content": "Answer in French."},
        {"role": "user", "content": "Say hello 0."},
    ]
    assert (row.chosen, row.rejected) == ("Bonjour 0.", "Hello 0.")


@pytest.mark.parametrize(
    ("name", "source", "faults"),
    [
        ("pairs.jsonl", Pairs, ["row 1: turn 1 of chosen has tool_calls", "(also 3 other rows)"]),
        ("history.jsonl", Pairs, ["row 1: turn 2 of prompt has tool_calls", "turn 3 of prompt has tool_call_id"]),
        ("kto.jsonl", Unpaired, ["row 1: turn 2 of messages has tool_calls"]),
    ],
)
def test_tool_calls_are_refused_by_name(name: str, source: type[Any], faults: list[str], shared_cases: Path) -> None:
    path = shared_cases / "tool_calls" / name
    text = refusal(lambda: source(path=str(path)).usable("train"))
    assert f"{path}: 4 rows can't be used" in text
    assert all(fault in text for fault in faults), text


def test_parts_of_text_are_joined(shared_cases: Path) -> None:
    row = pairs_of(shared_cases / "content_parts/pairs.jsonl")[1]
    assert messages_of(row.prompt) == [{"role": "user", "content": "Say hello 1."}]
    assert (row.chosen, row.rejected) == ("Hello 1.", "Go away 1.")


def test_texts_that_were_rendered_before(shared_cases: Path) -> None:
    """They are refused by `template=auto`. With `template=none` the end is written once."""
    path, tokenizer = shared_cases / "prerendered_strings/pairs.jsonl", chatml()
    rows = pairs_of(path)
    text = refusal(lambda: tokenize_pairs(rows, Template(tokenizer), Cutter(512, 384)))
    assert f"{path}, row 1: its texts hold marks" in text
    assert "type data.template=none" in text
    tokens = tokens_of(rows[0], Template(tokenizer, use="none"))
    assert tokenizer.decode(tokens.prompt) == "<|im_start|>user\nSay hello 0.<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(tokens.chosen) == "Hello 0.<|im_end|>"
    turns = [Message(role="user", content="Say hello 0."), Message(role="assistant", content="Hello 0.")]
    assert [*tokens.prompt, *tokens.chosen] == tokenizer.apply_chat_template(turns, return_dict=False)[:-1]


@pytest.mark.parametrize(
    ("name", "chosen", "rejected"),
    [
        ("strings.jsonl", "2021-03-01 10:00:00", "1999-03-01 10:00:00"),
        ("messages.jsonl", "2021-03-01", "1999-03-01"),
        ("zeros.csv", "01230", "NULL"),
    ],
)
def test_texts_stay_texts(name: str, chosen: str, rejected: str, shared_cases: Path) -> None:
    row = pairs_of(shared_cases / "dates_become_timestamps" / name)[0]
    assert (row.chosen, row.rejected) == (chosen, rejected)


def test_an_assistants_turn_at_the_end_of_the_prompt_is_continued(shared_cases: Path) -> None:
    tokenizer, row = chatml(), pairs_of(shared_cases / "assistant_prefill/pairs.jsonl")[0]
    tokens = tokens_of(row, Template(tokenizer))
    turns = [{"role": "user", "content": "Count from 0."}, {"role": "assistant", "content": "Sure: 0, 1"}]
    assert [*tokens.prompt, *tokens.chosen] == tokenizer.apply_chat_template(turns, return_dict=False)[:-1]
    assert tokenizer.decode(tokens.chosen).lstrip() == "0, 1<|im_end|>"


def test_questions_with_a_byte_order_mark(shared_cases: Path) -> None:
    questions = read_questions(str(shared_cases / "bom_in_questions/questions.json"))
    assert [question.prompt for question in questions] == ["Hi"]


@pytest.mark.parametrize("name", CHAT)
def test_ids_are_those_of_the_whole_conversation(name: str, shared_cases: Path) -> None:
    configs, tokenizer = load_tokenizer(str(shared_cases / name))
    template = template_of(configs, tokenizer)
    for prompt, answer in (("Say hello 0.", "Hello 0."), ("Is it 4?", "0, 1"), ("Why?", "  It is.")):
        row = Pair(prompt, answer, "no")
        tokens, whole = tokens_of(row, template), whole_of(tokenizer, row, answer)
        ended = template.end_id in whole[-2:]  # else the template leaves out the end of the last turn
        joint = [*tokens.prompt, *(tokens.chosen if ended else tokens.chosen[:-1])]
        assert joint == whole[: len(joint)]
        assert tokens.chosen[-1] == template.end_id
        assert tokenizer.decode(tokens.chosen[:-1]).strip() == answer.strip()


def test_without_a_template_the_joint_text_is_tokenized(shared_cases: Path) -> None:
    configs, tokenizer = load_tokenizer(str(shared_cases / "metaspace_boundary/llama2_base"))
    row = Pair("Two and two is", " four.", " five.")
    tokens = tokens_of(row, template_of(configs, tokenizer))
    assert [*tokens.prompt, *tokens.chosen[:-1]] == tokenizer("Two and two is four.")["input_ids"]
    assert tokens.chosen[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("name", "end", "stops"),
    [
        ("end_token_added_not_named/phi3", "<|end|>", {0, 3}),
        ("end_token_added_not_named/llama3_orig", "<|eot_id|>", {1, 4}),
        ("exported_eos/qwen_base", "<|im_end|>", {0, 2}),
    ],
)
def test_the_saved_policy_stops_where_it_was_trained_to(
    name: str, end: str, stops: set[int], shared_cases: Path, tmp_path: Path
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    folder = str(shared_cases / name)
    configs, tokenizer = load_tokenizer(folder)
    template = template_of(configs, tokenizer)
    assert tokenizer.convert_ids_to_tokens(template.end_id) == end
    assert set(template.ends) == stops
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    model.generation_config = configs.generation_config
    save_model(model, tokenizer, tmp_path)
    assert set(GenerationConfig.from_pretrained(tmp_path).eos_token_id) == stops


OWN: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "uf.jsonl": (Pairs, {}),
    "mix7k.jsonl": (Pairs, {}),
    "orca.jsonl": (Pairs, {}),
    "sharegpt.jsonl": (Pairs, {}),
    "sharegpt_sft.jsonl": (Completions, {}),
    "alpaca.jsonl": (Completions, {}),
    "messages.jsonl": (Completions, {}),
    "mixed_messages_prompt.jsonl": (Pairs, {}),
    "prompts.jsonl": (Prompts, {}),
    "preguntas.jsonl": (Prompts, {}),
    "pares.jsonl": (Pairs, {}),
    "pares.json": (Pairs, {}),
    "kto.jsonl": (Unpaired, {}),
    "kto_ok.jsonl": (Unpaired, {}),
    "score_kto.jsonl": (Unpaired, {}),
    "solo_chosen.jsonl": (Unpaired, {}),
    "solo_chosen2.jsonl": (Completions, {"columns": {"completion": "chosen"}}),
    "margin.jsonl": (Pairs, {}),
    "long.jsonl": (Pairs, {}),
    "lenbias.jsonl": (Pairs, {}),
    "evalsame.jsonl": (Pairs, {}),
    "few.jsonl": (Pairs, {}),
    "dups.jsonl": (Pairs, {}),
    "swapped.jsonl": (Pairs, {}),
}


@pytest.mark.parametrize("name", OWN)
def test_every_row_that_users_bring_is_read(name: str, shared_cases: Path) -> None:
    source_class, fields = OWN[name]
    path = shared_cases / "own_files" / name
    text = path.read_text(encoding="utf-8")
    there = json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.split("\n") if line]
    source = source_class(path=str(path), **fields)
    loaded = [source.usable(split) for split in ("train", "eval")]
    places = [row.place.row for part in loaded for row in part.rows]
    assert sorted(places) == list(range(1, len(there) + 1))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("null.jsonl", ["can't be used", "is missing or null"]),
        ("solo_chosen2.jsonl", ["has no column rejected", "data=completions"]),
    ],
)
def test_what_is_refused_names_the_file_and_what_to_type(name: str, words: list[str], shared_cases: Path) -> None:
    path = shared_cases / "own_files" / name
    text = refusal(lambda: pairs_of(path))
    assert str(path) in text
    assert all(word in text for word in words), text


def audited(alignlab: Callable[..., Result], path: Path, *more: str) -> Mapping[str, Any]:
    result = alignlab("check", "--json", "model=tiny", "data=pairs", f"data.path={path}", *more)
    (audit,) = json.loads(result.out)["audits"].values()
    return {finding["name"]: finding for finding in [*audit["errors"], *audit["warnings"]]} | {"code": result.code}


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("dups.jsonl", "duplicate"),
        ("swapped.jsonl", "swapped"),
        ("lenbias.jsonl", "length_bias"),
    ],
)
def test_what_the_check_finds_in_rows_that_users_bring(
    name: str, finding: str, shared_cases: Path, alignlab: Callable[..., Result]
) -> None:
    found = audited(alignlab, shared_cases / "own_files" / name)
    assert found["code"] == 0
    assert finding in found
