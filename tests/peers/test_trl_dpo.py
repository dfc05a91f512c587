"""TRL's DPOTrainer against our objectives on pairs: every loss type, f-divergence and switch, and the differences."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="TRL is not installed: pip install -e .[peers]")

from alignlab.errors import ConfigError
from alignlab.objectives.aot import AOT
from alignlab.objectives.apo_down import APODown
from alignlab.objectives.apo_zero import APOZero
from alignlab.objectives.base import Objective
from alignlab.objectives.bco import BCO
from alignlab.objectives.discopop import DiscoPOP
from alignlab.objectives.dpo import DPO
from alignlab.objectives.exo import EXO
from alignlab.objectives.hinge import Hinge
from alignlab.objectives.ipo import IPO
from alignlab.objectives.ld_dpo import LDDPO
from alignlab.objectives.length_dpo import LengthDPO
from alignlab.objectives.mix import Mix
from alignlab.objectives.nca import NCA
from alignlab.objectives.robust_dpo import RobustDPO
from alignlab.objectives.rpo import RPO
from alignlab.objectives.sft import SFT
from alignlab.objectives.sppo import SPPO
from alignlab.objectives.wpo import WPO
from tests.peers.side_by_side import (
    PAIRS,
    TOLERANCE,
    Models,
    ModelSide,
    accumulated,
    assert_different,
    assert_same,
    models,
    ours,
    theirs,
    tokens,
    trainer,
)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

BETA = 0.4


@pytest.fixture(scope="module")
def on() -> Models:
    return models()


def trl_dpo(folder: Path, on: Models, **options: Any) -> ModelSide:
    """DPOTrainer's loss, gradients and metrics on all pairs as one batch."""
    return theirs(trainer("dpo", folder, on, PAIRS, **{"beta": BETA, **options}))


def precision(objective: Objective) -> float:
    """DiscoPOP divides by tau = 0.05 in a sigmoid and multiplies rounding by 20. The forward KL does so by exp(-r)."""
    if isinstance(objective, DiscoPOP):
        return TOLERANCE / objective.tau
    return 4 * TOLERANCE if getattr(objective, "divergence", "") == "forward_kl" else TOLERANCE


def test_the_token_ids_are_the_same(on: Models, tmp_path: Path) -> None:
    made = trainer("dpo", tmp_path, on, PAIRS)
    for row, pair in zip(made.train_dataset, tokens(DPO(beta=BETA), PAIRS, on.tokenizer), strict=True):
        assert (row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) == (pair.prompt, pair.chosen, pair.rejected)


@pytest.mark.parametrize(
    ("loss_type", "more", "objective"),
    [
        ("sigmoid", {}, DPO(beta=BETA)),
        ("hinge", {}, Hinge(beta=BETA)),
        ("ipo", {}, IPO(tau=BETA, dialect="trl1")),
        ("exo_pair", {"label_smoothing": 1e-3}, EXO(beta=BETA, epsilon=1e-3)),
        ("exo_pair", {"label_smoothing": 0.2}, EXO(beta=BETA, epsilon=0.2)),
        ("nca_pair", {}, NCA(beta=BETA)),
        ("robust", {"label_smoothing": 0.1}, RobustDPO(beta=BETA, label_smoothing=0.1)),
        ("sppo_hard", {}, SPPO(beta=BETA)),
        ("aot", {}, AOT(beta=BETA)),
        ("aot", {"label_smoothing": 0.2}, AOT(beta=BETA, label_smoothing=0.2)),
        ("aot_unpaired", {}, AOT(beta=BETA, pairing="unpaired")),
        ("aot_unpaired", {"label_smoothing": 0.2}, AOT(beta=BETA, pairing="unpaired", label_smoothing=0.2)),
        ("apo_zero", {}, APOZero(beta=BETA)),
        ("apo_down", {}, APODown(beta=BETA)),
        ("discopop", {}, DiscoPOP(beta=BETA)),
        ("discopop", {"discopop_tau": 0.5}, DiscoPOP(beta=BETA, tau=0.5)),
        ("sft", {}, SFT()),
        ("sigmoid_norm", {}, LengthDPO(beta=BETA)),
    ],
)
def test_loss_types(loss_type: str, more: dict[str, Any], objective: Objective, on: Models, tmp_path: Path) -> None:
    assert_same(
        ours(objective, on, PAIRS), trl_dpo(tmp_path, on, loss_type=[loss_type], **more), tolerance=precision(objective)
    )


