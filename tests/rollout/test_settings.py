"""The number of updates per batch of rollouts, and settings that are rejected."""

from __future__ import annotations

import pytest

from alignlab.errors import ConfigError
from alignlab.rollout.settings import Rollout


def test_a_batch_serves_for_every_epoch_of_every_minibatch() -> None:
    assert Rollout(epochs=3, minibatches=4).updates == 12
    assert Rollout().updates == 1


def test_everything_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Rollout(epochs=0, minibatches=0, missing_end="drop", missing_end_score=float("nan"), score_clip=-1, max_kl=-1)
    assert [problem.key for problem in caught.value.problems] == [
        "epochs", "minibatches", "missing_end", "missing_end_score", "score_clip", "max_kl",
    ]  # fmt: skip


def test_taking_off_less_than_nothing_would_reward_answers_that_do_not_end() -> None:
    with pytest.raises(ConfigError, match=r"must be at least 0.*\n.*type: missing_end_score=1.0"):
        Rollout(missing_end="subtract")
    assert Rollout(missing_end="subtract", missing_end_score=1.0).missing_end_score == 1.0
