"""HelpSteer3-Preference, Wang et al. 2025, https://arxiv.org/abs/2505.11475: conversations with two answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignlab.data.files import Record
from alignlab.data.forms import read_number
from alignlab.data.own_files import LeftOutError
from alignlab.data.sources.pairs import Pairs


@dataclass(kw_only=True)
class HelpSteer3(Pairs):
    """Rows of nvidia/HelpSteer3. A negative preference means that the first answer is better; 0 is a tie, left out.

    The margin is the size of the preference (1 to 3).
    """

    needed: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("context",), ("response1",), ("response2",), ("overall_preference",),
    )  # fmt: skip
    reads: ClassVar[tuple[str, ...]] = ("context", "response1", "response2", "overall_preference")

    def convert(self, record: Record) -> Record:
        preference = read_number(record.get("overall_preference"), "overall_preference")
        if preference == 0:
            raise LeftOutError("tie")
        better, worse = ("response1", "response2") if preference < 0 else ("response2", "response1")
        return {
            "prompt": record.get("context"),
            "chosen": record.get(better),
            "rejected": record.get(worse),
            "margin": abs(preference),
        }
