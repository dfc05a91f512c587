"""Prompts for judges: reads templates from files, fills them so that judged text stays in its place, parses replies.

A template file holds one JSON object per line, in the format of FastChat's `judge_prompts.jsonl` (Zheng et al. 2023,
https://arxiv.org/abs/2306.05685): name, type (pairwise or single), system_prompt, prompt_template, output_format. That
file itself works too, and so does AlpacaEval's `alpaca_eval_clf.txt` (ChatML, verdict from log-probabilities).

| output_format | the verdict |
|---|---|
| [[A]] | [[A]], [[B]] or [[C]] (a tie) in the text |
| [[rating]] | [[7]] or [[7.5]], from 1 to 10, in the text |
| token | log-probabilities of the first token: `tokens` names the one for the first and for the second answer |

Places to fill:

- comparisons: question, answer_a, answer_b
- ratings: question, answer
- with a reference answer: ref_answer_1
- conversations: question_1, question_2, answer_a_1, ...
- AlpacaEval: instruction, output_1, output_2
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from alignlab.errors import DataError

KINDS = ("pairwise", "single")

_PLACE = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_VERDICT = re.compile(r"\[\[([ABC])\]\]")
_RATING = re.compile(r"\[\[(\d+(?:\.\d+)?)\]\]")
_FIRST = {"A": 1.0, "B": 0.0, "C": 0.5}
# Text that a chat server may read as the end of a message, or that the parsers below read as a verdict.
_CONTROL = r"<\|[^\s<>|]+\|>|\[/?INST\]|<(?:start|end)_of_turn>|\[\[(?:[ABC]|rating|\d+(?:\.\d+)?)\]\]"
# ASCII punctuation -> the same character in full width, which people can read but which is no delimiter.
_FULL_WIDTH = {c: c + 0xFEE0 for c in range(0x21, 0x7F) if not chr(c).isalnum()}


@dataclass(frozen=True)
class Template:
    """One prompt for a judge."""

    name: str
    kind: str
    system: str
    text: str
    output_format: str
    tokens: tuple[str, str] | None = None

    @cached_property
    def places(self) -> frozenset[str]:
        """Names of the places to fill."""
        return frozenset(_PLACE.findall(self.system + self.text))

    @property
    def takes_reference(self) -> bool:
        return "ref_answer_1" in self.places

    @property
    def turns(self) -> int:
        """Number of turns of a conversation that the template has places for."""
        return 2 if "question_2" in self.places else 1

    def messages(self, values: Mapping[str, str], *, neutralise: bool = True) -> list[dict[str, str]]:
        """Chat messages with all places filled. See `fill`."""
        filled = [("system", self.system), ("user", self.text)]
        return [{"role": role, "content": self.fill(text, values, neutralise)} for role, text in filled if text]

    def fill(self, text: str, values: Mapping[str, str], neutralise: bool = True) -> str:
        """The text with its places filled. They are filled in one pass, so that braces in a value do not count.

        neutralise: replace this template's delimiters, control tokens of chat servers and verdict marks in a value by
                    full-width characters. Values without them are inserted byte for byte.
        Raises DataError if a place has no value.
        """

        def value(found: re.Match[str]) -> str:
            given = values.get(found[1])
            if given is None:
                raise DataError(f"template {self.name} has a place {{{found[1]}}}, but there is no value for it")
            return self._delimiters.sub(lambda m: m[0].translate(_FULL_WIDTH), given) if neutralise else given

        return _PLACE.sub(value, text)

    @cached_property
    def _delimiters(self) -> re.Pattern[str]:
        """Pattern of the template's delimiters, control tokens and verdict marks.

        Delimiters are lines without a place that begin with punctuation, and punctuation around a place.
        """
        marks: set[str] = set()
        for line in (self.system + "\n" + self.text).split("\n"):
            line = line.strip()
            if not _PLACE.search(line) and re.match(r"[^\w\s].*\w", line):
                marks.add(line)
            marks |= {mark for pair in re.findall(r"(\W{2,})\{\w+\}|\{\w+\}(\W{2,})", line) for mark in pair}
        words = (r"\s+".join(map(re.escape, mark.split())) for mark in sorted(marks, key=len, reverse=True) if mark)
        return re.compile("|".join([*words, _CONTROL]), re.IGNORECASE)

    def parse(self, reply: str) -> float:
        """The verdict in a judge's text: the score of the first answer (1, 1/2, 0), or a rating from 1 to 10.

        NaN if there is none, or if there are several that differ. Nothing is guessed.
        """
        if self.output_format == "[[A]]":
            found = {_FIRST[mark] for mark in _VERDICT.findall(reply)}
        else:
            found = {float(mark) for mark in _RATING.findall(reply)}
        verdict = found.pop() if len(found) == 1 else math.nan
        return verdict if self.output_format == "[[A]]" or 1 <= verdict <= 10 else math.nan

    def parse_tokens(self, logps: Mapping[str, float]) -> float:
        """P(first) / (P(first) + P(second)), from the log-probabilities (nats) of the tokens for the two answers.

        A token that is not among the likeliest has probability 0. The result is NaN if neither is among them.
        """
        assert self.tokens is not None
        first, second = (math.exp(logps[token]) if token in logps else 0.0 for token in self.tokens)
        return first / (first + second) if first + second > 0 else math.nan


def values_of(
    prompt: Sequence[str],
    a: Sequence[str],
    b: Sequence[str] | None = None,
    reference: Sequence[str] = (),
) -> dict[str, str]:
    """Name of a place -> its text, for all names that templates use. Each argument holds one text per turn."""
    found = {f"question_{i}": text for i, text in enumerate(prompt, 1)}
    found |= {f"ref_answer_{i}": text for i, text in enumerate(reference, 1)}
    sides = {"": a} if b is None else {"a_": a, "b_": b}
    found |= {f"answer_{side}{i}": text for side, turns in sides.items() for i, text in enumerate(turns, 1)}
    found |= {"question": prompt[0], "instruction": prompt[0]}
    if b is None:
        found["answer"] = a[0]
    else:
        found |= {"answer_a": a[0], "answer_b": b[0], "output_1": a[0], "output_2": b[0]}
    return found


def choose(templates: Iterable[Template], kind: str, *, turns: int, reference: bool) -> Template:
    """The first template of a kind for so many turns.

    reference: whether there is a reference answer. Templates that show it are preferred, but others are allowed.
               Without a reference answer, only templates that show none fit.
    Raises DataError if no template fits.
    """
    fitting = [t for t in templates if t.kind == kind and t.turns == turns]
    for wanted in (reference, False):
        for template in fitting:
            if template.takes_reference == wanted:
                return template
    raise DataError(f"no {kind} template for {turns} turn{'s' if turns > 1 else ''} and no reference answer")


def read_templates(path: str) -> tuple[Template, ...]:
    """All templates of a file: .jsonl (see the top of this file), or .txt in AlpacaEval's ChatML.

    Raises DataError if the file can't be read or holds something else.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read: {error}") from error
    return _parsed(path, text)


