"""Pairs from the worlds of papers."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from alignlab.data.sources.enumerable import Enumerable
from alignlab.errors import ConfigError, DataError
from alignlab.lab.world import World


def prior(world: World) -> np.ndarray:
    return np.asarray(world.demonstrator_logps)


def test_pairs_are_labelled_by_the_reward_and_always_the_same() -> None:
    data = Enumerable(pair_count=4000, label_scale=2.0, seed=3)
    rows = data.pairs("train", prior).rows
    assert rows == data.pairs("train", prior).rows
    assert rows != data.pairs("eval", prior).rows
    assert rows != Enumerable(pair_count=4000, label_scale=2.0, seed=4).pairs("train", prior).rows
    assert len(rows) == 4000
    reward = dict(zip(data.world.completion_texts, data.world.gold_reward[0], strict=True))
    differences = np.array([reward[row.chosen] - reward[row.rejected] for row in rows])
    # P(the better answer wins), over the pairs that were drawn
    expected = 1 / (1 + np.exp(-2 * np.abs(differences)))
    assert (differences > 0).mean() == pytest.approx(expected.mean(), abs=0.02)


def test_answers_are_drawn_from_the_reference_or_from_the_prior() -> None:
    def only_two(world: World) -> np.ndarray:
        table = np.full(world.gold_reward.shape, -1e4)
        table[:, 1:3] = np.log(0.5)
        return table

    assert {row.chosen for row in Enumerable().pairs("train", only_two).rows} == {"a", "b"}
    rows = Enumerable(drawn_from="prior", pair_count=4000).pairs("train", None).rows
    share = Counter(text for row in rows for text in (row.chosen, row.rejected))
    common = max(range(1, 41), key=lambda i: Enumerable().world.demonstrator_logps[0, i])
    assert share.most_common(1)[0][0] == Enumerable().world.completion_texts[common]
    with pytest.raises(ValueError, match="no reference was given"):
        Enumerable().pairs("train", None)


def test_all_pairs_of_a_group_are_compared() -> None:
    rows = Enumerable(group=3, pair_count=3, kind="bigrams").pairs("train", prior).rows
    answers = [{row.chosen, row.rejected} for row in rows]
    assert len(set.union(*answers)) == 3
    assert all(len(pair) == 2 for pair in answers)


def test_pairs_contain_covered_answers_only_and_the_better_one_wins() -> None:
    data = Enumerable(kind="diagonal", prompts=8, covered=3, labels="deterministic", pair_count=500)
    assert data.covered_answers.sum(axis=1).tolist() == [3] * 8
    places = {text: i for i, text in enumerate(data.world.completion_texts)}
    for row in data.pairs("train", prior).rows:
        x = data.world.prompt_texts.index(row.prompt)
        assert row.chosen == row.prompt, "answer i is right for prompt i"
        assert data.covered_answers[x, places[row.rejected]]
        assert row.rejected != row.chosen
    assert Enumerable().covered_answers.all()


def test_the_mass_of_unseen_answers_is_that_among_answers() -> None:
    """Two of three answers are covered. A half is on the empty completion, and a quarter of the rest on the third."""
    source = Enumerable(kind="random", settings={"answers": 3}, covered=2)
    place = int(np.argmin(source.world.demonstrator_logps[0, 1:])) + 1
    policy = np.full((1, 4), 0.1875)
    policy[0, [0, place]] = 0.5, 0.125
    assert source.exact_metrics(np.log(policy)) == {"exact/unseen": pytest.approx(0.25)}
    assert Enumerable(kind="random").exact_metrics(np.log(policy)) == {}


def test_without_different_answers_there_are_no_pairs() -> None:
    def one(world: World) -> np.ndarray:
        table = np.full(world.gold_reward.shape, -1e4)
        table[:, 1] = 0.0
        return table

    with pytest.raises(DataError, match="all alike"):
        Enumerable().pairs("train", one)


def test_held_out_pairs_are_limited() -> None:
    assert len(Enumerable(pair_count=400, eval_limit=100).pairs("eval", prior).rows) == 100
    assert len(Enumerable(pair_count=400).completions("train").rows) == 400


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"kind": "randm"}, "kind=random"),
        ({"settings": {"answer": 40}}, "data.settings.answers=40"),
        ({"settings": {"answers": 2.5}}, "whole number"),
        ({"settings": {"answers": math.inf}}, "whole number"),
        ({"settings": {"scale": 0.0}}, "above 0"),
        ({"kind": "chain", "settings": {"follow": 1.0}}, "between 0 and 1"),
        ({"kind": "diagonal", "settings": {"likely": 8}}, "data.settings.likely=7"),
        ({"kind": "bigrams", "settings": {"letters": 60}}, "too many"),
        ({"spelled": True}, "can be spelled"),
        ({"prompts": 41}, r"\[1, 40\]"),
        ({"kind": "keywords", "prompts": 2}, r"\[1, 1\]"),
        ({"covered": 1}, "at least 2"),
        ({"group": 1}, "at least 2"),
        ({"drawn_from": "author"}, "reference, prior"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Enumerable(**wrong)  # type: ignore[arg-type]
