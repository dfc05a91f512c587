"""Repetition and variety of texts. They count words, not tokens, so they are comparable between models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_GRAM = 4


def repetition(text: str) -> float:
    """Share of an answer's 4-grams of words that occurred earlier in it; 0 if it has fewer than two 4-grams."""
    grams = _grams(text.split(), _GRAM)
    return 1 - len(set(grams)) / len(grams) if len(grams) > 1 else 0.0


def distinct(texts: Iterable[str], n: int) -> float:
    """Distinct n-grams of words in all answers, as a share of all n-grams; NaN if there are none.

    Li et al. 2016, https://arxiv.org/abs/1510.03055. The share falls with the number of answers, so compare only equal
    numbers of answers.
    """
    grams = [gram for text in texts for gram in _grams(text.split(), n)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
