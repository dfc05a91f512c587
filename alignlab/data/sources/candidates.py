"""A closed set of scored answers to each prompt, from the user's own file: an enumerable world for any model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from alignlab.checks import one_of, positive, within
from alignlab.data.files import Record, read_records, unusable_rows
from alignlab.data.fingerprint import digest, path_digest
from alignlab.data.locations import missing
from alignlab.data.rows import Completion, Loaded, Pair, Split
from alignlab.data.sources.base import MOST_ROWS, ReferenceTable, Source
from alignlab.errors import DataError, Problem
from alignlab.lab.candidates import CandidateWorld
from alignlab.types import DataShape

_STREAM = {"train": 0, "eval": 1}
_COLUMNS = ("prompt", "candidates", "scores")


@dataclass(kw_only=True)
class Candidates(Source):
    """Rows with `prompt` (a text), `candidates` (a list of texts) and `scores` (a list of numbers; larger is better).

    Pairs of different candidates are sampled from the start of the run, as in the lab, and labelled by the scores. KL,
    reward and frontier of a choice among the candidates are exact. Both splits are sampled from all prompts.

    path:        a .jsonl, .json or .parquet file (or one of these with .gz).
    ends:        whether an answer ends where its candidate ends. If not, candidates are beginnings of answers, which
                 have a larger share of a model's probability.
    pair_count:  number of training pairs.
    labels:      "bradley_terry": the better candidate wins with probability sigmoid(label_scale * difference of
                 scores); "deterministic": the better candidate always wins, and equal ones are a coin toss.
    label_scale: certainty of the labeller.
    seed:        of the samples and the labels.
    """

    path: str
    ends: bool = True
    pair_count: int = 1000
    labels: str = "bradley_terry"
    label_scale: float = 1.0
    seed: int = 0

    pair_fields: ClassVar[tuple[str, ...]] = ("pair_count", "labels", "label_scale")
    content_fields: ClassVar[tuple[str, ...]] = ("path",)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from within("pair_count", self.pair_count, 1, MOST_ROWS, example=1000)
        yield from one_of("labels", self.labels, ("bradley_terry", "deterministic"))
        yield from positive("label_scale", self.label_scale, example=1.0, hint="certainty of the labeller")

    def missing(self) -> Iterator[Problem]:
        found = list(missing("path", self.path))
        if not found and not Path(self.path).is_file():
            found = [Problem("path", self.path, "must be a file", "path=my_candidates.jsonl")]
        yield from found
        if not found:
            try:
                _rows(self.path, self.fingerprint())
            except DataError as error:
                yield Problem("path", self.path, str(error))

    def fingerprint(self) -> str:
        return path_digest(self.path) if Path(self.path).exists() else digest([self.path.encode()])

    @property
    def shapes(self) -> tuple[DataShape, ...]:
        return ("pairs", "completions", "labelled")

    @property
    def world(self) -> CandidateWorld:
        """The candidates. Without a usable file it is empty, and `missing` yields the problem."""
        try:
            rows = _rows(self.path, self.fingerprint())
        except DataError:
            rows = ()
        return CandidateWorld(prompts=len(rows), rows=rows, ends=self.ends, template=self.template)

    def completions(self, split: Split) -> Loaded[Completion]:
        """The best candidate of each prompt."""
        best = [(prompt, texts[max(range(len(texts)), key=scores.__getitem__)]) for prompt, texts, scores in self._rows]
        return Loaded([Completion(prompt, text, self.ends) for prompt, text in best][: self.limited(split)])

    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        if reference is None:
            raise ValueError("pairs of candidates are sampled from the reference, but no reference was given")
        world = self.world
        probability = np.exp(world.normalised(np.asarray(reference(world), dtype=np.float64)))
        rng = np.random.default_rng([self.seed, 50 + _STREAM[split]])
        count = self._size(split)
        prompts = rng.integers(len(world.rows), size=count)
        gold, rows = world.gold_reward, []
        for x in prompts:
            first, second = _two(rng, probability[x])
            certainty = self.label_scale * float(gold[x, first] - gold[x, second])
            if self.labels == "deterministic":
                certainty = math.copysign(math.inf, certainty) if certainty else 0.0
            if rng.random() >= 1 / (1 + math.exp(-max(-700.0, certainty))):
                first, second = second, first
            prompt, texts, _ = world.rows[x]
            rows.append(Pair(prompt, texts[first], texts[second], self.ends, self.ends))
        return Loaded(rows)

    @property
    def _rows(self) -> tuple[tuple[str, tuple[str, ...], tuple[float, ...]], ...]:
        return _rows(self.path, self.fingerprint())

    def _size(self, split: Split) -> int:
        limit = self.limited(split)
        return min(self.pair_count, limit or self.pair_count) if split == "train" else limit or self.pair_count


def _two(rng: np.random.Generator, probability: NDArray[np.float64]) -> tuple[int, int]:
    """Two different candidates: the first by its probability, the second by that given that it is another one."""
    first = int(rng.choice(len(probability), p=probability / probability.sum()))
    others = probability.copy()
    others[first] = 0.0
    if others.sum() <= 0:
        raise DataError("the model always gives the same candidate, so there are no pairs to compare")
    return first, int(rng.choice(len(others), p=others / others.sum()))


@lru_cache(maxsize=8)
def _rows(path: str, content: str) -> tuple[tuple[str, tuple[str, ...], tuple[float, ...]], ...]:
    """The rows of a file with this content. Raises DataError with all rows that can't be used."""
    records = read_records(path)
    if not records:
        raise DataError(f"{path} has no rows")
    faults = [(f"row {i}", text) for i, record in enumerate(records, 1) if (text := _fault(record))]
    prompts = [str(record.get("prompt")) for record in records]
    faults += [
        (f"row {i}", "has the prompt of an earlier row") for i, p in enumerate(prompts, 1) if p in prompts[: i - 1]
    ]
    if faults:
        raise unusable_rows(path, faults)
    return tuple((str(r["prompt"]), tuple(map(str, r["candidates"])), tuple(map(float, r["scores"]))) for r in records)


def _fault(record: Record) -> str:
    """What is wrong with a row; empty if nothing is."""
    if lacking := [name for name in _COLUMNS if name not in record]:
        return f"has no {', '.join(lacking)}; it needs prompt, candidates and scores"
    prompt, candidates, scores = (record[name] for name in _COLUMNS)
    if not isinstance(prompt, str):
        return "prompt must be a text"
    if not _is_list(candidates, str) or len(candidates) < 2 or "" in candidates:
        return "candidates must be a list of at least two texts that are not empty"
    if len(set(candidates)) < len(candidates):
        return "a candidate is listed twice"
    if not _is_list(scores, (int, float)) or not all(math.isfinite(score) for score in scores):
        return "scores must be a list of finite numbers"
    if len(scores) != len(candidates):
        return f"has {len(candidates)} candidates and {len(scores)} scores"
    return ""


def _is_list(value: Any, kind: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(isinstance(one, kind) and not isinstance(one, bool) for one in value)
    )
