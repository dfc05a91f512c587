"""RLOO against numbers worked out by hand, and against the exact gradient."""

from __future__ import annotations

import itertools

import pytest
import torch

from alignlab.data.layout import collate_rows
from alignlab.lab.world import World
from alignlab.models.logps import answer_logps
from alignlab.models.sources.tiny import Tiny
from alignlab.objectives.advantages import leave_one_out
from alignlab.objectives.rloo import RLOO, rloo_loss
from alignlab.types import Logps, RolloutLogps, Rollouts
from tests.objectives.build import refused
from tests.objectives.rollouts import batch, scored


def test_advantages_are_rewards_less_those_of_the_others() -> None:
    found, returns = RLOO(beta=0.0).advantages(scored([[1.0, 0.0, 0.0, 3.0]]), 0.0)
    assert found.flatten().tolist() == pytest.approx([0, -4 / 3, -4 / 3, 8 / 3], abs=1e-12)
    assert returns is None


def test_the_kl_is_part_of_the_reward() -> None:
    """Scores 1 and 0, log-ratios 2 and -1, beta 0.5: rewards 0 and 0.5."""
    found, _ = RLOO(beta=0.5, samples=2).advantages(scored([[1.0, 0.0]], [2.0, -1.0]), 0.5)
    assert found.flatten().tolist() == pytest.approx([-0.5, 0.5], abs=1e-12)


def test_the_answer_is_one_action() -> None:
    """Tokens moved by 0.1 each, so an answer of three by 0.3. It is clipped for A > 0 and has a gradient for A < 0."""
    made = batch([[0.1, 0.1, 0.1], [0.1, 0.1, 0.1]], [[1.0] * 3, [-1.0] * 3])
    loss = RLOO(beta=0.1)(made)
    (slope,) = torch.autograd.grad(loss.sum(), made.answers.tokens)
    ratio = 1.3498588076
    assert loss.tolist() == pytest.approx([-1.2, ratio], abs=1e-9)
    assert slope.tolist() == [pytest.approx([0.0] * 3), pytest.approx([ratio] * 3)]


def test_unbiased_against_the_exact_gradient() -> None:
    """Over all pairs of answers of a policy with three answers, the mean gradient is that of E[R]."""
    rewards = torch.tensor([1.0, 0.2, -0.7], dtype=torch.float64)
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad((logits.softmax(0) * rewards).sum(), logits)
    probability = logits.detach().softmax(0)
    total = torch.zeros(3, dtype=torch.float64)
    for pair in itertools.product(range(3), repeat=2):
        chosen = torch.tensor(pair)
        advantages = leave_one_out(rewards[chosen][None])[0]
        now = logits.log_softmax(0)[chosen]
        (slope,) = torch.autograd.grad(rloo_loss(now - now.detach(), advantages, clip=0.2).mean(), logits)
        total += probability[chosen].prod() * -slope
    torch.testing.assert_close(total, exact, atol=1e-12, rtol=0)


def test_unbiased_in_the_lab() -> None:
    """Over every pair of answers to a prompt of the lab, each as likely as a small transformer makes it: the mean
    gradient of the loss is that of -(E[gold reward] - beta KL), taken by enumeration.
    """
    beta, world = 0.3, World(alphabet="ab", length=3, prompts=1, prompt_length=1)
    policy, reference = (
        Tiny(name="t", alphabet="ab", hidden_size=16, init_seed=seed).load()[0].double() for seed in (1, 2)
    )
    prompt = [world.alphabet.index(world.prompt_texts[0])]
    end = world.symbols
    said = [[world.alphabet.index(x) for x in text] for text in world.completion_texts]
    answers = [ids if len(ids) == world.length else [*ids, end] for ids in said]
    rows = collate_rows([(prompt, ids) for ids in answers])
    tokens = answer_logps(policy, rows)
    held = answer_logps(reference, rows).detach()
    mask, gold = rows.answer_mask, torch.tensor(world.gold_reward[0])
    logps = tokens.sum(dim=1)
    assert float(logps.detach().exp().sum()) == pytest.approx(1.0, abs=1e-6)
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    value = (logps.exp() * (gold - beta * (logps - held.sum(dim=1)))).sum()
    exact = torch.autograd.grad(-value, weights, retain_graph=True)

    pairs = list(itertools.product(range(len(answers)), repeat=2))
    chosen = torch.tensor(pairs).flatten()
    given = tokens.detach()[chosen]
    rollouts = Rollouts(gold[chosen].view(-1, 2), mask[chosen], given, torch.ones(len(chosen)).bool(), held[chosen])
    objective = RLOO(beta=beta, samples=2)
    advantages, _ = objective.advantages(rollouts, objective.coefficient)
    seen = Logps(tokens[chosen], mask[chosen], reference=held[chosen].sum(dim=1), mean_count=1.0)
    losses = objective(RolloutLogps(seen, given, advantages, torch.full((len(chosen),), world.length)))
    likely = logps.detach().exp()[torch.tensor(pairs)].prod(dim=1)
    expected = (likely * losses.view(-1, 2).mean(dim=1)).sum()
    for one, other in zip(torch.autograd.grad(expected, weights), exact, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-5)
    assert max(float(one.abs().max()) for one in exact) > 0.01


def test_equal_rewards_pull_nowhere() -> None:
    found, _ = RLOO(beta=0.0).advantages(scored([[2.0] * 4]), 0.0)
    assert found.flatten().tolist() == [0.0] * 4


def test_one_answer_has_no_others() -> None:
    assert refused(RLOO, beta=-1.0, samples=1, clip=-0.1) == ["samples", "clip", "beta"]


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="of one shape"):
        rloo_loss(torch.zeros(3), torch.zeros(3, 1), clip=0.2)
