"""From a row to token ids: the tokenizer's chat template where it has one, and one end-of-answer token."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError

from alignlab.data.rows import Message, Prompt
from alignlab.errors import DataError

_PLAIN_ROLE = {"user": "Human", "assistant": "Assistant"}
_PROBE = "alignlab-probe"

# Texts whose ids are kept: pairs share prompts, and the lab's rows all their parts.
_KEPT = 2**14


class Template:
    """Renders prompts and answers for one tokenizer.

    Prompt and answer are tokenized apart and joined as ids: no token spans the boundary, so the tokens of an answer
    are the same whatever stands before it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._chat = getattr(tokenizer, "chat_template", None) is not None
        self.end_id = self._end_of_answer()
        self._ids = _kept(tokenizer)

    @property
    def identity(self) -> str:
        """The same for tokenizers that make the same ids of the same rows."""
        tokenizer = self._tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        made_of = backend.to_str() if backend is not None else f"{tokenizer!r}{sorted(tokenizer.get_vocab().items())}"
        special = (self._chat and tokenizer.chat_template, tokenizer.bos_token_id, self.end_id)
        return f"{made_of}{special}"

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Ids of everything before the answer."""
        if self._chat:
            messages = prompt if isinstance(prompt, list) else [Message(role="user", content=prompt)]
            try:
                return list(
                    self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
                )
            except TemplateError as error:
                roles = ", ".join(m["role"] for m in messages)
                raise DataError(f"the chat template refuses a prompt with the roles {roles}: {error}") from error
        text = prompt if isinstance(prompt, str) else plain_transcript(prompt)
        ids = list(self._ids(text, add_special_tokens=True))
        if len(ids) > 1 and ids[-1] == self._tokenizer.eos_token_id:
            ids = ids[:-1]  # the text goes on
        begin = self._tokenizer.bos_token_id
        return ids or [self.end_id if begin is None else begin]  # an answer needs something to be predicted from

    def answer_ids(self, prompt: Prompt, answer: str, *, ended: bool) -> list[int]:
        """Ids of an answer, with the end token unless a length limit cut it off."""
        text = answer if self._chat or isinstance(prompt, str) else f" {answer}"
        ids = self._ids(text, add_special_tokens=False)
        return [*ids, self.end_id] if ended else list(ids)

    def _end_of_answer(self) -> int:
        """The special token that the chat template puts after an assistant turn, else the end-of-sequence token."""
        if self._chat:
            turns = [Message(role="user", content="?"), Message(role="assistant", content=_PROBE)]
            rendered = self._tokenizer.apply_chat_template(turns, tokenize=False)
            after = self._tokenizer(rendered.rsplit(_PROBE, 1)[-1], add_special_tokens=False)["input_ids"]
            special = [token for token in after if token in self._tokenizer.all_special_ids]
            if special:
                return int(special[0])
        if self._tokenizer.eos_token_id is None:
            raise DataError("the tokenizer has no end-of-sequence token, so a model could never learn to stop")
        return int(self._tokenizer.eos_token_id)


def _kept(tokenizer: Any) -> Callable[..., tuple[int, ...]]:
    """A text's ids, those of the last texts without asking the tokenizer again."""

    @lru_cache(_KEPT)
    def ids(text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])

    return ids


def plain_transcript(messages: list[Message]) -> str:
    """A conversation for models without a chat template, as HH-RLHF writes it, up to the answer."""
    turns = "".join(f"\n\n{_PLAIN_ROLE.get(m['role'], m['role'].title())}: {m['content']}" for m in messages)
    return f"{turns}\n\nAssistant:"
