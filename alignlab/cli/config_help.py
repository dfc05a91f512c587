"""`--help` of the verbs with a config: the groups, and each key with its value and its comment."""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, cast

import yaml
from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf

from alignlab.config.composer import Composer
from alignlab.config.documentation import settings_of, summary
from alignlab.config.own_plugins import parts_of
from alignlab.errors import ConfigError
from alignlab.plugins import active

_COLUMN = 36  # where comments begin


def config_help(loader: ConfigLoader, config_name: str, overrides: Sequence[str]) -> str:
    """The help of `alignlab <config_name>` for a command line. Raises ConfigError with what is wrong with it.

    The values are those of the command line. Axes of a sweep are left out.
    """
    composer = Composer(loader, config_name)
    fixed = [text for text in overrides if not composer.parse(text).is_sweep_override()]
    config, problems = composer.compose(fixed)
    if problems:
        raise ConfigError(problems)
    width = min(max(shutil.get_terminal_size((110, 24)).columns, 80), 120)
    chosen = composer.load([]).hydra.runtime.choices
    groups = [group for group in composer.groups() if group in chosen]
    groups += ["stage"] if "trainer" in config else []
    example = "trainer.max_steps=200" if "trainer" in config else "judge.llm.seed=2"
    return "\n".join(
        [
            f"usage: alignlab {config_name} [key=value ...] [Hydra flags]",
            "",
            "Groups. Choose an option with <group>=<option>; this page then shows its keys:",
            *(line for group in groups for line in _options(loader, group, width)),
            "",
            *_plugins(width),
            "",
            f"Keys. Set a value with <key>=<value>, where the key has the names above it: {example}",
            *_keys(config, width),
            "",
            "Flags: -m takes several values for a key, separated by commas; --cfg job prints the config as YAML;",
            "--config-dir <folder> adds options of your own; --hydra-help shows all flags of Hydra",
        ]
    )


def _options(loader: ConfigLoader, group: str, width: int) -> Iterator[str]:
    options = [option for option in loader.get_group_options(group) if not option.startswith("_")]
    name = "stage (for model.parent and reward.run)" if group == "stage" else group
    yield from textwrap.wrap(
        f"{name}: {', '.join(options)}", width, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False
    )


def _plugins(width: int) -> Iterator[str]:
    """The section on parts of the user's own: how they are loaded, and what those that are loaded add."""
    yield "Plug-ins: plugins=my_package,./my_parts adds options from your own packages and folders to these groups."
    yield "`alignlab init <folder>` makes an example, `alignlab test-plugin <package or folder>` tests one."
    for plugin in active():
        added = "; ".join(f"{key}={', '.join(names)}" for key, names in parts_of(plugin).items())
        loaded = "" if plugin.typed else " (its package is installed)"
        yield from textwrap.wrap(
            f"{plugin.name}{loaded}: {added}", width, initial_indent="  ", subsequent_indent="      ",
            break_on_hyphens=False,
        )  # fmt: skip


def _keys(node: DictConfig, width: int, indent: str = "  ") -> Iterator[str]:
    """One line for each key of a config, with its value, and its comment beside it."""
    schema = _schema(node)
    comments = {s.name: s.comment for s in settings_of(schema)} if schema else {}
    for key in map(str, node):
        part = node._get_node(key)
        if isinstance(part, DictConfig) and not part._is_none() and not part._is_missing() and len(part):
            schema = _schema(part)
            yield from _line(f"{indent}{key}:", summary(schema) if schema else "", width)
            yield from _keys(part, width, indent + "  ")
        else:
            yield from _line(f"{indent}{key}: {_shown(node, key)}", comments.get(key, ""), width)


def _schema(node: DictConfig) -> type | None:
    """The dataclass of a part of the config; None if it has none."""
    kind = OmegaConf.get_type(node)
    return kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None


def _shown(node: DictConfig, key: str) -> str:
    """A value as it is written in YAML on one line. References to other keys are not resolved."""
    value = cast(dict[str, Any], OmegaConf.to_container(node, resolve=False))[key]
    return yaml.safe_dump(value, default_flow_style=True, width=1000, allow_unicode=True).removesuffix("...\n").strip()


def _line(setting: str, comment: str, width: int) -> Iterator[str]:
    if not comment:
        yield setting
        return
    first, *rest = textwrap.wrap(comment, width - _COLUMN - 2, break_on_hyphens=False)
    yield f"{setting:<{_COLUMN - 1}} # {first}"
    yield from (f"{'':<{_COLUMN}}# {line}" for line in rest)
