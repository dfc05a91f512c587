"""Adds sweep presets, plug-ins and the user's own options to Hydra's search path, and registers the schemas."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

# Hydra has no public class for folders of YAML files. This one reads headers and encodings as for Hydra's own folders.
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from alignlab.config.paths import conf_dir, named_config_dir, own_conf_dir, sweep_dirs
from alignlab.config.references import texts_in
from alignlab.config.registry import store_schemas
from alignlab.config.renamed import rename_in_file
from alignlab.errors import ConfigError, Problem
from alignlab.plugins import active

log = logging.getLogger(__name__)

GROUP = "sweep"

# Groups of Hydra's own of which a file may choose an option, and whose values it may set.
_CHOSEN = ("sweeper", "launcher")

# Resolvers that read environment variables, or that make a config which may.
_ENVIRONMENT = ("oc.env", "oc.create")
_INNERMOST = re.compile(r"\$\{([^${}]*)\}")
_VALUE = "\0"  # stands for the value of an interpolation

# The most values of one file, its aliases replaced by what they stand for. Hydra would need minutes for many more.
_MOST_NODES = 20_000


class SweepFolderSource(FileConfigSource):
    """A flat folder of YAML files, the project's or the user's, as the config group `sweep`."""

    @staticmethod
    def scheme() -> str:
        return "sweeps"

    def load_config(self, config_path: str) -> ConfigResult:
        if not self._inside(config_path):
            raise ConfigLoadError(f"Config not found: {config_path}")
        _refuse_multiplied(self.path, self._local(config_path))
        found = super().load_config(self._local(config_path))
        if problems := [*_problems_of_hydra(found, "sweep", GROUP), *_problems_of_environment(found, "sweep")]:
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
    """Options and experiments of the user's own: `conf` in the working directory, or the folder of --config-dir.

    Somebody else may have written the files, so they may set nothing that Hydra calls, and read no environment
    variables, which may hold keys.
    """

    @staticmethod
    def scheme() -> str:
        return "own-conf"

    def load_config(self, config_path: str) -> ConfigResult:
        _refuse_multiplied(self.path, config_path.strip("/"))
        found = super().load_config(config_path)
        path = config_path.strip("/").removesuffix(".yaml")
        group = path.rpartition("/")[0]
        if problems := [*_problems_of_hydra(found, "config", group), *_problems_of_environment(found, "config")]:
            raise ConfigError(problems, where=f"{Path(self.path).name}/{path}; nothing was started")
        return found


def _refuse_multiplied(folder: str, name: str) -> None:
    """Raise ConfigError if the aliases of a file repeat its anchors so often that nothing could compose it."""
    path = name.removesuffix(".yaml")
    try:
        text = (Path(folder) / f"{path}.yaml").read_text(encoding="utf-8")
        size = _expanded(yaml.compose(text, yaml.SafeLoader), {}) if "*" in text else 0
    except (OSError, UnicodeDecodeError, yaml.YAMLError):  # Hydra reports it
        return
    if size > _MOST_NODES:
        said = f"its aliases repeat its anchors until it has more than {_MOST_NODES:,} values; write fewer of them"
        raise ConfigError([Problem("*", None, said)], where=f"{Path(folder).name}/{path}.yaml; nothing was started")


def _expanded(node: yaml.Node | None, known: dict[yaml.Node, float]) -> float:
    """Number of values below a node of YAML, itself included, where an alias counts as a copy of its anchor."""
    if node not in known and node is not None:
        known[node] = math.inf  # what contains itself has no end
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        inner = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in pairs for part in pair]
        known[node] = 1 + sum(_expanded(part, known) for part in inner)
    return known[node] if node is not None else 0


def _problems_of_hydra(found: ConfigResult, kind: str, group: str) -> Iterator[Problem]:
    """Problems of a file that sets more of Hydra than axes, mode and launcher.

    kind:  sweep or config.
    group: the config group of the file, such as `experiment`.

    Hydra imports and calls what other settings name, and somebody else may have written the file.
    """
    package = str(found.header.get("package") or ("_global_" if kind == "sweep" else group)).replace("_group_", group)
    above = package.replace("/", ".").removeprefix("_global_.").split(".")
    if above[0] == "hydra" and (len(above) == 1 or above[1] not in _CHOSEN):
        fix = "a sweep file begins with `# @package _global_`"
        yield Problem("package", ".".join(above), fix if kind == "sweep" else "may not be Hydra's own settings")
        return
    content: Any = OmegaConf.to_container(found.config, resolve=False)
    if not isinstance(content, dict):
        return
    yield from _problems_of_defaults(content, kind)
    hydra = {above[1]: content} if above[0] == "hydra" else content.get("hydra")
    if isinstance(hydra, str):
        yield Problem("hydra", hydra, f"may not refer to other settings in a {kind} file")
    for key, value in hydra.items() if isinstance(hydra, dict) else ():
        if key not in ("mode", *_CHOSEN):
            text = f"may not be set by a {kind} file; it may set: mode, sweeper, launcher"
            yield Problem(f"hydra.{key}", None, text)
        elif isinstance(value, str) and "$" in value:
            yield Problem(f"hydra.{key}", value, f"may not refer to other settings in a {kind} file")
        for target in _targets(value):
            text = f"may not be set by a {kind} file; {key}=<name> chooses one"
            yield Problem(f"hydra.{key}.{target}", None, text)


def _problems_of_defaults(content: dict[Any, Any], kind: str) -> Iterator[Problem]:
    """Problems of a defaults list that puts files below Hydra's own settings."""
    defaults = content.get("defaults")
    for entry in defaults if isinstance(defaults, list) else ():
        for text in map(str, entry if isinstance(entry, dict) else [entry]):
            place, _, package = text.split(" ")[-1].partition("@")
            first, _, second = place.strip("/").partition("/")
            if "hydra" in package.split(".") or (first == "hydra" and second.split("/")[0] not in _CHOSEN):
                yield Problem("defaults", text, f"may not be in the defaults list of a {kind} file")


