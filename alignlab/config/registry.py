"""Finds every config dataclass by its folder; Hydra finds them here, as schemas.

A schema is called after its module: `alignlab/objectives/dpo.py` is `/schema/objective/dpo`, and
`conf/objective/dpo.yaml` selects it. Adding one is adding those two files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from alignlab.config.schemas import Evaluate, Train, Trainer
from alignlab.data.sources.base import Source
from alignlab.discovery import classes_by_module
from alignlab.judges.base import Judge, ScoreJudge
from alignlab.models.adapters.base import Adapter
from alignlab.models.sources.base import ModelSource
from alignlab.objectives.base import Objective
from alignlab.optim.base import Optim
from alignlab.tracking.sinks.base import Tracking


@dataclass(frozen=True)
class Group:
    """A config group: the package its dataclasses live in and the base they share."""

    package: str
    base: type


GROUPS = {
    "objective": Group("alignlab.objectives", Objective),
    "model": Group("alignlab.models.sources", ModelSource),
    "peft": Group("alignlab.models.adapters", Adapter),
    "data": Group("alignlab.data.sources", Source),
    "optim": Group("alignlab.optim", Optim),
    "tracking": Group("alignlab.tracking.sinks", Tracking),
    "judge": Group("alignlab.judges", Judge),
    "reward": Group("alignlab.judges", ScoreJudge),
}


@lru_cache(maxsize=1)
def schemas() -> dict[str, dict[str, type]]:
    """group -> module name -> dataclass."""
    return {name: classes_by_module(group.package, group.base) for name, group in GROUPS.items()}


@lru_cache(maxsize=1)
def configs() -> dict[str, tuple[str, type]]:
    """Path in a defaults list -> where in the config it belongs (Hydra's package), and the dataclass."""
    found: dict[str, tuple[str, type]] = {
        "schema/train": ("_global_", Train),
        "schema/evaluate": ("_global_", Evaluate),
        "schema/trainer/default": ("trainer", Trainer),
    }
    for group, classes in schemas().items():
        found |= {f"schema/{group}/{name}": (group, cls) for name, cls in classes.items()}
    return found
