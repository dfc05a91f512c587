"""Run directories: ids, atomic records, locks, heartbeats, attempts."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from alignlab.errors import OutputError, TakenError
from alignlab.integrity import write_sealed
from alignlab.locks import is_locked
from alignlab.runs import directory as run_dir
from alignlab.runs import heartbeat
from alignlab.runs.directory import RunDir, at_work_elsewhere, git_revision
from alignlab.runs.heartbeat import Heartbeat, beating, is_recent
from alignlab.runs.identity import flatten, run_id
from alignlab.runs.record import Status


def identity(config: dict[str, object], **changes: object) -> str:
    arguments = {"content": {}, "parent": None, "ignored": ()} | changes
    return run_id("dpo", config, **arguments)  # type: ignore[arg-type]


CONFIG = {"seed": 1, "objective": {"beta": 0.1}, "data": {"path": "a", "limit": 3}, "trainer": {"max_steps": 5}}


def test_the_id_is_stable_and_depends_on_what_decides_numbers() -> None:
    assert identity(CONFIG) == identity(json.loads(json.dumps(CONFIG)))
    assert identity(CONFIG).startswith("dpo-")
    assert len(identity(CONFIG)) == len("dpo-") + 12
    for key, value in (("seed", 2), ("objective", {"beta": 0.2}), ("data", {"path": "a", "limit": 4})):
        assert identity({**CONFIG, key: value}) != identity(CONFIG)
    assert identity(CONFIG, parent="sft-1") != identity(CONFIG) != identity(CONFIG, content={"data.content": "x"})


def test_the_id_leaves_out_ignored_keys_and_all_below_them() -> None:
    other = {**CONFIG, "tracking": {"project": "x"}, "trainer": {"max_steps": 5, "progress": False}}
    assert identity(other) != identity(CONFIG)
    ignored = ("tracking", "trainer.progress")
    assert identity(other, ignored=ignored) == identity(CONFIG) == identity(CONFIG, ignored=ignored)
    moved = {**CONFIG, "data": {"path": "b", "limit": 3}}
    assert identity(moved) != identity(CONFIG)
    assert identity(moved, ignored=("data.path",)) == identity(CONFIG, ignored=("data.path",))
    assert identity(CONFIG, ignored=("trainer.max",)) == identity(CONFIG), "a key is no beginning of another one"


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": [1, 2]}, "d": None}) == {"a.b": 1, "a.c": [1, 2], "d": None}


def test_a_run_from_start_to_end(tmp_path: Path) -> None:
    run = RunDir.of(tmp_path, "dpo-1")
    assert run.status() is None
    run.start("seed: 1\n", fresh=True, parent="sft-1")
    record = run.record()
    assert (record["status"], record["attempt"], record["parent"], record["ended"]) == ("running", 1, "sft-1", None)
    assert run.config.read_text() == "seed: 1\n"
    (run.path / "checkpoints" / "last.ckpt").write_text("state")
    run.end("failed", "out of luck")
    assert (run.record()["status"], run.record()["reason"]) == ("failed", "out of luck")
    run.start("seed: 1\n", fresh=False)
    assert run.checkpoint.read_text() == "state"
    assert (run.record()["attempt"], run.record()["reason"]) == (2, None)
    run.start("seed: 1\n", fresh=True)
    assert not run.checkpoint.exists()
    assert run.record()["attempt"] == 3


def test_an_output_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="output_root can't be written"):
        RunDir.of(tmp_path / "file", "dpo-1").lock()


ELSEWHERE = {"status": "running", "host": "another-machine", "pid": 1, "attempt": 1}


def test_a_running_run_without_a_process_is_interrupted(tmp_path: Path) -> None:
    run = RunDir.of(tmp_path, "dpo-1")
    with run.locked():
        run.start("", fresh=True)
        assert run.status() == "running", "this process has the lock"
    assert run.status() == "interrupted"
    assert "ended without a message" in run.state()["reason"]
    with run.locked():
        run.start("", fresh=False)
        run.end("done")
    assert [(a["attempt"], a["status"]) for a in run.record()["attempts"]] == [(1, "interrupted")]
    assert (run.status(), run.record()["attempt"]) == ("done", 2)


def test_a_run_that_is_queued_again_keeps_its_record(tmp_path: Path) -> None:
    run = RunDir.of(tmp_path, "dpo-1")
    run.queue(sweep="s")
    assert (run.status(), run.record()["sweep"], run.record()["attempt"]) == ("queued", "s", 0)
    with run.locked():
        run.start("", fresh=True)
        run.end("failed", "out of luck")
    run.queue(sweep="t")
    assert (run.status(), run.record()["attempts"][0]["reason"]) == ("queued", "out of luck")
    with run.locked():
        run.start("", fresh=True)
        assert run.record()["attempt"] == 2
        run.queue(sweep="u")
        assert run.status() == "running", "a process works on it"
        run.end("diverged", "NaN")
    run.queue(sweep="u")
    assert (run.status(), run.record().get("sweep")) == ("diverged", None), "finished"


def test_what_a_killed_process_was_writing_is_deleted_by_the_next_attempt(tmp_path: Path) -> None:
    run = RunDir.of(tmp_path, "dpo-1")
    run.start("", fresh=True)
    for file in (run.path / "run.json.a1.tmp", run.checkpoint.with_suffix(".tmp")):
        file.write_text("{")
    run.policy.with_name("policy.tmp").mkdir()
    run.checkpoint.write_text("state")
    run.start("", fresh=False)
    assert not [*run.path.rglob("*.tmp")]
    assert run.checkpoint.read_text() == "state"


def test_one_process_only_has_a_run(tmp_path: Path) -> None:
    run = RunDir.of(tmp_path, "dpo-1")
    code = (
        "import sys, time; from pathlib import Path; from alignlab.runs.directory import RunDir\n"
        "with RunDir(Path(sys.argv[1])).locked():\n  print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    try:
        assert is_locked(run.lock_file)
        with run.locked(wait=False) as mine:
            assert not mine
        assert not run.remove()
        threading.Timer(0.3, other.kill).start()
        began = time.monotonic()
        with run.locked() as mine:
            assert mine
            assert time.monotonic() - began >= 0.2, "it waited until the other process was dead"
    finally:
        other.kill()
        other.wait()
    assert not is_locked(run.lock_file)


def test_the_heartbeat_of_another_machine_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock of another machine is not visible. The heartbeat is watched, and clocks do not matter."""
    monkeypatch.setattr(heartbeat, "BEAT", 0.05)
    monkeypatch.setattr(heartbeat, "STILL", 0.3)
    run = RunDir.of(tmp_path, "dpo-1")
    write_sealed(run.record_file, ELSEWHERE)
    with Heartbeat(run.heartbeat):
        time.sleep(0.1)
        assert run.status() == "running"
        with run.locked(wait=False) as mine:
            assert not mine
        os.utime(run.heartbeat, (0, 0))  # a clock that jumped
        with run.locked(wait=False) as mine:
            assert not mine
    assert not run.heartbeat.exists()
    run.heartbeat.write_text("7")
    os.utime(run.heartbeat, (2**31, 2**31))  # recent for ever, but it does not change
    began = time.monotonic()
    with run.locked(wait=False) as mine:
        assert mine
    assert time.monotonic() - began >= 0.3
    assert not is_recent(run.heartbeat)
    assert run.status() == "interrupted"


