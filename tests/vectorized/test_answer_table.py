"""Batches taken from a table of answers equal batches that are laid out directly."""

from __future__ import annotations

import torch

from alignlab.data.layout import PLAIN, Layout, collate_rows
from alignlab.vectorized.answer_table import AnswerTable

ANSWERS = [([1, 2, 3], [4]), ([5], [6, 7, 8]), ([1, 2], [9, 9]), ([5], [1])]


def test_rows_that_are_taken_are_plain_rows() -> None:
    table = AnswerTable([*ANSWERS, ANSWERS[0]], torch.device("cpu"))
    assert len(table) == 4, "each answer once"
    for chosen in ([0, 1, 2, 3], [3, 1], [1, 1, 0], [2], [3]):
        rows, plain = table.plain_rows_at(torch.tensor(chosen)), collate_rows([ANSWERS[i] for i in chosen])
        for name in ("ids", "positions", "visible_until", "token_indices", "answer_mask", "lengths"):
            assert torch.equal(getattr(rows, name), getattr(plain, name)), (name, chosen)
        assert torch.equal(rows.targets, plain.targets)
        assert torch.equal(rows.predicted_at, plain.predicted_at)


def test_rows_side_by_side_are_those_of_a_batch() -> None:
    table, layout = AnswerTable(ANSWERS, torch.device("cpu")), Layout(shared=True, split=True, width=64)
    for chosen in ([0, 1, 2, 3], [3, 1], [1, 1, 0], [2]):
        rows = table.rows_at(torch.tensor(chosen), layout)
        expected = collate_rows([ANSWERS[i] for i in chosen], layout)
        for name in ("ids", "positions", "visible_until", "token_indices", "answer_mask", "lengths"):
            assert torch.equal(getattr(rows, name), getattr(expected, name)), (name, chosen)
        places = torch.tensor(chosen)
        assert torch.equal(table.rows_at(places, PLAIN).ids, table.plain_rows_at(places).ids)


def test_answers_that_show_whether_they_influence_each_other() -> None:
    """Two long answers to one prompt, rather than answers of one token, or without another answer to their prompt."""
    answers = [
        ([1], [2]),
        ([1], [3]),
        ([5], [6, 7, 8]),
        ([9], [4, 4, 4, 4]),
        ([5], [8, 8]),
        ([5], [1]),
        ([1], [2, 2, 2]),
    ]
    table = AnswerTable(answers, torch.device("cpu"))
    assert table.longest_answers() == [4, 2, 1, 6]
    assert sorted(AnswerTable(answers[:1], torch.device("cpu")).longest_answers()) == [0]


def test_places() -> None:
    table = AnswerTable(ANSWERS, torch.device("cpu"))
    assert table.places([[ANSWERS[2], ANSWERS[0]], [ANSWERS[3], ANSWERS[1]]]).tolist() == [[2, 0], [3, 1]]
