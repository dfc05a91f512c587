"""Finds the sweep or the runs that a command line names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alignlab.errors import ConfigError, Problem
from alignlab.reports.collect import Collected, find_sweep, read_runs, read_sweep
from alignlab.runs.query import Filter, find, runs_of, select
from alignlab.spelling import correct_spelling

_WHERE = "this command; nothing was done"


def chosen_runs(root: Path, words: Sequence[str]) -> Collected:
    """The sweep that the only word names, or the runs that the words name or describe.

    words: a sweep (name, beginning of a name, folder), or runs (ids, beginnings of ids) and conditions on runs.
    Raises ConfigError for words that name nothing, and if no run fulfils the conditions.
    """
    if not words:
        some = sorted(file.parent.name for file in (root / "sweeps").glob("*/sweep.json"))
        text = f"name a sweep or runs; sweeps below {root}: {', '.join(some[:10]) or 'none'}"
        raise ConfigError([Problem("sweep", None, text, f"alignlab report {some[0]}" if some else "")], where=_WHERE)
    if len(words) == 1 and (folder := find_sweep(root, words[0])):
        return read_sweep(folder)
    records = runs_of(root)
    conditions, names = [], []
    problems: list[Problem] = []
    for word in words:
        try:
            if any(sign in word for sign in "=<>"):
                conditions.append(Filter.parse(word))
            else:
                names.append(find(records, word)["id"])
        except ConfigError as error:
            problems += error.problems if "=" in word else [_no_such(root, word, error)]
    if problems:
        raise ConfigError(problems, where=_WHERE)
    if conditions:
        names += [record["id"] for record in select(records, conditions, root)]
    if not names:
        raise ConfigError(
            [Problem("runs", " ".join(words), f"no run below {root} meets these conditions")], where=_WHERE
        )
    return read_runs(root, names)


def _no_such(root: Path, word: str, error: ConfigError) -> Problem:
    """The problem of a word that names no run, with a correction if it is close to the name of a sweep."""
    if not Path(word).name.strip():
        return error.problems[0]
    if find_sweep(root, word):
        return Problem(
            "sweep", word, "is a sweep: a report is about one sweep, or about runs", f"alignlab report {word}"
        )
    names = [file.parent.name for file in (root / "sweeps").glob("*/sweep.json")]
    guess = correct_spelling(word, names)
    if "fits several" in error.problems[0].allowed:
        return error.problems[0]
    return Problem(
        "sweep or run", word, f"there is none below {root}: see `alignlab runs`", guess and f"alignlab report {guess}"
    )
