"""Standard streams that are closed or full, or lack a character: no traceback, and no other file in their place."""

from __future__ import annotations

import errno
import io
import subprocess
import sys
from pathlib import Path

import pytest

from alignlab.cli.main import main
from alignlab.cli.streams import prepare_streams

MAIN = f"exec {sys.executable} -m alignlab"
# Prints the numbers of the file that is opened next, which a closed stream must not have.
OPENS = (
    "from alignlab.cli.main import main; import os; main(['trian']); "
    "os.write(int({fd}), str(os.open('x', 66)).encode())"
)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("--help >/dev/full", 1, "alignlab: standard output can't be written: No space left on device"),
        ("--help >&-", 0, ""),
        ("trian >&- 2>&- <&-", 2, ""),
    ],
)
def test_output_that_is_full_or_closed(words: str, code: int, told: str, tmp_path: Path) -> None:
    found = subprocess.run(f"{MAIN} {words}", shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert (found.returncode, found.stderr.strip()) == (code, told)


def test_no_file_takes_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    code = OPENS.format(fd=5)
    found = subprocess.run(
        f'exec {sys.executable} -c "{code}" 5>&1 >&- 2>&- <&-', shell=True, cwd=tmp_path, capture_output=True, text=True
    )
    assert int(found.stdout) > 2


def test_characters_that_a_terminal_can_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\xff\n"), encoding="utf-8"))
    prepare_streams()
    print("β \udcff", flush=True)
    assert raw.getvalue() == b"\\u03b2 \\udcff\n"
    assert sys.stdin.read() == "a\ufffd\n"


def test_ctrl_c_while_libraries_are_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("alignlab.cli.main.importlib.import_module", stop)
    assert main(["report", "x"]) == 130
    assert capsys.readouterr().err == "\nstopped\n"


def test_a_place_that_can_not_be_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "a" * 5000]) == 2
    assert capsys.readouterr().err.endswith("      there is none below outputs: see `alignlab runs`\n")

    def fail(name: str) -> None:
        raise OSError(errno.EIO, "Input/output error", "\x1b[31m")

    monkeypatch.setattr("alignlab.cli.main.importlib.import_module", fail)
    assert main(["runs"]) == 1
    assert capsys.readouterr().err == "alignlab: \\x1b[31m: Input/output error\n"
