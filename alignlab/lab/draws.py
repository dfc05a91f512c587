"""Random answers of an enumerable task."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def draw_answers(
    rng: np.random.Generator, probability: NDArray[np.float64], prompts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """int64[B] an answer for each prompt, by inverse-transform sampling from the prompt's row of probabilities.

    probability: [X, N] of each answer, given the prompt.
    prompts:     int64[B], each below X.
    """
    cumulative = np.cumsum(probability, axis=1)
    answers = np.empty(len(prompts), dtype=np.int64)
    for x in np.unique(prompts):
        rows = prompts == x
        u = rng.random(rows.sum()) * cumulative[x, -1]
        answers[rows] = np.searchsorted(cumulative[x], u, side="right")
    return np.minimum(answers, probability.shape[1] - 1)


def draw_rows(
    rng: np.random.Generator, probability: NDArray[np.float64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(prompts, answers), int64[count] each: uniform prompts, and an answer to each. probability: [X, N]."""
    prompts = rng.integers(len(probability), size=count)
    return prompts, draw_answers(rng, probability, prompts)
