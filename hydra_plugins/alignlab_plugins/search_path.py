"""Adds sweep presets to Hydra's search path, and registers the schemas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Hydra has no public class for folders of YAML files. This one reads headers and encodings as for Hydra's own folders.
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from alignlab.config.paths import conf_dir, sweep_dirs
from alignlab.config.registry import store_schemas
from alignlab.config.renamed import rename_in_file
from alignlab.errors import ConfigError, Problem

GROUP = "sweep"


class SweepFolderSource(FileConfigSource):
    """A flat folder of YAML files, the project's or the user's, as the config group `sweep`."""

    @staticmethod
    def scheme() -> str:
        return "sweeps"

    def load_config(self, config_path: str) -> ConfigResult:
        if not self._inside(config_path):
            raise ConfigLoadError(f"Config not found: {config_path}")
        found = super().load_config(self._local(config_path))
        if problems := list(_problems_of_sweep(found)):
            raise ConfigError(problems, where=f"sweeps/{self._local(config_path)}; nothing was started")
        if isinstance(found.config, DictConfig):
            rename_in_file(found.config)
        return found

    def available(self) -> bool:
        return super().is_group("")

    def is_group(self, config_path: str) -> bool:
        return config_path.strip("/") in ("", GROUP)

    def is_config(self, config_path: str) -> bool:
        return self._inside(config_path) and super().is_config(self._local(config_path))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        path = config_path.strip("/")
        if path == "":
            return [] if results_filter == ObjectType.CONFIG else [GROUP]
        if path != GROUP or results_filter == ObjectType.GROUP:
            return []
        return sorted(file.stem for file in Path(self.path).glob("*.yaml"))

    @staticmethod
    def _inside(config_path: str) -> bool:
        return config_path.strip("/").startswith(f"{GROUP}/")

    @staticmethod
    def _local(config_path: str) -> str:
        return config_path.strip("/").removeprefix(f"{GROUP}/")


def _problems_of_sweep(found: ConfigResult) -> Iterator[Problem]:
    """Problems of a sweep file that sets more of Hydra than axes, mode and launcher.

    Hydra calls functions that other settings name, and somebody else may have written the file.
    """
    package = str(found.header.get("package") or "_global_")
    if package.split(".")[0] == "hydra":
        yield Problem("package", package, "a sweep file begins with `# @package _global_`")
        return
    hydra: Any = OmegaConf.select(found.config, "hydra") if isinstance(found.config, DictConfig) else None
    for key in hydra or {}:
        if key not in ("mode", "sweeper", "launcher"):
            yield Problem(f"hydra.{key}", None, "may not be set by a sweep file; it may set: mode, sweeper, launcher")
        elif isinstance(hydra[key], DictConfig) and "_target_" in hydra[key]:
            yield Problem(f"hydra.{key}._target_", None, f"may not be set by a sweep file; {key}=<name> chooses one")


class AlignlabSearchPath(SearchPathPlugin):
    """Adds the folders of sweeps and the schemas, if the application's configs are alignlab's."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        primary = next((entry.path for entry in search_path.get_path() if entry.provider == "main"), "")
        if primary.removeprefix("file://") != str(conf_dir()):
            return  # another application of the same environment
        for folder in sweep_dirs():
            search_path.append(provider="alignlab-sweeps", path=f"sweeps://{folder}")
        store_schemas()
