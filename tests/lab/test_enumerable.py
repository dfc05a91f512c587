"""Worlds of papers: their answers, of one token each or spelled."""

from __future__ import annotations

import numpy as np

from alignlab.lab.enumerable import NEVER, enumerable
from alignlab.lab.tables import bigrams, diagonal


def test_an_answer_is_one_token() -> None:
    world = enumerable("bigrams", {"letters": 3, "length": 2}, seed=4)
    prior, reward = bigrams(4, letters=3, length=2)
    assert world.completion_texts == ["", *"abcdefghi"]
    assert world.prompt_texts == [""]
    np.testing.assert_array_equal(world.demonstrator_logps, [[NEVER, *prior[0]]])
    np.testing.assert_array_equal(world.gold_reward, [[reward.min(), *reward[0]]])


def test_an_answer_is_spelled() -> None:
    world = enumerable("bigrams", {"letters": 3, "length": 2}, seed=4, spelled=True)
    prior, reward = bigrams(4, letters=3, length=2)
    assert world.alphabet == "abc"
    place = world.completion_texts.index("ba")
    assert world.demonstrator_logps[0, place] == prior[0, 3]
    assert world.gold_reward[0, place] == reward[0, 3]
    assert world.demonstrator_logps[0, world.completion_texts.index("b")] == NEVER
    assert not world.ended("ba")


def test_several_prompts_are_letters() -> None:
    world = enumerable("diagonal", {"answers": 5}, prompts=3)
    assert world.prompt_texts == ["a", "b", "c"]
    np.testing.assert_array_equal(world.gold_reward[:, 1:], diagonal(0, 3, answers=5)[1])


def test_settings_with_the_value_of_the_default_are_the_same_world() -> None:
    assert enumerable("random", {"answers": 40.0}) is enumerable("random", {})
    assert enumerable("random", {"answers": 41}) != enumerable("random", {})
