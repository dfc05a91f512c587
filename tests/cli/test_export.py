"""`alignlab export`: whole folders or none, what is refused and how, and uploads to a server in place of the hub."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from alignlab.integrity import sha256_of, write_sealed
from alignlab.models.sources.base import load_pretrained
from alignlab.spelling import size_in_words
from tests.hub_server import HubServer
from tests.models.taken_out import UP_PROJ, take_out
from tests.test_old_runs import FIXTURE, LOW

Run = Callable[..., Any]
EXPORTS = Path("outputs/exports")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Finished runs of the lab in `outputs`, all weights trained."""
    shutil.copytree(FIXTURE, tmp_path / "outputs")
    return tmp_path / "outputs" / "runs"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        yield server


def edit(run: Path, **values: Any) -> None:
    write_sealed(run / "run.json", {**json.loads((run / "run.json").read_text()), **values})


def test_a_run_is_exported_once(runs: Path, alignlab: Run) -> None:
    found = alignlab("export", LOW[:7], "--to", "merged")
    assert found.code == 0, found.err
    folder = EXPORTS / f"{LOW}-merged"
    names = {file.name for file in folder.iterdir()}
    assert names > {"README.md", "config.json", "model.safetensors", "generation_config.json", "tokenizer.json"}
    *files, last = found.out.splitlines()
    assert len(files) == len(names)
    assert last == f"written to {folder}"
    about = json.loads((folder / "export.json").read_text())
    assert (about["form"], about["run"]) == ("merged", LOW)
    assert about["files"] == {name: sha256_of(folder / name) for name in names - {"export.json"}}
    assert {file.name for file in EXPORTS.iterdir()} == {folder.name}, "nothing else is left"
    assert len({file.stat().st_mode for file in folder.iterdir()}) == 1, "others can read weights as they can the rest"
    model, _ = load_pretrained(str(folder), dtype="float32")
    before, _ = load_pretrained(str(runs / LOW / "policy"), dtype="float32")
    assert all((a == b).all() for a, b in zip(model.parameters(), before.parameters(), strict=True))
    assert f"run `{LOW}`" in (folder / "README.md").read_text().lower()
    again = alignlab("export", LOW, "--to", "merged")
    assert (again.code, "exists already" in again.err, "--overwrite" in again.err) == (2, True, True)
    (folder / "extra").touch()
    assert alignlab("export", LOW, "--to", "merged", "--overwrite", "--dtype", "bfloat16").code == 0
    assert not (folder / "extra").exists()
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_failure_leaves_no_folder(runs: Path, alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **named: Any) -> str:
        raise OSError("No space left on device")

    monkeypatch.setattr("alignlab.pipeline.export.model_card", fail)
    found = alignlab("export", LOW, "--to", "merged", "out/it")
    assert (found.code, "out/it can't be written: No space left" in found.err) == (1, True)
    assert list(Path("out").iterdir()) == []
    Path("out/it").mkdir()
    Path("out/it/thesis.txt").write_text("not ours")
    found = alignlab("export", LOW, "--to", "merged", "out/it", "--overwrite")
    assert (found.code, "no export wrote it" in found.err) == (2, True)
    assert Path("out/it/thesis.txt").read_text() == "not ours"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([LOW, "--to", "adapter"], ["trained all weights", "type: --to merged"]),
        ([LOW, "--to", "gguf"], ["of the kind WordLevel", "type: --to merged"]),
        ([LOW, "--to", "gguf", "--dtype", "int4"], ["must be one of: float32, bfloat16, float16, q8_0", "WordLevel"]),
        ([LOW, "--to", "merged", "--dtype", "q8_0", "--base", "a/b"], ["2 problems", "--dtype = q8_0", "--base = a/b"]),
        ([LOW, "--to", "onnx"], ["must be one of: merged, adapter, gguf, hub"]),
        ([LOW], ["must be one of: merged, adapter, gguf, hub"]),
        ([LOW, "--to", "merged", "--repo", "a/b", "--public"], ["2 problems", "--repo", "--public", "for --to hub"]),
        ([LOW, "--to", "hub"], ["needs the name of the repository"]),
        ([LOW, "--to", "hub", "--repo", "just_a_name"], ["must be <user or organisation>/<name>"]),
        ([LOW, "--to", "hub", "--repo", "a/b c"], ["--repo = a/b c"]),
        (["nothing", "--to", "merged"], ["there is no such run below outputs", "type: alignlab runs"]),
        (["dpo", "--to", "merged"], ["dpo-41b8597ad5c9", "dpo-c009860c640c"]),
        (["betas", "--to", "merged"], ["there is no such run"]),
        ([LOW, "--to", "merged", "outpt_root=x"], ["no such key", "output_root=x"]),
    ],
)  # fmt: skip
def test_what_is_refused_and_how(words: list[str], told: list[str], runs: Path, alignlab: Run) -> None:
    found = alignlab("export", *words)
    assert found.code == 2
    assert [text for text in told if text not in found.err] == [], found.err
    assert "Traceback" not in found.err
    assert not EXPORTS.exists()