@lru_cache(maxsize=16)
def _parsed(path: str, text: str) -> tuple[Template, ...]:
    if path.endswith(".txt"):
        return (_chatml(text, path),)
    lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    return tuple(_from_json(line, f"{path}, line {i}") for i, line in lines)


def _chatml(text: str, path: str) -> Template:
    parts = dict(re.findall(r"<\|im_start\|>(system|user)\n(.*?)\n?<\|im_end\|>", text, re.DOTALL))
    if "user" not in parts:
        raise DataError(f"{path} does not contain <|im_start|>user ... <|im_end|>")
    return _checked(
        Template(Path(path).stem, "pairwise", parts.get("system", ""), parts["user"], "token", ("m", "M")), path
    )


def _from_json(line: str, where: str) -> Template:
    try:
        row = json.loads(line)
        tokens = row.get("tokens")
        return _checked(
            Template(
                row["name"],
                row["type"],
                row.get("system_prompt", ""),
                row["prompt_template"],
                row["output_format"],
                (str(tokens[0]), str(tokens[1])) if tokens else None,
            ),
            where,
        )
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON: {error}") from error
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        needed = "name, type, prompt_template and output_format"
        raise DataError(f"{where}: a template needs {needed} (and two tokens for output_format token)") from error


def _checked(template: Template, where: str) -> Template:
    """The template itself. Raises DataError if its format or places do not suit its kind."""
    needs = {
        "pairwise": [{"answer_a", "answer_b"}, {"output_1", "output_2"}, {"answer_a_2", "answer_b_2"}],
        "single": [{"answer"}, {"answer_2"}],
    }
    formats = {"pairwise": ("[[A]]", "token"), "single": ("[[rating]]",)}
    wrong = ""
    if template.kind not in KINDS:
        wrong = f"type must be one of {', '.join(KINDS)}, not {template.kind}"
    elif template.output_format not in formats[template.kind]:
        wrong = f"output_format of a {template.kind} template must be {' or '.join(formats[template.kind])}"
    elif not any(places <= template.places for places in needs[template.kind]):
        wrong = f"prompt_template must have the places {' or '.join(str(sorted(p)) for p in needs[template.kind])}"
    elif unknown := template.places - _known():
        wrong = f"prompt_template has unknown places: {', '.join(sorted(unknown))}"
    elif template.output_format == "token" and (not template.tokens or len(set(template.tokens)) != 2):
        wrong = "output_format token needs two different tokens"
    if wrong:
        raise DataError(f"{where}: {wrong}")
    return template


def _known() -> set[str]:
    two = ("", "")
    return {*values_of(two, two, two, two), *values_of(two, two, None, two)}
