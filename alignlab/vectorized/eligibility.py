"""Finds points of a sweep that can be trained as one model, and the reasons why other points can't."""

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

# Most numbers (weights and activations of all policies) in one vectorized run: 1 GB in float32. Larger ones are split.
_FLOATS_AT_ONCE = 2**28

# Parameters x rows of a batch up to which an update is mostly overhead. A vectorized update has the overhead only once.
_MOSTLY_OVERHEAD = 1_000_000

# Most points of larger models in one vectorized run. More would not be faster, because the activations grow too large.
_WIDTH = 8

# Parameters x rows x updates, summed over the points, from which more processes pay off: about a minute of work. A
# process takes some seconds to start.
_WORTH_PROCESSES = 10_000_000_000


def groups(plans: Sequence[Plan]) -> tuple[list[list[Plan]], dict[str, str]]:
    """(groups of points that can be trained as one model, run id -> reason for each point that can't).

    Points of a group may differ in numbers of the objective and the optimizer, and in the clipping. If an update is
    mostly overhead, they may also differ in the seed and the data. Larger models need the same batches, because they
    are faster only if the batches are laid out once for all points, with answers side by side.

    Each group is as large as memory allows. A run that occurs several times among the plans occurs once in its group.
    """
    alike: dict[Hashable, dict[str, Plan]] = defaultdict(dict)
    refused: dict[str, str] = {}
    for plan in plans:
        reason = ineligible_reason(plan.train)
        if reason:
            refused[plan.id] = reason
        else:
            alike[_kind(plan)][plan.id] = plan
    together = []
    for same_kind in alike.values():
        members = list(same_kind.values())
        together += _parts(members, -(-len(members) // _most(members[0].train)))
    return together, refused


def overhead_bound(plans: Sequence[Plan]) -> bool:
    """Whether to train these points as one model in this process, because an update is mostly overhead."""
    return len(plans) > 1 and _is_mostly_overhead(plans[0].train)


def worth_vectorizing(plans: Sequence[Plan]) -> bool:
    """Whether training these points as one model is faster than training one after the other."""
    return len(plans) > 1 and (plans[0].train.model.parameters or math.inf) <= SMALL


def balanced(together: Sequence[list[Plan]], processes: int) -> list[list[Plan]]:
    """The groups, with the last ones split so that all processes have a group at the end.

    The number of groups that are split is the remainder of their number divided by `processes`.
    """
    last = len(together) % processes
    whole, rest = together[: len(together) - last], together[len(together) - last :]
    return [*whole, *(part for group in rest for part in _parts(group, -(-processes // last)))]


def _parts(points: list[Plan], count: int) -> list[list[Plan]]:
    """The points in order, in at most `count` parts of about the same size. No part is empty."""
    bounds = [len(points) * i // count for i in range(count + 1)]
    return [points[a:b] for a, b in itertools.pairwise(bounds) if a < b]


def _is_mostly_overhead(train: Train) -> bool:
    """Whether an update of one run takes mostly fixed time, whatever the size of its model and batch."""
    return (train.model.parameters or math.inf) * train.trainer.batch_size <= _MOSTLY_OVERHEAD


def worth_processes(plans: Sequence[Plan]) -> bool:
    """Whether more processes pay off: all models are small enough for one thread each, and there is enough work."""
    work = [
        (plan.train.model.parameters or math.inf) * plan.train.trainer.batch_size * plan.train.trainer.known_steps
        for plan in plans
    ]
    small = all((plan.train.model.parameters or math.inf) <= SMALL for plan in plans)
    return small and sum(work) >= _WORTH_PROCESSES


def ineligible_reason(train: Train) -> str | None:
    """Why a run can't be vectorized with the results that it has on its own; None if it can."""
    needs, trainer = train.objective.requires, train.trainer
    reasons = (
        (
            train.model.parameters is None,
            f"model={train.model.name}: its size is not known before it is loaded; only small models that are "
            "built from their config are vectorized",
        ),
        (train.model.dtype != "float32", f"model.dtype={train.model.dtype} rounds differently when vectorized"),
        (
            train.peft.can_switch_off,
            "peft: an adapter's base is computed for every point anyway; only whole models are vectorized",
        ),
        (needs.data == "rankings", "a reward model's head can't be vectorized"),
        (trainer.max_epochs > 0, "trainer.max_epochs: the number of updates is known only after the rows are loaded"),
        (
            needs.rows != "labelled" and "labelled" in train.data.shapes and "pairs" not in train.data.shapes,
            "the held-out labels of the data are scored by one model at a time",
        ),
        (needs.online, "answers are sampled from one model at a time"),
        (
            train.objective.nondifferentiable_at_reference,
            "the objective's gradient jumps where training begins, so that rounding decides the first update, and "
            "vectorized runs round differently",
        ),
        (needs.reference_kl, "the objective needs the reference's whole distributions, which are not stored"),
        (
            train.reference_kind not in ("cached", "none"),
            f"reference={train.reference_kind} runs a model beside each point; vectorized runs look the reference up",
        ),
        (train.optim.moments is None, "the optimizer rounds its state in blocks, which would span several models"),
        (trainer.compile == "always", "trainer.compile=always compiles the layers of one model"),
        (trainer.devices > 1, "trainer.devices: a run on several devices is trained on its own"),
        (trainer.anomaly, "trainer.anomaly looks into the modules of one model"),
        (bool(trainer.keep_best), "trainer.keep_best keeps weights, and trainer.patience stops, one run at a time"),
        (bool(train.callback), "callbacks are called by Lightning's trainer of one run"),
        (bool(train.metric), "metrics of plug-ins are computed from the batch of one model"),
        (train.evaluation.every > 0, "evaluation.every samples answers from one model at a time"),
        (
            trainer.gradient_checkpointing,
            "trainer.gradient_checkpointing is for a model that hardly fits into memory on its own",
        ),
    )
    return next((reason for applies, reason in reasons if applies), None)


def _kind(plan: Plan) -> Hashable:
    """A key that is equal for points that can be trained as one model. Their trackers may differ."""
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
    """A config's class and its fields, without the values of numbers."""
    return type(part), repr({f.name: _without_numbers(getattr(part, f.name)) for f in fields(part)})


def _without_numbers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_numbers(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_numbers(inner) for inner in value]
    return 0 if type(value) in (int, float) else value


def _most(train: Train) -> int:
    """How many points fit into memory at once, by a rough count of the activations that each keeps for its gradient."""
    parameters, world = train.model.parameters or 1, train.data.world
    longest = train.data.max_length if world is None or not world.is_whole else world.prompt_length + world.length + 1
    activations = 2 * train.trainer.batch_size * longest * 20 * math.isqrt(parameters)
    most = max(1, _FLOATS_AT_ONCE // (4 * parameters + activations))
    return most if _is_mostly_overhead(train) else min(most, _WIDTH)


def refuse_ineligible(plans: Sequence[Plan], reasons: Mapping[str, str]) -> None:
    """Raise ConfigError with each reason and the points that it keeps from being vectorized."""
    points: dict[str, list[int]] = defaultdict(list)
    for i, plan in enumerate(plans):
        if plan.id in reasons:
            points[reasons[plan.id]].append(i)
    if points:
        raise ConfigError(
            Problem("hydra/launcher", "vectorized", f"{reason} [point {', '.join(map(str, at))}]", "launcher=auto")
            for reason, at in points.items()
        )
