"""ORPO against closed forms; the numbers are worked out in the comments."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from alignlab.errors import ConfigError
from alignlab.objectives.dpo import dpo_loss
from alignlab.objectives.orpo import ORPO, log_odds, orpo_loss
from alignlab.objectives.sft import SFT
from tests.objectives.build import logps, pair, scalar


def test_value_and_gradient() -> None:
    """Means -0.5 over 2 tokens and -1 over 3, lambda 0.1.

    log odds: -0.5 - log(1 - e^-0.5) = 0.4327521296 and -1 - log(1 - e^-1) = -0.5413248546, z = 0.9740769842.
    Loss 0.5 + 0.1 softplus(-z) = 0.5 + 0.1 * 0.3202997852375365.
    Slopes in the means: -1 - 0.1 sigmoid(-z) / (1 - e^-0.5) = -1 - 0.1 * 0.69654377355306408, and
    0.1 sigmoid(-z) / (1 - e^-1) = 0.1 * 0.4335701714386563; a token gets a half and a third of them.
    """
    batch = pair([[-0.25, -0.75]], [[-1.0, -0.5, -1.5]])
    loss = ORPO(odds_weight=0.1)(batch)
    chosen, rejected = torch.autograd.grad(loss.sum(), (batch.chosen.tokens, batch.rejected.tokens))
    assert loss.item() == pytest.approx(0.53202997852375365, abs=1e-14)
    assert chosen[0].tolist() == pytest.approx([-1.069654377355306408 / 2] * 2, abs=1e-14)
    assert rejected[0].tolist() == pytest.approx([0.04335701714386563 / 3] * 3, abs=1e-14)


def test_log_odds_of_even_chances_and_three_to_one() -> None:
    odds = log_odds(torch.tensor([0.5, 0.75, 0.25], dtype=torch.float64).log())
    assert odds.tolist() == pytest.approx([0.0, math.log(3.0), -math.log(3.0)], abs=1e-15)


def test_without_weight_it_is_sft_on_the_preferred_answers() -> None:
    """Rows of 1 and 3 tokens with NLL 4 and 9: 4 and 3 per token; 2 and 4.5 over all tokens, as SFT has it."""
    batch = pair([[-4.0], [-2.0, -3.0, -4.0]], [[-1.0, -2.0], [-1.0]])
    assert ORPO(odds_weight=0.0)(batch).tolist() == [4.0, 3.0]
    tokens = ORPO(odds_weight=0.0, nll="tokens")(batch)
    assert tokens.tolist() == SFT()(batch.chosen).tolist() == [2.0, 4.5]
    assert not torch.autograd.grad(tokens.sum(), batch.rejected.tokens)[0].any()


def test_odds_term_is_dpo_on_log_odds() -> None:
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = -3 * torch.rand(2, 8, generator=generator, dtype=torch.float64)
    odds_term = orpo_loss(chosen, rejected, torch.zeros_like(chosen), odds_weight=1.0)
    assert torch.equal(odds_term, dpo_loss(log_odds(chosen), log_odds(rejected), beta=1.0))


def test_equal_means_cost_ln_2_times_lambda_beside_the_nll() -> None:
    loss = ORPO(odds_weight=0.5)(pair([[-1.0, -3.0]], [[-2.0]]))
    assert loss.item() == pytest.approx(2.0 + 0.5 * math.log(2.0), abs=1e-15)


def test_the_clamp_holds_the_log_odds_and_stops_the_gradient() -> None:
    """log odds at -1e-6: -1e-6 - log(1e-6 - 5e-13) = 13.8155100580; the slope there is 1 / (1 - P) = 1000000.5."""
    certain, beyond = scalar(-1e-6), scalar(-1e-7)
    odds = log_odds(torch.cat([certain, beyond]))
    at, past = torch.autograd.grad(odds.sum(), (certain, beyond))
    assert odds.tolist() == pytest.approx([13.815510057964232] * 2, abs=1e-9)
    assert at.item() == pytest.approx(1e6, rel=1e-6)
    assert past.item() == 0.0


def test_metrics() -> None:
    """Odds of 3 and of 1: difference ln 3, log sigmoid of it ln 0.75. One row of two lies beyond the clamp."""
    one = ORPO(odds_weight=0.1).metrics(pair([[math.log(0.75)]], [[math.log(0.5)]]))
    assert one["log_odds_chosen"].item() == pytest.approx(math.log(3.0), abs=1e-14)
    assert one["log_odds_ratio"].item() == pytest.approx(math.log(0.75), abs=1e-14)
    assert one["log_odds_clamped_frac"].item() == 0.0
    two = ORPO(odds_weight=0.1).metrics(pair([[-1.0], [-1.0]], [[-2.0], [0.0]]))
    assert two["log_odds_clamped_frac"].item() == 0.5


def test_rewards_are_means_times_lambda_and_need_no_reference() -> None:
    objective = ORPO(odds_weight=0.2)
    assert (objective.requires.data, objective.requires.length) == ("pairs", "mean")
    assert not objective.requires.reference
    assert objective.reward_scale == 0.2


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ({"odds_weight": -0.1}, ["odds_weight"]),
        ({"odds_weight": math.nan}, ["odds_weight"]),
        ({"odds_weight": 0.1, "nll": "sum"}, ["nll"]),
        ({"odds_weight": -1.0, "nll": "total"}, ["odds_weight", "nll"]),
    ],
)
def test_out_of_range_is_refused(given: dict[str, Any], keys: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        ORPO(**given)
    assert [problem.key for problem in caught.value.problems] == keys


def test_shapes_are_never_broadcast() -> None:
    side = logps([[-1.0], [-2.0]])
    with pytest.raises(ValueError, match="one shape"):
        orpo_loss(side.logp("mean"), side.logp("mean"), torch.zeros(1), odds_weight=0.1)
