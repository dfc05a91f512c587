"""Base of data sources: dataclasses that configure where rows come from, and read them."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from alignlab import hub
from alignlab.checks import Checked, at_least, later_setting, one_of
from alignlab.data.files import FORMATS, format_of
from alignlab.data.filters import REASONS
from alignlab.data.noise import Noise
from alignlab.data.rows import Completion, Labelled, Loaded, Pair, Ranking, Split
from alignlab.errors import DataError, Problem, UnreachableError
from alignlab.lab.weighted_pairs import WeightedPairs
from alignlab.lab.world import World
from alignlab.spelling import correct_option
from alignlab.types import DataShape

log = logging.getLogger(__name__)

# Rows that a source draws at most: they are texts in memory.
MOST_ROWS = 10_000_000

# Values of `template`.
TEMPLATES = ("auto", "none")

# World -> [X, N] log-probabilities of all completions of all prompts under the reference, nats.
ReferenceTable = Callable[[World], Any]


def load_rows(path: str, revision: str = "", **arguments: Any) -> Any:
    """Load a hub data set with `datasets.load_dataset`, at the commit that its revision stands for.

    If the hub can't be reached, the rows come from the caches of this machine: those of `datasets`, or else a whole
    snapshot (`hf download <name> --repo-type dataset`). Failures are raised as DataError.

    Do not use it for local files: `datasets` guesses types, and caches rows by a file's path and modification time.
    """
    from datasets import load_dataset

    found = hub.find(path, revision, "dataset")
    if found.why:
        # The local copy is named first, whatever the hub's cure is.
        other = found.type_this.replace("   or   data.path=<a folder>", "")
        cure = "data.path=<a local copy>" + (f"   or   {other}" if other else "")
        raise UnreachableError(f"{path} can't be reached: {found.why}\n  type: {cure}")
    with _raising_data_errors(path):
        try:
            rows = load_dataset(path, revision=found.commit, **arguments)
        except ConnectionError:
            if not (folder := hub.snapshot(path, found.commit, "dataset")):
                raise
            log.info("%s: the hub can't be reached; rows are read from %s", path, folder)
            return load_dataset(folder, **arguments)
    if rows.cache_files and not any(found.commit in file["filename"] for file in rows.cache_files):
        text = f"the hub can't be reached, and the cache of `datasets` holds rows of another commit than {found.commit}"
        raise UnreachableError(f"{path} can't be read: {text}\n  type: data.path=<a local copy>")
    return rows


def local_files(folder: str, split: str = "train", subset: str = "") -> list[str]:
    """Files of a local folder with the rows of a split, found by the rules of the hub.

    subset: a folder in it, or a configuration that its README names.
    Raises DataError if there is no such split or subset, or if a file's format is not supported.
    """
    found = _data_files(folder, subset)
    if subset and (Path(folder) / subset).is_dir():
        folder = str(Path(folder) / subset)
    files = [str(file) for file in found.get(split, [])]
    if not files:
        splits = [str(name) for name in found]
        text = f"{folder} has no split {split}; it has: {', '.join(splits) or 'no files with rows'}"
        raise DataError(f"{text}{_what_to_type(splits)}")
    if others := [file for file in files if not format_of(file)]:
        raise DataError(f"{folder} has files that are not one of {', '.join(FORMATS)}: {', '.join(others[:5])}")
    used = {Path(file).resolve() for names in found.values() for file in names}
    rows = (file for file in sorted(Path(folder).rglob("*")) if format_of(file) and file.name != "dataset_infos.json")
    _warn_of_unread(folder, tuple(str(file) for file in rows if file.resolve() not in used))
    return files


def _what_to_type(splits: Sequence[str]) -> str:
    """The line of a message that chooses the splits to train on and to hold out, by their names."""
    train = [name for name in splits if "train" in name] or list(splits)
    others = [name for name in splits if name != train[0] and name.startswith(("test", "val", "dev", "eval"))]
    held_out = f" data.eval_split={others[0]}" if others else ""
    return f"\n  type: data.split={train[0]}{held_out}" if splits else ""


def local_splits(folder: str, subset: str = "") -> list[str]:
    """The splits of a local folder with rows, found by the rules of the hub. `subset` is as in `local_files`."""
    return [str(split) for split in _data_files(folder, subset)]


def _data_files(folder: str, subset: str) -> dict[Any, Any]:
    """Split -> files of a local folder."""
    from datasets import load_dataset_builder

    if subset and (Path(folder) / subset).is_dir():
        folder, subset = str(Path(folder) / subset), ""
    with _raising_data_errors(folder):
        folder = str(Path(folder).resolve())  # `datasets` needs a name, which "." is not
        return dict(load_dataset_builder(folder, name=subset or None).config.data_files or {})


@lru_cache(maxsize=64)  # a folder is read several times, and told of once
def _warn_of_unread(folder: str, files: tuple[str, ...]) -> None:
    """Warn of files with rows that are in no split. The hub's rules take the files of one format only."""
    if files:
        log.warning("%s: files that are not read, because they are in no split: %s", folder, ", ".join(files[:5]))


@contextmanager
def _raising_data_errors(place: str) -> Iterator[None]:
    """Raise failures of `datasets` as DataError, and hide its progress bars and warnings."""
    from datasets import disable_progress_bars
    from datasets.exceptions import DatasetsError
    from datasets.utils import logging as datasets_logging
    from huggingface_hub.utils import logging as hub_logging

    disable_progress_bars()  # they would hide the run's own log lines
    datasets_logging.set_verbosity(datasets_logging.CRITICAL)  # its errors are raised as exceptions too
    hub_logging.set_verbosity_error()  # it warns of each of its tries to reach the hub
    try:
        yield
    except ConnectionError as error:
        text = f"{place} can't be reached: {error}\n  type: data.path=<a local copy>"
        raise UnreachableError(text) from error
    except (DatasetsError, ValueError, OSError, StopIteration) as error:
        text = str(error.__cause__ or error) or "it is empty"
        raise DataError(f"{place} can't be read: {text}{_cure(text)}") from error


