"""`alignlab verify-resume`: proves that a run of this config resumes to the last bit after it was killed."""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from alignlab.cli.hydra_app import run_app
from alignlab.errors import AlignlabError, ConfigError, OutputError, Problem
from alignlab.locks import file_lock
from alignlab.pipeline.garbage import LOCK

if TYPE_CHECKING:
    from alignlab.config.plan import Plan

_HELP = """usage: alignlab verify-resume [key=value ...] [--updates N] [--kill-after K]

Trains a run with these settings of `train` twice: once without a stop, and once killed (SIGKILL) after a random
update and resumed. Compares policy, training state (optimizer included) and metrics to the last bit, prints the verdict
and the first difference. The exit code is 0 if there is none, and 1 if there is one.

  --updates N      number of updates, instead of trainer.max_steps (default: 20, or fewer if the run is shorter)
  --kill-after K   kill it after this update (default: a random one)

The runs that it needs (parents, reward models) are trained in output_root first, as `train` would. Nothing is tracked,
and answers are sampled only by the training itself. Both runs are deleted, unless they differ."""

UPDATES = 20


class ResumeError(AlignlabError):
    """A resumed run differs from one that was not stopped."""


_flags = argparse.Namespace(updates=None, kill_after=None)
_words: list[str] = []


def main(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    global _flags, _words
    if {"-h", "--help"} & set(argv):
        print(_HELP)
        return 0
    parser = argparse.ArgumentParser("alignlab verify-resume", usage=_HELP.removeprefix("usage: "), add_help=False)
    parser.add_argument("--updates", type=int)
    parser.add_argument("--kill-after", type=int)
    try:
        _flags, _words = parser.parse_known_args(argv)
    except SystemExit as stop:  # argparse has printed what is wrong
        return int(stop.code or 0)
    many = [w for w in _words if w in ("-m", "--multirun") or w.lstrip("+").startswith(("sweep=", "run=", "rounds="))]
    if many:
        print(f"alignlab: verify-resume is about one run; leave out: {' '.join(many)}")
        return 2
    return run_app("train", _task, _words)


def _task(config: DictConfig) -> None:
    from hydra import compose
    from hydra.core.hydra_config import HydraConfig

    from alignlab.config.plan import plan

    typed = list(HydraConfig.get().overrides.task)
    own = plan(config, typed)
    shorter = words_of(own, typed, _flags.updates)
    root = [f"output_root={own.train.output_root}"]
    _verify(plan(compose("train", [*shorter, *root]), shorter), words_of(own, _words, _flags.updates))


def words_of(own: Plan, words: Sequence[str], updates: int | None) -> list[str]:
    """The overrides of the runs that are compared: those that were typed, with fewer updates and without trackers.

    Raises ConfigError if the number of updates does not fit the run.
    """
    trainer, warmup = own.train.trainer, own.train.optim.warmup_steps
    wanted = min(UPDATES, trainer.known_steps or UPDATES) if updates is None else updates
    if wanted < 3:
        text = "must be at least 3: one before the kill, one that is lost, and one after it"
        raise ConfigError([Problem("--updates", wanted, text, "--updates 20")])
    most = max(wanted, warmup + 1)
    settings = {
        "trainer.max_steps": most,
        "trainer.max_epochs": 0,
        "trainer.log_every": 1,
        "trainer.checkpoint_every": 2,
        "trainer.keep": "state",
        "trainer.progress": "false",
        "tracking": "none",
        "evaluation.at_end": "false",
        "rerun": "false",
        **({"trainer.eval_every": max(1, most // 4)} if trainer.eval_every > most // 2 else {}),
    }
    dropped = (*settings, "output_root")
    kept = [word for word in words if word.partition("=")[0].lstrip("+") not in dropped]
    return [*kept, *(f"{key}={value}" for key, value in settings.items())]


def _verify(own: Plan, words: Sequence[str]) -> None:
    """Compare, and print the verdict. Raises ResumeError if there is a difference."""
    from alignlab.pipeline.verify_resume import verify_resume

    steps, after = own.train.trainer.max_steps, _flags.kill_after
    if after is not None and not 1 <= after < steps:
        text = f"must be between 1 and {steps - 1}: the run has {steps} updates"
        raise ConfigError([Problem("--kill-after", after, text, f"--kill-after {random.randint(1, steps - 1)}")])
    root = Path(own.train.output_root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="verify-resume-", dir=root)).absolute()
    except OSError as error:
        raise OutputError(f"output_root can't be written: {error}\n  type: output_root=<another folder>") from error
    with file_lock(folder / LOCK):
        verdict = verify_resume(own, words, folder, kill_after=after, say=lambda text: print(text, flush=True))
    print(f"resumed after update {verdict.resumed_from}; compared: {verdict.compared}")
    if not verdict.difference:
        shutil.rmtree(folder)
        print(f"verdict: {own.id} resumes to the last bit")
        return
    why = "" if verdict.repeatable else "\n  two runs that were not stopped differ as well: it is not repeatable here"
    raise ResumeError(f"verdict: the resumed run differs\n  {verdict.difference}{why}\n  both are in {folder}")
