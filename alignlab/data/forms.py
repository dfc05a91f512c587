"""The forms of rows that are recognised by the names of their columns.

The prompt of a row is one of these:
- `prompt` or `question`: a text, or a list of turns.
- `instruction`, with `input` on a line below it if there is one (Alpaca); or `input` alone.
- `messages`, `conversations` (ShareGPT) or `conversation`: turns, or {input, output} exchanges (Capybara).
`system` or `system_prompt` is put in front of it as a system turn.

A single answer is `completion`, `response`, `answer` or `output`, or the last turn of a whole conversation.

Columns that hold the same thing must agree. A row whose columns disagree is refused; nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from alignlab.data.conversations import (
    EMPTY_VALUES,
    UnusableRowError,
    gather,
    prompt_key,
    read_boolean,
    read_conversation,
    read_prompt,
    read_text,
    refuse_other_conversations,
    turns_of,
)
from alignlab.data.files import Record
from alignlab.data.rows import Completion, Labelled, Message, Pair, Prompt, PromptOnly, Ranking, messages_of

PROMPT = ("prompt", "question", "instruction", "input")
WHOLE = ("messages", "conversations", "conversation")
SYSTEM = ("system", "system_prompt")
ANSWER = ("completion", "response", "answer", "output")

# Columns that every form may have: those that the prompt is read from.
PROMPT_COLUMNS = (*PROMPT, *WHOLE, *SYSTEM)

# Source -> the columns that it needs, each given as its possible names.
NEEDED: dict[str, tuple[tuple[str, ...], ...]] = {
    "pairs": (("chosen",), ("rejected",)),
    "unpaired": ((*ANSWER, *WHOLE), ("label",)),
    "rankings": (("completions",), ("grades",)),
    "completions": ((*ANSWER, *WHOLE),),
    "prompts": ((*PROMPT, *WHOLE),),
}

_WRITTEN = {True: "true", False: "false", None: "null"}  # values as they are typed

_WORDS = {
    "good": True, "bad": False, "desirable": True, "undesirable": False, "chosen": True, "rejected": False,
    "accepted": True, "positive": True, "negative": False, "yes": True, "no": False, "up": True, "down": False,
    "thumbs up": True, "thumbs down": False, "thumb up": True, "thumb down": False, "thumbsup": True,
    "thumbsdown": False, "upvote": True, "downvote": False, "like": True, "dislike": False, "liked": True,
    "disliked": False, "\N{THUMBS UP SIGN}": True, "\N{THUMBS DOWN SIGN}": False,
}  # fmt: skip

NO_LABEL = "label must be"  # how a fault of a label begins


def pair_of(row: Record) -> Pair:
    """A pair from `chosen` and `rejected`, with `margin`, `chosen_ended` and `rejected_ended` if there are any."""
    (prompt, (chosen, rejected)), chosen_ended, rejected_ended = gather(
        lambda: read_form(row, {side: row.get(side) for side in ("chosen", "rejected")}),
        partial(read_ended, row, "chosen_ended"),
        partial(read_ended, row, "rejected_ended"),
    )
    return Pair(prompt, chosen, rejected, chosen_ended, rejected_ended, _margin(row.get("margin")))


def completion_of(row: Record) -> Completion:
    """A prompt and its answer, with `ended` if there is such a column."""
    (prompt, (text,)), ended = gather(lambda: read_form(row, _answer_of(row)), partial(read_ended, row, "ended"))
    return Completion(prompt, text, ended)


def labelled_of(row: Record, labels: Mapping[Any, bool | None]) -> Labelled:
    """A prompt and its answer with a `label`. `labels` are the words that labels may be; empty: the usual words."""
    answer, label = gather(partial(completion_of, row), partial(read_label, row.get("label"), labels))
    return Labelled(answer.prompt, answer.completion, label, answer.ended)


def ranking_of(row: Record) -> Ranking:
    """A prompt with `completions` and their `grades`, and a list `ended` if there is such a column."""
    completions, grades = row.get("completions"), row.get("grades")
    if not isinstance(completions, list) or not isinstance(grades, list) or len(completions) != len(grades):
        raise UnusableRowError("completions and grades must be lists of the same length")
    if len(completions) < 2:
        raise UnusableRowError("a ranking needs at least two completions")
    ended = row.get("ended")
    if ended in EMPTY_VALUES:
        ended = [True] * len(completions)
    if not isinstance(ended, list) or len(ended) != len(completions):
        raise UnusableRowError("ended must be a list of the same length as completions")
    answers = {f"answer {i} of completions": answer for i, answer in enumerate(completions, 1)}
    (prompt, texts), numbers, flags = gather(
        lambda: read_form(row, answers),
        lambda: gather(*(partial(read_number, grade, f"grade {i}") for i, grade in enumerate(grades, 1))),
        lambda: gather(*(partial(read_boolean, flag, f"ended {i}") for i, flag in enumerate(ended, 1))),
    )
    if not all(text.strip() for text in texts):
        raise UnusableRowError("an answer is empty")
    return Ranking(prompt, texts, numbers, flags)


def prompt_of(row: Record) -> PromptOnly:
    """A prompt without an answer. A whole conversation must end with a turn of the user."""
    value = _prompt_value(row, ())
    prompt = read_prompt(value)
    name = next((name for name in WHOLE if row.get(name) not in EMPTY_VALUES), "")
    if not _given(row, PROMPT) and messages_of(prompt)[-1]["role"] == "assistant":
        raise UnusableRowError(
            f"{name} ends with an answer\n    type: data=completions, which reads the prompt and the answer"
        )
    refuse_other_conversations(row, prompt)
    return PromptOnly(_with_system(row, prompt))


def read_form(row: Record, answers: Mapping[str, Any]) -> tuple[Prompt, list[str]]:
    """(prompt, texts of the answers) of a row. `answers` is column -> value. Raises UnusableRowError."""
    value = (
        None if set(answers) & set(WHOLE) and not _given(row, PROMPT) else _prompt_value(row, list(answers.values()))
    )
    prompt, texts = read_conversation(value, answers)
    full = _with_system(row, prompt)
    for name in ("messages", "conversations"):
        if name not in answers and isinstance(turns := row.get(name), list) and turns:
            starts_with_system = turns_of(turns[:1], name)[0]["role"] == "system"
            refuse_other_conversations({name: turns}, full if starts_with_system else prompt, texts)
        elif name not in answers:
            refuse_other_conversations({name: row.get(name)}, prompt, texts)
    return full, texts


def read_ended(row: Record, name: str) -> bool:
    """Whether an answer is complete: the value of the row, or True if it is missing, null or an empty cell."""
    value = row.get(name)
    return True if value in (None, "") else read_boolean(value, name)


def label_key(value: Any) -> str:
    """A label as text, for comparing labels: 5, 5.0 and "5" are equal, and so are Good and good."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().lower()


