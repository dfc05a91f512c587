"""`alignlab runs`: runs are listed, filtered, compared, exported and removed."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from alignlab.integrity import write_sealed
from alignlab.reports.runs import labels
from alignlab.runs.directory import RunDir

Run = Callable[..., Any]


@pytest.fixture
def runs(alignlab: Run, tmp_path: Path) -> Run:
    """Three runs in `outputs`. One of them has failed."""
    for seed, status, loss in ((1, "done", 0.5), (2, "done", 0.4), (3, "failed", None)):
        config = {"objective": {"name": "dpo", "beta": 0.1 * seed}, "seed": seed}
        record = {"id": f"dpo-{seed}", "status": status, "config": config, "overrides": [f"seed={seed}"]}
        record |= {"summary": {"eval/loss": loss}} if loss else {"reason": "out of luck"}
        write_sealed(RunDir.of("outputs", f"dpo-{seed}").record_file, record)
    return lambda *args: alignlab("runs", *args)


def left() -> list[str]:
    return sorted(folder.name for folder in Path("outputs/runs").glob("dpo-*"))


def test_listed_and_filtered(runs: Run) -> None:
    everything = runs().out
    assert all(f"dpo-{seed}" in everything for seed in (1, 2, 3))
    some = runs("eval/loss<0.45").out
    assert "dpo-2" in some
    assert "dpo-1" not in some
    assert "no runs below outputs that meet status=diverged" in runs("status=diverged").out
    refused = runs("status=done,faild")
    assert refused.code == 2
    assert "no run can be faild; a status is one of queued, running, done" in refused.err
    assert "type: status=failed" in refused.err
    refused = runs("eval/loss<much")
    assert refused.code == 2
    assert "needs exactly one number" in refused.err


def test_a_list_stands_in_columns(runs: Run) -> None:
    lines = runs().out.splitlines()
    assert {line[lines[0].index("eval loss") :].split()[0] for line in lines[1:3]} == {"0.5000", "0.4000"}
    assert sorted(line[lines[0].index("typed for it") :] for line in lines[1:]) == ["seed=1", "seed=2", "seed=3"]


def test_what_was_typed_can_be_typed_again() -> None:
    records = [
        {"id": "a", "overrides": ["objective=dpo", "data.drop=[tie]"]},
        {"id": "b", "overrides": ["objective=dpo", "sweep.question=Is it so?", "seed=2"]},
    ]
    assert labels(records) == ["'data.drop=[tie]'", "'sweep.question=Is it so?' seed=2"]


def test_a_terminal_wraps_what_was_typed(runs: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    RunDir.of("outputs", "dpo-1").update(overrides=["data.path=a_long_one.jsonl", "data.limit=5"])
    monkeypatch.setattr("alignlab.reports.runs.console", lambda: Console(width=70, force_terminal=True, no_color=True))
    lines = re.sub(r"\x1b\[\d*m", "", runs().out).splitlines()
    at = lines[0].index("typed for it")
    (first,) = (i for i, line in enumerate(lines) if line.startswith("dpo-1"))
    assert lines[first][at:] == "data.path=a_long_one.jsonl"
    assert lines[first + 1] == " " * at + "data.limit=5"


def test_watched_in_a_pipe(runs: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are printed once, and again when a status has changed. It ends with the last run."""
    run = RunDir.of("outputs", "dpo-4")
    with run.locked():
        run.update(id="dpo-4", status="running", overrides=["seed=4"])
        looks = iter([lambda: None, lambda: run.end("done")])
        monkeypatch.setattr("alignlab.reports.live.time.sleep", lambda seconds: next(looks)())
        said = runs("--watch").out
    assert said.count("outputs: 4 points") == 2
    assert "seed=4" in said, "what was typed for it"
    assert "no runs below outputs that meet sweep=nope" in runs("--watch", "sweep=nope").out


