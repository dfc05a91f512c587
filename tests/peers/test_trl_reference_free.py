"""TRL's CPOTrainer (with SimPO) and ORPOTrainer against our objectives without a reference, and the differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="TRL is not installed: pip install -e .[peers]")

from alignlab.data.rows import Completion
from alignlab.objectives.base import Objective
from alignlab.objectives.cpo import CPO
from alignlab.objectives.mix import Mix
from alignlab.objectives.orpo import ORPO, orpo_loss
from alignlab.objectives.sft import SFT
from alignlab.objectives.simpo import SimPO
from tests.peers.side_by_side import (
    PAIRS,
    Models,
    ModelSide,
    accumulated,
    assert_different,
    assert_same,
    combined,
    models,
    ours,
    preferences,
    theirs,
    tokens,
    trainer,
)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

BETA = 0.4
UNPROMPTED = preferences(6, seed=4, prompt=0)  # the prompt is only the token that begins every text


@pytest.fixture(scope="module")
def on() -> Models:
    return models()


def trl_cpo(folder: Path, on: Models, **options: Any) -> ModelSide:
    """CPOTrainer's loss, gradients and metrics on all pairs as one batch."""
    return theirs(trainer("cpo", folder, on, PAIRS, **{"beta": BETA, **options}))


def trl_orpo(folder: Path, on: Models, beta: float, rows: Any = PAIRS) -> ModelSide:
    """ORPOTrainer's loss, gradients and metrics on all pairs as one batch."""
    return theirs(trainer("orpo", folder, on, rows, beta=beta))


@pytest.mark.parametrize("kind", ["cpo", "orpo"])
def test_the_token_ids_are_the_same(kind: str, on: Models, tmp_path: Path) -> None:
    rows = [*PAIRS, *UNPROMPTED]
    made = trainer(kind, tmp_path, on, rows)
    for row, pair in zip(made.train_dataset, tokens(CPO(beta=BETA), rows, on.tokenizer), strict=True):
        assert row["prompt_input_ids"] == pair.prompt
        assert row["chosen_input_ids"] == [*pair.prompt, *pair.chosen]
        assert row["rejected_input_ids"] == [*pair.prompt, *pair.rejected]


def hinge(beta: float, nll_weight: float) -> Mix:
    """max(0, 1 - β (lp_w - lp_l)) as SLiC: beta times its hinge with δ = 1/β."""
    slic = {"name": "slic", "delta": 1 / beta, "nll_weight": 0.0, "weight": beta}
    return Mix(parts=[slic, {"name": "sft", "weight": nll_weight}])


@pytest.mark.parametrize(
    ("options", "objective"),
    [
        ({}, CPO(beta=BETA, dialect="trl1")),
        ({"cpo_alpha": 0.3}, CPO(beta=BETA, nll_weight=0.3, dialect="trl1")),
        ({"cpo_alpha": 0.0}, CPO(beta=BETA, nll_weight=0.0)),
        ({"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": 0.7}, SimPO(beta=BETA, gamma=0.7, dialect="trl1")),
        ({"loss_type": "hinge", "cpo_alpha": 0.5}, hinge(BETA, 0.5)),
    ],
)
def test_cpo(options: dict[str, Any], objective: Objective, on: Models, tmp_path: Path) -> None:
    assert_same(ours(objective, on, PAIRS), trl_cpo(tmp_path, on, **options))


def test_orpo_on_prompts_of_one_token(on: Models, tmp_path: Path) -> None:
    """With such prompts both NLLs count the same tokens. TRL's is a token mean, so ours has nll=tokens."""
    side = trl_orpo(tmp_path, on, 0.6, UNPROMPTED)
    assert_same(ours(ORPO(odds_weight=0.6, nll="tokens"), on, UNPROMPTED), side)
    assert_different(ours(ORPO(odds_weight=0.6), on, UNPROMPTED), side)


