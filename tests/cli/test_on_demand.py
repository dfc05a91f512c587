"""Commands that need no model answer without importing torch."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from alignlab.cli.on_demand import _Parts, import_on_demand

Run = Callable[..., Any]

TINY = ["model=bandit", "data=bandit", "tracking=none", "trainer.max_steps=2"]

# Exits with what was imported though nothing of it is needed; `torch` itself stands in sys.modules, its parts don't.
ASK = """
import sys
from alignlab.cli.main import main
code = main(sys.argv[1:])
heavy = {name.split(".")[0] for name in sys.modules if name.startswith(("torch.", "scipy.optimize", "scipy.special"))}
heavy |= {"lightning", "transformers", "datasets", "wandb", "pandas", "matplotlib"} & sys.modules.keys()
sys.exit(f"exit code {code}, imported {sorted(heavy)}")
"""


def test_a_finished_run_is_answered_without_torch(alignlab: Run, tmp_path: Path) -> None:
    assert alignlab("train", *TINY).code == 0
    again = subprocess.run([sys.executable, "-c", ASK, "train", *TINY], capture_output=True, text=True)
    assert "done already" in again.stderr
    assert again.stderr.splitlines()[-1] == "exit code 0, imported []"


def test_so_is_a_finished_sweep(alignlab: Run, tmp_path: Path) -> None:
    """Its table needs pandas, and nothing of what trains."""
    sweep = [*TINY, "-m", "objective.beta=0.1,0.3"]
    assert alignlab("train", *sweep).code == 0
    again = subprocess.run([sys.executable, "-c", ASK, "train", *sweep], capture_output=True, text=True)
    assert again.stderr.count("done already, in") == 2
    assert again.stderr.splitlines()[-1] == "exit code 0, imported ['pandas']"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["check", "experiment=lab_dpo"], 0), (["train", "objective.bta=1"], 2), (["objectives", "dpo"], 0)],
    ids=["check", "a mistake", "objectives"],
)
def test_so_are_questions_and_mistakes(arguments: list[str], code: int, tmp_path: Path) -> None:
    asked = subprocess.run([sys.executable, "-c", ASK, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert asked.stderr.splitlines()[-1] == f"exit code {code}, imported []"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module `shelf` that notes each time it is executed in the file beside it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "shelf.py"
    path.write_text("from pathlib import Path\nopen(Path(__file__).with_name('log'), 'a').write('x')\nbooks = 3\n")
    yield path
    sys.modules.pop("shelf", None)
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Parts)]


def test_a_module_is_executed_once_and_when_it_is_asked(module: Path) -> None:
    import_on_demand("shelf")
    import shelf  # type: ignore[import-not-found]
    import shelf as again

    assert isinstance(shelf, types.ModuleType)
    assert not isinstance(shelf, type)
    assert not module.with_name("log").exists()
    assert (shelf.books, again.books) == (3, 3)
    assert shelf is again is sys.modules["shelf"]
    assert type(shelf) is types.ModuleType
    assert module.with_name("log").read_text() == "x"
    import_on_demand("shelf")
    assert sys.modules["shelf"] is shelf, "it is imported already"


@pytest.mark.parametrize("first", ["import shelf.part", "from shelf.part import books", "from shelf import part"])
def test_its_parts_are_executed_once_too(first: str, module: Path) -> None:
    """importlib has looked for the part before it asks the package, whose execution imports the part."""
    package = module.with_name("shelf")
    package.mkdir()
    (package / "__init__.py").write_text("from shelf import part\nfrom shelf.part import books\n")
    (package / "part.py").write_text(module.read_text())
    module.unlink()
    import_on_demand("shelf")
    exec(first)
    import shelf

    assert (package / "log").read_text() == "x"
    assert shelf.part is sys.modules["shelf.part"]
    assert shelf.part.__spec__.origin == str(package / "part.py")
    del sys.modules["shelf.part"]


def test_one_that_fails_is_not_left_behind(module: Path) -> None:
    module.write_text("raise OSError('torn')")
    import_on_demand("shelf")
    import shelf

    with pytest.raises(OSError, match="torn"):
        _ = shelf.books
    assert "shelf" not in sys.modules


def test_one_that_is_missing_stays_missing() -> None:
    import_on_demand("no_such_module")
    with pytest.raises(ModuleNotFoundError):
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401
