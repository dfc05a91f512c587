"""What texts look like, by counting words: repetition and variety. No tokenizer: the same numbers for every model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_GRAM = 4


def repetition(text: str) -> float:
    """Share of an answer's runs of four words that stood in it before; 0 where it has fewer than two of them."""
    grams = _grams(text.split(), _GRAM)
    return 1 - len(set(grams)) / len(grams) if len(grams) > 1 else 0.0


def distinct(texts: Iterable[str], n: int) -> float:
    """Different runs of n words in all answers, as a share of all such runs (Li et al. 2016,
    https://arxiv.org/abs/1510.03055); NaN where there is none. Falls with the number of answers: compare equal numbers.
    """
    grams = [gram for text in texts for gram in _grams(text.split(), n)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
