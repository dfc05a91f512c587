"""Objectives on tables of answers, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from alignlab.objectives.dpo import DPO
from alignlab.objectives.ipo import IPO
from alignlab.papers.tabular import Answers, Preferences, tensor, total_variation

TWO = Answers(np.log([0.25, 0.75]))
PAIR = np.array([[0.0, 2.0], [0.0, 0.0]])


def test_expected_loss_weighs_ordered_pairs() -> None:
    """h = log(.5 / .25) - log(.5 / .75) = log 3, so DPO at beta 1 is log(1 + 1/3), weighted by 2."""
    policy = torch.log(tensor(0.5, 0.5))
    assert float(TWO.expected_loss(DPO(1.0), PAIR)(policy)) == pytest.approx(2 * math.log(4 / 3), abs=1e-12)


def test_log_probabilities_are_spread_over_tokens_and_sum_up() -> None:
    logps = Answers(np.log([0.25, 0.75]), np.array([1, 3])).logps(torch.log(tensor(0.5, 0.5)), torch.tensor([1, 0]))
    assert logps.count.tolist() == [3, 1]
    assert logps.logp("sum").exp().tolist() == pytest.approx([0.5, 0.5])
    assert logps.logratio("sum").exp().tolist() == pytest.approx([2 / 3, 2.0])


def test_minimum_of_ipo_on_a_pair() -> None:
    """h = 1 / (2 tau) = 1: pi_1 / pi_2 = e / 3."""
    landed = TWO.minimum(TWO.expected_loss(IPO(0.5), PAIR))
    assert landed[0] - landed[1] == pytest.approx(1 - math.log(3), abs=1e-6)
    assert np.exp(landed).sum() == pytest.approx(1.0, abs=1e-12)


def test_gradient_by_logits() -> None:
    """At the reference, DPO's gradient in h is -beta / 2, and h moves with the first logit and against the second."""
    assert TWO.gradient(TWO.expected_loss(DPO(0.3), PAIR), TWO.reference) == pytest.approx([-0.3, 0.3], abs=1e-12)


def test_preferences() -> None:
    """sigma(log 3) = 3/4: the better answer wins 1/4 * 1/2 + 3/4 * 3/4 of its comparisons with the reference."""
    made = Preferences(np.log([0.25, 0.75]), reward=np.array([math.log(3), 0.0]))
    assert made.wins[0] == pytest.approx(0.25 * 0.5 + 0.75 * 0.75)
    assert made.sampled.sum() == pytest.approx(1.0)
    assert made.sampled[0, 1] == pytest.approx(2 * 0.25 * 0.75 * 0.75)


def test_total_variation() -> None:
    assert total_variation(np.log([0.25, 0.75]), np.log([0.5, 0.5])) == pytest.approx(0.25)
