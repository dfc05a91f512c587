"""Callbacks of training: write metrics, evaluate held-out rows, show progress, prune, and save training state."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar

from alignlab.data.datamodule import AlignmentData
from alignlab.errors import PrunedError
from alignlab.modules.base import AlignmentModule
from alignlab.modules.distributed import decided
from alignlab.progress import Progress
from alignlab.runs.directory import RunDir
from alignlab.tracking.metrics import check_known
from alignlab.tracking.sinks.base import Sink
from alignlab.training.pruning import PruningThresholds
from alignlab.training.state import about, delete_unused_parts, replace_state

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # SIGHUP: the terminal is gone
_SCHEDULERS = (signal.SIGUSR1, signal.SIGUSR2)  # time limit or preemption; caught only if something handles them


class MetricsCallback(pl.Callback):
    """Sends each step's and each evaluation's metrics to all sinks, from the first process only."""

    def __init__(
        self, sinks: Sequence[Sink], every: int, progress: Progress, exact: Callable[[Any], dict[str, float]] | None
    ) -> None:
        """exact: computes the exact metrics of a policy; None outside the lab."""
        self._sinks = sinks
        self._every = every
        self._progress = progress
        self._exact = exact
        # Metrics of the last evaluation. A resumed run reads them from its metrics file and does not evaluate again.
        self.eval_metrics: dict[str, float] = {}
        self._spent, self._began = 0.0, time.perf_counter()

    @property
    def state_key(self) -> str:
        """Key of this callback in training states. It was the name of the class in 0.1, whose states can be resumed."""
        return "Recorder"

    @property
    def seconds(self) -> float:
        """Wall time in seconds. Earlier attempts count up to the training state that this one resumed from."""
        return self._spent + time.perf_counter() - self._began

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._began = time.perf_counter()
        self.eval_metrics = decided(trainer, self.eval_metrics)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._spent = state_dict["seconds"]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        if pl_module.last_metrics and trainer.is_global_zero:
            self.write(pl_module.last_metrics)
        if pl_module.samples and trainer.is_global_zero:
            rows = [{"step": trainer.global_step, **row} for row in pl_module.samples]
            for sink in self._sinks:
                sink.table("completions", rows)
        if self.due(trainer.global_step):
            self.validate(trainer, pl_module, trainer.datamodule)  # type: ignore[attr-defined]

    def validate(self, trainer: pl.Trainer, module: AlignmentModule, data: AlignmentData) -> None:
        """Evaluate the current policy on all held-out rows, once per step."""
        if self.eval_metrics.get("train/global_step") != trainer.global_step:
            found = module.validate(data.held_out_rows(), self._progress)
            if self._exact:
                with module.gathered():
                    found |= self._exact(module.policy)
            self.eval_metrics = decided(trainer, found)
            if trainer.is_global_zero:
                self.write(self.eval_metrics)

    def due(self, step: int) -> bool:
        """Whether held-out rows are evaluated after `step` updates."""
        return bool(self._every) and step % self._every == 0

    def write(self, row: dict[str, float]) -> None:
        """Send one row of metrics to all sinks. Raises KeyError for a metric that has no definition."""
        check_known(row)
        for sink in self._sinks:
            sink.log(row)


class UpdatesBar(TQDMProgressBar):
    """Lightning's progress bar over all updates of a run.

    Lightning's own bar counts the batches of one epoch, and it starts at 0 after a resume.
    """

    def __init__(self, updates: int) -> None:
        super().__init__()
        self._updates = updates

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        super().on_train_start()
        bar = self.train_progress_bar
        bar.total, bar.initial, bar.n = self._updates, self._at(trainer, pl_module), self._at(trainer, pl_module)
        bar.set_description("updates")

    def on_train_epoch_start(self, *args: Any) -> None:
        """Do nothing: the bar does not start again with an epoch."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        self.train_progress_bar.n = self._at(trainer, pl_module)
        self.train_progress_bar.set_postfix(self.get_metrics(trainer, pl_module))

    @staticmethod
    def _at(trainer: pl.Trainer, pl_module: Any) -> int:
        """Updates so far. A vectorized module counts its own updates in `step`."""
        return int(getattr(pl_module, "step", trainer.global_step))