def test_offline_files_are_uploaded_once(runs: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest offline folder of each run, unless it has W&B's mark. W&B's command is replaced by a record of it."""
    from alignlab.tracking import wandb_sync

    assert "nothing to upload: none of 3 runs" in runs("--sync").out
    files = ("dpo-1/wandb/offline-run-1", "dpo-1/wandb/offline-run-2", "dpo-2/wandb/offline-run-1")
    folders = [Path("outputs/runs", name) for name in files]
    for folder in folders:
        folder.mkdir(parents=True)
    refused = runs("--sync")
    assert (refused.code, refused.out) == (2, "")
    assert "nothing was uploaded\n  type: wandb login" in refused.err
    called: list[list[str]] = []
    monkeypatch.setattr(wandb_sync, "has_key", lambda: True)
    monkeypatch.setattr(
        wandb_sync.subprocess, "run", lambda command: called.append(command) or SimpleNamespace(returncode=0)
    )
    assert "uploading 2 runs to W&B" in runs("--sync").out
    (folders[1] / "run-dpo-1.wandb.synced").touch()
    assert runs("--sync").code == 0
    assert called[0][-2:] == [str(folders[1]), str(folders[2])]
    assert called[1][-2:] == ["sync", str(folders[2])]
    RunDir.of("outputs", "dpo-1").update(sweep="s")
    RunDir.of("outputs", "dpo-2").update(sweep="../runs/dpo-2")  # a record may be anybody's
    of_sweep = Path("outputs/sweeps/s/wandb/offline-run-1")
    of_sweep.mkdir(parents=True)
    assert runs("--sync").code == 0
    assert called[2][-3:] == ["sync", str(folders[2]), str(of_sweep)], "the run of the sweep, too"


def test_compared(runs: Run) -> None:
    said = runs("compare", "dpo-1", "dpo-2").out
    for text in ("objective.beta", "0.1", "0.2", "seed", "eval/loss", "0.5", "0.4"):
        assert text in said


def test_names_of_others_are_shown_as_they_are_and_control_nothing(runs: Run) -> None:
    """Metrics, fields and folders with escapes, marks that reorder text, and markup of rich."""
    unsafe, markup = "\x1b[2J\u202e", "[x](javascript:1)[/nope]"
    for seed in (1, 2):
        run = RunDir.of("outputs", f"dpo-{seed}")
        run.update(summary={unsafe: 0.5, markup: 0.4}, config={unsafe: seed, markup: -seed}, versions={unsafe: 1})
    Path("outputs/runs/dpo-2").rename(f"outputs/runs/z{unsafe}{markup}".replace("/nope", "nope"))
    damaged = RunDir.of("outputs", f"y{unsafe}").record_file
    damaged.parent.mkdir()
    damaged.write_text("{")
    other, errors = f"z{unsafe}", ""
    for words in ([], ["show", other], ["show", "--full", other], ["compare", "dpo-1", other], ["--watch"]):
        said = runs(*words)
        assert said.code == 0, said.err
        assert not set("\x1b\u202e") & set(said.out + said.err), words
        assert "z\\x1b[2J\\u202e" in said.out.replace("\n", "") or words == ["--watch"]
        if "--full" in words or "compare" in words:
            assert said.out.count(markup) == 2, "a key of the config and a metric"
        errors += said.err
    assert "wrong type and are left out: versions.\\x1b[2J\\u202e" in errors
    assert "y\\x1b[2J\\u202e: run.json can't be read" in errors


def test_table(runs: Run) -> None:
    written = runs("table", "found.csv", "status=done")
    assert (written.out, written.err) == ("2 runs written to found.csv\n", "")
    assert pd.read_csv("found.csv")["eval/loss"].tolist() == [0.5, 0.4]
    nowhere = runs("table", "found.csv/found.csv")
    assert (nowhere.code, "lies below found.csv, which is no folder" in nowhere.err) == (2, True)
    inside = runs("table", "outputs/runs/dpo-1/found.csv")
    assert (inside.code, "lies in the folder of a run" in inside.err) == (2, True)


def test_export_is_the_old_name_of_table(runs: Run) -> None:
    written = runs("export", "found.csv", "status=done")
    assert (written.code, written.out) == (0, "2 runs written to found.csv\n")
    assert "`alignlab runs export` is now `alignlab runs table`; the old name works until version 0.3" in written.err


def test_removed_when_agreed(runs: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for said in ("", "n\n"):  # no input, and the answer no
        monkeypatch.setattr("sys.stdin", io.StringIO(said))
        kept = runs("remove", "status=failed")
        assert (kept.code, left()) == (1, ["dpo-1", "dpo-2", "dpo-3"])
        assert "nothing removed; --yes removes without a question" in kept.out
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    assert runs("remove", "status=failed").code == 0
    assert left() == ["dpo-1", "dpo-2"]
    again = runs("remove", "status=failed")
    assert (again.code, "no run meets these conditions" in again.out) == (0, True)
    assert runs("remove").code == 2
    for name in ("", ".", " "):
        refused = runs("remove", name, "--yes")
        assert (refused.code, "needs the id of a run" in refused.err) == (2, True)
    assert runs("remove", "dpo-1", "--yes").code == 0
    assert left() == ["dpo-2"]
