"""`alignlab <verb> ...`. A verb's module is imported when the verb is used, so that `--help` and `runs` are fast."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence

from alignlab.cli.streams import drop_output, output_is_lost, prepare_streams
from alignlab.inert import visible
from alignlab.progress import log_to_terminal
from alignlab.spelling import correct_spelling
from alignlab.strategies.place import given_place
from alignlab.training.follower import follow_cluster

VERBS = {
    "init": "make a folder with a project of your own that runs: config, sweep, data, plug-in, notebook",
    "train": "train one run, or a sweep (sweep=<preset>, or -m with comma-separated values)",
    "evaluate": "sample answers of finished runs: KL, win-rates, scores, with intervals; --drift compares two sets",
    "generate": "answer the prompts of a file with the policy of a run, or with any model",
    "chat": "talk to the policy of a run or to any model, alone or beside its reference (--against reference)",
    "export": "write a run's model with a model card for other software: merged, adapter or GGUF; upload it to a hub",
    "synthesize": "make preference data: samples of a policy, labelled by a judge or against the data's own answers",
    "objectives": "list the objectives: formula, source, needs, defaults",
    "runs": "list, filter, show, compare, remove, pack or watch runs, write a table of them; delete unused files (gc)",
    "report": "write one page (HTML, and Markdown) about a sweep or about runs: answer, intervals, figures, answers",
    "plot": "draw a figure of a sweep for a paper (PDF, SVG), or its table (LaTeX, CSV)",
    "papers": "list, measure and compare claims of papers, with verdicts",
    "import-trl": "translate the arguments of a TRL training (YAML, JSON, script) into a command of `train`",
    "test-plugin": "run the contract tests of alignlab's own parts on a plug-in of yours",
    "schema": "print a JSON schema of experiments and sweep files, with which an editor completes and checks keys",
    "verify-resume": "prove that a run of this config, killed and resumed, equals one that was not stopped, bit by bit",
    "plan": "estimate what a run needs before it starts: memory of a device, devices, time, and what to change",
    "check": "check a command line of `train` without running it: problems, points, ids, finished runs, the data",
}

EXIT_CODES = {
    0: "done",
    1: "failed, results can't be saved, judges answered nothing (`evaluate`), or the data has errors (`check`)",
    2: "the command line, the config, the data or the model can't be used; nothing was started",
    3: "points of a sweep failed, or answers drifted (`evaluate --drift`)",
    130: "stopped from the keyboard; the same command resumes",
}

# Errors that a place causes, wherever a command reads or writes it.
_MACHINE = {
    errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ELOOP, errno.EMFILE, errno.ENAMETOOLONG, errno.ENOSPC,
    errno.EPERM, errno.EROFS,
}  # fmt: skip


def usage() -> str:
    """Text of `alignlab --help`."""
    verbs = "\n".join(f"  {verb:<13} {text}" for verb, text in VERBS.items())
    return f"""alignlab: which preference objective, which beta, on which data, and how sure is that?

usage: alignlab <verb> [key=value ...] [Hydra flags]

{verbs}

examples:
  alignlab train experiment=lab_dpo sweep=dpo_beta
  alignlab train experiment=lab_dpo -m objective.beta=0.1,0.3 seed=1,2
  alignlab runs status=failed 'sweep=dpo_beta-*'
  alignlab report dpo_beta
  alignlab train --help            groups, their options and the config
  alignlab train --cfg job         the composed config
  alignlab train plugins=my_package,./my_parts --help        with parts of your own (docs/plugins.md)
  eval "$(alignlab -sc install=bash)"   tab completion

Results are written to output_root (default: outputs)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code, one of EXIT_CODES."""
    prepare_streams()
    _wait_passively()
    try:
        code = _chosen(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except KeyboardInterrupt:  # while libraries were imported; later on, verbs say what is left
        print("\nstopped", file=sys.stderr)
        return 130
    except OSError as error:
        return _of_the_machine(error)
    except MemoryError:
        print("alignlab: memory does not suffice", file=sys.stderr)
        return 1
    return code


def _of_the_machine(error: OSError) -> int:
    """Print an error that output, disk or file system caused. Returns the exit code. Raises any other error again."""
    if isinstance(error, BrokenPipeError):  # the reader of the output has closed it, for instance `head`
        drop_output()
        return 1
    if error.filename is None and output_is_lost():
        drop_output()
        print(f"alignlab: standard output can't be written: {error.strerror}", file=sys.stderr)
        return 1
    if error.errno not in _MACHINE:
        raise error
    limit = "; ulimit -f shows the limit" if error.strerror == os.strerror(errno.EFBIG) else ""
    print(visible(f"alignlab: {error.filename or 'a file'}: {error.strerror}{limit}"), file=sys.stderr)
    return 2 if error.errno == errno.ENAMETOOLONG else 1


def _chosen(args: list[str]) -> int:
    """Do what a command line asks for. Returns the exit code."""
    if args and args[0] in ("-sc", "--shell-completion"):
        return _complete(args)
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return 0
    if args[0] == "--version":
        from importlib.metadata import version

        print(f"alignlab {version('alignlab')}")
        return 0
    verb = args[0]
    if verb not in VERBS:
        guess = correct_spelling(verb, VERBS)
        hint = f"; did you mean: alignlab {guess}?" if guess else ""
        print(f"alignlab: no such verb: {verb}{hint}\n  verbs: {', '.join(VERBS)}", file=sys.stderr)
        return 2
    return _run(verb, args[1:])


def _wait_passively() -> None:
    """Let threads that wait for each other sleep instead of spinning, which stalls other work on the same cores.

    torch reads these variables when it is imported. What the user has set stays.
    """
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # of all OpenMPs, of GNU's, of Intel's
    if not any(name in os.environ for name in names):
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


def _run(verb: str, args: list[str]) -> int:
    if given_place().rank > 0:  # torchrun or SLURM has started several processes, of which the first one runs the verb
        return follow_cluster() if verb == "train" else 0
    log_to_terminal()
    return int(importlib.import_module(f"alignlab.cli.{verb.replace('-', '_')}").main(args))


def _complete(args: list[str]) -> int:
    """Tab completion: this function completes verbs, and Hydra completes their arguments."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split(" ")
    if len(args) > 1 and args[1].startswith("query") and (len(words) < 2 or words[1] not in VERBS or len(words) == 2):
        prefix = words[1] if len(words) > 1 else ""
        print(" ".join(verb for verb in VERBS if verb.startswith(prefix)))
        return 0
    verb = words[1] if len(words) > 2 and words[1] in VERBS else "train"
    os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
    return _run(verb, args)


if __name__ == "__main__":
    sys.exit(main())
