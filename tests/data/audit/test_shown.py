"""Rows as tokens: the text of each token, with characters of several tokens written once."""

from __future__ import annotations

import pytest

from alignlab.data.audit.shown import ShownToken, show_row
from alignlab.data.tokenize import PairTokens
from tests.data.families import FAMILIES, tokenizer_of

TEXT = " yes é你😀 no"


@pytest.mark.parametrize("words", [False, True], ids=["letters", "words"])
@pytest.mark.parametrize("name", ["chatml", "llama2"])
def test_the_tokens_of_a_text_are_its_text(name: str, words: bool) -> None:
    """No space is lost, also with a tokenizer whose decoder drops the first one. No part of a character is shown."""
    tokenizer = tokenizer_of(next(family for family in FAMILIES if family.name == name), words=words)
    ids = tokenizer("It is" + TEXT, add_special_tokens=False)["input_ids"]
    row = show_row(PairTokens(0, ids[:1], ids[1:], [tokenizer.eos_token_id]), tokenizer, None)
    assert "".join(token.text for token in (*row.prompt, *row.answers["chosen"])).strip() == "It is" + TEXT
    assert [token.text for token in row.answers["chosen"] if token.text.strip() and token.text in "é你😀"] == [*"é你😀"]
    assert row.answers["rejected"] == [ShownToken(tokenizer.eos_token, True)]


def test_a_character_that_was_cut_is_shown_as_its_parts() -> None:
    """A prompt that is cut on the left may begin in a character, and an answer may end in one."""
    tokenizer = tokenizer_of(next(family for family in FAMILIES if family.name == "chatml"))
    ids = tokenizer("你ab你", add_special_tokens=False)["input_ids"]
    assert len(ids) == 8
    row = show_row(PairTokens(0, ids[2:], ids[:-1], ids), tokenizer, None)
    assert [token.text for token in row.prompt] == ["\ufffda", "b", "你"]
    assert [token.text for token in row.answers["chosen"]] == ["你", "a", "b", "\ufffd", "\ufffd"]
