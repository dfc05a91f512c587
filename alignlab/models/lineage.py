"""Resolves the name of a model to a whole model, or to adapters (peft) and the base that their configs name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alignlab.data.fingerprint import digest, path_digest
from alignlab.errors import DamagedError, ModelError
from alignlab.hub import pinned
from alignlab.integrity import MANIFEST, read_sealed

ADAPTER_CONFIG = "adapter_config.json"

# Keys of an adapter's config that do not change what the adapter computes.
_NOT_THE_FUNCTION = ("base_model_name_or_path", "revision", "inference_mode", "peft_version")

# peft writes the path of the base into this file of every adapter.
_MODEL_CARD = "README.md"


@dataclass(frozen=True)
class Lineage:
    """A whole model and the adapters on it.

    base:     hub name or absolute folder of a whole model.
    revision: commit of a hub name (`alignlab.hub.pinned`); empty for a folder.
    adapters: folders of the adapters. The first one was trained on the base, each other one on the one before it.
    """

    base: str
    revision: str = ""
    adapters: tuple[Path, ...] = ()


def lineage(name: str, revision: str = "") -> Lineage:
    """The base and the adapters that a folder or a hub name stands for.

    revision: revision of the base, if the base is a hub name and the config of its adapter names no revision.
    Raises ModelError if the config of an adapter can't be read, or if its base does not exist.
    """
    found = _named_lineage(name, revision)
    return replace(found, revision=pinned(found.base, found.revision))


def _named_lineage(name: str, revision: str = "") -> Lineage:
    """`lineage` with the revision as it is named. The hub is not asked for its commit."""
    adapters: list[Path] = []
    while is_adapter(name):
        folder = Path(name).resolve()
        if folder in adapters:
            raise ModelError(f"the adapter {folder} has itself as its base")
        adapters.insert(0, folder)
        name, own_revision = _base_of(folder)
        revision = own_revision or revision
    base = str(Path(name).resolve()) if Path(name).is_dir() else name
    return Lineage(base, revision, tuple(adapters))


def is_adapter(name: str) -> bool:
    """Whether a name is the folder of an adapter."""
    return (Path(name) / ADAPTER_CONFIG).is_file()


def adapter_faults(name: str) -> Iterator[str]:
    """Faults of an adapter's folder that are visible without loading weights. Other names have none."""
    try:
        _named_lineage(name)
    except ModelError as error:
        yield str(error)


def is_local_model(name: str) -> bool:
    """Whether a name is a folder with a whole model or an adapter."""
    return any((Path(name) / file).is_file() for file in ("config.json", ADAPTER_CONFIG))


def comes_with_code(name: str) -> bool:
    """Whether the model in a folder, or its base, comes with Python code. False if its config can't be read."""
    try:
        config = json.loads((Path(_named_lineage(name).base) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, ModelError):
        return False
    return isinstance(config, dict) and bool(config.get("auto_map"))


def weights_fingerprint(name: str, revision: str = "") -> str:
    """Digest of a model's weights, independent of their folder. For a hub name: the name and the commit.

    Adapters and their base count. Model cards of adapters and the paths of their bases do not.
    Raises ModelError if the config of an adapter can't be read.
    """
    found = lineage(name, revision)
    base = path_digest(found.base) if Path(found.base).is_dir() else f"{found.base}@{found.revision or 'main'}"
    if not found.adapters:
        return base
    return digest([base.encode(), *(part for folder in found.adapters for part in _content(folder))])


def read_config(adapter: Path) -> dict[str, Any]:
    """The adapter_config.json of a folder. Raises ModelError if it can't be read."""
    file = adapter / ADAPTER_CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} can't be read: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{file} can't be read: it holds a {type(config).__name__}, not an object")
    return config


def _base_of(adapter: Path) -> tuple[str, str]:
    """(folder or hub name, revision) of the model that an adapter was trained on.

    A relative path starts at the working directory, as in peft. If nothing is there, it starts at the adapter's folder.
    A base below an output root is also found below the output root in which the adapter is now.
    """
    config = read_config(adapter)
    name = config.get("base_model_name_or_path")
    if not name or not isinstance(name, str):
        raise ModelError(f"{adapter / ADAPTER_CONFIG} does not name the model that the adapter belongs to")
    for folder in (Path(name).expanduser(), adapter / name, *_moved(adapter, name)):
        if folder.is_dir():
            return str(folder.resolve()), ""
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(
            f"the adapter {adapter} belongs to the model {name}, and there is no such folder{_wanted(adapter)}\n"
            f"  put the model back, or write its new path into base_model_name_or_path of {adapter / ADAPTER_CONFIG}"
        )
    return name, config.get("revision") or ""


def _moved(adapter: Path, base: str) -> Iterator[Path]:
    """Where a base below an output root is if the whole output root was moved with the adapter, `runs/<id>/policy`."""
    parts, root = Path(base).parts, adapter.parent.parent.parent
    for folder, depth in (("bases", 2), ("runs", 3)):  # bases/<digest>, runs/<id>/policy
        if len(parts) > depth and parts[-depth] == folder:
            yield root.joinpath(*parts[-depth:])


def _wanted(adapter: Path) -> str:
    """What the record of the run that made an adapter says about its base; empty without a record."""
    try:
        record = read_sealed(adapter.parent / "run.json")
    except (OSError, DamagedError):
        return ""
    model = record.get("model")
    weights = record.get("reference_weights") or (model.get("reference_weights") if isinstance(model, dict) else None)
    if not isinstance(weights, str):
        return ""
    return (
        f"\n  its weights have the digest {weights}: the reference_weights in run.json of every run that starts from it"
    )


def _content(adapter: Path) -> Iterator[bytes]:
    """Names and contents of an adapter's files, for a digest."""
    config = {key: value for key, value in read_config(adapter).items() if key not in _NOT_THE_FUNCTION}
    yield json.dumps(config, sort_keys=True).encode()
    for file in sorted(file for file in adapter.rglob("*") if file.is_file()):
        name = str(file.relative_to(adapter))
        if name not in (ADAPTER_CONFIG, _MODEL_CARD, MANIFEST):
            yield from (name.encode(), path_digest(file).encode())
