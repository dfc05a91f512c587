"""Rewards of graded answers: by a reward model, or as a policy implies them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from alignlab.config.plan import Plan
from alignlab.data.template import prompt_text
from alignlab.evaluation.graded_pairs import Graded, GradedPair
from alignlab.evaluation.suite import ModelSide
from alignlab.judges.base import Answer
from alignlab.judges.reward_model import RewardModel
from alignlab.models.reference import ScoringOptions, token_logps
from alignlab.training.dataset import refuse_changed_data
from alignlab.training.setup import load_initial_policy


def held_out_pairs(plan: Plan) -> list[GradedPair]:
    """All held-out pairs of a run's own data. Rankings give a pair for each two answers with different grades."""
    refuse_changed_data(plan)
    source, found = plan.train.data, []
    start = load_initial_policy(plan) if source.world is not None else None
    for row in source.rankings("eval", lambda world: start.exact_logps if start else None).rows:
        graded = list(zip(row.completions, row.grades, row.ended, strict=True))
        found += [
            GradedPair(row.prompt, a, b, chosen_ended=a_ended, rejected_ended=b_ended)
            for a, better, a_ended in graded
            for b, worse, b_ended in graded
            if better > worse
        ]
    return found


def rewards(plan: Plan, graded: Sequence[Graded]) -> list[list[float]]:
    """Rewards of the answers of each row by the reward model of a finished run, in the order of `answers()`."""
    folder = str(plan.run.policy)
    plan.train.model.restore_base(folder)
    judge = RewardModel(
        model=folder,
        max_length=plan.train.data.max_length,
        trust_remote_code=plan.train.model.allows_remote_code,
    )
    rows = [
        Answer(str(i), (prompt_text(row.prompt),), (text,), conversation=row.prompt, ended=ended)
        for i, row in enumerate(graded)
        for text, ended in row.answers()
    ]
    return _by_row(judge.score(rows), graded)


def implied_rewards(
    policy: ModelSide, reference: ModelSide, graded: Sequence[Graded], how: ScoringOptions
) -> list[list[float]]:
    """Log-ratios of the whole answers of each row, nats. They are the policy's implied rewards divided by beta."""
    sums = []
    for side in (policy, reference):
        encoded = [side.template.encode(row.prompt, row.answers()) for row in graded]
        answers = [(row.prompt, answer) for row in encoded for answer in row.answers]
        sums.append([float(tokens.sum()) for tokens in token_logps(side.model, answers, how)])
    return _by_row([p - q for p, q in zip(*sums, strict=True)], graded)


def _by_row(scores: Sequence[float], graded: Sequence[Graded]) -> list[list[float]]:
    """The scores of each row, from those of all answers in turn."""
    left = iter(scores)
    return [list(islice(left, len(row.answers()))) for row in graded]
