"""Goes on with a finished run: more updates from its training state, as a run of its own with the same curve.

The longer run has an id of its own, because with most schedules its numbers differ from those of a run that was that
long from the beginning. The id is decided by the finished run and the new settings of the trainer.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from alignlab.config.plan import Plan
from alignlab.config.schemas import RunEvaluation, Train, Trainer, keys_outside_id
from alignlab.errors import ConfigError, Problem
from alignlab.integrity import new_file
from alignlab.models.parts import put_together
from alignlab.pipeline.recorded_command import command_of
from alignlab.runs.directory import RunDir
from alignlab.runs.identity import run_id
from alignlab.spelling import as_typed
from alignlab.training.state import read_state, updates_of

log = logging.getLogger(__name__)


def continued_plan(before: Plan, settings: Mapping[str, Any], *, evaluated: bool | None = None) -> Plan:
    """The plan of a run that goes on where a finished run ended.

    settings:  fields of the trainer with their new values; `max_steps` among them.
    evaluated: False if the longer run is not evaluated at its end, True if the default decides (`RunEvaluation`). None:
               False if the finished run was made with `evaluation=off`.
    Raises ConfigError with everything that is wrong with them, or if the run has no training state.
    """
    problems = list(_problems(before, settings))
    trainer = None
    try:
        trainer = replace(before.train.trainer, **{"max_epochs": 0.0, **settings})
    except ConfigError as error:
        problems += [problem.under("trainer") for problem in error.problems]
    if problems or trainer is None:
        raise ConfigError(problems)
    decided = {"trainer": asdict(trainer)}
    objective = before.id.rpartition("-")[0]
    new = run_id(objective, decided, content={"continues": before.id}, parent=None, ignored=keys_outside_id())
    if evaluated is None:
        recorded = before.config.get("evaluation")
        evaluated = not (isinstance(recorded, Mapping) and recorded.get("at_end") is False)
    evaluation = RunEvaluation(at_end=None if evaluated else False)
    config = {
        **before.config,
        "trainer": {**before.config["trainer"], **asdict(trainer)},
        "evaluation": asdict(evaluation),
    }
    return replace(before, train=replace(before.train, trainer=trainer, evaluation=evaluation), config=config, id=new)


def _problems(before: Plan, settings: Mapping[str, Any]) -> list[Problem]:
    done = int(before.train.trainer.max_steps)
    if "max_steps" not in settings:
        text = f"needs the new number of updates; the run has {done}"
        return [Problem("trainer.max_steps", None, text, f"trainer.max_steps={2 * done}")]
    problems = []
    if settings["max_steps"] <= done:
        text = f"must be larger than the {done} updates that the run has already"
        problems.append(Problem("trainer.max_steps", settings["max_steps"], text, f"trainer.max_steps={2 * done}"))
    fixed = ("batch_size", "sampling", "max_epochs")
    for key in (key for key in fixed if key in settings and settings[key] != getattr(before.train.trainer, key)):
        text = "can't change when a run goes on, because it decides which rows come next"
        problems.append(Problem(f"trainer.{key}", settings[key], text))
    if not before.run.checkpoint.is_file():
        text = "has no training state to go on from: a finished run keeps it only with trainer.keep=state"
        if before.run.stacked_checkpoint.is_file():
            text = "was trained as one model with other points, and its training state is theirs"
        problems.append(Problem("run", before.id, text, _whole_run(before.run, settings)))
    return problems


def _whole_run(run: RunDir, settings: Mapping[str, Any]) -> str:
    """What to type for a run with these settings of the trainer, from its beginning. Empty for a run of a stage."""
    command = command_of(run, {f"trainer.{key}": as_typed(value) for key, value in settings.items()})
    return command and f"{command}   (from its beginning)"


def settings_of_trainer() -> dict[str, str]:
    """Field of the trainer -> its type."""
    return {f.name: str(f.type) for f in fields(Trainer)}


def hand_over(before: Plan, longer: Plan) -> None:
    """Give the longer run the training state, the metrics and the tables of the finished one, unless it has begun.

    Raises DamagedError if the training state can't be read.
    """
    old, new = before.run, longer.run
    with new.locked():
        if new.record():
            return
        state = put_together(read_state(old.checkpoint, old))
        _copy_rows(old, new)
        state["run"] = new.id
        _follow_schedule(state, longer.train)
        new.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        with new_file(new.checkpoint) as scratch:
            torch.save(state, scratch)
        new.update(id=new.id, continues=old.id)
        log.info("%s: goes on with %s after %d updates", new.id, old.id, updates_of(state))


def _follow_schedule(state: dict[str, Any], train: Train) -> None:
    """Set the learning rate of the next update, which the state has from the schedule of the shorter run."""
    factor = train.optim.factor(updates_of(state), train.trainer.max_steps)
    for optimizer, schedule in zip(state["optimizer_states"], state["lr_schedulers"], strict=True):
        for group in optimizer["param_groups"]:
            group["lr"] = group["initial_lr"] * factor
        schedule["_last_lr"] = [group["lr"] for group in optimizer["param_groups"]]


def _copy_rows(old: RunDir, new: RunDir) -> None:
    """Copy metrics and tables, which the longer run appends to."""
    new.path.mkdir(parents=True, exist_ok=True)
    for file in sorted(Path(old.path).glob("*.jsonl")):
        with new_file(new.path / file.name) as scratch:
            shutil.copyfile(file, scratch)
