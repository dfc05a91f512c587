"""Our launchers as Hydra knows them: `launcher=auto`, `here`, `stacked` and `local`. See docs/launchers.md.

Annotations here are not postponed: Hydra runs plugin modules before it registers them, and dataclasses could not
resolve them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore

from alignlab.training import launch
from alignlab.training.launch import PointLauncher, Told

_PLUGINS = "hydra_plugins.alignlab_plugins.launchers"


@dataclass
class AutoLauncherConf:
    """hydra/launcher=auto, the default: stacked for tiny models, on all GPUs where there are several, else here."""

    _target_: str = f"{_PLUGINS}.AutoLauncher"


@dataclass
class StackedLauncherConf:
    """hydra/launcher=stacked: points that differ only in numbers as one model; refused where that is not exact."""

    _target_: str = f"{_PLUGINS}.StackedLauncher"


@dataclass
class HereLauncherConf:
    """hydra/launcher=here: points one after another, in this process."""

    _target_: str = f"{_PLUGINS}.HereLauncher"


@dataclass
class LocalLauncherConf:
    """hydra/launcher=local: every point in a process of its own, several at a time.

    at_once: most points at a time; 0 takes one for each free GPU (times per_gpu) or, without GPUs, one for each core,
             as far as memory suffices.
    per_gpu: points that share a GPU.
    retries: how often a point is tried again whose process was killed; after running out of memory with half the
             micro-batch.
    """

    _target_: str = f"{_PLUGINS}.LocalLauncher"
    at_once: int = 0
    per_gpu: int = 1
    retries: int = 1


class AutoLauncher(launch.AutoLauncher):
    """What suits the points and the machine."""


class StackedLauncher(launch.StackedLauncher):
    """Points that differ only in numbers as one model."""


class HereLauncher(launch.HereLauncher):
    """One after another, in this process."""


class LocalLauncher(PointLauncher):
    """One process for each point."""

    at_once = True

    def __init__(self, at_once: int = 0, per_gpu: int = 1, retries: int = 1) -> None:
        self.limits: dict[str, Any] = {"at_once": at_once, "per_gpu": per_gpu, "retries": retries}

    def run(self, tasks: Sequence[Any], told: Told) -> None:
        from alignlab.training.pool import Pool

        Pool(**self.limits).run(tasks, told)


for name, conf in {
    "auto": AutoLauncherConf, "here": HereLauncherConf, "stacked": StackedLauncherConf, "local": LocalLauncherConf,
}.items():  # fmt: skip
    ConfigStore.instance().store(group="hydra/launcher", name=name, node=conf, provider="alignlab")
