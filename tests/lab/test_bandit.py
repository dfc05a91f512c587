"""The bandit: its World, its data and its tabular policy."""

from __future__ import annotations

from pathlib import Path

import hydra
import numpy as np
import pytest
import torch

from alignlab.config.plan import plan
from alignlab.data.sources.bandit import Bandit as BanditData
from alignlab.errors import ConfigError
from alignlab.evaluation.exact import completion_logps
from alignlab.lab.bandit import Bandit
from alignlab.models.sources.bandit import Bandit as BanditModel
from alignlab.models.sources.hub import Hub
from alignlab.models.sources.tiny import Tiny
from alignlab.vectorized.eligibility import groups
from alignlab.vectorized.fit import run_vectorized


def test_the_reward_is_the_share_of_comparisons_won() -> None:
    world = Bandit(alphabet="abcd", comparisons=("ab", "ab", "bc", "ca"))
    assert world.completion_texts == ["", "a", "b", "c", "d"]
    np.testing.assert_allclose(world.gold_reward, [[0, 2 / 3, 1 / 3, 1 / 2, 1 / 2]])


def test_rows_are_the_comparisons() -> None:
    rows = BanditData(comparisons=["ab", "ca"]).pairs("train", None).rows
    assert [(row.prompt, row.chosen, row.rejected, row.chosen_ended) for row in rows] == [
        ("", "a", "b", False),
        ("", "c", "a", False),
    ]
    for wrong in (["aa"], ["abc"], ["ax"], []):
        with pytest.raises(ConfigError, match="two different letters"):
            BanditData(comparisons=wrong)


def test_the_policy_is_softmax_of_theta_and_nothing_else_is_trained() -> None:
    model, tokenizer = BanditModel(name="bandit").load()
    assert [(name, p.shape) for name, p in model.named_parameters() if p.requires_grad] == [("lm_head.weight", (4, 1))]
    theta = [0.3, -1.0, 2.0]
    with torch.no_grad():
        model.lm_head.weight[:3, 0] = torch.tensor(theta)
    found = np.exp(completion_logps(model, tokenizer, Bandit(alphabet="abc")))[0]
    expected = np.exp(theta) / np.exp(theta).sum()
    np.testing.assert_allclose(found, [0.0, *expected], rtol=1e-6)


@pytest.mark.parametrize("source", [BanditModel(name="b"), Tiny(name="t", alphabet="abc"), Tiny(name="t", layers=3)])
def test_parameters_are_counted_before_loading(source: BanditModel | Tiny) -> None:
    assert source.parameters == sum(p.numel() for p in source.load()[0].parameters())


@pytest.mark.slow  # 13 s: 2,500 updates
@pytest.mark.usefixtures("hydra_conf")
def test_ipo_on_bandits_ends_at_its_closed_form(tmp_path: Path) -> None:
    """s = Lap^+ (wins - losses) / (2 tau), policy = softmax(s): least squares over the graph of comparisons.

    D1 = {ab, bc, ac} with its normal equations solved by hand: s = (2, 0, -2) / 3 / (2 tau); D2, a circle: uniform.
    """
    base = ["experiment=bandit_ipo", "tracking=none", "trainer.max_steps=2500", "trainer.progress=false"]
    cases = {
        (f"objective.tau={tau}", data): scores
        for tau in (0.5, 1.0)
        for data, scores in (
            ("data.comparisons=[ab,bc,ac]", np.array([2, 0, -2]) / 3 / (2 * tau)),
            ("data.comparisons=[ab,bc,ca]", np.zeros(3)),
        )
    }
    plans = [plan(hydra.compose("train", [*base, *case, f"output_root={tmp_path}"])) for case in cases]
    ((stack,), _) = groups(plans)
    assert set(run_vectorized(stack).values()) == {None}
    for point, scores in zip(plans, cases.values(), strict=True):
        model, tokenizer = Hub(name=str(tmp_path / "runs" / point.id / "policy")).load()
        found = np.exp(completion_logps(model, tokenizer, Bandit(alphabet="abc")))[0, 1:]
        expected = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(found, expected, atol=0.03)  # Adam's noise at a constant rate
