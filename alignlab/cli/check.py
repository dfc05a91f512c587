"""`alignlab check`: shows what `alignlab train` would do with the same arguments, and what is in its data."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from alignlab.cli.hydra_app import run_app
from alignlab.errors import AuditError, ModelError
from alignlab.spelling import counted

if TYPE_CHECKING:
    from alignlab.config.plan import Plan
    from alignlab.training.audit_rows import AuditedPoint, AuditedRows

_HELP = """
flags of check:
  --json       print one JSON document
  --rows all   look at the tokens of all rows, not only of 20,000 of each split
  --show N     show the first N training rows as tokens"""


@dataclass(frozen=True)
class Flags:
    """Flags of the command line.

    as_json:   print one JSON document.
    every_row: look at the tokens of all rows.
    shown:     number of training rows to show as tokens.
    """

    as_json: bool = False
    every_row: bool = False
    shown: int = 0


@dataclass(frozen=True)
class CheckedPoint:
    """One point: its plan, what was typed for it, and what was found. `rows` is None if no rows were looked at."""

    plan: Plan
    overrides: Sequence[str]
    rows: AuditedRows | None = None
    found: AuditedPoint | None = None

    def record(self) -> dict[str, Any]:
        """The point in plain containers, for JSON. `audit` is a key of the document's `audits`."""
        return {
            "id": self.plan.id,
            "overrides": list(self.overrides),
            "runs": [{"id": step.id, "status": step.run.status()} for step in self.plan.chain()],
            "audit": self.rows.key if self.rows else None,
            **(self.found.record() if self.found else {}),
        }


# The flags of this command. Hydra calls `_task` and the sweeper with its own arguments only.
_flags = Flags()


def main(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code: 1 if the data has errors, 2 if the config has problems."""
    global _flags
    try:
        _flags, rest = _parsed(argv)
    except SystemExit as stop:  # argparse has printed what is wrong
        return int(stop.code or 0)
    code = run_app("check", _task, rest)
    if {"--help", "-h"} & set(rest):
        print(_HELP)
    return code


def _parsed(argv: Sequence[str]) -> tuple[Flags, list[str]]:
    usage = "alignlab check [key=value ...]\n" + _HELP
    parser = argparse.ArgumentParser("alignlab check", usage=usage, add_help=False, allow_abbrev=False)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", choices=["all"])
    parser.add_argument("--show", type=int, default=0)
    flags, rest = parser.parse_known_args(argv)
    return Flags(flags.json, flags.rows == "all", flags.show), rest


def _task(config: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig

    from alignlab.config.plan import plan

    overrides = HydraConfig.get().overrides.task
    check_plans([plan(config, overrides)], [overrides])


def check_plans(plans: Sequence[Plan], jobs: Sequence[Sequence[str]], *, starts: str = "") -> None:
    """Print what would run and what is in its data. Raises AuditError if the data has errors.

    jobs:   the overrides of each plan.
    starts: what the launcher would start; empty if there is nothing to say.
    """
    points = _checked(plans, jobs)
    audits = {point.rows.key: point.rows for point in points if point.rows}
    if _flags.as_json:
        document = {
            "points": [point.record() for point in points],
            "audits": {key: rows.record() for key, rows in audits.items()},
        }
        json.dump(document, sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        from alignlab.cli.audit_text import print_points

        print_points(points, starts)
    errors = sum(len(rows.audit.errors) for rows in audits.values())
    errors += sum(len(point.found.errors) for point in points if point.found)
    if errors:
        raise AuditError(f"{counted(errors, 'error')} in the data")


def _check_adapters(plans: Sequence[Plan]) -> None:
    """Raise ModelError if an adapter names layers that the model does not have."""
    from alignlab.training.audit_rows import first_model

    runs = {run.id: run for point in plans for run in point.chain() if _names_layers(run)}.values()
    for model, peft in {repr(pair): pair for run in runs for pair in [(first_model(run), run.train.peft)]}.values():
        if model.allows_remote_code:
            continue
        try:
            configs, _ = model.load_tokenizer()
        except ModelError:  # the audit of the rows says so
            continue
        peft.check_fits(configs.config)


def _names_layers(run: Plan) -> bool:
    return getattr(run.train.peft, "target_modules", "all-linear") != "all-linear"


def _checked(plans: Sequence[Plan], jobs: Sequence[Sequence[str]]) -> list[CheckedPoint]:
    if any(map(_names_layers, plans)):
        _check_adapters(plans)
    if all(point.train.data.world is not None for point in plans):  # imports nothing that takes seconds
        return [CheckedPoint(point, job) for point, job in zip(plans, jobs, strict=True)]
    from alignlab.training.attempt import quiet_libraries
    from alignlab.training.audit_rows import Auditor, audit_point

    quiet_libraries()
    auditor, points = Auditor(every_row=_flags.every_row, shown=_flags.shown), []
    for point, job in zip(plans, jobs, strict=True):
        rows = auditor.audit(point) if point.train.data.world is None else None
        points.append(CheckedPoint(point, job, rows, audit_point(point.train, rows.looks if rows else {})))
    return points
