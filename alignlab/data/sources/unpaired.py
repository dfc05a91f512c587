"""Single answers that are labelled good or bad, from the user's own file or a hub data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alignlab.data.conversations import UnusableRowError, gather, read_boolean, read_row
from alignlab.data.files import Record
from alignlab.data.filters import drop_unusable
from alignlab.data.own_files import OwnFiles, read_columns
from alignlab.data.rows import Completion, Labelled, Loaded, Pair, Split
from alignlab.data.sources.base import ReferenceTable
from alignlab.errors import DataError
from alignlab.types import DataShape


@dataclass(kw_only=True)
class Unpaired(OwnFiles):
    """Rows with `prompt`, `completion` and `label` (true or false, 1 or 0), or with `messages` and `label`.

    `completion` and `messages` may be whole conversations. Then the last turn is the answer. If a row has both columns,
    they must agree.

    All answers may have the same label.
    """

    @property
    def shapes(self) -> tuple[DataShape, ...]:
        return ("labelled", "completions")

    def read(self, path: str) -> Sequence[Labelled]:
        return read_columns(
            path, _labelled, ("prompt", "completion", "label"), ("messages", "label"), ("completion", "label")
        )

    def usable(self, split: Split) -> Loaded[Labelled]:
        return self.labelled(split, None)

    def labelled(self, split: Split, reference: ReferenceTable | None) -> Loaded[Labelled]:
        loaded = drop_unusable(self.split_rows(split))
        return loaded.with_rows(loaded.rows[: self.limited(split)])

    def completions(self, split: Split) -> Loaded[Completion]:
        loaded = self.labelled(split, None)
        good = [Completion(row.prompt, row.completion) for row in loaded.rows if row.desirable]
        return Loaded(good, loaded.dropped + Counter({"bad answer": len(loaded.rows) - len(good)}))

    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        raise DataError(f"{self.path} has single answers, but the objective needs pairs")


def _labelled(row: Record) -> Labelled:
    name = "completion" if row.get("completion") is not None or "messages" not in row else "messages"
    (prompt, (answer,)), label = gather(
        lambda: read_row(row, {name: _messages(row, name)}), lambda: read_boolean(row.get("label"), "label")
    )
    return Labelled(prompt, answer, label)


def _messages(row: Record, name: str) -> Any:
    value = row.get(name)
    if name == "messages" and not isinstance(value, list):
        raise UnusableRowError(f"messages must be a list of {{role, content}} messages, not {value!r:.80}")
    return value
