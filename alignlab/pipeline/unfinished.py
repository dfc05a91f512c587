"""What differs between a new run and an unfinished one that the same command would have resumed.

The id of a run is a hash of its config and of the content of its files. So a run can't resume under another objective,
other data or another model: such a command begins another run. These functions say so, and why.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignlab.config.plan import Plan
from alignlab.config.schemas import keys_outside_id
from alignlab.runs.directory import RunDir
from alignlab.runs.identity import flatten
from alignlab.spelling import as_typed

log = logging.getLogger(__name__)

# An unfinished run that differs in more keys is taken for another experiment.
_MOST_DIFFERENCES = 4

# Number of unfinished runs, the newest ones, that a new run is compared with.
_MOST_COMPARED = 50


def log_unfinished(plan: Plan, overrides: Sequence[str], group: str | None) -> None:
    """Warn if a new run does not resume an unfinished run, and say what differs.

    Points of a sweep differ from each other by design. So they are compared only with runs of the same overrides, whose
    differences lie in files or in code.

    overrides: command-line overrides of the new run.
    group:     name of the sweep that it belongs to.
    """
    found: list[tuple[list[str], RunDir]] = []
    for run in _unfinished(Path(plan.train.output_root), but=plan.id):
        record = run.record()
        same_words = bool(overrides) and list(record.get("overrides") or []) == list(overrides)
        if same_words or not (group or record.get("sweep")):
            differ = differences(record, plan)
            if same_words or len(differ) <= _MOST_DIFFERENCES:
                found.append((differ, run))
    if not found:
        return
    differ, run = min(found, key=lambda one: len(one[0]))
    log.warning(
        "%s: is a new run. It does not resume %s, which is %s, because these differ:\n  %s",
        plan.id, run.id, run.status(), "\n  ".join(differ) or "the version of alignlab",
    )  # fmt: skip


def differences(record: Mapping[str, Any], plan: Plan) -> list[str]:
    """What differs between the run of a record and a plan, one line each: `key: old -> new`."""
    return list(_differences(record, plan))


def _differences(record: Mapping[str, Any], plan: Plan) -> Iterator[str]:
    kinds, new_kinds = record.get("kinds") or {}, plan.kinds
    changed = [
        group
        for group in new_kinds
        if group in kinds and kinds[group] != new_kinds[group] and group not in keys_outside_id()
    ]
    for group in changed:
        yield f"{group}: {kinds[group]} -> {new_kinds[group]}"
    old, new = flatten(record.get("config") or {}), flatten(plan.config)
    ignored = (*keys_outside_id(), *changed, "model.parent")
    for key in dict.fromkeys((*old, *new)):
        if old.get(key) == new.get(key) or any(key == skip or key.startswith(f"{skip}.") for skip in ignored):
            continue
        yield f"{key}: {_shown(old, key)} -> {_shown(new, key)}"
    for what, needed in (("parent", plan.parent), ("reward", plan.reward)):
        before, now = record.get(what), needed.id if needed else None
        if before != now:
            yield f"{'model.parent' if what == 'parent' else 'reward.run'}: {before or 'none'} -> {now or 'none'}"
    content = record.get("content") or {}
    for key, digest in plan.content.items():
        if key in content and content[key] != digest:
            yield f"{key.removesuffix('.content')}: the content of its files has changed"


def _shown(values: Mapping[str, Any], key: str) -> str:
    return as_typed(values[key]) if key in values else "not there"


def _unfinished(root: Path, *, but: str) -> list[RunDir]:
    """Runs that have a training state, the newest first, without those that are done or still run."""
    times: dict[RunDir, float] = {}
    for file in (root / "runs").glob("*/checkpoints/*.ckpt"):
        run = RunDir(file.parents[1])
        if run.id != but:
            times[run] = max(times.get(run, 0.0), file.stat().st_mtime)
    newest = sorted(times, key=lambda run: times[run], reverse=True)[:_MOST_COMPARED]
    return [run for run in newest if run.status() in ("interrupted", "failed")]