def test_orpo_odds_ratio_term(on: Models, tmp_path: Path) -> None:
    """The part of loss and gradients that the weight of the odds-ratio term adds."""
    side = combined([(1.0, trl_orpo(tmp_path, on, 0.6)), (-1.0, trl_orpo(tmp_path, on, 0.0))])
    mine = combined([(w, ours(ORPO(odds_weight=x), on, PAIRS)) for w, x in ((1.0, 0.6), (-1.0, 0.0))])
    assert_same(mine, side)
    assert mine.loss > 0.1


@pytest.mark.parametrize(
    ("options", "objective"),
    [
        ({}, CPO(beta=BETA, dialect="trl1")),
        ({"loss_type": "simpo", "simpo_gamma": 0.7}, SimPO(beta=BETA, gamma=0.7)),
    ],
)
def test_cpo_metrics_of_the_same_name(
    options: dict[str, Any], objective: Objective, on: Models, tmp_path: Path
) -> None:
    side, mine = trl_cpo(tmp_path, on, **options), ours(objective, on, PAIRS)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "nll_loss"):
        assert mine.metrics[name] == pytest.approx(side.metrics[name], rel=2e-6, abs=2e-6), name


def test_orpo_metrics_of_the_same_name(on: Models, tmp_path: Path) -> None:
    side, mine = trl_orpo(tmp_path, on, 0.6), ours(ORPO(odds_weight=0.6), on, PAIRS)
    rewards = [f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")]
    for name in (*rewards, "log_odds_ratio", "log_odds_chosen"):
        assert mine.metrics[name] == pytest.approx(side.metrics[name], rel=2e-6, abs=2e-6), name


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({}, CPO(beta=1.1 * BETA, dialect="trl1")),
        ({}, CPO(beta=BETA, nll_weight=1.05, dialect="trl1")),
        ({"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": 0.7}, SimPO(beta=BETA, gamma=0.75)),
    ],
)
def test_the_comparison_notices(options: dict[str, Any], wrong: Objective, on: Models, tmp_path: Path) -> None:
    assert_different(ours(wrong, on, PAIRS), trl_cpo(tmp_path, on, **options))


def test_the_comparison_notices_another_weight_of_the_odds(on: Models, tmp_path: Path) -> None:
    side = trl_orpo(tmp_path, on, 0.6, UNPROMPTED)
    assert_different(ours(ORPO(odds_weight=0.66, nll="tokens"), on, UNPROMPTED), side)


# Known differences.


def test_trl_cpo_nll_is_a_token_mean(on: Models, tmp_path: Path) -> None:
    """The paper, our default, has the NLL of whole answers. TRL has the mean per token of each micro-batch."""
    assert_different(ours(CPO(beta=BETA), on, PAIRS), trl_cpo(tmp_path, on))
    made = trainer("cpo", tmp_path, on, PAIRS, batch=2, gradient_accumulation_steps=3, beta=BETA)
    side = accumulated(made)
    objective = CPO(beta=BETA, dialect="trl1")
    parts = [ours(objective, on, PAIRS[i : i + 2]) for i in (0, 2, 4)]
    assert_same(combined([(1 / 3, part) for part in parts]), side)
    assert_different(ours(objective, on, PAIRS, micro=2), side)


def test_trl_cpo_has_label_smoothing(on: Models, tmp_path: Path) -> None:
    """TRL smooths the labels of CPO and SimPO (not of DPO). Ours has no such field, so the losses differ."""
    side = trl_cpo(tmp_path, on, label_smoothing=0.2, cpo_alpha=0.0)
    plain = trl_cpo(tmp_path, on, cpo_alpha=0.0)
    mine = ours(CPO(beta=BETA, nll_weight=0.0), on, PAIRS)
    assert_same(mine, plain)
    assert_different(mine, side)
    # -log σ(-z) = z - log σ(z), so smoothing by ε adds ε times the mean margin.
    assert side.loss == pytest.approx(mine.loss + 0.2 * mine.metrics["rewards/margins"], abs=1e-6)