@pytest.mark.parametrize("loss_type", ["sigmoid", "hinge", "ipo", "exo_pair", "robust", "discopop", "sigmoid_norm"])
@pytest.mark.parametrize(
    ("name", "divergence"),
    [
        ("forward_kl", {"divergence": "forward_kl"}),
        ("js_divergence", {"divergence": "js"}),
        ("alpha_divergence", {"divergence": "alpha", "divergence_alpha": 0.3}),
    ],
)
def test_f_divergences(loss_type: str, name: str, divergence: dict[str, Any], on: Models, tmp_path: Path) -> None:
    """Every divergence except the default, with every loss type that TRL allows it for (sft does not use it)."""
    objective: Objective = {
        "sigmoid": lambda: DPO(beta=BETA, **divergence),
        "hinge": lambda: Hinge(beta=BETA, **divergence),
        "ipo": lambda: IPO(tau=BETA, dialect="trl1", **divergence),
        "exo_pair": lambda: EXO(beta=BETA, epsilon=0.1, **divergence),
        "robust": lambda: RobustDPO(beta=BETA, label_smoothing=0.1, **divergence),
        "discopop": lambda: DiscoPOP(beta=BETA, **divergence),
        "sigmoid_norm": lambda: LengthDPO(beta=BETA, **divergence),
    }[loss_type]()
    options = {"f_divergence_type": name, "f_alpha_divergence_coef": 0.3, "label_smoothing": 0.1}
    assert_same(
        ours(objective, on, PAIRS),
        trl_dpo(tmp_path, on, loss_type=[loss_type], **options),
        tolerance=precision(objective),
    )


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_ld_alpha(alpha: float, on: Models, tmp_path: Path) -> None:
    assert_same(ours(LDDPO(beta=BETA, alpha=alpha), on, PAIRS), trl_dpo(tmp_path, on, ld_alpha=alpha))


def test_use_weighting(on: Models, tmp_path: Path) -> None:
    objective = WPO(beta=BETA, dialect="trl1")
    assert_same(ours(objective, on, PAIRS), trl_dpo(tmp_path, on, use_weighting=True))


def test_a_mix_as_in_mpo(on: Models, tmp_path: Path) -> None:
    """Three loss types with weights. Our weight of bco_pair is doubled; see the known differences below."""
    mix = Mix(
        parts=[
            {"name": "dpo", "beta": BETA, "weight": 0.8},
            {"name": "bco", "beta": BETA, "dialect": "trl1", "weight": 2 * 0.2},
            {"name": "sft", "weight": 1.5},
        ]
    )
    options = {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.5]}
    assert_same(ours(mix, on, PAIRS), trl_dpo(tmp_path, on, **options))


def test_a_mix_in_which_two_parts_couple_the_batch(on: Models, tmp_path: Path) -> None:
    mix = Mix(parts=[{"name": "aot", "beta": BETA, "weight": 0.7}, {"name": "apo_zero", "beta": BETA, "weight": 0.5}])
    options = {"loss_type": ["aot", "apo_zero"], "loss_weights": [0.7, 0.5]}
    assert_same(ours(mix, on, PAIRS), trl_dpo(tmp_path, on, **options))


def test_rpo_is_sigmoid_with_sft(on: Models, tmp_path: Path) -> None:
    options = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.6]}
    side = trl_dpo(tmp_path, on, **options)
    assert_same(ours(RPO(beta=BETA, nll_weight=0.6, dialect="trl1"), on, PAIRS), side)
    assert_different(
        ours(RPO(beta=BETA, nll_weight=0.6, dialect="paper"), on, PAIRS), side
    )  # its NLL is a mean of means


