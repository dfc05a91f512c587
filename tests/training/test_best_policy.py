"""`trainer.keep_best` and `trainer.patience`: the best policy is chosen, recorded and resumed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from alignlab.config.from_record import recorded_plan
from alignlab.config.selection import choosable
from alignlab.tracking.metrics import BETTER, CHOOSES
from alignlab.tracking.sinks.jsonl import read_rows
from alignlab.training.best_policy import BestPolicy
from tests.lab_runs import LAB, REWARD, only
from tests.training.test_training import at_step

Run = Callable[..., Any]
BANDIT = [
    "experiment=bandit_ipo", "tracking=none", "trainer.max_steps=8", "trainer.eval_every=1", "trainer.progress=false",
    "optim.lr=0.3",
]  # fmt: skip


class Course:
    """A policy with one weight, evaluated after each update; the weight is the number of the update."""

    def __init__(self, metric: str, patience: int) -> None:
        self.metric, self.metrics, self.policy = metric, SimpleNamespace(eval_metrics={}), nn.Linear(1, 1, bias=False)
        self.best = BestPolicy(metric, patience, self.metrics)  # type: ignore[arg-type]

    def go(self, *values: float, begin: int = 1) -> int | None:
        """Evaluate the values. Returns the update after which the run stops; None if it does not."""
        for step, value in enumerate(values, begin):
            nn.init.constant_(self.policy.weight, step)
            self.metrics.eval_metrics = {"train/global_step": step, self.metric: value}
            trainer = SimpleNamespace(global_step=step, max_steps=100, should_stop=False)
            self.best.on_train_batch_end(trainer, SimpleNamespace(policy=self.policy))  # type: ignore[arg-type]
            if trainer.should_stop:
                return step
        return None


@pytest.mark.parametrize(
    ("metric", "values", "chosen"),
    [
        ("eval/loss", (0.7, 0.5, 0.6, 0.5), 2),  # of two equal ones the first
        ("eval/accuracy", (0.7, 0.5, 0.9, 0.6), 3),
        ("exact/frontier_gap", (0.3, 0.2, 0.1), 3),
    ],
)
def test_the_best_policy_is_chosen(metric: str, values: tuple[float, ...], chosen: int) -> None:
    course = Course(metric, 0)
    assert course.go(*values) is None
    assert course.best.step == chosen
    course.best.restore(course.policy)
    assert course.policy.weight.item() == chosen
    assert course.metrics.eval_metrics[metric] == values[chosen - 1]
    record = course.best.record(len(values), len(values))
    assert (record["by"], record["step"], record["of_evaluations"]) == (metric, chosen, len(values))
    assert not record["stopped_early"]


def test_patience_counts_evaluations_without_a_better_value() -> None:
    assert Course("eval/loss", 2).go(0.9, 0.8, 0.85, 0.79, 0.8, 0.79, 0.1) == 6
    assert Course("eval/loss", 3).go(0.9, 0.8, 0.85, 0.79, 0.8, 0.79, 0.1) is None


def test_a_resumed_run_knows_the_best_so_far(tmp_path: Path) -> None:
    """Also the number of evaluations without a better one, and that a run had stopped already."""
    before = Course("eval/loss", 3)
    before.go(0.9, 0.5, 0.6)
    torch.save(before.best.state_dict(), tmp_path / "state")
    after = Course("eval/loss", 3)
    after.best.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert after.go(0.6, 0.6, 0.1, begin=4) == 5
    after.best.restore(after.policy)
    assert after.policy.weight.item() == 2
    assert after.best.record(5, 100) == {
        "by": "eval/loss", "better": "lower", "value": 0.5, "step": 2, "of_evaluations": 5, "updates": 5,
        "stopped_early": True,
    }  # fmt: skip
    trainer = SimpleNamespace(should_stop=False)
    after.best.on_train_start(trainer, None)  # type: ignore[arg-type]
    assert trainer.should_stop


def test_an_update_without_an_evaluation_changes_nothing() -> None:
    course = Course("eval/loss", 1)
    course.go(0.5)
    course.best.consider(2, course.policy)
    course.best.consider(1, course.policy)
    assert (course.best.step, course.best.is_over) == (1, False)


def test_metrics_that_rank_sweeps_also_choose() -> None:
    assert BETTER.items() <= CHOOSES.items()


def test_a_run_says_what_was_chosen_and_resumes_bitwise(
    alignlab: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = ["train", *BANDIT, "trainer.keep_best=exact/frontier_gap", "trainer.patience=2", "trainer.max_steps=40"]
    result = alignlab(*command, "output_root=whole")
    assert result.code == 0, result.err
    (whole,) = Path("whole/runs").glob("ipo-*[0-9a-f]")
    record = json.loads((whole / "run.json").read_text())
    chosen, summary = record["chosen"], record["summary"]
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    gaps = {int(r["train/global_step"]): r["exact/frontier_gap"] for r in rows if "exact/frontier_gap" in r}
    assert chosen["step"] == min(gaps, key=lambda step: gaps[step])
    assert summary["exact/frontier_gap"] == chosen["value"] == min(gaps.values())
    assert summary["chosen/exact/frontier_gap"] == chosen["step"]
    assert chosen["updates"] == chosen["step"] + 2 == max(gaps)
    assert chosen["stopped_early"]
    assert f"update chosen by exact/frontier_gap {chosen['step']}" in result.out
    policies = [load_file(whole / name / "model.safetensors") for name in ("policy", "last")]
    assert any(not torch.equal(policies[0][key], policies[1][key]) for key in policies[0])

    with monkeypatch.context() as patched:  # after the best evaluation, and before the run stops
        at_step(patched, chosen["step"], lambda: os.kill(os.getpid(), signal.SIGINT))
        assert alignlab(*command).code == 130
    assert alignlab(*command).code == 0
    resumed = only("ipo")
    assert json.loads((resumed / "run.json").read_text())["chosen"] == chosen
    again = [load_file(resumed / name / "model.safetensors") for name in ("policy", "last")]
    for one, two in zip(policies, again, strict=True):
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_what_cannot_choose_is_refused_by_check(alignlab: Run) -> None:
    refused = alignlab("check", *BANDIT, "trainer.keep_best=eval/accuracy")
    assert refused.code == 2
    assert "this run has: exact/frontier_gap" in refused.err
    assert "eval/rewards/accuracies, eval/loss, exact/winrate" in refused.err
    refused = alignlab("check", *BANDIT, "trainer.keep_best=eval/los", "trainer.eval_every=0")
    assert "trainer.keep_best = eval/los" in refused.err
    assert "keep_best=eval/loss" in refused.err
    assert "trainer.eval_every = 0" in refused.err
    refused = alignlab("check", *BANDIT, "trainer.keep_best=eval/loss", "trainer.eval_every=0")
    assert "trainer.eval_every=1" in refused.err
    refused = alignlab("check", *BANDIT, "trainer.patience=2")
    assert "trainer.keep_best=eval/loss" in refused.err
    both = ["trainer.keep_best=eval/loss", "launcher=vectorized", "-m", "seed=1,2"]
    refused = alignlab("train", *BANDIT, *both)
    assert refused.code == 2
    assert "trainer.keep_best keeps weights, and trainer.patience stops, one run at a time" in refused.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["objective=dpo"],
        ["objective=kto"],
        ["objective=orpo"],
        ["objective=orpo", "reference=none"],
        ["objective=sft"],
        ["objective=ppo", *REWARD],
        ["objective=grpo"],
        ["objective=best_of_n"],
        ["objective=spin"],
        ["objective=reward_model"],
    ],
    ids=lambda words: " ".join(words[:2])[:30],
)
@pytest.mark.usefixtures("reward_model")
def test_a_run_has_the_metrics_that_check_names(words: list[str], alignlab: Run) -> None:
    """All of them, and no other one of which the better direction is known."""
    before = set(Path("outputs/runs").iterdir())
    result = alignlab("train", *LAB, *words, "trainer.max_steps=2", "trainer.eval_every=1")
    assert result.code == 0, result.err
    (run,) = set(Path("outputs/runs").glob("*-*[0-9a-f]")) - before
    plan = recorded_plan("outputs", run.name, trust_remote_code=False)
    row = [row for row in read_rows(run / "metrics.jsonl") if any(name.startswith("eval/") for name in row)][-1]
    names = choosable(plan.train.objective, plan.measured_on, exactly=plan.is_measured_exactly)
    assert set(names) == row.keys() & CHOOSES.keys()
