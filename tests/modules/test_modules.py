"""Updates of real modules on a tiny model: known first losses, errors, and metrics by their definitions."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from alignlab.config.registry import schemas
from alignlab.data.layout import Rows
from alignlab.errors import DivergedError, NonFiniteError, ObjectiveError, PolicyIsNotReferenceError
from alignlab.models.reference import frozen_copy
from alignlab.modules.answer_metrics import labelled_metrics, pair_metrics, token_metrics
from alignlab.modules.base import AlignmentModule
from alignlab.objectives.bco import BCO
from alignlab.objectives.dpo import DPO
from alignlab.objectives.kto import KTO
from alignlab.objectives.mix import Mix
from alignlab.objectives.orpo import ORPO
from alignlab.objectives.reward_model import RewardModel
from alignlab.objectives.sft import SFT
from alignlab.objectives.simpo import SimPO
from alignlab.optim.adamw import AdamW
from alignlab.optim.base import Optim
from alignlab.tracking.metrics import check_known
from alignlab.types import LabelledLogps, Logps, PairLogps, RankedRewards, TokenStats
from tests.modules.cases import ANSWERS, LABELLED, Trained, build, train


def module(objective: Any, dtype: torch.dtype = torch.float32, micro: int = 8) -> AlignmentModule:
    return build(objective, dtype=dtype, micro=micro)


def test_dpo_starts_at_ln_2_and_falls(tmp_path: Path) -> None:
    found = train(module(DPO(beta=0.5)), tmp_path, steps=30)
    assert found.steps[0]["train/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert found.steps[0]["train/rewards/margins"] == pytest.approx(0.0, abs=1e-6)
    assert found.held_out["eval/loss"] < 0.1
    assert found.held_out["eval/rewards/margins"] > 2.0
    assert found.held_out["eval/rewards/accuracies"] > 0.9
    for row in (*found.steps, found.held_out):
        check_known(row)


@dataclass
class Rounded:
    """A reference whose log-probabilities have rounding errors, as those of a store have."""

    exact: Any

    def sums(self, rows: Any) -> torch.Tensor:
        sums = self.exact.sums(rows)
        return sums + 1e-5 * torch.randn(len(sums), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("objective", "first"), [(DPO(beta=0.5), 0.0), (ORPO(odds_weight=0.5), None)])
def test_the_first_accuracy_is_not_the_sign_of_rounding_errors(
    objective: Any, first: float | None, tmp_path: Path
) -> None:
    """Before the first update all pairs tie. Rewards of ORPO are not relative to a reference, and stay as they are."""
    trained = module(objective)
    trained.reference = Rounded(trained.reference or frozen_copy(trained.policy))
    rows = train(trained, tmp_path, steps=2).steps
    assert rows[0]["train/displacement/frac_chosen_down"] == 0.0
    assert 0 < rows[1]["train/rewards/accuracies"] <= 1
    if first is None:
        assert rows[0]["train/rewards/accuracies"] > 0
        assert "train/pref/length_corr" in rows[0]
    else:
        assert rows[0]["train/rewards/accuracies"] == first
        assert rows[0]["train/pref/accuracy_ties_half"] == 0.5
        assert "train/pref/length_corr" not in rows[0]
        assert "train/pref/length_corr" in rows[1]


def test_sft_loss_is_the_nll_per_token_of_the_whole_batch(tmp_path: Path) -> None:
    """The loss of 16 rows equals that of a plain loop over unpadded rows."""
    sft = module(SFT(), micro=3)
    policy, total = sft.policy, 0.0
    with torch.no_grad():
        for row in ANSWERS:
            logps = policy(torch.tensor([[*row.prompt, *row.completion]])).logits[0].log_softmax(-1)
            total -= sum(float(logps[len(row.prompt) - 1 + t, token]) for t, token in enumerate(row.completion))
    found = train(sft, tmp_path, steps=2)
    assert total / sum(len(r.completion) for r in ANSWERS) > 1
    before = build(SFT(), dtype=torch.float32)
    before.trainer = sft.trainer
    held_out = before.validate(ANSWERS)
    assert held_out["eval/loss"] == pytest.approx(total / sum(len(r.completion) for r in ANSWERS), abs=1e-5)
    assert found.steps[1]["train/num_tokens"] == sum(len(r.prompt) + len(r.completion) for r in ANSWERS)
    assert found.steps[1]["train/epoch"] == 1.0


def test_a_policy_that_is_not_its_reference_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(PolicyIsNotReferenceError, match=r"must be 0\.693147"):
        train(build(DPO(beta=0.5), drift=0.05, dtype=torch.float32), tmp_path)


@pytest.mark.parametrize("name", ["wpo", "r_dpo", "sppo", "simpo", "kto"])
def test_a_wrong_reference_is_noticed_whatever_the_loss(name: str, tmp_path: Path) -> None:
    """This also works if the first loss is unknown, or so large that it hides the difference."""
    fields = {"sppo": {"beta": 1e-3}, "simpo": {"beta": 2.0, "gamma": 0.5}}.get(name, {"beta": 0.1})
    objective = schemas()["objective"][name](**fields)
    with pytest.raises(PolicyIsNotReferenceError, match=r"log-ratios of up to 0\.\d+ nats per token"):
        train(build(objective, drift=0.01, dtype=torch.float32), tmp_path)


def test_a_gradient_that_is_not_finite_makes_no_update(tmp_path: Path) -> None:
    class Overflowing(DPO):
        def __call__(self, batch: PairLogps) -> torch.Tensor:
            loss = super().__call__(batch)
            return loss + (loss * 0).sqrt()  # the value is 0, the gradient infinite

    refused = module(Overflowing(beta=0.5))
    before = [p.clone() for p in refused.policy.parameters()]
    with pytest.raises(NonFiniteError, match="gradient is not finite at step 0"):
        train(refused, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(before, refused.policy.parameters(), strict=True))


@pytest.mark.parametrize("base", [DPO, KTO])
def test_a_loss_that_is_a_mean_over_rows_is_refused(base: type[Any], tmp_path: Path) -> None:
    """It would be divided by the number of rows a second time. KTO's rows depend on each other."""

    class Averaged(base):  # type: ignore[misc]
        def __call__(self, batch: Any) -> torch.Tensor:
            return super().__call__(batch).mean()  # type: ignore[no-any-return]

    with pytest.raises(ObjectiveError, match=r"Averaged returned a loss of shape \(\); .* here \(\d+,\)"):
        train(module(Averaged(beta=0.5), micro=4), tmp_path)


