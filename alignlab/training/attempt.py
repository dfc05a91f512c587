"""One attempt at a run: its beginning and its end in the run's record, and the log that its messages go to."""

from __future__ import annotations

import errno
import logging
import shutil
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from omegaconf import OmegaConf

from alignlab.config.own_plugins import plugins_of_plan, record_of
from alignlab.config.plan import Plan
from alignlab.errors import AlignlabError, DivergedError, NotVectorizableError, OutputError, PrunedError, UnsavedError
from alignlab.integrity import DAMAGE_EXTRA
from alignlab.runs.directory import RunDir, Status

log = logging.getLogger(__name__)

_CANT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_FULL = 2**20  # a disk with fewer free bytes than this counts as full


def log_already_finished(run: RunDir) -> None:
    """Log that a run is finished, and warn if it was made by another version of the code."""
    log.info("%s: %s already, in %s", run.id, run.record().get("status"), run.path)
    for change in run.code_changes():
        log.warning("%s: was made by another version of the code: %s", run.id, change)


def log_damage(message: str) -> None:
    """Log the damage that `updates_in` found; an empty message logs nothing.

    Call it while the logs and records of the damaged runs are open.
    """
    if message:
        log.warning("%s", message, extra=DAMAGE_EXTRA)


def start_attempt(
    plan: Plan, run: RunDir, group: str | None, overrides: Sequence[str], *, done: int, **facts: Any
) -> list[str]:
    """Start the record of an attempt. Returns how the code differs from that of the run's first attempt.

    The caller must hold the lock of the run.

    group: name of the sweep that the run belongs to.
    done:  updates in the training state that the run resumes from; 0 if it starts anew.
    facts: further entries of the record. A vectorized run has the number of points that are trained as one model
           (`stacked`) and the id of the first point of that group (`stack`).

    Raises OutputError if the run's directory can't be written. What an earlier attempt saved is still there then.
    Raises TakenError if another machine has begun the run since it was locked.
    """
    try:
        return _start(plan, run, group, overrides, done=done, **facts)
    except OSError as error:
        if reason := _why_not_written(error, run):
            raise OutputError(reason) from error
        raise


def _start(
    plan: Plan, run: RunDir, group: str | None, overrides: Sequence[str], *, done: int, **facts: Any
) -> list[str]:
    return run.start(
        OmegaConf.to_yaml(OmegaConf.create(dict(plan.config))),
        fresh=not done,
        again=plan.train.rerun or plan.train.trainer.anomaly,
        resumed_from=done,
        parent=plan.parent.id if plan.parent else None,
        reward=plan.reward.id if plan.reward else None,
        sweep=group,
        overrides=list(overrides),
        config=dict(plan.config),
        kinds=plan.kinds,
        content=dict(plan.content),
        plugins=record_of(plugins_of_plan(plan.train)),
        **{"stacked": None, "stack": None, **facts},
    )


def log_code_changes(run: RunDir, changes: Sequence[str]) -> None:
    """Warn about each change that `start_attempt` returned."""
    for change in changes:
        log.warning("%s: was begun by another version of the code: %s", run.id, change)


def record_failure(run: RunDir, error: BaseException, group: str | None) -> BaseException:
    """Record that a run was interrupted, diverged or failed.

    Returns the exception to raise: `error`, or an UnsavedError with its cause if the run's directory can't be written.
    """
    if isinstance(error, KeyboardInterrupt | SystemExit):
        _end(run, "interrupted", "stopped by a signal")
        return error
    if isinstance(error, PrunedError):
        log.info("%s: %s", run.id, error)
        _end(run, "interrupted", str(error))
        return error
    reason = _why_not_written(error, run) or reason_of(error)
    if not isinstance(error, AlignlabError):
        _note(run, "".join(traceback.format_exception(error)))
    status = ending_of(error)
    _end(run, status, reason)
    if group:  # the sweep continues, so nothing else reports the error now
        log.error("%s: %s: %s", run.id, status, reason)
    return error if reason == reason_of(error) else UnsavedError(reason)