def _cure(text: str) -> str:
    """What to type after a failure of `datasets` that says so."""
    cures = {
        "any data files": "data.path=<a file, or a folder with files such as train.jsonl and test.jsonl>",
        "Config": "data.subset=<one of these>",
        "Unknown split": "data.split=<one of these>",
    }
    return next((f"\n  type: {cure}" for words, cure in cures.items() if words in text), "")


@dataclass(kw_only=True)
class Source(Checked, ABC):
    """Base of all data sources.

    max_length:        most tokens in a prompt and an answer together; a longer answer is cut on the right.
    max_prompt_length: most tokens in a prompt; a longer prompt is cut on the left.
    train_limit:       use at most this many training rows; 0 uses all. Of files with columns, they are rows at equal
                       distances.
    eval_limit:        the same for held-out rows.
    template:          auto (the tokenizer's chat template renders the rows, if it has one) or none (texts are used as
                       they are, for example because they were rendered before).
    drop:              further rows to leave out: empty, identical, tie, negative_margin, empty_prompt, null_text,
                       leaked, swapped, contradictory, duplicate (alignlab/data/filters.py). Pairs with identical or
                       empty answers are always left out.
    noise:             flipped labels and imbalance of the training rows (`alignlab.data.noise`).
    """

    max_length: int = 512
    max_prompt_length: int = 384
    train_limit: int = 0
    eval_limit: int = 256
    template: str = later_setting(default="auto")
    drop: list[str] = later_setting(default_factory=list)
    noise: Noise = later_setting(default_factory=Noise)

    # Fields that a run on single answers (such as an SFT parent) does not read. They are not part of its identity.
    pair_fields: ClassVar[tuple[str, ...]] = ()
    # Fields that only objectives on labelled answers read.
    labelled_fields: ClassVar[tuple[str, ...]] = ()
    # Fields that only state where content is stored. In the identity of a run, `fingerprint` replaces them.
    content_fields: ClassVar[tuple[str, ...]] = ()

    def problems(self) -> Iterator[Problem]:
        """Yield every problem of the fields. Files are not read here; `missing` checks them."""
        yield from at_least("max_length", self.max_length, 2, example=512)
        if not 1 <= self.max_prompt_length < self.max_length:
            yield Problem(
                "max_prompt_length",
                self.max_prompt_length,
                f"must be at least 1 and smaller than max_length ({self.max_length}), so that answers have room",
                f"max_prompt_length={max(1, self.max_length * 3 // 4)}",
            )
        for name in ("seed", "world_seed"):  # most sources that draw rows have them
            yield from at_least(name, getattr(self, name, 0), 0, example=0)
        yield from at_least("train_limit", self.train_limit, 0, example=1000, hint="0 uses all rows")
        yield from at_least("eval_limit", self.eval_limit, 0, example=256, hint="0 uses all rows")
        yield from one_of("template", self.template, TEMPLATES)
        if unknown := [name for name in self.drop if name not in REASONS]:
            fix = ",".join(correct_option(name, REASONS) or "<one of these>" for name in unknown)
            yield Problem("drop", self.drop, f"can have: {', '.join(REASONS)}", f"drop=[{fix}]")

    def missing(self) -> Iterator[Problem]:
        """Yield a problem for each file that is missing or unusable. This is checked before weights are loaded."""
        return iter(())

    @property
    def world(self) -> World | None:
        """The enumerable World that the rows come from; it allows exact evaluation. None for other data."""
        return None

    def population(self, reference: Any) -> WeightedPairs | None:
        """All pairs that the training rows could have, with their probabilities, or a sample of them if they are many.

        None for sources that don't know it.

        reference: [X, N] log-probabilities under the reference, nats.
        """
        return None

    def exact_metrics(self, policy: Any) -> dict[str, float]:
        """Exact metrics that only this data defines. policy: [X, N] log-probabilities of all completions, nats."""
        return {}

    def unreachable(self) -> Iterator[Problem]:
        """The problem of a name of the hub whose commit is unknown, because neither the cache nor the hub tells it."""
        return iter(())

    @abstractmethod
    def fingerprint(self) -> str:
        """Digest of the content of the rows. It replaces `content_fields` in the identity of a run."""

    @property
    def shapes(self) -> tuple[DataShape, ...]:
        """The kinds of rows that this source can provide."""
        return ("pairs", "completions", "labelled", "rankings")

    @abstractmethod
    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        """Preference pairs. Sources that sample answers from the reference need its table `reference`."""

    def completions(self, split: Split) -> Loaded[Completion]:
        """Single answers to imitate. For preference data these are the preferred answers."""
        loaded = self.pairs(split, None)
        return loaded.with_rows([pair.preferred() for pair in loaded.rows])

    def labelled(self, split: Split, reference: ReferenceTable | None) -> Loaded[Labelled]:
        """Answers labelled good or bad. A pair gives two rows."""
        loaded = self.pairs(split, reference)
        return loaded.with_rows([half for pair in loaded.rows for half in pair.halves()])

    def rankings(self, split: Split, reference: ReferenceTable | None) -> Loaded[Ranking]:
        """Prompts with graded answers. A pair gives a ranking of two answers."""
        loaded = self.pairs(split, reference)
        return loaded.with_rows([pair.ranking() for pair in loaded.rows])

    def limited(self, split: Split) -> int | None:
        """Row limit of a split, to be used as the end of a slice. None if all rows are used."""
        return (self.train_limit if split == "train" else self.eval_limit) or None
