"""What a data source is: a dataclass that says where rows come from, and reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from alignlab.checks import Checked, at_least
from alignlab.data.files import FORMATS, format_of
from alignlab.data.rows import Completion, Labelled, Loaded, Pair, Ranking, Split
from alignlab.errors import DataError, Problem
from alignlab.lab.world import World
from alignlab.types import DataShape

# Completions of a world's prompts, scored by the reference policy: World -> [X, N] log-probabilities.
ReferenceTable = Callable[[World], Any]


def load_rows(name: str, **arguments: Any) -> Any:
    """`datasets.load_dataset` of a hub data set. Its failures are raised as DataError.

    Not for local files: `datasets` guesses types, and caches rows by a file's path and modification time.
    """
    from datasets import load_dataset

    with _raising_data_errors(name):
        return load_dataset(name, **arguments)


def local_files(folder: str) -> list[str]:
    """Files of a local folder that hold training rows, found by the rules of the hub. Raises DataError."""
    from datasets import load_dataset_builder

    with _raising_data_errors(folder):
        found = load_dataset_builder(folder).config.data_files or {}
    files = [str(file) for file in found.get("train", [])]
    if not files:
        raise DataError(f"{folder} has no split train; it has: {', '.join(map(str, found)) or 'no files with rows'}")
    if others := [file for file in files if not format_of(file)]:
        raise DataError(f"{folder} holds files that are none of {', '.join(FORMATS)}: {', '.join(others[:5])}")
    return files


@contextmanager
def _raising_data_errors(place: str) -> Iterator[None]:
    """Raise failures of `datasets` as DataError, and hide its progress bars."""
    from datasets import disable_progress_bars
    from datasets.exceptions import DatasetsError
    from datasets.utils import logging as datasets_logging

    disable_progress_bars()  # they would bury the run's own lines
    datasets_logging.set_verbosity(datasets_logging.CRITICAL)  # what it would log is raised as well
    try:
        yield
    except (DatasetsError, ValueError, OSError, StopIteration) as error:
        raise DataError(f"{place} can't be read: {str(error.__cause__ or error) or 'it is empty'}") from error


@dataclass(kw_only=True)
class Source(Checked, ABC):
    """Base of all data sources.

    max_length:        longest prompt + answer in tokens; an answer is cut on the right.
    max_prompt_length: longest prompt in tokens; a prompt is cut on the left.
    train_limit:       use at most this many training rows; 0 uses all.
    eval_limit:        use at most this many held-out rows; 0 uses all.
    """

    max_length: int = 512
    max_prompt_length: int = 384
    train_limit: int = 0
    eval_limit: int = 256

    # Fields that a run on single answers (an SFT parent, say) never reads: they do not make it a different run.
    pair_fields: ClassVar[tuple[str, ...]] = ()
    # Fields that only objectives on labelled answers read.
    labelled_fields: ClassVar[tuple[str, ...]] = ()
    # Fields that only say where content lies: `fingerprint` stands for them in the identity of a run.
    content_fields: ClassVar[tuple[str, ...]] = ()

    def problems(self) -> Iterator[Problem]:
        """Everything that is wrong with the fields; files are looked at in `missing`."""
        yield from at_least("max_length", self.max_length, 2, example=512)
        if not 1 <= self.max_prompt_length < self.max_length:
            yield Problem(
                "max_prompt_length",
                self.max_prompt_length,
                f"must be at least 1 and smaller than max_length ({self.max_length}), so that answers have room",
                f"max_prompt_length={max(1, self.max_length * 3 // 4)}",
            )
        yield from at_least("train_limit", self.train_limit, 0, example=1000, hint="0 uses all rows")
        yield from at_least("eval_limit", self.eval_limit, 0, example=256, hint="0 uses all rows")

    def missing(self) -> Iterator[Problem]:
        """Files that are not there. Looked at before any weights are loaded."""
        return iter(())

    @property
    def world(self) -> World | None:
        """The enumerable world these rows come from, if they do: then exact evaluation is possible."""
        return None

    @abstractmethod
    def fingerprint(self) -> str:
        """Digest of what the rows are made of; stands for `content_fields` in the identity of a run."""

    @property
    def shapes(self) -> tuple[DataShape, ...]:
        """What kinds of rows there are to be had."""
        return ("pairs", "completions", "labelled", "rankings")

    @abstractmethod
    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        """Preference pairs; `reference` scores completions for sources that sample from the reference policy."""

    def completions(self, split: Split) -> Loaded[Completion]:
        """Single answers to imitate; for preference data the preferred ones."""
        loaded = self.pairs(split, None)
        return Loaded([pair.preferred() for pair in loaded.rows], loaded.dropped)

    def labelled(self, split: Split, reference: ReferenceTable | None) -> Loaded[Labelled]:
        """Answers said to be good or bad; pairs are split in two."""
        loaded = self.pairs(split, reference)
        return Loaded([half for pair in loaded.rows for half in pair.halves()], loaded.dropped)

    def rankings(self, split: Split, reference: ReferenceTable | None) -> Loaded[Ranking]:
        """Prompts with graded answers; pairs are rankings of two."""
        loaded = self.pairs(split, reference)
        return Loaded([pair.ranking() for pair in loaded.rows], loaded.dropped)

    def limited(self, split: Split) -> int | None:
        """Row limit of a split, as a slice end."""
        return (self.train_limit if split == "train" else self.eval_limit) or None
