"""`check` accepts no command line that `train` then refuses before its first update."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from tests.fuzz.command_lines import START, command_line
from tests.fuzz.forked import run_forked
from tests.fuzz.outcomes import STRIDE
from tests.fuzz.test_command_lines import NUMBER
from tests.lab_runs import LAB

# The run of START on a small world, without a parent.
SMALL = [START[1], *LAB[:-1], "model.parent="]
BEGINS = "the first update begins"


def begin(*args: Any, **named: Any) -> None:
    """In place of the training: all that comes before it was done."""
    print(BEGINS, flush=True)
    os._exit(0)


def refused_later(typed: list[str], folder: Path) -> str | None:
    """What `train` says about a command line that `check` accepts; empty if it trains, None if `check` refuses it."""
    if run_forked(["check", *SMALL, *typed], folder / "check", seconds=120).code != 0:
        return None
    ended = run_forked(["train", *SMALL, *typed], folder / "train", seconds=120)
    return "" if BEGINS in ended.text else f"{ended.kind}: {ended.text[-800:]}"


@pytest.mark.slow
@pytest.mark.fuzz
def test_check_accepts_nothing_that_train_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl.Trainer, "fit", begin)
    numbers = range(0, NUMBER, 3 * int(os.environ.get(STRIDE, "1")))  # those with one wrong value
    typed = {number: list(command_line(number).words[len(START) :]) for number in numbers}
    found = {number: refused_later(words, tmp_path / str(number)) for number, words in typed.items()}
    accepted = {number: text for number, text in found.items() if text is not None}
    assert len(accepted) >= len(numbers) / 20
    assert not [(typed[number], text) for number, text in accepted.items() if text]


def test_a_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl.Trainer, "fit", begin)
    assert refused_later(["data.seed=-1"], tmp_path / "refused") is None
    assert refused_later(["seed=0"], tmp_path / "accepted") == ""
