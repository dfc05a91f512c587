"""OpenAssistant, Köpf et al. 2023, https://arxiv.org/abs/2304.07327: trees of messages with ranked answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from alignlab.data.files import Record
from alignlab.data.own_files import Located
from alignlab.data.rows import LeftOut
from alignlab.data.sources.rankings import Rankings

_ROLE = {"prompter": "user", "assistant": "assistant"}


@dataclass(kw_only=True)
class OASST1(Rankings):
    """Rows of OpenAssistant/oasst1, one message each. Answers to the same message are one ranking: rank 0 is best.

    Their prompt is the path from the root of the tree. Answers without a rank, or without a ranked sibling, are left
    out and counted.

    lang: language of the messages, such as en; empty: all languages.
    """

    lang: str = ""

    needed: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("message_id",), ("parent_id",), ("text",), ("role",), ("lang",), ("rank",),
    )  # fmt: skip
    reads: ClassVar[tuple[str, ...]] = ("message_id", "parent_id", "text", "role", "lang", "rank")

    def arrange(self, rows: Sequence[Located], left_out: list[LeftOut]) -> Iterable[Located]:
        messages = {str(record.get("message_id")): record for _, record in rows}
        siblings: defaultdict[str, list[Located]] = defaultdict(list)
        for place, record in rows:
            if record.get("role") != "assistant":
                continue
            if self.lang and record.get("lang") != self.lang:
                left_out.append(LeftOut("another language", place))
            elif record.get("rank") in (None, ""):
                left_out.append(LeftOut("no rank", place))
            else:
                siblings[str(record.get("parent_id"))].append((place, record))
        for parent, group in siblings.items():
            place, _ = group[0]
            if len(group) < 2:
                left_out.append(LeftOut("no ranked sibling", place))
                continue
            texts = [record.get("text") for _, record in group]
            grades = [-float(record["rank"]) for _, record in group]
            yield place, {"prompt": _path(parent, messages), "completions": texts, "grades": grades}


def _path(message: str, messages: Mapping[str, Record]) -> list[dict[str, Any]]:
    """The turns from the root of a tree to a message. A message that is absent ends the path."""
    turns: list[dict[str, Any]] = []
    while message in messages:
        record = messages[message]
        turns.append({"role": _ROLE.get(str(record.get("role")), record.get("role")), "content": record.get("text")})
        message = str(record.get("parent_id"))
    return turns[::-1]
