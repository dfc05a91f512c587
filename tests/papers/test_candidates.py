"""The claim about a closed set of continuations: its rows, and the whole chain with a tiny model."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignlab.cli import synthesize, train
from alignlab.data.sources.candidates import Candidates
from alignlab.papers.candidates import Experiment, write_candidates
from alignlab.papers.library import library
from alignlab.papers.measuring import Bench
from tests.papers.test_imdb import review

VERBS = {"train": train.main, "synthesize": synthesize.main}


def test_rankings_become_candidates(tmp_path: Path) -> None:
    row = {"prompt": "The film", "completions": [" is", " was"], "grades": [0.5, -1.0], "ended": [False, False]}
    (tmp_path / "rankings.jsonl").write_text(json.dumps(row) + "\n")
    write_candidates(tmp_path / "rankings.jsonl", tmp_path / "candidates.jsonl")
    source = Candidates(path=str(tmp_path / "candidates.jsonl"))
    assert list(source.missing()) == []
    assert source.world.rows == (("The film", (" is", " was"), (0.5, -1.0)),)


@pytest.mark.slow
def test_the_whole_chain_with_a_tiny_model(tmp_path: Path, alignlab: Callable[..., Any]) -> None:
    rng = random.Random(0)
    rows = [review(rng, i, i % 2 == 0, "train" if i < 80 else "test") for i in range(120)]
    Path("reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny = Experiment(
        (0.1, 1.0), model=("model=tiny", "peft=none"), sft=("trainer.max_steps=2", "trainer.batch_size=4"), prompts=3,
        samples=20, tokens=4, common=("trainer.max_steps=20", "optim.lr=0.003"),
    )  # fmt: skip
    paper = library()["dpo_2023"]
    (claim,) = (claim for claim in paper.claims if claim.name == "candidates-smollm2")
    claim = replace(claim, measured_by=tiny.commands_and_numbers(claim.name))
    bench = Bench(Path("outputs/papers"), Path("outputs"), train.main, (), VERBS, "reviews.jsonl")
    row = bench.measure(paper, claim)
    assert row.record["status"] == "done", row.record["reason"]
    assert row.decision.verdict == "needs-scale"
    measured = row.record["measured"]
    assert measured["beta 0.1: exact/kl"][0] > measured["beta 1: exact/kl"][0] > 0
    assert 0 < measured["the set's share of the model"][0] < 1
    assert measured["largest gap to the frontier"][0] >= 0
    frontier = row.record["curves"]["frontier"]
    assert frontier["x"][0] == 0.0
    assert frontier["y"][0] == pytest.approx(measured["reward of the start"][0], abs=1e-4)
