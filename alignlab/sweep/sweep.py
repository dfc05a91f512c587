"""A sweep: its points, its record while it runs, and its table and figures at the end."""

from __future__ import annotations

import logging
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from omegaconf import DictConfig

from alignlab.config.plan import Plan
from alignlab.data.fingerprint import digest
from alignlab.errors import ConfigError, DamagedError, OutputError, Problem, SweepFailedError
from alignlab.inert import MOST_OF_OUTPUT, visible
from alignlab.integrity import new_folder, read_record, write_sealed
from alignlab.pipeline.tracked_sweep import track_sweep
from alignlab.progress import terminal_shows_sweep_only
from alignlab.reports.evaluation import NO_JUDGE
from alignlab.reports.live import shown_live
from alignlab.reports.page.write import write_sweep_page
from alignlab.reports.sweep import point_line, write_report
from alignlab.reports.wandb_report import REPORT_ID
from alignlab.runs.directory import FINISHED, now
from alignlab.spelling import counted
from alignlab.strategies.place import given_place
from alignlab.sweep.launchers.base import PointLauncher, run_points
from alignlab.sweep.tasks import RunTask, lacks_evaluation, preparations

log = logging.getLogger(__name__)

# Folders of the sweeps that ended, for callers in Python: Hydra returns nothing from a sweep.
ended: ContextVar[list[Path]] = ContextVar("ended")


