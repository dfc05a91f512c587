"""`alignlab init` makes a project in which everything runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CLI = Callable[..., Any]


def test_a_new_folder(alignlab: CLI, monkeypatch: pytest.MonkeyPatch) -> None:
    made = alignlab("init", "sub/project")
    assert made.code == 0
    assert "cd sub/project" in made.out
    found = {path.relative_to("sub/project").as_posix() for path in Path("sub/project").rglob("*") if path.is_file()}
    assert {
        ".gitignore", "README.md", "conf/experiment/first.yaml", "sweeps/first_beta.yaml", "data/pairs.jsonl",
        "my_parts/objectives/squared_hinge.py", "notebook.ipynb", "pyproject.toml",
    } <= found  # fmt: skip
    assert not [name for name in found if "__pycache__" in name or name == "gitignore"]
    again = alignlab("init", "sub/project")
    assert (again.code, "is there already and is not empty" in again.err) == (2, True)
    Path("file").touch()
    os.mkfifo("pipe")
    for name, what in (("file", "file is a file"), ("pipe", "pipe is a device or a pipe")):
        refused = alignlab("init", name)
        assert (refused.code, what in refused.err) == (2, True)
    assert alignlab("init").code == 2
    assert "usage: alignlab init" in alignlab("init", "--help").out
    monkeypatch.chdir("sub/project")
    checked = alignlab("check", "sweep=first_beta")
    assert (checked.code, checked.out.count("not run yet")) == (0, 3), checked.err
    assert alignlab("check", "experiment=first", "plugins=./my_parts", "objective=squared_hinge").code == 0


@pytest.mark.slow
def test_everything_runs(alignlab: CLI, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of its README, and the cells of its notebook."""
    assert alignlab("init", "project").code == 0
    monkeypatch.chdir("project")
    assert alignlab("train", "experiment=first").code == 0
    (run,) = Path("outputs/runs").glob("dpo-*")
    readme = Path("README.md").read_text().partition("```sh\n")[2].partition("```")[0]
    commands = [line.partition(" #")[0].split() for line in readme.splitlines()]
    assert len(commands) == 7
    for command in commands:
        words = [word.replace("<run>", run.name) for word in command[1:]]
        done = alignlab(*words)
        assert done.code == 0, (words, done.err)
    names: dict[str, Any] = {}
    for cell in json.loads(Path("notebook.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert list(names["table"]["done"]) == [3, 3]
