"""Checks of a file that a command is asked to write. They come before all work, and protect what is there already."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from alignlab.errors import ConfigError, Problem
from alignlab.integrity import is_device


def problems_of_target(key: str, file: str | Path) -> Iterator[Problem]:
    """Yield the problem of a file that can't be written, or that lies in the folder of a run."""
    below = next((folder for folder in Path(file).parents if os.path.lexists(folder)), Path())
    if os.path.isdir(file):
        yield Problem(key, str(file), "is a folder; name a file")
    elif is_device(file):
        yield Problem(key, str(file), "is a device or a pipe, not a file; name a file")
    elif not os.path.isdir(below):
        yield Problem(key, str(file), f"lies below {below}, which is no folder; name another file")
    elif run := run_around(file):
        text = f"lies in the folder of a run ({run}), which only alignlab changes; name another file"
        yield Problem(key, str(file), text)
    elif fault := _fault_of_name(file):
        yield Problem(key, str(file), f"can't be written: {fault}")


def check_target(key: str, file: str | Path) -> None:
    """Raise ConfigError if `problems_of_target` finds a problem."""
    if problems := list(problems_of_target(key, file)):
        raise ConfigError(problems, where="this command; nothing was done")


def run_around(path: str | Path) -> Path | None:
    """The folder of a run that a file or a folder of this name would lie in; None if there is none.

    A link is followed where it is a folder above the name. A link of the name itself is replaced, not followed.
    """
    above = Path(os.path.realpath(Path(path).parent))
    return next((folder for folder in (above, *above.parents) if os.path.isfile(folder / "run.json")), None)


def _fault_of_name(file: str | Path) -> str:
    """Why there can be no file of this name: it is too long, for instance. Empty if there can be."""
    try:
        os.lstat(file)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return error.strerror or str(error)
    return ""
