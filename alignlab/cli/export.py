"""`alignlab export`: the trained model of a run for other software: merged, as an adapter, as GGUF, or on the hub."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alignlab.checks import Checked
from alignlab.cli.refusal import print_error
from alignlab.cli.words import load_named_plugins, settings_of, split_words
from alignlab.errors import AlignlabError, ConfigError, Problem
from alignlab.inert import visible
from alignlab.spelling import correct_spelling, counted, size_in_words

if TYPE_CHECKING:
    from alignlab.pipeline.export import Request

_FORMS = ("merged", "adapter", "gguf", "hub")

_USAGE = """usage: alignlab export <run> --to merged|adapter|gguf [folder] [--dtype <type>] [--overwrite] [key=value]
       alignlab export <run or exported folder> --to hub --repo <user>/<name> [--public] [--dry-run] [key=value]

Writes the trained model of a finished run for other software, with a model card (README.md).

--to merged     a whole model in Hugging Face format, also of a reward model; adapters are merged into their base
--to adapter    the adapter alone, for peft. --base <hub name> names its base, if the base is a folder on this machine
--to gguf       one GGUF file, for llama.cpp; models with the architecture of Llama only
--to hub        uploads the files of an exported folder that the export wrote, with your changes of its texts. A run
                is first exported as a merged model
folder          default: <output_root>/exports/<run>-<form>. It is written completely or not at all
--dtype         float32, bfloat16 or float16; for GGUF also q8_0. Default: the type of the run's weights
--overwrite     replaces a folder that an earlier export wrote
--repo          name on the hub, which HF_ENDPOINT may change. --public makes a new repository public; default: private
--dry-run       says what would be uploaded, and uploads nothing. It needs no network
output_root=outputs       where the runs are
trust_remote_code=false   run code that comes with the model
plugins=...               packages and folders with parts of your own"""


@dataclass(kw_only=True)
class Options(Checked):
    """Options of the command line."""

    output_root: str = "outputs"
    trust_remote_code: bool = False


def main(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    if {"--help", "-h"} & set(argv):
        print(_USAGE)
        return 0
    parser = argparse.ArgumentParser("alignlab export", usage=_USAGE.removeprefix("usage: "), add_help=False)
    parser.add_argument("words", nargs="*")
    for flag in ("--to", "--repo", "--base", "--dtype"):
        parser.add_argument(flag, default="")
    for flag in ("--dry-run", "--public", "--overwrite"):
        parser.add_argument(flag, action="store_true")
    try:
        flags = parser.parse_intermixed_args(list(argv))
    except SystemExit:  # argparse has told why
        return 2
    names, given = split_words(flags.words)
    if len(names) not in (1, 2):
        print(_USAGE, file=sys.stderr)
        return 2
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        _check(flags)
        load_named_plugins(given)
        return _export(names[0], names[1] if len(names) == 2 else "", flags, settings_of(Options, given))
    except AlignlabError as error:
        return print_error(error, argv)
    except KeyboardInterrupt:
        print("\nstopped; nothing was written", file=sys.stderr)
        return 130


def _check(flags: argparse.Namespace) -> None:
    """Raise ConfigError with all flags that contradict each other."""
    problems = []
    if flags.to not in _FORMS:
        guess = correct_spelling(flags.to, _FORMS) or "merged"
        problems.append(Problem("--to", flags.to or None, f"must be one of: {', '.join(_FORMS)}", f"--to {guess}"))
    elif flags.to == "hub" and not flags.repo:
        problems.append(Problem("--repo", None, "needs the name of the repository", "--repo <user>/<name>"))
    elif flags.to != "hub":
        given = {"--repo": flags.repo, "--dry-run": flags.dry_run, "--public": flags.public}
        problems += [Problem(name, None, "is for --to hub only") for name, value in given.items() if value]
    if problems:
        raise ConfigError(problems)


def _export(name: str, folder: str, flags: argparse.Namespace, options: Options) -> int:
    from alignlab.pipeline.export import Request, destination, is_exported
    from alignlab.training.attempt import quiet_libraries

    if flags.to == "hub":
        destination(flags.repo)
    quiet_libraries()
    request = Request(
        run=name,
        form="merged" if flags.to == "hub" else flags.to,
        folder=Path(folder) if folder else None,
        title=flags.repo,
        base=flags.base,
        dtype=flags.dtype,
        upload=f"--to hub --repo {flags.repo}{' --dry-run' * flags.dry_run}" if flags.to == "hub" else "",
        overwrite=flags.overwrite,
        output_root=options.output_root,
        trust_remote_code=options.trust_remote_code,
    )
    written = Path(name) if flags.to == "hub" and is_exported(Path(name)) else _written(request)
    return _upload(written, flags) if flags.to == "hub" else 0


def _written(request: Request) -> Path:
    """Export, and print the files with their sizes. Returns the folder."""
    from alignlab.pipeline.export import export, sizes

    made = export(request)
    found = sizes(made.folder)
    for name, size in found.items():
        print(visible(f"{size_in_words(size):>10}  {made.folder / name}"))
    if made.left_out:
        print(visible(f"not exported, because adapters need no such files: {', '.join(made.left_out)}"))
    print(visible(f"written to {made.folder}"))
    return made.folder


def _upload(folder: Path, flags: argparse.Namespace) -> int:
    from alignlab.pipeline.export import check_exported, destination, exported_files, sizes, upload_exported

    names, others = exported_files(folder)
    check_exported(folder)
    found = {name: size for name, size in sizes(folder).items() if name in names}
    total = f"{counted(len(found), 'file')}, {size_in_words(sum(found.values()))}"
    if others:
        print(visible(f"not uploaded, because no export wrote them: {', '.join(others)}"))
    kind = "public" if flags.public else "private"
    if flags.dry_run:
        for name, size in found.items():
            print(visible(f"{size_in_words(size):>10}  {name}"))
        print(f"dry run: {total} would be uploaded to {destination(flags.repo)} ({kind}, if it is new)")
        return 0
    address = upload_exported(folder, flags.repo, public=flags.public)
    print(f"{total} uploaded: {address}")
    return 0
