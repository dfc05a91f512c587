"""Layouts: each answer sees its prompt and itself, every token is stored once, and the cheapest table is chosen."""

from __future__ import annotations

import random

import pytest
import torch

from alignlab.data.fingerprint import row_key
from alignlab.data.layout import PLAIN, Layout, Rows, collate_rows, split_by_budget
from alignlab.data.tokenize import PromptAndAnswer

WIDE = Layout(shared=True, split=True, width=4096)


def drawn(seed: int) -> list[PromptAndAnswer]:
    """Up to 12 answers to up to 4 prompts, in any order. Some answers have a common prefix."""
    rng = random.Random(seed)
    prompts = [[rng.randrange(3) for _ in range(rng.randint(1, 6))] for _ in range(rng.randint(1, 4))]
    return [
        (rng.choice(prompts), [rng.randrange(3) for _ in range(rng.randint(1, 8))]) for _ in range(rng.randint(1, 12))
    ]


def context(rows: Rows, place: int) -> list[int]:
    """The columns that a token sees, by the definition of `ends`."""
    sequence, column = divmod(place, rows.ids.shape[1])
    return [c for c in range(column + 1) if column < rows.visible_until[sequence, c]]


def written(answers: list[PromptAndAnswer]) -> int:
    """Number of tokens if each prompt, and each common prefix of its answers, is stored once."""
    return len({(tuple(p), *p[:k]) for p, _ in answers for k in range(1, len(p) + 1)}) + len(
        {(tuple(p), tuple(a[:k])) for p, a in answers for k in range(1, len(a) + 1)}
    )


@pytest.mark.parametrize("layout", [PLAIN, Layout(True, True, 1), Layout(True, True, 4), WIDE], ids=str)
def test_every_answer_is_there_after_its_prompt(layout: Layout) -> None:
    """In 40 samples, the last token of each answer sees exactly its prompt and its answer, at positions 0, 1, 2, ..."""
    for seed in range(40):
        answers = drawn(seed)
        rows = collate_rows(answers, layout)
        length = rows.ids.shape[1]
        for r, (prompt, answer) in enumerate(answers):
            places = rows.token_indices[r, : len(answer) + 1].tolist()
            assert rows.answer_mask[r].tolist() == [t < len(answer) for t in range(rows.answer_mask.shape[1])]
            assert rows.last[r] == places[-1]
            sequence, columns = places[-1] // length, context(rows, places[-1])
            assert rows.ids[sequence, columns].tolist() == [*prompt, *answer]
            assert rows.positions[sequence, columns].tolist() == list(range(len(prompt) + len(answer)))
            assert places == [sequence * length + column for column in columns[len(prompt) - 1 :]]
        whole = sum(len(prompt) + len(answer) for prompt, answer in answers)
        assert written(answers) <= rows.attention.sum() <= whole
        assert rows.attention.sum() == whole or layout is not PLAIN
        assert rows.keys == tuple(row_key(prompt, answer) for prompt, answer in answers)
        assert rows.lengths.tolist() == [len(prompt) + len(answer) for prompt, answer in answers]
        assert rows.targets.tolist() == [token for _, answer in answers for token in answer]
        assert rows.ids.flatten()[rows.predicted_at].tolist() == [
            token for prompt, answer in answers for token in [prompt[-1], *answer][:-1]
        ]
        assert not rows.ids[rows.attention == 0].any()
        assert not rows.positions[rows.attention == 0].any()


def test_plain_rows_have_a_sequence_each_and_answers_in_one_column() -> None:
    """Answers to the same prompt have rows of their own too. Padding is before prompts and after answers."""
    for seed in range(20):
        answers = drawn(seed)
        rows = collate_rows(answers)
        longest = max(len(prompt) for prompt, _ in answers)
        assert rows.ids.shape == (len(answers), longest + max(len(answer) for _, answer in answers))
        for r, (prompt, answer) in enumerate(answers):
            expected = [*[0] * (longest - len(prompt)), *[1] * (len(prompt) + len(answer))]
            assert rows.attention[r].tolist() == expected + [0] * (rows.ids.shape[1] - len(expected))


def test_what_answers_begin_with_is_written_once_where_layers_are_wide() -> None:
    """At width 4096, saving a token always outweighs a longer sequence. Padding is at the end of each sequence."""
    for seed in range(40):
        answers = drawn(seed)
        rows = collate_rows(answers, WIDE)
        assert rows.attention.sum() == written(answers)
        assert (rows.attention.diff(dim=1) <= 0).all()


