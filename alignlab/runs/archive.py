"""Packs a sweep or runs into one file, and unpacks it on another machine. No code is run, and nothing is overwritten.

The file is a tar archive of the folders below the output root, with `pack.json`: the SHA-256 of every file. Weights can
be left out; the records of the runs then say so.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from alignlab.errors import ConfigError, DamagedError, OutputError, Problem
from alignlab.inert import visible
from alignlab.integrity import (
    MANIFEST,
    is_device,
    new_file,
    read_record,
    read_sealed,
    seal_folder,
    sealed,
    sha256_of,
    write_sealed,
)
from alignlab.runs.directory import RunDir
from alignlab.runs.query import refuse_no_name
from alignlab.runs.sweep_record import read_sweep_record
from alignlab.spelling import counted
from alignlab.targets import problems_of_target

INDEX = "pack.json"
FORMAT = 1
_PLACES = ("runs", "sweeps", "bases")
_WEIGHTS = ("policy", "last", "merged", "checkpoints")
_ADAPTER = "adapter_config.json"
_BLOCK = 1 << 20
_MOST_OF_INDEX = 1 << 28  # bytes; a small archive may say that it holds any number of them

# A name of a run, a sweep or a base: no option of a command, and nothing that a shell or a terminal obeys.
_NAME = re.compile(r"\w[\w .,+=@-]*")


@dataclass(frozen=True)
class Unpacked:
    """What an archive was unpacked to.

    added: folders that are new, such as `runs/dpo-3c90...`.
    kept:  folders that were there already and stay as they are.
    """

    added: list[str]
    kept: list[str]


def members_of(root: Path, name: str) -> tuple[str, list[str]]:
    """(name of the sweep, or empty; ids of its runs with all runs that they need) of a sweep or of a run.

    Raises ConfigError if there is neither, or if several begin with the name.
    """
    sweeps = [file.parent.name for file in sorted((root / "sweeps").glob("*/sweep.json"))]
    runs = [file.parent.name for file in sorted((root / "runs").glob("*/run.json"))]
    refuse_no_name(name)
    name = Path(name).name
    found = [one for one in (*sweeps, *runs) if one == name] or [
        one for one in (*sweeps, *runs) if one.startswith(name)
    ]
    if len(found) != 1:
        text = f"could be any of {', '.join(found[:5])}" if found else f"there is no such sweep or run below {root}"
        raise ConfigError([Problem("pack", name, text)])
    (chosen,) = found
    is_sweep = chosen in sweeps
    ids = [chosen]
    if is_sweep:
        ids = [str(point["run"]) for point in read_sweep_record(root / "sweeps" / chosen)["points"]]
    return chosen if is_sweep else "", list(_with_needed(root, ids))


def _with_needed(root: Path, ids: Sequence[str]) -> dict[str, None]:
    """The runs, and those that they start from, learn from or go on from."""
    found: dict[str, None] = {}
    waiting = list(ids)
    while waiting:
        run = waiting.pop(0)
        if run in found or not RunDir.of(root, run).record():
            continue
        found[run] = None
        record = RunDir.of(root, run).record()
        waiting += [str(record[key]) for key in ("parent", "reward", "continues") if record.get(key)]
    return found


def pack(root: Path, sweep: str, runs: Sequence[str], file: Path, *, weights: bool) -> int:
    """Write an archive, whole or not at all. Returns the number of its files.

    Raises ConfigError if a process works on one of the runs, or if the file is there already.
    """
    problems = [
        Problem("pack", run, "is running; pack it when it has ended")
        for run in runs
        if RunDir.of(root, run).status() in ("running", "queued")
    ]
    text = "can't be packed under this name: rename its folder to letters, digits and . _ - only"
    problems += [Problem("pack", name, text) for name in (*runs, *filter(None, [sweep])) if not _NAME.fullmatch(name)]
    if file.exists():
        problems.append(Problem("pack", str(file), "is there already; name another file"))
    else:
        problems += problems_of_target("pack", file)
    if problems:
        raise ConfigError(problems)
    folders = [root / "runs" / run for run in runs] + ([root / "sweeps" / sweep] if sweep else [])
    if weights:
        folders += sorted({base for run in runs if (base := _base_of(root, run))})
    index: dict[str, Any] = {"format": FORMAT, "root": str(root.resolve()), "weights": weights, "files": {}}
    try:
        with new_file(file) as scratch, tarfile.open(scratch, "w") as archive:
            for folder in folders:
                for path in _files(folder, weights=weights):
                    name = path.relative_to(root).as_posix()
                    content = None if weights or path.name != "run.json" else _record_without_weights(path)
                    index["files"][name] = _add(archive, path, name, content)
            _add(archive, None, INDEX, json.dumps(index, indent=1).encode())
    except OSError as error:
        raise OutputError(f"{file} can't be written: {error}") from error
    return len(index["files"])


def _files(folder: Path, *, weights: bool) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        left_out = not weights and parts[0] in _WEIGHTS
        if path.is_file() and not path.is_symlink() and not left_out and path.suffix != ".tmp":
            yield path


def _base_of(root: Path, run: str) -> Path | None:
    """The folder in `bases` that the adapter of a run belongs to."""
    file = root / "runs" / run / "policy" / _ADAPTER
    try:
        base = Path(str(json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    inside = root.resolve() / "bases"
    return root / "bases" / base.name if base.parent == inside and base.is_dir() else None


def _record_without_weights(file: Path) -> bytes:
    """The record of a run, saying that only the record is kept."""
    return sealed({**read_record(file), "kept": "record"}).encode()


def _add(archive: tarfile.TarFile, path: Path | None, name: str, content: bytes | None) -> str:
    """Add a file, or content in its place. Returns its SHA-256."""
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    if content is not None:
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
        return hashlib.sha256(content).hexdigest()
    assert path is not None
    info.size, info.mtime = path.stat().st_size, int(path.stat().st_mtime)
    with path.open("rb") as handle:
        archive.addfile(info, handle)
    return sha256_of(path, info.size)


def unpack(file: Path, root: Path) -> Unpacked:
    """Unpack an archive below an output root. Everything is checked before the first folder is moved into its place.

    Runs that are there already stay as they are. Raises DamagedError if the archive is incomplete, damaged or holds
    names or files that do not belong into one; ConfigError if the sweep is there already.
    """
    if is_device(file) or file.is_dir():
        what = "a folder" if file.is_dir() else "a device or a pipe"
        raise ConfigError([Problem("unpack", str(file), f"is {what}, not a file of `alignlab runs pack`")])
    scratch = root / f".unpack-{uuid.uuid4().hex}.tmp"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tarfile.open(file, "r:") as archive:
            index = _index(file, archive)
            members = _members(file, archive, index)
            _refuse_too_large(file, root, sum(member.size for member in members))
            for member in members:
                _extract(file, archive, member, scratch, index["files"][member.name])
        folders = sorted({"/".join(PurePosixPath(name).parts[:2]) for name in index["files"]})
        there = [folder for folder in folders if (root / folder).exists()]
        if sweeps := [folder for folder in there if folder.startswith("sweeps/")]:
            text = f"is there already; nothing was unpacked ({root / sweeps[0]})"
            raise ConfigError([Problem("unpack", sweeps[0], text, "output_root=<another folder>")])
        try:
            _move_bases(scratch, root, index["root"])
        except DamagedError as error:
            text = f"holds {error.file.relative_to(scratch)}, which {error.why}; nothing was unpacked"
            raise DamagedError(file, text) from error
        for folder in (folder for folder in folders if folder not in there):
            (root / folder).parent.mkdir(parents=True, exist_ok=True)
            os.rename(scratch / folder, root / folder)
        return Unpacked([folder for folder in folders if folder not in there], there)
    except tarfile.TarError as error:
        raise DamagedError(file, f"is not an archive of `alignlab runs pack`, or is damaged ({error})") from error
    except FileNotFoundError as error:
        raise ConfigError([Problem("unpack", str(file), f"there is no such file (looked in {Path.cwd()})")]) from error
    except OSError as error:
        if error.filename == str(file):
            raise ConfigError([Problem("unpack", str(file), f"can't be read: {error.strerror}")]) from error
        raise OutputError(f"{root} can't be written: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _index(file: Path, archive: tarfile.TarFile) -> dict[str, Any]:
    try:
        about = archive.getmember(INDEX)
        if not about.isreg() or about.size > _MOST_OF_INDEX:
            raise ValueError("it is no file of a size that an index has")
        handle = archive.extractfile(about)
        index = json.loads(handle.read()) if handle else None
    except (KeyError, ValueError, RecursionError) as error:
        text = f"is not an archive of `alignlab runs pack`, or was not copied in full: it has no {INDEX}"
        raise DamagedError(file, text) from error
    types = {"files": dict, "root": str}
    if not (isinstance(index, dict) and index.get("format") == FORMAT) or not all(
        isinstance(index.get(key), kind) for key, kind in types.items()
    ):
        raise DamagedError(file, f"was written by another version ({INDEX})")
    return index


def _members(file: Path, archive: tarfile.TarFile, index: dict[str, Any]) -> list[tarfile.TarInfo]:
    """The files of an archive. Raises DamagedError for names and kinds that do not belong into one."""
    found = [member for member in archive.getmembers() if member.name != INDEX]
    for member in found:
        parts = PurePosixPath(member.name).parts
        safe = (
            len(parts) > 2
            and parts[0] in _PLACES
            and not {"..", ".", ""} & set(parts)
            and _NAME.fullmatch(parts[1])
            and not {"\\", "\n", "\t"} & set(member.name)
            and visible(member.name, len(member.name)) == member.name
        )
        if not member.isreg() or not safe or member.name != "/".join(parts):
            raise DamagedError(
                file, f"holds {member.name!r}, which may not be in such an archive; nothing was unpacked"
            )
    names = [member.name for member in found]
    if len(set(names)) != len(names) or set(names) != set(index["files"]):
        wrong = sorted(set(names) ^ set(index["files"]))
        raise DamagedError(file, f"does not hold the files that {INDEX} lists ({counted(len(wrong), 'file')} differ)")
    return found


def _refuse_too_large(file: Path, root: Path, size: int) -> None:
    free = shutil.disk_usage(root).free
    if size > free:
        raise OutputError(f"{file} needs {size / 1e9:.1f} GB, and {root} has {free / 1e9:.1f} GB left")


def _extract(file: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, scratch: Path, expected: str) -> None:
    target, state = scratch / member.name, hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    source = archive.extractfile(member)
    assert source is not None
    with target.open("wb") as handle:
        while block := source.read(_BLOCK):
            state.update(block)
            handle.write(block)
    if state.hexdigest() != expected:
        raise DamagedError(file, f"is damaged (the checksum of {member.name} is wrong); nothing was unpacked")


def _move_bases(scratch: Path, root: Path, before: str) -> None:
    """Let adapters name their base below the new output root, if it was below the old one.

    Raises DamagedError if a config or a record that has to be changed can't be read.
    """
    for file in scratch.glob(f"runs/*/policy/{_ADAPTER}"):
        config = read_sealed(file)
        base = Path(str(config.get("base_model_name_or_path")))
        if base.parent == Path(before) / "bases":
            config["base_model_name_or_path"] = str(root.resolve() / "bases" / base.name)
            file.write_text(json.dumps(config, indent=2), encoding="utf-8")
            if (file.parent / MANIFEST).is_file():
                _seal_again(file.parent)


def _seal_again(policy: Path) -> None:
    """Write new checksums of a policy, and their digest to the record of its run if it had that of the old ones."""
    before, file = sha256_of(policy / MANIFEST), policy.parent / "run.json"
    seal_folder(policy)
    record = read_record(file) if file.is_file() else {}
    if record.get("policy_sha256") == before:
        write_sealed(file, {**record, "policy_sha256": sha256_of(policy / MANIFEST)})
