"""A run computes with the threads that it began with, or with as many as cores are free."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from alignlab.runs.directory import RunDir
from alignlab.training import threads as module
from alignlab.training.threads import threads_before, threads_for


@pytest.mark.parametrize(
    ("parameters", "before", "free", "variable", "expected"),
    [
        (83_000, None, 4, None, 1),  # small models
        (2_000_000, None, 4, None, 3),  # as many as torch takes
        (None, None, 2, None, 2),  # as many as are free
        (None, 3, 1, None, 3),  # as the attempt that is resumed
        (None, None, 1, "3", 3),  # as the user says
    ],
)
def test_number_of_threads(
    parameters: int | None, before: int | None, free: int, variable: str | None, expected: int,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    @contextmanager
    def claimed(choose):  # type: ignore[no-untyped-def]
        yield choose(free)

    monkeypatch.setattr(module, "claimed", claimed)
    monkeypatch.setattr(module, "in_use", lambda: {77: 5})
    monkeypatch.setattr(module, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    run, default = RunDir.of(tmp_path, "dpo-1"), torch.get_num_threads()
    run.update(machine={"cpus": 8})
    torch.set_num_threads(3)
    try:
        with caplog.at_level(logging.INFO), threads_for([run], parameters, before=before):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(default)
    assert run.record()["machine"] == {"cpus": 8, "threads": expected}
    assert threads_before(run) == expected
    assert "other alignlab commands compute with 5 on 8 cores (process 77)" in caplog.text


@pytest.mark.parametrize(("before", "free", "each", "claim"), [(None, 5, 2, 4), (None, 1, 1, 2), (3, 5, 3, 6)])
def test_processes_of_a_run_share_the_free_cores(
    before: int | None, free: int, each: int, claim: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims: list[int] = []

    @contextmanager
    def claimed(choose):  # type: ignore[no-untyped-def]
        claims.append(choose(free))
        yield claims[-1]

    monkeypatch.setattr(module, "claimed", claimed)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run, default = RunDir.of(tmp_path, "dpo-1"), torch.get_num_threads()
    torch.set_num_threads(8)
    try:
        with threads_for([run], None, before=before, processes=2):
            assert torch.get_num_threads() == each
    finally:
        torch.set_num_threads(default)
    assert claims == [claim]


@pytest.mark.parametrize("recorded", [None, "2", 0])
def test_records_of_older_versions_have_no_number(recorded: object, tmp_path: Path) -> None:
    run = RunDir.of(tmp_path, "dpo-1")
    run.update(machine={"threads": recorded})
    assert threads_before(run) is None
