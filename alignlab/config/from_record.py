"""Restores the typed config of a run from its record. A record loads no code: its plug-ins must be active already."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alignlab.checks import with_parts
from alignlab.config.own_plugins import how_to_load
from alignlab.config.plan import Plan
from alignlab.config.registry import schemas
from alignlab.config.schemas import Train, Trainer
from alignlab.config.sent_keys import without_sent_keys
from alignlab.errors import AlignlabError, ConfigError, Problem
from alignlab.plugins import active
from alignlab.rollout.engines.huggingface import HuggingFace
from alignlab.rollout.settings import Rollout
from alignlab.runs.directory import RunDir
from alignlab.strategies.auto import Auto

log = logging.getLogger(__name__)

# Fields of a record from which a plan is restored.
_DECIDING = ("config", "kinds", "parent", "plugins", "cwd")

T = TypeVar("T")


def recorded_plan(output_root: str, run_id: str, *, trust_remote_code: bool, below: tuple[str, ...] = ()) -> Plan:
    """The plan of a run, restored from its record. Raises ConfigError if the record does not hold it.

    trust_remote_code: whether the command line allows code that comes with models. Without it, a record that asks for
    such code is refused: somebody else may have written the record.
    below: the runs that start from this one, in whose restoring it is restored.
    """
    run = RunDir.of(output_root, run_id)
    if damage := run.damage():
        raise ConfigError([Problem("run", run_id, f"{damage}; to resume the run, type the command that made it again")])
    if wrong := [name for name in run.wrong_fields() if name.partition(".")[0] in _DECIDING]:
        raise ConfigError([Problem("run", run_id, f"fields of its record have a wrong type: {', '.join(wrong)}")])
    record = run.record()
    config, kinds = record.get("config"), record.get("kinds")
    if not (config and kinds):
        text = "its record has no config that can be read: an older version wrote it, or it was changed"
        raise ConfigError([Problem("run", run_id, text, "rerun=true with the command that made it")])
    for group in ("model", "reward"):
        own = config.get(group) or {}
        if own.get("trust_remote_code") and not trust_remote_code:
            name = own.get("name") or own.get("model")
            text = (
                f"the record says that code which comes with the model {name} ran; read that code before you allow it"
            )
            raise ConfigError([Problem("trust_remote_code", False, text, "trust_remote_code=true")])
    _require_plugins(run_id, record.get("plugins") or {})
    try:
        started = record.get("cwd", "")
        groups: dict[str, Any] = {}
        for name, kind in kinds.items():
            if name == "tracking":  # of versions with a single tracker
                continue
            schema = schemas()[name][kind]
            groups[name] = _restored(schema, _found_from(started, schema, config[name]))
        groups.setdefault("engine", HuggingFace())  # records of older versions name no engine and no strategy
        groups.setdefault("strategy", Auto())
        train = Train(
            **groups,
            tracking=_trackers(config, kinds),
            callback=_named("callback", config),
            metric=_named("metric", config),
            trainer=_restored(Trainer, config["trainer"]),
            rollout=_restored(Rollout, config.get("rollout") or {}),
            reference=str(config["reference"]),
            seed=config["seed"],
            output_root=output_root,
        )
    except (
        AttributeError,
        KeyError,
        OverflowError,
        TypeError,
        ValueError,
        OSError,
        AlignlabError,
        OmegaConfBaseException,
    ) as error:
        raise ConfigError([Problem("run", run_id, f"its record can't be read by this version: {error}")]) from error
    parent = record.get("parent")
    if parent in (run_id, *below):
        raise ConfigError([Problem("run", run_id, f"its record says that it starts from itself, by way of {parent}")])
    above = (
        recorded_plan(output_root, parent, trust_remote_code=trust_remote_code, below=(*below, run_id))
        if parent
        else None
    )
    return Plan(train, config, run_id, above)


def _restored(schema: type[T], values: Mapping[str, Any]) -> T:
    """A config dataclass with recorded values, converted to the types of its fields as Hydra converts them.

    Raises OmegaConfBaseException for a value of a wrong type, ConfigError for one that is not allowed, and TypeError
    for an interpolation: a record is not composed, so that it can't read environment variables.
    """
    typed = OmegaConf.merge(OmegaConf.structured(schema), dict(values))
    if found := [f.name for f in fields(cast(Any, schema)) if OmegaConf.is_interpolation(typed, f.name)]:
        raise TypeError(f"{', '.join(found)}: an interpolation is not a value")
    plain = cast("dict[str, Any]", OmegaConf.to_container(typed, resolve=False))
    return schema(**with_parts(schema, {key: value for key, value in plain.items() if value != MISSING}))


def _trackers(config: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
    """The trackers of a run. The record of an older version has a single one, and its name among the kinds."""
    recorded = config.get("tracking") or {}
    named = {kinds["tracking"]: recorded} if "tracking" in kinds else recorded
    known = schemas()["tracking"]
    found: dict[str, Any] = {name: _restored(known[name], values) for name, values in named.items() if name in known}
    kept, addresses = without_sent_keys(found)
    for uri in addresses:
        text = "%s is not tracked: a record names this server, and it would get your password\n  type: %s"
        log.warning(text, uri, f"export MLFLOW_TRACKING_URI={uri}   (if it is yours)")
    return kept


def _named(group: str, config: Mapping[str, Any]) -> dict[str, Any]:
    known = schemas()[group]
    return {name: _restored(known[name], values) for name, values in (config.get(group) or {}).items()}


def _require_plugins(run_id: str, recorded: Mapping[str, Any]) -> None:
    """Raise ConfigError unless the plug-ins of a run are active. Warn if their code has changed since."""
    now = {plugin.name: plugin for plugin in active()}
    if missing := [name for name in recorded if name not in now]:
        text = (
            f"was made with {'plug-ins' if len(missing) > 1 else 'the plug-in'} {', '.join(missing)}, not loaded here"
        )
        text += "; a record loads no code, so look at the plug-in before you name it"
        raise ConfigError([Problem("run", run_id, text, how_to_load(recorded))])
    for name, about in recorded.items():
        if about.get("digest") != now[name].digest:
            log.warning("%s: was made with another version of the plug-in %s", run_id, name)


def _found_from(folder: str, schema: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a group. A relative path that does not exist here is taken from `folder`, where the run started."""
    moved: dict[str, Any] = {}
    for name in getattr(schema, "content_fields", ()):
        path = values.get(name)
        if isinstance(path, Mapping):  # the parts of a mixture
            kinds = schemas()["data"]
            moved[name] = {part: _found_from(folder, kinds[own["source"]], own) for part, own in path.items()}
        elif folder and path:
            moved[name] = [_found(folder, p) for p in path] if isinstance(path, list) else _found(folder, path)
    return {**values, **moved}


def _found(folder: str, path: str) -> str:
    here, there = Path(path), Path(folder) / path
    return str(there) if not here.exists() and there.exists() else path
