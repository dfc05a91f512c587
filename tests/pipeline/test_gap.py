"""The parts of the gap: tables reach known optima, and the parts of a run add up to its gap."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignlab.data.sources import lab as lab_source
from alignlab.data.sources.bandit import Bandit
from alignlab.data.sources.lab import Lab
from alignlab.evaluation.exact import completion_logps
from alignlab.integrity import read_sealed
from alignlab.lab.frontier import kl, tilt
from alignlab.lab.weighted_pairs import WeightedPairs
from alignlab.lab.world import World
from alignlab.models.sources.tiny import Tiny
from alignlab.objectives.dpo import DPO
from alignlab.objectives.ipo import IPO
from alignlab.pipeline.gap import minimum, model_minimum
from alignlab.pipeline.tree_policy import AnswerPolicy, Minimised, ModelPolicy, TreePolicy

SMALL = World(alphabet="ab", length=2, prompts=2, prompt_length=1)


def test_a_table_starts_at_its_reference_token_by_token() -> None:
    policy = TreePolicy(SMALL, SMALL.demonstrator_logps)
    assert policy.table() == pytest.approx(SMALL.demonstrator_logps, abs=1e-12)
    tokens = policy.token_logps().detach().numpy()
    assert tokens.shape == (2, 7, 2)
    assert policy.mask.sum(1).tolist() == [1, 2, 2, 2, 2, 2, 2], "the empty completion is its end token only"


def test_pairs_of_the_lab_are_what_its_rows_are() -> None:
    """The shares of 20,000 sampled pairs are within five standard errors of the enumerated ones."""
    lab = Lab(
        alphabet="ab",
        length=2,
        prompts=2,
        prompt_length=1,
        pair_count=20_000,
        flipped=0.1,
        train_limit=0,
        eval_limit=10,
    )
    reference = lab.world.demonstrator_logps
    pairs = lab.population(reference)
    assert pairs.whole
    exact = np.zeros((2, 7, 7))
    exact[pairs.prompt, pairs.better, pairs.worse] = pairs.weight
    assert exact.sum() == pytest.approx(1.0)
    sampled = np.zeros_like(exact)
    place = {text: i for i, text in enumerate(lab.world.completion_texts)}
    for pair in lab.pairs("train", lambda world: reference).rows:
        sampled[lab.world.prompt_texts.index(pair.prompt), place[pair.chosen], place[pair.rejected]] += 1 / 20_000
    assert np.abs(sampled - exact).max() < 5 * np.sqrt(exact.max() / 20_000)


def test_the_population_optimum_of_dpo_is_that_of_rlhf() -> None:
    """Theorem 1 of DPO: with Bradley-Terry labels it is pi_ref exp(r / beta), so this part of the gap is 0."""
    lab = Lab(alphabet="ab", length=2, prompts=2, prompt_length=1)
    reference = lab.world.demonstrator_logps
    pairs, optimum = lab.population(reference), tilt(reference, lab.world.gold_reward, 0.5)
    for policy in (AnswerPolicy(lab.world, reference, pairs), TreePolicy(lab.world, reference)):
        table, converged = minimum(policy, DPO(beta=0.5), pairs)
        assert converged
        assert kl(table, optimum) < 1e-6


def test_rare_answers_are_found_as_soon_as_frequent_ones() -> None:
    """By answer, 15 iterations reach an optimum 6.9 nats from the reference. By token, they are far from it."""
    data = Lab(alphabet="abc", length=3, prompts=2)
    reference = data.world.demonstrator_logps
    pairs, optimum = data.population(reference), tilt(reference, data.world.gold_reward, 0.1)
    by_answer, by_token = AnswerPolicy(data.world, reference, pairs), TreePolicy(data.world, reference)
    assert by_answer.table() == pytest.approx(reference, abs=1e-9)
    for policy in (by_answer, by_token):
        policy.minimise(DPO(beta=0.1), pairs, steps=15)
    assert kl(optimum, reference) == pytest.approx(6.88, abs=0.01)
    assert kl(by_answer.table(), optimum) < 1e-6
    assert kl(by_token.table(), optimum) > 1.0


def test_a_sample_of_pairs_stands_for_the_population(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the probabilities of the labels, the minimum over sampled pairs of answers is that over all of them."""
    data = Lab(alphabet="abc", length=2, prompts=3, prompt_length=1)
    reference = data.world.demonstrator_logps
    exact = data.population(reference)
    monkeypatch.setattr(lab_source, "MOST_PAIRS", 100)
    monkeypatch.setattr(lab_source, "SAMPLED_PAIRS", 3000)
    sampled = data.population(reference)
    assert (exact.whole, sampled.whole) == (True, False)
    assert sampled.weight.sum() == pytest.approx(1.0)
    table = [np.zeros((3, 13, 13)) for _ in range(2)]
    for pairs, shares in zip((exact, sampled), table, strict=True):
        np.add.at(shares, (pairs.prompt, pairs.better, pairs.worse), pairs.weight)
    assert np.abs(table[0] - table[1]).max() < 5 * np.sqrt(table[0].max() / 3000)
    found, converged = minimum(AnswerPolicy(data.world, reference, sampled), DPO(beta=0.5), sampled)
    assert converged
    assert kl(found, tilt(reference, data.world.gold_reward, 0.5)) < 1e-3


