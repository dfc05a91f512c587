"""The contracts of what takes part in training: trackers, metrics, callbacks, strategies."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ParallelStrategy

from alignlab.callbacks.base import Callback
from alignlab.contracts.base import EVERY_PART, Contract
from alignlab.contracts.batches import drawn
from alignlab.metrics.base import Metric
from alignlab.models.sharding import Sharding
from alignlab.objectives.dpo import DPO
from alignlab.objectives.kto import KTO
from alignlab.objectives.sft import SFT
from alignlab.strategies.base import Strategy
from alignlab.tracking.metrics import definitions
from alignlab.tracking.sinks.base import RunIdentity, Tracking


def a_run_is_logged(tracking: Tracking) -> Iterator[str]:
    """A sink can be opened, logs rows, tables and images, and is closed with each ending."""
    for ending in ("done", "interrupted"):
        with tempfile.TemporaryDirectory() as folder:
            row = '{"train/global_step": 1, "train/loss": 0.5}\n'
            (Path(folder) / "metrics.jsonl").write_text(row, encoding="utf-8")
            sink = tracking.open(RunIdentity("dpo-0123456789ab", Path(folder), None, "dpo", config={"seed": 1}))
            sink.log({"train/global_step": 2, "train/loss": 0.25})
            sink.table("completions", [{"step": 2, "prompt": "p", "answer": "a"}])
            sink.figures([])
            sink.finish({"train/loss": 0.25}, ending=ending)
            if not isinstance(sink.anew, bool):
                yield f"`anew` is {sink.anew!r}; it says whether the tracker holds nothing but what this sink logs"


def metrics_are_defined_numbers(metric: Metric) -> Iterator[str]:
    """Every number is a scalar with a definition, and some kind of batch has one."""
    found = [name for objective in (DPO(beta=0.1), SFT(), KTO(beta=0.1)) for name in _told(metric, objective)]
    if not found:
        yield "no batch of pairs, answers or labelled answers has a number"
    if unknown := sorted({name for name in found if f"train/{name}" not in definitions()}):
        yield f"without a definition in tracking/metrics.py: {', '.join(unknown)}"
    for name, value in metric(drawn(DPO(beta=0.1))).items():
        if torch.as_tensor(value).numel() != 1:
            yield f"{name} has {torch.as_tensor(value).numel()} numbers, not one"


def _told(metric: Metric, objective: DPO | SFT | KTO) -> list[str]:
    return list(metric(drawn(objective)))


def it_is_a_lightning_callback(callback: Callback) -> Iterator[str]:
    """`build` returns a new Lightning callback each time."""
    first, second = callback.build(), callback.build()
    if not isinstance(first, pl.Callback):
        yield f"build returns a {type(first).__name__}, which is not a lightning.pytorch.Callback"
    elif first is second:
        yield "build returns the same callback twice; two runs of a process would share its state"


def it_builds_a_strategy_of_lightning(strategy: Strategy) -> Iterator[str]:
    """`build` returns a Lightning strategy for several processes, a new one each time."""
    first, second = strategy.build(), strategy.build()
    if not isinstance(first, ParallelStrategy):
        yield f"build returns a {type(first).__name__}, which is not a lightning.pytorch.strategies.ParallelStrategy"
    elif first is second:
        yield "build returns the same strategy twice; two runs of a process would share its state"


def it_shards_by_the_protocol(strategy: Strategy) -> Iterator[str]:
    """If it says that it shards weights or the optimizer's state, its Lightning strategy has the methods for that."""
    if strategy.shards_optimizer and not isinstance(strategy.build(), Sharding):
        name = type(strategy.build()).__name__
        yield f"it shards, but {name}, which build returns, lacks members of alignlab.models.sharding.Sharding"


TRACKERS: tuple[Contract, ...] = (*EVERY_PART, a_run_is_logged)
METRICS: tuple[Contract, ...] = (*EVERY_PART, metrics_are_defined_numbers)
CALLBACKS: tuple[Contract, ...] = (*EVERY_PART, it_is_a_lightning_callback)
STRATEGIES: tuple[Contract, ...] = (*EVERY_PART, it_builds_a_strategy_of_lightning, it_shards_by_the_protocol)
