"""Words of messages: corrections of misspelt words, counts, and values as they are typed.

The rules of corrections are strict, because a wrong correction would mislead the user.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, zip_longest
from typing import Any

# Two missing or added letters are accepted if the shorter word has at least this many.
_LONG = 6


def correct_spelling(word: str, known: Iterable[str], *, least: int = 4) -> str:
    """The known word that `word` is a misspelling of. Empty if no known word matches, or if several do.

    The parts of a name are compared one by one, so `min_length` is not a misspelling of `max_length`. Two parts match
    if one letter is wrong, missing or added. In parts of fewer than `least` letters, only a doubled letter or two
    swapped letters match. In long parts that begin alike, two letters may be missing or added (`partion`). Digits must
    be the same.
    """
    names = list(dict.fromkeys(known))
    if other_case := [name for name in names if name.lower() == word.lower()]:
        return other_case[0]
    found = [name for name in names if _misspells(word, name, least)]
    if not found:
        found = [name for name in names if _lacks_two_letters(word, name)]
    return found[0] if len(found) == 1 else ""


def correct_option(word: str, options: Iterable[str]) -> str:
    """Like `correct_spelling`, but stricter for short words: `gspo`, `gpo` and `grpo` are three different methods."""
    return correct_spelling(word, options, least=5 if len(word) < 6 else 4)


def of_the_same_family(word: str, known: Iterable[str], *, most: int = 8) -> list[str]:
    """The known names that begin with the same letters as `word`, those that share most of its parts first.

    `qwen3_8b_instruct` has the letters `qwen`, and so has `qwen2_5_7b`. At most `most` names are returned.
    """

    def letters(name: str) -> str:
        return re.sub(r"[^a-z].*", "", name.lower())

    def others(name: str) -> tuple[int, int]:
        mine, theirs = _parts(word), _parts(name)
        shared = sum(part in mine for part in theirs)
        return -shared, len(theirs) - shared

    family = [name for name in dict.fromkeys(known) if letters(name) and letters(name) == letters(word)]
    return sorted(family, key=others)[:most]


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 point`, `2 points`. The plural of the noun must end with a plain `s`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def as_typed(value: Any) -> str:
    """A value of a config as the command line takes it: `[a,"b=1"]`, `{beta:0.1}`, `true`, `null`."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{as_typed(part)}" for key, part in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(map(_entry_as_typed, value)) + "]"
    return str(value)


def size_in_words(size: int) -> str:
    """A number of bytes in the largest unit of which it has at least one: `812 bytes`, `1.2 kB`, `3.4 MB`, `5.6 GB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return counted(size, "byte")


def for_shell(text: str) -> str:
    """A text that says what to type, with quotes around each key=value that has brackets or braces: zsh needs them."""
    words, word, depth = [], "", 0
    for sign in f"{text} ":
        if sign.isspace() and not depth:
            words += [_in_quotes(word), sign]
            word = ""
        else:
            word += sign
            depth += (sign in "[{") - (sign in "]}")
    return ("".join(words) + word)[:-1]


def _in_quotes(word: str) -> str:
    bare = word.rstrip(",;")
    needed = re.match(r"[\w.+~@/-]+=", bare) and re.search(r"[][{}]", bare) and "'" not in bare
    return f"'{bare}'{word[len(bare) :]}" if needed else word


def quoted(text: str) -> str:
    """A text as Hydra reads it: in quotes if it has signs that Hydra's grammar lacks or uses (`ä`, a comma)."""
    if re.fullmatch(r"[A-Za-z0-9_\-/$%+.@?|*]*", text):
        return text
    # In Hydra's quotes, backslashes are escapes only before a quote.
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + "\\'" * len(m[2]), text) + "'"


def _entry_as_typed(entry: Any) -> str:
    """An entry of a list. Texts that hold = or , need quotes."""
    return f'"{entry}"' if isinstance(entry, str) and re.search("[=,]", entry) else as_typed(entry)


def _misspells(word: str, name: str, least: int) -> bool:
    if re.findall(r"\d", word) != re.findall(r"\d", name):
        return False
    word_parts, name_parts = _parts(word), _parts(name)
    if "".join(word_parts) == "".join(name_parts):
        return word_parts == name_parts or len(word) > 5  # `rdpo` may mean r_dpo or robust DPO
    wrong = [(a, b) for a, b in zip(word_parts, name_parts, strict=False) if a != b]
    return len(word_parts) == len(name_parts) and len(wrong) <= 2 and all(_one_keystroke(a, b, least) for a, b in wrong)


def _lacks_two_letters(word: str, name: str) -> bool:
    """Whether two letters are missing or too many in one long part of a name, and the other parts are the same."""
    pairs = [(a, b) for a, b in zip_longest(_parts(word), _parts(name), fillvalue="") if a != b]
    if len(pairs) != 1:
        return False
    shorter, longer = sorted(pairs[0], key=len)
    if len(shorter) < _LONG or len(longer) - len(shorter) != 2 or shorter[:2] != longer[:2]:
        return False
    letters = iter(longer)
    return not re.search(r"\d", longer) and all(letter in letters for letter in shorter)  # a subsequence


def _parts(name: str) -> list[str]:
    """The words of a name. `batch_size`, `batch-size`, `batchSize` and `BATCH_SIZE` have the same words."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return [part for part in re.split(r"[^a-z0-9]+", apart.lower()) if part]


def _one_keystroke(word: str, name: str, least: int) -> bool:
    """Whether one typing error turns `name` into `word`. `least` is as in `correct_spelling`."""
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
