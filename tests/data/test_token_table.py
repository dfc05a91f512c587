"""Rows come back from a file as they were written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alignlab.data.rows import Message
from alignlab.data.token_table import TokenTable, write_rows
from alignlab.data.tokenize import CompletionTokens, LabelledTokens, PairTokens, PromptTokens, RankingTokens
from alignlab.errors import DamagedError

TURNS = [Message(role="system", content="ü\n"), Message(role="user", content='"')]
ROWS: list[list[Any]] = [
    [PairTokens(i, [i, 2**31 - 1], [5] * (i % 7), [i]) for i in range(9000)],
    [CompletionTokens(0, [1], [2, 3]), CompletionTokens(1, [4], [])],
    [LabelledTokens(0, [1], [2], True), LabelledTokens(1, [1], [3], False, [7, 8])],
    [RankingTokens(0, [1], [[2], [], [3, 4]], [0.1, -2.0, 3e9]), RankingTokens(1, [1], [[9]], [1.0], 0.5)],
    [PromptTokens(0, [1], [2], "as text"), PromptTokens(1, [3], [4], TURNS)],
    [],
]


@pytest.mark.parametrize("rows", ROWS, ids=["pairs", "completions", "labelled", "rankings", "prompts", "none"])
def test_rows_come_back(rows: list[Any], tmp_path: Path) -> None:
    kind = type(rows[0]) if rows else PairTokens
    write_rows(iter(rows), kind, tmp_path / "rows.arrow")
    table = TokenTable(tmp_path / "rows.arrow", kind)
    assert len(table) == len(rows)
    assert list(table) == rows
    if len(rows) > 5000:
        assert (table[-1], table[4095], table[4096]) == (rows[-1], rows[4095], rows[4096])
        assert table[4090:4100] == rows[4090:4100]
    with pytest.raises(IndexError):
        table[len(rows)]


def test_a_damaged_file_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "rows.arrow"
    write_rows(ROWS[1], CompletionTokens, file)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DamagedError, match="holds no token ids"):
        TokenTable(file, CompletionTokens)
    with pytest.raises(DamagedError):
        TokenTable(tmp_path / "absent.arrow", CompletionTokens)


def test_rows_are_read_without_pandas(tmp_path: Path) -> None:
    """Arrow imports pandas for some conversions, which takes half a second at every start."""
    file = tmp_path / "rows.arrow"
    write_rows(ROWS[3], RankingTokens, file)
    code = f"""
import sys
from pathlib import Path
from alignlab.data.token_table import TokenTable
from alignlab.data.tokenize import RankingTokens
assert TokenTable(Path({str(file)!r}), RankingTokens)[0].completions == [[2], [], [3, 4]]
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
