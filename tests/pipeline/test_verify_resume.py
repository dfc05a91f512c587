"""`alignlab verify-resume`: a run that was killed and resumed is compared with one that was not, to the last bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from alignlab.cli.verify_resume import main
from alignlab.pipeline.verify_resume import compare, first_difference
from alignlab.runs.directory import RunDir
from tests.lab_runs import FULL_PARENT, LAB, REWARD

Run = Callable[..., Any]


@pytest.fixture
def two(tmp_path: Path) -> tuple[RunDir, RunDir]:
    """Two equal finished runs, whose times differ."""
    runs = []
    for name in ("whole", "killed"):
        run = RunDir.of(tmp_path / name, "dpo-1")
        run.policy.mkdir(parents=True)
        run.checkpoint.parent.mkdir()
        save_file({"w": torch.tensor([0.5, float("nan"), -0.0])}, run.policy / "model.safetensors")
        state = {"exp_avg": torch.ones(2)}
        states = {"optimizer_states": [state], "callbacks": {"Recorder": {"seconds": len(name)}}, "metrics": name}
        torch.save(states, run.checkpoint)
        rows = [{"train/global_step": i, "train/loss": 1 / i, "train/step_seconds": len(name)} for i in (1, 2, 3)]
        run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
        runs.append(run)
    return runs[0], runs[1]


def test_equal_runs_are_equal(two: tuple[RunDir, RunDir]) -> None:
    assert compare(*two) == ""


def test_one_bit_of_the_policy_is_seen(two: tuple[RunDir, RunDir]) -> None:
    """Also the sign of a zero."""
    file = two[1].policy / "model.safetensors"
    weights = {**load_file(file), "w": torch.tensor([0.5, float("nan"), 0.0])}
    save_file(weights, file)
    assert compare(*two) == "policy: w: 1 of 3 numbers; number 2 is -0.0, resumed 0.0"
    file.unlink()
    assert compare(*two) == "policy: model.safetensors is missing in the resumed run"


def test_the_optimizer_is_compared(two: tuple[RunDir, RunDir]) -> None:
    state = torch.load(two[1].checkpoint, weights_only=True)
    state["optimizer_states"][0]["exp_avg"][1] = 1.5
    torch.save(state, two[1].checkpoint)
    expected = "training state: optimizer_states: 0: exp_avg: 1 of 2 numbers; number 1 is 1.0, resumed 1.5"
    assert compare(*two) == expected


def test_metrics_are_compared_row_by_row(two: tuple[RunDir, RunDir]) -> None:
    lines = two[1].metrics.read_text().splitlines(keepends=True)
    two[1].metrics.write_text("".join([*lines[:2], lines[2].replace("0.333", "0.334")]))
    assert compare(*two).startswith("metrics.jsonl, row 3 (update 3): train/loss: 0.333333")
    two[1].metrics.write_text("".join(lines[:2]))
    assert compare(*two) == "metrics.jsonl: 3 rows, resumed 2"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"a": 1}, {"b": 1}, "x: a is in one of them only"),
        ([1, 2], [1], "x: 2 entries, resumed 1"),
        (float("nan"), float("nan"), ""),
        (0.1, 0.1, ""),
        (0.1, 0.1 + 2e-17, "x: 0.1, resumed 0.10000000000000002"),
        (torch.ones(2), torch.ones(3), "x: torch.float32 [2], resumed torch.float32 [3]"),
        (torch.tensor(True), torch.tensor(False), "x: 1 of 1 numbers; number 0 is True, resumed False"),
        (torch.ones(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.bfloat16), ""),
    ],
)
def test_first_difference(one: Any, other: Any, expected: str) -> None:
    assert first_difference(one, other, "x") == expected


def test_several_runs_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "seed=1,2"]) == 2
    assert "leave out: -m" in capsys.readouterr().out


def test_an_output_root_that_is_a_link_to_nothing(alignlab: Run) -> None:
    Path("link").symlink_to("nothing")
    assert "output_root can't be written" in alignlab("verify-resume", *BANDIT, "output_root=link").err


BANDIT = ["experiment=bandit_ipo"]
# A Llama that samples texts, with a reward function of the user's own.
TINY = [
    "model=tiny", "data=pairs", "data.path=pairs.jsonl", "reward=gold", "reward.function=own_rule:remainder",
    "trainer.batch_size=4", "rollout.max_new_tokens=6", "optim.lr=1e-3", "tracking=none", "evaluation=off",
]  # fmt: skip


def write_files_of_tiny() -> None:
    rows = [{"prompt": f"Say {i}", "chosen": f"{i}!", "rejected": "no, never"} for i in range(12)]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rule = "def remainder(prompt: str, answer: str) -> float:\n    return float(sum(map(ord, answer)) % 7)\n"
    Path("own_rule.py").write_text(rule)


@pytest.mark.slow
@pytest.mark.usefixtures("reward_model")
@pytest.mark.parametrize(
    "words",
    [
        BANDIT,
        [*BANDIT, "trainer.eval_every=2", "trainer.keep_best=eval/loss"],
        [*LAB, "objective=dpo", "peft=lora", "peft.dropout=0.1", FULL_PARENT],
        [*LAB, *REWARD, "objective=ppo"],
        [*LAB, "objective=grpo"],
        [*TINY, "objective=ppo"],
        [*TINY, "objective=grpo"],
    ],
    ids=["bandit", "best", "lora", "ppo", "grpo", "tiny ppo", "tiny grpo"],
)
def test_a_run_that_is_killed_resumes_to_the_last_bit(words: list[str], alignlab: Run) -> None:
    write_files_of_tiny()
    result = alignlab("verify-resume", *words, "--updates", "8")
    assert result.code == 0, result.err
    assert "resumes to the last bit" in result.out
    assert not list(Path("outputs").glob("verify-resume-*"))
