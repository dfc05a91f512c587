"""Transcripts of HH-RLHF's form: turns that start with "Human:" or "Assistant:" after an empty line."""

from __future__ import annotations

import re

from alignlab.data.conversations import UnusableRowError
from alignlab.data.rows import Message

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLE = {"Human": "user", "Assistant": "assistant"}


def transcript_turns(transcript: str) -> list[Message]:
    """All turns of a transcript. Raises UnusableRowError if there is text before the first turn."""
    start, *pieces = _TURN.split(transcript)  # text before the first turn, then a role and a text for each turn
    if start.strip():
        raise UnusableRowError("text before the first turn")
    return [
        Message(role=_ROLE[role], content=text.strip()) for role, text in zip(pieces[::2], pieces[1::2], strict=True)
    ]
