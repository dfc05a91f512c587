"""The README's commands, tables and examples are correct."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignlab.config.catalogue import BEGIN, END, markdown_table
from alignlab.config.paths import conf_dir, share_dir
from alignlab.config.registry import schemas
from tests.config.test_conf_files import PUBLISHED
from tests.lab_runs import LAB

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
SWEEPS, OBJECTIVES, MODELS, RLHF, EVALUATION, PYTHON, COURSE, CURSO = (
    (ROOT / f"docs/{name}.md").read_text()
    for name in ("sweeps", "objectives", "models", "rlhf", "evaluation", "python", "course", "curso")
)


def commands(*pages: str) -> list[str]:
    """Every different command line in the shell blocks of these pages, without its comment."""
    lines = "\n".join(block for page in pages for block in re.findall(r"```sh\n(.*?)```", page, re.S))
    return list(dict.fromkeys(line.split(" #")[0].strip() for line in lines.replace("\\\n", " ").splitlines()))


COMMANDS = [
    command
    for command in commands(README, SWEEPS, OBJECTIVES, MODELS, RLHF, COURSE, CURSO)
    if command.startswith(("alignlab train", "alignlab check"))
]
EVALUATIONS = [
    command
    for command in commands(README, EVALUATION)
    if command.startswith("alignlab evaluate") and "--drift" not in command
]

# Placeholder in the README -> a value that passes the check.
MINE = {
    "<hub name or folder>": "org/model",
    "model.name=<name>": "model.name=org/model",
    "<folder of HH-RLHF>": "Anthropic/hh-rlhf",
    "my_rules:polite": "math:dist",
    "my_pairs.jsonl": "org/dataset",
    "data.path=data/hh_rlhf": "data.path=Anthropic/hh-rlhf",
}


def test_there_are_commands() -> None:
    assert len(COMMANDS) == 26
    assert len(EVALUATIONS) == 8


@pytest.mark.parametrize("command", COMMANDS)
def test_command_passes_the_check(command: str, alignlab: Callable[..., Any]) -> None:
    for theirs, mine in MINE.items():
        command = command.replace(theirs, mine)
    words = shlex.split(command)[2:]
    if words == ["--help"]:
        return
    hub = ["model.origin=hub"] if any("smollm2" in word for word in words) else []
    result = alignlab("check", *words, *hub)
    assert result.code == 0, result.err


@pytest.mark.parametrize("command", EVALUATIONS)
def test_evaluation_composes(command: str, alignlab: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The only problems are the missing run and files of the reader."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    words = re.sub(r"<[^>]*>", "mine", command)
    result = alignlab("evaluate", *shlex.split(words)[2:])
    assert result.code == 2
    assert set(re.findall(r"^  (\S+) =", result.err, re.M)) <= {
        "run",
        "judge.gold.function",
        "judge.reward_model.model",
        "evaluation.pairs",
    }


def test_the_table_of_groups_names_every_option() -> None:
    for group in (
        "objective",
        "model",
        "peft",
        "data",
        "optim",
        "strategy",
        "engine",
        "tracking",
        "evaluation",
        "reward",
        "judge",
        "stage",
        "experiment",
        "sweep",
        "debug",
    ):
        folder = share_dir() / "sweeps" if group == "sweep" else conf_dir() / group
        (row,) = re.findall(rf"^\| `{group}` \| (.*) \|$", SWEEPS, re.M)
        for file in set(folder.glob("*.yaml")) - PUBLISHED:
            assert f"`{file.stem}`" in row, f"{group}={file.stem} is not in docs/sweeps.md"
    assert f"and {len(PUBLISHED)} other [published models](presets.md)" in SWEEPS


def test_the_table_of_objectives_is_the_generated_one() -> None:
    table = OBJECTIVES.partition(BEGIN)[2].partition(END)[0].strip()
    assert table == markdown_table(), "type: make readme"
    assert len(table.splitlines()) == len(list((conf_dir() / "objective").glob("*.yaml"))) + 2


def test_every_dialect_of_the_code_is_in_the_table() -> None:
    table = OBJECTIVES.partition("## Dialects")[2].partition("## Good and bad")[0]
    for name, cls in schemas()["objective"].items():
        for field in {field for chosen in cls.dialects.values() for field in chosen}:
            assert re.search(rf"`{name}`[^|]*: `{field}`", table), f"{name}.{field}"


@pytest.mark.slow  # 28 s: two processes import all libraries and train
def test_the_objective_of_ones_own_works(tmp_path: Path) -> None:
    """Both files of the example, in a copy of the package: they are trained, swept, mixed, and in the catalogue."""
    root = Path(__file__).resolve().parents[1]
    for folder in ("alignlab", "conf", "sweeps", "hydra_plugins"):
        shutil.copytree(root / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    section = OBJECTIVES.partition("## One of your own")[2]
    (source,) = re.findall(r"```python\n(.*?)```", section, re.S)
    (chosen,) = re.findall(r"```yaml\n(.*?)```", section, re.S)
    (tmp_path / "alignlab/objectives/rrhf.py").write_text(source)
    (tmp_path / "conf/objective/rrhf.yaml").write_text(chosen)
    code = (
        "import sys; sys.path.insert(0, '.'); import alignlab.cli.main as cli;"
        "common = ['train', 'experiment=lab_dpo', 'debug=fast', 'trainer.progress=false'];"
        "codes = [cli.main([*common, '-m', 'objective=rrhf', 'objective.nll_weight=0.1,0.5'])];"
        "parts = 'objective.parts=[{name:dpo,beta:0.1},{name:rrhf,nll_weight:0.5}]';"
        "codes += [cli.main([*common, 'objective=mix', parts]), cli.main(['objectives', 'rrhf'])];"
        "sys.exit(max(codes))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "loss of a row: max(0, lp_l/n_l - lp_w/n_w) - λ lp_w" in done.stdout
    assert done.stdout.count("| done | rrhf-") == 2, "in the table"
    ended = re.findall(r"^point \d \(nll_weight 0\.\d; rrhf-\w+\): done", done.stdout, re.M)
    assert len(ended) == 2, "a line as each point ends"
    bad = [sys.executable, "-c", code.replace("0.1,0.5'", "-1,0.5'")]
    refused = subprocess.run(bad, cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "objective.nll_weight = -1.0" in refused.stderr


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.M)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_links_and_pictures_lead_somewhere() -> None:
    """Files that README and docs link to exist, and so do the headings in them."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", page.read_text()):
            name, _, heading = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            assert file.exists(), f"{page.name}: {target}"
            if heading:
                assert heading in headings(file), f"{page.name}: {target}"


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in found}


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200


def test_python_of_the_pages_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lab_parents: Path) -> None:
    """Each page's blocks one after another, on the small lab of the tests in place of the usual one."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(lab_parents, tmp_path / "outputs/runs")
    for page in (README, PYTHON):
        names: dict[str, Any] = {"small": [*LAB, "trainer.max_steps=3"]}
        for block in re.findall(r"```python\n(.*?)```", page, re.S):
            exec(block.replace('"experiment=lab_dpo"', '"experiment=lab_dpo", *small'), names)
        assert list(names["table"]["done"]) == [3, 3]
        assert names["run"].status == "done"


@pytest.mark.parametrize("page", [COURSE, CURSO])
def test_python_of_the_course_runs(page: str) -> None:
    """The loss from scratch equals alignlab's; the blocks assert it."""
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(block, names)
    assert sum("assert" in block for block in re.findall(r"```python\n(.*?)```", page, re.S)) == 1
    assert commands(page) == commands(COURSE), "both languages show the same commands"
