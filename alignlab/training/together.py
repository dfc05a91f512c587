"""Trains one run in as many processes as it has devices."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from alignlab.config.plan import Plan
from alignlab.errors import AlignlabError, ConfigError, NonFiniteError, Problem
from alignlab.judges.base import Judge
from alignlab.runs.directory import RunDir
from alignlab.spelling import counted
from alignlab.strategies.place import Place, variables_set
from alignlab.training.attempt import reason_of
from alignlab.training.fit import fit
from alignlab.training.nonfinite import save_rows
from alignlab.training.pruning import PruningThresholds
from alignlab.training.setup import device_of
from alignlab.training.team import Task, Team, own_team, present_team

log = logging.getLogger(__name__)


def fit_together(
    plan: Plan,
    run: RunDir,
    *,
    group: str | None,
    done: int,
    thresholds: PruningThresholds | None = None,
    judges: Mapping[str, Judge] | None = None,
    before: str = "",
) -> dict[str, Any]:
    """`fit`, in all processes of the run. This one leads. Returns the results for run.json.

    before: `devices_of` the record of the attempt that is resumed; empty if there is none. A change is logged.
    Raises ConfigError if this machine has too few devices, the errors of `fit` in any of the processes, and
    ProcessError if one of them has ended.
    """
    settings, threads = plan.train.trainer, torch.get_num_threads()
    device = device_of(settings.accelerator).type
    _refuse_too_few(device, settings.devices)
    with _team(settings.devices, threads) as team:
        if team is None:
            if (chosen := plan.kinds["strategy"]) != "auto":
                log.info("%s: strategy=%s has no effect, because one device trains this run", run.id, chosen)
            _log_other_devices(run, before)
            return fit(plan, run, group=group, done=done, thresholds=thresholds, judges=judges)
        run.update(machine={**(run.record().get("machine") or {}), "processes": team.place.world})
        log.info("%s: %d processes (%s), strategy=%s", run.id, team.place.world, device, _strategy_of(run.record()))
        _tell_if_slow(run, settings.accelerator, device, team.place.each)
        _log_other_devices(run, before)
        work = _Fit(plan, run, group, done, thresholds, threads)
        try:
            # Lightning chooses a number of threads itself unless the variable is set.
            with (
                variables_set({"OMP_NUM_THREADS": str(threads)}),
                team.together(Task(work, device), lambda error: _give_up(run, error)),
            ):
                return fit(
                    plan, run, group=group, done=done, thresholds=thresholds, judges=judges, place=team.place,
                    explained=team.explained,
                )  # fmt: skip
        except NonFiniteError as error:
            if rows := getattr(error, "rows", None):  # of another process
                save_rows(run, rows)
            raise


def devices_of(record: Mapping[str, Any]) -> str:
    """How many devices train a run, and how they share it: `1 device`, `2 devices with fsdp`."""
    count = (record.get("machine") or {}).get("processes", 1)
    return counted(count, "device") + ("" if count == 1 else f" with {_strategy_of(record)}")


def _strategy_of(record: Mapping[str, Any]) -> str:
    """The strategy of a run on several devices, with the stage of ZeRO."""
    strategy = (record.get("kinds") or {}).get("strategy", "auto")
    if strategy == "deepspeed":
        return f"deepspeed of stage {record['config']['strategy']['stage']}"
    return "ddp" if strategy == "auto" else str(strategy)


def _tell_if_slow(run: RunDir, wanted: str, device: str, processes: int) -> None:
    """Warn if several processes share a CPU that the user has not asked for, for example because of a broken driver."""
    cores = os.cpu_count() or 1
    if device == "cpu" and wanted != "cpu" and processes > 1:
        text = "%s: no GPU was found, so %d processes share %s of the CPU\n  type: trainer.devices=1"
        log.warning(text, run.id, processes, counted(cores, "core"))


def _log_other_devices(run: RunDir, before: str) -> None:
    now = devices_of(run.record())
    if before and now != before:
        log.info("%s: on other devices than before (before: %s; now: %s)", run.id, before, now)


@dataclass(frozen=True)
class _Fit:
    """The part of a follower in the training of a run."""

    plan: Plan
    run: RunDir
    group: str | None
    done: int
    thresholds: PruningThresholds | None
    threads: int

    def __call__(self, place: Place) -> None:
        os.environ["OMP_NUM_THREADS"] = str(self.threads)
        torch.set_num_threads(self.threads)
        fit(self.plan, self.run, group=self.group, done=self.done, thresholds=self.thresholds, place=place)


@contextmanager
def _team(devices: int, threads: int) -> Iterator[Team | None]:
    """The team of a run; None if one process trains it."""
    present = present_team()
    if present is not None:
        yield present
    elif devices == 1:
        yield None
    else:
        with own_team(devices, threads) as team:
            yield team


def _refuse_too_few(device: str, wanted: int) -> None:
    """Raise ConfigError if this machine has too few devices. A CPU may have any number of processes."""
    has = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device, wanted)
    if wanted > has:
        text = f"this machine has {counted(has, 'device')} of the kind {device}"
        raise ConfigError([Problem("trainer.devices", wanted, text, f"trainer.devices={has}")])


def _give_up(run: RunDir, error: AlignlabError) -> None:
    """End this process, which waits in a library for a process that has ended."""
    log.error("%s: failed: %s", run.id, error)
    try:
        run.end("failed", reason_of(error))
    finally:
        os._exit(1)
