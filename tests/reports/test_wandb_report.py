"""The W&B report of a sweep: its spec, made without a network, and the id that later calls update."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alignlab.errors import OutputError
from alignlab.integrity import read_record, write_sealed
from alignlab.reports import wandb_report
from alignlab.reports.collect import read_runs

pytest.importorskip("wandb_workspaces", reason='needs pip install "alignlab[reports]"')
RUNS = Path(__file__).parents[1] / "fixtures" / "runs_of_0_1"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    shutil.copytree(RUNS, tmp_path / "outputs")
    return tmp_path / "outputs" / "sweeps" / "betas"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What reaches W&B's server, which is replaced by one that gives new reports the ids new1, new2, ..."""
    import wandb
    from wandb_workspaces.reports.v2 import interface

    sent: list[dict[str, Any]] = []

    def server(api: Any, query: Any, values: dict[str, Any]) -> Any:
        sent.append(values)
        view = {
            "id": values["id"] or f"new{len(sent)}", "name": values["name"], "displayName": values["displayName"],
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
    return sent


def blocks(sweep: Path) -> dict[str, list[Any]]:
    """Type of a block -> the blocks of that type in the written spec."""
    found: dict[str, list[Any]] = {}
    for block in json.loads((sweep / wandb_report.SPEC).read_text())["spec"]["blocks"]:
        found.setdefault(block["type"], []).append(block)
    return found


def filters_of(folder: Path) -> list[dict[str, Any]]:
    """The filters of the runs that the panels show: section, name and values."""
    (grid,) = blocks(folder)["panel-grid"]
    (runs,) = grid["metadata"]["runSets"]
    return [
        {**one["key"], "values": one["value"] if one["op"] == "IN" else [one["value"]]}
        for one in runs["filters"]["filters"]
    ]


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


@pytest.mark.parametrize("name", ["it's", 'say "no"', "a\\\\b"])
def test_the_filter_of_a_sweep_with_quotes_in_its_name(sweep: Path, name: str) -> None:
    record = read_record(sweep / "sweep.json")
    write_sealed(sweep / "sweep.json", {**record, "name": name})
    wandb_report.write_report(sweep)
    assert filters_of(sweep) == [{"section": "config", "name": "sweep/id", "values": [name]}]


def test_the_panels_of_runs_show_these_runs_only(sweep: Path) -> None:
    """Two of three runs, then one: each set has a spec of its own, with its own table."""
    root = sweep.parents[1]
    ids = ["dpo-41b8597ad5c9", "dpo-c009860c640c"]
    found = read_runs(root, ids)
    said = wandb_report.write_report_of_runs(found, "objective=dpo")
    folder = root / "reports" / found.name
    assert "type: wandb login, then: alignlab report --wandb objective=dpo" in said
    assert str(folder / "wandb_report.json") in said
    assert filters_of(folder) == [{"section": "config", "name": "job/hash", "values": ids}]
    (text,) = blocks(folder)["markdown-block"]
    assert [line.split(" | ")[-1].rstrip(" |") for line in text["content"].splitlines()[2:]] == ids
    (grid,) = blocks(folder)["panel-grid"]
    shown = {p["viewType"] for p in grid["metadata"]["panelBankSectionConfig"]["panels"]}
    assert {"Run History Line Plot", "Scatter Plot", "Run Comparer", "Media Browser"} <= shown
    wandb_report.write_report_of_runs(read_runs(root, ids[1:]), ids[1])
    assert filters_of(root / "reports" / ids[1]) == [{"section": "config", "name": "job/hash", "values": ids[1:]}]


def test_the_next_call_about_the_same_runs_updates_the_same_report(sweep: Path, sent: list[Any]) -> None:
    root, pair = sweep.parents[1], ["dpo-41b8597ad5c9", "dpo-c009860c640c"]
    for ids in (pair, ["sft-325254db73a5"], pair[::-1]):
        wandb_report.write_report_of_runs(read_runs(root, ids), "")
    assert [values["id"] for values in sent] == [None, None, "new1"], "the order of the runs does not matter"


def test_the_next_call_updates_the_same_report(sweep: Path, sent: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert wandb_report.write_report(sweep) == "W&B report: https://wandb.ai/team/alignlab/reports/betas--new1"
    assert read_record(sweep / "sweep.json")["wandb_report"] == "new1"
    wandb_report.write_report(sweep)
    assert [values["id"] for values in sent] == [None, "new1"]
    assert {values["entityName"] for values in sent} == {"team"}

    def refuses(*given: Any) -> Any:
        raise ValueError("no permission")

    monkeypatch.setattr("wandb_workspaces.reports.v2.interface.execute_graphql", refuses)
    with pytest.raises(OutputError, match="no permission"):
        wandb_report.write_report(sweep)
