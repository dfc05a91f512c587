"""Reads the prompt and the answers of a row. Each is a text, or a conversation of {role, content} turns.

An answer's conversation may contain the prompt: then all turns before its last one are the prompt. They must agree with
the column `prompt` and with the row's other answers. The columns `messages` and `conversations` may repeat the prompt,
with or without one of the answers. A row that can't be used is rejected as a whole; no part of it is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from typing import Any
from unicodedata import normalize

from alignlab.data.rows import Message, Prompt, messages_of
from alignlab.spelling import counted

# Role names that rows may use, including ShareGPT's, and the role that each name means.
_ROLES = {"system": "system", "user": "user", "assistant": "assistant", "human": "user", "gpt": "assistant"}
_SHAREGPT = {"from": "role", "value": "content"}

# Columns that belong to the conversation but are not supported. A row with a value in one of them is rejected.
UNSUPPORTED_COLUMNS = (
    "system", "system_prompt", "history", "input", "query", "context", "documents", "tools", "functions",
    "tool_calls", "function_call", "image", "images", "audio", "audios", "video", "videos",
)  # fmt: skip

# A list of turns, or of the parts of a turn, that was written as text: in JSON, or as Python or numpy print it.
_WRITTEN_LIST = re.compile(
    r"""\s*\[\s*\{\s*['"](?P<key>role|content|from|value|type|text)['"]\s*:(?=.*['"](?!(?P=key)['"])"""
    r"""(?:role|content|from|value|type|text)['"]\s*:).*\}\s*\]\s*""",
    re.DOTALL,
)

# The same for a single turn, and for what other programs write around turns, such as `array([...])`.
_WRITTEN_TURN = re.compile(
    r"""\s*(?:\w+\()?\s*[\[{].*['"](?:role|from)['"]\s*:\s*['"](?:system|user|assistant|human|gpt|tool|function)['"].*"""
    r"""[\]})]\s*""",
    re.DOTALL,
)
_CONTENT = re.compile(r"""['"](?:content|value)['"]\s*:""")

# Columns of whole conversations, which may repeat the row's prompt and answers.
WHOLE_COLUMNS = ("messages", "conversations")

_BOOLEANS = {True: True, False: False, "true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}

# Values of a key that carries no information, such as `tool_calls: null`.
EMPTY_VALUES: tuple[Any, ...] = (None, "", [], {})


class UnusableRowError(Exception):
    """A row that can't be used. `faults` lists everything that is wrong with it."""

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        super().__init__("; ".join(faults))


def gather(*parts: Callable[[], Any]) -> list[Any]:
    """Call all parts and return their results. Raises one UnusableRowError with the faults of all parts."""
    results: list[Any] = []
    faults: list[str] = []
    for part in parts:
        try:
            results.append(part())
        except UnusableRowError as error:
            faults += error.faults
    if faults:
        raise UnusableRowError(*faults)
    return results


def read_conversation(prompt: Any, answers: Mapping[str, Any]) -> tuple[Prompt, list[str]]:
    """(prompt, answers) of a row.

    prompt:  a text, a list of turns, or None if the answers are conversations that contain the prompt.
    answers: column -> a text, or a list of turns that ends with an assistant turn.
    Raises UnusableRowError with every fault.
    """
    own = (partial(_answer, value, name) for name, value in answers.items())
    start, *parsed = gather(partial(_prompt, prompt), *own)
    before = {name: turns for name, (turns, _) in zip(answers, parsed, strict=True)}
    texts = [text for _, text in parsed]
    if not any(before.values()):
        if not start and not isinstance(start, str):
            raise UnusableRowError(_without_prompt(texts))
        return start, texts
    known = {name: _full_prompt(start, turns, name) for name, turns in before.items() if turns or not _is_blank(start)}
    first, *others = known
    for other in others:
        _require_same_turns(known[first], known[other], first, other)
    return _checked_prompt(known[first]), texts


def _without_prompt(answers: Sequence[str]) -> str:
    fault = "prompt is missing or null, and no answer holds the turns before it"
    if answers and all("\n\nHuman:" in text and "\n\nAssistant:" in text for text in answers):
        return f"{fault}; for transcripts of HH-RLHF's form (Human: ..., Assistant: ...) type data=hh_rlhf"
    return fault


def read_row(row: Mapping[str, Any], answers: Mapping[str, Any], column: str = "prompt") -> tuple[Prompt, list[str]]:
    """Like `read_conversation`, with the prompt read from `row[column]`.

    Also raises UnusableRowError if `messages` or `conversations` disagree with the prompt and the answers.
    """
    prompt, texts = read_conversation(row.get(column), answers)
    refuse_other_conversations(row, prompt, texts, used=answers)
    return prompt, texts


def refuse_other_conversations(
    row: Mapping[str, Any], prompt: Prompt, texts: Sequence[str] = (), used: Container[str] = ()
) -> None:
    """Raise UnusableRowError if `messages` or `conversations` differ from the prompt followed by one of `texts`.

    used: columns that the prompt or the answers were read from. They are not checked again.
    """
    turns = messages_of(prompt)
    names = [name for name in WHOLE_COLUMNS if name not in used and row.get(name) not in EMPTY_VALUES]
    gather(*(partial(_require_repetition, row[name], name, turns, texts) for name in names))


def read_prompt(value: Any, name: str = "prompt") -> Prompt:
    """Read a prompt: a text or a conversation. Raises UnusableRowError."""
    prompt = _prompt(value, name)
    if not prompt:
        raise UnusableRowError(f"{name} is missing or empty")
    return prompt


def turns_of(value: Any, name: str) -> list[Message]:
    """Read a turn or a list of turns. `name` names it in errors. Raises UnusableRowError with every fault."""
    if isinstance(value, dict):
        return [_turn(value, name)]
    return gather(*(partial(_turn, turn, f"turn {i} of {name}") for i, turn in enumerate(value, 1)))


def refuse_unsupported_columns(row: Mapping[str, Any], read: Container[str] = (), *, by_config: bool = False) -> None:
    """Raise UnusableRowError if an unsupported column contains a part of the conversation.

    read:      columns that the caller reads itself.
    by_config: whether `data.columns` can leave the column out.
    """
    found = [key for key in UNSUPPORTED_COLUMNS if key not in read and row.get(key) not in EMPTY_VALUES]
    if found:
        left_out = ", ".join(f'{key}: ""' for key in found)
        cure = f"leave it out: 'data.columns={{{left_out}}}'" if by_config else "remove it"
        raise UnusableRowError(
            f"{', '.join(found)}: such a column is not supported; make it a part of the prompt, or {cure}"
        )


def read_text(value: Any, name: str) -> str:
    """Read a text that can be encoded as UTF-8. Raises UnusableRowError."""
    if not isinstance(value, str):
        raise UnusableRowError(f"{name} must be text, not {_preview(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UnusableRowError(f"{name} has half of a surrogate pair instead of a character: {value!r:.60}") from None
    return value


def read_boolean(value: Any, name: str) -> bool:
    """Read true or false: a boolean, a number (1 or 0), or one of these as text. Raises UnusableRowError."""
    key = value.strip().lower() if isinstance(value, str) else value
    if not isinstance(key, bool | int | float | str) or key not in _BOOLEANS:
        raise UnusableRowError(f"{name} must be true or false, 1 or 0, not {value!r:.80}")
    return _BOOLEANS[key]


def prompt_key(prompt: Prompt) -> str:
    """A key for comparing prompts. A text counts as one turn of the user.

    It ignores differences in white space, and in how an accented letter is encoded (as one character, or as a letter
    and an accent).
    """
    turns = messages_of(prompt)
    return normalize("NFC", "\n".join(f"{turn['role']}: {_normalised(turn['content'])}" for turn in turns))


def _prompt(value: Any, name: str = "prompt") -> Prompt:
    """The prompt as text or turns; an empty list if there is none."""
    if isinstance(value, str):
        return _own_text(value, name)
    if value is None or value == []:
        return []
    if isinstance(value, list | dict):
        return turns_of(value, name)
    raise UnusableRowError(f"{name} must be text or a list of {{role, content}} messages, not {_preview(value)}")


def _answer(value: Any, name: str) -> tuple[list[Message], str]:
    """(turns before the answer, text of the answer)."""
    if value is None:
        raise UnusableRowError(f"{name} is missing or null: fill it in, or remove the row")
    if isinstance(value, str):
        return [], _own_text(value, name)
    if not isinstance(value, list | dict):
        raise UnusableRowError(f"{name} must be text or a list of {{role, content}} messages, not {_preview(value)}")
    if not value:
        raise UnusableRowError(f"{name} is an empty conversation: fill it in, or remove the row")
    *before, last = turns_of(value, name)
    if last["role"] != "assistant":
        text = f"{name} must end with an assistant turn, but ends with one of role {last['role']}"
        raise UnusableRowError(f"{text}: remove what follows the answer, or remove the row")
    return before, last["content"]


def _own_text(value: str, name: str) -> str:
    """Read a text that is not a conversation, or a turn of one, written as text."""
    if _WRITTEN_LIST.fullmatch(value) or (_WRITTEN_TURN.fullmatch(value) and _CONTENT.search(value)):
        text = f"{name} is a text, but it holds a list or a turn as some programs write it ({value!r:.60})"
        raise UnusableRowError(f"{text}: store it as a list (in JSON lines or Parquet), or put the text into a turn")
    return read_text(value, name)


def _turn(value: Any, name: str) -> Message:
    if not isinstance(value, dict):
        raise UnusableRowError(f"{name} must be a {{role, content}} message, not {_preview(value)}")
    turn = value if "role" in value else {_SHAREGPT.get(key) or key: part for key, part in value.items()}
    if absent := [key for key in ("role", "content") if key not in turn]:
        raise UnusableRowError(f"{name} has no {' and no '.join(absent)}: {_preview(value)}")
    if more := [key for key, part in turn.items() if key not in ("role", "content") and part not in EMPTY_VALUES]:
        text = f"{name} has {', '.join(more)}, but only the role and the content of a turn can be used"
        raise UnusableRowError(f"{text}: write it into the content, remove it, or remove the row")
    role = turn["role"]
    if not isinstance(role, str) or role not in _ROLES:
        allowed = ", ".join(_ROLES)
        raise UnusableRowError(
            f"{name} has the role {_preview(role)}, which must be one of: {allowed} (rename it, or remove the row)"
        )
    return Message(role=_ROLES[role], content=_content(turn["content"], name))


def _content(value: Any, name: str) -> str:
    """The text of a turn. If it consists of parts, their texts joined."""
    if value is None or value == []:
        written = "null" if value is None else "[]"
        raise UnusableRowError(f"{name} has no text (content: {written}): fill it in, or remove the row")
    if not isinstance(value, list):
        return read_text(value, f"the content of {name}")
    texts: list[str] = []
    for i, part in enumerate(value, 1):
        used = {key: item for key, item in part.items() if item is not None} if isinstance(part, dict) else {}
        if used.keys() != {"type", "text"} or used["type"] != "text":
            text = f"part {i} of {name} must be {{type: text, text: ...}}, not {_preview(part)}"
            raise UnusableRowError(f"{text}: remove it, or remove the row")
        texts.append(read_text(used["text"], f"part {i} of {name}"))
    return "".join(texts)


def _full_prompt(prompt: Prompt, before: list[Message], name: str) -> list[Message]:
    """All turns before an answer: those of `prompt`, and those before the answer in the answer's own column."""
    if _is_blank(prompt):
        return before
    text = isinstance(prompt, str)
    turns = messages_of(prompt)
    (system, question), (own_system, own) = _split_system(turns), _split_system(before)
    if system and own_system:
        _require_same_turns(system, own_system, "prompt", name)
    system = own_system or system
    repeats_prompt = len(own) >= len(question) and all(_same(a, b) for a, b in zip(question, own, strict=False))
    if repeats_prompt or (text and any(_same(question[0], turn) for turn in own)):
        return [*system, *own]
    if not own:
        return [*system, *question]
    if own[0]["role"] == "assistant" and question[-1]["role"] != "assistant":  # `own` continues the prompt
        return [*system, *question, *own]
    raise UnusableRowError(
        f"{name} is a different conversation from prompt: {name} begins with {_turn_preview(own[0])}, "
        f"and prompt begins with {_turn_preview(question[0])} (correct the row, or remove it)"
    )


def _require_same_turns(one: Sequence[Message], other: Sequence[Message], name: str, other_name: str) -> None:
    """Raise UnusableRowError if two columns have different turns before the answer."""
    if len(one) == len(other) and all(map(_same, one, other)):
        return
    place = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if not _same(a, b)), None)
    if place is None:
        difference = f"{counted(len(one), 'turn')}, and {other_name} has {len(other)}"
    else:
        difference = f"{_turn_preview(one[place])}, and {other_name} has {_turn_preview(other[place])}"
    text = f"{name} and {other_name} differ before the answer: {name} has {difference}"
    raise UnusableRowError(f"{text} (correct the row, or remove it)")


def _require_repetition(value: Any, name: str, prompt: Sequence[Message], texts: Sequence[str]) -> None:
    """Raise UnusableRowError unless a column repeats the turns of the prompt, with or without one of the answers."""
    if not isinstance(value, list):
        raise UnusableRowError(f"{name} must be a list of {{role, content}} messages, not {_preview(value)}")
    turns = turns_of(value, name)
    answered = len(turns) > len(prompt) and turns[-1]["role"] == "assistant"
    before, last = (turns[:-1], turns[-1:]) if answered else (turns, [])
    gather(
        partial(_require_same_turns, prompt, before, "prompt", name),
        *(partial(_require_known_answer, answer, name, texts) for answer in last),
    )


def _require_known_answer(answer: Message, name: str, texts: Sequence[str]) -> None:
    if not any(_normalised(text) == _normalised(answer["content"]) for text in texts):
        raise UnusableRowError(f"{name} ends with an answer that the row does not have ({_turn_preview(answer)})")


def _checked_prompt(prompt: list[Message]) -> list[Message]:
    """The turns before an answer that is itself a whole conversation.

    Raises UnusableRowError if the last of them is the assistant's: which of the two turns is the answer is not clear.
    """
    if prompt[-1]["role"] == "assistant":
        raise UnusableRowError(
            f"the turn before the answer is an assistant turn too ({_turn_preview(prompt[-1])}): join the two turns"
        )
    return prompt


def _split_system(turns: Sequence[Message]) -> tuple[list[Message], list[Message]]:
    count = next((i for i, turn in enumerate(turns) if turn["role"] != "system"), len(turns))
    return list(turns[:count]), list(turns[count:])


def _is_blank(prompt: Prompt) -> bool:
    return not (prompt.strip() if isinstance(prompt, str) else prompt)


def _same(one: Message, other: Message) -> bool:
    return one["role"] == other["role"] and _normalised(one["content"]) == _normalised(other["content"])


def _normalised(text: str) -> str:
    return " ".join(text.split())


def _turn_preview(turn: Message) -> str:
    return f"{turn['role']}: {turn['content']!r:.40}"


def _preview(value: Any) -> str:
    return "null" if value is None else f"{value!r:.80}"
