"""trainer.max_epochs: the length of a run as a number of passes over its rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest

from alignlab.config.plan import Plan, plan
from alignlab.errors import ConfigError

SMALL = (
    "model=tiny", "model.hidden_size=8", "model.layers=1", "model.heads=1", "model.intermediate_size=8", "data=pairs",
    "evaluation=off",
    "trainer.batch_size=4", "data.max_length=64", "data.max_prompt_length=32", "tracking=none",
)  # fmt: skip


def planned(*overrides: str) -> Plan:
    return plan(hydra.compose("train", list(overrides)), overrides)


@pytest.mark.parametrize(
    ("words", "rows", "steps"),
    [
        ((), 100, 100),
        (("trainer.max_epochs=1",), 100, 25),
        (("trainer.max_epochs=1",), 101, 26),
        (("trainer.max_epochs=0.5",), 100, 13),
        (("trainer.max_epochs=3", "objective=sft"), 10, 8),
        (("trainer.max_epochs=1", "objective=best_of_n", "reward=gold", "reward.function=math:dist"), 100, 25),
        (
            ("trainer.max_epochs=1", "rollout.epochs=2", "objective=rloo", "reward=gold", "reward.function=math:dist"),
            100, 50,
        ),
    ],
)  # fmt: skip
def test_the_number_of_updates(words: tuple[str, ...], rows: int, steps: int, hydra_conf: None) -> None:
    found = planned(*SMALL, "data.path=org/rows", *words)
    assert found.train.steps(rows) == steps
    assert found.with_length(rows).train.trainer.max_steps == steps
    assert found.with_length(rows).config["trainer"]["max_steps"] == steps
    assert found.with_length(rows).with_length(rows) == found.with_length(rows)


def test_the_id_of_a_run_by_epochs(hydra_conf: None) -> None:
    """Without epochs the id is what it was; with them the unused number of updates does not count."""
    words = ["experiment=support_desk_dpo_smollm2", "model.origin=hub"]
    assert planned(*words, "trainer.max_epochs=0").id == "dpo-ad6338000dbc"
    by_epochs = planned(*words, "trainer.max_epochs=1")
    assert by_epochs.id not in ("dpo-ad6338000dbc", planned(*words, "trainer.max_epochs=2").id)
    desk = [*SMALL, "data=support_desk", "trainer.max_epochs=1"]
    assert planned(*desk).id == plan(hydra.compose("train", [*desk, "trainer.max_steps=7"])).id


def test_one_length_is_typed(hydra_conf: None) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(*SMALL, "data.path=org/rows", "trainer.max_epochs=1", "trainer.max_steps=7")
    (problem,) = caught.value.problems
    assert (problem.key, problem.type_this) == ("trainer.max_steps", "trainer.max_epochs=0")
    warm = planned(*SMALL, "data.path=org/rows", "trainer.max_epochs=1", "optim.warmup_steps=5")
    assert warm.with_length(24).train.trainer.max_steps == 6
    with pytest.raises(ConfigError, match=r"smaller than the number of updates: trainer.max_epochs=1 is 5"):
        warm.with_length(20)


def test_a_run_of_one_epoch(alignlab: Callable[..., Any], tmp_path: Path) -> None:
    """Nine of ten rows are trained on, in three updates. Reports and the record say so."""
    rows = [{"prompt": f"Q{i}", "chosen": f"a{i}", "rejected": "b"} for i in range(10)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = alignlab("train", *SMALL, "data.path=rows.jsonl", "trainer.max_epochs=1")
    assert result.code == 0, result.err
    (folder,) = (tmp_path / "outputs/runs").glob("dpo-*")
    record = json.loads((folder / "run.json").read_text())
    assert (record["data"]["train"]["rows"], record["config"]["trainer"]["max_steps"]) == (9, 3)
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert max(row["train/global_step"] for row in steps) == 3
    assert " 3/3 " in alignlab("runs").out