def read_label(value: Any, labels: Mapping[Any, bool | None]) -> bool:
    """True for good and False for bad, from a boolean, a number or a word. Raises UnusableRowError."""
    word = label_key(value)
    if labels:
        known = {label_key(key): good for key, good in labels.items()}
        if word not in known:
            allowed = ", ".join(map(str, labels))
            more = ", ".join(f"{key}: {_WRITTEN[good]}" for key, good in labels.items())
            raise UnusableRowError(
                f"{NO_LABEL} one of {allowed} (data.labels), not {value!r:.80}\n"
                f"    type: 'data.labels={{{more}, {word:.80}: null}}' to leave such rows out"
            )
        return bool(known[word])
    known_word = usual_label(value)
    return read_boolean(value, "label") if known_word is None else known_word


def usual_label(value: Any) -> bool | None:
    """Whether a usual word for a label means good; None if it is no such word."""
    return _WORDS.get(" ".join(re.split(r"[\s_-]+", label_key(value)))) if isinstance(value, str) else None


def read_number(value: Any, what: str) -> float:
    """Read a finite number, given as a number or as text. `what` names it in the error. Raises UnusableRowError."""
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if number != number or number in (float("inf"), float("-inf")):
        raise UnusableRowError(f"{what} must be a finite number, not {value!r:.80}")
    return number


def _margin(value: Any) -> float | None:
    try:
        return read_number(value, "margin")
    except UnusableRowError:
        return None