def test_a_model_is_minimised_over_all_prefixes_at_once() -> None:
    """It has the probabilities of the enumeration, and a model with enough freedom reaches the table's minimum."""
    tiny = Tiny(name="tiny", alphabet="ab", hidden_size=32, layers=1, heads=2, intermediate_size=64)
    model, tokenizer = tiny.load()
    exact = completion_logps(model, tokenizer, SMALL)
    assert ModelPolicy(SMALL, exact, model, tokenizer).table() == pytest.approx(exact, abs=1e-6)
    data = Lab(alphabet="ab", length=1, prompts=1, prompt_length=1)
    reference = completion_logps(model.float(), tokenizer, data.world)
    policy = ModelPolicy(data.world, reference, model, tokenizer)
    found = model_minimum(policy, DPO(beta=1.0), data.population(reference))
    assert found is not None
    assert kl(found, tilt(reference, data.world.gold_reward, 1.0)) < 1e-3


def test_a_model_that_does_not_settle_has_no_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """DPO on one certain pair lowers its loss for ever."""
    falling = iter(Minimised(1.0, 1.0 - 1e-4 * k) for k in range(100))
    monkeypatch.setattr(TreePolicy, "minimise", lambda *a, **k: next(falling))
    policy = TreePolicy(SMALL, SMALL.demonstrator_logps)
    assert model_minimum(policy, DPO(beta=1.0), WeightedPairs.of_table(np.ones((2, 7, 7)))) is None
    falling = iter([Minimised(1.0, 0.5), Minimised(1.0, 0.499995)])
    assert model_minimum(policy, DPO(beta=1.0), WeightedPairs.of_table(np.ones((2, 7, 7)))) is not None


def test_a_loss_without_a_minimum_is_told() -> None:
    one = Bandit(alphabet="ab", comparisons=["ab"])
    reference = np.log(np.array([[1e-30, 0.5, 0.5]]))
    pairs = one.population(reference)
    table, converged = minimum(AnswerPolicy(one.world, reference, pairs), DPO(beta=0.001), pairs)
    assert table[0, 1] > np.log(0.99)
    ipo, settled = minimum(AnswerPolicy(one.world, reference, pairs), IPO(tau=0.5), pairs)
    assert settled
    assert np.exp(ipo[0, 1]) == pytest.approx(1 / (1 + np.exp(-1.0)), abs=1e-6), "sigma(1 / (2 tau))"
    assert converged is False or table[0, 1] > np.log(0.9999)


def test_the_parts_of_a_run_add_up(alignlab: Callable[..., Any], drawn_figures: None) -> None:
    words = [
        "experiment=bandit_ipo",
        "tracking=none",
        "trainer.progress=false",
        "trainer.max_steps=5",
        "strength=0.5,1",
    ]
    assert alignlab("train", "-m", *words, "sweep.name=b").code == 0
    assert alignlab("plot", "gap", "b", "--style", "screen").code == 0
    assert Path("outputs/sweeps/b/figures/screen/gap.png").stat().st_size > 1000
    for folder in Path("outputs/runs").glob("ipo-*[0-9a-f]"):
        found, record = read_sealed(folder / "gap.json"), read_sealed(folder / "run.json")
        assert list(found["parts"]) == ["population optimum", "finite data", "optimisation"]
        assert sum(found["parts"].values()) == pytest.approx(record["summary"]["exact/frontier_gap"], abs=1e-5)
        assert found["parts"]["finite data"] == pytest.approx(0.0, abs=1e-9), "a bandit's pairs are all that there are"
    assert alignlab("report", "b").code == 0
    assert 'id="figure-gap"' in Path("outputs/sweeps/b/report.html").read_text()
    assert (
        "| setting | population optimum | finite data | optimisation |"
        in Path("outputs/sweeps/b/report.md").read_text()
    )
