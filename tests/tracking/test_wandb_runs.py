"""Real tiny runs in W&B's offline files: whole curves after an interruption, and the metrics that users of TRL know."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alignlab.tracking import wandb_sync
from alignlab.tracking.sinks.jsonl import STEP, read_rows
from tests.lab_runs import LAB, REWARD, only, records
from tests.tracking.wandb_files import history_of, media_of, offline_records, summary_of
from tests.training.test_training import at_step

Run = Callable[..., Any]

# Panels of TRL 1.16 (DPOTrainer, KTOTrainer, its last PPOTrainer), below train/; those that are logged under another
# name here, or not at all, are in docs/tracking.md.
_ALL = ("loss", "learning_rate", "grad_norm", "epoch", "num_tokens")
_ANSWERS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected")
_LOGITS = ("logits/chosen", "logits/rejected")
PANELS = {
    "dpo": (*_ALL, *_ANSWERS, *_LOGITS, "rewards/accuracies", "entropy", "mean_token_accuracy"),
    "kto": (*_ALL, *_ANSWERS, *_LOGITS, "kl"),
    "orpo": (*_ALL, *_ANSWERS, *_LOGITS, "rewards/accuracies", "nll_loss", "log_odds_ratio", "log_odds_chosen"),
    "ppo": (
        "learning_rate", "episode", "objective/kl", "objective/entropy", "objective/non_score_reward",
        "objective/rlhf_reward", "objective/scores", "policy/approxkl_avg", "policy/clipfrac_avg", "policy/entropy_avg",
        "loss/policy_avg", "loss/value_avg", "val/clipfrac_avg", "val/ratio", "val/num_eos_tokens",
    ),
}  # fmt: skip
# Of these, TRL logs eval/ metrics, too.
_HELD_OUT = {"dpo": _ANSWERS, "kto": _ANSWERS, "orpo": _ANSWERS, "ppo": ()}


@pytest.mark.usefixtures("reward_model")
@pytest.mark.parametrize("objective", ["dpo", "kto", "ppo", pytest.param("orpo", marks=pytest.mark.slow)])
def test_the_panels_of_trl_have_curves(objective: str, alignlab: Run) -> None:
    """Each is a number of an offline run, with TRL's x-axis. A run alone has its figures."""
    reward = REWARD if objective == "ppo" else []
    words = [*LAB, *reward, f"objective={objective}", "trainer.max_steps=2", "tracking=wandb"]
    found = alignlab("train", *words, "tracking.wandb.mode=offline")
    assert found.code == 0, found.err
    records = offline_records(only(objective))
    history = history_of(records)
    wanted = [f"train/{name}" for name in PANELS[objective]]
    wanted += [f"eval/{name}" for name in ("loss", *_HELD_OUT[objective]) if objective != "ppo"]
    numbers = {name for row in history if STEP in row for name, value in row.items() if isinstance(value, int | float)}
    assert set(wanted) <= numbers
    axes = {m.step_metric for r in records if r.WhichOneof("record_type") == "metric" for m in [r.metric]}
    assert STEP in axes
    for name in ("exact/kl", "exact/winrate"):
        assert name in numbers, "KL and win-rate without asking"


@pytest.mark.slow
@pytest.mark.usefixtures("sft_parent", "drawn_figures")
def test_a_run_that_was_stopped_by_a_signal_is_uploaded_as_one_whole_curve(
    alignlab: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM at update 5 of 8, then the same command again."""
    words = [*LAB, "trainer.max_steps=8", "trainer.eval_every=4", "tracking=wandb", "tracking.wandb.mode=offline"]
    with monkeypatch.context() as patched:
        at_step(patched, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert alignlab("train", *words).code == 130
    run = only("dpo")
    (first,) = run.glob("wandb/offline-run-*")
    stopped = offline_records(run)
    assert [row[STEP] for row in history_of(stopped) if "train/loss" in row] == [1, 2, 3, 4, 5]
    assert [r.exit.exit_code for r in stopped if r.WhichOneof("record_type") == "exit"] == [255]
    assert alignlab("train", *words).code == 0
    assert records()[run.name]["attempt"] == 2
    whole = offline_records(run)  # there is only one folder
    assert not first.exists()
    assert [r.run.run_id for r in whole if r.WhichOneof("record_type") == "run"] == [run.name]
    assert [r.exit.exit_code for r in whole if r.WhichOneof("record_type") == "exit"] == [0]
    rows = [row for row in history_of(whole) if STEP in row]
    history = [row for row in rows if not any(name.startswith("figures/") for name in row)]
    assert [row[STEP] for row in history if "train/loss" in row] == list(range(1, 9)), "nothing twice, nothing lost"
    assert [row[STEP] for row in history if "eval/loss" in row] == [4, 8]
    steps = [row[STEP] for row in history]
    assert steps == sorted(steps)
    logged = [{name: value for name, value in row.items() if not name.startswith("_")} for row in history]
    assert [row for row in logged if len(row) > 1] == read_rows(run / "metrics.jsonl")
    assert summary_of(whole)["job/status"] == "done"
    media = media_of(run, history_of(whole))
    assert media.keys() == {"figures/curves", "figures/frontier"}
    assert all(file.stat().st_size > 10_000 for files in media.values() for file in files)
    uploaded: list[list[str]] = []
    monkeypatch.setattr(wandb_sync, "has_key", lambda: True)
    monkeypatch.setattr(
        wandb_sync.subprocess, "run", lambda command: uploaded.append(command) or SimpleNamespace(returncode=0)
    )
    assert alignlab("runs", "--sync", "objective=dpo").code == 0
    (folder,) = run.glob("wandb/offline-run-*")
    assert [Path(path).name for path in uploaded[0][-1:]] == [folder.name]
    assert uploaded[0][-2] == "sync"
