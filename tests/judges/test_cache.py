"""Stored judgements are read exactly as they were written; otherwise the judge is asked again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from alignlab.judges.cache import Store

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "A or B?"}], "seed": 1}
REPLY = {"text": "B is better: [[B]]", "tokens": 12}


def test_a_reply_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.get(REQUEST, bool) is None
    store.put(REQUEST, REPLY)
    assert store.get(REQUEST, bool) == REPLY
    assert store.get({**REQUEST, "seed": 2}, bool) is None


def test_every_flipped_bit_is_seen_or_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(REQUEST, REPLY)
    (file,) = tmp_path.rglob("*.json")
    good, random = file.read_bytes(), np.random.default_rng(0)
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 1 << int(random.integers(8))
        file.write_bytes(bytes(bad))
        found = store.get(REQUEST, bool)
        assert found in (None, REPLY), f"byte {place}"
        assert found is not None or not file.exists(), "it is set aside"


def test_damage_is_said_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path)
    store.put(REQUEST, REPLY)
    (file,) = tmp_path.rglob("*.json")
    file.write_text(file.read_text().replace("[[B]]", "[[A]]"))
    assert store.get(REQUEST, bool) is None
    assert "its checksum is wrong), and the judge is asked again; it is kept as" in caplog.text
    store.put(REQUEST, REPLY)
    assert store.get(REQUEST, bool) == REPLY
    other = {**REQUEST, "seed": 2}
    store.put(other, {"text": "[[A]]"})
    (another,) = (found for found in tmp_path.rglob("*.json") if found != file)
    file.write_bytes(another.read_bytes())
    assert store.get(REQUEST, bool) is None
    assert "is the reply to another request" in caplog.text


def test_replies_of_older_versions_are_read(tmp_path: Path) -> None:
    """Older judgements have no checksum. They are still read, because repeating them may cost money."""
    store = Store(tmp_path)
    store.put(REQUEST, {})
    (file,) = tmp_path.rglob("*.json")
    file.write_text(json.dumps({"request": REQUEST, "reply": REPLY}))
    assert store.get(REQUEST, bool) == REPLY


def test_a_reply_of_another_form_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path)
    store.put(REQUEST, REPLY)
    assert store.get(REQUEST, lambda reply: "score" in reply) is None
    assert "is damaged (its reply has another form), and the judge is asked again" in caplog.text
