"""An enumerable task: all completions and their gold rewards are known, so every expectation can be computed exactly.

The symbols are the letters of an alphabet. A completion has at most `length` tokens, including the end-of-sequence
token. So the completions are the leaves of a tree: shorter strings end with that token, and strings of `length` letters
are cut off. The probabilities of these leaves sum to 1 under any policy over {letters, end}.

The construction follows the enumerable tasks of the DPO literature: a reference, a planted reward and Bradley-Terry
labels (see Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, section 4).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

MAX_LEAVES = 50_000

Array = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Prompts, completions, an author of demonstrations and a gold reward. These fields determine all of them.

    alphabet:      the letters; V = len(alphabet).
    length:        L, the most tokens in a completion, including the end-of-sequence token.
    prompts:       X, the number of prompts; each is a different string of `prompt_length` letters.
    prompt_length: letters of a prompt.
    seed:          of the demonstrator, the gold reward and the choice of prompts.
    """

    # Whether a policy can give no other answers than the completions.
    is_whole: ClassVar[bool] = True

    alphabet: str = "abcdef"
    length: int = 5
    prompts: int = 8
    prompt_length: int = 2
    seed: int = 0

    @property
    def symbols(self) -> int:
        """V, the number of letters."""
        return len(self.alphabet)

    @property
    def leaves(self) -> int:
        """N, the number of completions of one prompt: sum of V^k for k < L (ended) plus V^L (cut off)."""
        return sum(self.symbols**k for k in range(self.length + 1))

    def normalised(self, table: Array) -> Array:
        """[X, N] log-probabilities of the completions under a model, as a distribution over them: the same table."""
        return table

    @cached_property
    def prompt_texts(self) -> list[str]:
        """X strings, sampled without replacement from all strings of `prompt_length` letters."""
        everything = ["".join(p) for p in itertools.product(self.alphabet, repeat=self.prompt_length)]
        chosen = np.random.default_rng([self.seed, 1]).permutation(len(everything))[: self.prompts]
        return [everything[i] for i in sorted(chosen)]

    @cached_property
    def completion_texts(self) -> list[str]:
        """N strings, ordered by length and then alphabetically. All tables [X, N] and [N] have this order."""
        return [
            "".join(letters)
            for length in range(self.length + 1)
            for letters in itertools.product(self.alphabet, repeat=length)
        ]

    @property
    def answers(self) -> list[list[str]]:
        """The completions of each prompt, in the order of the tables [X, N]."""
        return [self.completion_texts] * self.prompts

    def ended(self, completion: str) -> bool:
        """Whether the completion ends with the end-of-sequence token. Others have `length` letters and were cut off."""
        return len(completion) < self.length

    @cached_property
    def lengths(self) -> Array:
        """[N] number of tokens of each completion, the end-of-sequence token included."""
        return np.array([len(text) + self.ended(text) for text in self.completion_texts], dtype=np.float64)

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        """[N, L] letter indices. The end-of-sequence token is V, and so is the padding after it."""
        table = np.full((self.leaves, self.length), self.symbols, dtype=np.int64)
        index = {letter: i for i, letter in enumerate(self.alphabet)}
        for row, text in enumerate(self.completion_texts):
            table[row, : len(text)] = [index[letter] for letter in text]
        return table

    def leaf_logps(self, steps: list[Array]) -> Array:
        """[N] log-probability of each completion, computed from next-token tables, nats.

        steps: for each depth k < L, [V^k, V + 1] log-probabilities of the next token (letters, then the end) after
               each prefix of k letters in alphabetical order.
        """
        prefix = np.zeros(1)
        ended = []
        for table in steps:
            ended.append(prefix + table[:, -1])
            prefix = (prefix[:, None] + table[:, :-1]).reshape(-1)
        return np.concatenate([*ended, prefix])

    @cached_property
    def demonstrator_logps(self) -> Array:
        """[X, N] log-probability of each completion under the author of the demonstrations, nats.

        Next-token logits depend on the position, the previous letter and the prompt. The logit of the end grows with
        the position.
        """
        rng = np.random.default_rng([self.seed, 2])
        v = self.symbols
        by_position = rng.normal(0.0, 1.2, (self.length, v + 1, v + 1))  # [depth, previous, next]
        by_prompt = rng.normal(0.0, 0.8, (self.prompts, v + 1))
        by_position[:, :, v] = -1.0 + 0.9 * np.arange(self.length)[:, None]
        by_prompt[:, v] = 0.0
        rows = []
        for shift in by_prompt:
            steps = []
            for depth in range(self.length):
                previous = np.tile(np.arange(v), v ** (depth - 1)) if depth else np.array([v])
                logits = by_position[depth][previous] + shift
                steps.append(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
            rows.append(self.leaf_logps(steps))
        return np.stack(rows)

    @cached_property
    def gold_reward(self) -> Array:
        """[X, N] gold reward: the sum of the scores of a completion's letters and bigrams.

        A letter's score is the sum of a score for all prompts and one of the prompt. The reward is standardised: under
        the demonstrator its mean is 0 for every prompt, and its variance is 1 on average over prompts.
        """
        rng = np.random.default_rng([self.seed, 3])
        v = self.symbols
        shared, own = rng.normal(size=v), rng.normal(size=(self.prompts, v))
        bigram = rng.normal(0.0, 0.5, (v, v))
        counts = np.stack([(self.tokens == letter).sum(1) for letter in range(v)], axis=1)
        first, second = self.tokens[:, :-1], self.tokens[:, 1:]
        inside = (first < v) & (second < v)
        pair_score = np.where(inside, bigram[np.minimum(first, v - 1), np.minimum(second, v - 1)], 0.0).sum(1)
        raw = (shared + own) @ counts.T + pair_score
        weight = np.exp(self.demonstrator_logps)
        centred = raw - (weight * raw).sum(1, keepdims=True)
        variance = (weight * centred**2).sum(1).mean()
        return centred / np.sqrt(variance)
