"""Which points of a sweep ask the reference for different answers; told from their plans, without torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from alignlab.config.plan import Plan
from alignlab.runs.directory import FINISHED


def different_requests(plans: Sequence[Plan]) -> list[list[Plan]]:
    """For each start and data of which plans ask for different answers: one plan for each of the askings."""
    same_start: dict[Hashable, dict[Hashable, Plan]] = defaultdict(dict)
    for plan in plans:
        train = plan.train
        if train.reference_kind == "cached" and plan.run.status() not in FINISHED:
            parent = plan.parent.id if plan.parent else None
            same_start[(parent, repr(train.model), repr(train.data), train.output_root)][_request_of(plan)] = plan
    return [list(asked.values()) for asked in same_start.values() if len(asked) > 1]


def _request_of(plan: Plan) -> Hashable:
    """What decides which answers a run asks the reference for."""
    needs, trainer = plan.train.objective.requires, plan.train.trainer
    return (
        needs.data, needs.mismatched, needs.reference_tokens, trainer.batch_size, trainer.max_steps, trainer.sampling,
        plan.train.seed,
    )  # fmt: skip
