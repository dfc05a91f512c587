"""The how-tos of docs/extending.md, applied to a copy of the package and run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = (ROOT / "docs" / "extending.md").read_text()

# heading -> number of its code blocks
HOW_TOS = {
    "Add a launcher": 2,
    "Add a setting of the trainer": 3,
    "Add a metric": 2,
    "Add an objective": 2,
    "Add a judge": 2,
    "Add a data set": 3,
    "Add a data source": 2,
    "Add an optimizer": 2,
    "Add an adapter": 2,
    "Add a model": 2,
}

# A line that begins with the name of a file, and the code block below it.
BLOCK = re.compile(r"^`([\w./]+)`[^\n]*:\n\n```(\w+)\n(.*?)```", re.MULTILINE | re.DOTALL)

# What a reader of the document would type, with a record of the runs that the new launcher started.
COMMANDS = """
import json, sys
from pathlib import Path
import alignlab, torch
from alignlab.cli.main import main
from alignlab.sweep.launchers.paced import PacedLauncher

assert alignlab.__file__.startswith(sys.argv[1]), alignlab.__file__
run, started = PacedLauncher.run, []

def recording_run(self, tasks, on_finished):
    started.extend(name for task in tasks for name in task.names)
    run(self, tasks, on_finished)

PacedLauncher.run = recording_run
lab = ["experiment=lab_dpo", "model.parent=[]", "tracking=none", "trainer.progress=false", "trainer.deterministic=true"]
small = ["trainer.max_steps=2", "trainer.batch_size=4", "data.train_limit=8", "data.eval_limit=4"]
sweep = ["-m", "objective.beta=0.1,0.3", "sweep.name=s"]
codes = [main(["train", *lab, *small, *sweep, "launcher=paced", "launcher.pause=0.1"])]
assert torch.are_deterministic_algorithms_enabled(), "the setting was not read"
codes += [main(["check", *lab, *sweep, "launcher=vectorized"])]
codes += [main(["check", *lab, "objective=squared_hinge"])]
codes += [main(["check", "data=sums", "model=tiny", "tracking=none", "judge=shorter", "evaluation.at_end=true"])]
parts = ["optim=momentum", "peft=last_layer", "model=calm", "model.alphabet=abcdef", "output_root=parts"]
codes += [main(["train", *lab, *small, *parts])]
quiz = [{"question": {"text": f"q{i}"}, "right_answer": "a", "wrong_answer": "b"} for i in range(20)]
stars = [{"question": f"q{i}", "a": "x", "b": "y", "stars_a": i, "stars_b": "3"} for i in range(20)]
for name, rows in (("quiz", quiz), ("stars", stars)):
    Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
    codes += [main(["check", f"data={name}", f"data.path={name}.jsonl", "model=tiny", "tracking=none"])]
print("started", *started)
print("exit codes", *codes)
"""


def follow(root: Path, heading: str) -> int:
    """Do in a copy of the package what the document says below a heading; returns the number of its code blocks.

    A diff is applied to the file that the text names: the lines without `+` must be in it exactly once. Any other code
    block is a new file.
    """
    section = DOCUMENT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    blocks = BLOCK.findall(section)
    for name, language, code in blocks:
        file = root / name
        if language != "diff":
            assert not file.exists(), f"{name} exists already"
            file.write_text(code)
            continue
        for hunk in code.split("@@\n"):
            lines = [" \n" if line == "\n" else line for line in hunk.splitlines(keepends=True)]
            before = "".join(line[1:] for line in lines if line[0] != "+")
            after = "".join(line[1:] for line in lines if line[0] != "-")
            text = file.read_text()
            assert text.count(before) == 1, f"{heading}: {name} must have these lines once:\n{before}"
            file.write_text(text.replace(before, after))
    return len(blocks)


@pytest.fixture
def followed(tmp_path: Path) -> Path:
    """A copy of the package, changed as all how-tos say."""
    for folder in ("alignlab", "conf", "sweeps", "hydra_plugins"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    assert {heading: follow(tmp_path, heading) for heading in HOW_TOS} == HOW_TOS
    return tmp_path


def test_the_how_tos_apply_to_todays_files(followed: Path) -> None:
    """Each diff fits, and each file that a how-to writes or changes can be read."""
    for heading in HOW_TOS:
        section = DOCUMENT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        for name, _, _ in BLOCK.findall(section):
            text = (followed / name).read_text()
            compile(text, name, "exec") if name.endswith(".py") else yaml.safe_load(text)


@pytest.mark.slow  # 32 s: a process imports all libraries and trains a sweep
def test_the_how_tos_work(followed: Path) -> None:
    """A launcher, a trainer setting and a metric of the document train a sweep; the others pass the check."""
    tmp_path = followed
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    *_, started, codes = done.stdout.splitlines() or ["", ""]
    assert codes == "exit codes 0 2 0 0 0 0 0", done.stderr
    assert "training rows: 18, 18 different prompts" in done.stdout
    assert "warning    1 of 18 training rows (5.6%) were left out: tie (stars.jsonl, row 4)" in done.stdout
    assert "trainer.deterministic is a setting of Lightning's trainer for one run" in done.stderr

    runs = {file.parent: json.loads(file.read_text()) for file in tmp_path.glob("outputs/runs/dpo-*/run.json")}
    assert sorted(started.split()[1:]) == sorted(folder.name for folder in runs), "the launcher started both points"
    assert len(re.findall(r"^point \d \(beta 0\.\d; dpo-\w+\): done", done.stdout, re.M)) == 2, "a line as each ends"
    assert sorted(run["config"]["objective"]["beta"] for run in runs.values()) == [0.1, 0.3]
    assert [run["status"] for run in runs.values()] == ["done", "done"]
    assert all(run["config"]["trainer"]["deterministic"] is True for run in runs.values())
    for folder in runs:
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        logged = [name for row in rows for name in row if name.endswith("margins_std")]
        assert set(logged) == {"train/rewards/margins_std", "eval/rewards/margins_std"}
