"""Files of rows of every sort are accepted or refused in words by `check`."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.fuzz.data_files import DataFile, data_files
from tests.fuzz.forked import Ended, run_forked
from tests.fuzz.outcomes import run_all


def _run(case: DataFile, folder: Path) -> tuple[str, Ended]:
    folder.mkdir(exist_ok=True)
    case.make(folder / case.name)
    words = ["check", "data=pairs", f"data.path={case.name}", "model=tiny", "tracking=none"]
    return case.kind, run_forked(words, folder, seconds=60)


def test_a_few_data_files(tmp_path: Path) -> None:
    chosen = [case for case in data_files() if case.name in ("zero.jsonl", "damaged-4.parquet", "prompt-5.jsonl")]
    assert len(chosen) == 3
    run_all("", chosen, lambda case: _run(case, tmp_path / "w"))


@pytest.mark.slow
@pytest.mark.fuzz
def test_data_files(tmp_path: Path) -> None:
    numbers = itertools.count()
    run_all("data files", data_files(), lambda case: _run(case, tmp_path / f"w{next(numbers)}"))


def test_there_are_many_data_files() -> None:
    cases = list(data_files())
    assert len(cases) >= 130
    assert len({case.name for case in cases}) == len(cases)
