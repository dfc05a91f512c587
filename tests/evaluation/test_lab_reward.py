"""The lab's gold reward as a judge."""

from __future__ import annotations

import numpy as np

from alignlab.evaluation.lab_reward import LabReward
from alignlab.judges.base import Answer
from alignlab.lab.world import World


def test_scores_are_the_gold_rewards_of_the_lab() -> None:
    world = World(alphabet="abc", length=3)
    rows = [
        Answer(str(i), (world.prompt_texts[x],), (world.completion_texts[y],))
        for i, (x, y) in enumerate([(0, 5), (1, 0)])
    ]
    assert np.allclose(LabReward(world=world).score(rows), [world.gold_reward[0, 5], world.gold_reward[1, 0]])


def test_the_fingerprint_is_that_of_earlier_versions() -> None:
    """The class was called WorldGold in 0.1. Its evaluations can be compared with those of today."""
    assert LabReward(world=World(alphabet="abc", length=3)).fingerprint() == "a3a5da8e92b207a0"
