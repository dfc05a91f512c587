"""Renders rows as token ids, with the tokenizer's chat template if it has one, and one end-of-answer token."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Any

from jinja2 import TemplateError

from alignlab.data.rows import Message, Prompt, messages_of
from alignlab.errors import DataError

_PLAIN_ROLE = {"user": "Human", "assistant": "Assistant"}

# Contents of test turns. They are rendered to find out how a chat template ends a turn.
_QUESTION, _ANSWER = "alignlab-question", "alignlab-answer"

# How many texts' ids are cached. Pairs share prompts, and the lab has few different prompts and answers.
_MAX_CACHED = 2**14


class Template:
    """Renders prompts and answers for one tokenizer.

    Prompt and answer are tokenized separately and joined as ids. No token spans the boundary, so the tokens of an
    answer do not depend on its prompt.

    stops:  ids at which the model's own `generate` stops (`alignlab.models.generation.stop_ids`).
    end_id: id of the token that ends an answer in training. It is the token with which the chat template ends a turn,
            else the tokenizer's end-of-sequence token, else one of `stops`.
    end_of: where that token comes from, in words for messages.
    ends:   ids that end an answer in sampling: `end_id`, then the tokenizer's end-of-sequence token and `stops`.

    Raises DataError if there is no token to end an answer with.
    """

    def __init__(self, tokenizer: Any, stops: Collection[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._chat = getattr(tokenizer, "chat_template", None) is not None
        self._ids = _cached(tokenizer)
        self.end_id, self._closing, self.end_of = self._end_of_answer(stops)
        eos = tokenizer.eos_token_id
        others = {*stops, *([] if eos is None else [eos])} - {self.end_id}
        self.ends: tuple[int, ...] = (self.end_id, *sorted(others))

    @property
    def identity(self) -> str:
        """A text that is equal for tokenizers that turn the same rows into the same ids."""
        tokenizer = self._tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        made_of = backend.to_str() if backend is not None else f"{tokenizer!r}{sorted(tokenizer.get_vocab().items())}"
        special = (self._chat and tokenizer.chat_template, tokenizer.bos_token_id, self.end_id)
        return f"{made_of}{special}"

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Ids of everything before the answer. Raises DataError if the chat template rejects the prompt."""
        if self._chat:
            messages = messages_of(prompt)
            try:
                return list(
                    self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
                )
            except TemplateError as error:
                roles = ", ".join(m["role"] for m in messages)
                raise DataError(f"the chat template rejects a prompt with the roles {roles}: {error}") from error
        text = prompt if isinstance(prompt, str) else plain_transcript(prompt)
        ids = list(self._ids(text, add_special_tokens=True))
        if len(ids) > 1 and ids[-1] == self._tokenizer.eos_token_id:
            ids = ids[:-1]  # the answer follows
        begin = self._tokenizer.bos_token_id
        return ids or [self.end_id if begin is None else begin]  # the first answer token needs a token before it

    def answer_ids(self, prompt: Prompt, answer: str, *, ended: bool) -> list[int]:
        """Ids of an answer. The end token is appended if `ended`; it is not if a length limit cut the answer off."""
        text = answer if self._chat or isinstance(prompt, str) else f" {answer}"
        if not ended:
            return list(self._ids(text, add_special_tokens=False))
        return [*self._ids(text + self._closing, add_special_tokens=False), self.end_id]

    def text(self, ids: Sequence[int]) -> str:
        """The text of a sampled answer, without its end token, special tokens, and surrounding white space."""
        text = self._decoded([token for token in ids if token not in self.ends])
        if ids and ids[-1] == self.end_id and self._closing:
            text = text.removesuffix(self._decoded(self._ids(self._closing, add_special_tokens=False))).rstrip()
        return text

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def _end_of_answer(self, stops: Collection[int]) -> tuple[int, str, str]:
        """(id of the token that ends an answer, text between the answer and that token, where the token comes from)."""
        if self._chat and (found := self._end_of_turn(stops)):
            return (*found, "the chat template")
        if self._tokenizer.eos_token_id is not None:
            return int(self._tokenizer.eos_token_id), "", "the tokenizer's eos_token"
        if stops:
            return next(iter(stops)), "", "the model's generation config"
        raise DataError("the tokenizer has no end-of-sequence token, so the model can't learn to end an answer")

    def _end_of_turn(self, stops: Collection[int]) -> tuple[int, str] | None:
        """(id of the token that ends the last turn of a rendered conversation, text between the answer and that token).

        None if no token ends the turn. If several tokens end it, the first one that ends the user's turns too is
        taken, else the first one. Examples: Phi-3 renders `<|end|>` and then the end of the text; Command R7B renders
        the end of a response and then the end of the turn.
        """
        rendered = self._rendered_conversation()
        if rendered is None:
            return None
        lower = rendered.lower()  # some templates change the case of a turn's content
        first, last, question = lower.find(_ANSWER), lower.rfind(_ANSWER), lower.rfind(_QUESTION)
        closing = last + len(_ANSWER)
        opening = self._tokens(rendered[question + len(_QUESTION) : last])
        ids, up_to_answer = self._tokens(rendered), self._tokens(rendered[:closing])
        special = self._special(stops)
        ends = self._possible_ends(ids[_shared(ids, up_to_answer) :], special)
        if first < question:
            between_turns = self._tokens(rendered[first + len(_ANSWER) : question])
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
        turns = [Message(role="user", content=_QUESTION)]
        try:
            without, with_header = (
                self._tokens(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=added))
                for added in (False, True)
            )
        except TemplateError:
            return []
        return with_header[_shared(without, with_header) :]

    def _rendered_conversation(self) -> str | None:
        """The first of these conversations that the template accepts, rendered; None if it rejects all of them.

        Two questions with answers, the same after a system turn, one question with its answer, the same after a system
        turn.
        """
        turns = [Message(role="user", content=_QUESTION), Message(role="assistant", content=_ANSWER)]
        system = [Message(role="system", content="?")]
        for messages in (turns * 2, system + turns * 2, turns, system + turns):
            try:
                rendered = str(self._tokenizer.apply_chat_template(messages, tokenize=False))
            except TemplateError:
                continue
            if -1 < rendered.lower().rfind(_QUESTION) < rendered.lower().rfind(_ANSWER):
                return rendered
        return None

    def _special(self, stops: Collection[int]) -> set[int]:
        """Ids of all special tokens except the unknown token, and the ids at which the model stops."""
        tokenizer = self._tokenizer
        special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
        return (special - {tokenizer.unk_token_id}) | {*stops, tokenizer.eos_token_id}

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


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common prefix of two texts, in ids."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _cached(tokenizer: Any) -> Callable[..., tuple[int, ...]]:
    """A function that returns a text's ids. It caches the ids of the last texts."""

    @lru_cache(_MAX_CACHED)
    def ids(text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])

    return ids


def prompt_text(prompt: Prompt) -> str:
    """A prompt as one text, for judges, rules and people. Several messages become a transcript with roles."""
    if isinstance(prompt, str):
        return prompt
    return prompt[0]["content"] if len(prompt) == 1 else plain_transcript(prompt).strip()


def plain_transcript(messages: list[Message]) -> str:
    """A conversation in the format of HH-RLHF, up to the answer. It is used for models without a chat template."""
    turns = "".join(f"\n\n{_PLAIN_ROLE.get(m['role'], m['role'].title())}: {m['content']}" for m in messages)
    return f"{turns}\n\nAssistant:"
