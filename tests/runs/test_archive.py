"""A sweep moves to another output root as one file; an archive that was changed moves nothing."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignlab.errors import ConfigError, DamagedError
from alignlab.integrity import seal_folder, sha256_of, verify_folder, write_sealed
from alignlab.runs.archive import INDEX, members_of, pack, unpack
from alignlab.runs.directory import RunDir

CLI = Callable[..., Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A sweep of two points with a parent. One point has an adapter, whose base is below the output root."""
    root = tmp_path / "outputs"
    for run, record in {
        "sft-0": {"status": "done"},
        "dpo-1": {"status": "done", "parent": "sft-0"},
        "dpo-2": {"status": "failed", "parent": "sft-0"},
        "dpo-other": {"status": "done"},
    }.items():
        write_sealed(root / "runs" / run / "run.json", {"id": run, "attempt": 1, **record})
        (root / "runs" / run / "metrics.jsonl").write_text(f'{{"run": "{run}"}}\n')
        for part in ("policy", "checkpoints"):
            (root / "runs" / run / part).mkdir()
            (root / "runs" / run / part / "weights.bin").write_bytes(b"w" * 10_000)
    base = root / "bases" / "abc"
    base.mkdir(parents=True)
    (base / "model.bin").write_bytes(b"base")
    adapter = root / "runs/dpo-1/policy"
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base.resolve())}))
    seal_folder(adapter)
    write_sealed(root / "sweeps/beta-9/sweep.json", {"name": "beta-9", "points": [{"run": "dpo-1"}, {"run": "dpo-2"}]})
    return root


def packed(root: Path, *, weights: bool = True) -> Path:
    file = root.parent / ("all.tar" if weights else "light.tar")
    sweep, runs = members_of(root, "beta")
    pack(root, sweep, runs, file, weights=weights)
    return file


