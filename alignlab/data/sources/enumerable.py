"""Pairs and answers from the small worlds in which papers are reproduced."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from alignlab.checks import at_least, one_of, positive, within
from alignlab.data.fingerprint import digest
from alignlab.data.rows import Completion, Loaded, Pair, Split
from alignlab.data.sources.base import MOST_ROWS, ReferenceTable, Source
from alignlab.errors import DataError, Problem
from alignlab.lab.draws import draw_answers, draw_rows
from alignlab.lab.enumerable import SYMBOLS, enumerable, sizes
from alignlab.lab.enumerable import Enumerable as Answers
from alignlab.lab.tables import KINDS, SHARES, STRINGS, defaults_of
from alignlab.lab.world import MAX_LEAVES
from alignlab.spelling import correct_spelling

# Each split has its own streams of random numbers.
_STREAM = {"train": 0, "eval": 1}

# How often in a row no drawn group may give a pair before the data counts as having none.
_MAX_ATTEMPTS = 100


def world_problems(
    kind: str, settings: Mapping[str, float], prompts: int, *, spelled: bool = False
) -> Iterator[Problem]:
    """Yield every problem of the settings of a world."""
    yield from one_of("kind", kind, tuple(KINDS))
    if kind not in KINDS:
        return
    known = defaults_of(kind)
    wrong = False
    for key, value in settings.items():
        guess = key if key in known else correct_spelling(key, known)
        if text := _wrong_setting(kind, key, value):
            wrong = True
            shown = f"{known.get(key, value):g}"
            yield Problem(f"settings.{key}", value, text, f"data.settings.{guess}={shown}" if guess else "")
    if spelled and kind not in STRINGS:
        text = f"only answers that are strings can be spelled, and those of {kind} are not"
        yield Problem("spelled", spelled, text, "spelled=false")
    if wrong:
        return
    symbols, length = sizes(kind, settings, spelled=spelled)
    count = symbols ** min(length, 64)  # more is too many in any case
    if symbols > len(SYMBOLS) or count > MAX_LEAVES:
        text = f"{count} answers are too many; there can be {MAX_LEAVES if length > 1 else len(SYMBOLS)}"
        yield Problem("settings", dict(settings), text, f"settings={defaults_of('random')}")
    values = {**defaults_of(kind), **settings}
    if values.get("likely", 0) >= symbols:
        text = f"must be below the number of answers ({symbols})"
        yield Problem("settings.likely", values["likely"], text, f"data.settings.likely={symbols - 1}")
    most = 1 if kind == "keywords" else symbols
    if not 1 <= prompts <= most:
        yield Problem("prompts", prompts, f"must lie in [1, {most}] for this kind of world", "prompts=1")


def _wrong_setting(kind: str, key: str, value: float) -> str:
    """What is wrong with a setting of a kind of world; empty if nothing is."""
    known = defaults_of(kind)
    if key not in known:
        return f"no such setting of {kind}; there are: {', '.join(known)}"
    if isinstance(known[key], int):
        lowest = 1 if key == "length" else 2
        return "" if value >= lowest and value == value // 1 else f"must be a whole number of at least {lowest}"
    if key in SHARES:
        return "" if 0 < value < 1 else "must lie between 0 and 1"
    return "" if 0 < value < math.inf else "must be a finite number above 0"


@dataclass(kw_only=True)
class Enumerable(Source):
    """Rows sampled from a world whose answers are all known (`alignlab.lab.enumerable`).

    Papers are reproduced in such worlds: `conf/experiment/paper` chooses them.

    kind:        random, bigrams, keywords, bump, diagonal or chain: how the answers' prior and gold reward are made
                 (`alignlab.lab.tables`).
    settings:    settings of the kind, such as the number of answers.
    prompts:     number of prompts; they are one letter each, or a single empty prompt.
    spelled:     an answer that is a string has one token for each letter. Otherwise each answer is one token.
    world_seed:  of the prior and the gold reward.
    pair_count:  number of pairs, and of single answers.
    drawn_from:  the answers of pairs are drawn from the reference, or from the prior (its author).
    group:       answers that are drawn to a prompt at a time. All pairs of different ones among them are used.
    covered:     number of answers to each prompt that pairs may contain: the likeliest ones under the prior. 0: all.
    labels:      "bradley_terry": the better answer wins with probability sigmoid(label_scale * difference of gold
                 rewards). "deterministic": the better answer always wins, and equally good ones are not compared.
    label_scale: certainty of the labeller.
    seed:        of the samples and the labels.
    """

    kind: str = "random"
    settings: dict[str, float] = field(default_factory=dict)
    prompts: int = 1
    spelled: bool = False
    world_seed: int = 0
    pair_count: int = 1000
    drawn_from: str = "reference"
    group: int = 2
    covered: int = 0
    labels: str = "bradley_terry"
    label_scale: float = 1.0
    seed: int = 0

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from world_problems(self.kind, self.settings, self.prompts, spelled=self.spelled)
        yield from within("pair_count", self.pair_count, 1, MOST_ROWS, example=1000)
        yield from at_least("group", self.group, 2, example=2)
        yield from at_least("covered", self.covered, 0, example=0, hint="0: all answers")
        if self.covered == 1:
            yield Problem("covered", 1, "must be 0 or at least 2: a pair has two answers", "covered=2")
        yield from one_of("drawn_from", self.drawn_from, ("reference", "prior"))
        yield from one_of("labels", self.labels, ("bradley_terry", "deterministic"))
        yield from positive("label_scale", self.label_scale, example=1.0, hint="certainty of the labeller")

    @property
    def world(self) -> Answers:
        return enumerable(self.kind, self.settings, prompts=self.prompts, seed=self.world_seed, spelled=self.spelled)

    @property
    def covered_answers(self) -> NDArray[np.bool_]:
        """bool[X, N] the answers that pairs may contain."""
        prior = self.world.demonstrator_logps
        if not self.covered:
            return np.ones(prior.shape, dtype=bool)
        place = np.argsort(np.argsort(-prior, axis=1, kind="stable"), axis=1, kind="stable")
        return np.asarray(place < self.covered)

    def unseen_mass(self, policy: NDArray[np.float64]) -> float:
        """Probability of the answers that can't be in a pair, mean over prompts, given that there is an answer at all.

        policy: [X, N] log-probabilities; the first completion is the empty one.
        """
        weight = np.exp(policy[:, 1:])
        return float(((weight * ~self.covered_answers[:, 1:]).sum(axis=1) / weight.sum(axis=1)).mean())

    def exact_metrics(self, policy: NDArray[np.float64]) -> dict[str, float]:
        return {"exact/unseen": self.unseen_mass(policy)} if self.covered else {}

    def fingerprint(self) -> str:
        return digest([repr(sorted(asdict(self).items())).encode()])

    def completions(self, split: Split) -> Loaded[Completion]:
        world, rng = self.world, np.random.default_rng([self.seed, 10 + _STREAM[split]])
        prompts, answers = draw_rows(rng, np.exp(world.demonstrator_logps), self._size(split))
        texts = world.completion_texts
        return Loaded(
            [Completion(world.prompt_texts[x], texts[y], False) for x, y in zip(prompts, answers, strict=True)]
        )

    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        world, rng = self.world, np.random.default_rng([self.seed, 20 + _STREAM[split]])
        if self.drawn_from == "prior":
            probability = np.exp(world.demonstrator_logps)
        elif reference is None:
            raise ValueError("the pairs are sampled from the reference, but no reference was given")
        else:
            probability = np.exp(np.asarray(reference(world), dtype=np.float64))
        pairs = self._compared(rng, probability * self.covered_answers, self._size(split))
        prompts, first, second = pairs.T
        difference = world.gold_reward[prompts, first] - world.gold_reward[prompts, second]
        if self.labels == "deterministic":
            first_wins = difference > 0
        else:
            first_wins = rng.random(len(pairs)) < 1 / (1 + np.exp(-self.label_scale * difference))
        texts, ended, rows = world.completion_texts, world.ended, []
        for (x, a, b), wins in zip(pairs, first_wins, strict=True):
            chosen, rejected = (texts[a], texts[b]) if wins else (texts[b], texts[a])
            rows.append(Pair(world.prompt_texts[x], chosen, rejected, ended(chosen), ended(rejected)))
        return Loaded(rows)

    def _compared(self, rng: np.random.Generator, probability: NDArray[np.float64], count: int) -> NDArray[np.int64]:
        """int64[count, 3] prompt and the two answers of each pair, in the order in which they were drawn."""
        places = list(itertools.combinations(range(self.group), 2))
        found: list[NDArray[np.int64]] = []
        missing, attempts = count, 0
        while missing > 0:
            prompts = rng.integers(len(probability), size=-(-missing // len(places)))
            drawn = np.stack([draw_answers(rng, probability, prompts) for _ in range(self.group)], axis=1)
            pairs = np.stack([np.stack([prompts, drawn[:, i], drawn[:, j]], axis=1) for i, j in places], axis=1)
            pairs = pairs.reshape(-1, 3)
            kept = pairs[self._differ(pairs)]
            found.append(kept)
            missing -= len(kept)
            attempts = 0 if len(kept) else attempts + 1
            if attempts >= _MAX_ATTEMPTS:
                raise DataError("the answers that are drawn to a prompt are all alike, so there is nothing to compare")
        return np.concatenate(found)[:count]

    def _differ(self, pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool[B] whether the answers of each pair are different and, for certain labels, differ in reward."""
        prompts, first, second = pairs.T
        if self.labels != "deterministic":
            return np.asarray(first != second)
        gold = self.world.gold_reward
        return np.asarray(gold[prompts, first] != gold[prompts, second])

    def _size(self, split: Split) -> int:
        return min(self.pair_count, self.limited(split) or self.pair_count)
