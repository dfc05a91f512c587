"""The W&B report of a sweep: its spec, made without a network, and the id that later calls update."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alignlab.errors import OutputError
from alignlab.integrity import read_record
from alignlab.reports import wandb_report

pytest.importorskip("wandb_workspaces", reason='needs pip install "alignlab[reports]"')
RUNS = Path(__file__).parents[1] / "fixtures" / "runs_of_0_1"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    shutil.copytree(RUNS, tmp_path / "outputs")
    return tmp_path / "outputs" / "sweeps" / "betas"


def blocks(sweep: Path) -> dict[str, list[Any]]:
    """Type of a block -> the blocks of that type in the written spec."""
    found: dict[str, list[Any]] = {}
    for block in json.loads((sweep / wandb_report.SPEC).read_text())["spec"]["blocks"]:
        found.setdefault(block["type"], []).append(block)
    return found


def test_without_a_login_the_spec_is_written_and_the_command_says_what_to_do(sweep: Path) -> None:
    said = wandb_report.write_report(sweep)
    assert "wandb login, then: alignlab report --wandb betas" in said
    assert str(sweep / "wandb_report.json") in said
    found = blocks(sweep)
    (text,) = found["markdown-block"]
    assert text["content"].rstrip() in (sweep / "table.md").read_text(), "our own table"
    (grid,) = found["panel-grid"]
    (runs,) = grid["metadata"]["runSets"]
    assert runs["filters"]["filters"][0]["value"] == "betas"
    assert runs["filters"]["filters"][0]["key"] == {"section": "config", "name": "sweep/id"}
    panels = grid["metadata"]["panelBankSectionConfig"]["panels"]
    lines = {p["config"]["metrics"][0]: p["config"] for p in panels if p["viewType"] == "Run History Line Plot"}
    assert {"train/loss", "eval/loss", "train/rewards/margins"} <= lines.keys()
    assert all(config["xAxis"] == "train/global_step" for config in lines.values())
    (scatter,) = [p["config"] for p in panels if p["viewType"] == "Scatter Plot"]
    assert (scatter["xAxis"], scatter["yAxis"]) == ("summary:exact/kl", "summary:exact/reward")
    assert "Run Comparer" in {p["viewType"] for p in panels}


def test_the_next_call_updates_the_same_report(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B's server is replaced: what reaches it, and what becomes of its answers."""
    import wandb
    from wandb_workspaces.reports.v2 import interface

    sent: list[Any] = []

    def server(api: Any, query: Any, values: dict[str, Any]) -> Any:
        sent.append(values)
        view = {
            "id": values["id"] or "new", "name": values["name"], "displayName": values["displayName"],
            "description": values["description"], "spec": values["spec"], "type": "runs", "user": None,
            "project": {"name": values["projectName"], "entityName": values["entityName"]},
            "createdAt": "2026-01-01T00:00:00", "updatedAt": "2026-01-01T00:00:00",
        }  # fmt: skip
        return {"upsertView": {"view": view, "inserted": not values["id"]}}

    api = SimpleNamespace(projects=lambda entity: [SimpleNamespace(name="alignlab")], default_entity="team")
    monkeypatch.setattr(interface, "_get_api", lambda: api)
    monkeypatch.setattr(interface, "execute_graphql", server)
    monkeypatch.setattr(interface, "get_app_url", lambda api: "https://wandb.ai")
    monkeypatch.setattr(wandb, "Api", lambda: api)
    monkeypatch.setattr(wandb_report, "has_key", lambda: True)
    monkeypatch.setenv("WANDB_MODE", "online")
    assert wandb_report.write_report(sweep) == "W&B report: https://wandb.ai/team/alignlab/reports/betas--new"
    assert read_record(sweep / "sweep.json")["wandb_report"] == "new"
    wandb_report.write_report(sweep)
    assert [values["id"] for values in sent] == [None, "new"]
    assert {values["entityName"] for values in sent} == {"team"}

    def refuses(*given: Any) -> Any:
        raise ValueError("no permission")

    monkeypatch.setattr(interface, "execute_graphql", refuses)
    with pytest.raises(OutputError, match="no permission"):
        wandb_report.write_report(sweep)
