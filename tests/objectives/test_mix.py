"""Mixtures against sums worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from alignlab.errors import ConfigError
from alignlab.objectives.apo_zero_unpaired import APOZeroUnpaired
from alignlab.objectives.dpo import DPO
from alignlab.objectives.kto import KTO
from alignlab.objectives.mix import Mix, mix_loss
from alignlab.objectives.sft import SFT
from alignlab.types import LabelledLogps, PairLogps
from tests.objectives.build import logps, pair

DPO_PART: dict[str, Any] = {"name": "dpo", "beta": 0.1}
BCO_PART: dict[str, Any] = {"name": "bco", "beta": 0.1, "shift": "none"}

# DPO at beta 0.1 on the pair below: z = 0.5, softplus(-0.5), and 0.1 sigmoid(-0.5)
DPO_LOSS, DPO_SLOPE = 0.47407698418010668, 0.037754066879814544


def one_pair() -> PairLogps:
    """Sums -3 and -8 on 2 and 4 tokens, log-ratios 1 and -4."""
    return pair([[-1.0, -2.0]], [[-2.0, -3.0, -1.0, -2.0]], [-4.0], [-4.0])


def test_value_and_gradient() -> None:
    """Half of DPO plus twice SFT on the preferred answer, whose NLL is 3 / 2 per token: 0.5 * 0.474... + 3."""
    batch = one_pair()
    loss = Mix(parts=[{**DPO_PART, "weight": 0.5}, {"name": "sft", "weight": 2}])(batch)
    chosen, rejected = torch.autograd.grad(loss.sum(), (batch.chosen.tokens, batch.rejected.tokens))
    assert loss.tolist() == pytest.approx([0.5 * DPO_LOSS + 3.0], abs=1e-14)
    assert chosen[0].tolist() == pytest.approx([-0.5 * DPO_SLOPE - 2.0 * 0.5] * 2, abs=1e-14)
    assert rejected[0].tolist() == pytest.approx([0.5 * DPO_SLOPE] * 4, abs=1e-14)


def test_labelled_objectives_take_the_mean_of_both_answers() -> None:
    """BCO at 0.1 and -0.4: softplus(-0.1) = 0.64439666007357089 and softplus(-0.4) = 0.51301525239995262, halved.

    Slopes are half of -0.1 sigmoid(-0.1) = -0.047502081252106 and of 0.1 sigmoid(-0.4) = 0.0401312339887548.
    """
    batch = one_pair()
    loss = Mix(parts=[DPO_PART, BCO_PART])(batch)
    chosen, rejected = torch.autograd.grad(loss.sum(), (batch.chosen.tokens, batch.rejected.tokens))
    assert loss.tolist() == pytest.approx([DPO_LOSS + (0.64439666007357089 + 0.51301525239995262) / 2], abs=1e-14)
    assert chosen[0].tolist() == pytest.approx([-DPO_SLOPE - 0.047502081252106 / 2] * 2, abs=1e-13)
    assert rejected[0].tolist() == pytest.approx([DPO_SLOPE + 0.0401312339887548 / 2] * 4, abs=1e-13)


def test_every_row_keeps_to_itself() -> None:
    """Second pair alone: log-ratios 2 and 2, DPO ln 2; APO-zero on one answer each: (1 - s + s) / 2 = 1/2."""
    batch = pair([[-1.0, -2.0], [-1.0]], [[-2.0, -3.0, -1.0, -2.0], [-1.0, -5.0]], [-4.0, -3.0], [-4.0, -8.0])
    parts = [DPO_PART, {"name": "apo_zero_unpaired", "beta": 0.1}]
    both = Mix(parts=parts)(batch)
    assert both[0].item() == Mix(parts=parts)(one_pair()).item()
    assert both[1].item() == pytest.approx(math.log(2.0) + 0.5, abs=1e-15)


def test_one_part_of_weight_1_is_that_part() -> None:
    batch = one_pair()
    assert torch.equal(Mix(parts=[DPO_PART])(batch), DPO(beta=0.1)(batch))
    answers = logps([[-1.0, -2.0], [-4.0]])
    assert torch.equal(Mix(parts=[{"name": "sft"}])(answers), SFT()(answers))


def test_weight_0_leaves_a_part_out() -> None:
    parts = [DPO_PART, {"name": "sft", "weight": 0}]
    assert torch.equal(Mix(parts=parts)(one_pair()), DPO(beta=0.1)(one_pair()))


def test_labelled_objectives_among_themselves_see_the_rows_as_they_are() -> None:
    batch = LabelledLogps(
        logps([[-1.0], [-2.0], [-3.0]], [-2.0, -2.0, -1.0]), torch.tensor([True, False, False]), logps([[-1.0]], [-1.5])
    )
    parts = [{"name": "kto", "beta": 0.1, "weight": 3.0}, {"name": "apo_zero_unpaired", "beta": 0.2}]
    expected = 3.0 * KTO(beta=0.1)(batch) + APOZeroUnpaired(beta=0.2)(batch)
    torch.testing.assert_close(Mix(parts=parts)(batch), expected, atol=1e-15, rtol=0)
    assert Mix(parts=parts).requires.mismatched


def test_two_parts_of_one_objective_are_told_apart() -> None:
    """z is 0.5 at beta 0.1 and 1 at beta 0.2: softplus(-1) = 0.31326168751822283."""
    mixed = Mix(parts=[DPO_PART, {"name": "dpo", "beta": 0.2}])
    metrics = mixed.metrics(one_pair())
    assert mixed(one_pair()).item() == pytest.approx(DPO_LOSS + 0.31326168751822283, abs=1e-14)
    assert metrics["parts/dpo"].item() == pytest.approx(DPO_LOSS, abs=1e-14)
    assert metrics["parts/dpo_2"].item() == pytest.approx(0.31326168751822283, abs=1e-14)


def test_metrics_are_those_of_the_parts_and_their_unweighted_losses() -> None:
    """The preferred answer's NLL is 1.5 per token; mean log-probabilities -1.5 and -2 for ORPO's odds."""
    metrics = Mix(parts=[{"name": "sft", "weight": 5}, {**BCO_PART, "weight": 3}, {"name": "orpo", "odds_weight": 0.0}])
    found = metrics.metrics(one_pair())
    assert found["parts/sft"].item() == 1.5
    assert found["parts/orpo"].item() == 1.5
    assert found["parts/bco"].item() == pytest.approx((0.64439666007357089 + 0.51301525239995262) / 2, abs=1e-14)
    assert found["bco/delta"].item() == 0.0
    assert found["log_odds_clamped_frac"].item() == 0.0


def test_needs_are_those_of_all_parts() -> None:
    needs = Mix(parts=[{"name": "sft"}, {"name": "simpo", "beta": 2.0, "gamma": 1.0}, DPO_PART]).requires
    assert (needs.data, needs.length, needs.reference) == ("pairs", "mean", True)
    assert not needs.couples_batch
    assert Mix(parts=[DPO_PART, {"name": "aot", "beta": 0.1}]).requires.couples_batch
    assert Mix(parts=[DPO_PART, {"name": "tdpo", "beta": 0.1}]).requires.live_reference
    alone = Mix(parts=[{"name": "sft"}]).requires
    assert (alone.data, alone.reference) == ("completions", False)


def test_rewards_are_those_of_the_first_part_that_compares() -> None:
    assert Mix(parts=[{"name": "sft"}, {"name": "dpo", "beta": 0.3}, DPO_PART]).reward_scale == 0.3


def test_loss_at_reference_is_the_weighted_sum_where_all_parts_have_one() -> None:
    """Twice ln 2 and half of the hinge's 1."""
    known = Mix(parts=[{**DPO_PART, "weight": 2}, {"name": "hinge", "beta": 0.1, "weight": 0.5}])
    assert known.loss_at_reference == pytest.approx(2 * math.log(2.0) + 0.5, abs=1e-15)
    assert Mix(parts=[DPO_PART, {"name": "sft"}]).loss_at_reference is None


