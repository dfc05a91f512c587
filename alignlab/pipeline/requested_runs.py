"""Finds the runs that `alignlab evaluate` names, and checks that they can be evaluated."""

from __future__ import annotations

import logging
from pathlib import Path

from alignlab.config.from_record import recorded_plan
from alignlab.config.plan import Plan
from alignlab.config.schemas import Evaluate
from alignlab.errors import AlignlabError, ConfigError, Problem
from alignlab.models.adapters.base import Adapter
from alignlab.pipeline.recorded_command import command_of
from alignlab.runs.directory import RunDir
from alignlab.runs.query import find, refuse_no_name, runs_of, sweeps_of
from alignlab.runs.sweep_record import read_sweep_record
from alignlab.spelling import counted

log = logging.getLogger(__name__)


def peft_of(request: Evaluate) -> Adapter | None:
    """The adapter settings that all requested runs share. None if they differ or a record can't be read."""
    try:
        root, ids = requested_runs(request)
        found = [recorded_plan(root, run_id, trust_remote_code=request.trust_remote_code).train.peft for run_id in ids]
    except AlignlabError:  # `evaluate` reports the error
        return None
    return found[0] if all(peft == found[0] for peft in found) else None


def sweep_of(request: Evaluate) -> Path | None:
    """Folder of the requested sweep, given as a folder, a name or the beginning of a name. None for a run.

    Raises ConfigError if the name stands for several sweeps, or for a sweep and a run, or if it is no name.
    """
    if not request.run.strip():
        refuse_no_name(request.run)
    folder = Path(request.run)
    if (folder / "sweep.json").is_file():
        return folder.resolve()
    if (folder / "run.json").is_file() or RunDir.of(request.output_root, request.run).record():
        return None
    refuse_no_name(request.run)
    names = [name for name, _ in sweeps_of(request.output_root)]
    found = [name for name in names if name == request.run] or [name for name in names if name.startswith(request.run)]
    if request.run not in found and found:
        found += [record["id"] for record in runs_of(request.output_root) if record["id"].startswith(request.run)]
    if len(found) > 1:
        raise ConfigError([Problem("run", request.run, f"could be any of {', '.join(found[:5])}")])
    return Path(request.output_root) / "sweeps" / found[0] if found else None


def requested_runs(request: Evaluate) -> tuple[str, list[str]]:
    """(output root, ids of the requested runs).

    Raises ConfigError if no run or several runs match, or if no run of a sweep is done.
    """
    if sweep := sweep_of(request):
        return str(sweep.parents[1]), _done(sweep)
    folder = Path(request.run)
    if (folder / "run.json").is_file():
        return str(folder.resolve().parents[1]), [folder.resolve().name]
    return request.output_root, [find(runs_of(request.output_root), request.run)["id"]]


def _done(directory: Path) -> list[str]:
    """Ids of the finished runs of a sweep, in the order of its points. Logs which runs are left out."""
    root, sweep = directory.parents[1], directory.name
    points = read_sweep_record(directory)["points"]
    ids = list(dict.fromkeys(point["run"] for point in points))
    left_out = [run_id for run_id in ids if RunDir.of(root, run_id).status() != "done"]
    if left_out:
        log.warning(
            "%s: not done and left out: %d of %s (%s)",
            sweep,
            len(left_out),
            counted(len(ids), "run"),
            ", ".join(left_out),
        )
    if len(left_out) == len(ids):
        raise ConfigError([Problem("run", sweep, "none of its runs is done")])
    return [run_id for run_id in ids if run_id not in left_out]


def finished_plan(root: str, run_id: str, request: Evaluate) -> Plan:
    """The plan of a finished run, from its record. Raises ConfigError if the run is damaged or not done."""
    run = RunDir.of(root, run_id)
    if damage := run.damage():
        raise ConfigError([Problem("run", run_id, f"{damage}; to resume the run, type the command that made it again")])
    if (status := run.status()) != "done":
        text = f"is {status or 'missing'}: only finished runs (status done) have a policy"
        command = command_of(run, {}) if status in ("interrupted", "failed") else ""
        raise ConfigError([Problem("run", run_id, text, command and f"{command}   (it resumes)")])
    if run.lacks_policy:
        raise ConfigError([Problem("run", run_id, only_a_record(run))])
    return recorded_plan(root, run_id, trust_remote_code=request.trust_remote_code)


def only_a_record(run: RunDir) -> str:
    """That a run kept only its record, and the command that trains it again."""
    again = command_of(run, {"trainer.keep": "policy", "rerun": "true"})
    return f"kept only its record and has no policy{again and f'; to train it again, type: {again}'}"


def is_reward_model(plan: Plan) -> bool:
    return plan.train.objective.requires.data == "rankings"