@pytest.mark.parametrize("micro", [1, 8])
def test_a_non_finite_log_probability_names_its_rows(micro: int, tmp_path: Path) -> None:
    """One row makes KTO's whole batch NaN through the KL. The error names only that row."""
    for objective in (DPO(beta=0.5), KTO(beta=0.5)):
        broken = module(objective, micro=micro)
        reference = broken.reference
        assert reference is not None
        broken.reference = Broken(reference)
        with pytest.raises(NonFiniteError, match=r"step 0 for 1 row \(\d+\) of the data"):
            train(broken, tmp_path)


@pytest.mark.parametrize("micro", [1, 8])
def test_a_run_does_not_diverge_by_its_reference(micro: int, tmp_path: Path) -> None:
    """Training does not change the reference. So a run whose reference is not finite has failed, not diverged."""
    for objective in (DPO(beta=0.5), KTO(beta=0.5)):
        broken = module(objective, micro=micro)
        assert broken.reference is not None
        broken.reference = BrokenLater(broken.reference, broken)
        with pytest.raises(
            NonFiniteError, match="the reference's log-probabilities are not finite at step 1 "
        ) as caught:
            train(broken, tmp_path)
        assert not isinstance(caught.value, DivergedError)


@dataclasses.dataclass
class Broken:
    """A reference that returns NaN for the first row of a batch."""

    real: Any

    def sums(self, rows: Rows) -> torch.Tensor:
        out = self.real.sums(rows).clone()
        out[0] = float("nan")
        return out

    def tokens(self, rows: Rows) -> torch.Tensor:
        return self.real.tokens(rows)

    def logits(self, rows: Rows) -> torch.Tensor:
        return self.real.logits(rows)