def test_parts_speak_for_themselves() -> None:
    remarks = list(Mix(parts=[DPO_PART, {"name": "ipo", "tau": 0.1}]).data_warnings({"pairs": 3}))
    assert len(remarks) == 1
    assert "1 / (2 tau) = 5" in remarks[0]


@pytest.mark.parametrize(
    ("part", "key", "text"),
    [
        ({"name": "dpoo", "beta": 0.1}, "parts.1.name", "no such objective; there are: aot, "),
        ({"name": "mix", "parts": []}, "parts.1.name", "no such objective"),
        ({"beta": 0.1}, "parts.1", "must hold an objective's name"),
        ("dpo", "parts.1", "must hold an objective's name"),
        ({"name": "cpo", "beta": 0.1, "alpha": 1.0}, "parts.1.alpha", "no such key; cpo has: beta, nll_weight, nll, "),
        ({"name": "ipo"}, "parts.1.tau", "needs a value"),
        ({"name": "sft", "weight": -0.5}, "parts.1.weight", "at least 0"),
        ({"name": "sft", "weight": math.nan}, "parts.1.weight", "at least 0"),
        ({"name": "sft", "weight": "much"}, "parts.1.weight", "at least 0"),
        ({"name": "dpo", "beta": -1.0}, "parts.1.beta", "must be greater than 0"),
        ({"name": "dpo", "beta": "small"}, "parts.1.beta", "must be a number"),
        ({"name": "dpo", "beta": True}, "parts.1.beta", "must be a number"),
        ({"name": "sft", "weight": True}, "parts.1.weight", "at least 0"),
        ({"name": "reward_model"}, "parts.1", "works on rankings and can't be mixed with pairs"),
        ({"name": "kto", "beta": 0.1}, "parts.1", "works on labelled and can't be mixed with pairs"),
        ({"name": "bco", "beta": 0.1}, "parts.1", "keeps a state"),
    ],
)
def test_a_bad_part_is_refused_by_its_place(part: Any, key: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Mix(parts=[DPO_PART, part])
    (problem,) = caught.value.problems
    assert problem.key == key
    assert text in problem.allowed


def test_shapes_that_do_not_mix_without_pairs() -> None:
    for first, second, key in (
        ({"name": "sft"}, BCO_PART, "parts.0"),
        ({"name": "apo_zero_unpaired", "beta": 0.1}, {"name": "reward_model"}, "parts.1"),
    ):
        with pytest.raises(ConfigError, match="can't be mixed") as caught:
            Mix(parts=[first, second])
        assert [problem.key for problem in caught.value.problems] == [key]


def test_no_parts_and_all_problems_at_once() -> None:
    with pytest.raises(ConfigError, match="at least one objective"):
        Mix(parts=[])
    with pytest.raises(ConfigError) as caught:
        Mix(
            parts=[
                {"name": "dpo", "beta": -1.0, "label_smoothing": 0.7},
                {"name": "nope"},
                {"name": "sft", "weight": -1},
            ]
        )
    assert [problem.key for problem in caught.value.problems] == [
        "parts.0.beta",
        "parts.0.label_smoothing",
        "parts.1.name",
        "parts.2.weight",
    ]


def test_losses_and_weights_go_together() -> None:
    one, two = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])
    assert mix_loss([one, two], [3.0, 0.5]).tolist() == [8.0, 16.0]
    with pytest.raises(ValueError, match="shorter"):
        mix_loss([one, two], [1.0])


