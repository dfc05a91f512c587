"""Single answers said to be good or bad, from the user's own file or a hub data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alignlab.data.own_files import OwnFiles, parse_answer, parse_prompt, read_columns
from alignlab.data.rows import Completion, Labelled, Loaded, Pair, Split
from alignlab.data.sources.base import ReferenceTable
from alignlab.errors import DataError
from alignlab.types import DataShape

_LABELS = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}


@dataclass(kw_only=True)
class Unpaired(OwnFiles):
    """Rows with `prompt`, `completion` and `label` (true or false, 1 or 0), or with `messages` and `label`.

    Only good answers, or only bad ones, are rows as well.
    """

    @property
    def shapes(self) -> tuple[DataShape, ...]:
        return ("labelled", "completions")

    def read(self, path: str) -> Sequence[Labelled]:
        return read_columns(path, _labelled, ("prompt", "completion", "label"), ("messages", "label"))

    def labelled(self, split: Split, reference: ReferenceTable | None) -> Loaded[Labelled]:
        rows = self.split_rows(split)
        kept = [row for row in rows if row.completion.strip()]
        dropped = Counter({"empty answer": len(rows) - len(kept)} if len(kept) < len(rows) else {})
        return Loaded(kept[: self.limited(split)], dropped)

    def completions(self, split: Split) -> Loaded[Completion]:
        loaded = self.labelled(split, None)
        good = [Completion(row.prompt, row.completion) for row in loaded.rows if row.desirable]
        return Loaded(good, loaded.dropped + Counter({"bad answer": len(loaded.rows) - len(good)}))

    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        raise DataError(f"{self.path} has single answers, and pairs were asked for")


def _labelled(row: dict[str, Any], where: str) -> Labelled:
    label = row["label"]
    key = label.strip().lower() if isinstance(label, str) else label
    if not isinstance(key, bool | int | float | str) or key not in _LABELS:
        raise DataError(f"{where}: label must be true or false, 1 or 0, not {label!r:.80}")
    if "prompt" not in row:
        turns = row["messages"]
        if not isinstance(turns, list):
            raise DataError(f"{where}: messages must be a list of {{role, content}} messages, not {turns!r:.80}")
        answer = parse_answer(turns, where)
        prompt = parse_prompt(turns[:-1], where)
    else:
        prompt, answer = parse_prompt(row["prompt"], where), parse_answer(row["completion"], where)
    return Labelled(prompt, answer, _LABELS[key])
