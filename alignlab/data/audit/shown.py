"""Rows as tokens, to show what a run reads and what it is supervised on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from alignlab.data.rows import Place
from alignlab.data.tokenize import LabelledTokens, PairTokens, RankingTokens, Tokens

# Tokens that share characters are shown as one, but not more than this many. One character has at most four.
_MOST_JOINED = 8

# What a decoder writes for a part of a character.
_INCOMPLETE = "\ufffd"


@dataclass(frozen=True)
class ShownToken:
    """The text of one token, and whether it is a special token. Tokens that share a character are shown as one."""

    text: str
    special: bool = False


@dataclass(frozen=True)
class ShownRow:
    """A row as tokens.

    place:   the file and the row that it comes from; empty if they are not known.
    prompt:  tokens that the model reads.
    answers: name -> tokens that are supervised.
    """

    place: str
    prompt: Sequence[ShownToken]
    answers: dict[str, Sequence[ShownToken]]

    def record(self) -> dict[str, Any]:
        """The row in plain containers, for JSON."""
        return asdict(self)


def show_row(row: Tokens, tokenizer: Any, place: Place | None) -> ShownRow:
    """The texts of a row's tokens. Special tokens are written out, and no space is added or removed."""
    special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
    before = list(tokenizer("a", add_special_tokens=False)["input_ids"])  # a decoder may drop the first space of a text

    def decoded(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def shown(ids: Sequence[int]) -> list[ShownToken]:
        tokens: list[ShownToken] = []
        part: list[int] = []
        for token in ids:
            part.append(token)
            text = decoded([*before, *part]).removeprefix(decoded(before))
            if not text.endswith(_INCOMPLETE) or len(part) == _MOST_JOINED:
                tokens.append(ShownToken(text, token in special))
                part = []
        return tokens + [ShownToken(decoded([token])) for token in part]

    return ShownRow(str(place or ""), shown(row.prompt), {name: shown(ids) for name, ids in _answers(row)})


def _answers(row: Tokens) -> Iterator[tuple[str, Sequence[int]]]:
    if isinstance(row, PairTokens):
        yield from (("chosen", row.chosen), ("rejected", row.rejected))
    elif isinstance(row, LabelledTokens):
        yield "good" if row.desirable else "bad", row.completion
    elif isinstance(row, RankingTokens):
        graded = zip(row.completions, row.grades, strict=True)
        yield from ((f"answer {i} (grade {grade:g})", ids) for i, (ids, grade) in enumerate(graded, 1))
    else:
        yield "answer", row.completion
