"""What is left of an update with a number that is not finite: its rows, and the operation that made the number."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from alignlab.data.tokenize import PromptAndAnswer
from alignlab.errors import DivergedError, NonFiniteError
from alignlab.integrity import write_text
from alignlab.runs.directory import RunDir
from alignlab.tracking.sinks.jsonl import read_rows

log = logging.getLogger(__name__)

# What torch's anomaly detection says about a backward function.
_BACKWARD = "returned nan values"


def described(
    step: int, rows: Iterable[tuple[int, Sequence[PromptAndAnswer]]], decode: Callable[[list[int]], str]
) -> list[dict[str, Any]]:
    """Describe the rows of a batch with a number that is not finite, for `save_rows`.

    step:   updates before this batch.
    rows:   (place in the data, prompt and answer of each answer of the row), as token ids.
    decode: token ids -> text.
    """
    found = []
    for index, answers in rows:
        prompt = list(answers[0][0]) if answers else []
        found.append(
            {
                "step": step,
                "row": index,
                "prompt": decode(prompt) if answers else "",
                "answers": [decode(list(answer)) for _, answer in answers],
                "prompt_ids": prompt,
                "answer_ids": [list(answer) for _, answer in answers],
            }
        )
    return found


def save_rows(run: RunDir, rows: Sequence[dict[str, Any]]) -> None:
    """Write the described rows of a batch with a number that is not finite to `nonfinite.jsonl`."""
    write_text(run.nonfinite, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    log.error("the rows of the batch are in %s", run.nonfinite)


class NonFinite(pl.Callback):
    """Saves the rows of a batch with a number that is not finite. With `trainer.anomaly` it also finds the operation.

    The rows are in `nonfinite.jsonl` in the run directory, one a line: update, place in the data, prompt and answers as
    text and as token ids.
    """

    def __init__(self, run: RunDir, decode: Callable[[list[int]], str], *, anomaly: bool) -> None:
        """decode:  token ids -> text.
        anomaly: look for the operation. If an earlier attempt saved its rows, only their update is searched.
        """
        self._run, self._decode, self._anomaly = run, decode, anomaly
        before = read_rows(run.nonfinite)
        self._from = int(before[0].get("step", 0)) if before else 0
        self._hooks: list[Any] = []
        self.found = ""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        if self._anomaly and not self._hooks and trainer.global_step >= self._from:
            torch.autograd.set_detect_anomaly(True)
            modules = [(name, module) for name, module in pl_module.policy.named_modules() if name]
            self._hooks = [module.register_forward_hook(self._watch(name)) for name, module in modules]

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        if isinstance(exception, NonFiniteError) or _BACKWARD in str(exception):
            work = ((int(getattr(row, "index", -1)), list(row.answers())) for row in pl_module.rows_at_work)
            rows = described(trainer.global_step, work, self._decode)
            if trainer.is_global_zero:
                save_rows(self._run, rows)
                self._explain(exception)
            else:  # only the first process writes
                exception.rows = rows  # type: ignore[attr-defined]
        self.stop()

    def stop(self) -> None:
        """Stop watching."""
        for hook in self._hooks:
            hook.remove()
        if self._hooks:
            torch.autograd.set_detect_anomaly(False)
        self._hooks = []

    def error_of(self, error: RuntimeError, step: int) -> DivergedError | None:
        """The error for a backward function that torch's anomaly detection found; None for other errors."""
        if _BACKWARD not in str(error):
            return None
        return DivergedError(f"the gradient is not finite at step {step}: {self.found}")

    def _explain(self, exception: BaseException) -> None:
        if _BACKWARD in str(exception):
            self.found = self.found or str(exception).splitlines()[0]
        if self._anomaly:
            found = self.found or "the result of every module of the policy is finite: the loss made it"
            log.error("first number that is not finite: %s", found)
            self._run.update(anomaly=found)
        else:
            log.error("to find the operation that made it, add to the same command: debug=anomaly")

    def _watch(self, name: str) -> Callable[..., None]:
        def look(module: nn.Module, given: tuple[Any, ...], result: Any) -> None:
            if not self.found and not _is_finite(result):
                inputs = "finite" if _is_finite(given) else "not finite"
                self.found = f"result of {name} ({type(module).__name__}), whose inputs are {inputs}"

        return look


def _is_finite(value: Any) -> bool:
    """Whether all floating-point tensors in a nested value are finite."""
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return all(_is_finite(part) for part in parts)