def test_a_lock_held_on_this_machine_is_not_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir.of(tmp_path, "dpo-1")
    write_sealed(run.record_file, {**ELSEWHERE, "host": socket.gethostname()})
    monkeypatch.setattr(run_dir, "beating", watched_never)
    with run.locked(wait=False) as mine:
        assert mine


def watched_never(files: Iterable[Path]) -> set[Path]:
    raise AssertionError("watched")


def with_locks_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine sees the locks of another one."""
    own = property(lambda run: run.path.parent / ".locks" / socket.gethostname() / run.id)
    monkeypatch.setattr(RunDir, "lock_file", own)


@pytest.mark.parametrize("ending", [None, "done"])
def test_one_of_two_machines_begins_a_queued_run(
    ending: Status | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither sees the lock of the other. Both find the run queued, and the second one begins it first."""
    with_locks_of_their_own(monkeypatch)
    run = RunDir.of(tmp_path, "dpo-1")
    run.queue(sweep="s")
    with run.locked() as mine:
        assert mine
        with monkeypatch.context() as other:
            other.setattr(socket, "gethostname", lambda: "two")
            with run.locked() as also:
                assert also, "the record says queued"
                run.start("", fresh=True)
                if ending:
                    run.end(ending)
        with pytest.raises(TakenError, match="dpo-1: two has begun it"):
            run.start("", fresh=True)
    run.queue(sweep="t")
    assert (run.record()["host"], run.record()["status"]) == ("two", ending or "running")
    assert "sweep" not in run.record(), "it is not queued again"
    if ending:
        run.start("", fresh=True, again=True)
        assert run.record()["attempt"] == 2


