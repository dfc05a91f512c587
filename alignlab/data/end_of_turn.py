"""Finds the token with which a chat template ends an assistant's turn, by rendering test conversations."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from jinja2 import TemplateError

from alignlab.data.rows import Message
from alignlab.errors import DataError

# What a chat template may raise for a conversation that it can't render.
REJECTIONS = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError)

# Contents of test turns.
QUESTION, ANSWER = "alignlab-question", "alignlab-answer"


@dataclass(frozen=True)
class EndOfTurn:
    """The token that ends an answer.

    id:      the token.
    closing: text that the chat template writes between the answer and the token.
    origin:  where the token comes from, in words for messages.
    """

    id: int
    closing: str
    origin: str


def end_of_turn(tokenizer: Any, stops: Collection[int]) -> EndOfTurn:
    """The token that ends an answer in training.

    It is the token with which the chat template ends a turn, else the tokenizer's end-of-sequence token, else one of
    `stops` (ids at which the model's own `generate` stops). Raises DataError if there is none of them.
    """
    if getattr(tokenizer, "chat_template", None) is not None and (found := _Probe(tokenizer, stops).end()):
        return EndOfTurn(*found, "the chat template")
    if tokenizer.eos_token_id is not None:
        return EndOfTurn(int(tokenizer.eos_token_id), "", "the tokenizer's eos_token")
    if stops:
        return EndOfTurn(next(iter(stops)), "", "the model's generation config")
    raise DataError("the tokenizer has no end-of-sequence token, so the model can't learn to end an answer")


class _Probe:
    """Renders test conversations with one tokenizer."""

    def __init__(self, tokenizer: Any, stops: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops

    def end(self) -> tuple[int, str] | None:
        """(id of the token that ends the last turn of a rendered conversation, text between the answer and that token).

        None if no token ends the turn. If several tokens end it, the first one that ends the user's turns too is
        taken, else the first one. Examples: Phi-3 renders `<|end|>` and then the end of the text; Command R7B renders
        the end of a response and then the end of the turn.
        """
        rendered = self._rendered_conversation()
        if rendered is None:
            return None
        lower = rendered.lower()  # some templates change the case of a turn's content
        first, last, question = lower.find(ANSWER), lower.rfind(ANSWER), lower.rfind(QUESTION)
        closing = last + len(ANSWER)
        opening = self._tokens(rendered[question + len(QUESTION) : last])
        ids, up_to_answer = self._tokens(rendered), self._tokens(rendered[:closing])
        special = self._special()
        ends = self._possible_ends(ids[shared_length(ids, up_to_answer) :], special)
        if first < question:
            between_turns = self._tokens(rendered[first + len(ANSWER) : question])
            # A token that opens an answer, but did not end the answer before it, is a header and not an end.
            header = self._header() or opening
            ends = [token for token in ends if token not in header or token in between_turns]
            if not ends:  # Qwen 1.5 ends every turn but the last one
                written = [token for token in between_turns if self._tokenizer.decode([token]).strip()]
                # A token ends a turn if a special token follows it directly. A role follows a token that opens a turn.
                is_end = len(written) > 1 and set(written[:2]) <= special and written[0] in opening
                return (written[0], "") if is_end else None
        if not ends:
            return None
        of_all_turns = sorted((token for token in ends if token in opening), key=lambda token: token not in special)
        end = (of_all_turns or ends)[0]
        between, is_text, _ = rendered[closing:].partition(str(self._tokenizer.convert_ids_to_tokens(end)))
        return end, between if is_text else ""

    def _header(self) -> list[int]:
        """The tokens before an answer that `add_generation_prompt` adds; empty if the template ignores it."""
        turns = [Message(role="user", content=QUESTION)]
        try:
            without, with_header = (
                self._tokens(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=added))
                for added in (False, True)
            )
        except REJECTIONS:
            return []
        return with_header[shared_length(without, with_header) :]

    def _rendered_conversation(self) -> str | None:
        """The first of these conversations that the template accepts, rendered; None if it rejects all of them.

        Two questions with answers, the same after a system turn, one question with its answer, the same after a system
        turn.
        """
        turns = [Message(role="user", content=QUESTION), Message(role="assistant", content=ANSWER)]
        system = [Message(role="system", content="?")]
        for messages in (turns * 2, system + turns * 2, turns, system + turns):
            try:
                rendered = str(self._tokenizer.apply_chat_template(messages, tokenize=False))
            except REJECTIONS:
                continue
            if -1 < rendered.lower().rfind(QUESTION) < rendered.lower().rfind(ANSWER):
                return rendered
        return None

    def _special(self) -> set[int]:
        """Ids of all special tokens except the unknown token, and the ids at which the model stops."""
        tokenizer = self._tokenizer
        special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
        return (special - {tokenizer.unk_token_id}) | {*self._stops, tokenizer.eos_token_id}

    def _possible_ends(self, ids: Sequence[int], special: Collection[int]) -> list[int]:
        """The tokens after an answer that may end it.

        These are the special tokens, and an added token if only white space stands between it and the answer.
        """
        added = self._tokenizer.added_tokens_decoder.keys() - {self._tokenizer.unk_token_id}
        ends, directly = [], True
        for token in ids:
            if token in special or (directly and token in added):
                ends.append(int(token))
            directly = directly and not self._tokenizer.decode([token]).strip()
        return ends

    def _tokens(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def shared_length(one: Sequence[object], other: Sequence[object]) -> int:
    """Length of the common prefix of two texts or two lists of ids."""
    if other[: len(one)] == one:  # the usual case, compared at once
        return len(one)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
