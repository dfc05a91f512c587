"""IPO against closed forms."""

from __future__ import annotations

import math

import pytest

from alignlab.objectives.ipo import IPO, ipo_loss
from alignlab.types import PairLogps
from tests.objectives.build import gradients, pair, refused, scalar


def two_and_four_tokens() -> PairLogps:
    """Sums -2 against -6 and -8 against -6: h = 4 - (-2) = 6. Per token: 4/2 - (-2)/4 = 2.5."""
    return pair([[-1.0, -1.0]], [[-2.0, -2.0, -2.0, -2.0]], [-6.0], [-6.0])


# (h - 5)^2 at tau 0.1; gradient 2 (h - 5) in the preferred answer, the opposite in the other one.
@pytest.mark.parametrize(
    ("chosen", "rejected", "loss", "gradient"),
    [(2.0, -5.0, 4.0, 4.0), (0.0, 0.0, 25.0, -10.0), (-10.0, 5.0, 400.0, -40.0), (3.0, -2.0, 0.0, 0.0)],
)
def test_value_and_gradient(chosen: float, rejected: float, loss: float, gradient: float) -> None:
    w, l = scalar(chosen), scalar(rejected)
    out = ipo_loss(w, l, tau=0.1)
    assert out.item() == pytest.approx(loss, abs=1e-12)
    assert gradients(out, w, l) == pytest.approx([gradient, -gradient], abs=1e-12)


def test_minimum_where_the_margin_is_half_of_one_over_tau() -> None:
    """At tau 0.25 the minimum is at h* = 2. The loss is higher on both sides."""
    losses = [ipo_loss(scalar(h), scalar(0.0), tau=0.25).item() for h in (1.9, 2.0, 2.1)]
    assert losses == pytest.approx([0.01, 0.0, 0.01], abs=1e-12)


def test_sum_and_mean_are_different_objectives() -> None:
    """At tau 0.25 the target is 2. Sums: (6 - 2)^2, gradient +-8 per token. Means: (2.5 - 2)^2, gradient 1/2 and -1/4
    per token.
    """
    summed, mean = two_and_four_tokens(), two_and_four_tokens()
    out = IPO(tau=0.25, reduction="sum")(summed), IPO(tau=0.25, reduction="mean")(mean)
    assert [loss.item() for loss in out] == pytest.approx([16.0, 0.25], abs=1e-12)
    assert gradients(out[0], summed.chosen.tokens, summed.rejected.tokens) == pytest.approx([8.0] * 2 + [-8.0] * 4)
    assert gradients(out[1], mean.chosen.tokens, mean.rejected.tokens) == pytest.approx([0.5] * 2 + [-0.25] * 4)


def test_end_token_and_masks() -> None:
    """Rows of 1 and 2 tokens against 2 and 1: h = 1 - (-1) and 0.5 - 1.5. At tau 0.5 the target is 1."""
    batch = pair([[-3.0], [-1.0, -2.0]], [[-2.0, -2.0], [-5.0]], [-4.0, -3.5], [-3.0, -6.5])
    loss = IPO(tau=0.5)(batch)
    assert loss.tolist() == pytest.approx([1.0, 4.0], abs=1e-12)
    expected = [2.0, 0, -4.0, -4.0, -2.0, -2.0, 4.0, 0]
    assert gradients(loss, batch.chosen.tokens, batch.rejected.tokens) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("dialect", "reduction"),
    [
        ("paper", "sum"),
        ("dpo_repo", "sum"),
        ("openrlhf", "sum"),
        ("trl0", "mean"),
        ("trl1", "mean"),
        ("halos", "mean"),
    ],
)
def test_dialects(dialect: str, reduction: str) -> None:
    assert IPO(tau=0.1, dialect=dialect).reduction == reduction
    other = {"sum": "mean", "mean": "sum"}[reduction]
    assert IPO(tau=0.1, dialect=dialect, reduction=other).reduction == other, "an explicit field wins"


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_what_is_said_of_it(reduction: str) -> None:
    """The loss is 1 / (4 tau^2) = 25 at tau 0.1, for all lengths."""
    objective = IPO(tau=0.1, reduction=reduction)
    assert objective.reward_scale == 0.1
    assert objective.loss_at_reference == pytest.approx(25.0)
    same = pair([[-1.0, -2.0]], [[-5.0]], [-3.0], [-5.0])
    assert objective(same).item() == pytest.approx(25.0, abs=1e-12)


def test_remarks_tell_the_target_and_a_tau_of_the_other_reduction() -> None:
    assert [*IPO(tau=0.1).data_warnings({})] == ["IPO's target for the log-ratio margin is 1 / (2 tau) = 5 nats"]
    assert len([*IPO(tau=2.0).data_warnings({})]) == 1
    target, warning = IPO(tau=2.0, dialect="trl1").data_warnings({})
    assert target.endswith("= 0.25 nats per token")
    assert "reduction=mean" in warning


@pytest.mark.parametrize("tau", [0.0, -0.1, math.inf, math.nan])
def test_tau_out_of_range_is_refused(tau: float) -> None:
    assert refused(IPO, tau=tau) == ["tau"]


def test_all_problems_at_once() -> None:
    wrong = refused(IPO, tau=0.0, divergence="kl", divergence_alpha=2.0, reduction="median", dialect="trl")
    assert wrong == ["dialect", "tau", "divergence", "divergence_alpha", "reduction"]