def test_queueing_waits_while_a_machine_begins_the_run(tmp_path: Path) -> None:
    run = RunDir.of(tmp_path, "dpo-1")
    run.queue(sweep="s")
    with run.alone():
        queueing = threading.Thread(target=run.queue, kwargs={"sweep": "t"})
        queueing.start()
        queueing.join(0.2)
        assert queueing.is_alive()
        write_sealed(run.record_file, ELSEWHERE)
    queueing.join()
    assert run.record() == ELSEWHERE


def test_a_machine_that_went_down_while_it_began_a_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_dir, "STILL", 0.1)
    run = RunDir.of(tmp_path / "my runs", "dpo-1")
    run.queue()
    left = run.lock_file.with_name("dpo-1.begin")
    left.write_text("7\nanother-machine\n")
    with pytest.raises(OutputError) as told:
        run.start("", fresh=True)
    text = "a machine went down at the moment at which it began or queued this run"
    assert str(told.value).endswith(f"{text}\n  type: rm '{left}'")
    left.unlink()
    run.start("", fresh=True)
    assert not left.exists()


def test_a_heartbeat_can_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT", 0.05)
    monkeypatch.setattr(heartbeat, "STILL", 0.2)
    (tmp_path / "beat").write_text("1")
    began = time.monotonic()
    assert not beating([tmp_path / "beat", tmp_path / "none"])
    assert time.monotonic() - began >= 0.2


def test_machines_that_went_down_are_watched_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT", 0.05)
    monkeypatch.setattr(heartbeat, "STILL", 3.0)
    runs = [RunDir.of(tmp_path, f"dpo-{i}") for i in range(5)]
    for run in runs[1:]:
        write_sealed(run.record_file, ELSEWHERE)
        run.heartbeat.write_text("3")
    began = time.monotonic()
    with Heartbeat(runs[2].heartbeat):
        assert at_work_elsewhere(runs) == {run: run is runs[2] for run in runs[1:]}
    with runs[1].locked(wait=False, watched=True) as mine:
        assert mine, "it was watched already"
    assert time.monotonic() - began < 2 * 3.0, "all at once"


def test_a_queued_run_whose_command_has_ended_is_interrupted(tmp_path: Path) -> None:
    run = RunDir.of(tmp_path, "dpo-1")
    code = (
        "import sys; from pathlib import Path; from alignlab.runs.directory import RunDir\n"
        "RunDir(Path(sys.argv[1])).queue(sweep='t')"
    )
    subprocess.run([sys.executable, "-c", code, str(run.path)], check=True)
    assert run.record()["status"] == "queued"
    assert (run.status(), run.state()["reason"]) == ("interrupted", run_dir._LEFT)
    with run.locked():
        run.start("", fresh=True)
        assert (run.record()["attempt"], run.record()["attempts"]) == (1, []), "the first attempt had not begun"
    assert not [file for file in run.lock_file.parent.glob("process-*") if not is_locked(file)], "no lock file is left"


def test_a_run_may_be_queued_by_two_commands_or_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir.of(tmp_path, "dpo-1")
    run.queue()
    (this,) = run.record()["queued_by"]
    run.update(queued_by=[this, {**this, "lock": "process-gone"}])
    assert run.status() == "queued", "one of the commands still runs"
    run.queue()
    assert run.record()["queued_by"] == [this]
    run.update(queued_by=[{"host": "another-machine", "lock": "process-gone"}])
    assert run.status() == "queued", "this machine does not know"
    run.update(queued_by=[{**this, "lock": "process-gone"}])
    assert run.status() == "interrupted"
    run.leave_queued()
    assert run.status() == "queued", "a cluster will run it"
    monkeypatch.chdir(tmp_path)
    near = RunDir.of("elsewhere", "dpo-2")
    near.queue()
    assert near.status() == "queued"


