"""Compares exact probabilities of a model's completions with one forward pass per completion; tests exact metrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alignlab.evaluation import exact
from alignlab.evaluation.exact import completion_logps, exact_metrics, win_rate
from alignlab.lab.frontier import tilt
from alignlab.lab.world import World
from alignlab.models.sources.tiny import Tiny

WORLD = World(alphabet="abc", length=3, prompts=2, prompt_length=2)


def test_equal_to_one_forward_per_completion() -> None:
    model, tokenizer = Tiny(name="t", alphabet="abc", hidden_size=32).load()
    with torch.no_grad():
        model.lm_head.weight *= 20  # far from uniform
    table = completion_logps(model, tokenizer, WORLD)
    np.testing.assert_allclose(np.exp(table).sum(1), 1.0, atol=1e-9)
    for x, prompt in enumerate(WORLD.prompt_texts):
        ids = tokenizer(prompt)["input_ids"]
        for y, text in enumerate(WORLD.completion_texts):
            answer = tokenizer(text, add_special_tokens=False)["input_ids"] + [3] * WORLD.ended(text)
            with torch.no_grad():
                logps = model(torch.tensor([[*ids, *answer]])).logits[0].double().log_softmax(-1)
            expected = sum(float(logps[len(ids) - 1 + t, token]) for t, token in enumerate(answer))
            assert table[x, y] == pytest.approx(expected, abs=1e-5)


def test_many_prompts_go_through_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = Tiny(name="t", alphabet="abc", hidden_size=32).load()
    world = World(alphabet="abc", length=3, prompts=5, prompt_length=2)
    whole = completion_logps(model, tokenizer, world)
    monkeypatch.setattr(exact, "_ROWS", 2 * 9)
    np.testing.assert_allclose(completion_logps(model, tokenizer, world), whole, atol=1e-6)


def test_one_token_of_horizon() -> None:
    model, tokenizer = Tiny(name="t", alphabet="abc", hidden_size=32).load()
    table = completion_logps(model, tokenizer, World(alphabet="abc", length=1, prompts=2, prompt_length=1))
    assert table.shape == (2, 4)
    np.testing.assert_allclose(np.exp(table).sum(1), 1.0, atol=1e-9)


def test_another_vocabulary_is_refused() -> None:
    model, tokenizer = Tiny(name="t", alphabet="abcd").load()
    with pytest.raises(ValueError, match="5 tokens, but the lab has 3 letters"):
        completion_logps(model, tokenizer, WORLD)


def test_the_optimum_has_no_gap_and_its_own_strength() -> None:
    reference = WORLD.demonstrator_logps
    found = exact_metrics(tilt(reference, WORLD.gold_reward, 0.4), reference, WORLD)
    assert found["exact/frontier_gap"] == pytest.approx(0.0, abs=1e-9)
    assert found["exact/frontier_strength"] == pytest.approx(0.4, rel=1e-6)
    assert found["exact/reward_reference"] == pytest.approx(0.0, abs=1e-10)


def test_a_worse_policy_has_a_gap() -> None:
    reference = WORLD.demonstrator_logps
    found = exact_metrics(tilt(reference, -WORLD.gold_reward, 1.0), reference, WORLD)
    assert found["exact/reward"] < 0 < found["exact/frontier_reward"]
    assert found["exact/frontier_gap"] == pytest.approx(found["exact/frontier_reward"] - found["exact/reward"])


def test_the_reference_itself() -> None:
    reference = WORLD.demonstrator_logps
    found = exact_metrics(reference, reference, WORLD)
    assert found["exact/kl"] == pytest.approx(0.0, abs=1e-12)
    assert found["exact/frontier_gap"] == pytest.approx(0.0, abs=1e-3)


def test_the_expected_length_counts_the_end_token() -> None:
    """A half each on b (which ends: two tokens) and abc (which was cut off: three tokens)."""
    policy = np.full((2, WORLD.leaves), -1e4)
    policy[:, [WORLD.completion_texts.index(text) for text in ("b", "abc")]] = np.log(0.5)
    assert exact_metrics(policy, WORLD.demonstrator_logps, WORLD)["exact/length"] == pytest.approx(2.5)


def test_win_rate_counts_equal_rewards_half() -> None:
    """Two prompts of three answers, by hand. Prompt 1: .5*(.2 + .3/2) + .5*(.5 + .5/2); prompt 2 has equal rewards."""
    policy = np.log(np.array([[1e-300, 0.5, 0.5], [0.1, 0.2, 0.7]]))
    reference = np.log(np.array([[0.2, 0.3, 0.5], [0.5, 0.3, 0.2]]))
    reward = np.array([[0.0, 1.0, 2.0], [4.0, 4.0, 4.0]])
    assert win_rate(policy, reference, reward) == pytest.approx(((0.5 * 0.35 + 0.5 * 0.75) + 0.5) / 2)
    assert win_rate(reference, reference, reward) == pytest.approx(0.5)