def _problems_of_environment(found: ConfigResult, kind: str) -> Iterator[Problem]:
    """Problems of values that read environment variables: a run stores its config and sends it to trackers."""
    content: Any = OmegaConf.to_container(found.config, resolve=False)
    for key, text in texts_in(content, ""):
        if _reads_environment(text):
            told = f"may not read an environment variable in a {kind} file; the command line may"
            yield Problem(key, text, told, f"{key}=<its value>")


def _reads_environment(text: str) -> bool:
    """Whether a value calls a resolver that reads environment variables. A name put together from values counts."""
    while match := _INNERMOST.search(text):
        name, colon, _ = match[1].partition(":")
        if colon and (name.strip() in _ENVIRONMENT or _VALUE in name):
            return True
        text = f"{text[: match.start()]}{_VALUE}{text[match.end() :]}"
    # Braces in quotes or in a dictionary are left.
    return "${" in text and any(word in text for word in (*_ENVIRONMENT, _VALUE))


def _targets(node: Any) -> Iterator[str]:
    """Dotted keys named `_target_` in a part of a config, at any depth."""
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in entries:
        if key == "_target_":
            yield "_target_"
        yield from (f"{key}.{target}" for target in _targets(value))


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
        if named := named_config_dir():
            search_path.append(provider="command-line", path=f"own-conf://{named}")
        store_schemas()


def _warn_of_hidden(own: Path) -> None:
    """Warn of files in ./conf that are not read, because an option of alignlab or of a plug-in has their name."""
    folders = [conf_dir(), *(plugin.folder / "conf" for plugin in active())]
    files = sorted(file.relative_to(own) for file in own.rglob("*.yaml"))
    if hidden := [str(file) for file in files if any((folder / file).is_file() for folder in folders)]:
        shown = [f"conf/{file}" for file in hidden[:5]]
        more = [f"and {len(hidden) - 5} more"] if len(hidden) > 5 else []
        log.warning("not read, because there is an option of this name: %s", ", ".join([*shown, *more]))
