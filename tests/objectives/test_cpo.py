"""CPO against closed forms; the numbers are worked out in the comments."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from alignlab.errors import ConfigError
from alignlab.objectives.cpo import CPO, cpo_loss
from alignlab.objectives.dpo import DPO
from tests.objectives.build import pair

# Sums -3 over 2 tokens and -8 over 4; at beta 0.1 z = 0.1 * 5: softplus(-0.5) = 0.47407698418010668, and the slope of
# the margin is 0.1 sigmoid(-0.5) = 0.037754066879814544.
CHOSEN, REJECTED = [[-1.0, -2.0]], [[-2.0, -3.0, -1.0, -2.0]]
MARGIN, SLOPE = 0.47407698418010668, 0.037754066879814544


# The NLL is 3 as a sum and 1.5 per token. The batch has one row, so "tokens" equals "mean". The weight is 0.5.
@pytest.mark.parametrize(
    ("nll", "term", "per_token"), [("sum", 1.5, 0.5), ("mean", 0.75, 0.25), ("tokens", 0.75, 0.25)]
)
def test_value_and_gradient(nll: str, term: float, per_token: float) -> None:
    batch = pair(CHOSEN, REJECTED)
    loss = CPO(beta=0.1, nll_weight=0.5, nll=nll)(batch)
    chosen, rejected = torch.autograd.grad(loss.sum(), (batch.chosen.tokens, batch.rejected.tokens))
    assert loss.item() == pytest.approx(MARGIN + term, abs=1e-14)
    assert chosen[0].tolist() == pytest.approx([-SLOPE - per_token] * 2, abs=1e-14)
    assert rejected[0].tolist() == pytest.approx([SLOPE] * 4, abs=1e-14)


# Preferred answers have NLL 4 on 1 token and NLL 9 on 3 tokens: 2 tokens on average. Both answers of a pair have equal
# sums, so the margin's loss is ln 2.
@pytest.mark.parametrize(("nll", "terms"), [("sum", [4.0, 9.0]), ("mean", [4.0, 3.0]), ("tokens", [2.0, 4.5])])
def test_the_three_nlls_over_answers_of_different_lengths(nll: str, terms: list[float]) -> None:
    batch = pair([[-4.0], [-2.0, -3.0, -4.0]], [[-1.0, -3.0], [-9.0]])
    loss = CPO(beta=0.1, nll=nll)(batch)
    assert loss.tolist() == pytest.approx([math.log(2.0) + term for term in terms], abs=1e-14)


def test_token_nll_divides_by_the_global_mean_length() -> None:
    """With 6 tokens per row over the global batch, the NLL of 3 counts 0.5."""
    batch = pair(CHOSEN, REJECTED)
    batch = replace(batch, chosen=replace(batch.chosen, mean_count=6.0))
    assert CPO(beta=0.1, nll="tokens")(batch).item() == pytest.approx(MARGIN + 0.5, abs=1e-14)


def test_it_is_dpo_under_a_reference_of_zeros_plus_the_nll() -> None:
    rows = [[-1.0, -2.0], [-5.0]], [[-4.0], [-2.0, -0.5]]
    zeros = pair(*rows, [0.0, 0.0], [0.0, 0.0])
    assert torch.equal(CPO(beta=0.3, nll_weight=0.0)(pair(*rows)), DPO(beta=0.3)(zeros))
    expected = DPO(beta=0.3)(zeros) + 2.0 * torch.tensor([3.0, 5.0], dtype=torch.float64)
    assert torch.equal(CPO(beta=0.3, nll_weight=2.0)(pair(*rows)), expected)


def test_dialects() -> None:
    assert [CPO(beta=0.1, dialect=d).nll for d in ("paper", "trl1", "trl0")] == ["sum", "tokens", "tokens"]
    assert CPO(beta=0.1, dialect="trl1", nll="mean").nll == "mean"
    assert not CPO(beta=0.1).requires.reference
    assert CPO(beta=0.1).reward_scale == 0.1


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ({"beta": 0.0}, ["beta"]),
        ({"beta": 0.1, "nll_weight": -1.0}, ["nll_weight"]),
        ({"beta": 0.1, "nll": "total"}, ["nll"]),
        ({"beta": 0.1, "nll": "sum", "dialect": "halos"}, ["dialect"]),
        ({"beta": math.inf, "nll_weight": math.nan}, ["beta", "nll_weight"]),
    ],
)
def test_out_of_range_is_refused(given: dict[str, Any], keys: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        CPO(**given)
    assert [problem.key for problem in caught.value.problems] == keys


def test_shapes_are_never_broadcast() -> None:
    with pytest.raises(ValueError, match="one shape"):
        cpo_loss(torch.zeros(3), torch.zeros(3), torch.zeros(1), beta=0.1, nll_weight=1.0)
