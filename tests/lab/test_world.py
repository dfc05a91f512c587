"""The enumerable World: sizes, normalisation, determinism."""

from __future__ import annotations

import numpy as np
import pytest

from alignlab.lab.world import World

SMALL = World(alphabet="abc", length=3, prompts=2, prompt_length=1)


def test_leaves_are_all_strings_up_to_the_horizon() -> None:
    """1 + 3 + 9 completions ended and 27 were cut off."""
    assert SMALL.leaves == 40
    assert len(set(SMALL.completion_texts)) == 40
    assert SMALL.completion_texts[:5] == ["", "a", "b", "c", "aa"]
    assert sum(SMALL.ended(text) for text in SMALL.completion_texts) == 13


def test_leaf_logps_follow_the_tree() -> None:
    """With next-token tables that differ everywhere, the probability of 'bc' is p(b) p(c|b) p(end|bc)."""
    rng = np.random.default_rng(0)
    steps = []
    for depth in range(3):
        logits = rng.normal(size=(3**depth, 4))
        steps.append(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
    leaves = SMALL.leaf_logps(steps)
    assert np.exp(leaves).sum() == pytest.approx(1.0, abs=1e-12)
    place = SMALL.completion_texts.index("bc")
    assert leaves[place] == pytest.approx(steps[0][0, 1] + steps[1][1, 2] + steps[2][3 * 1 + 2, 3], abs=1e-12)
    full = SMALL.completion_texts.index("cab")
    assert leaves[full] == pytest.approx(steps[0][0, 2] + steps[1][2, 0] + steps[2][3 * 2 + 0, 1], abs=1e-12)


@pytest.mark.parametrize("world", [SMALL, World()])
def test_demonstrator_is_normalised_and_gold_standardised(world: World) -> None:
    p = np.exp(world.demonstrator_logps)
    assert p.shape == (world.prompts, world.leaves)
    np.testing.assert_allclose(p.sum(1), 1.0, atol=1e-10)
    np.testing.assert_allclose((p * world.gold_reward).sum(1), 0.0, atol=1e-10)
    assert (p * world.gold_reward**2).sum(1).mean() == pytest.approx(1.0, abs=1e-10)


def test_same_seed_same_world_and_prompts_differ() -> None:
    again = World(alphabet="abc", length=3, prompts=2, prompt_length=1)
    np.testing.assert_array_equal(again.gold_reward, SMALL.gold_reward)
    assert not np.allclose(SMALL.gold_reward[0], SMALL.gold_reward[1])
    assert len(set(World().prompt_texts)) == 8
    assert not np.allclose(World(seed=1).gold_reward, World().gold_reward)


def test_tokens_spell_the_texts() -> None:
    for text, row in zip(SMALL.completion_texts, SMALL.tokens, strict=True):
        assert "".join("abc"[i] for i in row if i < 3) == text
        assert (row == 3).sum() == 3 - len(text)
