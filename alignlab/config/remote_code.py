"""Code that comes with a model runs only if the command line allows it.

A model folder may hold Python files. `trust_remote_code` lets transformers run them. Somebody else may have written a
config file, a sweep file or the record of a run, so the key counts only if it is typed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from omegaconf import DictConfig, OmegaConf

from alignlab.errors import Problem

_FIELD = "trust_remote_code"

# Config groups that load models, as the command line names them.
_GROUPS = ("model", "reward")


# Keys of the command line of this process. Hydra's own list of overrides also holds what files put into it.
_command_line: frozenset[str] = frozenset()


def note_command_line(arguments: Iterable[str]) -> None:
    """Remember which keys the command line of this process sets."""
    global _command_line
    _command_line = typed_keys(arguments)


def keys_of_command_line() -> frozenset[str]:
    """Keys that the command line of this process sets. Empty if the process was not started by the command line."""
    return _command_line


def typed_keys(overrides: Iterable[str]) -> frozenset[str]:
    """Keys that overrides set or add, without Hydra's leading `+`."""
    return frozenset(text.lstrip("+").split("=", 1)[0] for text in overrides)


def problems_of_config(config: DictConfig, typed: frozenset[str]) -> Iterator[Problem]:
    """Every `trust_remote_code: true` of a composed config that was not typed.

    typed: keys that were typed on the command line.
    """
    judges = config.get("judge") or {}
    groups = (*_GROUPS, *(f"judge.{name}" for name in judges))
    for key in (_FIELD, *(f"{group}.{_FIELD}" for group in groups)):
        if key not in typed and OmegaConf.select(config, key) is True:
            text = "is set by a config file; code that comes with a model runs only if the command line allows it"
            yield Problem(key, True, text, f"{key}=true   or   {key}=false")


def keys_of_stage(
    stage: str, overrides: Sequence[str], preset: Iterable[str], typed: frozenset[str], inherited: Sequence[str]
) -> frozenset[str]:
    """Keys that count as typed for a run that another run needs.

    stage:     key that describes the needed run, for instance `model.parent`.
    overrides: of the needed run. They count if the command line itself sets `stage`.
    preset:    keys and groups that presets in conf/stage set for the needed run. They never count.
    typed:     keys that were typed for the run that needs it.
    inherited: config groups that the needed run inherits.
    """
    own = typed_keys(overrides)
    changed = own.union(preset)
    passed_on = {key for key in typed if (group := key.split(".", 1)[0]) in inherited and group not in changed}
    return frozenset(passed_on | (own if stage in typed else set()))
