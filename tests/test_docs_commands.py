"""The commands of README and docs compose, or have flags that exist. Slow tests run them as they are written."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from alignlab.cli.evaluate import with_named_model
from alignlab.cli.hydra_app import _plain_group
from alignlab.cli.main import VERBS, main
from alignlab.config.axes import grid
from alignlab.config.commas import with_commas_kept
from alignlab.config.composer import Composer
from alignlab.config.open_dicts import with_own_keys
from alignlab.config.paths import conf_dir
from alignlab.config.preflight import to_evaluate, to_synthesize, to_train
from alignlab.errors import ConfigError, Problem

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BIN = Path(sys.executable).parent
CHECKS = {"train": to_train, "check": to_train, "evaluate": to_evaluate, "synthesize": to_synthesize}

# What is said of files, folders, functions, keys and runs of the reader.
MISSING = re.compile(
    r"[Nn]o such f|is neither a folder|can't be imported|is not set|there is no such run|no file|needs the package"
)

# What is said of a launcher's packages, and of SLURM.
NO_CLUSTER = re.compile(r"needs the package|there is no SLURM here")

# Flags and words of verbs with a config that are no overrides.
FLAGS = {"-m", "--help", "--cfg", "job", "--show", "--json", "--rows", "--drift", "--config-dir"}


def commands(page: Path) -> list[str]:
    """Every command line in the shell blocks of a page, without its comment."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].strip() for line in lines if line.strip()]


# What starts a command in several processes.
STARTED_BY = re.compile(r"(torchrun .*? -m |srun .*?)(?=alignlab )")
SHOWN = (STARTED_BY.sub("", command) for page in PAGES for command in commands(page))
ALL = list(dict.fromkeys(command for command in SHOWN if command.startswith("alignlab ")))
# Commands with the plug-in or the experiment of `alignlab init`, or that go on with a run of the reader. Their tests
# are tests/cli/test_init.py, tests/test_plugins.py and tests/pipeline/test_continued.py.
OF_THE_READER = re.compile(r"plugins=|experiment=first|sweep=first_beta|alignlab train run=")
COMPOSED = [c for c in ALL if c.split()[1] in CHECKS and not OF_THE_READER.search(c)]
OTHERS = [c for c in ALL if c.split()[1] not in CHECKS]


def test_there_are_commands() -> None:
    assert len(COMPOSED) > 60
    assert len(OTHERS) > 25
    assert {c.split()[1] for c in ALL} <= VERBS.keys()


@pytest.fixture(scope="module")
def composers() -> Iterator[dict[str, Composer]]:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        yield {verb: Composer(loader, verb) for verb in CHECKS}


@pytest.mark.parametrize("command", COMPOSED)
def test_command_composes(command: str, composers: dict[str, Composer]) -> None:
    """Its keys and values exist, for the first and the last point of a sweep. Files and runs are not looked for."""
    verb, *words = shlex.split(re.sub(r"<([^>]*)>", lambda found: found[1].replace(" ", "_"), command))[1:]
    words = with_named_model(words) if verb == "evaluate" else words
    composer = composers[verb]
    typed, skip = [], False
    for word in words:
        if word == "--config-dir" or skip:
            skip = not skip
        elif word not in FLAGS and not word.isdigit() and "=" in word:
            typed.append(with_own_keys(_plain_group(with_commas_kept(word))))
        else:
            assert word in FLAGS or word.isdigit() or "--drift" in words, f"no such flag: {word}"
    parsed = [composer.parse(text) for text in typed if not _is_of_hydra(text)]
    whole = composer.load([str(o.input_line) for o in parsed if not o.is_sweep_override()])
    axes = [composer.parse(f"{k}={v}") for k, v in (whole.hydra.sweeper.get("params") or {}).items()]
    jobs = grid([*axes, *parsed], OmegaConf.select(whole, "sweep.zip", default=[]), []).jobs
    for job in {tuple(jobs[0]), tuple(jobs[-1])}:
        config, problems = composer.compose(job)
        if "--drift" in words:
            config.run = "mine"
        assert [str(p) for p in (*problems, *wrong(verb, config)) if not MISSING.search(p.allowed)] == []


def wrong(verb: str, config: DictConfig) -> list[Problem]:
    try:
        CHECKS[verb](config)
    except ConfigError as error:
        return error.problems
    return []


def _is_of_hydra(text: str) -> bool:
    """Whether an override is of a sweeper or a launcher, or an interval, which only a search has."""
    return text.startswith("hydra") or "interval(" in text


