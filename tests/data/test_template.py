"""An answer ends in training as the chat template ends a turn."""

from __future__ import annotations

from typing import Any

import pytest

from alignlab.data.rows import Message, Prompt, messages_of
from alignlab.data.template import Template, prompt_text
from alignlab.errors import DataError
from tests.data.families import CHATML, FAMILIES, Family, tokenizer_of

ANSWER = "It is 4."


def question(family: Family) -> Prompt:
    asked = [Message(role="user", content="2 + 2?")]
    return [Message(role="system", content="Add."), *asked] if family.system else "2 + 2?"


@pytest.mark.parametrize("words", [False, True], ids=["letters", "words"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_an_answer_ends_as_the_template_ends_its_turn(family: Family, words: bool) -> None:
    tokenizer = tokenizer_of(family, words=words)
    template = Template(tokenizer)
    end = tokenizer.convert_tokens_to_ids(family.end)
    assert template.end_id == end
    assert set(template.ends) == {end, tokenizer.eos_token_id}
    prompt = question(family)
    encoded = template.encode(prompt, [(ANSWER, True), (ANSWER, False)])
    answer, cut = encoded.answers
    written = ANSWER.upper() if family.name == "upper_case" else ANSWER
    assert answer[-1] == end
    assert tokenizer.decode(answer).strip() == f"{written}{family.closing}{family.end}"
    assert end not in cut
    assert template.text(answer) == template.text(cut) == written
    assert encoded.prompt == template.prompt_ids(prompt)
    assert not encoded.moved
    turns = [*messages_of(prompt), {"role": "assistant", "content": ANSWER}]
    own = tokenizer.apply_chat_template(turns, return_dict=False)
    both = [*encoded.prompt, *(answer if family.writes_end else answer[:-1])]
    assert own[: len(both)] == both
    assert not tokenizer.decode(own[len(both) :], skip_special_tokens=True).strip("\n ").removeprefix("<|assistant|>")


def test_a_token_of_the_vocabulary_ends_an_answer_where_the_model_stops_at_it() -> None:
    """To the tokenizer, "~" is ordinary text. Only a generation config can make it an end token."""
    tokenizer = tokenizer_of(Family("t", CHATML.replace("<|im_end|>", "~"), "~"))
    mark = tokenizer.convert_tokens_to_ids("~")
    assert Template(tokenizer).end_id == tokenizer.eos_token_id
    template = Template(tokenizer, stops=[mark, 5])
    assert template.end_id == mark
    assert template.ends == (mark, *sorted({5, tokenizer.eos_token_id}))
    assert template.end_of == "the chat template"


def test_unknown_tokens_end_nothing() -> None:
    """A tokenizer of words whose end token follows a newline, which it does not know."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1, "<end>": 2, "a": 3}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    made.add_special_tokens(["<end>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", unk_token="<unk>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n<end>\n{% endfor %}"
    template = Template(tokenizer)
    assert (template.end_id, template.ends) == (2, (2, 1))


def test_what_ends_an_answer_without_a_chat_template() -> None:
    tokenizer: Any = tokenizer_of(FAMILIES[0])
    tokenizer.chat_template = None
    assert Template(tokenizer, stops=[7]).ends == (tokenizer.eos_token_id, 7)
    assert Template(tokenizer).end_of == "the tokenizer's eos_token"
    tokenizer.eos_token = None
    assert Template(tokenizer, stops=[7]).ends == (7,)
    with pytest.raises(DataError, match="no end-of-sequence token"):
        Template(tokenizer)


def test_a_cut_answer_keeps_what_looks_like_a_closing() -> None:
    """The template's closing text follows an answer only if the answer ended."""
    template = Template(tokenizer_of(next(family for family in FAMILIES if family.name == "text_before")))
    (cut,) = template.encode("?", [("a</answer>", False)]).answers
    assert template.text(cut) == "a</answer>"
    assert template.text([*cut, template.end_id]) == "a"
    assert template.text([*cut, template.ends[1]]) == "a</answer>", "ended by the end of the text, not by the turn's"


def test_a_prompt_as_one_text() -> None:
    turns = [
        Message(role="user", content="a?"),
        Message(role="assistant", content="b"),
        Message(role="user", content="c?"),
    ]
    assert prompt_text("a?") == prompt_text(messages_of("a?")) == "a?"
    assert prompt_text(turns) == "Human: a?\n\nAssistant: b\n\nHuman: c?\n\nAssistant:"