@dataclasses.dataclass
class BrokenLater:
    """A reference that is finite only for the first update."""

    real: Any
    module: Any = None

    def sums(self, rows: Rows) -> torch.Tensor:
        out = self.real.sums(rows).clone()
        if self.module.global_step:
            out[0] = float("inf")
        return out


def two_pairs() -> PairLogps:
    """Two pairs with log-ratios (1, -3) and (-2, -2), and with answers of (2, 1) and (1, 2) tokens."""
    mask = torch.tensor([[True, True], [True, False]])
    chosen = Logps(torch.tensor([[-1.0, -2.0], [-4.0, 9.0]]), mask, torch.tensor([-4.0, -2.0]))
    rejected = Logps(torch.tensor([[-5.0, 9.0], [-1.0, -3.0]]), mask.flip(0), torch.tensor([-2.0, -2.0]))
    return PairLogps(chosen, rejected)


PLAIN = {
    "logps/chosen": -3.5,
    "logps/rejected": -4.5,
    "logps/chosen_per_token": -7 / 3,
    "logps/rejected_per_token": -9 / 3,
    "logratios/chosen": -0.5,
    "logratios/rejected": -2.5,
    "logratios/margins": 2.0,
    "logratios/chosen_per_token": -1 / 3,
    "logratios/rejected_per_token": -5 / 3,
    "displacement/chosen_delta": -0.5,
    "displacement/frac_chosen_down": 0.5,
}


def test_pair_metrics_are_their_definitions() -> None:
    """At beta 0.5, rewards are (.5, -1.5) and (-1, -1), lengths differ by +1 and -1, and margins are 2 and 0."""
    found = pair_metrics(two_pairs(), DPO(beta=0.5).reward)
    assert {k: float(v) for k, v in found.items()} == pytest.approx(
        {
            **PLAIN,
            "nll_loss": 7 / 3,
            "rewards/chosen": -0.25,
            "rewards/rejected": -1.25,
            "rewards/margins": 1.0,
            "rewards/accuracies": 0.5,
            "pref/accuracy_ties_half": 0.75,
            "pref/saturated_frac": 0.0,
            "pref/likelihood_accuracies": 0.5,
            "pref/chosen_longer_frac": 0.5,
            "pref/length_corr": 1.0,
        }
    )


def test_what_is_told_of_tokens() -> None:
    """Entropy is over all six tokens, accuracy over the three chosen ones, and logits are by side."""

    def told(side: Logps, entropy: list[list[float]], correct: list[list[bool]]) -> Logps:
        stats = TokenStats(torch.tensor(entropy), torch.tensor(correct), 10 * torch.tensor(entropy))
        return dataclasses.replace(side, stats=stats)

    pairs = two_pairs()
    chosen = told(pairs.chosen, [[1.0, 2.0], [3.0, 0.0]], [[True, False], [True, False]])
    rejected = told(pairs.rejected, [[4.0, 0.0], [5.0, 9.0]], [[False, False], [False, False]])
    found = pair_metrics(PairLogps(chosen, rejected), DPO(beta=0.5).reward)
    names = ("entropy", "mean_token_accuracy", "logits/chosen", "logits/rejected")
    assert [float(found[name]) for name in names] == pytest.approx([24 / 6, 2 / 3, 60 / 3, 180 / 3])
    assert {k: float(v) for k, v in token_metrics(chosen).items()} == pytest.approx(
        {"entropy": 2.0, "mean_token_accuracy": 2 / 3}
    )


