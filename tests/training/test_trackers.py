"""What trackers are told about a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose

from alignlab.config.plan import plan
from alignlab.integrity import write_sealed
from alignlab.runs.directory import RunDir
from alignlab.training.trackers import identity_of, readable_name, without_credentials


@pytest.mark.parametrize(
    ("words", "axes", "name"),
    [
        (["objective.beta=0.1"], {}, "dpo beta=0.1 seed=1"),
        (
            ["objective=ipo", "strength=0.25", "seed=3"],
            {"objective": "ipo", "strength": 0.25, "seed": 3},
            "ipo tau=0.25 seed=3",
        ),
        (["optim.lr=1e-3"], {"objective.beta": 0.1, "optim.lr": 0.001}, "dpo beta=0.1 lr=0.001 seed=1"),
        (["objective=sft"], {}, "sft seed=1"),
    ],
)
def test_names_that_people_can_read(words: list[str], axes: dict[str, object], name: str, hydra_conf: None) -> None:
    planned = plan(compose("train", words), words)
    assert readable_name(planned, planned.id, axes) == name


def test_config_has_objective_axes_sweep_and_parent(tmp_path: Path, hydra_conf: None) -> None:
    words = ["objective.beta=0.3", f"output_root={tmp_path}", 'model.parent=["objective=sft"]']
    planned = plan(compose("train", words), words)
    points = [{"point": 0, "run": planned.id, "objective.beta": "0.3"}]
    write_sealed(tmp_path / "sweeps/s/sweep.json", {"axes": ["objective.beta"], "points": points})
    found = identity_of(planned, RunDir.of(tmp_path, planned.id), "s", {"ref/digest": "d"})
    assert planned.parent is not None
    shown = {
        name: found.config[name] for name in ("objective/name", "sweep/id", "sweep/axes", "parent/run", "ref/digest")
    }
    assert shown == {
        "objective/name": "dpo",
        "sweep/id": "s",
        "sweep/axes": {"objective.beta": 0.3},
        "parent/run": planned.parent.id,
        "ref/digest": "d",
    }
    assert (found.group, found.job_type, found.tags) == ("s", "dpo", ["dpo", "tiny", "lab"])
    assert found.notes == f"parent: {planned.parent.id}"


def test_credentials_in_addresses_are_not_sent() -> None:
    given = {
        "judge": {"llm": {"base_url": "https://me:s3cret@host/v1?api_key=s3cret&x=1", "api_key_env": "MY_KEY"}},
        "paths": ["s3://bucket/a@b", "https://host/?token=s3cret", 3],
    }
    assert without_credentials(given) == {
        "judge": {"llm": {"base_url": "https://***@host/v1?api_key=***&x=1", "api_key_env": "MY_KEY"}},
        "paths": ["s3://bucket/a@b", "https://host/?token=***", 3],
    }
