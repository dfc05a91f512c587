"""Adds sweep presets, plug-ins and the user's own options to Hydra's search path, and registers the schemas."""

from __future__ import annotations

import logging
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

from alignlab.config.paths import conf_dir, own_conf_dir, sweep_dirs
from alignlab.config.registry import store_schemas
from alignlab.config.renamed import rename_in_file
from alignlab.errors import ConfigError, Problem
from alignlab.plugins import active

log = logging.getLogger(__name__)

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
        if problems := list(_problems_of_hydra(found, "sweep")):
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


class OwnConfSource(FileConfigSource):
    """The folder `conf` of the working directory: options and experiments of the user's own. They are YAML only."""

    @staticmethod
    def scheme() -> str:
        return "own-conf"

    def load_config(self, config_path: str) -> ConfigResult:
        found = super().load_config(config_path)
        if problems := list(_problems_of_hydra(found, "config")):
            raise ConfigError(problems, where=f"conf/{config_path.strip('/')}; nothing was started")
        return found


def _problems_of_hydra(found: ConfigResult, kind: str) -> Iterator[Problem]:
    """Problems of a file that sets more of Hydra than axes, mode and launcher. kind: sweep or config.

    Hydra calls functions that other settings name, and somebody else may have written the file.
    """
    package = str(found.header.get("package") or "_global_")
    if package.split(".")[0] == "hydra":
        fix = "a sweep file begins with `# @package _global_`"
        yield Problem("package", package, fix if kind == "sweep" else "may not be Hydra's own settings")
        return
    hydra: Any = OmegaConf.select(found.config, "hydra") if isinstance(found.config, DictConfig) else None
    for key in hydra or {}:
        if key not in ("mode", "sweeper", "launcher"):
            text = f"may not be set by a {kind} file; it may set: mode, sweeper, launcher"
            yield Problem(f"hydra.{key}", None, text)
        elif isinstance(hydra[key], DictConfig) and "_target_" in hydra[key]:
            yield Problem(f"hydra.{key}._target_", None, f"may not be set by a {kind} file; {key}=<name> chooses one")


class AlignlabSearchPath(SearchPathPlugin):
    """Adds folders of sweeps and options, and the schemas, if the application's configs are alignlab's."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        primary = next((entry.path for entry in search_path.get_path() if entry.provider == "main"), "")
        if primary.removeprefix("file://") != str(conf_dir()):
            return  # another application of the same environment
        for plugin in active():
            if (plugin.folder / "conf").is_dir():
                search_path.append(provider=f"plugin {plugin.name}", path=f"file://{plugin.folder / 'conf'}")
        if own := own_conf_dir():
            _warn_of_hidden(own)
            search_path.append(provider="own conf", path=f"own-conf://{own}")
        for folder in sweep_dirs([plugin.folder for plugin in active()]):
            search_path.append(provider="alignlab-sweeps", path=f"sweeps://{folder}")
        store_schemas()


def _warn_of_hidden(own: Path) -> None:
    """Warn of files in ./conf that are not read, because an option of alignlab or of a plug-in has their name."""
    folders = [conf_dir(), *(plugin.folder / "conf" for plugin in active())]
    files = sorted(file.relative_to(own) for file in own.rglob("*.yaml"))
    if hidden := [str(file) for file in files if any((folder / file).is_file() for folder in folders)]:
        log.warning("not read, because there is an option of this name: %s", ", ".join(f"conf/{f}" for f in hidden))
