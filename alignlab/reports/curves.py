"""The training curves that reports show: their names for people, and their logged values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from alignlab.integrity import refuse_device
from alignlab.runs.directory import RunDir
from alignlab.runs.record import is_number
from alignlab.spelling import counted
from alignlab.tracking.sinks.jsonl import STEP, read_rows

# Training curves that figures can show.
CURVES = {
    "train/loss": "training loss",
    "train/logratios/margins": "log-ratio margin (nats)",
    "train/rewards/accuracies": "training accuracy",
    "train/logratios/chosen": "log-ratio of chosen answers (nats)",
    "train/logratios/rejected": "log-ratio of rejected answers (nats)",
    "train/objective/scores": "mean score of rollouts",
    "train/objective/kl": "KL of rollouts (nats per answer)",
    "train/completions/mean_length": "tokens of a rollout",
    "eval/loss": "held-out loss",
    "eval/pairs/accuracy": "held-out pair accuracy",
    "eval/pairs/margin": "held-out pair margin (nats)",
}

# A margin below this (nats) is a rounding error: policy and reference are the same, so an accuracy means nothing.
_ROUNDING = 1e-5
_ACCURACY, _MARGIN = "train/rewards/accuracies", "train/logratios/margins"


def logged(rows: Iterable[Mapping[str, Any]], metrics: Iterable[str] = CURVES) -> dict[str, dict[float, float]]:
    """metric -> step -> logged value, in the order of steps, for finite values.

    Steps at which policy and reference are the same have no accuracy of rewards.

    rows: the rows of a run's metrics.jsonl.
    """
    found: dict[str, dict[float, float]] = {}
    names = list(metrics)
    for row in rows:
        if (step := _finite(row.get(STEP))) is None:
            continue
        margin = _finite(row.get(_MARGIN))
        for name in names:
            same = name == _ACCURACY and margin is not None and abs(margin) < _ROUNDING
            if not same and (value := _finite(row.get(name))) is not None:
                found.setdefault(name, {})[step] = value
    return {name: dict(sorted(curve.items())) for name, curve in found.items()}


def faults_of_metrics(run: RunDir, record: Mapping[str, Any]) -> Iterator[str]:
    """Sentences on the training metrics of a finished run, if they are missing, damaged, cut off or changed."""
    try:
        refuse_device(run.metrics)
        rows = read_rows(run.metrics)
        complete = [line for line in run.metrics.read_bytes().split(b"\n")[:-1] if line]
    except OSError as error:
        yield f"its training metrics can't be read: {run.metrics.name}: {error.strerror}"
        return
    if bad := len(complete) - len(rows):
        yield f"{bad} of {counted(len(complete), 'row')} of its training metrics can't be read"
    trainer = (record.get("config") or {}).get("trainer") or {}
    updates = (record.get("chosen") or {}).get("updates")  # fewer than max_steps with trainer.patience
    updates = trainer.get("max_steps") if updates is None else updates
    last, steps = (_finite(value) or 0.0 for value in (rows[-1].get(STEP) if rows else 0, updates))
    if last < steps - (_finite(trainer.get("log_every")) or 1.0):
        yield f"its training metrics end at update {last:g} of {steps:g}"
    elif not bad and run.metrics_changed():
        yield "its training metrics are not what they were when it ended"


def rows_of(file: Path) -> list[dict[str, Any]]:
    """The complete rows of a file; none if it can't be read."""
    try:
        return read_rows(file)
    except OSError:
        return []


def _finite(value: Any) -> float | None:
    number = float(value) if is_number(value) else math.nan
    return number if math.isfinite(number) else None
