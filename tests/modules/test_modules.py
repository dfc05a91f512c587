"""One update of real modules on a tiny model: accumulation, known starts, metrics against their definitions."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from alignlab.data.collate import collate_completions, collate_pairs
from alignlab.data.datamodule import AlignmentData
from alignlab.data.tokenize import CompletionTokens, PairTokens
from alignlab.errors import NonFiniteError, PolicyIsNotReferenceError
from alignlab.models.reference import frozen_copy
from alignlab.models.sources.tiny import Tiny
from alignlab.modules.base import AlignmentModule
from alignlab.modules.pair_metrics import pair_sums
from alignlab.modules.preference import PreferenceModule
from alignlab.modules.sft import SFTModule
from alignlab.modules.sums import MetricSums
from alignlab.objectives.dpo import DPO
from alignlab.objectives.sft import SFT
from alignlab.optim.adamw import AdamW
from alignlab.optim.base import Optim
from alignlab.tracking.metrics import check_known
from alignlab.types import Logps, PairLogps, Requires

GENERATOR = torch.Generator().manual_seed(0)


def ids(low: int, high: int) -> list[int]:
    size = int(torch.randint(low, high, (), generator=GENERATOR))
    return torch.randint(0, 6, (size,), generator=GENERATOR).tolist()


PAIRS = [PairTokens(i, ids(1, 5), [*ids(1, 7), 6], [*ids(1, 7), 6]) for i in range(16)]
ANSWERS = [CompletionTokens(i, ids(1, 5), [*ids(1, 9), 6]) for i in range(16)]


def dpo() -> PreferenceModule:
    policy, _ = Tiny(name="t", alphabet="abcdef", hidden_size=32).load()
    return PreferenceModule(
        policy, DPO(beta=0.5), AdamW(lr=1e-2), max_steps=3, clip=1.0, seed=0, reference=frozen_copy(policy)
    )


def sft() -> SFTModule:
    policy, _ = Tiny(name="t", alphabet="abcdef", hidden_size=32).load()
    return SFTModule(policy, SFT(), AdamW(lr=1e-2), max_steps=3, clip=1.0, seed=0)


class Keep(pl.Callback):
    """Metrics of every step and of the evaluation."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.steps.append(dict(pl_module.last_metrics))


