"""Prompt ids followed by answer ids are the ids of the whole conversation, for any conversation.

The same holds for the plain text of a tokenizer without a chat template. What is supervised decodes to the answer and
its end, also after cutting.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignlab.data.rows import Message, Pair, Prompt
from alignlab.data.template import Template, plain_transcript
from alignlab.data.tokenize import Cutter, tokenize_pairs
from alignlab.errors import DataError
from tests.data.families import FAMILIES, tokenizer_of

FAMILY = {family.name: family for family in FAMILIES}

# Texts around which tokenizers and templates differ: spaces and newlines at both ends, words of the corpus, letters of
# several bytes, thoughts.
WORDS = st.sampled_from(["It", " is", "yes", " no", ".", "\n", "\n\n", "  ", " ", "4", "0, 1", "ü", "你", "-"])
TEXTS = st.lists(WORDS, min_size=1, max_size=5).map("".join).filter(str.strip)
ANSWERS = st.tuples(TEXTS, st.booleans())


@st.composite
def conversations(draw: Any, *, system: bool) -> list[Message]:
    """A conversation that ends with a user's turn, or with the begin of an assistant's turn."""
    texts = draw(st.lists(TEXTS, min_size=1, max_size=4))
    turns = [Message(role="user" if i % 2 == 0 else "assistant", content=text) for i, text in enumerate(texts)]
    return [Message(role="system", content=draw(TEXTS)), *turns] if system else turns


@cache
def prepared(name: str, words: bool) -> tuple[Any, Template]:
    tokenizer = tokenizer_of(FAMILY[name], words=words)
    return tokenizer, Template(tokenizer)


@pytest.mark.parametrize("words", [False, True], ids=["letters", "words"])
@pytest.mark.parametrize("name", FAMILY)
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_ids_are_those_of_the_whole_conversation(name: str, words: bool, data: st.DataObject) -> None:
    family, (tokenizer, template) = FAMILY[name], prepared(name, words)
    prompt = data.draw(conversations(system=family.system))
    answers = data.draw(st.lists(ANSWERS, min_size=1, max_size=3))
    try:
        encoded = template.encode(prompt, answers)
    except DataError:
        assert name in ("gemma3", "one_question_only"), "the others accept these roles"
        return
    for (text, ended), ids in zip(answers, encoded.answers, strict=True):
        turns = [dict(turn) for turn in prompt]
        if turns[-1]["role"] == "assistant":
            turns[-1]["content"] += text
        else:
            turns.append({"role": "assistant", "content": text})
        rendered = tokenizer.apply_chat_template(turns, tokenize=False)
        joint = [*encoded.prompt, *(ids[:-1] if ended else ids)]
        assert rendered.startswith(tokenizer.decode(joint))
        own = tokenizer.apply_chat_template(turns, return_dict=False)
        # Without an end token the last token of an answer may be joined with the text after it.
        certain = len(joint) if ended and family.writes_end else len(joint) - 1
        assert own[:certain] == joint[:certain]
        if ended:
            assert ids[-1] == template.end_id
            assert not family.writes_end or own[len(joint)] == template.end_id
        assert template.text(ids).lower().endswith(text.strip().lower())


@pytest.mark.parametrize("name", ["chatml", "llama2", "gemma3"])
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(prompt=st.one_of(TEXTS, conversations(system=False)), answers=st.lists(ANSWERS, min_size=1, max_size=3))
def test_ids_without_a_template_are_those_of_the_joint_text(name: str, prompt: Prompt, answers: list[Any]) -> None:
    tokenizer, _ = prepared(name, True)
    template = Template(tokenizer, use="none")
    encoded = template.encode(prompt, answers)
    text, space = prompt, ""
    if not isinstance(prompt, str):
        text, space = plain_transcript(prompt), "" if prompt[-1]["role"] == "assistant" else " "
    for (answer, ended), ids in zip(answers, encoded.answers, strict=True):
        joint = tokenizer(f"{text}{space}{answer}", add_special_tokens=True)["input_ids"]
        begin = [] if encoded.prompt[:1] == joint[:1] else [template._begun([])[0]]
        assert [*encoded.prompt, *ids] == [*begin, *joint, *([template.end_id] if ended else [])]
        if not encoded.moved and isinstance(prompt, str):
            assert template.text(ids, prompt) == answer


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    name=st.sampled_from(sorted(FAMILY)),
    pair=st.tuples(TEXTS, TEXTS, TEXTS),
    length=st.integers(2, 60),
    prompt_length=st.integers(1, 59),
)
def test_a_cut_row_keeps_the_end_of_its_prompt_and_the_start_of_its_answers(
    name: str, pair: tuple[str, str, str], length: int, prompt_length: int
) -> None:
    if prompt_length >= length or FAMILY[name].system:
        return
    _, template = prepared(name, True)
    prompt, *answers = pair
    whole = template.encode(prompt, [(answer, True) for answer in answers])
    tokens, report = tokenize_pairs([Pair(prompt, *answers)], template, Cutter(length, prompt_length))
    kept = [ids[: length - len(whole.prompt[-prompt_length:])] for ids in whole.answers]
    if kept[0] == kept[1]:
        assert (tokens, report.dropped.total()) == ([], 1)
        return
    (row,) = tokens
    assert (row.prompt, row.chosen, row.rejected) == (whole.prompt[-prompt_length:], *kept)
    assert report.truncated["prompt"] == (len(whole.prompt) > prompt_length)
    assert report.rows_cut == (row.prompt != whole.prompt or kept != whole.answers)
