"""`alignlab init`: makes a folder with a project that runs: config, sweep, data, plug-in and notebook."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from alignlab.config.paths import share_dir
from alignlab.integrity import is_device, new_folder

_USAGE = """usage: alignlab init <folder>

Makes a new folder with a project of your own: an experiment, a sweep, a data file, a plug-in, a notebook and a README.
All of it runs at once with a tiny model."""

_NEXT = """{folder}: made. Next:
  cd {folder}
  alignlab train experiment=first
  alignlab train sweep=first_beta
README.md has the other commands."""


def main(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    if len(argv) != 1 or argv[0].startswith("-"):
        asked = list(argv) in (["--help"], ["-h"])
        print(_USAGE, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    folder = Path(argv[0]).expanduser()
    if what := _what_is_there(folder):
        print(f"alignlab: {folder} is {what}\n  type: alignlab init <new folder>", file=sys.stderr)
        return 2
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(folder.resolve()) as scratch:
            shutil.copytree(share_dir() / "starter", scratch, ignore=shutil.ignore_patterns("__pycache__", "outputs"))
            (scratch / "gitignore").rename(scratch / ".gitignore")
    except OSError as error:
        print(f"alignlab: {folder} can't be written: {error}", file=sys.stderr)
        return 2
    print(_NEXT.format(folder=folder))
    return 0


def _what_is_there(folder: Path) -> str:
    """What is at the place of the new folder; empty if it can be made there."""
    if is_device(folder):
        return "a device or a pipe"
    if folder.is_file():
        return "a file"
    return "there already and is not empty" if folder.exists() and any(folder.iterdir()) else ""
