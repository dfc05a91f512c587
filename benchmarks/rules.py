"""Rewards that take no time to compute, for benchmarks of online training."""

from __future__ import annotations


def vowels(prompt: str, answer: str) -> float:
    """Ten times the share of vowels among the letters of an answer; 0 if it has no letters."""
    letters = [letter for letter in answer.lower() if letter.isalpha()]
    return 10.0 * sum(letter in "aeiou" for letter in letters) / len(letters) if letters else 0.0
