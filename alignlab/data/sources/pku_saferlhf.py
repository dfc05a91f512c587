"""PKU-SafeRLHF, Ji et al. 2024, https://arxiv.org/abs/2406.15513: two answers with two labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from alignlab.checks import one_of
from alignlab.data.conversations import UnusableRowError
from alignlab.data.files import Record
from alignlab.data.sources.pairs import Pairs
from alignlab.errors import Problem


@dataclass(kw_only=True)
class PKUSafeRLHF(Pairs):
    """Rows of PKU-Alignment/PKU-SafeRLHF.

    preferred: which answer is preferred: better (the more helpful one) or safer.
    """

    preferred: str = "better"

    needed: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("prompt",), ("response_0",), ("response_1",), ("better_response_id",), ("safer_response_id",),
    )  # fmt: skip
    reads: ClassVar[tuple[str, ...]] = ("prompt", "response_0", "response_1", "better_response_id", "safer_response_id")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from one_of("preferred", self.preferred, ("better", "safer"))

    def convert(self, record: Record) -> Record:
        name = f"{self.preferred}_response_id"
        best = str(record.get(name))
        if best not in ("0", "1"):
            raise UnusableRowError(f"{name} must be 0 or 1, not {record.get(name)!r:.80}")
        sides = [record.get("response_0"), record.get("response_1")]
        return {"prompt": record.get("prompt"), "chosen": sides[int(best)], "rejected": sides[1 - int(best)]}
