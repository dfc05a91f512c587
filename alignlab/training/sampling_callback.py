"""Evaluations during training: samples and judges answers as `alignlab evaluate` does, and logs the results."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning.pytorch as pl
import torch

from alignlab.config.plan import Plan
from alignlab.evaluation.examples import Examples
from alignlab.evaluation.judging import judged
from alignlab.evaluation.suite import ModelSide, Suite, sampled
from alignlab.evaluation.summary import flat, summarise
from alignlab.judges.base import Judge
from alignlab.progress import bars_wanted, progress_bar
from alignlab.runs.directory import RunDir
from alignlab.spelling import counted
from alignlab.training.callbacks import MetricsCallback
from alignlab.training.evaluation_suite import (
    LEAST_PROMPTS,
    TIME_SHARE,
    cap_to_horizon,
    judges_of,
    sampling_of,
    suite_of,
    time_left,
)
from alignlab.training.setup import InitialPolicy, device_of

log = logging.getLogger(__name__)


class Standby(pl.Callback):
    """In the processes that do not evaluate: gives the first one its weights, if these are sharded."""

    def __init__(self, every: int) -> None:
        self._every = every

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        if trainer.global_step % self._every == 0:
            with pl_module.gathered():
                pass


class EvaluationCallback(pl.Callback):
    """Evaluates the policy every `evaluation.every` updates. Rows go to `<run>/evaluation/step-<n>`.

    It keeps a copy of the model from before training, for log-probabilities under the reference.

    Unless `evaluation.at_end=true`, it asks at most LEAST_PROMPTS prompts, and leaves out an evaluation that would
    probably exceed the share of the training time that evaluations may sample for (TIME_SHARE). The duration of the
    first evaluation is estimated from one prompt.
    """

    def __init__(
        self, plan: Plan, run: RunDir, start: InitialPolicy, judges: Mapping[str, Judge], metrics: MetricsCallback
    ) -> None:
        config, world = plan.train, plan.train.data.world
        self._every, self._run, self._metrics = config.evaluation.every, run, metrics
        self._limited = not config.evaluation.at_end
        self._spent = 0.0  # seconds of sampling, over all attempts
        self._expected: float | None = None  # seconds of the next evaluation, as far as it is known
        self.left_out = 0
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
            config.engine,
            device_of(config.trainer.accelerator),
            progress_bar(bars_wanted(config.trainer.progress)),
            run.path / "samples",
        )
        if self._limited:
            self._suite = replace(self._suite, questions=self._suite.questions[:LEAST_PROMPTS])

    @property
    def seconds(self) -> float:
        """Wall time (s) of sampling so far. Earlier attempts count up to the state that this one resumed from."""
        return self._spent

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self._spent, "expected": self._expected, "left_out": self.left_out}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._spent, self._expected = state_dict["seconds"], state_dict["expected"]
        self.left_out = state_dict["left_out"]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        step = trainer.global_step
        if step % self._every:
            return
        with pl_module.gathered():
            if self._limited and not self._is_in_time(pl_module.policy):
                self.left_out += 1
            else:
                self.evaluate(pl_module.policy, step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.left_out:
            log.warning(
                "%s: %s during training left out, because sampling would have taken more than %g %% of the training "
                "time\n  type: evaluation.at_end=true (no limit), or a larger evaluation.every",
                self._run.id,
                counted(self.left_out, "evaluation"),
                100 * TIME_SHARE,
            )

    def _is_in_time(self, policy: Any) -> bool:
        """Whether the next evaluation is expected to keep within the time that evaluations may sample for."""
        if self._expected is None and time_left(self._metrics.seconds, self._spent) > 0:
            before = self._spent
            with TemporaryDirectory() as folder:  # answers that were stored before would take no time
                one = replace(self._suite, questions=self._suite.questions[:1], kept_in=Path(folder))
                self._sampled(one, replace(self._reference, model=policy), {})
            self._expected = len(self._suite.questions) * (self._spent - before)
        return self._expected is not None and self._expected <= time_left(self._metrics.seconds, self._spent)

    @torch.compiler.set_stance("force_eager")  # compiled layers would be compiled again for every length
    def _sampled(self, suite: Suite, policy: ModelSide, facts: Mapping[str, str]) -> Examples:
        """Answers of the policy and of the baselines. Their time counts."""
        began = time.perf_counter()
        try:
            return sampled(suite, policy, self._reference, {}, facts)
        finally:
            self._spent += time.perf_counter() - began

    def evaluate(self, policy: Any, step: int) -> None:
        """Sample answers of the policy after `step` updates, have them judged, and store and log the results."""
        side = replace(self._reference, model=policy, weights=f"{self._run.id} after {counted(step, 'update')}")
        facts = {"weights": side.weights, "sampling": sampling_of(self._suite.settings, self._suite.engine)}
        before = self._spent
        examples = self._sampled(self._suite, side, facts)
        self._expected = self._spent - before
        for name, judge in self._judges.items():
            examples, _ = judged(examples, name, judge, self._run.path.parents[1] / "judgements")
        examples.write(self._run.path / "evaluation" / f"step-{step:06d}")
        against = next(iter(self._suite.settings.baselines), "")
        found = {f"eval/{name}": value for name, value in flat(summarise(examples), against)}
        self._metrics.write({"train/global_step": step, **found})
