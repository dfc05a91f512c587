"""The commands of docs/synthesis.md compose. Only files, runs and keys of the reader are missing."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DOC = Path(__file__).resolve().parents[2] / "docs" / "synthesis.md"
BLOCKS = "\n".join(re.findall(r"```sh\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)).replace("\\\n", " ")
COMMANDS = [line.split(" #")[0].strip() for line in BLOCKS.splitlines() if line.startswith("alignlab")]
MISSING = {"run", "data.path", "synthesis.questions", "judge.reward_model.model"}


def test_there_are_commands() -> None:
    assert len(COMMANDS) == 8


@pytest.mark.parametrize("command", COMMANDS)
def test_command_composes(command: str, alignlab: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    for theirs, mine in {"<hub name or folder>": "org/model", "<folder or hub name>": "nowhere/at/all"}.items():
        command = command.replace(theirs, mine)
    verb, *words = shlex.split(command)[1:]
    hub = ["model.origin=hub"] if "model=smollm2_135m" in words else []
    if verb == "train":
        found = alignlab("check", *words, *hub)
        assert found.code == 0, found.err
        return
    # A setting out of range stops the command before anything is sampled.
    found = alignlab("synthesize", *words, *hub, "synthesis.batch_size=0")
    assert found.code == 2
    assert set(re.findall(r"^  (\S+) =", found.err, re.M)) <= MISSING | {"synthesis.batch_size"}