class Sweep:
    """A sweep and its folder, `<output_root>/sweeps/<name>/`.

    `sweep.json` is written at the start. The table, the figures and the page are written at the end, also after
    an error.
    """

    def __init__(
        self, config: DictConfig, plans: Sequence[Plan], jobs: Sequence[Sequence[str]], axes: Sequence[str]
    ) -> None:
        if rounds := max(plan.train.rounds for plan in plans):
            text = "is for a single run: the rows of a round are made when the round before is done"
            raise ConfigError([Problem("rounds", rounds, text, "rounds=0   or   one command for each point")])
        if (processes := given_place().world) > 1:
            text = f"can't be shared by the {processes} processes that torchrun or srun has started"
            raise ConfigError([Problem("a sweep", None, text, "alignlab train ... trainer.devices=<of each point>")])
        self.plans = plans
        self.root = Path(plans[0].train.output_root)
        preset = config.hydra.runtime.choices.get("sweep") or "sweep"
        self.name = plans[0].train.sweep.name or f"{preset}-{digest(sorted(p.id.encode() for p in plans))[:6]}"
        self._settings = asdict(plans[0].train.sweep)
        self.axes = list(axes)
        # every job gets the sweep's name, by which trackers group the runs
        self.jobs = [[*job, f"++sweep.name={self.name}"] for job in jobs]
        self.points = [RunTask(p, self.name, tuple(job)) for p, job in zip(plans, self.jobs, strict=True)]
        self._overrides = [[o for o in job if o.split("=", 1)[0] in axes] for job in jobs]

    @property
    def directory(self) -> Path:
        return self.root / "sweeps" / self.name

    def write(self) -> None:
        """Write the points to `sweep.json`. Raises OutputError if the folder can't be written."""
        points = [
            {"point": i, "run": p.id, **dict(o.split("=", 1) for o in overrides)}
            for i, (p, overrides) in enumerate(zip(self.plans, self._overrides, strict=True))
        ]
        published = {REPORT_ID: found} if (found := self._earlier_record().get(REPORT_ID)) else {}
        try:
            write_sealed(
                self.directory / "sweep.json",
                {
                    **published,
                    **self._settings,
                    "name": self.name,
                    "axes": self.axes,
                    "started": now(),
                    "points": points,
                },
            )
        except OSError as error:
            raise OutputError(f"output_root can't be written: {error}\n  type: output_root=<another folder>") from error

    def __enter__(self) -> Sweep:
        self._warn_of_other_points()
        self.write()
        kept = [p for p in self.points if not p.plan.train.rerun]
        finished = Counter(status for p in kept if (status := p.run.status()) in FINISHED)
        parents = {p.parent.id for p in self.plans if p.parent}
        log.info(
            "sweep %s: %s%s%s",
            self.name,
            counted(len(self.plans), "point"),
            "".join(f", {number} {status} already" for status, number in finished.items()),
            f", starting from {', '.join(sorted(parents))}" if parents else "",
        )
        self.queue(self.points)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended.get([]).append(self.directory)
        text = write_report(self.directory)
        page = write_sweep_page(self.directory)
        if kind is None or issubclass(kind, Exception):  # after Ctrl-C the command ends soon
            track_sweep(self.directory, self.plans[0].train.tracking)
        print(f"\n{visible(text, MOST_OF_OUTPUT)}\n{self.hint()}")
        print(f"written to {self.directory}; open {page.name} in a browser")

    def hint(self) -> str:
        """A line about points that were evaluated without a judge; empty if there are none."""
        unjudged = [point.run for point in self.points if not point.plan.train.judge]
        return f"\n{NO_JUDGE}\n" if any(run.record().get("evaluated") for run in unjudged) else ""

    def _warn_of_other_points(self) -> None:
        """Keep the folder of a sweep with this name that had other points, under another name, and say so."""
        earlier = self._earlier_record()
        before = [str(point["run"]) for point in earlier.get("points", [])]
        gone = set(before) - {plan.id for plan in self.plans}
        if not gone:
            return
        name = f"{self.name}-{digest(sorted(run.encode() for run in before))[:6]}"
        kept = self.directory.with_name(name)
        if not kept.exists():
            self._keep_as(kept, earlier)
        (self.directory / "evaluation.md").unlink(missing_ok=True)
        text = "%s was a sweep with %s: its table with them is kept in %s"
        log.warning(text, self.name, counted(len(gone), "other point"), kept)

    def _keep_as(self, folder: Path, record: Mapping[str, Any]) -> None:
        """Copy the sweep's folder, without the output of processes. Raises OutputError if that fails."""
        try:
            with new_folder(folder) as scratch:
                shutil.copytree(self.directory, scratch, ignore=shutil.ignore_patterns("logs", "wandb"))
                write_sealed(scratch / "sweep.json", {**record, "name": folder.name})
        except OSError as error:
            raise OutputError(f"{folder} can't be written: {error}\n  type: sweep.name=<another name>") from error

    def _earlier_record(self) -> dict[str, Any]:
        """The record of an earlier sweep of this name; empty if there is none or it can't be read."""
        try:
            return dict(read_record(self.directory / "sweep.json"))
        except (OSError, DamagedError, TypeError):
            return {}

    def queue(self, points: Sequence[RunTask]) -> None:
        """Mark points as queued in their records, for whoever watches the sweep."""
        for point in points:
            if not point.plan.train.rerun:
                with suppress(OSError):  # the run will have the same error and report it
                    point.run.queue(sweep=self.name, config=dict(point.plan.config), overrides=list(point.overrides))

    def run(self, launcher: PointLauncher, points: Sequence[RunTask] | None = None) -> None:
        """Run `points`, or all points of the sweep.

        A terminal shows a live table if points run in other processes. Otherwise a line is printed as each point ends.
        """
        chosen = self.points if points is None else points
        live = sys.stdout.isatty() and launcher.runs_in_subprocesses(chosen)
        watching: AbstractContextManager[object] = shown_live(self.directory) if live else nullcontext()
        with watching, terminal_shows_sweep_only():
            run_points(chosen, launcher, (lambda name: None) if live else self._print_point)

    def prepare(self) -> None:
        """Run what the points need in this process, for launchers that are not alignlab's."""
        for wave in preparations(self.points):
            for task in wave:
                task()

    def _print_point(self, name: str) -> None:
        print(visible(point_line(self.directory, name)), flush=True)

    def raise_if_unfinished(self) -> None:
        """Raise SweepFailedError with the points that have no result, and why. A run that diverged has a result."""
        states = [point.state() for point in self.points]
        lines = [
            f"  point {i} ({plan.id}): {state.get('status', 'not run')}: {why_unfinished(state, plan)}"
            for i, (state, plan) in enumerate(zip(states, self.plans, strict=True))
            if state.get("status") not in FINISHED or lacks_evaluation(state, plan)
        ]
        if lines:
            raise SweepFailedError(
                f"no result for {len(lines)} of {counted(len(self.plans), 'point')}; the same command runs them again\n"
                + "\n".join(lines)
            )


def why_unfinished(state: dict[str, object], point: Plan) -> str:
    """Why a point has no result: its own reason, or its parent's."""
    if state.get("status") in FINISHED:
        return f"its evaluation failed: {state.get('evaluation_failed') or 'it was cut off'}"
    if state.get("status") == "running":
        return f"process {state.get('pid')} on {state.get('host')} works on it"
    for step in reversed(point.chain()[:-1]):
        before = step.run.state()
        if state.get("status") != "failed" and before.get("status") == "failed":
            return f"its parent {step.id}: {before.get('reason')}"
    return str(state.get("reason") or "see its train.log")