def test_a_sweep_moves_with_the_runs_that_it_needs(root: Path, tmp_path: Path) -> None:
    assert members_of(root, "beta") == ("beta-9", ["dpo-1", "dpo-2", "sft-0"])
    assert members_of(root, "dpo-1") == ("", ["dpo-1", "sft-0"])
    other, sums = tmp_path / "other", Path("runs/dpo-1/policy/SHA256SUMS")
    RunDir.of(root, "dpo-1").update(policy_sha256=sha256_of(root / sums))
    found = unpack(packed(root), other)
    assert found.added == ["bases/abc", "runs/dpo-1", "runs/dpo-2", "runs/sft-0", "sweeps/beta-9"]
    assert RunDir.of(other, "dpo-2").record() == RunDir.of(root, "dpo-2").record()
    assert RunDir.of(other, "dpo-1").record()["policy_sha256"] == sha256_of(other / sums) != sha256_of(root / sums)
    assert (other / "runs/sft-0/checkpoints/weights.bin").read_bytes() == b"w" * 10_000
    named = json.loads((other / "runs/dpo-1/policy/adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str((other / "bases/abc").resolve())
    verify_folder(other / "runs/dpo-1/policy")
    assert not list(other.glob(".unpack*"))


def test_without_weights_the_records_say_so(root: Path, tmp_path: Path) -> None:
    light = packed(root, weights=False)
    assert light.stat().st_size < packed(root).stat().st_size / 3
    unpack(light, tmp_path / "other")
    run = RunDir.of(tmp_path / "other", "dpo-1")
    assert (run.lacks_policy, run.damage(), run.policy.exists(), run.checkpoint.parent.exists()) == (
        True,
        "",
        False,
        False,
    )
    assert not (tmp_path / "other/bases").exists()
    assert not RunDir.of(root, "dpo-1").lacks_policy, "the run itself is unchanged"


def test_nothing_is_overwritten(root: Path, tmp_path: Path) -> None:
    file, other = packed(root), tmp_path / "other"
    (other / "runs/sft-0").mkdir(parents=True)
    (other / "runs/sft-0/mine.txt").write_text("mine")
    found = unpack(file, other)
    assert found.kept == ["runs/sft-0"]
    assert [f.name for f in (other / "runs/sft-0").iterdir()] == ["mine.txt"]
    with pytest.raises(ConfigError, match="is there already; nothing was unpacked"):
        unpack(file, other)
    with pytest.raises(ConfigError, match="is there already; name another file"):
        pack(root, "beta-9", ["dpo-1"], file, weights=True)


def test_what_can_not_be_packed(root: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such sweep or run"):
        members_of(root, "nothing")
    with pytest.raises(ConfigError, match="could be any of dpo-1, dpo-2, dpo-other"):
        members_of(root, "dpo")
    with RunDir.of(root, "dpo-1").locked():
        RunDir.of(root, "dpo-1").update(status="running")
        with pytest.raises(ConfigError, match="is running"):
            pack(root, "", ["dpo-1"], root / "x.tar", weights=True)
    assert not (root / "x.tar").exists()


def rewritten(file: Path, change: Callable[[dict[str, Any], list[tuple[tarfile.TarInfo, bytes]]], None]) -> Path:
    """The archive after a change of its index and its members."""
    with tarfile.open(file) as archive:
        members = [(m, archive.extractfile(m).read()) for m in archive.getmembers() if m.name != INDEX]  # type: ignore[union-attr]
        index = json.loads(archive.extractfile(INDEX).read())  # type: ignore[union-attr]
    change(index, members)
    new = file.with_name("changed.tar")
    with tarfile.open(new, "w") as archive:
        for member, content in members:
            member.size = len(content) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(content) if member.isreg() else None)
        about = tarfile.TarInfo(INDEX)
        about.size = len(text := json.dumps(index).encode())
        archive.addfile(about, io.BytesIO(text))
    return new


def renamed(name: str) -> Callable[[Any, Any], None]:
    def change(index: dict[str, Any], members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        index["files"][name] = index["files"].pop(members[0][0].name)
        members[0][0].name = name

    return change


def linked(index: dict[str, Any], members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members[0][0].type, members[0][0].linkname = tarfile.SYMTYPE, "/etc/passwd"


def edited(index: dict[str, Any], members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members[0] = (members[0][0], members[0][1] + b"!")


def shortened(index: dict[str, Any], members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members.pop()


def with_adapter(text: bytes) -> Callable[[Any, Any], None]:
    """A change of the config of the adapter, with its checksum."""

    def change(index: dict[str, Any], members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        name = "runs/dpo-1/policy/adapter_config.json"
        place = [member.name for member, _ in members].index(name)
        members[place] = (members[place][0], text)
        index["files"][name] = hashlib.sha256(text).hexdigest()

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (renamed("../outside.txt"), "may not be in such an archive"),
        (renamed("runs/dpo-1/../../../outside.txt"), "may not be in such an archive"),
        (renamed("/tmp/outside.txt"), "may not be in such an archive"),
        (renamed("runs/.locks/x"), "may not be in such an archive"),
        (renamed("elsewhere/a/b"), "may not be in such an archive"),
        (renamed("runs/file"), "may not be in such an archive"),
        *(
            (renamed(name), "may not be in such an archive")
            for name in (
                "runs/a\x1b[2J/x",
                "sweeps/a\u202eb/x",
                "runs/-rf/x",
                "runs/$(a)/x",
                "runs/a/x\ny",
                "runs/a/\x9b",
            )
        ),
        (linked, "may not be in such an archive"),
        (edited, "the checksum of runs/dpo-1"),
        (shortened, r"does not hold the files that pack\.json lists \(1 file differ"),
        (lambda index, members: index.update(format=2), "was written by another version"),
        (lambda index, members: index.pop("root"), "was written by another version"),
        *(
            (with_adapter(text), "holds runs/dpo-1/policy/adapter_config.json, which is damaged .not JSON")
            for text in (b"text", b"\xff", b"[" * 100_000)
        ),
        (with_adapter(b"[]"), "adapter_config.json, which is damaged .not a JSON object"),
    ],
)
def test_a_changed_archive_moves_nothing(
    change: Callable[[Any, Any], None], text: str, root: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    file = rewritten(packed(root), change)
    with pytest.raises(DamagedError, match=text):
        unpack(file, tmp_path / "other")
    left = set(tmp_path.rglob("*")) - set(before)
    assert left == {tmp_path / "all.tar", file, tmp_path / "other"}


def test_files_that_are_no_archives(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("text")
    with pytest.raises(DamagedError, match="is not an archive of `alignlab runs pack`"):
        unpack(tmp_path / "text.tar", tmp_path / "other")
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    with pytest.raises(DamagedError, match=r"or was not copied in full: it has no pack\.json"):
        unpack(tmp_path / "empty.tar", tmp_path / "other")
    with pytest.raises(ConfigError, match="there is no such file"):
        unpack(tmp_path / "none.tar", tmp_path / "other")
    with pytest.raises(ConfigError, match="is a folder, not a file of `alignlab runs pack`"):
        unpack(tmp_path, tmp_path / "other")
    with pytest.raises(ConfigError, match="can't be read: Not a directory"):
        unpack(tmp_path / "text.tar" / "x", tmp_path / "other")
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(ConfigError, match="is a device or a pipe"):
        unpack(tmp_path / "pipe.tar", tmp_path / "other")
    (tmp_path / "sparse.tar").write_bytes(sparse(INDEX, 60 << 30))
    with pytest.raises(DamagedError, match="is not an archive of `alignlab runs pack`"):
        unpack(tmp_path / "sparse.tar", tmp_path / "other")


def sparse(name: str, size: int) -> bytes:
    """An archive of 2 kB whose only file has this size (bytes): nearly all of it is a hole."""
    about = tarfile.TarInfo(name)
    about.type, about.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(about.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 512)  # the only part that is stored: where it begins, and its length
    header[483:495] = b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)  # the checksum of the header
    return bytes(header) + b" " * 512 + bytes(1024)


def test_the_commands(alignlab: CLI, root: Path) -> None:
    assert alignlab("runs", "pack").code == 2
    assert alignlab("runs", "unpack").code == 2
    done = alignlab("runs", "pack", "beta-9", "--no-weights")
    assert (done.code, done.out.startswith("3 runs (")) == (0, True)
    moved = alignlab("runs", "unpack", "beta-9.tar", "output_root=other")
    assert moved.out.splitlines()[-1] == "other/sweeps/beta-9"
    assert "dpo-1" in alignlab("runs", "output_root=other").out