def _answer_of(row: Record) -> dict[str, Any]:
    """{column: value} of the single answer of a row."""
    given = {name: row[name] for name in ANSWER if row.get(name) is not None}
    if len(given) > 1 and len({str(value) for value in given.values()}) > 1:
        raise _disagree(list(given), "answers", keep="completion")
    if given:
        name = next(iter(given))
        return {name: given[name]}
    whole = next((name for name in WHOLE if name in row), None)
    if whole is None:
        return {next((name for name in ANSWER if name in row), "completion"): None}
    if not isinstance(row[whole], list):
        raise UnusableRowError(f"{whole} must be a list of {{role, content}} messages, not {row[whole]!r:.80}")
    return {whole: _turns_of_exchanges(row[whole])}


def _prompt_value(row: Record, answers: Collection[Any]) -> Any:
    """The text or the turns of the prompt as the row holds them; None if no column of the row's own has it."""
    given = _given(row, PROMPT)
    if "instruction" in given and "input" in given:
        both = [read_text(given.pop(name), name) for name in ("instruction", "input")]
        given["instruction"] = "\n".join(both)
    if len(given) > 1 and len({prompt_key(read_prompt(value, name)) for name, value in given.items()}) > 1:
        raise _disagree(list(given), "prompts", keep="prompt")
    if given:
        return next(iter(given.values()))
    whole = next((name for name in WHOLE if isinstance(row.get(name), list) and row[name]), None)
    if whole is None:
        return next((row[name] for name in PROMPT if row.get(name) is not None), None)
    turns = turns_of(_turns_of_exchanges(row[whole]), whole)
    if not answers or turns[-1]["role"] != "assistant":
        return turns
    if not _is_one_of(turns[-1], answers):
        shown = f"assistant: {turns[-1]['content']!r:.40}"
        raise UnusableRowError(f"{whole} ends with an answer that the row does not have ({shown})")
    return turns[:-1]


def _is_one_of(turn: Message, answers: Collection[Any]) -> bool:
    """Whether a turn repeats one of the answers."""
    texts = (answer if isinstance(answer, str) else turns_of(answer, "answer")[-1]["content"] for answer in answers)
    return any(" ".join(text.split()) == " ".join(turn["content"].split()) for text in texts)


def _turns_of_exchanges(value: Any) -> Any:
    """{input, output} exchanges as turns of the user and the assistant. Other values are returned as they are."""
    exchanges = isinstance(value, list) and value and all(isinstance(x, dict) and "input" in x for x in value)
    if not exchanges:
        return value
    turns = [
        {"role": role, "content": exchange.get(side)}
        for exchange in value
        for role, side in (("user", "input"), ("assistant", "output"))
    ]
    return turns[:-1] if turns[-1]["content"] in EMPTY_VALUES else turns


def _with_system(row: Record, prompt: Prompt) -> Prompt:
    """The prompt with the system text of a column of its own in front. Raises UnusableRowError if it has another."""
    given = _given(row, SYSTEM)
    if not given:
        return prompt
    texts = {name: read_text(value, name) for name, value in given.items()}
    if len(set(texts.values())) > 1:
        raise _disagree(list(texts), "system texts", keep="system")
    name, text = next(iter(texts.items()))
    turns = messages_of(prompt)
    if not turns or turns[0]["role"] != "system":
        return [Message(role="system", content=text), *turns]
    if " ".join(turns[0]["content"].split()) != " ".join(text.split()):
        raise UnusableRowError(
            f"{name} is {text!r:.40}, but the prompt has the system turn {turns[0]['content']!r:.40}\n"
            f"    type: 'data.columns={{{name}: \"\"}}' to read the turn"
        )
    return prompt


def _given(row: Record, names: Sequence[str]) -> dict[str, Any]:
    """The columns that hold something. White space counts as nothing."""
    return {name: row[name] for name in names if not _is_empty(row.get(name))}


def _is_empty(value: Any) -> bool:
    return value in EMPTY_VALUES or (isinstance(value, str) and not value.strip())


def _disagree(names: Sequence[str], what: str, keep: str) -> UnusableRowError:
    kept, *others = names
    chosen = ", ".join([*([f"{keep}: {kept}"] if kept != keep else []), *(f'{name}: ""' for name in others)])
    return UnusableRowError(
        f"{' and '.join(names)} hold different {what}\n    type: 'data.columns={{{chosen}}}' to read {kept}"
    )
