"""Evaluations during training: samples and judges answers as `alignlab evaluate` does, and logs the results."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch

from alignlab.config.plan import Plan
from alignlab.evaluation.judging import judged
from alignlab.evaluation.suite import ModelSide, sampled
from alignlab.evaluation.summary import flat, summarise
from alignlab.judges.base import Judge
from alignlab.progress import bars_wanted, progress_bar
from alignlab.runs.directory import RunDir
from alignlab.spelling import counted
from alignlab.training.callbacks import MetricsCallback
from alignlab.training.evaluation_suite import cap_to_horizon, judges_of, sampling_of, suite_of
from alignlab.training.setup import InitialPolicy, device_of


class EvaluationCallback(pl.Callback):
    """Evaluates the policy every `evaluation.every` updates. Rows go to `<run>/evaluation/step-<n>`.

    It keeps a copy of the model from before training, for log-probabilities under the reference.
    """

    def __init__(
        self, plan: Plan, run: RunDir, start: InitialPolicy, judges: Mapping[str, Judge], metrics: MetricsCallback
    ) -> None:
        config, world = plan.train, plan.train.data.world
        self._every, self._run, self._metrics = config.evaluation.every, run, metrics
        self._judges = judges_of(judges, world)
        self._reference = ModelSide(
            copy.deepcopy(start.model).requires_grad_(False),
            start.tokenizer,
            start.weights,
            start.plan.train.data.template,
        )
        self._suite = suite_of(
            plan,
            start,
            cap_to_horizon(config.evaluation, world),
            device_of(config.trainer.accelerator),
            progress_bar(bars_wanted(config.trainer.progress)),
            run.path / "samples",
        )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        step = trainer.global_step
        if step % self._every == 0:
            self.evaluate(pl_module.policy, step)

    @torch.compiler.set_stance("force_eager")  # compiled layers would be compiled again for every length
    def evaluate(self, policy: Any, step: int) -> None:
        """Sample answers of the policy after `step` updates, have them judged, and store and log the results."""
        side = replace(self._reference, model=policy, weights=f"{self._run.id} after {counted(step, 'update')}")
        facts = {"weights": side.weights, "sampling": sampling_of(self._suite.settings)}
        examples = sampled(self._suite, side, self._reference, {}, facts)
        for name, judge in self._judges.items():
            examples, _ = judged(examples, name, judge, self._run.path.parents[1] / "judgements")
        examples.write(self._run.path / "evaluation" / f"step-{step:06d}")
        against = next(iter(self._suite.settings.baselines), "")
        found = {f"eval/{name}": value for name, value in flat(summarise(examples), against)}
        self._metrics.write({"train/global_step": step, **found})
