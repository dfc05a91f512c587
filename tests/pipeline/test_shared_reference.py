"""A sweep whose points need the reference for different answers makes one reference pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from alignlab.models import reference

Run = Callable[..., Any]

TINY = [
    "train", "model=tiny", "data=pairs", "evaluation=off", "data.path=mine.jsonl", "data.eval_limit=2", "tracking=none",
    "trainer.progress=false", "trainer.max_steps=2", "trainer.batch_size=2", "sweep.name=s",
]  # fmt: skip


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """The number of answers that each pass computed. The data has 40 pairs."""
    rows = [{"prompt": f"Say {i}", "chosen": f"{i}!", "rejected": "no" * (i % 3 + 1)} for i in range(40)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made: list[int] = []
    fill = reference._fill

    def counted(*args: Any) -> None:
        made.append(len(args[2]))
        fill(*args)

    monkeypatch.setattr(reference, "_fill", counted)
    return made


def test_objectives_betas_and_seeds_share_one_pass(alignlab: Run, passes: list[int]) -> None:
    """Pairs and labelled rows (with mismatched answers), and two seeds that sample other rows: 8 points, one pass."""
    found = alignlab(*TINY, "-m", "objective=dpo,kto", "objective.beta=0.1,0.3", "seed=1,2")
    assert found.code == 0, found.err
    assert len(passes) == 1
    (shard,) = Path("outputs/reference").rglob("*.safetensors")
    assert len(load_file(shard)["keys"]) == passes[0]
    assert len(list(Path("outputs/runs").glob("*/policy"))) == 8
    again = alignlab(*TINY, "-m", "objective=dpo,kto", "objective.beta=0.1,0.3", "seed=1,2", "rerun=true")
    assert again.code == 0, again.err
    assert len(passes) == 1, "and none when it is all there"


def test_the_first_of_points_with_the_same_answers_makes_the_pass(
    alignlab: Run, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignlab.pipeline.shared_reference._one_pass", lambda *args: pytest.fail("not needed"))
    found = alignlab(*TINY, "-m", "objective.beta=0.1,0.3")
    assert found.code == 0, found.err
    assert len(passes) == 1
    assert passes[0] < 40


def test_a_pass_that_fails_is_left_to_the_points(
    alignlab: Run, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any) -> None:
        raise MemoryError("no such luck")

    monkeypatch.setattr("alignlab.pipeline.shared_reference._one_pass", fails)
    found = alignlab(*TINY, "launcher=serial", "-m", "seed=1,2")
    assert found.code == 0, found.err
    assert len(passes) == 2
