"""Lets `sweep=<preset>` find the files of `sweeps/`, the project's and those of the working directory."""

from __future__ import annotations

from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin

from alignlab.config.share import conf_dir, sweep_dirs

GROUP = "sweep"


class SweepFolderSource(FileConfigSource):
    """A flat folder of YAML files seen as the config group `sweep`."""

    @staticmethod
    def scheme() -> str:
        return "sweeps"

    def load_config(self, config_path: str) -> ConfigResult:
        if not self._inside(config_path):
            raise ConfigLoadError(f"Config not found: {config_path}")
        return super().load_config(self._local(config_path))

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


class SweepSearchPath(SearchPathPlugin):
    """Adds the sweep folders to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        primary = next((entry.path for entry in search_path.get_path() if entry.provider == "main"), "")
        if primary.removeprefix("file://") != str(conf_dir()):
            return  # another application of the same environment
        for folder in sweep_dirs():
            search_path.append(provider="alignlab-sweeps", path=f"sweeps://{folder}")
