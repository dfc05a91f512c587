"""`alignlab --help` and `alignlab runs` do not import torch. Verbs that do not train import no training library."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., Any]

TINY = ["model=bandit", "data=bandit", "tracking=none", "trainer.max_steps=2"]

# Runs command lines in one process. After each, prints its exit code and the heavy libraries that were imported so far.
ASK = """
import json, sys
from alignlab.cli.main import main
for arguments in json.loads(sys.argv[1]):
    code = main(arguments)
    heavy = {"torch", "lightning", "transformers", "datasets", "wandb", "pandas", "matplotlib"} & sys.modules.keys()
    heavy |= {name for name in sys.modules if name in ("scipy.optimize", "scipy.special")}
    print(f"exit code {code}, imported {sorted(heavy)}", file=sys.stderr)
"""


def imported(*commands: list[str], folder: Path) -> list[str]:
    """What each of these command lines, one after another in one process, has ended with."""
    asked = [sys.executable, "-c", ASK, json.dumps(commands)]
    found = subprocess.run(asked, cwd=folder, capture_output=True, text=True)
    return [line for line in found.stderr.splitlines() if line.startswith("exit code")]


def test_runs_and_help_need_no_torch(alignlab: Run, tmp_path: Path) -> None:
    assert alignlab("train", *TINY).code == 0
    (run,) = (tmp_path / "outputs" / "runs").glob("dpo-*")
    asked = (["--help"], ["runs"], ["runs", "status=done"], ["runs", "show", run.name])
    assert imported(*asked, folder=tmp_path) == ["exit code 0, imported []"] * 4


def test_questions_and_mistakes_are_answered_with_torch_alone(tmp_path: Path) -> None:
    asked = (["objectives", "dpo"], ["check", "experiment=lab"], ["train", "objective.bta=1"])
    found = imported(*asked, folder=tmp_path)
    assert found == [f"exit code {code}, imported ['torch']" for code in (0, 0, 2)]


def test_what_is_finished_is_answered_without_a_training_library(alignlab: Run, tmp_path: Path) -> None:
    """A finished run with torch alone, and then the table of a finished sweep, which needs pandas too."""
    sweep = [*TINY, "-m", "objective.beta=0.1,0.3"]
    assert alignlab("train", *sweep).code == 0
    found = imported(["train", *TINY, "objective.beta=0.1"], ["train", *sweep], folder=tmp_path)
    assert found == ["exit code 0, imported ['torch']", "exit code 0, imported ['pandas', 'torch']"]
