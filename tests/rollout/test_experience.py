"""Answers as rows: the numbers of their tokens have the same places as the tokens."""

from __future__ import annotations

import pytest
import torch

from alignlab.data.layout import PLAIN, Layout
from alignlab.rollout.experience import RolloutTokens, collate_rollouts, table


def known(answer: list[int], start: float) -> torch.Tensor:
    return torch.stack([start + 10 * k + torch.arange(len(answer)) for k in range(4)])


def row(index: int, prompt: list[int], answers: list[list[int]], own: list[int] | None = None) -> RolloutTokens:
    return RolloutTokens(index, prompt, answers, [known(a, 100.0 * i) for i, a in enumerate(answers)], own)


@pytest.mark.parametrize("layout", [PLAIN, Layout(shared=True, split=True)], ids=["plain", "shared"])
def test_what_is_known_stands_with_its_tokens(layout: Layout) -> None:
    rows = [row(3, [1, 2], [[5], [6, 7, 8]]), row(9, [4], [[9, 9], [9]])]
    batch = collate_rollouts(rows, layout)
    assert batch.index.tolist() == [3, 3, 9, 9]
    assert batch.rows.answer_mask.sum(dim=1).tolist() == [1, 3, 2, 1]
    assert batch.known.shape == (4, 3, 4)
    assert batch.known[1, 2].tolist() == [102.0, 112.0, 122.0, 132.0]
    assert batch.known[0, 1:].abs().sum() == 0
    assert batch.rows.targets.tolist() == [5, 6, 7, 8, 9, 9, 9]
    assert batch.demonstrations is None


@pytest.mark.parametrize("layout", [PLAIN, Layout(shared=True, split=True)], ids=["plain", "shared"])
def test_log_probabilities_that_are_learnt_go_into_the_rows(layout: Layout) -> None:
    """Each answer gets its own log-probabilities, without padding. The other numbers do not change."""
    rows = [row(3, [1, 2], [[5], [6, 7, 8]]), row(9, [4], [[9, 9]])]
    collate_rollouts(rows, layout).learn(torch.arange(9.0).view(3, 3))
    tables = [table for one in rows for table in one.known]
    assert [table[0].tolist() for table in tables] == [[0.0], [3.0, 4.0, 5.0], [6.0, 7.0]]
    assert tables[1][1].tolist() == [110.0, 111.0, 112.0]


def test_the_datas_own_answers_come_beside_and_count_towards_the_size() -> None:
    batch = collate_rollouts([row(0, [1], [[5, 6]], [7, 8, 9])])
    assert batch.demonstrations is not None
    assert batch.demonstrations.targets.tolist() == [7, 8, 9]
    assert row(0, [1], [[5, 6]], [7, 8, 9]).answers() == [([1], [5, 6]), ([1], [7, 8, 9])]


def test_before_anything_is_known() -> None:
    assert collate_rollouts([RolloutTokens(0, [1], [[5], [6]])]).known.shape == (2, 0, 4)


def test_table() -> None:
    assert table([[1.0], [2.0, 3.0]]).tolist() == [[1.0, 0.0], [2.0, 3.0]]
