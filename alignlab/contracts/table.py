"""Which contracts the parts of each config group have to keep."""

from __future__ import annotations

from alignlab.contracts import data, engines, judges, models, objectives, optim, training
from alignlab.contracts.base import Contract

CONTRACTS: dict[str, tuple[Contract, ...]] = {
    "objective": objectives.CONTRACTS,
    "data": data.CONTRACTS,
    "judge": judges.CONTRACTS,
    "reward": judges.CONTRACTS,
    "optim": optim.CONTRACTS,
    "schedule": optim.SCHEDULES,
    "model": models.MODELS,
    "peft": models.ADAPTERS,
    "engine": engines.CONTRACTS,
    "benchmark": models.BENCHMARKS,
    "tracking": training.TRACKERS,
    "metric": training.METRICS,
    "callback": training.CALLBACKS,
    "strategy": training.STRATEGIES,
}
