"""SHP, Ethayarajh et al. 2022, https://arxiv.org/abs/2110.08420: two comments on a post."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from alignlab.checks import at_least
from alignlab.data.conversations import read_boolean
from alignlab.data.files import Record
from alignlab.data.forms import read_number
from alignlab.data.own_files import LeftOutError
from alignlab.data.sources.pairs import Pairs
from alignlab.errors import Problem


@dataclass(kw_only=True)
class SHP(Pairs):
    """Rows of stanfordnlp/SHP. Label 1 means that comment A is preferred.

    min_ratio: least ratio of the two scores. The authors advise 2 or more. Other rows are left out and counted.
    """

    min_ratio: float = 2.0

    needed: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("history",), ("human_ref_A",), ("human_ref_B",), ("labels",), ("score_A",), ("score_B",),
    )  # fmt: skip
    reads: ClassVar[tuple[str, ...]] = ("history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from at_least("min_ratio", self.min_ratio, 1.0, example=2.0)

    def convert(self, record: Record) -> Record:
        scores = [read_number(record.get(name), name) for name in ("score_A", "score_B")]
        if max(scores) < self.min_ratio * min(scores):
            raise LeftOutError(f"score ratio below {self.min_ratio:g}")
        sides = [record.get("human_ref_A"), record.get("human_ref_B")]
        chosen, rejected = sides if read_boolean(record.get("labels"), "labels") else sides[::-1]
        return {"prompt": record.get("history"), "chosen": chosen, "rejected": rejected}
