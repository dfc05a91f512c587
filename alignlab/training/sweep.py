"""A sweep: its plan before the first point, its record while it runs, its table and figures at the end."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from hydra.core.utils import JobStatus
from omegaconf import DictConfig

from alignlab.config.plan import Plan, plan
from alignlab.data.fingerprint import digest
from alignlab.errors import ConfigError, Problem, SweepFailedError
from alignlab.ledger.run_dir import RunDir, now, write_json

log = logging.getLogger(__name__)


def plan_sweep(configs: Sequence[DictConfig]) -> list[Plan]:
    """Plans of all points. Raises ConfigError with the problems of every point, each told once."""
    plans: list[Plan] = []
    problems: dict[str, Problem] = {}
    points: dict[str, list[int]] = defaultdict(list)
    for index, config in enumerate(configs):
        try:
            plans.append(plan(config))
        except ConfigError as error:
            for problem in error.problems:
                problems[str(problem)] = problem
                points[str(problem)].append(index)
    if problems:
        raise ConfigError(_at(problem, points[text], len(configs)) for text, problem in problems.items())
    return plans


def _at(problem: Problem, points: list[int], total: int) -> Problem:
    """The problem with the points that have it, where not all have."""
    if len(points) == total:
        return problem
    shown = ", ".join(map(str, points[:5])) + (", ..." if len(points) > 5 else "")
    return replace(problem, allowed=f"{problem.allowed} [point {shown}]")


class Sweep:
    """`<output_root>/sweeps/<name>/`: `sweep.json` from the start, table and figures at its end, however it ends."""

    def __init__(
        self, config: DictConfig, plans: Sequence[Plan], jobs: Sequence[Sequence[str]], axes: Sequence[str]
    ) -> None:
        self.plans = plans
        self.root = Path(plans[0].train.output_root)
        preset = config.hydra.runtime.choices.get("sweep") or "sweep"
        self.name = plans[0].train.sweep.name or f"{preset}-{digest(sorted(p.id.encode() for p in plans))[:6]}"
        self.question = plans[0].train.sweep.question
        self.axes = list(axes)
        # each job is told the sweep's name: it groups the runs in trackers
        self.jobs = [[*job, f"++sweep.name={self.name}"] for job in jobs]
        self._overrides = [[o for o in job if o.split("=", 1)[0] in axes] for job in jobs]

    @property
    def directory(self) -> Path:
        return self.root / "sweeps" / self.name

    def __enter__(self) -> Sweep:
        points = [
            {"point": i, "run": p.id, **dict(o.split("=", 1) for o in overrides)}
            for i, (p, overrides) in enumerate(zip(self.plans, self._overrides, strict=True))
        ]
        write_json(
            self.directory / "sweep.json",
            {"name": self.name, "question": self.question, "axes": self.axes, "started": now(), "points": points},
        )
        done = sum(RunDir.of(self.root, p.id).status() == "done" for p in self.plans)
        parents = {p.parent.id for p in self.plans if p.parent}
        log.info(
            "sweep %s: %d points%s%s",
            self.name,
            len(self.plans),
            f", {done} done already" if done else "",
            f", starting from {', '.join(sorted(parents))}" if parents else "",
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from alignlab.reports.sweep import write_report

        text = write_report(self.directory)
        print(f"\n{text}\n\nwritten to {self.directory}")

    def prepare(self) -> None:
        """What points share and none of them would compute as a whole."""
        from alignlab.training.shared_reference import share_reference

        share_reference(self.plans, self.name)

    def raise_if_failed(self, results: Sequence[Any]) -> None:
        """Raise SweepFailedError naming the points that did not finish, with their reasons."""
        failed = [i for i, result in enumerate(results) if result.status != JobStatus.COMPLETED]
        if failed:
            lines = [f"  point {i} ({self.plans[i].id}): {_reason(self.root, self.plans[i])}" for i in failed]
            raise SweepFailedError(
                f"{len(failed)} of {len(self.plans)} points failed; the same command runs them again\n"
                + "\n".join(lines)
            )


def _reason(root: Path, point: Plan) -> str:
    """Why a point failed: its own reason, or its parent's."""
    for step in reversed(point.chain()):
        record = RunDir.of(root, step.id).record()
        if record.get("status") == "failed":
            where = "" if step is point else f"its parent {step.id}: "
            return f"{where}{record.get('reason')}"
    return "see its train.log"