def test_accumulation_of_a_loss_that_is_a_mean_over_rows(on: Models, tmp_path: Path) -> None:
    """TRL's own training loop on three micro-batches of two pairs, and our global batch of six."""
    made = trainer("dpo", tmp_path, on, PAIRS, batch=2, gradient_accumulation_steps=3, beta=BETA)
    side = accumulated(made)
    assert_same(ours(DPO(beta=BETA), on, PAIRS, micro=2), side)
    assert_same(ours(DPO(beta=BETA), on, PAIRS), side)


@pytest.mark.parametrize(
    ("options", "objective"),
    [
        ({}, DPO(beta=BETA)),
        ({"loss_type": ["ipo"]}, IPO(tau=BETA, dialect="trl1")),
        ({"loss_type": ["sigmoid_norm"]}, LengthDPO(beta=BETA)),
        ({"f_divergence_type": "js_divergence"}, DPO(beta=BETA, divergence="js")),
    ],
)
def test_metrics_of_the_same_name_are_the_same(
    options: dict[str, Any], objective: Objective, on: Models, tmp_path: Path
) -> None:
    """rewards/accuracies is among them. It counts strictly larger rewards, so a tie is wrong on both sides."""
    side, mine = trl_dpo(tmp_path, on, **options), ours(objective, on, PAIRS)
    shared = [f"{kind}/{of}" for kind in ("rewards", "logps", "logits") for of in ("chosen", "rejected")]
    tokens = ("entropy", "mean_token_accuracy")
    for name in (*shared, *tokens, "rewards/margins", "rewards/accuracies"):
        assert mine.metrics[name] == pytest.approx(side.metrics[name], rel=2e-6, abs=2e-6), name


def test_rewards_accuracies_count_a_tie_as_wrong(on: Models, tmp_path: Path) -> None:
    """Policy equals reference, so all rewards are 0: the accuracy is 0 on both sides; ours with ties as half is 0.5."""
    start = Models(on.policy, on.policy, on.tokenizer)
    side, mine = trl_dpo(tmp_path, start), ours(DPO(beta=BETA), start, PAIRS)
    assert mine.metrics["rewards/accuracies"] == side.metrics["rewards/accuracies"] == 0
    assert mine.metrics["pref/accuracy_ties_half"] == 0.5
    assert mine.loss == pytest.approx(side.loss) == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({}, DPO(beta=1.1 * BETA)),
        ({"ld_alpha": 0.5}, LDDPO(beta=BETA, alpha=0.55)),
        ({"use_weighting": True}, DPO(beta=BETA)),
        ({"loss_type": ["aot"]}, DPO(beta=BETA)),
        ({"loss_type": ["sft"]}, RPO(beta=1e-6, nll="mean")),
        ({"loss_type": ["apo_zero"]}, APODown(beta=BETA)),
    ],
)
def test_the_comparison_notices(options: dict[str, Any], wrong: Objective, on: Models, tmp_path: Path) -> None:
    """A slightly different strength or another formula on our side fails by far."""
    assert_different(ours(wrong, on, PAIRS), trl_dpo(tmp_path, on, **options))


# Known differences.


def test_trl_sigmoid_ignores_label_smoothing(on: Models, tmp_path: Path) -> None:
    """In TRL 1.x loss_type=sigmoid with label_smoothing=0.2 is plain DPO. Ours is cDPO, and dialect trl1 refuses it."""
    side = trl_dpo(tmp_path, on, label_smoothing=0.2)
    assert_same(ours(DPO(beta=BETA), on, PAIRS), side)
    assert_different(ours(DPO(beta=BETA, label_smoothing=0.2), on, PAIRS), side)
    with pytest.raises(ConfigError, match="ignores label_smoothing"):
        DPO(beta=BETA, label_smoothing=0.2, dialect="trl1")


