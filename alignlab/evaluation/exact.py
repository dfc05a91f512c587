"""Exact evaluation in the lab: every completion's probability under a policy, and where that puts it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from alignlab.data.template import Template
from alignlab.lab.frontier import Frontier, expected, kl
from alignlab.lab.world import World

Array = NDArray[np.float64]


@torch.no_grad()
def completion_logps(model: nn.Module, tokenizer: Any, world: World) -> Array:
    """[X, N] log-probability of every completion of every prompt under the model, nats, float64.

    One forward per prompt: rows are all strings of L - 1 letters, which hold every prefix as their beginning.
    Raises ValueError where the tokenizer knows other tokens than the world's letters and the end.
    """
    if len(tokenizer) != world.symbols + 1:
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, the world {world.symbols} letters and an end")
    template = Template(tokenizer)
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in world.alphabet]
    order = torch.tensor([*letters, template.end_id])
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    depth = world.length - 1
    strings = torch.tensor(list(itertools.product(letters, repeat=depth)), dtype=torch.int64)
    table = []
    for text in world.prompt_texts:
        prompt = torch.tensor(template.prompt_ids(text)).expand(len(strings), -1)
        ids = torch.cat([prompt, strings], dim=1).to(device)
        logits = model(input_ids=ids, use_cache=False).logits[:, -world.length :]
        logps = torch.log_softmax(logits.double(), dim=-1)[..., order.to(device)].cpu().numpy()
        # all strings that share a prefix of k letters are neighbours: the first of them speaks for the prefix
        steps = [logps[:: world.symbols ** (depth - k), k] for k in range(world.length)]
        table.append(world.leaf_logps(steps))
    model.train(training)
    return np.stack(table)


def exact_metrics(policy: Array, reference: Array, world: World) -> dict[str, float]:
    """Where a policy stands: exact KL, exact gold reward, its gap to the frontier (alignlab/tracking/metrics.py)."""
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
        "exact/entropy": -expected(policy, policy),
    }
