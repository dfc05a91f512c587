"""Hydra composes most configs of the tests from the same files, which takes half of the time of all tests.

Here it reads each file and each word of a command line once, and merges the files once for each choice of groups. The
values of a command line are applied as always. The results are the same (`tests/test_composing.py`). Files that a test
writes are always read.
"""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

from hydra._internal import config_loader_impl, defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import InputDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

from alignlab.config.paths import share_dir

create_defaults_list = config_loader_impl.create_defaults_list
merge_files = ConfigLoaderImpl._compose_config_from_defaults_list
load_option = ConfigRepository.load_config
read_file = FileConfigSource.load_config
interpolation_map = defaults_list._create_interpolation_map
parse_rule = OverridesParser.parse_rule

# Files and merged files are pickled, because copy.deepcopy takes six times as long.
_files: dict[tuple[str, str, str], bytes] = {}
_options: dict[str, bytes] = {}
_parsed: dict[tuple[str, str], Any] = {}
_lists: dict[Any, DefaultsList] = {}
_merged: dict[Any, bytes] = {}


def merge_files_once() -> None:
    """From here on, Hydra reads the project's own files once, and merges them once for each choice of groups."""
    config_loader_impl.create_defaults_list = _defaults_list_once
    ConfigLoaderImpl._compose_config_from_defaults_list = _merged_once
    ConfigRepository.load_config = _loaded_once
    FileConfigSource.load_config = _read_once
    defaults_list._create_interpolation_map = _interpolation_map_if_needed
    OverridesParser.parse_rule = _parsed_once
    # For each config, Hydra copies the schemas of all options with its sources. It only reads the copy.
    ConfigStore.__deepcopy__ = lambda store, memo: store


def _of_the_project(repo: IConfigRepository) -> bool:
    folders = [Path(source.path) for source in repo.get_sources() if source.scheme() not in ("pkg", "structured")]
    return all(folder.parent == share_dir() for folder in folders)


def _loaded_once(self: ConfigRepository, config_path: str) -> ConfigResult | None:
    """An option with its defaults list. Schemas are loaded each time, because a test may register others."""
    if config_path.startswith("schema/") or not _of_the_project(self):
        return load_option(self, config_path)
    if config_path not in _options:
        _options[config_path] = pickle.dumps(load_option(self, config_path))
    return pickle.loads(_options[config_path])


def _interpolation_map_if_needed(overrides: Overrides, defaults: list[InputDefault], self_added: bool) -> DictConfig:
    """Hydra makes a map of the choices for each option, and reads it only if the option has an interpolation."""
    if any(default.is_interpolation() for default in defaults):
        return interpolation_map(overrides, defaults, self_added)
    return DictConfig({})


def _read_once(self: FileConfigSource, config_path: str) -> ConfigResult:
    if Path(self.path).parent != share_dir():
        return read_file(self, config_path)
    key = (self.provider, self.path, config_path)
    if key not in _files:
        _files[key] = pickle.dumps(read_file(self, config_path))
    return pickle.loads(_files[key])


def _parsed_once(self: OverridesParser, text: str, rule_name: str) -> Any:
    if (text, rule_name) not in _parsed:
        _parsed[text, rule_name] = parse_rule(self, text, rule_name)
    return copy.deepcopy(_parsed[text, rule_name])


def _defaults_list_once(
    repo: IConfigRepository, config_name: str, overrides_list: list[Override], **how: Any
) -> DefaultsList:
    if not _of_the_project(repo):
        return create_defaults_list(repo, config_name, overrides_list, **how)
    values = Overrides(repo, overrides_list).config_overrides
    ignored = {id(override) for override in values} | {id(o) for o in overrides_list if o.is_sweep_override()}
    groups = tuple(o.input_line for o in overrides_list if id(o) not in ignored)
    if "???" not in "".join(groups):  # all groups have an option, so that none is missing, which could be skipped
        how = {**how, "skip_missing": False}
    key = (config_name, groups, *how.values())
    if key not in _lists:
        _lists[key] = create_defaults_list(repo, config_name, overrides_list, **how)
    found = copy.copy(_lists[key])
    found.config_overrides = values
    return found


def _merged_once(self: ConfigLoaderImpl, defaults: list[Any], repo: IConfigRepository) -> DictConfig:
    if not _of_the_project(repo):
        return merge_files(self, defaults, repo)
    key = repr(defaults)
    if key not in _merged:
        _merged[key] = pickle.dumps(merge_files(self, defaults, repo))
    return pickle.loads(_merged[key])
