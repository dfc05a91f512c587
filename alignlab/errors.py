"""Errors a user can act on. Everything else that escapes is a bug and keeps its traceback."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a config: where, what stands there, what may stand there, what to type."""

    key: str
    value: object
    allowed: str
    type_this: str = ""

    def under(self, prefix: str) -> Problem:
        """The same problem seen from one level up: `beta` becomes `objective.beta`."""
        fix = f"{prefix}.{self.type_this}" if self.type_this.startswith(f"{self.key}=") else self.type_this
        return replace(self, key=f"{prefix}.{self.key}" if self.key else prefix, type_this=fix)

    def __str__(self) -> str:
        fix = f"\n      type: {self.type_this}" if self.type_this else ""
        shown = "" if self.value is None else f" = {self.value}"
        return f"  {self.key}{shown}\n      {self.allowed}{fix}"


class AlignlabError(Exception):
    """Base of all errors that are the user's to mend. `exit_code` is what the command line returns."""

    exit_code = 1


class ConfigError(AlignlabError):
    """A config that can't run. Holds every problem found, not only the first."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem], *, where: str = "the config; nothing was started") -> None:
        self.problems = list(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__(f"{count} in {where}\n" + "\n".join(map(str, self.problems)))


class DataError(AlignlabError):
    """Data that can't be used as asked; names the file and the row."""

    exit_code = 2


class ModelError(AlignlabError):
    """Weights or a tokenizer that can't be loaded; names the model."""

    exit_code = 2


class TrackingError(AlignlabError):
    """A tracker that can't be used as asked."""

    exit_code = 2


class OutputError(AlignlabError):
    """A place where results should go can't be written."""

    exit_code = 2


class DamagedError(DataError):
    """A file is no longer what was written.

    file: the damaged file.
    why:  what is wrong with it, to follow its name, such as "was cut off".
    """

    def __init__(self, file: Path, why: str) -> None:
        self.file, self.why = file, why
        super().__init__(f"{file} {why}")


class NonFiniteError(AlignlabError):
    """A loss or a log-probability that is NaN or infinite; names the rows of the batch."""


class DivergedError(NonFiniteError):
    """Training that began well went where it can't be computed with: a result of the run, not a fault of it."""


class PrunedError(AlignlabError):
    """A run of a search that is worse than the others were at the same step; stopped, with its state saved."""


class ParentError(AlignlabError):
    """What a run should start from did not come to a policy."""


class PolicyIsNotReferenceError(AlignlabError):
    """At the first batch the policy should equal its reference and does not."""


class SavedPolicyError(AlignlabError):
    """The saved policy, loaded again, does not compute what the trained policy computes."""


class NotEnoughMemoryError(AlignlabError):
    """A single row is too much for this machine."""


class NotVectorizableError(AlignlabError):
    """Points that can't be trained as one model and still be what each of them is by itself."""

    exit_code = 2


class StoredReferenceError(AlignlabError):
    """Stored reference log-probabilities are not those of the model they are stored for."""


class SweepFailedError(AlignlabError):
    """Some points of a sweep did not finish; the others did."""

    exit_code = 3
