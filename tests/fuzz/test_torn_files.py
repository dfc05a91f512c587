"""Each file of a finished run is torn: cut, changed, emptied, replaced or removed. Every verb that reads it says so in
words, or makes the file again.
"""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.forked import Ended, run_forked
from tests.fuzz.outcomes import run_all
from tests.lab_runs import LAB

TRAIN = ["train", "experiment=lab_dpo", *LAB, "trainer.max_steps=4", "trainer.checkpoint_every=2"]
WAYS = ("cut", "changed", "emptied", "a folder", "removed", "zeros", "a list")
Case = tuple[str, str, int]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run and its parent."""
    folder = tmp_path_factory.mktemp("torn") / "finished"
    ended = run_forked(TRAIN, folder, seconds=400)
    assert ended.code == 0, ended.text
    return folder


def cases(folder: Path) -> Iterator[Case]:
    """(file, way to tear it, number) for all files below outputs but logs and locks."""
    files = sorted(file for file in (folder / "outputs").rglob("*") if file.is_file())
    kept = [f for f in files if f.suffix != ".log" and not f.name.startswith(".") and ".locks" not in f.parts]
    named = [str(f.relative_to(folder)) for f in kept]
    for number, name in enumerate(named * 3):
        yield name, WAYS[(number * 3 + number // len(named)) % len(WAYS)], number


def tear(file: Path, way: str, number: int) -> None:
    content, draw = bytearray(file.read_bytes()), random.Random(number)
    place = draw.randrange(len(content)) if content else 0
    if way in ("removed", "a folder"):
        file.unlink()
        if way == "a folder":
            file.mkdir()
        return
    if way == "changed" and content:
        content[place] ^= 1 << draw.randrange(8)
    made = {
        "cut": content[:place],
        "changed": content,
        "emptied": b"",
        "zeros": bytes(len(content)),
        "a list": b"[1]\n",
    }
    file.write_bytes(bytes(made[way]))


def _run(case: Case, finished: Path, folder: Path) -> tuple[str, Ended]:
    name, way, number = case
    shutil.copytree(finished, folder)
    tear(folder / name, way, number)
    run = next((part for part in Path(name).parts if part.startswith(("dpo-", "sft-"))), "dpo-")
    verbs = (
        ["runs", "show", "--full", run],
        ["report", run],
        ["evaluate", f"run={run}", "evaluation.prompts=2"],
        TRAIN,
    )
    first = run_forked(verbs[number % 3], folder, seconds=120)
    ended = run_forked(TRAIN, folder, seconds=240) if first.is_good else first
    return f"{way}", ended


@pytest.mark.slow
@pytest.mark.fuzz
def test_torn_files(finished: Path, tmp_path: Path) -> None:
    numbers = itertools.count()
    all_cases = list(cases(finished))
    assert len(all_cases) >= 50
    run_all("torn files", all_cases, lambda case: _run(case, finished, tmp_path / f"w{next(numbers)}"))
