"""Errors that a user can act on. Any other exception is a bug, and its traceback is shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from alignlab.spelling import as_typed, counted, for_shell


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a config.

    key:       dotted name of the config value.
    value:     its current value; None if it has none.
    allowed:   which values are allowed, or why this one is not.
    type_this: what the user can type to fix it; empty if that is unknown.
    """

    key: str
    value: object
    allowed: str
    type_this: str = ""

    def under(self, prefix: str) -> Problem:
        """The same problem with `prefix` before its key: `beta` becomes `objective.beta`."""
        fix = f"{prefix}.{self.type_this}" if self.type_this.startswith(f"{self.key}=") else self.type_this
        return replace(self, key=f"{prefix}.{self.key}" if self.key else prefix, type_this=fix)

    def __str__(self) -> str:
        fix = f"\n      type: {for_shell(self.type_this)}" if self.type_this else ""
        shown = "" if self.value is None else f" = {as_typed(self.value)}"
        allowed = self.allowed.replace("\n", "\n      ")
        return f"  {self.key}{shown}\n      {allowed}{fix}"


class AlignlabError(Exception):
    """Base of all errors that the user can fix. `exit_code` is the exit status of the command line."""

    exit_code = 1


class ConfigError(AlignlabError):
    """A config that can't be run. Holds all of its problems, not only the first one."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem], *, where: str = "the config; nothing was started") -> None:
        self.problems = list(problems)
        super().__init__(f"{counted(len(self.problems), 'problem')} in {where}\n" + "\n".join(map(str, self.problems)))


class DataError(AlignlabError):
    """Data that can't be used as requested. The message names the file and the row."""

    exit_code = 2


class AuditError(AlignlabError):
    """The audit of a run's rows found errors, which are printed already."""


class UnreachableError(DataError):
    """A data set of the hub that can't be reached from here. Nothing is known about its rows."""


class ModelError(AlignlabError):
    """Weights or a tokenizer that can't be loaded. The message names the model."""

    exit_code = 2


class TrackingError(AlignlabError):
    """A tracker that can't be used as requested."""

    exit_code = 2


class OutputError(AlignlabError):
    """Results can't be written to the requested place."""

    exit_code = 2


class UnsavedError(OutputError):
    """Results of work that had begun can't be written: the disk is full, for instance."""

    exit_code = 1


class DamagedError(DataError):
    """The content of a file is not the content that was written.

    file: the damaged file.
    why:  what is wrong with it. It follows the file's name in the message, such as "was cut off".
    """

    def __init__(self, file: Path, why: str) -> None:
        self.file, self.why = file, why
        super().__init__(f"{file} {why}")


class NonFiniteError(AlignlabError):
    """A loss or a log-probability is NaN or infinite. The message names the rows of the batch."""


class ObjectiveError(AlignlabError):
    """The loss of an objective is not one number for each row of a batch."""


class DivergedError(NonFiniteError):
    """Training started with finite values and then became non-finite. This is a result of the run, not a bug."""


class PrunedError(AlignlabError):
    """A search stopped this run because other runs were better at the same step. The run's state is saved."""


class ParentError(AlignlabError):
    """The parent of a run did not produce a policy."""


class TakenError(AlignlabError):
    """Another machine has begun this run in the meantime."""


class PolicyIsNotReferenceError(AlignlabError):
    """The policy differs from its reference at the first batch, where they should be equal."""


class SavedPolicyError(AlignlabError):
    """The saved policy was loaded again, and its outputs differ from those of the trained policy."""


class EngineError(AlignlabError):
    """An engine that samples answers does not have the policy's weights, or can't be reached."""


class NotEnoughMemoryError(AlignlabError):
    """A single row needs more memory than this machine has."""


class ProcessError(AlignlabError):
    """One of the processes that train a run together ended before the others."""


class NotVectorizableError(AlignlabError):
    """These points can't be trained as one model with the results that each of them would have on its own."""

    exit_code = 2


class StoredReferenceError(AlignlabError):
    """Stored reference log-probabilities differ from those that the reference model computes."""


class SweepFailedError(AlignlabError):
    """Some points of a sweep did not finish. The other points did."""

    exit_code = 3
