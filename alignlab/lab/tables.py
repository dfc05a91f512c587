"""The distributions of answers and the gold rewards of small worlds in which papers are reproduced.

Each function makes one kind of world: (prior [X, N], reward [X, N]) for X prompts and N answers, where the prior is the
log-probability (nats) with which the author of the data writes an answer. `KINDS` names the functions.

Answers that are strings are in alphabetical order: the last letter changes fastest.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tables = tuple[Array, Array]


def random(seed: int, prompts: int = 1, *, answers: int = 40, concentration: float = 1.0, scale: float = 1.5) -> Tables:
    """A prior from a Dirichlet distribution, and normal rewards with the standard deviation `scale`."""
    rng = np.random.default_rng(seed)
    prior = np.log(rng.dirichlet(np.full(answers, concentration), size=prompts))
    return prior, scale * rng.standard_normal((prompts, answers))


def bigrams(seed: int, prompts: int = 1, *, letters: int = 8, length: int = 4, spread: float = 1.2) -> Tables:
    """All strings of a length. The prior's next letter depends on the position and the letter before.

    The reward is between 0 and 1: the sigmoid of twice the centred sum of scores of the letters and the bigrams.
    """
    rng = np.random.default_rng(seed)
    strings = strings_of(letters, length)
    rows = spread * rng.standard_normal((prompts, 1 + (length - 1) * letters, letters))
    single, double = rng.standard_normal((prompts, letters)), 0.5 * rng.standard_normal((prompts, letters, letters))
    next_letter = rows - np.log(np.exp(rows).sum(axis=2, keepdims=True))
    prior = next_letter[:, 0, strings[:, 0]]
    score = 1.5 * single[:, strings].mean(axis=2)
    for t in range(1, length):
        before, after = strings[:, t - 1], strings[:, t]
        prior = prior + next_letter[:, 1 + (t - 1) * letters + before, after]
        score = score + double[:, before, after]
    centred = score - (np.exp(prior) * score).sum(axis=1, keepdims=True)
    return prior, 1 / (1 + np.exp(-2 * centred))


def keywords(seed: int, prompts: int = 1, *, letters: int = 8, length: int = 5) -> Tables:
    """All strings of a length, written by a Markov chain. The reward scores which letters occur, and dislikes repeats.

    Under the prior the reward has mean 0 and variance 1. There is one prompt.
    """
    if prompts != 1:
        raise ValueError("this kind of world has one prompt")
    rng = np.random.default_rng([seed, 5])
    transitions = np.log(rng.dirichlet(np.ones(letters), size=letters) + 1e-3)
    first = np.log(rng.dirichlet(np.full(letters, 2.0)))
    strings = strings_of(letters, length)
    prior = first[strings[:, 0]] + sum(transitions[strings[:, t], strings[:, t + 1]] for t in range(length - 1))
    prior -= np.log(np.exp(prior).sum())
    counts = counts_of(strings, letters)
    reward = np.minimum(counts, 1) @ rng.normal(size=letters) - 0.5 * np.maximum(counts - 1, 0).sum(axis=1)
    return prior[None], standardised(reward, prior)[None]


def bump(seed: int, prompts: int = 1, *, answers: int = 100, centre: float = 70.0, width: float = 10.0) -> Tables:
    """Answers on a line. The prior is the density of tanh(c), where c has a Cauchy distribution around -0.7.

    The reward is exp(-((i - centre) / width)^2) for answer i. Nothing is random, so `seed` is not used.
    """
    edges = np.linspace(-1, 1, answers + 1)[1:-1]
    below = 0.5 + np.arctan((np.arctanh(edges) + 0.7) / 0.4) / math.pi
    share = np.diff(np.concatenate([[0.0], below, [1.0]])) + 1e-3
    prior = np.log(share / share.sum())
    reward = np.exp(-(((np.arange(answers) - centre) / width) ** 2))
    return np.tile(prior, (prompts, 1)), np.tile(reward, (prompts, 1))


def diagonal(seed: int, prompts: int = 1, *, answers: int = 8, likely: int = 3, outside: float = 0.11) -> Tables:
    """Answer i is right for prompt i: its reward is 1, and the others' is 0.

    The prior prefers `likely` answers to each prompt, the right one and others at random. It gives the rest the
    probability `outside` in all. Both groups are uniform.
    """
    rng = np.random.default_rng(seed)
    prior = np.full((prompts, answers), math.log(outside / (answers - likely)))
    for x in range(prompts):
        others = rng.permutation(np.delete(np.arange(answers), x))
        prior[x, [x, *others[: likely - 1]]] = math.log((1 - outside) / likely)
    return prior, np.eye(prompts, answers)


def chain(
    seed: int, prompts: int = 1, *, letters: int = 8, length: int = 5, follow: float = 0.9, odds: float = 3.0
) -> Tables:
    """Strings in which the next letter of the alphabet follows with probability `follow`, otherwise any letter.

    At every second position an even letter is the better one: it multiplies the odds of being preferred by `odds`.
    Nothing is random, so `seed` is not used.
    """
    strings = strings_of(letters, length)
    step = np.full((letters, letters), (1 - follow) / letters)
    step[np.arange(letters), (np.arange(letters) + 1) % letters] += follow
    prior = -math.log(letters) + sum(np.log(step[strings[:, t], strings[:, t + 1]]) for t in range(length - 1))
    reward = math.log(odds) * (strings[:, 1::2] % 2 == 0).sum(axis=1)
    return np.tile(prior, (prompts, 1)), np.tile(reward, (prompts, 1))


KINDS: dict[str, Callable[..., Tables]] = {
    make.__name__: make for make in (random, bigrams, keywords, bump, diagonal, chain)
}

# Kinds whose answers are strings of letters.
STRINGS = ("bigrams", "keywords", "chain")

# Settings that are probabilities.
SHARES = ("follow", "outside")


def defaults_of(kind: str) -> dict[str, Any]:
    """The settings of a kind with their defaults."""
    found = inspect.signature(KINDS[kind]).parameters.values()
    return {p.name: p.default for p in found if p.kind is p.KEYWORD_ONLY}


def strings_of(letters: int, length: int) -> NDArray[np.int64]:
    """[letters^length, length] all strings, as indices of letters, in alphabetical order."""
    return np.stack(np.meshgrid(*[np.arange(letters)] * length, indexing="ij"), axis=-1).reshape(-1, length)


def counts_of(strings: NDArray[np.int64], letters: int) -> Array:
    """[N, letters] how often each letter occurs in each string."""
    return np.stack([(strings == letter).sum(axis=1) for letter in range(letters)], axis=1).astype(np.float64)


def standardised(reward: Array, prior: Array) -> Array:
    """[N] the reward with mean 0 and variance 1 under a prior [N] of log-probabilities."""
    weight = np.exp(prior)
    centred = reward - weight @ reward
    return np.asarray(centred / np.sqrt(weight @ centred**2))
