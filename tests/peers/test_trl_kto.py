"""TRL's KTOTrainer against our objectives on labelled answers, and the differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="TRL is not installed: pip install -e .[peers]")

from alignlab.data.collate import collate_labelled
from alignlab.objectives.apo_zero_unpaired import APOZeroUnpaired
from alignlab.objectives.base import Objective
from alignlab.objectives.bco import BCO
from alignlab.objectives.kto import KTO
from tests.peers.side_by_side import (
    LABELLED,
    Models,
    ModelSide,
    accumulated,
    assert_different,
    assert_same,
    models,
    module,
    ours,
    theirs,
    tokens,
    trainer,
)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

BETA = 0.4
WEIGHTS = {"desirable_weight": 1.4, "undesirable_weight": 0.7}


@pytest.fixture(scope="module")
def on() -> Models:
    """A policy whose mean log-ratio of mismatched answers is above 0."""
    return models()


@pytest.fixture(scope="module")
def below(on: Models) -> Models:
    """Policy and reference are exchanged, so that the mean is below 0 and z0 is held at 0."""
    return Models(on.reference, on.policy, on.tokenizer)


def trl_kto(folder: Path, on: Models, **options: Any) -> ModelSide:
    """KTOTrainer's loss, gradients and metrics on all rows as one batch."""
    return theirs(trainer("kto", folder, on, LABELLED, **{"beta": BETA, **options}))


def test_token_ids_and_mismatched_answers_are_the_same(on: Models, tmp_path: Path) -> None:
    """Both rotate the answers by one row, so that the first row gets the last answer."""
    made = trainer("kto", tmp_path, on, LABELLED)
    for row, mine in zip(made.train_dataset, tokens(KTO(beta=BETA), LABELLED, on.tokenizer), strict=True):
        assert (row["prompt_ids"], row["completion_ids"]) == (mine.prompt, mine.completion)
        assert (row["KL_completion_ids"], row["label"]) == (mine.mismatched, mine.desirable)


@pytest.mark.parametrize("weights", [{}, WEIGHTS])
def test_kto(weights: dict[str, float], on: Models, tmp_path: Path) -> None:
    side, mine = trl_kto(tmp_path, on, **weights), ours(KTO(beta=BETA, **weights), on, LABELLED)
    assert mine.metrics["kl"] > 0.1
    assert_same(mine, side)


def test_kto_with_the_reference_point_held_at_0(below: Models, tmp_path: Path) -> None:
    side, mine = trl_kto(tmp_path, below, **WEIGHTS), ours(KTO(beta=BETA, **WEIGHTS), below, LABELLED)
    assert mine.metrics["kto/kl_raw"] < -0.1
    assert mine.metrics["kl"] == side.metrics["kl"] == 0
    assert_same(mine, side)


def test_apo_zero_unpaired(on: Models, tmp_path: Path) -> None:
    assert_same(ours(APOZeroUnpaired(beta=BETA), on, LABELLED), trl_kto(tmp_path, on, loss_type="apo_zero_unpaired"))


@pytest.mark.parametrize("objective", [KTO(beta=BETA), APOZeroUnpaired(beta=BETA)])
def test_metrics_of_the_same_name_are_the_same(objective: Objective, on: Models, tmp_path: Path) -> None:
    loss_type = "kto" if isinstance(objective, KTO) else "apo_zero_unpaired"
    side, mine = trl_kto(tmp_path, on, loss_type=loss_type), ours(objective, on, LABELLED)
    shared = [f"{kind}/{of}" for kind in ("rewards", "logps") for of in ("chosen", "rejected")]
    for name in (
        *shared,
        "rewards/margins",
        "entropy",
        "logits/chosen",
        "logits/rejected",
        *(["kl"] if loss_type == "kto" else []),
    ):
        assert mine.metrics[name] == pytest.approx(side.metrics[name], rel=2e-6, abs=2e-6), name


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({}, KTO(beta=1.1 * BETA)),
        ({}, KTO(beta=BETA, desirable_weight=1.05)),
        ({}, APOZeroUnpaired(beta=BETA)),
        ({"loss_type": "apo_zero_unpaired"}, BCO(beta=BETA, dialect="trl1")),
    ],
)
def test_the_comparison_notices(options: dict[str, Any], wrong: Objective, on: Models, tmp_path: Path) -> None:
    assert_different(ours(wrong, on, LABELLED), trl_kto(tmp_path, on, **options))


# Known differences.


def test_trl_kto_kl_is_of_the_micro_batch(on: Models, tmp_path: Path) -> None:
    """TRL rotates answers and estimates z0 within each micro-batch; ours does both over the global batch."""
    made = trainer("kto", tmp_path, on, LABELLED, batch=4, gradient_accumulation_steps=2, beta=BETA)
    first, second = theirs(made, 0), theirs(made, 1)
    whole = ours(KTO(beta=BETA), on, LABELLED)
    halves = [ours(KTO(beta=BETA), on, LABELLED[i : i + 4]) for i in (0, 4)]
    for side, half in zip((first, second), halves, strict=True):
        assert_same(half, side)
        assert half.metrics["kl"] == pytest.approx(side.metrics["kl"], abs=1e-5)
        assert abs(half.metrics["kl"] - whole.metrics["kl"]) > 0.01
    step = accumulated(trainer("kto", tmp_path, on, LABELLED, batch=4, gradient_accumulation_steps=2, beta=BETA))
    assert step.loss == pytest.approx((first.loss + second.loss) / 2, abs=1e-6)
    assert_different(whole, step)


def test_trl_kto_leaves_out_rows_that_are_not_finite(on: Models, tmp_path: Path) -> None:
    """TRL's loss is the mean over rows that are not NaN (nanmean). Ours reports the row and refuses the step."""
    made = trainer("kto", tmp_path, on, LABELLED, beta=BETA, loss_type="apo_zero_unpaired")
    batch = next(iter(made.get_train_dataloader()))
    objective = APOZeroUnpaired(beta=BETA)
    mine = module(objective, on)
    values = mine.compute_logps(collate_labelled(tokens(objective, LABELLED, on.tokenizer)), 1.0)
    sums = values.answers.reference
    assert sums is not None
    sums[0] = float("nan")
    made.precompute_ref_logps = True
    found = made.compute_loss(made.model, {**batch, "ref_logps": sums})
    assert found.item() == pytest.approx(objective(values)[1:].mean().item(), abs=1e-6)
    assert mine.finiteness_check(values).isnan().tolist() == [True] + [False] * 7
