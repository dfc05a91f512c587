"""A command that would have resumed a run, had its objective, data or model not changed, says what differs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.test_training import at_step

Run = Callable[..., Any]
TINY = [
    "data=pairs", "data.path=rows.jsonl", "model=tiny", "objective=dpo", "tracking=none", "evaluation=off",
    "trainer.max_steps=3", "trainer.batch_size=2", "trainer.progress=false",
]  # fmt: skip


def write_rows(count: int) -> None:
    rows = [f'{{"prompt": "what is {i}?", "chosen": "a number {i}", "rejected": "none {i}"}}\n' for i in range(count)]
    Path("rows.jsonl").write_text("".join(rows))


def test_what_differs_is_said(alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(40)
    with monkeypatch.context() as patched:
        at_step(patched, 1, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert alignlab("train", *TINY).code == 130
    (stopped,) = Path("outputs/runs").glob("dpo-*[0-9a-f]")
    other = alignlab("train", *TINY, "objective.beta=0.7")
    assert other.code == 0, other.err
    because = f"It does not resume {stopped.name}, which is interrupted, because these differ:\n  "
    assert f"{because}objective.beta: 0.1 -> 0.7\n" in other.err
    other = alignlab("train", *TINY, "objective=ipo")
    assert "objective: dpo -> ipo" in other.err
    write_rows(41)
    other = alignlab("train", *TINY)
    assert "which is interrupted, because these differ:\n  data: the content of its files has changed\n" in other.err
    write_rows(40)
    assert "does not resume" not in alignlab("train", *TINY).err, "this resumes it"

    told = alignlab("train", f"run={stopped.name}", "trainer.max_steps=9", "model=lab", "objective.beta=0.7")
    assert told.code == 2
    assert f"was tiny in {stopped.name}, and can't change when a run goes on" in told.err
    assert f"was 0.1 in {stopped.name}" in told.err
