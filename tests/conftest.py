"""Shared fixtures: the command line in this process, real data, and Hydra."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab_runs import LAB, REWARD

# Set before a library that reads them is imported. No hub and no login to trackers. One thread per process, because the
# processes of pytest-xdist share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1")

gc.disable()

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_finish() -> None:
    """Garbage is collected from here on, but seldom."""
    from tests.composing import merge_files_once

    merge_files_once()
    _freeze_imports()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


def pytest_runtest_logfinish() -> None:
    """Imports are frozen again after a test that imported more."""
    _freeze_imports()


_frozen_modules = 0


def _freeze_imports() -> None:
    """From here on, collections do not visit what imports have made: a million objects, at the end of each run."""
    global _frozen_modules
    if len(sys.modules) > _frozen_modules + 100:
        gc.collect()
        gc.freeze()
        _frozen_modules = len(sys.modules)


@dataclass
class Result:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def drawn_figures() -> None:
    """The figures of `alignlab` are drawn. Without this fixture their files are empty, which saves a second a sweep."""


@pytest.fixture
def alignlab(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[Callable[..., Result]]:
    """Run `alignlab ...` in this process, in a working directory of the test's own.

    Modules that a test wrote there are forgotten afterwards, since another test may write one of the same name.
    """
    from matplotlib.figure import Figure

    from alignlab.cli.main import main

    if "drawn_figures" not in request.fixturenames:
        monkeypatch.setattr(Figure, "savefig", lambda figure, file, **how: Path(file).touch())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["alignlab"])

    def run(*args: str) -> Result:
        capsys.readouterr()
        code = main(args)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    yield run
    folder = f"{tmp_path}{os.sep}"
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(folder):
            del sys.modules[name]


@pytest.fixture(scope="session")
def lab_parents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs that LAB and REWARD start from, trained once for all tests of a process."""
    from alignlab.cli.main import main

    folder = tmp_path_factory.mktemp("parents")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["alignlab"])
        assert main(["train", *LAB, *REWARD, "objective=ppo", "trainer.max_steps=1"]) == 0
    return folder / "outputs/runs"


@pytest.fixture
def sft_parent(lab_parents: Path, tmp_path: Path) -> None:
    """The SFT run that LAB starts from is done, in `outputs` and in `whole`."""
    (run,) = lab_parents.glob("sft-*[0-9a-f]")
    for root in ("outputs", "whole"):
        shutil.copytree(run, tmp_path / root / "runs" / run.name)


@pytest.fixture
def reward_model(sft_parent: None, lab_parents: Path, tmp_path: Path) -> None:
    """And so is the reward model of REWARD, in `outputs`."""
    (run,) = lab_parents.glob("reward_model-*[0-9a-f]")
    shutil.copytree(run, tmp_path / "outputs/runs" / run.name)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture
def shared_data() -> Path:
    """Folder with real data sets. Tests that need it are skipped if it does not exist."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    return folder


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """Folder with small inputs of the shapes that public bug reports describe. Skips tests if it does not exist."""
    folder = SHARED / "cases"
    if not folder.is_dir():
        pytest.skip("no ../shared/cases beside the checkout")
    return folder


@pytest.fixture
def hydra_conf() -> Iterator[None]:
    """Initialise Hydra with conf/, to compose configs without a run."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    from alignlab.config.paths import conf_dir

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield
