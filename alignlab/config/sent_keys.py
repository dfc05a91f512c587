"""A key of the environment goes only to a server that the command line names, or to the default one.

A judge sends the key that `api_key_env` names to the server at `base_url`, and MLflow sends its password to
`tracking.mlflow.uri`. Somebody else may have written a config file, a sweep file or the record of a run, so these
settings count only if they are typed. A record restores no judges.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from omegaconf import DictConfig, OmegaConf

from alignlab.errors import Problem
from alignlab.judges.base import Judge
from alignlab.judges.llm import LLM, is_on_this_machine
from alignlab.tracking.sinks.base import Tracking

_FIELDS = ("api_key_env", "base_url")

# A file may name this server, because it is the one that gets the key by default.
_DEFAULT_SERVER = "https://api.openai.com/"

# Variables that MLflow sends to its server.
_OF_MLFLOW = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def problems_of_sent_keys(config: DictConfig, typed: frozenset[str]) -> Iterator[Problem]:
    """Every setting of a composed config that sends a key of the environment, and that was not typed.

    typed: keys that were typed on the command line.
    """
    for name in config.get("judge") or {}:
        part = config.judge[name]
        if isinstance(part, DictConfig):
            kind = OmegaConf.get_type(part)
            values = {field: OmegaConf.select(part, field, throw_on_resolution_failure=False) for field in _FIELDS}
            yield from _of_judge(
                f"judge.{name}", values, kind if isinstance(kind, type) and issubclass(kind, Judge) else LLM, typed
            )
    uri = OmegaConf.select(config, "tracking.mlflow.uri", throw_on_resolution_failure=False)
    if "tracking.mlflow.uri" not in typed and isinstance(uri, str) and gets_a_key(uri):
        told = f"is set by a config file, and {_set_of_mlflow()} would be sent to it"
        yield Problem("tracking.mlflow.uri", uri, told, f"tracking.mlflow.uri={uri}")


def without_sent_keys(tracking: Mapping[str, Tracking]) -> tuple[dict[str, Tracking], list[str]]:
    """(trackers of a record that get no key of the environment, addresses of the others)."""
    sent = {name: uri for name, tracker in tracking.items() if gets_a_key(uri := getattr(tracker, "uri", ""))}
    return {name: tracker for name, tracker in tracking.items() if name not in sent}, list(sent.values())


def gets_a_key(uri: str) -> bool:
    """Whether MLflow sends a key of the environment to this address. The user's own MLFLOW_TRACKING_URI may get it."""
    is_remote = urlsplit(uri).scheme in ("http", "https") and not is_on_this_machine(uri)
    return is_remote and uri != os.environ.get("MLFLOW_TRACKING_URI") and bool(_set_of_mlflow())


def _set_of_mlflow() -> str:
    return next((name for name in _OF_MLFLOW if os.environ.get(name)), "")


def _of_judge(key: str, values: Mapping[str, Any], kind: type, typed: frozenset[str]) -> Iterator[Problem]:
    """Problems of one judge. Defaults of its class, OpenAI's endpoint and servers on this machine need no typing."""
    variable, address = (values[field] for field in _FIELDS)
    allowed = {field: getattr(kind, field, None) for field in _FIELDS}
    if variable and variable != allowed["api_key_env"] and f"{key}.api_key_env" not in typed:
        told = "is set by a config file; a key of the environment is sent only if the command line names its variable"
        yield Problem(f"{key}.api_key_env", variable, told, f"{key}.api_key_env={variable}")
    if not address or address == allowed["base_url"] or f"{key}.base_url" in typed:
        return
    if not (is_on_this_machine(address) or f"{address}/".startswith(_DEFAULT_SERVER)):
        told = "is set by a config file; a key of the environment is sent only to a server that the command line names"
        yield Problem(f"{key}.base_url", address, told, f"{key}.base_url={address}")
