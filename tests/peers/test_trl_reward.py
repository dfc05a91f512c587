"""TRL's RewardTrainer against our reward model, and the differences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="TRL is not installed: pip install -e .[peers]")

from alignlab.objectives.reward_model import RewardModel
from tests.peers.side_by_side import (
    PAIRS,
    Models,
    ModelSide,
    assert_different,
    assert_same,
    models,
    ours,
    rewarding,
    theirs,
    tokens,
    trainer,
)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

UNMARKED = [replace(pair, margin=None) for pair in PAIRS]


@pytest.fixture(scope="module")
def on() -> Models:
    return rewarding(models())


def trl_reward(folder: Path, on: Models, rows: Any = UNMARKED, **options: Any) -> ModelSide:
    """RewardTrainer's loss, gradients and metrics on all pairs as one batch."""
    return theirs(trainer("reward", folder, on, rows, **options))


def test_the_token_ids_are_the_same(on: Models, tmp_path: Path) -> None:
    made = trainer("reward", tmp_path, on, UNMARKED)
    for row, mine in zip(made.train_dataset, tokens(RewardModel(), UNMARKED, on.tokenizer), strict=True):
        assert [row["chosen_ids"], row["rejected_ids"]] == [[*mine.prompt, *answer] for answer in mine.completions]


@pytest.mark.parametrize("centring", [0.0, 0.05])
@pytest.mark.parametrize("margins", [False, True])
def test_reward_model(centring: float, margins: bool, on: Models, tmp_path: Path) -> None:
    rows = PAIRS if margins else UNMARKED
    side = trl_reward(tmp_path, on, rows, center_rewards_coefficient=centring or None)
    assert_same(ours(RewardModel(centring=centring, margins=margins), on, rows), side)


def test_metrics_of_the_same_name_are_the_same(on: Models, tmp_path: Path) -> None:
    side, mine = trl_reward(tmp_path, on), ours(RewardModel(), on, UNMARKED)
    for name in ("accuracy", "margin", "mean_reward", "min_reward", "max_reward"):
        assert mine.metrics[name] == pytest.approx(side.metrics[name], rel=2e-6, abs=2e-6), name


@pytest.mark.parametrize(
    "wrong", [RewardModel(centring=0.055), RewardModel(), RewardModel(centring=0.05, margins=True)]
)
def test_the_comparison_notices(wrong: RewardModel, on: Models, tmp_path: Path) -> None:
    assert_different(ours(wrong, on, PAIRS), trl_reward(tmp_path, on, center_rewards_coefficient=0.05))


# Known differences.


def test_trl_uses_a_margin_column_unasked(on: Models, tmp_path: Path) -> None:
    """TRL subtracts a margin whenever the data has one; ours only with margins=true."""
    side = trl_reward(tmp_path, on, PAIRS)
    assert_different(ours(RewardModel(), on, PAIRS), side)
    assert_same(ours(RewardModel(margins=True), on, PAIRS), side)


def test_trl_scores_the_token_before_the_end_where_padding_is_the_end_token(tmp_path: Path) -> None:
    """TRL finds a row's last token by its id, so with pad = eos it takes the last letter. Ours uses lengths."""
    on = rewarding(models(pad=None))
    assert on.tokenizer.pad_token_id == on.tokenizer.eos_token_id
    side, mine = trl_reward(tmp_path, on), ours(RewardModel(), on, UNMARKED)
    assert_different(mine, side)
    unended = [replace(pair, chosen_ended=False, rejected_ended=False) for pair in UNMARKED]
    assert_same(ours(RewardModel(), on, unended), side)