def test_parts_are_recorded_with_their_effective_values() -> None:
    """Parts show effective values: dialects are filled in, weights and integers are floats. Equal mixes are equal."""
    short = Mix(parts=[{"name": "cpo", "beta": 1}, {"name": "sft"}])
    assert short.parts == [
        {"name": "cpo", "weight": 1.0, "beta": 1.0, "nll_weight": 1.0, "nll": "sum", "dialect": "paper"},
        {"name": "sft", "weight": 1.0},
    ]
    assert Mix(parts=[{"name": "cpo", "beta": 1.0, "dialect": "paper"}, {"name": "sft", "weight": 1}]) == short
    assert Mix(parts=short.parts) == short


def test_a_part_needs_a_name_that_is_a_word() -> None:
    with pytest.raises(ConfigError) as caught:
        Mix(parts=[{"name": ["dpo"], "beta": 0.1}])
    assert [problem.key for problem in caught.value.problems] == ["parts.0"]


def test_parts_that_log_the_same_name_do_not_overwrite_each_other() -> None:
    """With two ORPOs, the first one's metric keeps its name, and the second one's is under its own part."""
    mixed = Mix(parts=[{"name": "orpo", "odds_weight": 0.1}, {"name": "orpo", "odds_weight": 0.5}])
    found = mixed.metrics(pair([[-1.0, -2.0]], [[-3.0]]))
    assert {"log_odds_ratio", "parts/orpo", "parts/orpo_2", "parts/orpo_2/log_odds_ratio"} <= found.keys()
