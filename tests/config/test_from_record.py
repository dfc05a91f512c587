"""A run's config is restored from its record, for every option of every group."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import hydra
import pytest

from alignlab.config.from_record import recorded_plan
from alignlab.config.plan import plan
from alignlab.config.registry import schemas
from alignlab.errors import ConfigError
from alignlab.runs.directory import RunDir

pytestmark = pytest.mark.usefixtures("hydra_conf")


def stored(root: Path, *overrides: str) -> tuple[object, str]:
    made = plan(hydra.compose("train", [f"output_root={root}", "tracking=none", *overrides]), overrides)
    for step in made.chain():
        RunDir.of(root, step.id).update(
            config=json.loads(json.dumps(step.config, default=str)),
            kinds=step.kinds,
            parent=step.parent.id if step.parent else None,
        )
    return made.train, made.id


PARTS = {"mix": ["objective.parts=[{name:dpo,beta:0.1},{name:sft,weight:0.2}]"]}


@pytest.mark.parametrize("objective", sorted(schemas()["objective"]))
def test_every_objective(objective: str, tmp_path: Path) -> None:
    train, run_id = stored(tmp_path, f"objective={objective}", "experiment=lab_dpo", *PARTS.get(objective, []))
    found = recorded_plan(str(tmp_path), run_id, trust_remote_code=False)
    for group in ("objective", "model", "peft", "data", "optim", "trainer"):
        assert asdict(getattr(found.train, group)) == asdict(getattr(train, group)), group
        assert type(getattr(found.train, group)) is type(getattr(train, group))
    assert found.train.reference_kind == train.reference_kind  # type: ignore[attr-defined]
    assert (found.parent is None) == (not train.model.parent)  # type: ignore[attr-defined]


def test_strength_and_adapters(tmp_path: Path) -> None:
    _, run_id = stored(tmp_path, "objective=ipo", "strength=0.7", "peft=lora", "optim=rmsprop", "optim.warmup_steps=5")
    found = recorded_plan(str(tmp_path), run_id, trust_remote_code=False)
    assert found.train.objective.tau == 0.7  # type: ignore[attr-defined]
    assert found.train.peft.can_switch_off
    assert found.id == run_id


def test_records_that_cannot_tell(tmp_path: Path) -> None:
    _, run_id = stored(tmp_path)
    run = RunDir.of(tmp_path, run_id)
    config = run.record()["config"]
    run.update(config={**config, "optim": {**config["optim"], "lrr": 1}})
    with pytest.raises(ConfigError, match=r"can't be read by this version.*lrr"):
        recorded_plan(str(tmp_path), run_id, trust_remote_code=False)
    run.update(kinds=None)
    with pytest.raises(ConfigError, match="older version"):
        recorded_plan(str(tmp_path), run_id, trust_remote_code=False)
