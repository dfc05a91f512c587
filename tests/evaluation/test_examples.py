"""Stored examples are read exactly as they were written, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from alignlab.errors import DamagedError, DataError
from alignlab.evaluation.examples import FILE, Examples

EXAMPLES = Examples(
    {
        "prompt_id": ["a", "b"],
        "prompt": ["what", "why\n"],
        "conversation": [None, None],
        "sample": [0, 0],
        "policy/answer": ["x", "ü"],
        "policy/ended": [True, False],
        "policy/policy_logps": [[-0.1, -1e-9], []],
        "policy/score/gold": [float("nan"), 0.1 + 0.2],
        "reference/first/gold": [None, 0.5],
    },
    {"judge/gold": "abc", "sampling": "32 tokens, temperature 1.0, seed 1"},
)


def test_examples_are_read_as_they_were_written(tmp_path: Path) -> None:
    EXAMPLES.write(tmp_path)
    assert repr(Examples.read(tmp_path)) == repr(EXAMPLES)
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


def test_flipped_bits_are_seen_or_change_nothing(tmp_path: Path) -> None:
    """The damage is in values, names, facts and the metadata of the file."""
    EXAMPLES.write(tmp_path)
    file = tmp_path / FILE
    good, random, seen = file.read_bytes(), np.random.default_rng(0), 0
    for place in range(0, len(good), 7):
        bad = bytearray(good)
        bad[place] ^= 1 << int(random.integers(8))
        file.write_bytes(bytes(bad))
        try:
            found = Examples.read(tmp_path)
        except DataError:
            seen += 1
        else:
            assert repr(found.columns) == repr(EXAMPLES.columns), f"byte {place}"
            assert found.facts.items() >= EXAMPLES.facts.items()
    assert seen > 100


def test_what_is_missing_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no stored examples") as caught:
        Examples.read(tmp_path)
    assert not isinstance(caught.value, DamagedError)


def test_other_damage_and_older_versions(tmp_path: Path) -> None:
    EXAMPLES.write(tmp_path)
    file = tmp_path / FILE
    good = file.read_bytes()
    for content in (b"", good[: len(good) // 2], good[:50] + bytes(100) + good[150:]):
        file.write_bytes(content)
        with pytest.raises(DamagedError):
            Examples.read(tmp_path)
    file.unlink()
    file.mkdir()
    with pytest.raises(DamagedError, match="is a folder"):
        Examples.read(tmp_path)
    shutil.rmtree(file)
    parquet.write_table(pa.table(EXAMPLES.columns).replace_schema_metadata(EXAMPLES.facts), file)
    assert repr(Examples.read(tmp_path)) == repr(EXAMPLES)
