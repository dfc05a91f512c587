"""A number that is not finite: the rows of its batch are saved, and `debug=anomaly` finds what made it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from alignlab.errors import DivergedError
from alignlab.runs.directory import RunDir
from alignlab.training.nonfinite import NonFinite
from tests.lab_runs import only, records

Run = Callable[..., Any]
BANDIT = ["experiment=bandit_ipo", "tracking=none", "trainer.max_steps=6", "trainer.progress=false"]


class Root(nn.Module):
    """The square root of its input, whose gradient at 0 is infinite."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sqrt()


def watched(tmp_path: Path, policy: nn.Module, step: int = 0) -> NonFinite:
    callback = NonFinite(RunDir.of(tmp_path, "dpo-1"), str, anomaly=True)
    trainer = SimpleNamespace(global_step=step)
    callback.on_train_batch_start(trainer, SimpleNamespace(policy=policy))  # type: ignore[arg-type]
    return callback


def test_the_module_that_made_the_first_number_is_named(tmp_path: Path) -> None:
    policy = nn.Sequential(nn.Identity(), Root(), nn.Identity())
    callback = watched(tmp_path, policy)
    policy(torch.tensor([1.0, 4.0]))
    assert callback.found == ""
    policy(torch.tensor([1.0, -1.0]))
    assert callback.found == "result of 1 (Root), whose inputs are finite"
    callback.stop()
    callback.found = ""
    policy(torch.tensor([-1.0]))
    assert callback.found == "", "it no longer watches"
    assert not torch.is_anomaly_enabled()


@pytest.mark.filterwarnings("ignore:Error detected in")
def test_the_function_of_the_backward_pass_is_named(tmp_path: Path) -> None:
    policy, x = nn.Sequential(Root()), torch.zeros(1, requires_grad=True)
    callback = watched(tmp_path, policy)
    trainer = SimpleNamespace(global_step=7, is_global_zero=True)
    with pytest.raises(RuntimeError) as caught:
        (policy(x) * 0).sum().backward()
    module = SimpleNamespace(rows_at_work=[])
    callback.on_exception(trainer, module, caught.value)  # type: ignore[arg-type]
    error = callback.error_of(caught.value, 7)
    assert isinstance(error, DivergedError)
    assert "not finite at step 7: Function 'SqrtBackward0' returned nan values" in str(error)
    assert callback.error_of(RuntimeError("something else"), 7) is None


def test_a_process_that_does_not_lead_writes_nothing(tmp_path: Path) -> None:
    """The rows of its batch go to the first process with the error."""
    callback = NonFinite(RunDir.of(tmp_path, "dpo-1"), str, anomaly=False)
    row = SimpleNamespace(index=3, answers=lambda: [([1, 2], [4])])
    error = DivergedError("not finite")
    trainer = SimpleNamespace(global_step=7, is_global_zero=False)
    callback.on_exception(trainer, SimpleNamespace(rows_at_work=[row]), error)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    (found,) = error.rows  # type: ignore[attr-defined]
    assert (found["step"], found["row"], found["answer_ids"]) == (7, 3, [[4]])


def test_only_the_update_that_failed_before_is_searched(tmp_path: Path) -> None:
    run = RunDir.of(tmp_path, "dpo-1")
    run.path.mkdir(parents=True)
    run.nonfinite.write_text('{"step": 5}\n')
    for step, found in ((4, ""), (5, "result of 0 (Root), whose inputs are finite")):
        policy = nn.Sequential(Root())
        callback = watched(tmp_path, policy, step)
        policy(torch.tensor([-1.0]))
        assert callback.found == found
        callback.stop()


def test_a_run_that_diverged_is_replayed(alignlab: Run) -> None:
    command = ["train", *BANDIT, "optim.lr=1e38", "trainer.gradient_clip=0"]
    first = alignlab(*command)
    assert first.code == 1
    assert "add to the same command: debug=anomaly" in first.err
    run = only("ipo")
    (record,) = records().values()
    assert record["status"] == "diverged"
    rows = [json.loads(line) for line in (run / "nonfinite.jsonl").read_text().splitlines()]
    assert len(rows) == record["config"]["trainer"]["batch_size"]
    step = rows[0]["step"]
    assert f"at step {step}" in record["reason"]
    assert all(len(row["answers"]) == 2 and row["answers"] != ["", ""] for row in rows)
    assert "anomaly" not in record
    assert "diverged already" in alignlab(*command).err
    again = alignlab(*command, "debug=anomaly")
    assert again.code == 1
    (record,) = records().values()
    assert (record["status"], record["attempt"]) == ("diverged", 2)
    assert record["anomaly"] in again.err
    assert record["anomaly"].startswith("result of ")
