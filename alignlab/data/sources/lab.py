"""The lab: an enumerable World, demonstrations sampled from its author, and pairs sampled from the reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from alignlab.checks import at_least, one_of, positive, within
from alignlab.data.fingerprint import digest
from alignlab.data.rows import Completion, Labelled, Loaded, Pair, Split
from alignlab.data.sources.base import MOST_ROWS, ReferenceTable, Source
from alignlab.errors import DataError, Problem
from alignlab.lab.draws import draw_answers, draw_rows
from alignlab.lab.weighted_pairs import WeightedPairs
from alignlab.lab.world import MAX_LEAVES, World

# Each split has its own streams of random numbers. So a change of one count does not change the other rows.
_STREAM = {"train": 0, "eval": 1}


# How often a second answer that equals the first is sampled again, before the reference counts as constant.
_MAX_ATTEMPTS = 1000

# Most pairs of answers over all prompts that are enumerated, and the least number of pairs that stand for them if there
# are more.
MOST_PAIRS, SAMPLED_PAIRS = 4_000_000, 100_000

# Strings of more letters are too many whatever the alphabet is. Powers are not computed beyond it.
_LONG = 64
MOST_PROMPTS = 100_000


@dataclass(kw_only=True)
class Lab(Source):
    """Rows sampled from an enumerable World (alignlab.lab.world).

    Both splits are sampled from all prompts of the World, so they share prompts.

    alphabet, length, prompts, prompt_length, world_seed: the fields of the World; `world_seed` is its `seed`.
    demonstrations: number of training rows for SFT.
    pair_count:     number of training pairs. A pair has a random prompt and two different answers, which are sampled
                    from the reference.
    labels:         "bradley_terry": the better answer wins with probability sigmoid(label_scale * difference of gold
                    rewards); "deterministic": the better answer always wins.
    label_scale:    certainty of the labeller; with a larger scale, the better answer wins more often.
    flipped:        share of the training pairs whose label is flipped, in [0, 0.5]. `seed` decides which ones. With a
                    larger share, the same pairs and more are flipped. Held-out pairs keep their labels.
    desirable_kept: share of the good training answers that objectives on labelled answers get, in [0, 1]. All bad
                    answers are kept. `seed` decides which good ones, as for `flipped`.
    seed:           of the samples and the labels.
    train_limit, eval_limit: not needed here, as `demonstrations` and `pair_count` decide the number of rows.
    """

    alphabet: str = "abcdef"
    length: int = 5
    prompts: int = 8
    prompt_length: int = 2
    world_seed: int = 0
    demonstrations: int = 8000
    pair_count: int = 8000
    labels: str = "bradley_terry"
    label_scale: float = 1.0
    flipped: float = 0.0
    desirable_kept: float = 1.0
    seed: int = 0

    pair_fields: ClassVar[tuple[str, ...]] = ("pair_count", "labels", "label_scale", "flipped", "desirable_kept")
    labelled_fields: ClassVar[tuple[str, ...]] = ("desirable_kept",)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        v = len(self.alphabet)
        if v < 2 or len(set(self.alphabet)) < v:
            yield Problem("alphabet", self.alphabet, "must be at least two different letters", "alphabet=abcdef")
        yield from at_least("length", self.length, 1, example=5)
        yield from at_least("prompt_length", self.prompt_length, 1, example=2)
        leaves = v ** min(max(1, self.length), _LONG)
        if v >= 2 and self.length >= 1 and leaves > MAX_LEAVES:
            shown = f" = {leaves}" if self.length <= _LONG else ""
            text = f"len(alphabet)^length{shown} must not exceed {MAX_LEAVES}"
            yield Problem("length", self.length, text, "length=5")
        most = min(v ** min(max(1, self.prompt_length), _LONG), MOST_PROMPTS)
        if v >= 2 and not 1 <= self.prompts <= most:
            why = "the number of strings of prompt_length letters" if most < MOST_PROMPTS else "which fit into memory"
            yield Problem("prompts", self.prompts, f"must lie in [1, {most}], {why}", "prompts=8")
        yield from within("demonstrations", self.demonstrations, 1, MOST_ROWS, example=8000)
        yield from within("pair_count", self.pair_count, 1, MOST_ROWS, example=8000)
        yield from one_of("labels", self.labels, ("bradley_terry", "deterministic"))
        yield from positive("label_scale", self.label_scale, example=1.0, hint="certainty of the labeller")
        yield from within("flipped", self.flipped, 0.0, 0.5, example=0.1, hint="at 0.5 labels are pure chance")
        yield from within("desirable_kept", self.desirable_kept, 0.0, 1.0, example=0.1)

    @property
    def world(self) -> World:
        return _world(self.alphabet, self.length, self.prompts, self.prompt_length, self.world_seed)

    def fingerprint(self) -> str:
        return digest([repr(sorted(asdict(self).items())).encode()])

    def completions(self, split: Split) -> Loaded[Completion]:
        world = self.world
        rng = np.random.default_rng([self.seed, 10 + _STREAM[split]])
        prompts, leaves = draw_rows(rng, np.exp(world.demonstrator_logps), self._size(split, self.demonstrations))
        texts = world.completion_texts
        return Loaded(
            [
                Completion(world.prompt_texts[x], texts[y], world.ended(texts[y]))
                for x, y in zip(prompts, leaves, strict=True)
            ]
        )

    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        if reference is None:
            raise ValueError("the lab's pairs are sampled from the reference, but no reference was given")
        world = self.world
        probability = np.exp(np.asarray(reference(world), dtype=np.float64))
        rng = np.random.default_rng([self.seed, 20 + _STREAM[split]])
        wanted = self._size(split, self.pair_count)
        prompts, first = draw_rows(rng, probability, wanted)
        second = _other_answers(rng, probability, prompts, first)
        gold = world.gold_reward
        difference = gold[prompts, first] - gold[prompts, second]
        if self.labels == "deterministic":
            first_wins = difference > 0
        else:
            first_wins = rng.random(wanted) < 1 / (1 + np.exp(-self.label_scale * difference))
        if split == "train":
            first_wins ^= _share(np.random.default_rng([self.seed, 30]), wanted, self.flipped)
        texts = world.completion_texts
        rows = []
        for x, a, b, wins in zip(prompts, first, second, first_wins, strict=True):
            chosen, rejected = (texts[a], texts[b]) if wins else (texts[b], texts[a])
            rows.append(Pair(world.prompt_texts[x], chosen, rejected, world.ended(chosen), world.ended(rejected)))
        return Loaded(rows)

    def population(self, reference: Any) -> WeightedPairs:
        """Both answers come from the reference; the second is drawn again while it equals the first."""
        p, world = np.exp(reference), self.world
        if world.prompts * world.leaves**2 <= MOST_PAIRS:
            return WeightedPairs.of_table(self._all_pairs(p))
        rng = np.random.default_rng([self.seed, 60])
        # Every answer is the first one equally often, with its probability as weight, and the second one is drawn.
        times = -(-SAMPLED_PAIRS // p.size)
        prompts, first = (np.tile(part.ravel(), times) for part in np.indices(p.shape))
        second = _other_answers(rng, p, prompts, first)
        weight = p[prompts, first] / (times * world.prompts)
        won = self._first_wins(world.gold_reward[prompts, first] - world.gold_reward[prompts, second])
        sides = (np.r_[prompts, prompts], np.r_[first, second], np.r_[second, first])
        return WeightedPairs(*sides, np.r_[weight * won, weight * (1 - won)], whole=False)

    def _first_wins(self, difference: NDArray[np.float64]) -> NDArray[np.float64]:
        """The probability that the first answer is preferred, from the difference of the rewards."""
        if self.labels == "deterministic":
            won = (difference > 0).astype(np.float64)
        else:
            won = 1 / (1 + np.exp(-self.label_scale * difference))
        return np.asarray(won * (1 - self.flipped) + (1 - won) * self.flipped)

    def _all_pairs(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        """[X, N, N] probability that a pair has prompt x, preferred answer i and dispreferred answer j. p: [X, N]."""
        gold = self.world.gold_reward
        first_wins = self._first_wins(gold[:, :, None] - gold[:, None])  # [X, first, second]
        drawn = p[:, :, None] * p[:, None] / np.maximum(1 - p, 1e-300)[:, :, None] / len(p)
        drawn[:, range(p.shape[1]), range(p.shape[1])] = 0.0
        return np.asarray(drawn * first_wins + np.swapaxes(drawn * (1 - first_wins), 1, 2))

    def labelled(self, split: Split, reference: ReferenceTable | None) -> Loaded[Labelled]:
        loaded = super().labelled(split, reference)
        if split == "eval":
            return loaded
        good = np.array([row.desirable for row in loaded.rows])
        kept = ~good
        kept[good] = _share(np.random.default_rng([self.seed, 40]), int(good.sum()), self.desirable_kept)
        return Loaded([row for row, keep in zip(loaded.rows, kept, strict=True) if keep], loaded.dropped)

    def _size(self, split: Split, training_rows: int) -> int:
        if split == "train":
            return min(training_rows, self.limited("train") or training_rows)
        return self.limited("eval") or training_rows


def _other_answers(
    rng: np.random.Generator, probability: NDArray[np.float64], prompts: NDArray[np.int64], first: NDArray[np.int64]
) -> NDArray[np.int64]:
    """int64[B] an answer to each prompt that differs from `first`. probability: [X, N]; prompts, first: int64[B].

    Raises DataError if there is only one answer to a prompt.
    """
    second = first.copy()
    for _ in range(_MAX_ATTEMPTS):
        same = first == second
        if not same.any():
            return second
        second[same] = draw_answers(rng, probability, prompts[same])
    raise DataError("the reference always gives the same answer, so there are no pairs to compare")


@lru_cache(maxsize=8)
def _world(alphabet: str, length: int, prompts: int, prompt_length: int, seed: int) -> World:
    """The World with these fields. It is cached, because all points of a sweep use the same tables."""
    return World(alphabet, length, prompts, prompt_length, seed)


def _share(rng: np.random.Generator, count: int, share: float) -> NDArray[np.bool_]:
    """bool[count], True for round(share * count) random places. A larger share contains the places of a smaller one."""
    chosen = np.zeros(count, dtype=bool)
    chosen[rng.permutation(count)[: round(share * count)]] = True
    return chosen
