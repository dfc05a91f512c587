"""Finds and deletes what no run refers to: entries of stores, bases of adapters, and old training states.

An entry of a store stays as long as anything that exists refers to it: a run, the evaluation of a run or of a model, or
preference data that was made here. An entry of which this is not known stays, too. While a process works on anything
below the output root, the stores are left alone, because it may be about to use an entry.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import Timeout

from alignlab.data.fingerprint import digest
from alignlab.errors import DamagedError, ModelError
from alignlab.evaluation.examples import facts_of
from alignlab.integrity import DAMAGED, read_sealed
from alignlab.locks import file_lock, is_locked
from alignlab.models.lineage import weights_fingerprint
from alignlab.runs.directory import FINISHED, RunDir

# Implementations of attention that a name of a reference store may stand for.
_ATTENTION = ("", "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")


# The lock that `verify-resume` holds in its folder as long as it works there.
LOCK = ".lock"


@dataclass(frozen=True)
class Piece:
    """A file or folder that may be deleted.

    kind: what it is, in words.
    size: bytes.
    run:  the finished run whose state it is; None for an entry of a store.
    lock: the lock that a process holds while it uses the entry; None if there is none.
    """

    kind: str
    path: Path
    size: int
    run: RunDir | None = None
    lock: Path | None = None


@dataclass(frozen=True)
class Garbage:
    """What may be deleted, and why something else may not.

    at_work: what is in use, so that the stores were not looked at.
    unknown: kind -> number of entries that stay, because they do not say whose they are.
    """

    pieces: Sequence[Piece]
    at_work: Sequence[str] = ()
    unknown: dict[str, int] = field(default_factory=dict)


@dataclass
class _Uses:
    """Digests that existing runs, evaluations and preference data refer to.

    weights: of policies and of their starts. rows: of token rows. judges: of judges, with their settings.
    bases: names of folders that adapters of runs name as their base.
    complete: whether every run says which weights and rows it uses. An old one that is unfinished does not.
    sampling: whether some preference data is unfinished, so that it is not known whose samples and judgements it uses.
    anything: whether there is any run, evaluation or preference data.
    """

    weights: set[str] = field(default_factory=set)
    rows: set[str] = field(default_factory=set)
    judges: set[str] = field(default_factory=set)
    bases: set[str] = field(default_factory=set)
    complete: bool = True
    sampling: bool = False
    anything: bool = False


STATES = "training states of finished runs"
HALF_WRITTEN = "files that a killed process was writing"
SET_ASIDE = "damaged files that were set aside"
REFERENCES = "reference log-probabilities"
SAMPLES = "sampled answers"
JUDGEMENTS = "judgements"
TOKENS = "token rows"
BASES = "bases of adapters"
BENCHMARKS = "scores of benchmarks"
PROOFS = "folders of verify-resume"


def find_garbage(root: Path) -> Garbage:
    """What no run below an output root refers to. Deletes nothing."""
    runs = [RunDir(path) for path in sorted((root / "runs").glob("*")) if (path / "run.json").is_file()]
    pieces = [*(piece for run in runs for piece in _of_run(run)), *_proofs(root)]
    if at_work := _at_work(root, runs):
        return Garbage(pieces, at_work)
    uses = _uses(root, runs)
    unknown: dict[str, int] = {}
    for kind, found in (
        (REFERENCES, _references(root, uses)),
        (SAMPLES, _samples(root, uses)),
        (JUDGEMENTS, _judgements(root, uses)),
        (TOKENS, _tokens(root, uses)),
        (BASES, _bases(root, uses)),
        (BENCHMARKS, _benchmarks(root, runs)),
    ):
        for path, is_used, lock in found:
            if is_used is None:
                unknown[kind] = unknown.get(kind, 0) + 1
            elif not is_used:
                pieces.append(Piece(kind, path, _size(path), lock=lock))
    for folder in ("reference", "samples", "judgements", "tokens", "bases"):
        for path in sorted((root / folder).rglob(f"*{DAMAGED}*")):
            pieces.append(Piece(SET_ASIDE, path, _size(path)))
    for path in sorted(path for folder in root.glob("*") if folder.name != "runs" for path in folder.rglob("*.tmp")):
        pieces.append(Piece(HALF_WRITTEN, path, _size(path)))
    return Garbage(pieces, unknown=unknown)


def delete(pieces: Iterable[Piece]) -> tuple[int, int, list[Path]]:
    """Delete the pieces. Returns (number of deleted ones, their bytes, those that stay because they are in use)."""
    number, size, kept = 0, 0, []
    for piece in pieces:
        if _delete(piece):
            number, size = number + 1, size + piece.size
        else:
            kept.append(piece.path)
    return number, size, kept


def _delete(piece: Piece) -> bool:
    if piece.run is not None:
        with piece.run.locked(wait=False) as mine:
            if not (mine and piece.run.record().get("status") in FINISHED):
                return False
            _remove(piece.path)
            with suppress(OSError):  # something else is in it
                piece.path.parent.rmdir()
            return True
    if piece.lock is None:
        _remove(piece.path)
        return True
    try:
        with file_lock(piece.lock, timeout=0):
            _remove(piece.path)
    except Timeout:
        return False
    piece.lock.unlink(missing_ok=True)
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _of_run(run: RunDir) -> Iterator[Piece]:
    """Training states of a finished run that did not ask to keep them, and its damaged and half-written files."""
    if run.record().get("status") not in FINISHED or run.is_locked():
        return
    if run.record().get("kept") != "state":
        for file in run.states():
            yield Piece(STATES, file, _size(file), run)
    for file in run.half_written():
        yield Piece(HALF_WRITTEN, file, _size(file), run)
    for file in sorted(run.checkpoint.parent.glob(f"*{DAMAGED}*")):
        yield Piece(SET_ASIDE, file, _size(file), run)


def _at_work(root: Path, runs: Iterable[RunDir]) -> list[str]:
    """Names of what a process works on below an output root."""
    found = [run.id for run in runs if run.is_locked() or run.state().get("status") in ("running", "queued")]
    locks = [*(root / "runs" / ".locks").glob("*"), *(root / "synthesis").glob("*/lock")]
    locks += [*(root / "reference").glob("*/.lock"), *(root / "tokens").glob("*.lock")]
    for lock in locks:
        name = lock.parent.name if lock.name in ("lock", ".lock") else lock.stem if lock.suffix else lock.name
        if is_locked(lock) and name not in found:
            found.append(name)
    return found


def _uses(root: Path, runs: Iterable[RunDir]) -> _Uses:
    uses = _Uses()
    for run in runs:
        record, uses.anything = run.record(), True
        weights = _text(record, "reference_weights") or _text(record, "model", "reference_weights")
        rows = [(record.get("data") or {}).get(part) for part in ("train", "eval", "pairs")]
        uses.weights |= {weights} if weights else set()
        uses.rows |= {part["digest"] for part in rows if isinstance(part, dict) and "digest" in part}
        adapters = [run.path / name / "adapter_config.json" for name in ("policy", "last", "merged")]
        uses.bases |= {Path(str(_json(file).get("base_model_name_or_path"))).name for file in adapters}
        if record.get("status") not in FINISHED and not weights:
            uses.complete = False
    for folder in (*(root / "runs").glob("*/evaluation/*"), *(root / "evaluations").glob("*")):
        facts = facts_of(folder)
        uses.weights |= {facts[key] for key in ("weights", "reference") if key in facts}
        uses.judges |= {value for key, value in facts.items() if key.startswith("judge/")}
        uses.anything |= bool(facts)
    for folder in (root / "synthesis").glob("*"):
        files = list(folder.glob("*.provenance.json"))
        uses.anything, uses.sampling = True, uses.sampling or not files
        for found in map(_json, files):
            uses.weights |= {_text(found, "weights")} - {""}
            uses.judges |= {_text(found, "judge")} - {""}
    return uses


_Found = Iterator[tuple[Path, bool | None, Path | None]]


def _references(root: Path, uses: _Uses) -> _Found:
    """(store, whether it is used; None if unknown, its lock)."""
    names = {digest([weights.encode(), attention.encode()]) for weights in uses.weights for attention in _ATTENTION}
    for store in sorted(path for path in (root / "reference").glob("*") if path.is_dir()):
        yield store, True if store.name in names else False if uses.complete else None, None


def _samples(root: Path, uses: _Uses) -> _Found:
    for file in sorted((root / "samples").glob("*.json")):
        weights = _text(_json(file), "weights")
        yield file, weights in uses.weights if weights and uses.complete else None, None
    for file in sorted((root / "samples" / "prompts").glob("*/*.json")):
        weights = _text(_json(file), "request", "policy")
        known = weights and uses.complete and not uses.sampling
        yield file, weights in uses.weights if known else None, None


def _judgements(root: Path, uses: _Uses) -> _Found:
    """Replies of language models do not name their judge, and may have cost money. They stay while anything exists."""
    for file in sorted((root / "judgements").glob("*/*/*.json")):
        judge = _text(_json(file), "request", "judge")
        is_used = judge in uses.judges if judge else uses.anything
        yield file, None if uses.sampling and not is_used else is_used, None


def _tokens(root: Path, uses: _Uses) -> _Found:
    for folder in sorted(path for path in (root / "tokens").glob("*") if (path / "split.json").is_file()):
        rows = _text(_json(folder / "split.json"), "digest")
        yield folder, rows in uses.rows if uses.complete and rows else None, Path(f"{folder}.lock")


def _bases(root: Path, uses: _Uses) -> _Found:
    """The starts of runs that were saved as bases of adapters, under the digest of their weights."""
    for folder in sorted((root / "bases").glob("*")):
        if folder.is_dir() and not folder.suffix:
            is_used = folder.name in uses.bases | uses.weights
            yield folder, True if is_used else False if uses.complete else None, Path(f"{folder}.lock")


def _benchmarks(root: Path, runs: Iterable[RunDir]) -> _Found:
    """Policies are read only if there are scores. It is not known which scores belong to models of no run."""
    files = sorted((root / "benchmarks").glob("*.json"))
    weights: set[str] = set()
    for run in runs if files else ():
        record = run.record()
        start = _text(record, "reference_weights") or _text(record, "model", "reference_weights")
        weights |= {start or run.id}
        with suppress(OSError, ModelError):
            weights |= {weights_fingerprint(str(run.policy))} if run.policy.is_dir() else set()
    models = any((root / "evaluations").glob("*"))
    for file in files:
        is_used = (of := _text(_json(file), "weights")) in weights
        yield file, True if is_used else None if models or not of else False, None


def _proofs(root: Path) -> Iterator[Piece]:
    """What `verify-resume` left: runs that differ, or those of a process that was killed."""
    for folder in sorted(root.glob("verify-resume-*")):
        if not any(map(is_locked, (folder / LOCK, *(folder / "runs" / ".locks").glob("*")))):
            yield Piece(PROOFS, folder, _size(folder), lock=folder / LOCK)


def _json(file: Path) -> dict[str, Any]:
    """The content of a JSON file; empty if it can't be read."""
    try:
        return read_sealed(file)
    except (DamagedError, OSError):
        return {}


def _text(found: Any, *keys: str) -> str:
    """The text at a place in a JSON object; empty if there is something else. Anybody may have written the object."""
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else ""


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir() and not path.is_symlink():
        return sum(_size(inside) for inside in path.iterdir())
    with suppress(OSError):
        return path.lstat().st_size
    return 0