class Pruner(pl.Callback):
    """Saves and stops a run if its evaluation is worse than the thresholds of its search."""

    def __init__(self, thresholds: PruningThresholds, metrics: MetricsCallback, checkpoint: Checkpoint) -> None:
        self._thresholds = thresholds
        self._metrics = metrics
        self._checkpoint = checkpoint

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        """Raises PrunedError if the evaluation after this update is worse than the threshold of its step."""
        row, step = self._metrics.eval_metrics, trainer.global_step
        if row.get("train/global_step") != step or step >= trainer.max_steps or self._thresholds.metric not in row:
            return
        if verdict := self._thresholds.verdict(step, row[self._thresholds.metric]):
            self._checkpoint.save(trainer)
            raise PrunedError(verdict)


class Checkpoint(pl.Callback):
    """Saves the training state every `every` updates or `minutes` minutes, at the end, and after a signal.

    Of several processes that train a run together, the first one looks at the clock and gets the signals.

    The first signal of a kind waits until the current update is complete, because a state saved in the middle of an
    update could not be resumed. Then the state is saved, and the earlier handler of the signal is called. It ends the
    run, lets a cluster's scheduler queue it again, or lets it continue. A second signal of the same kind calls that
    handler at once. SIGHUP stays ignored if it was ignored when this process started, as under `nohup`.
    """

    def __init__(self, run: RunDir, every: int, minutes: float) -> None:
        """every, minutes: 0 does not count updates, or time."""
        self._run = run
        self._every, self._minutes = every, minutes
        self._saved_at = time.monotonic()
        self._pending: list[int] = []
        self._before: dict[int, Any] = {number: signal.getsignal(number) for number in _STOPS + _SCHEDULERS}
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._saved_at = time.monotonic()
        if trainer.is_global_zero and threading.current_thread() is threading.main_thread():
            stops = [number for number in _STOPS if number != signal.SIGHUP or self._before[number] != signal.SIG_IGN]
            kept = [*stops, *(number for number in _SCHEDULERS if callable(self._before[number]))]
            self._handlers = {number: signal.signal(number, self._on_signal) for number in kept}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        signalled = bool(self._pending)
        is_due, signalled = decided(trainer, (signalled or self._due(self._step(trainer)), signalled))
        if is_due:
            self.save(trainer)
            self._saved_at = time.monotonic()
        if signalled:
            self._answer_signals(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.save(trainer)
        self.restore_signals()

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.is_global_zero:
            checkpoint |= about(self._run)

    def restore_signals(self) -> None:
        """Restore the signal handlers from before training. Lightning's own handlers end with its trainer."""
        for number, handler in self._handlers.items():
            before = self._before[number]
            signal.signal(number, handler if before is None else before)
        self._handlers = {}

    def _due(self, step: int) -> bool:
        """Whether the state is saved after `step` updates."""
        by_updates = self._every and step % self._every == 0
        by_time = self._minutes and time.monotonic() - self._saved_at >= 60 * self._minutes
        return bool(by_updates or by_time)

    def _step(self, trainer: pl.Trainer) -> int:
        """Updates so far, over all attempts."""
        return trainer.global_step

    def save(self, trainer: pl.Trainer) -> None:
        """Replace the saved training state. Call it only between two updates."""
        scratch = self._run.checkpoint.with_suffix(".tmp")
        trainer.save_checkpoint(scratch, weights_only=False)
        if trainer.is_global_zero:
            replace_state(scratch, self._run.checkpoint)
            delete_unused_parts(self._run)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number in self._pending:
            self._call_earlier_handler(number)
        self._pending.append(number)

    def _answer_signals(self, trainer: pl.Trainer) -> None:
        """Call the earlier handlers of the signals so far. If one of them ends this process, all of them stop."""
        try:
            while self._pending:
                self._call_earlier_handler(self._pending.pop(0))
        except BaseException:
            decided(trainer, True)
            raise
        if decided(trainer, False):
            raise KeyboardInterrupt

    def _call_earlier_handler(self, number: int) -> None:
        handler = self._before[number]
        if not callable(handler):
            raise KeyboardInterrupt
        handler(number, None)
