"""Finds points of a sweep that need reference log-probabilities of different answers. It needs only plans, no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from alignlab.config.plan import Plan
from alignlab.runs.directory import FINISHED


def different_requests(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Groups of plans with the same start and data that need the reference for different answers.

    A group has one plan for each different set of answers. Plans with a finished run, or without a cached reference,
    are left out.
    """
    same_start: dict[Hashable, dict[Hashable, Plan]] = defaultdict(dict)
    for plan in plans:
        train = plan.train
        if train.reference_kind == "cached" and plan.run.status() not in FINISHED:
            parent = plan.parent.id if plan.parent else None
            same_start[(parent, repr(train.model), repr(train.data), train.output_root)][_request_of(plan)] = plan
    return [list(group.values()) for group in same_start.values() if len(group) > 1]


def _request_of(plan: Plan) -> Hashable:
    """The settings that determine for which answers a run needs the reference."""
    needs, trainer = plan.train.objective.requires, plan.train.trainer
    return (
        needs.data, needs.mismatched, needs.reference_tokens, trainer.batch_size, trainer.known_steps,
        trainer.max_epochs, trainer.sampling, plan.train.seed,
    )  # fmt: skip
