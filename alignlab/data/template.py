"""Turns conversations into token ids.

One rule holds for every row: the ids of the prompt followed by the ids of an answer are the ids of the whole
conversation as the tokenizer's chat template renders it, up to the end of the answer. Without a chat template they are
the ids of the joint text. So the text is always tokenized as a whole, and then divided.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from alignlab.data.end_of_turn import ANSWER, QUESTION, REJECTIONS, end_of_turn, shared_length
from alignlab.data.rows import AnswerText, Message, Prompt, messages_of
from alignlab.errors import DataError

_PLAIN_ROLE = {"user": "Human", "assistant": "Assistant"}

# The test answer in a rendered conversation. Some templates change the case of a turn's content.
_TEST_ANSWER = re.compile(re.escape(ANSWER), re.IGNORECASE)

# Marks of widely used chat templates, one group for each template, as a text contains them that was rendered before.
_KNOWN_MARKS = (
    ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),  # Llama 2, Mistral
    ("<|im_start|>", "<|im_end|>"),  # ChatML: Qwen, SmolLM2, Yi
    ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),  # Llama 3
    ("<start_of_turn>", "<end_of_turn>"),  # Gemma
    ("<|system|>", "<|user|>", "<|assistant|>"),  # Zephyr, Phi, Tulu
    ("<｜User｜>", "<｜Assistant｜>"),  # DeepSeek
    ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),  # Command R
)

# A prompt and its answers.
Conversation = tuple[Prompt, Sequence[AnswerText]]

# The content of a test turn of the prompt. Turns are numbered, because a template may render some of them only.
_TEST_TURN = "x{}-alignlab-turn."

# Conversations up to a test answer. The second one is for templates that demand a system turn.
_TEST_QUESTIONS = (
    [Message(role="user", content=QUESTION)],
    [Message(role="system", content="?"), Message(role="user", content=QUESTION)],
)


@dataclass(frozen=True)
class Rendered:
    """A row as text.

    opening:   everything before the answers.
    wholes:    for each answer, the text from the start of the conversation to the end of the answer. It includes the
               end token if the chat template writes it there.
    ends:      for each answer, whether the end token has to be appended to the ids of its text.
    rewritten: whether the chat template changes an answer by more than the white space around it.
    prompt_rewritten: the same for a turn of the prompt.
    """

    opening: str
    wholes: list[str]
    ends: list[bool]
    rewritten: bool = False
    prompt_rewritten: bool = False


@dataclass(frozen=True)
class Encoded:
    """A row as token ids.

    prompt:  ids that all answers share.
    answers: ids that follow the prompt in each answer. An answer that ended has its end token.
    moved:   whether a token spans the boundary of prompt and answer. That token then belongs to the answer.
    """

    prompt: list[int]
    answers: list[list[int]]
    moved: bool = False


class Template:
    """Renders and tokenizes rows for one tokenizer.

    stops:  ids at which the model's own `generate` stops (`alignlab.models.generation.stop_ids`).
    use:    auto (the chat template renders rows, if the tokenizer has one) or none (texts are used as they are).
    end_id: id of the token that ends an answer in training (`alignlab.data.end_of_turn`).
    end_of: where that token comes from, in words for messages.
    ends:   ids that end an answer in sampling: `end_id`, then the tokenizer's end-of-sequence token and `stops`.

    Raises DataError if there is no token to end an answer with.
    """

    def __init__(self, tokenizer: Any, stops: Collection[int] = (), use: str = "auto") -> None:
        self._tokenizer = tokenizer
        self._chat = use == "auto" and getattr(tokenizer, "chat_template", None) is not None
        end = end_of_turn(tokenizer, stops)
        self.end_id, self.end_of = end.id, end.origin
        self._closing = end.closing if self._chat else ""
        self._end_text = str(tokenizer.convert_ids_to_tokens(end.id))
        eos = tokenizer.eos_token_id
        others = {*stops, *([] if eos is None else [eos])} - {self.end_id}
        self.ends: tuple[int, ...] = (self.end_id, *sorted(others))
        self._closing_text = self._decoded(self._split(self._closing)).strip()
        self._begin, self._eos, self._eos_text = tokenizer.bos_token_id, eos, tokenizer.eos_token  # slow to look up
        self._word = self._split("a")  # decoded before an answer, see `text`
        self._appended = self._after(self._word)
        self._left_out: dict[tuple[str, ...], list[int]] = {}  # see `_never_rendered`
        header = self._header() if self._chat else ""
        self._header_length = len(header)
        self._marks = self._special_texts(header)
        self._header_text = "" if any(mark in header for mark in self._marks) else header.strip()
        own_ends = {tokenizer.bos_token, tokenizer.eos_token, self._end_text} - {None}
        self._ends_of_texts = sorted(own_ends) if use == "auto" and not self._chat else []
        added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special} - {""}
        unwritten = sorted(added.difference(self._marks, own_ends)) if use == "auto" else []
        self._other_special = _any_of(unwritten)
        self._other_marks = _any_of(self._marks_of_others(added) if use == "auto" else [])
        # Whether the chat template writes today's date, so that the same rows have other tokens on another day.
        self.dated = self._chat and "strftime_now" in str(tokenizer.chat_template)
        # Whether rows begin an answer with another text than a prompt that is rendered with `add_generation_prompt`.
        self.opens_otherwise = self._chat and self._opens_otherwise()

    @property
    def identity(self) -> str:
        """A text that is equal for templates that turn the same rows into the same ids."""
        tokenizer = self._tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        made_of = backend.to_str() if backend is not None else f"{tokenizer!r}{sorted(tokenizer.get_vocab().items())}"
        special = (self._chat and tokenizer.chat_template, tokenizer.bos_token_id, self.end_id)
        return f"{made_of}{special}"

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Ids of everything before the answer. Raises DataError if the chat template rejects the prompt."""
        opening = self._opening(prompt) if self._chat else _plain_opening(prompt)
        return self._begun(self._ids([self._cut(opening)])[0])

    def encode(self, prompt: Prompt, answers: Sequence[AnswerText]) -> Encoded:
        """Ids of a prompt with its answers. Raises DataError if the chat template can't render them."""
        return self.encode_all([self.render(prompt, answers)])[0]

    def render(self, prompt: Prompt, answers: Sequence[AnswerText]) -> Rendered:
        """A row as text. Raises DataError if the chat template rejects it or leaves a turn of the prompt out."""
        (rendered,) = self.render_all([(prompt, answers)])
        if isinstance(rendered, DataError):
            raise rendered
        return rendered

    def render_all(self, rows: Sequence[Conversation]) -> list[Rendered | DataError]:
        """Rows as text. A row that the chat template rejects, or of which it leaves a turn out, gives its error."""
        if not self._chat:
            return [self._render_plain(prompt, answers) for prompt, answers in rows]
        conversations = [
            _with_answer(messages_of(prompt), text)
            for prompt, answers in rows
            for text in (ANSWER, *(text for text, _ in answers))
        ]
        texts = iter(self._rendered_all(conversations))
        return [self._render_chat(prompt, answers, list(islice(texts, 1 + len(answers)))) for prompt, answers in rows]

    def encode_all(self, rows: Sequence[Rendered]) -> list[Encoded]:
        """Ids of many rows. Equal texts are tokenized once."""
        texts = list(dict.fromkeys(text for row in rows for text in (self._cut(row.opening), *row.wholes)))
        known = dict(zip(texts, self._ids(texts), strict=True))
        return [self._divided(row, known) for row in rows]

    def differing(self, rows: Sequence[Conversation], encoded: Sequence[Encoded]) -> list[bool]:
        """For each row, whether its ids are not those of the tokenizer's own `apply_chat_template`.

        Answers that ended are compared, up to their end, unless they are empty. False if there is no chat template.
        """
        if not self._chat or not rows:
            return [False] * len(rows)
        asked = [
            (place, _with_answer(messages_of(prompt), text), [*ids.prompt, *answer])
            for place, ((prompt, answers), ids) in enumerate(zip(rows, encoded, strict=True))
            for (text, ended), answer in zip(answers, ids.answers, strict=True)
            if ended and text
        ]
        conversations = [conversation for _, conversation, _ in asked]
        own = self._tokenizer.apply_chat_template(conversations, return_dict=False) if asked else []
        different = {place for (place, _, ids), theirs in zip(asked, own, strict=True) if self._differs(ids, theirs)}
        return [place in different for place in range(len(rows))]

    def _differs(self, ids: Sequence[int], own: Sequence[int]) -> bool:
        """Whether the ids of prompt and answer are not the first of the tokenizer's own ids."""
        shared = shared_length(own, ids)
        if ids[-1] == self.end_id and self.end_id not in own[shared:]:  # the template does not write the end token,
            return shared < len(ids) - 2  # and may join the last token of the answer with the text after it
        return shared < len(ids)

    def marks_in(self, text: str) -> list[str]:
        """The chat template's own marks in a text, such as `<|im_start|>`. A text with marks was rendered before."""
        return [mark for mark in self._marks if mark in text]

    def holds_ends(self, text: str) -> bool:
        """Whether a plain text holds a token that begins or ends texts. False if that is expected (`template=none`)."""
        return any(end in text for end in self._ends_of_texts)

    def holds_header(self, text: str) -> bool:
        """Whether a text holds what the chat template writes before an answer, if that is ordinary text ("[/INST]")."""
        return bool(self._header_text) and not self._header_text.isalnum() and self._header_text in text

    def holds_special(self, text: str) -> bool:
        """Whether a text holds another special token of the tokenizer. False if that is expected (`template=none`)."""
        return self._other_special.search(text) is not None

    def holds_other_marks(self, text: str) -> bool:
        """Whether a text holds marks of another model's chat template. False if that is expected (`template=none`)."""
        return self._other_marks.search(text) is not None

    def respells(self, row: Rendered, ids: Encoded) -> bool:
        """Whether the tokens of a row don't decode to its text, apart from white space.

        The tokenizer does not know a character then, or it changes some (their case, their form). Newlines that get
        lost within an answer count too.
        """
        return any(
            _letters(whole) not in _letters(self._written([*ids.prompt, *answer]))
            or whole[len(row.opening) :].strip().count("\n") > self._written(answer).count("\n")
            for whole, answer in zip(row.wholes, ids.answers, strict=True)
        )

    def text(self, ids: Sequence[int], prompt: Prompt | None = None) -> str:
        """The text of a sampled answer, without its end token, special tokens, and surrounding white space.

        prompt: what was answered. The white space is kept if the answer continues a plain text.
        """
        own = [token for token in ids if token not in self.ends]
        if isinstance(prompt, str) and not self._chat:
            word = self._word  # a decoder may drop the space at the start of a text
            return self._decoded([*word, *own]).removeprefix(self._decoded(word))
        text = self._decoded(own).strip()
        if ids and ids[-1] == self.end_id and self._closing:
            text = text.removesuffix(self._closing_text).rstrip()
        return text

    def _render_plain(self, prompt: Prompt, answers: Sequence[AnswerText]) -> Rendered:
        opening = _plain_opening(prompt)
        space = "" if isinstance(prompt, str) or prompt[-1]["role"] == "assistant" else " "
        texts = [self._without_end(text) if ended else text for text, ended in answers]
        return Rendered(opening, [f"{opening}{space}{text}" for text in texts], [ended for _, ended in answers])

    def _render_chat(
        self, prompt: Prompt, answers: Sequence[AnswerText], texts: Sequence[str | DataError]
    ) -> Rendered | DataError:
        """texts: the conversation with the test answer, and with each of the answers, as the template renders them.

        An empty answer stands for one that is sampled later. Some templates render no turn without content, so it is
        what the rendered test answer leaves.
        """
        for text in texts:
            if isinstance(text, DataError):
                return text
        tested, *fulls = map(str, texts)
        try:
            opening, rest = _around_answer(tested)
            prompt_rewritten = self._rewrites(messages_of(prompt), opening)
        except DataError as error:
            return error
        written = self._closing + self._end_text
        has_end = rest.startswith(written)
        wholes, rewritten = [], False
        for (answer, ended), rendered in zip(answers, fulls, strict=True):
            full = rendered if answer else opening + rest
            begin = shared_length(opening, full)
            if not full.endswith(rest) or begin < len(opening) - self._header_length:
                text = f"the chat template renders the conversation differently for the answer {answer!r:.60}"
                return DataError(text)
            end = len(full) - len(rest)
            rewritten |= answer.strip() != full[begin:end].strip()
            wholes.append(full[:end] + (written if ended and has_end else ""))
        return Rendered(opening, wholes, [ended and not has_end for _, ended in answers], rewritten, prompt_rewritten)

    def _rewrites(self, turns: Sequence[Message], opening: str) -> bool:
        """Whether the chat template changes a turn of the prompt by more than the white space around it.

        opening: the rendered text before the answer. Raises DataError if a turn is left out of it.
        """
        changed = [i for i, turn in enumerate(turns) if turn["content"].strip() not in opening]
        left_out = [*self._never_rendered(turns), *(i for i in changed if self._is_left_out(turns, i, opening))]
        if left_out:
            turn = turns[left_out[0]]
            raise DataError(
                f"the chat template leaves out turn {left_out[0] + 1} of the prompt "
                f"({turn['role']}: {turn['content']!r:.40}): remove it, or make it a part of another turn"
            )
        return bool(changed)

    def _never_rendered(self, turns: Sequence[Message]) -> list[int]:
        """Indices of the turns that the chat template leaves out of conversations with these roles.

        Test turns show it, because the words of a short turn may stand elsewhere in a rendered conversation.
        """
        roles = tuple(turn["role"] for turn in turns)
        if roles not in self._left_out:
            tests = [Message(role=role, content=_TEST_TURN.format(i)) for i, role in enumerate(roles)]
            opening = self._tested_opening(tests)
            absent = [
                i for i, turn in enumerate(tests) if opening is not None and turn["content"] not in opening.lower()
            ]
            self._left_out[roles] = [i for i in absent if self._is_left_out(tests, i, str(opening))]
        return self._left_out[roles]

    def _is_left_out(self, turns: Sequence[Message], place: int, opening: str) -> bool:
        """Whether the rendered text before the answer stays the same if the turn at `place` has another content."""
        other = Message(role=turns[place]["role"], content="another text")
        return self._tested_opening([*turns[:place], other, *turns[place + 1 :]]) == opening

    def _tested_opening(self, turns: Sequence[Message]) -> str | None:
        """The rendered text before the test answer; None if the chat template does not render this conversation."""
        rendered = self._rendered(_with_answer(turns, ANSWER))
        try:
            return None if isinstance(rendered, DataError) else _around_answer(rendered)[0]
        except DataError:
            return None

    def _opening(self, prompt: Prompt) -> str:
        """Rendered text before an answer. Raises DataError if the chat template rejects the prompt.

        The text is taken from a rendered answer. So it is also right for templates that ignore
        `add_generation_prompt`, or that write more before an answer than they add with it.
        """
        turns = messages_of(prompt)
        rendered = self._rendered(_with_answer(turns, ANSWER))
        if isinstance(rendered, DataError):
            raise rendered
        opening, _ = _around_answer(rendered)
        self._rewrites(turns, opening)
        return opening

    def _rendered_all(self, conversations: list[list[Message]]) -> list[str] | list[str | DataError]:
        """Many conversations as text. They are rendered at once, or one by one if the template rejects some."""
        try:
            return list(map(str, self._tokenizer.apply_chat_template(conversations, tokenize=False)))
        except REJECTIONS:
            return [self._rendered(turns) for turns in conversations]

    def _rendered(self, turns: list[Message], **options: bool) -> str | DataError:
        try:
            return str(self._tokenizer.apply_chat_template(turns, tokenize=False, **options))
        except REJECTIONS as error:
            roles = ", ".join(turn["role"] for turn in turns)
            return DataError(f"the chat template rejects a conversation with the roles {roles}: {error}")

    def _divided(self, row: Rendered, ids_of: dict[str, list[int]]) -> Encoded:
        opening = ids_of[self._cut(row.opening)]
        wholes = [ids_of[text] + [self.end_id] * end for text, end in zip(row.wholes, row.ends, strict=True)]
        seam = min((shared_length(opening, whole) for whole in wholes), default=len(opening))
        return Encoded(self._begun(opening[:seam]), [whole[seam:] for whole in wholes], moved=seam < len(opening))

    def _begun(self, ids: list[int]) -> list[int]:
        """The ids of a prompt. If there are none, one is added, because the first answer token needs one before it."""
        return ids or [self.end_id if self._begin is None else self._begin]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts.

        A chat template writes all special tokens itself. A plain text gets the token that begins a text, if the
        tokenizer adds one, and none that ends it.
        """
        if not texts:
            return []
        found = self._encoded(list(texts))
        return found if self._chat else list(map(self._plain, found))

    def _encoded(self, texts: list[str]) -> list[list[int]]:
        """The ids that the tokenizer itself gives.

        The backend of a fast tokenizer is asked directly: it then computes no offsets, which is half of the time of a
        tokenizer with short tokens. One text is tokenized by the tokenizer first. This sets the state of its backend,
        and shows whether the tokenizer does something else than its backend.
        """

        def own(some: list[str]) -> list[list[int]]:
            found = self._tokenizer(some, add_special_tokens=not self._chat, return_attention_mask=False)
            return [list(ids) for ids in found["input_ids"]]

        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return own(texts)
        (first,) = own(texts[:1])
        found = [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=not self._chat)]
        return found if found[0] == first else own(texts)

    def _plain(self, ids: list[int]) -> list[int]:
        begin, end, appended = self._begin, self._eos, self._appended
        if appended and len(ids) > len(appended) and ids[-len(appended) :] == appended:
            ids = ids[: -len(appended)]
        while len(ids) > 1 and ids[-1] == end:
            ids = ids[:-1]
        while begin is not None and ids[:2] == [begin, begin]:
            ids = ids[1:]
        return ids

    def _without_end(self, text: str) -> str:
        """The text of a plain answer. If it was rendered before, it may end with the end token, which is removed."""
        ended = text.rstrip()
        for mark in filter(None, (self._end_text, self._eos_text)):
            if ended.endswith(mark):
                return ended.removesuffix(mark)
        return text

    def _cut(self, opening: str) -> str:
        """The opening without a space at its end, which most tokenizers join with the first word of the answer.

        For example, "Assistant: " and "yes" become the tokens "Assistant", ":" and " yes".
        """
        return opening.removesuffix(" ") if self._chat else opening

    def _header(self) -> str:
        """What the chat template writes between a user's turn and the answer to it; empty if it rejects such turns."""
        for turns in _TEST_QUESTIONS:
            try:
                opening = self._opening(turns)
            except DataError:
                continue
            return re.split(re.escape(QUESTION), opening, flags=re.IGNORECASE)[-1]
        return ""

    def _opens_otherwise(self) -> bool:
        for turns in _TEST_QUESTIONS:
            opening = self._tested_opening(turns)
            if opening is not None:
                prompt = self._rendered(turns, add_generation_prompt=True)
                return isinstance(prompt, str) and opening.rstrip() != prompt.rstrip()
        return False

    def _special_texts(self, header: str) -> list[str]:
        """Texts of the special tokens that the chat template writes around an answer, and of the tokenizer's own."""
        if not self._chat:
            return []
        tokenizer = self._tokenizer
        around = f"{header}{self._closing}{self._end_text}"
        own = {tokenizer.bos_token, tokenizer.eos_token, self._end_text}
        added = {str(token) for token in tokenizer.added_tokens_decoder.values()} - {tokenizer.unk_token, ""}
        read = {text for text in added if text in header and text not in own and self._reads(header, text)}
        return sorted(text for text in added - read if text in around or text in own)

    def _marks_of_others(self, added: Collection[str]) -> list[str]:
        """Known marks of chat templates of which this one writes none.

        added: special tokens of the tokenizer, which are found as such.
        """
        opening = next(filter(None, map(self._tested_opening, _TEST_QUESTIONS)), "") if self._chat else ""
        written = f"{opening}{self._closing}{self._end_text}"
        others = (marks for marks in _KNOWN_MARKS if not any(mark in written or mark in added for mark in marks))
        return [mark for marks in others for mark in marks]

    def _reads(self, header: str, mark: str) -> bool:
        """Whether the chat template reads a mark in an answer, as those of reasoning models read `<think>`.

        Then an answer that begins with the header from the mark on is rendered like the answer alone, and other words
        in place of the mark are not.
        """
        after = header[header.index(mark) + len(mark) :] + ANSWER
        for turns in _TEST_QUESTIONS:
            contents = (ANSWER, mark + after, f"?{after}")
            alone, marked, other = (self._rendered(_with_answer(turns, content)) for content in contents)
            if not isinstance(alone, DataError):
                return alone == marked != other
        return False

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _written(self, ids: Sequence[int]) -> str:
        """The text of ids with special tokens, and without the changes that a decoder makes for people."""
        return str(self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def _after(self, word: list[int]) -> list[int]:
        """The ids that the tokenizer appends to every text, such as `[SEP]`. `word` is the text "a" without them."""
        whole = list(self._tokenizer("a")["input_ids"])
        starts = (i for i in range(len(whole)) if word and whole[i : i + len(word)] == word)
        start = next(starts, None)
        return [] if start is None else whole[start + len(word) :]

    def _split(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def _with_answer(turns: Sequence[Message], answer: str) -> list[Message]:
    """The conversation with the answer. An answer to a prompt that ends in an assistant's turn continues that turn."""
    if turns[-1]["role"] == "assistant":
        return [*turns[:-1], Message(role="assistant", content=turns[-1]["content"] + answer)]
    return [*turns, Message(role="assistant", content=answer)]


def _any_of(texts: Collection[str]) -> re.Pattern[str]:
    """A pattern that finds any of the texts. It finds nothing if there are none."""
    return re.compile("|".join(map(re.escape, texts)) or "(?!)")


def _letters(text: str) -> str:
    """The text without white space."""
    return "".join(text.split())


def _around_answer(rendered: str) -> tuple[str, str]:
    """(text before the test answer, text after it) in a rendered conversation. Raises DataError if it is not there."""
    found = list(_TEST_ANSWER.finditer(rendered))
    if not found:
        raise DataError("the chat template does not render the answer of this conversation")
    return rendered[: found[-1].start()], rendered[found[-1].end() :]


def prompt_text(prompt: Prompt) -> str:
    """A prompt as one text, for judges, rules and people. Several messages become a transcript with roles."""
    if isinstance(prompt, str):
        return prompt
    return prompt[0]["content"] if len(prompt) == 1 else plain_transcript(prompt).strip()


def plain_transcript(messages: list[Message]) -> str:
    """A conversation in the format of HH-RLHF, up to the answer. It is used for models without a chat template.

    If the last turn is the assistant's, the answer continues it.
    """
    turns = "".join(f"\n\n{_PLAIN_ROLE.get(m['role'], m['role'].title())}: {m['content']}" for m in messages)
    return turns if messages[-1]["role"] == "assistant" else f"{turns}\n\nAssistant:"


def _plain_opening(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else plain_transcript(prompt)
