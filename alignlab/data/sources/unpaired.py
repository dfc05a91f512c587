"""Single answers that are labelled good or bad, from the user's own file or a hub data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from alignlab.checks import later_setting
from alignlab.data.conversations import EMPTY_VALUES
from alignlab.data.files import Record
from alignlab.data.forms import ANSWER, NEEDED, PROMPT_COLUMNS, label_key, labelled_of, usual_label
from alignlab.data.own_files import LeftOutError, OwnFiles, as_name
from alignlab.data.rows import Completion, Labelled, LeftOut, Loaded, Pair, Split
from alignlab.data.sources.base import ReferenceTable
from alignlab.errors import DataError, Problem
from alignlab.types import DataShape

_MOST_WORDS = 8  # labels that a message lists


@dataclass(kw_only=True)
class Unpaired(OwnFiles):
    """Rows with a prompt and an answer (alignlab/data/forms.py), and `label`.

    The answer may be a whole conversation. Then its last turn is the answer. An optional column `ended` is false if a
    length limit cut the answer off. All answers may have the same label.

    labels: the words or numbers that labels may be, and whether each is good: {helpful: true, harmful: false}. Without
            it a label is true or false, 1 or 0, or a usual word: good or bad, desirable or undesirable, chosen or
            rejected, up or down, like or dislike. Rows whose label has the value null, such as {3: null}, are left out
            and counted.
    """

    labels: dict[Any, bool | None] = later_setting(default_factory=dict)

    needed: ClassVar[tuple[tuple[str, ...], ...]] = NEEDED["unpaired"]
    reads: ClassVar[tuple[str, ...]] = (*PROMPT_COLUMNS, *ANSWER, "label", "ended")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.labels and len({label_key(word) for word in self.labels}) < len(self.labels):
            yield Problem("labels", self.labels, "has the same word twice", "'labels={good: true, bad: false}'")

    @property
    def shapes(self) -> tuple[DataShape, ...]:
        return ("labelled", "completions")

    def parse(self, record: Record) -> Labelled:
        if label_key(record.get("label")) in [label_key(word) for word, good in self.labels.items() if good is None]:
            raise LeftOutError("label that data.labels leaves out")
        return labelled_of(record, self.labels)

    def note_on_labels(self, labels: Iterable[Any]) -> str:
        """All labels of the rows, so that the user says which are good."""
        if self.labels:
            return ""
        words = list(dict.fromkeys(label_key(label) for label in labels if label not in EMPTY_VALUES))
        meant = {word: {True: "true", False: "false", None: "<true or false>"}[usual_label(word)] for word in words}
        shown = ", ".join(f"{as_name(word)}: {good}" for word, good in list(meant.items())[:_MOST_WORDS])
        more = f"\n  there are {len(words)} different labels" if len(words) > _MOST_WORDS else ""
        return f"{more}\n  type: 'data.labels={{{shown}}}'" if words else ""

    def usable(self, split: Split) -> Loaded[Labelled]:
        return self.labelled(split, None)

    def labelled(self, split: Split, reference: ReferenceTable | None) -> Loaded[Labelled]:
        return self.kept_rows(split)

    def completions(self, split: Split) -> Loaded[Completion]:
        loaded = self.labelled(split, None)
        good = [Completion(row.prompt, row.completion, row.ended, row.place) for row in loaded.rows if row.desirable]
        return loaded.with_rows(good, [LeftOut("bad answer", row.place) for row in loaded.rows if not row.desirable])

    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        raise DataError(f"{self.path} has single answers, but the objective needs pairs")
