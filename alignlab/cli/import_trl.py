"""`alignlab import-trl`: the arguments of a TRL training as a command line of `alignlab train`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from alignlab.cli.refusal import print_error
from alignlab.config.import_trl import import_trl, notes_text
from alignlab.errors import AlignlabError, ConfigError, Problem
from alignlab.inert import MOST_OF_OUTPUT, visible

_HELP = """usage: alignlab import-trl <file> [trainer=<name>]

file:    YAML or JSON with TRL's arguments (as for `trl dpo --config`), or a Python script. A script is parsed, never
         run: the arguments of DPOConfig(...), LoraConfig(...), load_dataset(...) and the like are read.
trainer: dpo, kto, sft, reward, orpo, cpo, rloo or grpo; needed for YAML, JSON, and a script with several trainers

Prints a command line of `alignlab train` for the same training. Then it lists what has no counterpart, what is
different, and what a script computes when it runs. Settings that the file does not name get TRL's defaults."""


def main(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    args = list(argv)
    if not args or {"-h", "--help"} & set(args):
        print(_HELP)
        return 0 if args else 2
    try:
        return _print(args)
    except AlignlabError as error:
        return print_error(error, argv)


def _print(args: Sequence[str]) -> int:
    settings = {key: value for key, sign, value in (word.partition("=") for word in args) if sign}
    files = [word for word in args if "=" not in word]
    problems = [Problem(key, None, "is not known; only trainer=<name> is") for key in settings if key != "trainer"]
    if len(files) != 1:
        problems.append(Problem("file", " ".join(files) or None, "name one file", "alignlab import-trl config.yaml"))
    if problems:
        raise ConfigError(problems, where="this command; nothing was written")
    found = import_trl(Path(files[0]), settings.get("trainer", ""))
    print(visible("alignlab train " + " \\\n    ".join(map(_quoted, found.words)), MOST_OF_OUTPUT))
    if found.notes:
        print(visible("\nnot carried over, or different:\n" + "\n".join(notes_text(found.notes)), MOST_OF_OUTPUT))
    fill_in = "Replace what is between < and >. " if any(map(_is_to_be_filled_in, found.words)) else ""
    print(f"\n{fill_in}`alignlab check` with the same words shows what would run.")
    return 0


def _is_to_be_filled_in(word: str) -> bool:
    return re.search("<[^<>]+>", word) is not None


def _quoted(word: str) -> str:
    """A word for the shell."""
    plain_in_double_quotes = "'" in word and not set(word) & set('"$`\\!')
    return f'"{word}"' if plain_in_double_quotes else shlex.quote(word)