def launcher_words(command: str) -> tuple[str, ...]:
    """The words of a command that choose a launcher and set its options."""
    return tuple(word for word in shlex.split(command) if word.startswith("launcher"))


LAUNCHED = sorted({launcher_words(command) for command in COMPOSED} - {()})


@pytest.mark.parametrize("words", LAUNCHED, ids=" ".join)
def test_options_of_launchers_exist(words: tuple[str, ...], composers: dict[str, Composer]) -> None:
    """The launcher has these options and accepts their values. Packages and a cluster are not looked for."""
    composed = composers["train"].load([_plain_group(with_commas_kept(word)) for word in words])
    options = {str(name): value for name, value in composed.hydra.launcher.items()}
    found: list[Problem] = []
    try:
        get_class(options.pop("_target_"))(**options)
    except ConfigError as error:
        found = error.problems
    assert [str(problem) for problem in found if not NO_CLUSTER.search(problem.allowed)] == []


def test_all_launchers_are_shown() -> None:
    assert {words[0].partition("=")[2] for words in LAUNCHED} >= {"serial", "vectorized", "local", "ray", "slurm"}


@pytest.mark.parametrize("command", OTHERS)
def test_flags_and_keys_exist(command: str) -> None:
    """Flags, subcommands and keys of verbs without a config are those that their help names."""
    verb, *words = shlex.split(re.sub(r"<[^>]*>", "mine", command))[1:]
    text = help_of(verb)
    for word in words:
        key = word.partition("=")[0]
        if word.startswith("-"):
            assert re.search(rf"(?<![\w-]){re.escape(key)}\b", text), f"no such flag: {word}"
        elif verb in ("plot", "runs") and word == words[0] and "=" not in word and word != "mine":
            assert re.search(rf"^(usage:)? +alignlab {verb} (\[?){word}\b", text, re.M), f"no such command: {word}"


@cache
def help_of(verb: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main([verb, "--help"])
    return printed.getvalue()


def run(command: str, folder: Path, answer: str = "") -> str:
    """What a command prints that is run in a folder, as it is written. It must succeed.

    answer: what is typed if it asks.
    """
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=env, input=answer, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_page_start_runs_as_it_is_written(tmp_path: Path) -> None:
    typed = [c for c in commands(ROOT / "docs/start.md") if c.startswith("alignlab ")]
    said = [run(command, tmp_path) for command in typed]
    assert len(said) == 5
    assert "exact KL" in said[0]
    assert len(list(tmp_path.glob("outputs/sweeps/dpo_beta-*/report.html"))) == 2
    assert list(tmp_path.rglob("frontier*.pdf"))


@pytest.mark.parametrize("page", ["course", "curso"])
def test_notebooks_have_the_blocks_of_their_page(page: str) -> None:
    pytest.importorskip("jupytext")
    from scripts.notebooks import notebook

    cells = [cell.source for cell in notebook(page).cells if cell.cell_type == "code"]
    shell = [cell.removeprefix("%%sh\n") for cell in cells if cell.startswith("%%sh\n")]
    typed = re.findall(r"```sh\n(.*?)\n```", (ROOT / f"docs/{page}.md").read_text(encoding="utf-8"), re.S)
    assert shell == typed
    assert [cell.split("\n")[0] for cell in cells if not cell.startswith("%%")] == [
        "import torch",
        "from alignlab.objectives.dpo import dpo_loss",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["course", "curso"])
def test_the_notebooks_of_the_course_run(page: str, tmp_path: Path) -> None:
    """All cells but the homework, which trains SmolLM2. HH-RLHF comes from the folder in the variable HH_RLHF."""
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("jupytext")
    from scripts.notebooks import notebook

    rows = Path(os.environ.get("HH_RLHF", ROOT.parent / "shared/data/hh_rlhf"))
    if not rows.is_dir():
        pytest.skip(f"no folder {rows}: set HH_RLHF to a folder of HH-RLHF")
    made = notebook(page)
    made.cells = [cell for cell in made.cells if "support_desk_dpo_smollm2" not in cell.source]
    for cell in made.cells:
        cell.source = cell.source.replace("data=hh_rlhf", f"data=hh_rlhf data.path={rows}")
    cells = [cell.source.splitlines()[0] for cell in made.cells if cell.cell_type == "code"]
    assert cells.count("%%sh") == 6
    assert cells.count("import torch") == 1
    os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    nbclient.NotebookClient(made, timeout=3600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert list(tmp_path.glob("outputs/sweeps/*/report.html"))
