"""A run from plan to record: what it starts from first, then itself, once, under a lock."""

from __future__ import annotations

import gc
import logging
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from alignlab.config.plan import Plan
from alignlab.errors import AlignlabError
from alignlab.ledger.run_dir import RunDir

log = logging.getLogger(__name__)


def run_plan(plan: Plan, *, group: str | None = None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Run a plan and everything it starts from; return the record (run.json) of the run.

    A finished run is not run again (unless `rerun`), an interrupted one resumes from its last checkpoint, and a run
    that another process has in hand is waited for.
    """
    if plan.parent is not None:
        run_plan(plan.parent, group=group)
    run = RunDir.of(plan.train.output_root, plan.id)
    with run.lock():
        if run.status() == "done" and not plan.train.rerun:
            log.info("%s: done already, in %s", run.id, run.path)
        else:
            _run(plan, run, group, overrides)
    return run.record()


def _run(plan: Plan, run: RunDir, group: str | None, overrides: Sequence[str]) -> None:
    """Train, with the run's directory telling what goes on from beginning to end."""
    from alignlab.training.fit import fit  # seconds to import, and not needed for a run that is done
    from alignlab.training.progress import quiet_libraries

    quiet_libraries()
    resume = run.checkpoint.is_file() and not plan.train.rerun
    run.start(
        OmegaConf.to_yaml(OmegaConf.create(dict(plan.config))),
        fresh=not resume,
        parent=plan.parent.id if plan.parent else None,
        sweep=group,
        overrides=list(overrides),
    )
    with _logged_to(run.log):
        log.info("%s: %s", run.id, "resuming" if resume else "starting")
        try:
            outcome = fit(plan, run, group=group, resume=resume)
        except KeyboardInterrupt:
            run.end("interrupted", "stopped by a signal")
            raise
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
            run.end("failed", reason)
            if group:  # a sweep goes on, and tells the rest at its end
                log.error("%s: failed: %s", run.id, reason)
            if not isinstance(error, AlignlabError):
                with run.log.open("a") as file:
                    file.write(traceback.format_exc())
            raise
        run.end("done", **outcome)
        log.info("%s: done, in %s", run.id, run.path)
    gc.collect()  # a sweep in one process starts its next point with this one's memory free


@contextmanager
def _logged_to(file: Path) -> Iterator[None]:
    """Messages go to the run's own log as well."""
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
