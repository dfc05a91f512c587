"""Self-Instruct, Wang et al. 2022, https://arxiv.org/abs/2212.10560: instructions written by people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from alignlab.data.own_files import Located
from alignlab.data.rows import LeftOut
from alignlab.data.sources.completions import Completions


@dataclass(kw_only=True)
class SelfInstruct(Completions):
    """Rows of seed_tasks.jsonl or user_oriented_instructions.jsonl. Each instance of a task is one row."""

    needed: ClassVar[tuple[tuple[str, ...], ...]] = (("instruction",), ("instances",))
    reads: ClassVar[tuple[str, ...]] = ("instruction", "instances")

    def arrange(self, rows: Sequence[Located], left_out: list[LeftOut]) -> Iterable[Located]:
        for place, record in rows:
            instances = record.get("instances")
            for instance in instances if isinstance(instances, list) else [instances]:
                found = instance if isinstance(instance, dict) else {}
                example = {name: found.get(name) for name in ("input", "output")}
                yield place, {"instruction": record.get("instruction"), **example}