def test_the_revision_differs_between_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("alignlab/runs", "conf", "docs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "alignlab/a.py").write_text("1")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(run_dir, "__file__", str(tmp_path / "alignlab/runs/directory.py"))
    revision = git_revision.__wrapped__
    clean = revision()
    (tmp_path / "docs/b.md").write_text("changes no numbers")
    assert revision() == clean
    (tmp_path / "alignlab/a.py").write_text("2")
    (tmp_path / "conf/c.yaml").write_text("1")
    seen = [clean, revision()]
    (tmp_path / "alignlab/a.py").write_text("3")
    seen.append(revision())
    (tmp_path / "conf/c.yaml").write_text("2")
    seen.append(revision())
    (tmp_path / "alignlab/.#a.py").symlink_to("nobody@nowhere:1")  # as editors create them
    (tmp_path / "alignlab/.a.py.swp").write_text("typing")
    assert revision() == seen[-1]
    assert len(set(seen)) == 4
    assert all(found.startswith(f"{clean}+") for found in seen[1:])


def test_a_damaged_record_counts_as_none_and_is_written_again(tmp_path: Path) -> None:
    run = RunDir.of(tmp_path, "dpo-1")
    for content in ('{"status": "do', "[]", "\xff"):
        run.path.mkdir(parents=True, exist_ok=True)
        run.record_file.write_text(content)
        assert run.status() is None
        run.queue()
        assert run.status() == "queued"


def test_a_resumed_run_reports_changes_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir.of(tmp_path, "dpo-1")
    with run.locked():
        run.start("", fresh=True)
        monkeypatch.setattr(run_dir, "git_revision", lambda: "abc")
        newer = {**run_dir.versions(), "torch": "9.9"}
        monkeypatch.setattr(run_dir, "versions", lambda: newer)
        changes = run.start("", fresh=False)
        assert [c.split(":")[0] for c in changes] == ["alignlab's revision", "torch"]
        assert changes[1].endswith("-> 9.9")
        assert run.start("", fresh=True) == [], "a fresh start mixes nothing"


def test_a_run_knows_the_code_of_each_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir.of(tmp_path, "dpo-1")
    assert run.code_changes() == [], "there is no run yet"
    with run.locked():
        run.start("", fresh=True, resumed_from=0)
        run.end("interrupted")
        older = run.record()["versions"]
        monkeypatch.setattr(run_dir, "versions", lambda: {**older, "torch": "9.9"})
        run.start("", fresh=False, resumed_from=7)
        run.end("done")
    assert [(a["versions"]["torch"], a["resumed_from"]) for a in run.record()["attempts"]] == [(older["torch"], 0)]
    assert run.code_changes() == []
    monkeypatch.setattr(run_dir, "versions", lambda: older)
    assert run.code_changes() == [f"torch: 9.9 -> {older['torch']}"]


def test_looking_at_a_lock_does_not_keep_others_from_taking_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`is_locked` holds the lock for a moment; `locked` waits longer than that."""
    monkeypatch.setattr(run_dir, "_GLANCE", 5.0)
    run = RunDir.of(tmp_path, "dpo-1")
    with run.locked():
        pass
    handle = os.open(run.lock_file, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    threading.Timer(0.2, os.close, [handle]).start()
    with run.locked(wait=False) as mine:
        assert mine


def test_queueing_does_not_wait_for_a_run_of_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir.of(tmp_path, "dpo-1")
    write_sealed(run.record_file, ELSEWHERE)
    monkeypatch.setattr(run_dir, "beating", watched_never)
    run.queue(sweep="s")
    assert run.record() == ELSEWHERE


@pytest.mark.slow  # 7 s
def test_a_hundred_processes_lose_nothing(tmp_path: Path) -> None:
    """Each process has its own run; all want one more run, which only one may start. No record is half written."""
    code = f"""
import json, os, sys
from pathlib import Path
from alignlab.runs.directory import RunDir
root = Path({str(tmp_path)!r})
children = []
for i in range(100):
    child = os.fork()
    if child == 0:
        own, shared = RunDir.of(root, f"own-{{i}}"), RunDir.of(root, "shared-1")
        own.queue(sweep="s")
        with own.locked():
            own.start("", fresh=True)
            for k in range(5):
                own.update(step=k)
            own.end("done", number=i)
        with shared.locked():
            if shared.record().get("status") != "done":
                shared.start("", fresh=True)
                shared.end("done")
            shared.update(seen=[*shared.record().get("seen", []), i])
        for other in range(0, 100, 10):
            RunDir.of(root, f"own-{{other}}").state()
        os._exit(0)
    children.append(child)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "can't be read" not in done.stderr
    numbers = [RunDir.of(tmp_path, f"own-{i}").record() for i in range(100)]
    assert [r["number"] for r in numbers] == list(range(100))
    assert {(r["status"], r["attempt"], r["step"]) for r in numbers} == {("done", 1, 4)}
    shared = RunDir.of(tmp_path, "shared-1").record()
    assert sorted(shared["seen"]) == list(range(100))
    assert shared["attempt"] == 1
    assert not list((tmp_path / "runs").rglob("*.tmp"))
