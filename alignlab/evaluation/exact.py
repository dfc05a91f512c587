"""Exact evaluation in the lab: the probability of every completion under a policy, and metrics that follow from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from alignlab.data.layout import PLAIN
from alignlab.data.template import Template
from alignlab.lab.bandit import Bandit
from alignlab.lab.candidates import ABSENT, CandidateWorld
from alignlab.lab.frontier import Frontier, expected, kl
from alignlab.lab.world import World
from alignlab.models.generation import template_of
from alignlab.models.reference import ScoringOptions, token_logps
from alignlab.spelling import counted

Array = NDArray[np.float64]

# Maximum number of prefixes in a forward pass. Their keys and values stay in memory.
_ROWS = 2**14

# Maximum numbers of candidates and of their tokens in a forward pass.
_CANDIDATES, _TOKENS = 64, 2**14


@torch.no_grad()
@torch.compiler.set_stance("force_eager")  # otherwise layers would be compiled again for every length
def completion_logps(model: nn.Module, tokenizer: Any, world: World) -> Array:
    """[X, N] log-probability of every completion of every prompt under the model, nats, float64.

    The tree of completions goes through the model once, one depth at a time. A prefix reuses the keys and values of the
    prefix that is one letter shorter. Raises ValueError if the tokenizer does not have exactly the lab's letters and
    an end token.

    For a closed set of candidates (`CandidateWorld`), any tokenizer will do, and the probabilities do not add up to 1.
    """
    if isinstance(world, CandidateWorld):
        return candidate_logps(model, tokenizer, world)
    if len(tokenizer) != world.symbols + 1:
        raise ValueError(
            f"the tokenizer has {counted(len(tokenizer), 'token')}, "
            f"but the lab has {counted(world.symbols, 'letter')} and an end token"
        )
    template = Template(tokenizer)
    device = next(model.parameters()).device
    letters = torch.tensor([tokenizer.convert_tokens_to_ids(letter) for letter in world.alphabet], device=device)
    order = torch.tensor([*letters, template.end_id], device=device)
    training = model.training
    model.eval()
    prompts = torch.tensor([template.prompt_ids(text) for text in world.prompt_texts], device=device)
    table = []
    for ids in prompts.split(max(1, _ROWS // world.symbols ** (world.length - 1))):
        steps, cache, count = [], None, len(ids)  # steps: [prompts, V^k, V + 1] for each depth k
        for depth in range(1, world.length + 1):
            deeper = depth < world.length
            out = model(input_ids=ids, past_key_values=cache, use_cache=deeper)
            logps = torch.log_softmax(out.logits[:, -1].double(), dim=-1)[:, order]
            steps.append(logps.view(count, -1, len(order)).cpu().numpy())
            if deeper:
                cache, ids = out.past_key_values, letters.repeat(len(ids))[:, None]
                cache.batch_repeat_interleave(world.symbols)
        table += [world.leaf_logps([step[x] for step in steps]) for x in range(count)]
    model.train(training)
    return np.stack(table)


def candidate_logps(model: nn.Module, tokenizer: Any, world: CandidateWorld) -> Array:
    """[X, N] log-probability of every candidate under the model, nats, float64; ABSENT where a prompt has fewer."""
    template = template_of(model, tokenizer, world.template)
    encoded = [template.encode(prompt, [(text, world.ends) for text in texts]) for prompt, texts, _ in world.rows]
    answers = [(row.prompt, answer) for row in encoded for answer in row.answers]
    training, device = model.training, next(model.parameters()).device
    model.eval()
    how = ScoringOptions(PLAIN, _CANDIDATES, _TOKENS, device, lambda parts, word: parts)
    found = iter(token_logps(model, answers, how))
    model.train(training)
    table = np.full((len(world.rows), world.leaves), ABSENT)
    for x, row in enumerate(encoded):
        table[x, : len(row.answers)] = [float(next(found).astype(np.float64).sum()) for _ in row.answers]
    return table


def exact_metrics(policy: Array, reference: Array, world: World) -> dict[str, float]:
    """Exact KL (nats), gold reward and gap to the frontier of a policy (see alignlab/tracking/metrics.py).

    policy, reference: [X, N] log-probabilities of all completions, nats (`completion_logps`).
    """
    further = {}
    if isinstance(world, CandidateWorld):
        further = {"exact/mass": world.mass(policy), "exact/mass_reference": world.mass(reference)}
    elif world.length > 1:
        further = {"exact/length": expected(policy, world.lengths)}
    policy, reference = world.normalised(policy), world.normalised(reference)
    frontier = Frontier(reference, world.gold_reward)
    distance = kl(policy, reference)
    reward = expected(policy, world.gold_reward)
    strength = frontier.strength_at(distance)
    best = frontier.point(strength)[1]
    return {
        "exact/kl": distance,
        "exact/kl_reverse": kl(reference, policy),
        "exact/reward": reward,
        "exact/reward_reference": expected(reference, world.gold_reward),
        "exact/frontier_reward": best,
        "exact/frontier_gap": best - reward,
        "exact/frontier_strength": strength,
        "exact/winrate": win_rate(policy, reference, world.gold_reward),
        "exact/entropy": -expected(policy, policy),
        **further,
        **(action_metrics(policy, world) if isinstance(world, Bandit) else {}),
    }


def action_metrics(policy: Array, world: Bandit) -> dict[str, float]:
    """The probability of each action of a bandit: `exact/action/<letter>`."""
    return {f"exact/action/{letter}": float(p) for letter, p in zip(world.alphabet, np.exp(policy[0, 1:]), strict=True)}


def win_rate(policy: Array, reference: Array, reward: Array) -> float:
    """P(reward of the policy's answer > that of the reference's answer) + P(both are equal) / 2, mean over prompts.

    policy, reference: [X, N] log-probabilities of all completions, nats. reward: [X, N].
    """
    rates = []
    for own, other, values in zip(np.exp(policy), np.exp(reference), reward, strict=True):
        _, place = np.unique(values, return_inverse=True)  # equal rewards have the same place
        equal = np.bincount(place, other)  # probability of each reward under the reference
        beaten = np.cumsum(equal) - equal / 2
        rates.append(float(np.bincount(place, own) @ beaten))
    return float(np.mean(rates))
