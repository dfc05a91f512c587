"""Files are written whole or not at all. A change of any bit is noticed, and the damaged file is renamed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from alignlab.errors import DamagedError
from alignlab.integrity import (
    MANIFEST,
    is_whole,
    new_file,
    new_folder,
    read_record,
    read_sealed,
    seal_folder,
    sealed,
    set_aside,
    sha256_of,
    verify_folder,
    write_sealed,
    write_text,
)

RECORD = {"status": "done", "summary": {"exact/kl": 4.36, "steps": 10}, "config": {"seed": 1}}


@pytest.mark.parametrize("value", [RECORD, {}, {"text": 'a ",\n  "sha256": "'}, {"sha256": "of another time", "a": 1}])
def test_a_sealed_object_is_read_as_it_was(value: dict[str, object], tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(sealed(value))
    assert read_sealed(file) == {key: part for key, part in value.items() if key != "sha256"}
    json.loads(file.read_text())


def test_every_flipped_bit_of_a_record_is_seen_or_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    good = sealed(RECORD).encode()
    seen = 0
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << (bit % 8)
        file.write_bytes(bytes(bad))
        try:
            found = read_sealed(file)
        except DamagedError:
            seen += 1
        else:  # the word sha256 itself, or white space after it
            assert {key: found[key] for key in RECORD} == RECORD
    assert seen > 0.9 * 8 * len(good)


def test_a_record_without_a_checksum_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records: list[dict[str, object]] = [{"versions": {"alignlab": "0.1.0"}}, {"versions": None}, RECORD]
    for number, record in enumerate([*records, {**RECORD, "versions": {"alignlab": "0.2.0"}}]):
        assert not caplog.text
        file = tmp_path / f"{number}.json"
        file.write_text(json.dumps(record))
        assert read_record(file) == record
    assert f"{file} was changed by hand, or is damaged (it has no checksum)" in caplog.text
    caplog.clear()
    read_record(file)
    assert not caplog.text
    assert read_sealed(file)["status"] == "done", "files of older versions have none"


def test_json_that_is_not_an_object_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    for content in (b"", b"[]", b"3", b"\xff\xfe", b'{"status": "do', bytes(64), b"[" * 100_000):
        file.write_bytes(content)
        with pytest.raises(DamagedError, match=r"run\.json is damaged"):
            read_sealed(file)
    file.unlink()
    file.mkdir()
    with pytest.raises(DamagedError, match=r"run\.json is a folder"):
        read_sealed(file)
    (tmp_path / "old.json").write_text(json.dumps(RECORD))
    assert read_sealed(tmp_path / "old.json") == RECORD, "older versions wrote no checksum"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "policy"
    (made / "inside").mkdir(parents=True)
    (made / "model.safetensors").write_bytes(bytes(range(256)) * 20)
    (made / "inside" / "config.json").write_text("{}")
    seal_folder(made)
    return made


def test_a_folder_has_the_checksums_of_sha256sum(folder: Path) -> None:
    verify_folder(folder)
    said = subprocess.run(["sha256sum", "-c", MANIFEST], cwd=folder, capture_output=True, text=True, check=True)
    assert sorted(said.stdout.splitlines()) == ["inside/config.json: OK", "model.safetensors: OK"]


def test_files_of_a_sealed_folder_can_be_read_by_others_as_the_umask_says(folder: Path, tmp_path: Path) -> None:
    """Those that safetensors writes can be read by their owner only."""
    (tmp_path / "usual").touch()
    usual = (tmp_path / "usual").stat().st_mode
    save_file({"a": np.zeros(3)}, folder / "model.safetensors")
    seal_folder(folder)
    assert {file.stat().st_mode for file in folder.rglob("*.*")} == {usual}


def test_flipped_bits_of_a_folder_are_seen(folder: Path) -> None:
    random = np.random.default_rng(0)
    for file in [file for file in folder.rglob("*") if file.is_file()]:
        good = file.read_bytes()
        for place in random.integers(len(good), size=40):
            bad = bytearray(good)
            bad[place] ^= 1 << int(random.integers(8))
            file.write_bytes(bytes(bad))
            with pytest.raises(DamagedError):
                verify_folder(folder)
        file.write_bytes(good)
    verify_folder(folder)


@pytest.mark.parametrize("kind", ["missing", "folder", "cut", "no checksums"])
def test_other_damage_of_a_folder(kind: str, folder: Path) -> None:
    weights = folder / "model.safetensors"
    if kind == "cut":
        weights.write_bytes(weights.read_bytes()[:100])
    elif kind == "no checksums":
        (folder / MANIFEST).write_text("")
    else:
        weights.unlink()
        if kind == "folder":
            weights.mkdir()
    with pytest.raises(DamagedError, match=MANIFEST):
        verify_folder(folder)


def test_nothing_that_was_set_aside_is_lost(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for content in ("1", "2", "3"):
        file.write_text(content)
        said = set_aside(DamagedError(file, "is damaged"), "it is made anew")
        assert said.startswith(f"{file} is damaged, and it is made anew; it is kept as a.json.damaged")
    assert sorted(f.read_text() for f in tmp_path.iterdir()) == ["1", "2", "3"]


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    write_sealed(file, {"status": "done"})
    with pytest.raises(TypeError):
        write_sealed(file, {("not", "a", "key"): 1})  # type: ignore[dict-item]
    assert read_sealed(file) == {"status": "done"}
    assert [f.name for f in tmp_path.iterdir()] == ["run.json"]


def test_a_damaged_folder_is_renamed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert is_whole(folder, "it is made anew")
    (folder / "model.safetensors").write_bytes(b"other weights")
    assert not is_whole(folder, "it is made anew")
    assert not folder.exists()
    assert folder.with_name(f"{folder.name}.damaged").is_dir()
    (message,) = caplog.messages
    assert message.startswith(f"{folder} is damaged (model.safetensors is damaged"), message
    assert "and it is made anew" in message
    folder.mkdir()
    assert not is_whole(folder, "it is made anew"), "it has no checksums"


def stop_half_way(file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("half")
    raise RuntimeError("stopped")


def test_a_new_file_replaces_the_old_one_only_if_its_block_ends(tmp_path: Path) -> None:
    file = tmp_path / "made" / "a.txt"
    write_text(file, "ä")
    with pytest.raises(RuntimeError, match="stopped"), new_file(file) as scratch:
        stop_half_way(scratch)
    assert [f.name for f in file.parent.iterdir()] == ["a.txt"]
    assert file.read_bytes() == "ä".encode()
    with new_file(file) as scratch, new_file(file) as other:
        assert scratch != other, "several processes may write the same file"
        for path in (scratch, other):
            path.write_text("new")
        assert file.read_bytes() == "ä".encode()
        assert scratch.suffix == ".tmp", "files of killed runs are found by this ending"
    assert [f.name for f in file.parent.iterdir()] == ["a.txt"]
    assert file.read_text() == "new"


def test_a_new_folder_replaces_the_old_one_only_if_its_block_ends(tmp_path: Path) -> None:
    folder = tmp_path / "model-0.5"
    for content in ("old", "new"):
        with new_folder(folder) as scratch:
            scratch.mkdir()
            (scratch / content).touch()
    with pytest.raises(RuntimeError, match="stopped"), new_folder(folder) as scratch:
        stop_half_way(scratch / "half")
    assert [str(f.relative_to(tmp_path)) for f in sorted(tmp_path.rglob("*"))] == ["model-0.5", "model-0.5/new"]
    (tmp_path / "model-0.5.tmp").mkdir()  # left by a process that was killed
    (tmp_path / "model-0.5.tmp" / "half").touch()
    with new_folder(folder) as scratch:
        scratch.mkdir()
    assert list(folder.iterdir()) == []


def test_devices_and_pipes_are_neither_read_nor_replaced(tmp_path: Path) -> None:
    """As root, a file that is renamed to /dev/null would replace it for all programs. Reading a pipe may never end."""
    pipe, endless = tmp_path / "run.json", tmp_path / "metrics.jsonl"
    os.mkfifo(pipe)
    endless.symlink_to("/dev/zero")
    for file in (pipe, endless):
        with pytest.raises(DamagedError, match="is a device or a pipe, not a file"):
            read_sealed(file)
        with pytest.raises(OSError, match="is a device or a pipe, not a file"):
            sha256_of(file)
        with pytest.raises(OSError, match="is a device or a pipe, not a file"):
            write_text(file, "text")
    os.mkfifo(tmp_path / "SHA256SUMS")
    with pytest.raises(DamagedError, match="is a device or a pipe, not a file"):
        verify_folder(tmp_path)
    assert pipe.is_fifo()
    assert endless.is_symlink()
    for folder in (Path("/"), Path()):
        with pytest.raises(IsADirectoryError):
            write_text(folder, "text")


def test_a_record_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "run.json").open("wb") as file:
        file.truncate(50_000_000_000)
    with pytest.raises(DamagedError, match=r"is larger than any record \(50\.0 GB\)"):
        read_record(tmp_path / "run.json")