def test_equal_answers_are_one_and_a_beginning_is_an_answer_too() -> None:
    """The prompt 1 2 has the answers 5 6, 5, 5 6 and 7. They make the tree 1 2 5 6 7: 6 sees 5, and 7 sees neither."""
    rows = collate_rows([([1, 2], [5, 6]), ([1, 2], [7]), ([1, 2], [5]), ([1, 2], [5, 6])], WIDE)
    assert rows.ids.tolist() == [[1, 2, 5, 6, 7]]
    assert rows.positions.tolist() == [[0, 1, 2, 3, 2]]
    assert rows.visible_until.tolist() == [[5, 5, 4, 4, 5]]
    assert rows.token_indices.tolist() == [[1, 2, 3], [1, 4, 0], [1, 2, 0], [1, 2, 3]]
    assert rows.targets.tolist() == [5, 6, 7, 5, 5, 6]


def test_values_of_tokens_are_spread_over_their_rows() -> None:
    answers: list[PromptAndAnswer] = [([1], [5, 6]), ([2, 3], [7]), ([1], [8, 9, 4])]
    for layout in (PLAIN, WIDE):
        rows = collate_rows(answers, layout)
        assert rows.scatter(rows.targets).tolist() == [[5, 6, 0], [7, 0, 0], [8, 9, 4]]
        values = rows.targets.double().requires_grad_()
        (rows.scatter(values) * torch.tensor([[1, 2, 9], [3, 9, 9], [4, 5, 6]])).sum().backward()
        assert values.grad is not None
        assert values.grad.tolist() == [1, 2, 3, 4, 5, 6]
        assert rows.scatter(rows.targets > 5).dtype == torch.bool


@pytest.mark.parametrize(("width", "table"), [(1, (4, 3)), (2, (2, 5)), (100, (1, 9))])
def test_the_cheapest_of_the_tried_capacities(width: int, table: tuple[int, int]) -> None:
    """Groups of 3, 2, 2 and 2 tokens.

    The cost S (6 width L + L^2) of the tables 4 x 3, 3 x 4, 2 x 5 and 1 x 9 is 108, 120, 110, 135 at width 1 and
    180, 192, 170, 189 at width 2. At width 100 padding costs most, so the table without padding is the cheapest.
    """
    answers: list[PromptAndAnswer] = [([1], [9, 9]), ([2], [9]), ([3], [9]), ([4], [9])]
    assert tuple(collate_rows(answers, Layout(True, True, width)).ids.shape) == table


@pytest.mark.parametrize(("length", "shared"), [(6, True), (7, False)])
def test_a_prompt_is_written_again_where_sharing_is_dearer(length: int, shared: bool) -> None:
    """A prompt of 7 tokens, width 1, two answers of n tokens. Sharing costs L (6 + L) at L = 7 + 2 n; not sharing
    costs twice that at L = 7 + n.

    n = 6: 19 x 25 = 475 < 2 x 13 x 19 = 494. n = 7: 21 x 27 = 567 > 2 x 14 x 20 = 560.
    """
    answers: list[PromptAndAnswer] = [([1] * 7, [k] * length) for k in (2, 3)]
    rows = collate_rows(answers, Layout(True, True, 1))
    assert (int(rows.attention.sum()) == 7 + 2 * length) == shared


def test_portions_are_as_large_as_both_limits_allow() -> None:
    """In 100 samples, all items come in order and once; one more item would exceed a range's rows or tokens."""
    rng = random.Random(0)
    for _ in range(100):
        sizes = [rng.randint(1, 9) for _ in range(rng.randint(0, 15))]
        rows, tokens = rng.randint(1, 5), rng.randint(1, 20)
        parts = list(split_by_budget(sizes, rows, tokens))
        assert [i for part in parts for i in part] == list(range(len(sizes)))
        for part in parts:
            assert 1 <= len(part) <= rows
            assert len(part) == 1 or sum(sizes[i] for i in part) <= tokens
            if part.stop < len(sizes):
                assert len(part) == rows or sum(sizes[i] for i in (*part, part.stop)) > tokens


@pytest.mark.parametrize("layout", [PLAIN, WIDE])
def test_rows_repeated(layout: Layout) -> None:
    """Repeated rows are the same answers several times, one copy after the other, each in sequences of its own."""
    for seed in range(20):
        answers = drawn(seed)
        once, thrice = collate_rows(answers, layout), collate_rows(answers, layout).repeated(3)
        assert thrice.targets.tolist() == 3 * once.targets.tolist()
        assert thrice.last.tolist() == [place + i * once.ids.numel() for i in range(3) for place in once.last.tolist()]
        assert [len(context(thrice, int(place))) for place in thrice.last] == 3 * once.lengths.tolist()
        assert thrice.keys == 3 * once.keys