def test_trl_robust_is_plain_dpo_by_default(on: Models, tmp_path: Path) -> None:
    """TRL's label_smoothing is 0 unless given, so loss_type=robust alone is DPO; ours starts at 0.1."""
    side = trl_dpo(tmp_path, on, loss_type=["robust"])
    assert_same(ours(DPO(beta=BETA), on, PAIRS), side)
    assert_different(ours(RobustDPO(beta=BETA), on, PAIRS), side)


def test_trl_ipo_is_the_mean_reduction(on: Models, tmp_path: Path) -> None:
    """TRL divides log-ratios by answer lengths; the paper's formula, our default, sums them."""
    side = trl_dpo(tmp_path, on, loss_type=["ipo"])
    paper = ours(IPO(tau=BETA), on, PAIRS)
    assert_same(ours(IPO(tau=BETA, reduction="mean"), on, PAIRS), side)
    assert_different(paper, side)
    assert paper.loss == pytest.approx(ours(IPO(tau=BETA, dialect="dpo_repo"), on, PAIRS).loss)


def test_trl_bco_pair_has_no_running_shift_and_sums_the_two_halves(on: Models, tmp_path: Path) -> None:
    """TRL adds the losses of both answers; our mean over twice as many rows is half of it. The paper shifts rewards."""
    side = trl_dpo(tmp_path, on, loss_type=["bco_pair"])
    mine = ours(BCO(beta=BETA, dialect="trl1"), on, PAIRS)
    assert_same(mine, side, factor=2.0)
    assert mine.loss == pytest.approx(side.loss / 2, abs=1e-6)
    assert BCO(beta=BETA).initial_state() is not None
    assert BCO(beta=BETA, dialect="trl1").initial_state() is None


def test_trl_sft_term_is_a_token_mean_over_the_micro_batch(on: Models, tmp_path: Path) -> None:
    """On one batch both agree. With accumulation TRL averages token means of micro-batches; ours is the global mean."""
    made = trainer("dpo", tmp_path, on, PAIRS, batch=2, gradient_accumulation_steps=3, beta=BETA, loss_type=["sft"])
    side, whole = accumulated(made), trl_dpo(tmp_path, on, loss_type=["sft"])
    parts = [ours(SFT(), on, PAIRS[i : i + 2]) for i in (0, 2, 4)]
    assert side.loss == pytest.approx(sum(part.loss for part in parts) / 3, abs=1e-6)
    mine = ours(SFT(), on, PAIRS, micro=2)
    assert_same(mine, whole)
    assert_different(mine, side)


def test_trl_aot_sorts_the_micro_batch(on: Models, tmp_path: Path) -> None:
    """TRL couples the rows of a micro-batch; ours couples those of the global batch."""
    made = trainer("dpo", tmp_path, on, PAIRS, batch=2, gradient_accumulation_steps=3, beta=BETA, loss_type=["aot"])
    side = accumulated(made)
    parts = [ours(AOT(beta=BETA), on, PAIRS[i : i + 2]) for i in (0, 2, 4)]
    assert side.loss == pytest.approx(sum(part.loss for part in parts) / 3, abs=1e-6)
    assert_different(ours(AOT(beta=BETA), on, PAIRS), side)


def test_trl_logs_weighted_rewards_under_ld_alpha(on: Models, tmp_path: Path) -> None:
    """TRL's rewards and logps weight the tail by ld_alpha. Ours count it fully, so that objectives are comparable."""
    side, plain = trl_dpo(tmp_path, on, ld_alpha=0.5), trl_dpo(tmp_path, on)
    mine = ours(LDDPO(beta=BETA, alpha=0.5), on, PAIRS)
    for name in ("rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected"):
        assert mine.metrics[name] == pytest.approx(plain.metrics[name], rel=2e-6, abs=2e-6)
        assert abs(mine.metrics[name] - side.metrics[name]) > 0.01