def ending_of(error: BaseException | None) -> Status:
    """The status of a run that this error ends; done if there is none."""
    if error is None:
        return "done"
    if isinstance(error, KeyboardInterrupt | SystemExit | PrunedError | NotVectorizableError):
        return "interrupted"
    return "diverged" if isinstance(error, DivergedError) else "failed"


def _end(run: RunDir, status: Status, reason: str) -> None:
    """Record the final status. Half-written files are deleted first, because the record may need their disk space."""
    run.delete_half_written()
    try:
        run.end(status, reason)
    except OSError as error:
        log.error("%s: %s (%s), and its record can't be written: %s", run.id, status, reason, error)


def _note(run: RunDir, text: str) -> None:
    try:
        with run.log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:
        log.error("%s: its log can't be written: %s", run.id, error)


def reason_of(error: BaseException) -> str:
    """An error as the `reason` of a record: alignlab's own message, or `<type>: <message>` for other errors."""
    return str(error) if isinstance(error, AlignlabError) else f"{type(error).__name__}: {error}"


def _why_not_written(error: BaseException, run: RunDir) -> str:
    """The message for an error that a full or unwritable disk caused; empty for other errors.

    Libraries raise such errors in many types, so the free space of the disk is looked at too.
    """
    nearest = next(place for place in (run.path, *run.path.absolute().parents) if place.exists())
    full = shutil.disk_usage(nearest).free < _FULL
    unwritable = isinstance(error, OSError) and error.errno in _CANT_WRITE
    if not (full or unwritable):
        return ""
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return (
            f"{run.path} can't be written: a file would be larger than the limit of this shell\n"
            "  type: ulimit -f unlimited   and then the same command, which resumes"
        )
    what = "the disk is full" if full or getattr(error, "errno", None) == errno.ENOSPC else str(error)
    return (
        f"{run.path} can't be written: {what}\n  make room, and the same command resumes; or type: output_root=<folder>"
    )


class _LogFile(logging.FileHandler):
    """Writes the log of a run, without the messages that are only about other runs.

    Errors of writing are ignored here: the run itself fails with the same error and reports it once.
    """

    def __init__(self, run: RunDir, others: Sequence[str]) -> None:
        super().__init__(run.log, encoding="utf-8", errors="backslashreplace")
        self._id, self._others = run.id, others

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            text = record.getMessage()
        except Exception:  # a malformed message of a library: the handler that formats it reports it
            return True
        return _is_about(text, self._id, self._others)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


class _DamageRecord(logging.Handler):
    """Writes messages about damaged files into the record of the run during which they were found."""

    def __init__(self, run: RunDir, others: Sequence[str]) -> None:
        super().__init__()
        self._run, self._others = run, others

    def filter(self, record: logging.LogRecord) -> bool:
        return getattr(record, "damage", False) and _is_about(record.getMessage(), self._run.id, self._others)

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # if the record can't be written, the run itself fails with that error
            self._run.update(damaged=[*self._run.record().get("damaged", []), record.getMessage()])


def _is_about(text: str, run: str, others: Sequence[str]) -> bool:
    """Whether a message belongs into the log of a run. It does not if it names only other runs."""
    return run in text or not any(other in text for other in others)


@contextmanager
def logged_to(runs: Sequence[RunDir]) -> Iterator[None]:
    """Write messages to the logs of these runs as well. A message goes to each run that it is about."""
    ids = [run.id for run in runs]
    handlers: list[logging.Handler] = []
    for run in runs:
        others = [id for id in ids if id != run.id]
        handlers += [_LogFile(run, others), _DamageRecord(run, others)]
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def quiet_libraries() -> None:
    """Hide notices and progress bars of libraries, which would bury the run's own messages."""
    import lightning.pytorch  # noqa: F401 - its import sets the levels of its loggers
    from transformers.utils import logging as transformers_logging

    for name in ("lightning.pytorch", "lightning.fabric", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Others import DeepSpeed if it is installed. Its import sets the level of its logger, but keeps filters.
    logging.getLogger("DeepSpeed").addFilter(_is_error)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