def test_saturation_and_displacement_at_their_edges() -> None:
    """sigmoid(-4.59) > 0.01 > sigmoid(-4.6). An answer with the same probability as before did not go down."""
    ones = torch.ones(3, 1, dtype=torch.bool)
    chosen = Logps(torch.full((3, 1), -1.0), ones, torch.tensor([-1.0 - 4.59, -1.0 - 4.6, -1.0]))
    rejected = Logps(torch.full((3, 1), -1.0), ones, torch.full((3,), -1.0))
    found = pair_metrics(PairLogps(chosen, rejected), DPO(beta=1.0).reward)
    assert float(found["pref/saturated_frac"]) == pytest.approx(1 / 3)
    assert float(found["displacement/frac_chosen_down"]) == 0.0
    good = labelled_metrics(LabelledLogps(chosen, torch.tensor([True, True, True])), KTO(beta=1.0).reward)
    bad = labelled_metrics(LabelledLogps(chosen, torch.tensor([False, False, False])), KTO(beta=1.0).reward)
    assert float(good["pref/saturated_frac"]) == pytest.approx(1 / 3)
    assert float(bad["pref/saturated_frac"]) == 0.0


def test_rewards_without_a_reference_are_log_probabilities_as_the_loss_uses_them() -> None:
    """ORPO's reward is 0.5 times the mean log-probability: (-1.5, -4) against (-5, -2)."""
    found = pair_metrics(two_pairs(), ORPO(odds_weight=0.5).reward)
    assert float(found["rewards/chosen"]) == pytest.approx(0.5 * (-1.5 - 4) / 2)
    assert float(found["rewards/rejected"]) == pytest.approx(0.5 * (-5 - 2) / 2)
    assert float(found["logps/chosen"]) == -3.5, "summed, whatever the objective"
    assert {k: float(found[k]) for k in PLAIN} == pytest.approx(PLAIN), "the same for every objective"


def test_rewards_of_a_mix_are_those_of_its_first_part() -> None:
    """They are SimPO's mean log-probabilities, although the mix has a reference for its second part, DPO."""
    simpo, dpo = {"name": "simpo", "beta": 2.0, "gamma": 0.5}, {"name": "dpo", "beta": 0.5}
    for parts, leading in (([simpo, dpo], SimPO(beta=2.0, gamma=0.5)), ([dpo, simpo], DPO(beta=0.5))):
        mixed = pair_metrics(two_pairs(), Mix(parts=parts).reward)
        alone = pair_metrics(two_pairs(), leading.reward)
        assert {k: float(v) for k, v in mixed.items()} == pytest.approx({k: float(v) for k, v in alone.items()})


def test_labelled_metrics_are_those_of_the_pairs_they_came_from() -> None:
    pairs = two_pairs()
    answers = Logps(
        torch.cat([pairs.chosen.tokens, pairs.rejected.tokens]),
        torch.cat([pairs.chosen.mask, pairs.rejected.mask]),
        torch.tensor([-4.0, -2.0, -2.0, -2.0]),
    )
    found = labelled_metrics(LabelledLogps(answers, torch.tensor([True, True, False, False])), KTO(beta=0.5).reward)
    assert {k: float(found[k]) for k in PLAIN} == pytest.approx(PLAIN)
    assert float(found["rewards/margins"]) == pytest.approx(1.0)
    assert not {"rewards/accuracies", "pref/length_corr"} & found.keys(), "there are no pairs"
    only_bad = labelled_metrics(LabelledLogps(answers, torch.zeros(4, dtype=torch.bool)), KTO(beta=0.5).reward)
    assert "rewards/rejected" in only_bad
    assert not {name for name in only_bad if "chosen" in name or "margins" in name}


