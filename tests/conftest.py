"""Shared fixtures: the command line in this process, real data, and Hydra."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# Set before a library that reads them is imported. No hub and no login to trackers. One thread per process, because the
# processes of pytest-xdist share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@dataclass
class Result:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def alignlab(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Run `alignlab ...` in this process, in an empty working directory."""
    import sys

    from alignlab.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["alignlab"])

    def run(*args: str) -> Result:
        capsys.readouterr()
        code = main(args)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def shared_data() -> Path:
    """Folder with real data sets. Tests that need it are skipped if it does not exist."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
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
