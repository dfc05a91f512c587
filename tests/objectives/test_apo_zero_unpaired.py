"""APO-zero on single answers against closed forms; the numbers are worked out in the comments."""

from __future__ import annotations

import pytest
import torch

from alignlab.errors import ConfigError
from alignlab.objectives.apo_zero import APOZero
from alignlab.objectives.apo_zero_unpaired import APOZeroUnpaired, apo_zero_unpaired_loss
from alignlab.types import LabelledLogps
from tests.objectives.build import logps, pair


def test_value_and_gradient() -> None:
    """Log-ratio -3 + 6 = 3 over 2 tokens, beta 0.1: good 1 - sigmoid(0.3), bad sigmoid(0.3).

    Both slopes are 0.1 sigmoid'(0.3) = 0.1 * 0.24445831169074587 in size.
    """
    answers = logps([[-1.0, -2.0], [-1.0, -2.0]], [-6.0, -6.0])
    loss = APOZeroUnpaired(beta=0.1)(LabelledLogps(answers, torch.tensor([True, False])))
    (slope,) = torch.autograd.grad(loss.sum(), answers.tokens)
    assert loss.tolist() == pytest.approx([0.42555748318834101, 0.57444251681165899], abs=1e-14)
    assert slope[0].tolist() == pytest.approx([-0.024445831169074587] * 2, abs=1e-14)
    assert slope[1].tolist() == pytest.approx([0.024445831169074587] * 2, abs=1e-14)


def test_a_pair_as_two_rows_is_apo_zero() -> None:
    rows = [[-1.0, -2.0]], [[-4.0, -1.0]], [-6.0], [-4.5]
    batch = pair(*rows)
    answers = logps([rows[0][0], rows[1][0]], [rows[2][0], rows[3][0]])
    halves = APOZeroUnpaired(beta=0.3)(LabelledLogps(answers, torch.tensor([True, False])))
    assert halves.sum().item() == pytest.approx(APOZero(beta=0.3)(batch).item(), abs=1e-15)


def test_it_saturates_on_both_sides() -> None:
    """At log-ratios of +-1e4 a good answer has the loss 0 or 1 and no gradient."""
    answers = logps([[-1.0], [-1.0]], [-1e4, 1e4])
    loss = APOZeroUnpaired(beta=0.1)(LabelledLogps(answers, torch.tensor([True, True])))
    (slope,) = torch.autograd.grad(loss.sum(), answers.tokens)
    assert loss.tolist() == [0.0, 1.0]
    assert slope.flatten().tolist() == [0.0, 0.0]


def test_needs_a_reference_and_no_kl_batch() -> None:
    needs = APOZeroUnpaired(beta=0.1).requires
    assert needs.data == "labelled"
    assert needs.reference
    assert not needs.mismatched
    assert not needs.couples_batch


def test_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        APOZeroUnpaired(beta=-0.1)
    assert [problem.key for problem in caught.value.problems] == ["beta"]


def test_shapes_are_never_broadcast() -> None:
    with pytest.raises(ValueError, match="one shape"):
        apo_zero_unpaired_loss(torch.zeros(3), torch.ones(1, dtype=torch.bool), beta=0.1)


def test_a_rare_label_is_warned_of() -> None:
    """The audit of the data warns of labels of one kind."""
    assert list(APOZeroUnpaired(beta=0.1).data_warnings({"desirable": 7, "undesirable": 0})) == []
    (rare,) = APOZeroUnpaired(beta=0.1).data_warnings({"desirable": 1, "undesirable": 99})
    assert "1 of 100 answers are good" in rare
    assert list(APOZeroUnpaired(beta=0.1).data_warnings({"desirable": 5, "undesirable": 5})) == []
    assert list(APOZeroUnpaired(beta=0.1).data_warnings({"rows": 5})) == []
