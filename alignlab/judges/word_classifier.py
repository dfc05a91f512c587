"""A classifier of texts as judge: logistic regression on words, fitted to labelled texts whenever it is needed."""

from __future__ import annotations

import itertools
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from alignlab.checks import positive
from alignlab.data.rows import Split
from alignlab.errors import ConfigError, DataError, Problem
from alignlab.judges.base import Answer, Score, ScoreJudge
from alignlab.statistics.logistic import logistic_regression

if TYPE_CHECKING:
    from alignlab.data.sources.imdb import IMDb

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

# Number of training texts in which a word, or a pair of neighbouring words, must occur.
FEWEST_TEXTS = 3

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


@dataclass(kw_only=True)
class WordClassifier(ScoreJudge):
    """The log-odds that prompt and answer together are a good text, by logistic regression on TF-IDF weights of words.

    It is fitted to labelled texts in a few seconds. The log shows its accuracy on held-out texts.

    path:          labelled texts, as in data=imdb: a file, a folder or a hub name, with columns `text` and `label`.
    split:         the split that it is fitted to. A single file is divided by its column `split`.
    eval_split:    the split on which its accuracy is measured.
    columns:       column -> its name in this data, as in data=imdb.
    penalty:       weight of the squared 2-norm of the weights; a larger one gives smaller log-odds.
    """

    path: str
    split: str = "train"
    eval_split: str = "test"
    columns: dict[str, str] = field(default_factory=dict)
    penalty: float = 2e-5

    cosmetic: ClassVar[tuple[str, ...]] = ("path",)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        try:
            self.texts  # noqa: B018  the source checks the settings that it is given
        except ConfigError as error:
            yield from error.problems
        yield from positive("penalty", self.penalty, example=2e-5)

    def missing(self) -> Iterator[Problem]:
        yield from self.texts.missing()

    def content(self) -> str:
        return self.texts.fingerprint()

    @property
    def texts(self) -> IMDb:
        """The labelled texts."""
        from alignlab.data.sources.imdb import IMDb  # imports torch

        return IMDb(
            path=self.path, split=self.split, eval_split=self.eval_split, columns=self.columns, prompt_words=1,
            eval_limit=0,
        )  # fmt: skip

    def score(self, rows: Sequence[Answer]) -> Sequence[float]:
        return self.ready()(rows)

    def ready(self) -> Score:
        """Fit the classifier. Raises DataError if the texts can't be read, or all have the same label."""
        weights = self.fitted()
        return lambda rows: weights.log_odds([row.prompt[-1] + row.answer[-1] for row in rows]).tolist()

    def fitted(self) -> Weights:
        """The classifier, fitted once in each process."""
        return _fitted(self, self.content())

    def __hash__(self) -> int:  # for the cache of `_fitted`
        return hash(repr(self))


@dataclass(frozen=True)
class Weights:
    """A fitted classifier.

    places:   word, or two words with a space between them -> its column.
    rarity:   [F] inverse document frequencies.
    weights:  [F] of the TF-IDF features, and the intercept.
    accuracy: on the held-out texts; `held_out` is their number.
    """

    places: dict[str, int]
    rarity: Array
    weights: Array
    intercept: float
    accuracy: float = float("nan")
    held_out: int = 0

    def log_odds(self, texts: Sequence[str]) -> Array:
        """[N] log-odds that a text is good."""
        return np.array([self._one(text) for text in texts])

    @cached_property
    def _effect(self) -> Array:
        return self.rarity * self.weights

    def _one(self, text: str) -> float:
        places, counts = columns_of(text, self.places)
        tf = 1 + np.log(counts)
        size = float(np.linalg.norm(tf * self.rarity[places]))
        return float(tf @ self._effect[places]) / (size or 1.0) + self.intercept


def grams(text: str) -> list[str]:
    """The words of a text in lower case, and all two neighbouring words."""
    words = _WORD.findall(text.lower().replace("<br />", " "))
    return [*words, *(f"{first} {second}" for first, second in itertools.pairwise(words))]


def columns_of(text: str, places: dict[str, int]) -> tuple[NDArray[np.int64], Array]:
    """(columns, how often their words occur in the text), without words that have no column."""
    counts = Counter(place for gram in grams(text) if (place := places.get(gram)) is not None)
    return np.fromiter(counts, np.int64, len(counts)), np.fromiter(counts.values(), np.float64, len(counts))


@lru_cache(maxsize=2)
def _fitted(judge: WordClassifier, content: str) -> Weights:
    texts, labels = _labelled(judge.texts, "train")
    found = fit(texts, labels, judge.penalty)
    others, truth = _labelled(judge.texts, "eval")
    accuracy = float(((found.log_odds(others) > 0) == truth).mean())
    log.info("word_classifier: accuracy %.3f on %d held-out texts of %s", accuracy, len(others), judge.path)
    return Weights(found.places, found.rarity, found.weights, found.intercept, accuracy, len(others))


def fit(texts: Sequence[str], labels: NDArray[np.bool_], penalty: float) -> Weights:
    """Logistic regression on TF-IDF weights: (1 + log count) x inverse document frequency, each text with norm 1.

    Raises DataError if all labels are equal, or if no word occurs in FEWEST_TEXTS texts.
    """
    found = Counter(gram for text in texts for gram in set(grams(text)))
    places = {gram: k for k, gram in enumerate(sorted(g for g, count in found.items() if count >= FEWEST_TEXTS))}
    if not places:
        raise DataError(f"no word occurs in at least {FEWEST_TEXTS} of the {len(texts)} texts")
    if labels.all() or not labels.any():
        raise DataError("all texts have the same label, and a classifier needs good and bad ones")
    rarity = np.log((1 + len(texts)) / (1 + np.array([found[gram] for gram in places]))) + 1
    rows = []
    for text in texts:
        own, counts = columns_of(text, places)
        row = (1 + np.log(counts)) * rarity[own]
        rows.append((own, row / (np.linalg.norm(row) or 1.0)))
    weights, intercept = logistic_regression(rows, labels, width=len(places), penalty=penalty)
    return Weights(places, rarity, weights, intercept)


def _labelled(source: IMDb, split: Split) -> tuple[list[str], NDArray[np.bool_]]:
    rows: Sequence[Any] = source.labelled(split, None).rows
    return [f"{row.prompt}{row.completion}" for row in rows], np.array([row.desirable for row in rows], dtype=bool)
