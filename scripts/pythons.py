"""Installs the wheel under every Python that is found, and trains a run with it. See `make test-pythons`.

The registry's torch for Linux comes with CUDA, so each Python takes several GB and some minutes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
# transformers, numpy and 40 other packages of constraints.txt need 3.11. Older Pythons get what pyproject.toml allows.
CONSTRAINED = VERSIONS[1:]
RUN = ["train", "experiment=lab_dpo", "debug=fast", "trainer.progress=false"]


def interpreters() -> dict[str, Path | None]:
    """Version -> interpreter on the PATH or of pyenv; None if there is none that runs."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found: dict[str, Path | None] = {}
    for version in VERSIONS:
        on_path = shutil.which(f"python{version}")
        candidates = [Path(on_path)] if on_path else []
        candidates += sorted(pyenv.glob(f"{version}.*/bin/python{version}"), reverse=True)
        found[version] = next((python for python in candidates if _version_of(python) == version), None)
    return found


def steps(version: str, python: Path, wheel: Path, environment: Path) -> list[list[str | Path]]:
    """The commands that install the wheel for a Python in an environment of its own, and use it."""
    constraint: list[str | Path] = ["--constraint", ROOT / "constraints.txt"] if version in CONSTRAINED else []
    return [
        [python, "-m", "venv", environment],
        [environment / "bin/pip", "install", "--quiet", *constraint, wheel],
        [environment / "bin/alignlab", "--version"],
        [environment / "bin/alignlab", *RUN],
    ]


def outcome(version: str, python: Path, wheel: Path, folder: Path) -> str:
    """`passed`, or the last line of what failed, of one Python. Everything is written below the folder."""
    for step in steps(version, python, wheel, folder / "venv"):
        done = subprocess.run([str(word) for word in step], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            return f"failed: {' '.join(map(str, step[1:3]))}: {''.join(last)}"
    return "passed"


def main(versions: list[str]) -> int:
    """Print one line for each version. Returns 1 if one failed or none was found."""
    asked = {version: python for version, python in interpreters().items() if not versions or version in versions}
    outcomes = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", name, str(ROOT)]
        subprocess.run(build, check=True, capture_output=True)
        (wheel,) = folder.glob("*.whl")
        for version, python in asked.items():
            if python is None:
                print(f"Python {version}: not installed", flush=True)
                continue
            (folder / version).mkdir()
            outcomes.append(outcome(version, python, wheel, folder / version))
            print(f"Python {version}: {outcomes[-1]}", flush=True)
            shutil.rmtree(folder / version)
    return int(not outcomes or any(found != "passed" for found in outcomes))


def _version_of(python: Path) -> str:
    """major.minor of an interpreter; empty if it does not run."""
    try:
        done = subprocess.run([str(python), "--version"], capture_output=True, text=True)
    except OSError:
        return ""
    found = re.match(r"Python (\d+\.\d+)\.", done.stdout)
    return found[1] if found and done.returncode == 0 else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
