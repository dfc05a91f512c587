"""The check of a machine with a GPU: what is missing is not checked and never fails, and what fails says why."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_check
from benchmarks.common import Measured
from benchmarks.gpu_check import CHECKS

ROOT = Path(__file__).resolve().parents[2]


def test_a_check_without_its_package_or_without_time_is_not_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = {"status": "ok", "text": "", "numbers": {}}
    limits: list[float] = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(gpu_check, "in_process", lambda *given: limits.append(given[2]) or dict(told))
    found = gpu_check.run("cpu", list(CHECKS), 100, tmp_path)
    lacking = {name for name, one in found.items() if one["status"] == "not checked"}
    assert lacking == {"adamw_8bit", "qlora", "135m, TRL", "1b, TRL", "7b, TRL", "vllm"}
    assert found["qlora"]["text"] == "needs bitsandbytes: pip install bitsandbytes"
    assert max(limits) <= 100, "no check gets more than what is left"
    assert gpu_check.run("cpu", ["losses"], 10, tmp_path)["losses"]["text"] == "no time was left"


def test_a_check_that_hangs_is_not_checked_and_one_that_breaks_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    start = subprocess.Popen
    for code, status, text in (
        ("import time; time.sleep(9)", "not checked", "was not done within 1 s"),
        ("raise ValueError('no kernel')", "failed", "ValueError: no kernel"),
        ('print(\'{"good": false, "text": "off by 1", "numbers": {"far": 1}}\')', "failed", "off by 1"),
        ('print(\'{"good": true, "text": "fine", "numbers": {}}\')', "ok", "fine"),
    ):
        monkeypatch.setattr(
            subprocess, "Popen", lambda command, code=code, **given: start([sys.executable, "-c", code], **given)
        )
        found = gpu_check.in_process("losses", "cpu", 1 if status == "not checked" else 60, tmp_path)
        assert (found["status"], found["text"]) == (status, text)


def test_speed_leaves_out_the_first_step() -> None:
    found = gpu_check._told(Measured([9.0, 1.0, 3.0], [0.1] * 3, [100, 200, 300], 2.5, 1.0), [1e9, 1e9, 3e9], 2e9)
    assert found.text == "2 s a step, 150 tokens a second, 50% of the limit, 2.50 GB"
    assert found.numbers["tokens_per_second"] == 150


@pytest.mark.slow
def test_it_is_rehearsed_on_a_cpu(tmp_path: Path) -> None:
    words = ["--rehearse", "--json", str(tmp_path / "found.json"), "--only", "attention", "losses", "135m", "ppo"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert {name: one["status"] for name, one in found["checks"].items()} == dict.fromkeys(words[4:], "ok")
    assert found["rehearsed"] is True
    assert found["checks"]["losses"]["numbers"] == {"sft": 0.0, "dpo": 0.0, "kto": 0.0, "reward": 0.0}
    assert 0 < found["checks"]["135m"]["numbers"]["share_of_limit"] < 1