def test_trl_ld_alpha_weights_the_reference_too(on: Models, tmp_path: Path) -> None:
    """TRL 1.x weights tails of both models. TRL 0.x and LLaMA-Factory, two of our dialects, only the policy's."""
    side = trl_dpo(tmp_path, on, ld_alpha=0.5)
    for dialect in ("trl0", "llama_factory"):
        assert_different(ours(LDDPO(beta=BETA, alpha=0.5, dialect=dialect), on, PAIRS), side)


def scaled(on: Models, factor: float) -> Models:
    """Models with a flatter or sharper policy and the same reference."""
    policy = copy.deepcopy(on.policy)
    policy.lm_head.weight.data *= factor
    return Models(policy, on.policy, on.tokenizer)


def test_trl_use_weighting_has_no_cap(on: Models, tmp_path: Path) -> None:
    """A weight above 1 stays above 1 in the paper and TRL 1.x. The authors' code and TRL 0.x cut it to 1."""
    flat = scaled(on, 0.2)
    side = trl_dpo(tmp_path, flat, use_weighting=True)
    assert_same(ours(WPO(beta=BETA, dialect="trl1"), flat, PAIRS), side)
    for dialect in ("wpo_repo", "trl0"):
        assert_different(ours(WPO(beta=BETA, dialect=dialect), flat, PAIRS), side)


def test_trl_use_weighting_weights_every_loss_type(on: Models, tmp_path: Path) -> None:
    """WPO of anything but the logistic loss has no counterpart among our objectives."""
    side = trl_dpo(tmp_path, on, loss_type=["ipo"], use_weighting=True)
    assert_different(ours(IPO(tau=BETA, dialect="trl1"), on, PAIRS), side)
    assert_different(ours(WPO(beta=BETA), on, PAIRS), side)


@pytest.mark.parametrize(
    ("loss_type", "error"), [("hinge", "modified by an inplace"), ("sft", "single memory location")]
)
def test_trl_use_weighting_fails_with_hinge_and_sft(loss_type: str, error: str, on: Models, tmp_path: Path) -> None:
    """TRL multiplies in place a tensor that autograd needs, or an expanded scalar. Our mix of wpo and others works."""
    with pytest.raises(RuntimeError, match=error):
        trl_dpo(tmp_path, on, loss_type=["sigmoid", loss_type], use_weighting=True)
    part = {"hinge": {"name": "hinge", "beta": BETA}, "sft": {"name": "sft"}}[loss_type]
    mix = Mix(parts=[{"name": "wpo", "beta": BETA}, part])
    assert math.isfinite(ours(mix, on, PAIRS).loss)


@pytest.mark.parametrize(("name", "divergence"), [("forward_kl", "forward_kl"), ("alpha_divergence", "alpha")])
def test_trl_forward_kl_overflows_on_answers_far_below_the_reference(
    name: str, divergence: str, on: Models, tmp_path: Path
) -> None:
    """exp(-r) is infinite in float32 at r = -100: TRL's loss is NaN. Our exponents end at 40, TRL's alpha at 80."""
    far = scaled(on, 30.0)
    mine = ours(DPO(beta=BETA, divergence=divergence), far, PAIRS)
    side = trl_dpo(tmp_path, far, f_divergence_type=name)
    assert math.isfinite(mine.loss)
    assert all(gradient.isfinite().all() for gradient in mine.gradients.values())
    if name == "forward_kl":
        assert math.isnan(side.loss)
    else:
        assert_different(mine, side)


def test_trl_discopop_is_nan_for_pairs_that_are_very_wrong(on: Models, tmp_path: Path) -> None:
    """exp(-βh) overflows where its weight is 0, so TRL's loss becomes NaN. Ours stays finite and linear there."""
    objective = DiscoPOP(beta=200.0)
    side, mine = trl_dpo(tmp_path, on, loss_type=["discopop"], beta=200.0), ours(objective, on, PAIRS)
    assert math.isnan(side.loss)
    assert 0 < mine.loss < 1000