def test_runs_without_a_policy(runs: Path, alignlab: Run) -> None:
    edit(runs / LOW, kept="record")
    found = alignlab("export", LOW, "--to", "merged")
    assert (found.code, "kept only its record" in found.err, "alignlab train" in found.err) == (2, True, True)
    edit(runs / LOW, kept="policy", status="failed", reason="because")
    found = alignlab("export", LOW, "--to", "merged")
    assert (found.code, "only finished runs (status done) have a policy" in found.err) == (2, True)
    edit(runs / LOW, status="done")
    (runs / LOW / "policy/model.safetensors").unlink()
    found = alignlab("export", LOW, "--to", "merged")
    assert (found.code, "can't be loaded" in found.err, EXPORTS.exists() and list(EXPORTS.iterdir())) == (2, True, [])


def test_a_dry_run_names_files_and_sizes(runs: Path, alignlab: Run) -> None:
    found = alignlab("export", LOW, "--to", "hub", "--repo", "me/thing", "--dry-run")
    assert found.code == 0, found.err
    folder = EXPORTS / f"{LOW}-merged"
    size = sum(file.stat().st_size for file in folder.iterdir())
    told = found.out.splitlines()[-1]
    assert told.startswith(
        f"dry run: {len(list(folder.iterdir()))} files, {size_in_words(size)} would be uploaded to http"
    )
    assert told.endswith("/me/thing (private, if it is new)")
    assert '"me/thing"' in (folder / "README.md").read_text(), "its code loads it from there"
    again = alignlab("export", LOW, "--to", "hub", "--repo", "me/thing", "--dry-run")
    assert f"type: alignlab export {folder} --to hub --repo me/thing --dry-run   or   --overwrite" in again.err
    offline = alignlab("export", str(folder), "--to", "hub", "--repo", "me/thing")
    assert (offline.code, "nothing was uploaded to me/thing: HF_HUB_OFFLINE is set" in offline.err) == (2, True)


def test_a_folder_whose_weights_lack_a_tensor_is_not_uploaded(runs: Path, alignlab: Run, hub: HubServer) -> None:
    """A model card that was edited is no reason to refuse."""
    assert alignlab("export", LOW, "--to", "merged", "out").code == 0
    Path("out/README.md").write_text("edited")
    assert alignlab("export", "out", "--to", "hub", "--repo", "me/thing", "--dry-run").code == 0
    take_out(Path("out/model.safetensors"), UP_PROJ)
    for words in ([], ["--dry-run"]):
        found = alignlab("export", "out", "--to", "hub", "--repo", "me/thing", *words)
        assert (found.code, "out/model.safetensors is not the file that was exported" in found.err) == (2, True)
        assert "--overwrite" in found.err
    for text, told in (("{}", "is damaged (it names no files)"), ("[", "is damaged (not JSON")):
        Path("out/export.json").write_text(text)
        found = alignlab("export", "out", "--to", "hub", "--repo", "me/thing")
        assert (found.code, f"out/export.json {told}" in found.err) == (2, True)
    assert not hub.commits


def test_only_what_an_export_wrote_is_uploaded(runs: Path, alignlab: Run, hub: HubServer) -> None:
    """Files of the user are named and stay; a link in the place of an exported file is refused."""
    assert alignlab("export", LOW, "--to", "merged", "out").code == 0
    written = {file.name for file in Path("out").iterdir()}
    Path("out/config.json").write_text("{}")
    Path("out/.env").write_text("SECRET=1")
    Path("out/notes").mkdir()
    Path("out/notes/a.txt").write_text("mine")
    Path("out/passwords").symlink_to("/etc/passwd")
    for words in (["--dry-run"], []):
        found = alignlab("export", "out", "--to", "hub", "--repo", "me/thing", *words)
        assert found.code == 0, found.err
        assert "not uploaded, because no export wrote them: .env, notes/, passwords\n" in found.out
        assert f"{len(written)} files, " in found.out
    (commit,) = hub.commits
    assert {line["value"]["path"] for line in commit if line["key"] == "file"} == written
    Path("out/config.json").rename("config.json")
    Path("out/config.json").symlink_to(Path("config.json").absolute())
    for words in (["--dry-run"], []):
        found = alignlab("export", "out", "--to", "hub", "--repo", "me/thing", *words)
        assert (found.code, "out/config.json\n      is not the file that was exported, but a link" in found.err) == (
            2,
            1,
        )
    assert len(hub.commits) == 1
    inside = alignlab("export", LOW, "--to", "merged", str(runs / LOW / "policy/merged"))
    assert (inside.code, "lies in the folder of a run" in inside.err) == (2, True)


def test_a_folder_is_uploaded_as_one_commit(runs: Path, alignlab: Run, hub: HubServer) -> None:
    assert alignlab("export", LOW, "--to", "merged", "out").code == 0
    found = alignlab("export", "out", "--to", "hub", "--repo", "me/thing")
    assert found.code == 0, found.err
    assert "uploaded: " in found.out
    assert hub.created == [{"name": "thing", "organization": "me", "visibility": "private"}]
    (commit,) = hub.commits
    sent = {
        line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in commit if line["key"] == "file"
    }
    assert sent == {file.name: file.read_bytes() for file in Path("out").iterdir()}
    hub.status = 403
    refused = alignlab("export", "out", "--to", "hub", "--repo", "me/thing", "--public")
    assert (refused.code, f"{hub.address} refused the upload" in refused.err, "hf auth login" in refused.err) == (
        2,
        1,
        1,
    )
    hub.close()
    lost = alignlab("export", "out", "--to", "hub", "--repo", "me/thing")
    assert (lost.code, f"{hub.address} can't be reached" in lost.err) == (2, True)
    other = alignlab("export", "outputs", "--to", "hub", "--repo", "me/thing")
    assert other.code == 2, other.err
