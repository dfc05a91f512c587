"""Finds all config dataclasses by their folders and registers them with Hydra as schemas.

A schema has the name of its module: `alignlab/objectives/dpo.py` is `/schema/objective/dpo`, and
`conf/objective/dpo.yaml` selects it. To add an option, add these two files, here or in a plug-in.
"""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass
from functools import lru_cache

from hydra.core.config_store import ConfigNode, ConfigStore
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alignlab.callbacks.base import Callback
from alignlab.config.schemas import Evaluate, Synthesize, Train, Trainer
from alignlab.data.sources.base import Source
from alignlab.discovery import classes_by_module
from alignlab.evaluation.benchmarks.base import Benchmark
from alignlab.judges.base import Judge, ScoreJudge
from alignlab.metrics.base import Metric
from alignlab.models.adapters.base import Adapter
from alignlab.models.sources.base import ModelSource
from alignlab.objectives.base import Objective
from alignlab.optim.base import Optim
from alignlab.plugins import Plugin, active
from alignlab.rollout.engines.base import Engine
from alignlab.strategies.base import Strategy
from alignlab.tracking.sinks.base import Tracking


@dataclass(frozen=True)
class Group:
    """A config group: the package that holds its dataclasses, and their common base class."""

    package: str
    base: type


GROUPS = {
    "objective": Group("alignlab.objectives", Objective),
    "model": Group("alignlab.models.sources", ModelSource),
    "peft": Group("alignlab.models.adapters", Adapter),
    "data": Group("alignlab.data.sources", Source),
    "optim": Group("alignlab.optim", Optim),
    "strategy": Group("alignlab.strategies", Strategy),
    "engine": Group("alignlab.rollout.engines", Engine),
    "tracking": Group("alignlab.tracking.sinks", Tracking),
    "judge": Group("alignlab.judges", Judge),
    "reward": Group("alignlab.judges", ScoreJudge),
    "metric": Group("alignlab.metrics", Metric),
    "callback": Group("alignlab.callbacks", Callback),
    "benchmark": Group("alignlab.evaluation.benchmarks", Benchmark),
}

# Groups of which a config can have several options at once, each under its name.
NAMED_GROUPS = ("judge", "tracking", "metric", "callback", "benchmark")

_TYPES = "bool, int, float, str, list[str] or dict[str, float]"


def schemas() -> dict[str, dict[str, type]]:
    """group -> module name -> dataclass. Classes of plug-ins with a `fault_of_types` are left out."""
    return _schemas(active())


@lru_cache(maxsize=8)
def _schemas(plugins: tuple[Plugin, ...]) -> dict[str, dict[str, type]]:
    return {
        name: {
            option: cls
            for option, cls in classes_by_module(group.package, group.base).items()
            if cls.__module__.startswith("alignlab.") or not fault_of_types(cls)
        }
        for name, group in GROUPS.items()
    }


def fault_of_types(cls: type) -> tuple[str, str] | None:
    """(which field of a class has a type that a config can't hold, the line of Python that mends it)."""
    try:
        if is_dataclass(cls):
            OmegaConf.structured(cls)
    except OmegaConfBaseException as error:
        field = error.full_key or "field"
        reason = str(error).splitlines()[0]
        return f"has the setting {field} with a type that a config can't hold: {reason}", f"{field}: <{_TYPES}>"
    return None


def store_schemas() -> None:
    """Put the dataclasses into Hydra's config store as `/schema/<group>/<module>`.

    Those of plug-ins that were active before are removed.
    """
    _store(active())


def remove_plugin_schemas() -> None:
    """Remove the dataclasses of plug-ins from Hydra's config store, which other applications of the process share."""
    stored = ConfigStore.instance().repo.get("schema", {})
    for group in GROUPS:
        options = stored.get(group, {})
        for name in [name for name, node in options.items() if _is_of_a_plugin(node)]:
            del options[name]
            _store.cache_clear()


def _is_of_a_plugin(node: ConfigNode) -> bool:
    """Whether alignlab stored a class that is not its own."""
    cls = OmegaConf.get_type(node.node)
    return node.provider == "alignlab" and cls is not None and not cls.__module__.startswith("alignlab.")


@lru_cache(maxsize=1)
def _store(plugins: tuple[Plugin, ...]) -> None:
    remove_plugin_schemas()
    store = ConfigStore.instance().store
    store(group="schema", name="train", node=Train, package="_global_", provider="alignlab")
    store(group="schema", name="evaluate", node=Evaluate, package="_global_", provider="alignlab")
    store(group="schema", name="synthesize", node=Synthesize, package="_global_", provider="alignlab")
    store(group="schema/trainer", name="default", node=Trainer, package="trainer", provider="alignlab")
    for group, classes in schemas().items():
        for name, cls in classes.items():
            store(group=f"schema/{group}", name=name, node=cls, package=group, provider="alignlab")
