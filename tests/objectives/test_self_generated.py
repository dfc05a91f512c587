"""Turning sampled answers into pairs, or into answers to imitate."""

from __future__ import annotations

import pytest
import torch

from alignlab.errors import ConfigError
from alignlab.objectives.ipo import IPO
from alignlab.objectives.online_dpo import OnlineDPO
from alignlab.objectives.self_generated import best


def test_the_best_of_each_prompt() -> None:
    """The first of equal scores is taken."""
    scores = torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 0.0]])
    assert best(scores, 1).tolist() == [[False, True, False], [True, False, False]]
    assert best(scores, 2).tolist() == [[False, True, True], [True, True, False]]


def test_beta_is_the_strength_of_the_loss_whatever_it_is_called_there() -> None:
    made = OnlineDPO(loss="ipo", beta=0.7, settings={"dialect": "trl1"})
    assert made.inner == IPO(tau=0.7, dialect="trl1")
    assert made.reward_scale == made.inner.reward_scale


def test_what_is_wrong_is_told_under_the_names_that_were_typed() -> None:
    for fields, key in (
        ({"loss": "kto", "beta": 0.1}, "loss"),
        ({"loss": "ppo", "beta": 0.1}, "loss"),
        ({"loss": "ipo", "beta": -0.1}, "beta"),
        ({"loss": "dpo", "beta": 0.1, "settings": {"label_smoothing": 2.0}}, "settings.label_smoothing"),
        ({"loss": "dpo", "beta": 0.1, "settings": {"smoothing": 0.1}}, "settings.smoothing"),
    ):
        with pytest.raises(ConfigError) as caught:
            OnlineDPO(**fields)
        assert [problem.key for problem in caught.value.problems] == [key], fields
        assert not caught.value.problems[0].type_this.startswith(".")
