"""Which points of a sweep can be trained as one model, and why the others can't."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from alignlab.config.plan import Plan
from alignlab.config.schemas import Train
from alignlab.errors import ConfigError, Problem
from alignlab.models.efficiency import SMALL

# Numbers of all policies and their activations in a stack, above which it is cut in two: 1 GB in float32.
_FLOATS_AT_ONCE = 2**28

# Parameters times rows of a batch up to which a step alone is mostly overhead, which a stack has once for all points.
_MOSTLY_OVERHEAD = 1_000_000

# Points of models above that in a stack: what more would spare is lost to the size of what lies between two layers.
_WIDTH = 8

# Parameters x rows x updates of a sweep's points from which processes, which take some seconds to start, pay: about a
# minute.
_WORTH_PROCESSES = 10_000_000_000


def groups(plans: Sequence[Plan]) -> tuple[list[list[Plan]], dict[str, str]]:
    """Stacks of points that differ only in numbers, each as large as memory allows; reasons of the rest, by run id.

    What may differ: the objective's and the optimizer's numbers, the clipping, and, where a step is mostly overhead,
    the seed and the data. Larger models gain by batches that are the same for all: those are laid out once, answers
    side by side. A run that stands several times among the plans stands once in its stack.
    """
    alike: dict[Hashable, dict[str, Plan]] = defaultdict(dict)
    refused: dict[str, str] = {}
    for plan in plans:
        reason = ineligible_reason(plan.train)
        if reason:
            refused[plan.id] = reason
        else:
            alike[_kind(plan)][plan.id] = plan
    stacks = []
    for found in alike.values():
        members = list(found.values())
        stacks += _parts(members, -(-len(members) // _most(members[0].train)))
    return stacks, refused


def overhead_bound(plans: Sequence[Plan]) -> bool:
    """Whether these points are a stack that is worth no process: a step is mostly overhead."""
    return len(plans) > 1 and _is_mostly_overhead(plans[0].train)


def worth_vectorizing(plans: Sequence[Plan]) -> bool:
    """Whether a stack of these points is faster than one after the other."""
    return len(plans) > 1 and (plans[0].train.model.parameters or math.inf) <= SMALL


def even(stacks: Sequence[list[Plan]], processes: int) -> list[list[Plan]]:
    """The stacks, the last of them in parts where there would be fewer than processes that go through them."""
    last = len(stacks) % processes
    whole, rest = stacks[: len(stacks) - last], stacks[len(stacks) - last :]
    return [*whole, *(part for stack in rest for part in _parts(stack, -(-processes // last)))]


def _parts(points: list[Plan], count: int) -> list[list[Plan]]:
    """Points in order, in so many parts of about the same size, none of them empty."""
    bounds = [len(points) * i // count for i in range(count + 1)]
    return [points[a:b] for a, b in itertools.pairwise(bounds) if a < b]


def _is_mostly_overhead(train: Train) -> bool:
    return (train.model.parameters or math.inf) * train.trainer.batch_size <= _MOSTLY_OVERHEAD


def worth_processes(plans: Sequence[Plan]) -> bool:
    """Whether small models, of which one thread each is enough, have so much to do that more processes pay."""
    work = [
        (plan.train.model.parameters or math.inf) * plan.train.trainer.batch_size * plan.train.trainer.max_steps
        for plan in plans
    ]
    small = all((plan.train.model.parameters or math.inf) <= SMALL for plan in plans)
    return small and sum(work) >= _WORTH_PROCESSES


def ineligible_reason(train: Train) -> str | None:
    """Why a run can't be part of a stack and still be what it is by itself; None where it can."""
    needs, trainer = train.objective.requires, train.trainer
    reasons = (
        (
            train.model.parameters is None,
            f"model={train.model.name}: its size is not known before it is loaded; stacks are for small models that "
            "are built from their config",
        ),
        (train.model.dtype != "float32", f"model.dtype={train.model.dtype} rounds differently in a stack"),
        (
            train.peft.can_switch_off,
            "peft: an adapter's base goes through the model for every point anyway; a stack trains whole models",
        ),
        (needs.data == "rankings", "a reward model's head is not stacked"),
        (needs.online, "answers are drawn from one model at a time"),
        (
            train.objective.nondifferentiable_at_reference,
            "the objective's gradient jumps where training begins, so that rounding decides, and a stack rounds "
            "differently",
        ),
        (needs.reference_kl, "the objective needs the reference's whole distributions, which are not stored"),
        (
            train.reference_kind not in ("cached", "none"),
            f"reference={train.reference_kind} runs a model beside each point; a stack looks its reference up",
        ),
        (train.optim.moments is None, "the optimizer rounds its state in blocks, which would span several models"),
        (trainer.compile == "always", "trainer.compile=always compiles the layers of one model"),
        (train.evaluation.every > 0, "evaluation.every draws answers from one model at a time"),
        (trainer.gradient_checkpointing, "trainer.gradient_checkpointing is for a model that hardly fits by itself"),
    )
    return next((reason for applies, reason in reasons if applies), None)


def _kind(plan: Plan) -> Hashable:
    """The same for points that differ only in numbers (and in where their metrics are shown)."""
    train = plan.train
    return (
        plan.parent.id if plan.parent else None,
        repr(train.model),
        repr(train.peft),
        repr(replace(train.trainer, gradient_clip=0.0)),
        train.reference_kind,
        train.output_root,
        train.rerun,
        _words(train.objective),
        _words(train.optim),
        train.data.world is None,
        None if _is_mostly_overhead(train) else (train.seed, repr(train.data)),
    )


def _words(part: Any) -> Hashable:
    """A config's class and its fields, numbers left out."""
    return type(part), repr({f.name: _without_numbers(getattr(part, f.name)) for f in fields(part)})


def _without_numbers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_numbers(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_numbers(inner) for inner in value]
    return 0 if type(value) in (int, float) else value


def _most(train: Train) -> int:
    """How many points fit into memory at once, by a rough count of what a step of one keeps for its gradient."""
    parameters, world = train.model.parameters or 1, train.data.world
    longest = train.data.max_length if world is None else world.prompt_length + world.length + 1
    activations = 2 * train.trainer.batch_size * longest * 20 * math.isqrt(parameters)
    most = max(1, _FLOATS_AT_ONCE // (4 * parameters + activations))
    return most if _is_mostly_overhead(train) else min(most, _WIDTH)


def refuse_ineligible(plans: Sequence[Plan], reasons: Mapping[str, str]) -> None:
    """Raise ConfigError naming the points that can't be part of a stack, each reason once."""
    points: dict[str, list[int]] = defaultdict(list)
    for i, plan in enumerate(plans):
        if plan.id in reasons:
            points[reasons[plan.id]].append(i)
    if points:
        raise ConfigError(
            Problem("hydra/launcher", "vectorized", f"{reason} [point {', '.join(map(str, at))}]", "launcher=auto")
            for reason, at in points.items()
        )
