"""Rewards that cost nothing to compute, for benchmarks of what draws answers."""

from __future__ import annotations


def vowels(prompt: str, answer: str) -> float:
    """Share of vowels among the letters of an answer, in tenths; 0 where it has no letters."""
    letters = [letter for letter in answer.lower() if letter.isalpha()]
    return 10.0 * sum(letter in "aeiou" for letter in letters) / len(letters) if letters else 0.0
