"""From a row to token ids: the tokenizer's chat template where it has one, and one end-of-answer token."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Any

from jinja2 import TemplateError

from alignlab.data.rows import Message, Prompt, messages_of
from alignlab.errors import DataError

_PLAIN_ROLE = {"user": "Human", "assistant": "Assistant"}

# Contents of the turns that are rendered to find out how a chat template ends a turn.
_QUESTION, _ANSWER = "alignlab-question", "alignlab-answer"

# Texts whose ids are kept: pairs share prompts, and the lab's rows all their parts.
_KEPT = 2**14


class Template:
    """Renders prompts and answers for one tokenizer.

    Prompt and answer are tokenized apart and joined as ids: no token spans the boundary, so the tokens of an answer
    are the same whatever stands before it.

    stops:  ids at which the model's own `generate` stops (`alignlab.models.generation.stop_ids`).
    end_id: id of the token that ends an answer in training: the one with which the chat template ends a turn, else the
            tokenizer's end-of-sequence token, else one of `stops`. Raises DataError if there is none.
    end_of: where that token comes from, in words: for messages.
    ends:   ids that end an answer in sampling: `end_id`, then the tokenizer's end-of-sequence token and `stops`.
    """

    def __init__(self, tokenizer: Any, stops: Collection[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._chat = getattr(tokenizer, "chat_template", None) is not None
        self._ids = _kept(tokenizer)
        self.end_id, self._closing, self.end_of = self._end_of_answer(stops)
        eos = tokenizer.eos_token_id
        others = {*stops, *([] if eos is None else [eos])} - {self.end_id}
        self.ends: tuple[int, ...] = (self.end_id, *sorted(others))

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
            messages = messages_of(prompt)
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
        if not ended:
            return list(self._ids(text, add_special_tokens=False))
        return [*self._ids(text + self._closing, add_special_tokens=False), self.end_id]

    def text(self, ids: Sequence[int]) -> str:
        """The text of a sampled answer, without its end, special tokens, and white space around it."""
        text = self._decoded([token for token in ids if token not in self.ends])
        if ids and ids[-1] == self.end_id and self._closing:
            text = text.removesuffix(self._decoded(self._ids(self._closing, add_special_tokens=False))).rstrip()
        return text

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def _end_of_answer(self, stops: Collection[int]) -> tuple[int, str, str]:
        """(id of the token that ends an answer, text between answer and token, where the token comes from)."""
        if self._chat and (found := self._end_of_turn(stops)):
            return (*found, "the chat template")
        if self._tokenizer.eos_token_id is not None:
            return int(self._tokenizer.eos_token_id), "", "the tokenizer's eos_token"
        if stops:
            return next(iter(stops)), "", "the model's generation config"
        raise DataError("the tokenizer has no end-of-sequence token, so a model could never learn to stop")

    def _end_of_turn(self, stops: Collection[int]) -> tuple[int, str] | None:
        """(id of the token that ends the last turn of a rendered conversation, text before it); None if no token does.

        If several tokens end the turn, one that ends the user's turns too is preferred, else the first one is taken.
        Phi-3 renders `<|end|>` and then the end of the text. Command R7B renders the end of a response and then the end
        of the turn.
        """
        rendered = self._rendered_conversation()
        if rendered is None:
            return None
        found = rendered.lower()  # some templates change the case of what is said
        first, last, question = found.find(_ANSWER), found.rfind(_ANSWER), found.rfind(_QUESTION)
        closing = last + len(_ANSWER)
        opening = self._tokens(rendered[question + len(_QUESTION) : last])
        ids, up_to_answer = self._tokens(rendered), self._tokens(rendered[:closing])
        special = self._special(stops)
        ends = self._possible_ends(ids[_shared(ids, up_to_answer) :], special)
        if first < question:
            between_turns = self._tokens(rendered[first + len(_ANSWER) : question])
            # A token that opens an answer and did not end the answer before is a header.
            header = self._header() or opening
            ends = [token for token in ends if token not in header or token in between_turns]
            if not ends:  # Qwen 1.5 ends every turn but the last one
                written = [token for token in between_turns if self._tokenizer.decode([token]).strip()]
                # A token that another special one follows directly ends a turn; a role follows what opens one.
                is_end = len(written) > 1 and set(written[:2]) <= special and written[0] in opening
                return (written[0], "") if is_end else None
        if not ends:
            return None
        of_all_turns = sorted((token for token in ends if token in opening), key=lambda token: token not in special)
        end = (of_all_turns or ends)[0]
        between, is_text, _ = rendered[closing:].partition(str(self._tokenizer.convert_ids_to_tokens(end)))
        return end, between if is_text else ""

    def _header(self) -> list[int]:
        """Tokens that announce an answer; empty if the template ignores `add_generation_prompt`."""
        turns = [Message(role="user", content=_QUESTION)]
        try:
            without, announced = (
                self._tokens(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=announce))
                for announce in (False, True)
            )
        except TemplateError:
            return []
        return announced[_shared(without, announced) :]

    def _rendered_conversation(self) -> str | None:
        """A rendered conversation of two questions and answers, else of one, else with a system turn first.

        None if the template refuses all of them.
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
        """Ids of all special tokens except the unknown token, and of the tokens at which the model stops."""
        tokenizer = self._tokenizer
        special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
        return (special - {tokenizer.unk_token_id}) | {*stops, tokenizer.eos_token_id}

    def _possible_ends(self, ids: Sequence[int], special: Collection[int]) -> list[int]:
        """The tokens after an answer that may end it: special ones, and an added one after nothing but white space."""
        added = self._tokenizer.added_tokens_decoder.keys() - {self._tokenizer.unk_token_id}
        found, directly = [], True
        for token in ids:
            if token in special or (directly and token in added):
                found.append(int(token))
            directly = directly and not self._tokenizer.decode([token]).strip()
        return found

    def _tokens(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two texts begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _kept(tokenizer: Any) -> Callable[..., tuple[int, ...]]:
    """A text's ids, those of the last texts without asking the tokenizer again."""

    @lru_cache(_KEPT)
    def ids(text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])

    return ids


def prompt_text(prompt: Prompt) -> str:
    """A prompt as one text, for judges, rules and people. Several messages become a transcript with roles."""
    if isinstance(prompt, str):
        return prompt
    return prompt[0]["content"] if len(prompt) == 1 else plain_transcript(prompt).strip()


def plain_transcript(messages: list[Message]) -> str:
    """A conversation for models without a chat template, as HH-RLHF writes it, up to the answer."""
    turns = "".join(f"\n\n{_PLAIN_ROLE.get(m['role'], m['role'].title())}: {m['content']}" for m in messages)
    return f"{turns}\n\nAssistant:"
