"""GRPO against numbers worked out by hand: its advantages, its KL, its normalisers."""

from __future__ import annotations

import math

import pytest
import torch

from alignlab.objectives.grpo import GRPO, grpo_loss
from tests.objectives.build import refused
from tests.objectives.rollouts import batch, scored


def test_advantages_are_standardised_within_the_prompt() -> None:
    made = scored([[1.0, 0.0, 0.0, 3.0], [2.0, 2.0, 2.0, 2.0]])
    found, returns = GRPO(beta=0.0).advantages(made, 0.7)
    assert found.flatten().tolist() == pytest.approx([0, -0.70705678, -0.70705678, 1.41411357, 0, 0, 0, 0], abs=1e-6)
    assert returns is None
    plain, _ = GRPO(beta=0.0, scale=False).advantages(made, 0.7)
    assert plain.flatten().tolist() == [0.0, -1.0, -1.0, 2.0, 0.0, 0.0, 0.0, 0.0]


# Two answers of 1 and 3 tokens at ratio 1 with A = 1: the loss is -1 per token.
@pytest.mark.parametrize(
    ("normaliser", "losses"),
    [("answers", [-1.0, -1.0]), ("tokens", [-0.5, -1.5]), ("constant", [-0.125, -0.375])],
)
def test_normalisers(normaliser: str, losses: list[float]) -> None:
    """The divisors are the answer's own tokens; 2, the mean tokens of an answer; and 8, the most an answer may have."""
    made = batch([[0.0], [0.0, 0.0, 0.0]], [[1.0], [1.0, 1.0, 1.0]], longest=8)
    assert GRPO(beta=0.0, normaliser=normaliser)(made).tolist() == pytest.approx(losses, abs=1e-12)


def test_the_kl_stands_in_the_loss_as_k3() -> None:
    """One token at -1, reference at -1.5: x = -0.5, k3 = e^-0.5 - 0.5; slope 1 - e^x."""
    made = batch([[0.0]], [[0.0]], reference=[[-1.5]])
    loss = GRPO(beta=0.2)(made)
    (slope,) = torch.autograd.grad(loss.sum(), made.answers.tokens)
    assert loss.item() == pytest.approx(0.2 * (math.exp(-0.5) - 0.5), abs=1e-12)
    assert slope.item() == pytest.approx(0.2 * (1 - math.exp(-0.5)), abs=1e-12)
    assert float(GRPO(beta=0.2).metrics(made)["kl"]) == pytest.approx(math.exp(-0.5) - 0.5)


def test_the_clip_may_be_wider_above() -> None:
    made = batch([[math.log(1.25), math.log(0.75)]], [[1.0, -1.0]])
    assert GRPO(beta=0.0, clip=0.2, clip_higher=0.28)(made).item() == pytest.approx((-1.25 + 0.8) / 2, abs=1e-12)
    wide, narrow = GRPO(beta=0.0, clip_higher=0.28), GRPO(beta=0.0)
    assert [float(one.metrics(made)["policy/clipfrac_avg"]) for one in (wide, narrow)] == [0.5, 1.0]
    assert GRPO(beta=0.0, clip=0.2)(made).item() == pytest.approx((-1.2 + 0.8) / 2, abs=1e-12)


def test_the_function_by_itself() -> None:
    zeros = torch.zeros(1, 1)
    assert grpo_loss(zeros, zeros + 2, zeros, zeros, beta=0.1, low=0.2, high=0.2).item() == -2.0


def test_values_out_of_range_are_refused() -> None:
    assert refused(GRPO, beta=-1.0, samples=1, normaliser="mean", clip_higher=-1.0) == [
        "samples", "beta", "clip_higher", "normaliser",
    ]  # fmt: skip


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="of one shape"):
        grpo_loss(
            torch.zeros(3, 2), torch.zeros(3, 1), torch.zeros(3, 2), torch.zeros(3, 2), beta=0.1, low=0.2, high=0.2
        )
