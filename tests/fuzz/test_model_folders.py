"""Folders of models of every sort are refused in words before anything is trained, or train."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest

from tests.config.test_remote_code import PAIRS, model_folder
from tests.fuzz.forked import Ended, run_forked
from tests.fuzz.model_folders import ModelFolder, model_folders
from tests.fuzz.outcomes import run_all


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and rows."""
    folder = tmp_path_factory.mktemp("good")
    rows = [{"prompt": f"say {i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(20)]
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    model_folder(folder / "own")
    return folder


def _run(case: ModelFolder, good: Path, folder: Path) -> tuple[str, Ended]:
    shutil.copytree(good, folder)
    case.change(folder / "own")
    return case.kind, run_forked(["train", "model=hub", "model.name=own", *PAIRS], folder, seconds=120)


@pytest.mark.slow
def test_a_few_model_folders(good: Path, tmp_path: Path) -> None:
    names = ("hidden_size=1000000000", "tensor-1")
    numbers = itertools.count()
    chosen = [case for case in model_folders() if case.name in names]
    assert len(chosen) == 2
    run_all("", chosen, lambda case: _run(case, good, tmp_path / f"w{next(numbers)}"))


@pytest.mark.slow
@pytest.mark.fuzz
def test_model_folders(good: Path, tmp_path: Path) -> None:
    numbers = itertools.count()
    run_all("model folders", model_folders(), lambda case: _run(case, good, tmp_path / f"w{next(numbers)}"))


def test_there_are_many_model_folders() -> None:
    cases = list(model_folders())
    assert len(cases) >= 40
    assert len({case.name for case in cases}) == len(cases)
