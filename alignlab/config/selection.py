"""Held-out metrics by which a run can choose its best policy (`trainer.keep_best`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from alignlab.errors import Problem
from alignlab.objectives.base import Objective
from alignlab.spelling import correct_spelling
from alignlab.tracking.metrics import CHOOSES


def choosable(objective: Objective, measured_on: str, *, exactly: bool) -> list[str]:
    """Metrics that every evaluation of a run has, and of which it is known whether lower or higher is better.

    measured_on: held-out rows on which the policy is compared with its start: pairs, labelled, or none (empty).
    exactly:     whether KL and reward are computed by enumeration.
    """
    needs = objective.requires
    if needs.online:
        names = ["eval/objective/rlhf_reward", "eval/objective/scores"] if getattr(objective, "scored", True) else []
    elif needs.data == "rankings":
        names = ["eval/loss", "eval/accuracy"]
    else:
        names = ["eval/loss", *(["eval/rewards/accuracies"] if needs.data == "pairs" else [])]
    names += {"pairs": ["eval/pairs/accuracy"], "labelled": ["eval/labels/auc"]}.get(measured_on, [])
    names += ["exact/frontier_gap", "exact/winrate"] if exactly else []
    return [name for name in CHOOSES if name in names]


def selection_problems(metric: str, names: Sequence[str]) -> Iterator[Problem]:
    """The problem that a run does not have the metric by which it is to choose its policy.

    names: the metrics that it has (`choosable`).
    """
    if metric and metric not in names:
        guess = correct_spelling(metric, names) or (names[0] if names else "")
        text = (
            "must be a metric of held-out rows for which it is known whether lower or higher is better; this run has: "
            f"{', '.join(names) or 'none'}"
        )
        yield Problem("trainer.keep_best", metric, text, f"trainer.keep_best={guess}")
