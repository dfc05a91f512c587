"""HelpSteer2, Wang et al. 2024, https://arxiv.org/abs/2406.08673: two answers to a prompt, rated by aspects."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from alignlab.checks import one_of
from alignlab.data.own_files import Located
from alignlab.data.rows import LeftOut
from alignlab.data.sources.rankings import Rankings
from alignlab.errors import Problem

ASPECTS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")

_TURN = re.compile(r"\n<extra_id_1>(Assistant|User)\n")
_ROLE = {"Assistant": "assistant", "User": "user"}


@dataclass(kw_only=True)
class HelpSteer2(Rankings):
    """Rows of nvidia/HelpSteer2. Rows with the same prompt are one ranking.

    aspect: the rating that is the grade: helpfulness, correctness, coherence, complexity or verbosity (0 to 4).
    """

    aspect: str = "helpfulness"

    needed: ClassVar[tuple[tuple[str, ...], ...]] = (("prompt",), ("response",), *((aspect,) for aspect in ASPECTS))
    reads: ClassVar[tuple[str, ...]] = ("prompt", "response", *ASPECTS)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from one_of("aspect", self.aspect, ASPECTS)

    def arrange(self, rows: Sequence[Located], left_out: list[LeftOut]) -> Iterable[Located]:
        groups: defaultdict[str, list[Located]] = defaultdict(list)
        for place, record in rows:
            groups[str(record.get("prompt"))].append((place, record))
        for group in groups.values():
            place, first = group[0]
            if len(group) < 2:
                left_out.append(LeftOut("only one answer to its prompt", place))
                continue
            texts, grades = ([record.get(name) for _, record in group] for name in ("response", self.aspect))
            yield place, {"prompt": _turns(first.get("prompt")), "completions": texts, "grades": grades}


def _turns(prompt: Any) -> Any:
    """The prompt as turns, if it is a text with the marks that HelpSteer2 puts between turns."""
    if not isinstance(prompt, str) or not _TURN.search(prompt):
        return prompt
    first, *pieces = _TURN.split(prompt)
    turns = [{"role": "user", "content": first}]
    turns += [{"role": _ROLE[role], "content": text} for role, text in zip(pieces[::2], pieces[1::2], strict=True)]
    return turns if turns[-1]["content"] else turns[:-1]
