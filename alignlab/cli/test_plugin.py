"""`alignlab test-plugin`: runs the contract tests of alignlab's own parts on the parts of a plug-in."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignlab.cli.refusal import print_error
from alignlab.contracts.base import promise
from alignlab.errors import AlignlabError
from alignlab.inert import MOST_OF_OUTPUT, visible
from alignlab.plugins import is_folder
from alignlab.spelling import counted

if TYPE_CHECKING:
    from alignlab.config.plugin_options import Option
    from alignlab.plugins import Plugin

_USAGE = """usage: alignlab test-plugin <package or folder> [key=value ...]

Composes every option, experiment and sweep of a plug-in, and runs on its parts the contract tests of alignlab's own.
key=value gives values that only you know, such as data.path=rows.jsonl.

  --list   show the contracts"""


def main(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code: 0 if all contracts hold, 1 if one is broken, 2 for a wrong command line."""
    if "--list" in argv:
        print("\n".join(_contracts()))
        return 0
    names, words = [word for word in argv if "=" not in word], [word for word in argv if "=" in word]
    if len(names) != 1 or names[0].startswith("-"):
        print(_USAGE, file=sys.stderr if names != ["--help"] else sys.stdout)
        return 0 if names == ["--help"] else 2
    from alignlab.config.own_plugins import load_plugins

    name = f"./{names[0]}" if not is_folder(names[0]) and Path(names[0]).is_dir() else names[0]
    log = logging.getLogger("alignlab")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        (plugin,) = load_plugins([name], installed=False, faulty_parts=True)
        return _test(plugin, words)
    except AlignlabError as error:
        return print_error(error, argv)
    finally:
        log.setLevel(level)


def _contracts() -> Iterator[str]:
    from alignlab.contracts.table import CONTRACTS

    for group, contracts in CONTRACTS.items():
        yield f"{group}:"
        yield from (f"    {promise(contract)}" for contract in contracts)


def _test(plugin: Plugin, words: Sequence[str]) -> int:
    from alignlab.config.plugin_options import options_of, without_yaml
    from alignlab.optim.base import schedules

    print(f"{plugin.name} {plugin.version}".rstrip() + f", {plugin.folder}", flush=True)
    broken = [f"  {sentence}" for sentence in without_yaml(plugin)]
    for option in options_of(plugin, words):
        broken += _report(option)
    for name, cls in schedules().items():
        if plugin.defines(cls):
            broken += _kept(f"optim.schedule={name}", "schedule", cls())
    if broken:
        print(visible("\n".join(["", "broken:", *broken]), MOST_OF_OUTPUT))
        return 1
    return 0


def _report(option: Option) -> list[str]:
    """Print how an option did. Returns what is wrong with it, in lines."""
    if option.problems:
        print(f"  {option.chosen}: can't be chosen")
        return [f"  {option.chosen}: can't be chosen", *(f"  {problem}" for problem in option.problems)]
    if option.lacking:
        needed = " ".join(f"{key}=..." for key in option.lacking)
        print(f"  {option.chosen}: can be chosen; its contracts were not tested, because it needs {needed}")
        return []
    if option.part is None:
        print(f"  {option.chosen}: can be chosen")
        return []
    return _kept(option.chosen, option.group, option.part)


def _kept(chosen: str, group: str, part: Any) -> list[str]:
    from alignlab.contracts.table import CONTRACTS

    contracts, told = CONTRACTS.get(group, ()), []
    for contract in contracts:
        try:
            found = list(contract(part))
        except Exception as error:  # of the code of the plug-in
            found = [f"{type(error).__name__}: {error}"]
        if found:
            told += [f"  {chosen}: {promise(contract)}", *(f"      {sentence}" for sentence in found)]
    number = len([line for line in told if not line.startswith("      ")])
    kept = (
        f"{counted(len(contracts), 'contract')} kept" if not told else f"{number} of {len(contracts)} contracts broken"
    )
    print(f"  {chosen}: {kept}", flush=True)
    return told
