"""Fields of a record that have a wrong type are left out and named. Readers can rely on the others."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from alignlab.integrity import write_sealed
from alignlab.runs.directory import RunDir
from alignlab.runs.query import runs_of
from alignlab.runs.record import is_name, is_too_deep, with_types
from tests.runs.bad_values import VALUES, too_deep

GOOD: dict[str, Any] = {
    "id": "dpo-1", "status": "done", "attempt": 1, "reason": None, "started": "2026-01-01T00:00:00+00:00",
    "summary": {"eval/loss": 0.5, "eval/none": None, "steps": 3, "nan": math.nan}, "overrides": ["seed=1"],
    "config": {"trainer": {"max_steps": 3}, "data": {"anything": [1, {"a": None}]}, "seed": 1, "reward": None},
    "attempts": [{"attempt": 1, "status": "failed", "reason": None}], "own": {"of": ["a", "plug-in"]},
    "queued_by": [{"host": "a", "lock": "process-1"}], "data": {"eval": {"rows": 3, "dropped": {"empty": 1}}},
}  # fmt: skip


def test_a_good_record_stays_as_it_is() -> None:
    found, wrong = with_types(GOOD)
    assert wrong == []
    assert {**found, "summary": None} == {**GOOD, "summary": None}
    assert found["summary"].keys() == GOOD["summary"].keys()


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"status": "dnoe"}, ["status"]),
        ({"started": "yesterday"}, ["started"]),
        ({"started": "2026-01-01T00:00:00"}, ["started"]),
        ({"parent": "../../etc/passwd"}, ["parent"]),
        ({"summary": {"a": "x", "b": 10**400, "c": True, "d": 1}}, ["summary.a", "summary.b", "summary.c"]),
        ({"config": {"trainer": {"max_steps": "many"}, "model": [1]}}, ["config.model", "config.trainer.max_steps"]),
        ({"overrides": ["seed=1", 1, {}]}, ["overrides"]),
        ({"attempts": ["x", {"attempt": []}]}, ["attempts", "attempts.attempt"]),
        ({"queued_by": [{"host": "a", "lock": "../x"}]}, ["queued_by.lock"]),
        ({"data": {"eval": {"rows": -1, "dropped": {"empty": "x"}}}}, ["data.eval.rows", "data.eval.dropped.empty"]),
        ({"versions": {"torch": 2}, "kinds": 5}, ["kinds", "versions.torch"]),
        ({"own": 5, "versions": None, "data": None}, []),
    ],
)
def test_wrong_fields_are_left_out_and_named(change: dict[str, Any], wrong: list[str]) -> None:
    found, named = with_types({**GOOD, **change})
    assert named == wrong
    assert with_types(found) == (found, []), "what is left has no wrong field"


def test_an_essential_field_of_a_wrong_type_makes_the_record_damaged(tmp_path: Path) -> None:
    run = RunDir.of(tmp_path, "dpo-1")
    for key in ("config", "summary", "overrides", "attempts", "attempt"):
        write_sealed(run.record_file, {**GOOD, key: "x"})
        assert run.record() == {}
        assert run.damage().endswith(f"run.json is damaged (fields of a wrong type: {key})")
    write_sealed(run.record_file, {**GOOD, "own": too_deep()})
    assert run.damage().endswith("is damaged (nested too deeply)")
    assert is_too_deep(too_deep(101))
    assert not is_too_deep({"a": [{"b": [1]}]})


def test_a_record_with_wrong_fields_is_read_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunDir.of(tmp_path, "dpo-1")
    write_sealed(run.record_file, {**GOOD, "status": ["done"], "git": 5})
    for _ in range(2):
        assert "status" not in run.record()
    assert caplog.messages == [f"{run.record_file}: fields have a wrong type and are left out: status, git"]
    assert run.wrong_fields() == ["status", "git"]
    (found,) = runs_of(tmp_path)
    assert (found["status"], found["reason"]) == ("damaged", "its record has no status")


def test_no_path_is_a_name() -> None:
    assert [value for value in VALUES if is_name(value)] == ["x", "\x1b[31m|<b>"]
    assert not any(map(is_name, (".", "..", "a/b", "a\\b", "a\0b")))
