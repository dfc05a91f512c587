"""The command line that makes a run again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from alignlab.redaction import redacted_override
from alignlab.runs.directory import RunDir

# Words that say where a run is, or to which sweep it belonged.
_PLACE = ("output_root", "sweep.name", "hydra.sweep", "hydra.run")


def command_of(run: RunDir, settings: Mapping[str, str]) -> str:
    """The command that trains a run with other settings, where the run is now. Empty if its words are not recorded.

    It has no `rerun=true`, with which a run does not resume.

    A run may have moved since it was made (`alignlab runs unpack`), so its output root is taken from its folder.

    settings: key -> value, as it is typed.
    """
    recorded = [str(word) for word in run.record().get("overrides") or []]
    if not recorded:
        return ""
    kept = [redacted_override(word) for word in recorded if not _is_replaced(word, settings)]
    root = run.path.parents[1]
    place = [] if root.resolve() == Path("outputs").resolve() else [f"output_root={root}"]
    return shlex.join(["alignlab", "train", *kept, *(f"{key}={value}" for key, value in settings.items()), *place])


def _is_replaced(word: str, settings: Mapping[str, str]) -> bool:
    key = word.partition("=")[0].lstrip("+~")
    return key in settings or key == "rerun" or key.startswith(_PLACE)
