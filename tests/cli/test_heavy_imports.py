"""`alignlab --help` and `alignlab runs` do not import torch. Verbs that do not train import no training library."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

TINY = ["model=bandit", "data=bandit", "tracking=none", "trainer.max_steps=2"]

# Exits with the names of the heavy libraries that were imported.
ASK = """
import sys
from alignlab.cli.main import main
code = main(sys.argv[1:])
heavy = {"torch", "lightning", "transformers", "datasets", "wandb", "pandas", "matplotlib"} & sys.modules.keys()
heavy |= {name for name in sys.modules if name in ("scipy.optimize", "scipy.special")}
sys.exit(f"exit code {code}, imported {sorted(heavy)}")
"""


def imported(*arguments: str, folder: Path) -> str:
    found = subprocess.run([sys.executable, "-c", ASK, *arguments], cwd=folder, capture_output=True, text=True)
    return found.stderr.splitlines()[-1]


def test_runs_and_help_need_no_torch(alignlab: Run, tmp_path: Path) -> None:
    assert alignlab("train", *TINY).code == 0
    (run,) = (tmp_path / "outputs" / "runs").glob("dpo-*")
    for arguments in (["--help"], ["runs"], ["runs", "status=done"], ["runs", "show", run.name]):
        assert imported(*arguments, folder=tmp_path) == "exit code 0, imported []"


def test_a_finished_run_is_answered_with_torch_alone(alignlab: Run, tmp_path: Path) -> None:
    assert alignlab("train", *TINY).code == 0
    assert imported("train", *TINY, folder=tmp_path) == "exit code 0, imported ['torch']"


def test_the_table_of_a_finished_sweep_needs_pandas_too(alignlab: Run, tmp_path: Path) -> None:
    sweep = [*TINY, "-m", "objective.beta=0.1,0.3"]
    assert alignlab("train", *sweep).code == 0
    assert imported("train", *sweep, folder=tmp_path) == "exit code 0, imported ['pandas', 'torch']"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["check", "experiment=lab"], 0), (["train", "objective.bta=1"], 2), (["objectives", "dpo"], 0)],
    ids=["check", "a mistake", "objectives"],
)
def test_questions_and_mistakes_are_answered_with_torch_alone(arguments: list[str], code: int, tmp_path: Path) -> None:
    assert imported(*arguments, folder=tmp_path) == f"exit code {code}, imported ['torch']"
