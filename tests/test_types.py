"""Log-probabilities with their masks."""

from __future__ import annotations

import pytest
import torch

from alignlab.types import LabelledLogps, Logps, PairLogps, RankedRewards, halves, join, map_tensors


def test_sum_mean_and_ratio() -> None:
    """Two tokens of -1 and -3 against a reference of -5: sum -4, mean -2, ratio 1, 0.5 per token."""
    logps = Logps(torch.tensor([[-1.0, -3.0, 7.0]]), torch.tensor([[True, True, False]]), torch.tensor([-5.0]))
    assert [logps.logp("sum").item(), logps.logp("mean").item()] == [-4.0, -2.0]
    assert [logps.logratio("sum").item(), logps.logratio("mean").item()] == [1.0, 0.5]
    assert logps.count.tolist() == [2]


def test_rows_without_tokens_are_named() -> None:
    mask = torch.ones(4, 3, dtype=torch.bool)
    mask[2] = False
    with pytest.raises(ValueError, match=r"rows \[2\]"):
        Logps(torch.zeros(4, 3), mask)


def test_no_reference_is_an_error_not_a_zero() -> None:
    with pytest.raises(ValueError, match="needs reference"):
        Logps(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)).logratio("sum")


def test_shapes_and_masks_are_checked() -> None:
    with pytest.raises(ValueError, match=r"must both be \[B, T\]"):
        Logps(torch.zeros(2, 3), torch.ones(2, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="mask must be bool"):
        Logps(torch.zeros(2, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match="reference must be"):
        Logps(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.zeros(1))


def two_rows(mean_count: float | None = None) -> Logps:
    """Answers of 2 and 3 tokens that sum to -3 and -6."""
    mask = torch.tensor([[True, True, False], [True, True, True]])
    tokens = torch.tensor([[-1.0, -2.0, float("nan")], [-1.0, -2.0, -3.0]])
    return Logps(tokens, mask, torch.tensor([-4.0, -5.0]), mean_count=mean_count)


def test_nll_by_each_reduction() -> None:
    """Divided by nothing, by 2 and 3 tokens, and by the batch's mean of 2.5 (or a given mean): on average 9 / 5."""
    assert two_rows().nll("sum").tolist() == [3.0, 6.0]
    assert two_rows().nll("mean").tolist() == [1.5, 2.0]
    assert two_rows().nll("tokens").tolist() == pytest.approx([1.2, 2.4])
    assert two_rows().nll("tokens").mean().item() == pytest.approx(9 / 5)
    assert two_rows(mean_count=3.0).nll("tokens").tolist() == [1.0, 2.0]


def test_tail_weighted() -> None:
    """Heads of 1 and 2 tokens count fully, the tails half: -1 - 1 and -1 - 2 - 1.5."""
    rows = two_rows()
    assert rows.tail_weighted(rows.tokens, torch.tensor([1, 2]), 0.5).tolist() == [-2.0, -4.5]
    assert rows.tail_weighted(rows.tokens, torch.tensor([9, 9]), 0.5).tolist() == [-3.0, -6.0]


def test_checksum_sees_values_that_are_not_finite() -> None:
    assert torch.isfinite(two_rows().checksum).all(), "padding may be anything"
    broken = map_tensors(two_rows(), lambda t: t.clone())
    assert broken.reference is not None
    broken.reference[1] = float("inf")
    broken.tokens[0, 0] = float("nan")
    assert torch.isfinite(broken.checksum).tolist() == [False, False]


def test_join_pads_and_halves_take_apart() -> None:
    narrow = Logps(torch.tensor([[-7.0]]), torch.tensor([[True]]), torch.tensor([-8.0]))
    whole = join([LabelledLogps(two_rows(), torch.tensor([True, False])), LabelledLogps(narrow, torch.tensor([True]))])
    assert whole.answers.logp("sum").tolist() == [-3.0, -6.0, -7.0]
    assert whole.answers.count.tolist() == [2, 3, 1]
    assert whole.desirable.tolist() == [True, False, True]
    assert whole.mismatched is None
    first, second = halves(two_rows())
    assert [first.logp("sum").item(), second.logp("sum").item()] == [-3.0, -6.0]


def test_join_lets_gradients_through() -> None:
    leaf = torch.tensor([[-1.0]], requires_grad=True)
    join([Logps(leaf, torch.tensor([[True]])), Logps(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool))]).logp(
        "mean"
    ).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [[1.0]]


def test_pairs_have_as_many_chosen_as_rejected_answers() -> None:
    with pytest.raises(ValueError, match="2 chosen and 1 rejected"):
        PairLogps(two_rows(), halves(two_rows())[0])


def test_comparisons_of_graded_answers() -> None:
    """Ties and masked answers are not compared."""
    grades = torch.tensor([[2.0, 1.0, 1.0], [0.0, 1.0, 9.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    better = RankedRewards(torch.zeros(2, 3), mask, grades).better
    assert better.nonzero().tolist() == [[0, 0, 1], [0, 0, 2], [1, 1, 0]]
