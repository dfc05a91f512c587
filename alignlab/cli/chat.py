"""`alignlab chat`: a conversation with a run's policy or a model in the terminal, alone or beside another one."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignlab.checks import Checked, at_least, one_of, positive
from alignlab.cli.refusal import print_error
from alignlab.cli.words import load_named_plugins, settings_of, split_words
from alignlab.errors import AlignlabError, ConfigError, DataError, Problem
from alignlab.inert import MOST_OF_OUTPUT, visible
from alignlab.rollout.settings import Sampling

if TYPE_CHECKING:
    from alignlab.evaluation.suite import ModelSide
    from alignlab.pipeline.conversation import Conversation

_USAGE = """usage: alignlab chat <run or model> [--against <reference, run or model>] [key=value ...]

Answers what you type. /new begins a new conversation. /quit or Ctrl-D ends it.

--against reference   also shows the answers of the policy before its training; or those of any other run or model
max_new_tokens=256, temperature=1.0, seed=1, accelerator=auto, output_root=outputs
trust_remote_code=false   run code that comes with a model
plugins=...               packages and folders with parts of your own"""


_COMMANDS = "/new begins a new conversation, /quit ends it"


@dataclass(kw_only=True)
class Options(Checked):
    """Options of the command line."""

    max_new_tokens: int = 256
    temperature: float = 1.0
    seed: int = 1
    accelerator: str = "auto"
    output_root: str = "outputs"
    trust_remote_code: bool = False

    def problems(self) -> Iterator[Problem]:
        yield from at_least("max_new_tokens", self.max_new_tokens, 1, example=256)
        yield from at_least("seed", self.seed, 0, example=1)
        yield from positive("temperature", self.temperature, example=0.01)
        yield from one_of("accelerator", self.accelerator, ("auto", "cpu", "gpu", "mps"))


class _Sampling(Sampling):
    group = ""  # the settings are options of this command


def main(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    if {"--help", "-h"} & set(argv):
        print(_USAGE)
        return 0
    parser = argparse.ArgumentParser("alignlab chat", usage=_USAGE.removeprefix("usage: "), add_help=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--against", default="")
    try:
        flags = parser.parse_intermixed_args(list(argv))
    except SystemExit:  # argparse has told why
        return 2
    names, given = split_words(flags.words)
    if len(names) != 1:
        print(_USAGE, file=sys.stderr)
        return 2
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        load_named_plugins(given)
        return _chat(names[0], flags.against, settings_of(Options, given))
    except AlignlabError as error:
        return print_error(error, argv)
    except KeyboardInterrupt:
        print()
        return 0


def _chat(name: str, against: str, options: Options) -> int:
    from alignlab.pipeline.conversation import Conversation
    from alignlab.training.attempt import quiet_libraries
    from alignlab.training.setup import device_of

    quiet_libraries()
    how = _Sampling(max_new_tokens=options.max_new_tokens, temperature=options.temperature)
    device = device_of(options.accelerator)
    talks = []
    for shown, side in _sides(name, against, options):
        side.model.to(device).eval()
        talks.append(Conversation(shown, side, how, options.seed))
    if sys.stdin.isatty():
        print(_COMMANDS)
    all_answered = True
    with suppress(EOFError):
        while (text := input("> " if sys.stdin.isatty() else "").strip()) != "/quit":
            if text == "/new":
                for talk in talks:
                    talk.forget()
            elif re.fullmatch("/[a-z]*", text):
                print(_COMMANDS, file=sys.stderr)
            elif text:
                all_answered &= _answer(talks, text)
    return 0 if all_answered else 1


def _answer(talks: Sequence[Conversation], text: str) -> bool:
    """Print the answers of all sides. Returns whether there are any; if not, the conversation is as before."""
    try:
        for talk in talks:
            answer = talk.say(text)
            print(visible(f"{talk.name}: {answer}" if len(talks) > 1 else answer, MOST_OF_OUTPUT), flush=True)
    except DataError as error:
        print(visible(f"alignlab: {error}\n  or type /new for a new conversation"), file=sys.stderr)
        return False
    return True


def _sides(name: str, against: str, options: Options) -> list[tuple[str, ModelSide]]:
    """(name to show, policy) of each side. Raises ConfigError if there is no such run or model."""
    from alignlab.pipeline.named_policy import named_policy, start_of

    allowed = options.trust_remote_code
    policy, plan = named_policy(name, options.output_root, trust_remote_code=allowed)
    if not against:
        return [(policy.name, policy.load())]
    if against != "reference":
        other, _ = named_policy(against, options.output_root, trust_remote_code=allowed)
        return [(policy.name, policy.load()), (other.name, other.load())]
    if plan is None:
        text = "is not a run, so there is no policy before its training; name a run or a model"
        raise ConfigError([Problem("--against reference", name, text, "--against <run or model>")])
    return [(policy.name, policy.load()), ("reference", start_of(plan))]
