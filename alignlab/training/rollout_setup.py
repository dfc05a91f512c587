"""Sets up rollouts for online training: reward scorer, critic, sampling settings and layout."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from alignlab.config.plan import judge_from_plan
from alignlab.data.layout import PLAIN, Layout
from alignlab.data.rows import Prompt
from alignlab.data.template import Template, prompt_text
from alignlab.data.tokenize import PromptAndAnswer
from alignlab.evaluation.lab_reward import LabReward
from alignlab.judges.base import Answer, Judge, ScoreJudge
from alignlab.lab.candidates import CandidateWorld
from alignlab.models.generation import template_of
from alignlab.models.heads import HeadCritic, NetworkCritic, load_scorer, with_scalar_head
from alignlab.models.layout_check import choose_layout
from alignlab.modules.online import RolloutContext
from alignlab.rollout.closed_set import ClosedSet
from alignlab.rollout.scoring import ScoredResponse, Scorer
from alignlab.training.setup import InitialPolicy, policy_and_start

log = logging.getLogger(__name__)


def online_policy(
    start: InitialPolicy, layout: Layout, to_look_at: Sequence[PromptAndAnswer]
) -> tuple[Any, RolloutContext]:
    """(policy to train, context of its rollouts). Loads the reward model if there is one.

    to_look_at: answers on which the layout is tried with a critic that is a model of its own.
    """
    train, world, tokenizer = start.plan.train, start.plan.train.data.world, start.tokenizer
    judge = reward_judge(start)
    device = next(start.model.parameters()).device
    network = _network(start, judge) if train.objective.requires.critic == "network" else None
    if network is not None and layout != PLAIN:  # the critic reads the same batches as the policy
        critic_layout = choose_layout(network.to(device).scorer, to_look_at)
        layout = replace(layout, shared=layout.shared and critic_layout.shared)
    policy, live = policy_and_start(start)
    head = HeadCritic(policy) if train.objective.requires.critic == "head" else None
    critic = network or head
    template = template_of(start.model, tokenizer, train.data.template)
    gold = LabReward(world=world) if world is not None else None
    closed = None
    if isinstance(world, CandidateWorld):
        closed = ClosedSet.of(dict(zip(world.prompt_texts, world.answers, strict=True)), template, ends=world.ends)
    return policy, RolloutContext(
        replace(train.rollout, max_new_tokens=world.length) if world is not None and world.is_whole else train.rollout,
        live,
        template.ends,
        template.text if closed is None else closed.text_of,
        layout,
        scorer=_scorer(judge) if judge is not None else None,
        gold=_scorer(gold) if gold is not None and judge != gold else None,
        critic=critic.to(device) if critic is not None else None,
        closed=closed,
        engine=train.engine,
    )


def reward_judge(start: InitialPolicy) -> ScoreJudge | None:
    """The judge whose scores are the rewards of sampled answers.

    It is the config's `reward`; without one it is the lab's gold reward. None if the objective uses no scores.
    """
    plan, world = start.plan, start.plan.train.data.world
    reward: Judge | None = plan.train.reward
    if not getattr(plan.train.objective, "scored", False):
        return None
    if reward is None:
        assert world is not None  # the checks before a run refuse other data without a reward
        return LabReward(world=world)
    if plan.reward is not None:
        reward = judge_from_plan(plan.reward, reward)
    assert isinstance(reward, ScoreJudge)
    return reward


def _scorer(judge: ScoreJudge) -> Scorer:
    score = judge.ready()

    def scores(responses: Sequence[ScoredResponse]) -> Sequence[float]:
        return score(
            [
                Answer(
                    str(i), (prompt_text(one.prompt),), (one.answer,), conversation=_turns(one.prompt), ended=one.ended
                )
                for i, one in enumerate(responses)
            ]
        )

    return scores


def _turns(prompt: Prompt) -> Prompt | None:
    return None if isinstance(prompt, str) else prompt


def _network(start: InitialPolicy, judge: ScoreJudge | None) -> NetworkCritic:
    """A critic of its own: the reward model if it has the policy's tokens, otherwise the start with a new head."""
    train = start.plan.train
    if judge is not None and judge.weights:
        scorer, tokenizer = load_scorer(judge.weights, trust_remote_code=judge.allows_remote_code)
        if Template(tokenizer).identity == Template(start.tokenizer).identity:
            return NetworkCritic(train.peft.wrap(scorer.requires_grad_(True)))
        log.warning("the critic starts with a new head: %s has other tokens than the policy", judge.weights)
    return NetworkCritic(train.peft.wrap(with_scalar_head(copy.deepcopy(start.model), train.seed)))
