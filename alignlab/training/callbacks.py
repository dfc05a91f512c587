"""What happens around the steps of a run: rows of metrics are written, training state is saved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl

from alignlab.ledger.run_dir import RunDir
from alignlab.tracking.metrics import check_known
from alignlab.tracking.sinks.base import Sink


class Recorder(pl.Callback):
    """Sends each step's and each evaluation's metrics to all sinks, from the first process only."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        self._write(trainer, pl_module.last_metrics)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._write(trainer, pl_module.eval_metrics)

    def _write(self, trainer: pl.Trainer, row: dict[str, float]) -> None:
        check_known(row)
        if trainer.is_global_zero:
            for sink in self._sinks:
                sink.log(row)


class Checkpoint(pl.Callback):
    """Saves training state every `every` updates, at the end, and when a run is stopped; whole or not at all."""

    def __init__(self, run: RunDir, every: int) -> None:
        self._run = run
        self._every = every
        self._saved_at = -1

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        if self._every and trainer.global_step % self._every == 0:
            self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._save(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        # Only a stop from outside leaves a state worth resuming; a failed step would fail again.
        if isinstance(exception, KeyboardInterrupt) and trainer.global_step > 0:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        if trainer.global_step == self._saved_at:
            return
        self._saved_at = trainer.global_step
        scratch = self._run.checkpoint.with_suffix(".tmp")
        trainer.save_checkpoint(scratch)
        if trainer.is_global_zero:
            os.replace(scratch, self._run.checkpoint)