def test_reward_metrics_weigh_prompts_the_same() -> None:
    """One prompt has three comparisons (two right), the other has one (a tie), so the accuracy is (2/3 + 0) / 2."""
    reward = module(RewardModel())
    rewards = torch.tensor([[1.0, 2.0, 0.0], [0.5, 0.5, 9.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    found = reward.compute_metrics(RankedRewards(rewards, mask, torch.tensor([[3.0, 2.0, 1.0], [1.0, 0.0, 0.0]])))
    assert {k: float(v) for k, v in found.items()} == pytest.approx(
        {
            "accuracy": 1 / 3,
            "pref/accuracy_ties_half": (2 / 3 + 0.5) / 2,
            "margin": ((-1 + 1 + 2) / 3 + 0) / 2,
            # σ(1) twice (once right) and σ(2) (right) are in different intervals; the tie's confidence is exact
            "calibration_error": abs(1 - 2 * 0.7310585786) / 6 + (1 - 0.8807970780) / 6,
            "mean_reward": 4 / 5,
            "min_reward": 0.0,
            "max_reward": 2.0,
        }
    )


@pytest.mark.parametrize(
    "objective",
    [
        KTO(beta=0.5),
        BCO(beta=0.5),
        ORPO(odds_weight=0.5),
        RewardModel(),
        Mix(parts=[{"name": "dpo", "beta": 0.5}, {"name": "sft", "weight": 0.3}]),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_training_lowers_the_loss_and_logs_what_the_table_knows(objective: Any, tmp_path: Path) -> None:
    found: Trained = train(module(objective), tmp_path, steps=40)
    assert found.steps[-1]["train/loss"] < 0.9 * found.steps[0]["train/loss"]
    for row in (*found.steps, found.held_out):
        check_known(row)


def test_ktos_reference_point_is_over_the_whole_batch(tmp_path: Path) -> None:
    """It equals a plain loop over the log-ratios of each prompt with the answer of the row before it."""
    kto = module(KTO(beta=0.5), torch.float64)
    train(kto, tmp_path, steps=5)
    total, policy, reference = 0.0, kto.policy.eval(), kto.reference.model  # type: ignore[union-attr]
    with torch.no_grad():
        for i, row in enumerate(LABELLED):
            answer = LABELLED[i - 1].completion
            ids = torch.tensor([[*row.prompt, *answer]])
            for sign, model in ((1, policy), (-1, reference)):
                logps = model(ids).logits[0].log_softmax(-1)
                total += sign * sum(float(logps[len(row.prompt) - 1 + t, token]) for t, token in enumerate(answer))
    data = kto.trainer.datamodule  # type: ignore[attr-defined]
    found = kto.validate(data.held_out_rows())
    assert found["eval/kto/kl_raw"] == pytest.approx(total / len(LABELLED), abs=1e-9)
    assert found["eval/kl"] == max(0.0, found["eval/kto/kl_raw"])
    assert abs(found["eval/kto/kl_raw"]) > 0.01


def test_bcos_shift_runs_over_training_batches_only(tmp_path: Path) -> None:
    bco = module(BCO(beta=0.5), torch.float64, micro=2)
    found = train(bco, tmp_path, steps=6)
    assert found.steps[0]["train/bco/delta"] == pytest.approx(0.0, abs=1e-12)
    assert abs(found.steps[-1]["train/bco/delta"]) > 1e-3
    assert found.held_out["eval/bco/delta"] == pytest.approx(found.steps[-1]["train/bco/delta"], abs=1e-12)
    assert bco.state is not None
    assert bco.state[[1, 3]].sum() == 6 * 8


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0, [1, 1, 1, 1]),
        ("linear", 0, [1, 0.75, 0.5, 0.25]),
        ("cosine", 0, [1, 0.853553, 0.5, 0.146447]),
        ("constant", 3, [0.25, 0.5, 0.75, 1]),
        ("linear", 2, [1 / 3, 2 / 3, 1, 0.5]),
    ],
)
def test_schedules(schedule: str, warmup: int, expected: list[float]) -> None:
    optim: Optim = AdamW(lr=1.0, schedule=schedule, warmup_steps=warmup)
    assert [optim.factor(step, 4) for step in range(4)] == pytest.approx(expected, abs=1e-6)