def test_trl_simpo_gamma_is_absolute(on: Models, tmp_path: Path) -> None:
    """TRL subtracts γ from β times the difference. In the authors' repository the same number means γ/β."""
    side = trl_cpo(tmp_path, on, loss_type="simpo", cpo_alpha=0.0, simpo_gamma=0.7)
    assert_different(ours(SimPO(beta=BETA, gamma=0.7, dialect="simpo_repo"), on, PAIRS), side)
    assert_same(ours(SimPO(beta=BETA, gamma=0.7 / BETA, dialect="simpo_repo"), on, PAIRS), side)


def test_trl_simpo_adds_the_nll_by_default(on: Models, tmp_path: Path) -> None:
    """loss_type=simpo alone keeps cpo_alpha=1. Users must set cpo_alpha=0 to get SimPO."""
    side = trl_cpo(tmp_path, on, loss_type="simpo", simpo_gamma=0.7)
    assert_different(ours(SimPO(beta=BETA, gamma=0.7), on, PAIRS), side)
    mix = Mix(parts=[{"name": "simpo", "beta": BETA, "gamma": 0.7}, {"name": "sft"}])
    assert_same(ours(mix, on, PAIRS), side)


def test_trl_orpo_nll_counts_prompt_tokens(on: Models, tmp_path: Path) -> None:
    """TRL's NLL is a token mean over prompt and answer; ours is over the answer. The rest is the same."""
    side, mine = trl_orpo(tmp_path, on, 0.6), ours(ORPO(odds_weight=0.6, nll="tokens"), on, PAIRS)
    assert_different(mine, side)
    whole_rows = ours(SFT(), on, [Completion("", f"{pair.prompt}{pair.chosen}") for pair in PAIRS])
    answers = ours(SFT(), on, PAIRS)
    assert side.metrics["nll_loss"] == pytest.approx(whole_rows.loss, abs=1e-5)
    assert mine.metrics["nll_loss"] == pytest.approx(answers.loss, abs=1e-5)
    assert_same(combined([(1.0, mine), (-1.0, answers), (1.0, whole_rows)]), side)


def test_trl_orpo_has_no_gradient_at_a_probability_of_one(on: Models, tmp_path: Path) -> None:
    """The odds of probability 1 are infinite, so TRL's gradient is NaN. Ours holds log-probabilities at -1e-6."""
    made = trainer("orpo", tmp_path, on, PAIRS, beta=0.6)
    chosen, rejected = torch.zeros(1, requires_grad=True), torch.tensor([-1.0])
    (-made.odds_ratio_loss(chosen, rejected)[0]).sum().backward()
    assert chosen.grad is not None
    assert chosen.grad.isnan().all()
    chosen.grad = None
    orpo_loss(chosen, rejected, torch.zeros(1), odds_weight=0.6).sum().backward()
    assert chosen.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["orpo", "simpo"])
def test_trl_logs_logps_per_token_where_the_loss_does(kind: str, on: Models, tmp_path: Path) -> None:
    """logps/chosen and logps/rejected are means per token in TRL's ORPO and SimPO, and sums in all our objectives."""
    if kind == "orpo":
        side, mine = trl_orpo(tmp_path, on, 0.6), ours(ORPO(odds_weight=0.6), on, PAIRS)
    else:
        side = trl_cpo(tmp_path, on, loss_type="simpo")
        mine = ours(SimPO(beta=BETA, gamma=0.5), on, PAIRS)
    sums = trl_cpo(tmp_path, on)
    scale = 0.6 if kind == "orpo" else BETA
    for name in ("chosen", "rejected"):
        assert mine.metrics[f"logps/{name}"] == pytest.approx(sums.metrics[f"logps/{name}"], rel=2e-6)
        assert side.metrics[f"logps/{name}"] == pytest.approx(mine.metrics[f"rewards/{name}"] / scale, rel=2e-6)
