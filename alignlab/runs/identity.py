"""The id of a run: a hash of everything that decides its numbers, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def run_id(
    objective: str,
    config: Mapping[str, Any],
    *,
    content: Mapping[str, str],
    parent: str | None,
    ignored: tuple[str, ...],
) -> str:
    """`<objective>-<12 hex digits>`.

    config:  the effective config as plain containers.
    content: dotted key -> digest of the content behind a path; replaces the path.
    parent:  id of the run whose policy this one starts from.
    ignored: dotted keys that change no result of this run; they are left out, with all keys below them.
    """
    flat = flatten(config)
    for key in ignored:
        flat = {k: v for k, v in flat.items() if k != key and not k.startswith(f"{key}.")}
    flat |= content
    flat["parent"] = parent
    text = json.dumps(flat, sort_keys=True, separators=(",", ":"))
    return f"{objective}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Convert nested mappings to one mapping with dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat
