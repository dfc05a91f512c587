"""Finds the known word that a misspelt word stands for. Strict: a wrong guess would mislead the user."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby


def correct_spelling(word: str, known: Iterable[str], *, least: int = 4) -> str:
    """The one known word that `word` misspells; empty if there is none, or more than one.

    Parts of a name are compared one by one, so that `min_length` is no misspelling of `max_length`. Two parts are the
    same word if one letter is wrong, missing, or one too many. In parts of fewer than `least` letters only a doubled or
    a swapped letter counts. Digits have to agree.
    """
    found = [name for name in dict.fromkeys(known) if _misspells(word, name, least)]
    return found[0] if len(found) == 1 else ""


def correct_option(word: str, options: Iterable[str]) -> str:
    """As `correct_spelling`, for names such as those of objectives: `gspo`, `gpo` and `grpo` are three methods."""
    return correct_spelling(word, options, least=5 if len(word) < 6 else 4)


def _misspells(word: str, name: str, least: int) -> bool:
    if re.findall(r"\d", word) != re.findall(r"\d", name):
        return False
    mine, theirs = _parts(word), _parts(name)
    if "".join(mine) == "".join(theirs):
        return mine == theirs or len(word) > 5  # `rdpo` may be r_dpo, or robust DPO
    wrong = [(a, b) for a, b in zip(mine, theirs, strict=False) if a != b]
    return len(mine) == len(theirs) and len(wrong) <= 2 and all(_one_keystroke(a, b, least) for a, b in wrong)


def _parts(name: str) -> list[str]:
    """The words of a name: those of `batch_size`, `batch-size`, `batchSize` and `BATCH_SIZE` are the same."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return [part for part in re.split(r"[^a-z0-9]+", apart.lower()) if part]


def _one_keystroke(word: str, name: str, least: int) -> bool:
    swapped = any(word[:i] + word[i : i + 2][::-1] + word[i + 2 :] == name for i in range(len(word) - 1))
    doubled = abs(len(word) - len(name)) == 1 and [k for k, _ in groupby(word)] == [k for k, _ in groupby(name)]
    if swapped or doubled:
        return True
    shorter, longer = sorted((word, name), key=len)
    if len(name) < least or len(longer) - len(shorter) > 1:
        return False
    if len(shorter) == len(longer):
        return sum(a != b for a, b in zip(word, name, strict=True)) == 1
    return any(longer[:i] + longer[i + 1 :] == shorter for i in range(len(longer)))
