"""Keeps the policy with the best held-out value (`trainer.keep_best`), and stops early (`trainer.patience`)."""

from __future__ import annotations

import logging
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from alignlab.models.sharding import whole
from alignlab.tracking.metrics import CHOOSES
from alignlab.training.callbacks import MetricsCallback

log = logging.getLogger(__name__)


class BestPolicy(pl.Callback):
    """Compares each evaluation with the best one so far, and keeps the trained weights of the best.

    The weights, the best value and the number of evaluations since then are part of the training state, so that a
    resumed run chooses and stops as an uninterrupted one would. Add it after the callback that evaluates and before the
    one that saves the state.
    """

    def __init__(self, metric: str, patience: int, metrics: MetricsCallback) -> None:
        """metric:   name of a held-out metric, one of CHOOSES.
        patience: evaluations in a row without a better value after which the run stops; 0: it never does.
        metrics:  the callback that evaluates.
        """
        self.metric, self._patience, self._metrics = metric, patience, metrics
        self._sign = 1.0 if CHOOSES[metric] == "higher" else -1.0
        self.row: dict[str, float] = {}  # all metrics of the best evaluation
        self.step = -1  # updates of the best policy; -1: nothing was evaluated yet
        self._weights: dict[str, Tensor] = {}
        self._seen = -1  # updates at the last evaluation
        self._since = 0  # evaluations after the best one
        self._evaluations = 0

    @property
    def state_key(self) -> str:
        """Key of this callback in training states."""
        return "BestPolicy"

    def state_dict(self) -> dict[str, Any]:
        return {
            "row": self.row, "step": self.step, "weights": self._weights,
            "seen": self._seen, "since": self._since, "evaluations": self._evaluations,
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.row, self.step, self._weights = state_dict["row"], state_dict["step"], state_dict["weights"]
        self._seen, self._since = state_dict["seen"], state_dict["since"]
        self._evaluations = state_dict["evaluations"]

    @property
    def is_over(self) -> bool:
        """Whether the patience is used up."""
        return bool(self._patience) and self._since >= self._patience

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        trainer.should_stop = self.is_over  # of a run that was interrupted after its last update

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        self.consider(trainer.global_step, pl_module.policy)
        if self.is_over and trainer.global_step < trainer.max_steps and not trainer.should_stop:
            trainer.should_stop = True
            log.info(
                "stopped after %d updates: %s was not better than %.6g (update %d) in %d evaluations",
                trainer.global_step, self.metric, self.row[self.metric], self.step, self._since,
            )  # fmt: skip

    def consider(self, step: int, policy: nn.Module) -> None:
        """Keep the policy if it was evaluated after this update and is better than the best so far."""
        row = self._metrics.eval_metrics
        if row.get("train/global_step") != step or step == self._seen:
            return
        self._seen, self._evaluations = step, self._evaluations + 1
        if self.row and not self._sign * row[self.metric] > self._sign * self.row[self.metric]:
            self._since += 1
            return
        self.row, self.step, self._since = dict(row), step, 0
        self._weights = {name: whole(p).to("cpu", copy=True) for name, p in _trained(policy)}

    def restore(self, policy: nn.Module) -> None:
        """Give the policy the weights of the best one, and make its evaluation the last one of the run."""
        with torch.no_grad():
            for name, parameter in _trained(policy):
                parameter.copy_(self._weights[name])
        self._metrics.eval_metrics = self.row

    def record(self, updates: int, planned: int) -> dict[str, Any]:
        """What the record of the run says about the choice.

        updates: updates of the run; planned: its `trainer.max_steps`.
        """
        return {
            "by": self.metric,
            "better": CHOOSES[self.metric],
            "value": self.row[self.metric],
            "step": self.step,
            "of_evaluations": self._evaluations,
            "updates": updates,
            "stopped_early": updates < planned,
        }


def _trained(policy: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in policy.named_parameters() if p.requires_grad]
