"""Base of benchmarks that ask a policy: dataclasses of settings that give a score for each item."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignlab.checks import Checked
from alignlab.errors import Problem


@dataclass(kw_only=True)
class Benchmark(Checked, ABC):
    """Base of all benchmarks. `alignlab evaluate run=<run> benchmark=<name>` asks the policy and its reference.

    Both are asked the same items in the same order, so that the difference has a paired interval.
    """

    def missing(self) -> Iterator[Problem]:
        """Problems of packages and files that are missing. They are checked before weights are loaded."""
        return iter(())

    def fingerprint(self) -> str:
        """Digest of files that the settings only name; empty if there are none."""
        return ""

    @abstractmethod
    def scores(self, model: Any, tokenizer: Any) -> Mapping[str, Sequence[float]]:
        """Name of a score -> one number for each item, higher is better.

        model: a transformers model on its device, in evaluation mode.
        """
