"""SimPO against closed forms; the numbers are worked out in the comments."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from alignlab.errors import ConfigError
from alignlab.objectives.cpo import CPO
from alignlab.objectives.simpo import SimPO, simpo_loss
from tests.objectives.build import pair, scalar


def test_value_and_gradient() -> None:
    """Means -1 over 2 tokens and -2 over 4, beta 2, gamma 1: z = 2 * 1 - 1 = 1.

    Loss softplus(-1) = 0.31326168751822283; slope in the means -+2 sigmoid(-1) = -+0.53788284273999024, of which a
    token gets a half and a quarter.
    """
    batch = pair([[-0.5, -1.5]], [[-2.0, -1.0, -3.0, -2.0]])
    loss = SimPO(beta=2.0, gamma=1.0)(batch)
    chosen, rejected = torch.autograd.grad(loss.sum(), (batch.chosen.tokens, batch.rejected.tokens))
    assert loss.item() == pytest.approx(0.31326168751822283, abs=1e-14)
    assert chosen[0].tolist() == pytest.approx([-0.26894142136999512] * 2, abs=1e-14)
    assert rejected[0].tolist() == pytest.approx([0.13447071068499756] * 4, abs=1e-14)


@pytest.mark.parametrize("beta", [0.5, 2.0, 10.0])
def test_ln_2_where_the_margin_is_reached(beta: float) -> None:
    """z is 0 at a difference of gamma / beta (absolute) or of gamma, for every beta (ratio). The slope is -beta / 2."""
    for margin, difference in (("absolute", 1.5 / beta), ("ratio", 1.5)):
        batch = pair([[-1.0]], [[-1.0 - difference]])
        loss = SimPO(beta=beta, gamma=1.5, margin=margin)(batch)
        (slope,) = torch.autograd.grad(loss.sum(), batch.chosen.tokens)
        assert loss.item() == pytest.approx(math.log(2.0), abs=1e-14)
        assert slope.item() == pytest.approx(-beta / 2, abs=1e-13)


def test_ratio_of_one_half_at_beta_2_is_an_absolute_1() -> None:
    batch = pair([[-1.0], [-3.0, -1.0]], [[-2.0, -1.0], [-0.5]])
    ratio, absolute = SimPO(beta=2.0, gamma=0.5, margin="ratio"), SimPO(beta=2.0, gamma=1.0, margin="absolute")
    assert torch.equal(ratio(batch), absolute(batch))
    assert not torch.equal(absolute(batch), SimPO(beta=2.0, gamma=0.5)(batch))


def test_without_margin_and_with_equal_lengths_it_is_cpo_without_nll() -> None:
    """With four tokens each, the mean times beta 2 equals the sum times beta 0.5."""
    batch = pair([[-1.0, -2.0, -0.5, -3.0]], [[-2.0, -2.0, -1.0, -4.0]])
    assert torch.equal(SimPO(beta=2.0, gamma=0.0)(batch), CPO(beta=0.5, nll_weight=0.0)(batch))


@pytest.mark.parametrize(
    ("dialect", "margin"),
    [("paper", "absolute"), ("trl1", "absolute"), ("trl0", "absolute"), ("simpo_repo", "ratio"), ("halos", "ratio")],
)
def test_dialects_name_the_unit_of_gamma(dialect: str, margin: str) -> None:
    assert SimPO(beta=2.0, gamma=0.5, dialect=dialect).margin == margin
    assert SimPO(beta=2.0, gamma=0.5, dialect=dialect, margin="ratio").margin == "ratio"


def test_needs_no_reference_and_rewards_means() -> None:
    objective = SimPO(beta=2.5, gamma=1.4)
    assert (objective.requires.data, objective.requires.length) == ("pairs", "mean")
    assert not objective.requires.reference
    assert objective.reward_scale == 2.5


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"beta": 0.0, "gamma": 1.0}, "beta"),
        ({"beta": 2.0, "gamma": -0.1}, "gamma"),
        ({"beta": 2.0, "gamma": math.nan}, "gamma"),
        ({"beta": 2.0, "gamma": 1.0, "margin": "relative"}, "margin"),
        ({"beta": 2.0, "gamma": 1.0, "margin": "ratio", "dialect": "openrlhf"}, "dialect"),
    ],
)
def test_out_of_range_is_refused(given: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SimPO(**given)
    assert [problem.key for problem in caught.value.problems] == [key]


def test_shapes_are_never_broadcast() -> None:
    with pytest.raises(ValueError, match="one shape"):
        simpo_loss(torch.zeros(3), scalar(0.0), beta=2.0, gamma=1.0)
