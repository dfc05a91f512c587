"""Displacement on one prompt: the rows, the commands, and the numbers that are read from a run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignlab.cli import train
from alignlab.papers.claim import Workspace
from alignlab.papers.library import library
from alignlab.papers.measuring import Bench
from alignlab.papers.no_never import STATEMENTS, Answers, Experiment, numbers_of

NO_NEVER = Answers("No", "Never", "Yes")


class Logged:
    """A run whose metrics are these: name -> update -> value."""

    def __init__(self, metrics: dict[str, dict[int, float]]) -> None:
        self.metrics = metrics

    def curve(self, name: str) -> dict[int, float]:
        return self.metrics.get(name, {})


def logs(*values: float) -> dict[int, float]:
    return {10 * k: math.log(value) for k, value in enumerate(values)}


def test_numbers_of_a_run() -> None:
    """No falls to .2 and rises to .4, Never falls from .1 to .01, and Yes rises from .05 to .5."""
    run: Any = Logged(
        {
            "train/logps/chosen": logs(0.8, 0.2, 0.4),
            "train/logps/rejected": logs(0.1, 0.05, 0.01),
            "eval/logps/chosen": {30: math.log(0.5)},
            "eval/logratios/chosen": {30: math.log(10)},
        }
    )
    found = numbers_of(run, NO_NEVER)
    assert found == pytest.approx(
        {
            "p of the preferred answer before": 0.8,
            "largest drop of the preferred answer": 0.6,
            "rise of the margin": math.log(40) - math.log(8),
            "p(Yes) before": 0.05,
            "rise of p(Yes)": 0.45,
        }
    )
    lost: Any = Logged({})
    assert math.isnan(numbers_of(lost, NO_NEVER)["largest drop of the preferred answer"])


def test_rows_have_answers_of_one_token() -> None:
    pair, watched = NO_NEVER.rows(STATEMENTS[:1]), NO_NEVER.rows(STATEMENTS[:1], watched=True)
    assert (pair[0]["chosen"], pair[0]["rejected"], watched[0]["chosen"]) == ("No", "Never", "Yes")
    assert pair[0]["chosen_ended"] is pair[0]["rejected_ended"] is False
    assert STATEMENTS[0] in pair[0]["prompt"]
    assert len(set(STATEMENTS)) == len(STATEMENTS)


def test_the_commands_write_their_rows_first(tmp_path: Path) -> None:
    place = Workspace(tmp_path, tmp_path / "folder", "")
    commands = Experiment().commands("no-never-smollm2", place)
    first = next(commands)
    assert len((tmp_path / "folder/no-never-sft-1.jsonl").read_text().splitlines()) == len(STATEMENTS)
    pairs = [json.loads((tmp_path / f"folder/no-never-pair-{k}.jsonl").read_text()) for k in (1, 2, 3)]
    assert len({row["prompt"] for row in pairs}) == 3
    assert any(word.startswith("model.parent=") for word in first)
    second = next(commands)
    assert not any(word.startswith("model.parent=") for word in second)
    assert first[-1].endswith("no-never-sft")
    assert second[-1].endswith("no-never-plain")
    assert len(list(commands)) == 2, "Yes > No with SFT and without"


@pytest.mark.slow
def test_it_runs_with_a_tiny_model(tmp_path: Path, alignlab: Callable[..., Any]) -> None:
    paper = library()["razin_2024"]
    (claim,) = (claim for claim in paper.claims if claim.name == "no-never-smollm2")
    common = ("trainer.max_steps=6", "trainer.eval_every=3", "optim.lr=1e-3")
    tiny = Experiment((NO_NEVER,), prompts=2, model=("model=tiny",), common=common)
    claim = replace(claim, measured_by=tiny.commands_and_numbers(claim.name))
    row = Bench(Path("outputs/papers"), Path("outputs"), train.main, (), {"train": train.main}).measure(paper, claim)
    assert row.record["status"] == "done", row.record["reason"]
    measured = row.record["measured"]
    for where in ("SFT before", "no SFT"):
        assert all(value > 1 for value in measured[f"No > Never, {where}: rise of the margin"])
        assert len(measured[f"No > Never, {where}: rise of p(Yes)"]) == 2
    assert measured["No > Never, SFT before: p(Yes) before"] != measured["No > Never, no SFT: p(Yes) before"]
    assert not list(Path("outputs/runs").glob("dpo-*/policy")), "runs of papers keep their records"
    assert "<folder>/no-never-pair-1.jsonl" in row.record["commands"][0]
