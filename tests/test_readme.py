"""What the README says is so."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignlab.config.share import conf_dir, share_dir

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.S)).replace("\\\n", " ")
COMMANDS = [
    line.split(" #")[0].strip() for line in SHELL.splitlines() if line.startswith(("alignlab train", "alignlab check"))
]

# What stands for something of the reader's.
MINE = {
    "<hub name or folder>": "org/model",
    "my_pairs.jsonl": "org/dataset",
    "../shared/data/hh_rlhf": "Anthropic/hh-rlhf",
}


def test_there_are_commands() -> None:
    assert len(COMMANDS) == 7


@pytest.mark.parametrize("command", COMMANDS)
def test_command_passes_the_check(command: str, alignlab: Callable[..., Any]) -> None:
    for theirs, mine in MINE.items():
        command = command.replace(theirs, mine)
    words = shlex.split(command)[2:]
    if words == ["--help"]:
        return
    hub = ["model.origin=hub"] if "experiment=smollm2_hh" in words else []
    result = alignlab("check", *words, *hub)
    assert result.code == 0, result.err


def test_the_table_of_groups_names_every_option() -> None:
    for group in ("objective", "model", "peft", "data", "optim", "tracking", "experiment", "sweep", "debug"):
        folder = share_dir() / "sweeps" if group == "sweep" else conf_dir() / group
        (row,) = re.findall(rf"^\| `{group}` \| (.*) \|$", README, re.M)
        for file in folder.glob("*.yaml"):
            assert f"`{file.stem}`" in row, f"{group}={file.stem} is not in the README"


def test_make_targets_exist() -> None:
    makefile = (Path(__file__).resolve().parents[1] / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.M)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_pictures_exist() -> None:
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (Path(__file__).resolve().parents[1] / picture).is_file(), picture