def fit(
    module: AlignmentModule, micro: int, tmp_path: Path, steps: int = 3
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Three updates on global batches of 8, then an evaluation of all 16 rows, `micro` rows a forward."""
    rows: Any = PAIRS if isinstance(module, PreferenceModule) else ANSWERS
    collate: Any = collate_pairs if isinstance(module, PreferenceModule) else collate_completions
    data = AlignmentData(rows, rows, collate, batch_size=8, micro_batch_size=micro, steps=steps, seed=1)
    keep = Keep()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_steps=steps, accelerator="cpu", devices=1, callbacks=[keep], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(module, datamodule=data)
    return keep.steps, module.evaluate(data.collate(batch) for batch in data.held_out_batches())


def comparable(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if "per_second" not in name}


@pytest.mark.parametrize("make", [dpo, sft])
@pytest.mark.parametrize("micro", [4, 3, 1])
def test_a_batch_is_the_same_in_micro_batches(make: Any, micro: int, tmp_path: Path) -> None:
    """Loss, gradient norm, every metric, weights and evaluation; 3 does not divide 8, and rows differ in length."""
    whole, parts = make(), make()
    steps, held_out = fit(whole, 8, tmp_path)
    other_steps, other_held_out = fit(parts, micro, tmp_path)
    for one, two in zip([*steps, held_out], [*other_steps, other_held_out], strict=True):
        assert comparable(two) == pytest.approx(comparable(one), rel=2e-5, abs=2e-6)
    for a, b in zip(whole.policy.parameters(), parts.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0)


def test_dpo_starts_at_ln_2_and_falls(tmp_path: Path) -> None:
    steps, held_out = fit(dpo(), 8, tmp_path, steps=30)
    assert steps[0]["train/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert steps[0]["train/rewards/margins"] == pytest.approx(0.0, abs=1e-6)
    assert held_out["eval/loss"] < 0.1
    assert held_out["eval/rewards/margins"] > 2.0
    assert held_out["eval/rewards/accuracies"] > 0.9
    for row in (*steps, held_out):
        check_known(row)


def test_sft_loss_is_the_nll_per_token_of_the_whole_batch(tmp_path: Path) -> None:
    """Against a plain loop over unpadded rows: 16 rows, one number."""
    module = sft()
    policy = module.policy
    total = 0.0
    with torch.no_grad():
        for row in ANSWERS:
            logps = policy(torch.tensor([[*row.prompt, *row.completion]])).logits[0].log_softmax(-1)
            total -= sum(float(logps[len(row.prompt) - 1 + t, token]) for t, token in enumerate(row.completion))
    data = AlignmentData(ANSWERS, ANSWERS, collate_completions, batch_size=16, micro_batch_size=5, steps=1, seed=0)
    keep = Keep()
    trainer = pl.Trainer(
        max_steps=1, accelerator="cpu", callbacks=[keep], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    assert keep.steps[0]["train/loss"] == pytest.approx(total / sum(len(r.completion) for r in ANSWERS), abs=1e-5)
    assert keep.steps[0]["train/num_tokens"] == sum(len(r.prompt) + len(r.completion) for r in ANSWERS)
    assert keep.steps[0]["train/epoch"] == 1.0


def test_a_policy_that_is_not_its_reference_is_noticed(tmp_path: Path) -> None:
    module = dpo()
    with torch.no_grad():
        module.policy.lm_head.weight += 0.05 * torch.randn(module.policy.lm_head.weight.shape)
    with pytest.raises(PolicyIsNotReferenceError, match=r"must be 0\.693147"):
        fit(module, 8, tmp_path)


def test_a_non_finite_loss_names_its_rows(tmp_path: Path) -> None:
    module = dpo()
    reference = module.reference
    assert reference is not None

    def broken(batch: Any) -> torch.Tensor:
        out = reference(batch)
        out[batch.index.tolist().index(5) if 5 in batch.index.tolist() else slice(0)] = float("nan")
        return out

    module.reference = broken
    with pytest.raises(NonFiniteError, match=r"rows \[5\] of the data"):
        fit(module, 1, tmp_path)


def test_pair_metrics_are_their_definitions() -> None:
    """Two pairs by hand: log-ratios (1, -3) and (-2, -2); beta 0.5; answers of 2 and 1, 1 and 2 tokens."""
    mask = torch.tensor([[True, True], [True, False]])
    chosen = Logps(torch.tensor([[-1.0, -2.0], [-4.0, 9.0]]), mask, torch.tensor([-4.0, -2.0]))
    rejected = Logps(torch.tensor([[-5.0, 9.0], [-1.0, -3.0]]), mask.flip(0), torch.tensor([-2.0, -2.0]))
    sums = MetricSums()
    sums.add(pair_sums(PairLogps(chosen, rejected), Requires(data="pairs", reference=True), 0.5))
    found = MetricSums.means(*sums.stacked())
    assert found == pytest.approx(
        {
            "rewards/chosen": 0.5 * (1 - 2) / 2,
            "rewards/rejected": 0.5 * (-3 - 2) / 2,
            "rewards/margins": 0.5 * (4 + 0) / 2,
            "rewards/accuracies": 0.5,
            "pref/accuracy_ties_half": 0.75,
            "pref/saturated_frac": 0.0,
            "pref/chosen_longer_frac": 0.5,
            "logps/chosen": -3.5,
            "logps/rejected": -4.5,
            "logps/chosen_per_token": -7 / 3,
            "logps/rejected_per_token": -9 / 3,
            "logratios/chosen": -0.5,
            "logratios/rejected": -2.5,
            "logratios/margins": 2.0,
            "displacement/frac_chosen_down": 0.5,
        }
    )


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
