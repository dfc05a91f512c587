"""Command lines of `check` end in words, with an exit code of the documentation, and leave nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.command_lines import CommandLine, command_line
from tests.fuzz.forked import Ended, run_forked
from tests.fuzz.outcomes import run_all

NUMBER = 510


def _run(line: CommandLine, folder: Path) -> tuple[str, Ended]:
    return line.kind, run_forked(line.words, folder, seconds=120)


def test_a_few_command_lines(tmp_path: Path) -> None:
    run_all("", map(command_line, (0, 91, 137)), lambda line: _run(line, tmp_path / "w"))


@pytest.mark.slow
@pytest.mark.fuzz
def test_command_lines(tmp_path: Path) -> None:
    run_all("command lines", map(command_line, range(NUMBER)), lambda line: _run(line, tmp_path / "w"))


def test_a_number_gives_the_same_command_line_every_time() -> None:
    lines = [command_line(number) for number in range(NUMBER)]
    assert lines == [command_line(number) for number in range(NUMBER)]
    assert len(set(lines)) > 0.9 * NUMBER
    assert command_line(4, seed=1) != command_line(4)
