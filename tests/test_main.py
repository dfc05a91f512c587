"""`python -m alignlab` is the console script under another name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# The body of the console script that pip writes, without its header.
SCRIPT = "import sys; sys.argv[0] = 'alignlab'; from alignlab.cli.main import main; sys.exit(main())"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        pytest.param(["--version"], 0, "alignlab 0.", marks=pytest.mark.slow),
        (["trian"], 2, "did you mean: alignlab train?"),
        pytest.param(["train", "--nope"], 2, "usage: alignlab [--help]", marks=pytest.mark.slow),
        pytest.param(["train", "objective.beta=-1"], 2, "type: objective.beta=0.1", marks=pytest.mark.slow),
        (["-sc", "install=bash"], 0, "-F hydra_bash_completion alignlab"),
    ],
)
def test_the_module_does_what_the_script_does(words: list[str], code: int, text: str, tmp_path: Path) -> None:
    ways = (["-m", "alignlab"], ["-c", SCRIPT])
    module, script = (
        subprocess.run([sys.executable, *way, *words], cwd=tmp_path, capture_output=True, text=True) for way in ways
    )
    assert (module.returncode, module.stdout, module.stderr) == (script.returncode, script.stdout, script.stderr)
    assert module.returncode == code
    assert text in module.stdout + module.stderr
