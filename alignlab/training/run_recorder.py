"""Records a run: opens its metric sinks, evaluates and saves the policy at the end, and collects its results."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from alignlab.config.plan import Plan
from alignlab.data.collate import to_device
from alignlab.data.layout import collate_rows
from alignlab.data.tokenize import RankingTokens
from alignlab.evaluation.exact import completion_logps, exact_metrics
from alignlab.integrity import new_folder, seal_folder, write_sealed, write_text
from alignlab.lab.frontier import Frontier
from alignlab.models.generation import save_model
from alignlab.models.heads import answer_rewards, save_offset
from alignlab.models.quantization import save_quantization
from alignlab.progress import bars_wanted, progress_bar
from alignlab.runs.directory import FINISHED, RunDir
from alignlab.tracking.metrics import TAIL, check_known
from alignlab.tracking.sinks.base import Ending, Sink, TrackingWithFigures
from alignlab.tracking.sinks.jsonl import JsonlSink, figures_in, read_rows
from alignlab.training.attempt import ending_of
from alignlab.training.callbacks import MetricsCallback
from alignlab.training.dataset import RunRows
from alignlab.training.saved import check_saved
from alignlab.training.setup import InitialPolicy
from alignlab.training.trackers import identity_of, open_trackers

log = logging.getLogger(__name__)

# The stored frontier reaches to this multiple of the run's own KL, and at least to this KL (nats).
_CURVE_BEYOND, _CURVE_AT_LEAST = 1.2, 6.0


# Number of training rows over whose preferred answers a reward model's offset is averaged.
_OFFSET_ROWS = 256

# Each row of held-out metrics has one of these.
_EVALUATED = ("eval/loss", "eval/objective/kl")


class RunRecorder:
    """Records one run from its opened sinks to its saved policy.

    As a context manager it closes all sinks at the end and passes on how the run ended.
    """

    def __init__(
        self,
        plan: Plan,
        run: RunDir,
        start: InitialPolicy,
        rows: RunRows,
        *,
        group: str | None,
        done: int = 0,
        writes: bool = True,
    ) -> None:
        """done:   updates of earlier attempts. Their metrics are kept.
        writes: whether this process writes. Of several that train a run together, one does.
        """
        config = plan.train
        self.plan, self.run, self.start, self.rows = plan, run, start, rows
        self._group = group
        # Exact log-probabilities from before anything is trained.
        self._before = start.exact_logps if plan.is_measured_exactly and writes else None
        self._dialects = ", ".join(config.objective.matching_dialects())
        self.summary: dict[str, float] = {}
        self.sinks: list[Sink] = []
        if writes:
            _list_left_out(run, rows)
            shutil.rmtree(run.figures, ignore_errors=True)  # of an earlier attempt
            self.sinks = self._open(done)
        bar = progress_bar(bars_wanted(config.trainer.progress))
        exact = self.exact_metrics if plan.is_measured_exactly else None
        self.metrics = MetricsCallback(self.sinks, config.trainer.eval_every, bar, exact)
        evaluated = (row for row in reversed(read_rows(run.metrics)) if any(name in row for name in _EVALUATED))
        self.metrics.eval_metrics = next(evaluated, {})

    def __enter__(self) -> RunRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(ending_of(error))

    def close(self, ending: Ending) -> None:
        """Close all sinks, and tell them how the run ended. A run that has a result logs its figures first."""
        figures = self._figures() if self.sinks and ending in FINISHED else []
        for sink in self.sinks:
            if figures:
                sink.figures(figures)
            sink.finish(self.summary, ending=ending)
        self.sinks.clear()

    def finish(self, policy: Any, seconds: float) -> dict[str, Any]:
        """Compute exact metrics if the run has them, save and check the policy, and return the results for run.json.

        seconds: duration of the training; of vectorized runs, one run's share of it.
        Raises SavedPolicyError if the saved policy differs from the trained one.
        """
        config, record = self.plan.train, self.rows.record
        self.summary |= {
            f"{split}/tokens/truncated_frac": record[split]["truncated_frac"] for split in ("train", "eval")
        }
        self.summary |= self._steps(seconds)
        if self._before is not None:
            if "exact/winrate" not in self.summary:  # an older version made the last evaluation
                self.summary |= self.exact_metrics(policy)
            self._write_frontier(self.summary["exact/kl"])
        offset = self._offset(policy)
        with _saved(policy, self.start.tokenizer, self.run.policy, offset) as folder:
            check_saved(policy, folder, config.model, self.rows.train, offset)
        check_known(self.summary)
        kind = self.plan.id.rpartition("-")[0]
        return {
            "summary": self.summary,
            "objective": {"name": kind, **self.plan.config["objective"], "spoken": self._dialects},
            "data": record,
            "model": {"fingerprint": config.model.fingerprint(), "reference_weights": self.start.weights},
        }

    def save_last(self, policy: Any) -> None:
        """Save the policy after the last update, beside the policy that `trainer.keep_best` chose."""
        with _saved(policy, self.start.tokenizer, self.run.last_policy, self._offset(policy)):
            pass

    def _open(self, done: int) -> list[Sink]:
        facts = {
            "data/record": self.rows.record,
            "ref/digest": self.start.weights,
            "objective/dialect": self._dialects,
        }
        # The file comes first: trackers read from it what earlier attempts logged.
        file = JsonlSink(self.run.metrics, resume_at=done)
        return [file, *open_trackers(self.plan, self.run, self._group, facts)]

    def _figures(self) -> list[Path]:
        """The figures of the run, drawn now; none if no tracker shows figures, or if they can't be drawn.

        Points of a sweep have none: the sweep's own figures show all of them, and drawing takes a second.
        """
        trackers = self.plan.train.tracking.values()
        if self._group or not any(isinstance(tracker, TrackingWithFigures) and tracker.figures for tracker in trackers):
            return []
        from alignlab.reports.run_figures import draw_run  # imports matplotlib, which takes a second

        try:
            draw_run(self.run, identity_of(self.plan, self.run, self._group, {}).name)
            return figures_in(self.run.path)
        except Exception as error:  # a run with a result does not fail because of a figure
            log.warning("%s: its figures can't be drawn: %s", self.run.id, error)
            return []

    def _steps(self, seconds: float) -> dict[str, float]:
        """First loss, means over the last tenth of the logged updates, and metrics of the last step and evaluation."""
        steps = [row for row in read_rows(self.run.metrics) if "train/loss" in row]
        tail = steps[-max(1, len(steps) // 10) :]
        return {
            "start/loss": steps[0]["train/loss"],
            **{
                f"tail/{name}": sum(values) / len(values)
                for name in TAIL
                if (values := [row[f"train/{name}"] for row in tail if f"train/{name}" in row])
            },
            **steps[-1],
            **self.metrics.eval_metrics,
            "time/train_seconds": round(seconds, 2),
        }

    def _offset(self, policy: Any) -> Tensor | None:
        """[N] a reward model's rewards of preferred answers of its training rows; None for policies."""
        if self.plan.train.objective.requires.data != "rankings":
            return None
        best = [
            (row.prompt, row.completions[max(range(len(row.grades)), key=row.grades.__getitem__)])
            for row in self.rows.train[:_OFFSET_ROWS]
            if isinstance(row, RankingTokens)
        ]
        policy.eval()
        device, size = next(policy.parameters()).device, self.plan.train.trainer.micro_batch_size
        with torch.no_grad():
            parts = [
                answer_rewards(policy, to_device(collate_rows(best[i : i + size]), device)).cpu()
                for i in range(0, len(best), size)
            ]
        rewards = torch.cat(parts)
        self.summary |= {"reward/offset": float(rewards.mean()), "reward/deviation": float(rewards.std(unbiased=False))}
        return rewards

    def exact_metrics(self, policy: Any) -> dict[str, float]:
        """Exact metrics of a policy, compared with the start of training; empty if the run has none."""
        world = self.plan.train.data.world
        if self._before is None or world is None:
            return {}
        table = completion_logps(policy, self.start.tokenizer, world)
        return exact_metrics(table, self._before, world) | self.plan.train.data.exact_metrics(table)

    def _write_frontier(self, reached: float) -> None:
        """Store the frontier of the start of training, for figures. `reached` is the KL of the trained policy."""
        world = self.plan.train.data.world
        assert world is not None
        assert self._before is not None
        reach = max(_CURVE_AT_LEAST, _CURVE_BEYOND * reached)
        curve = Frontier(world.normalised(self._before), world.gold_reward).curve(reach)
        write_sealed(self.run.frontier, {"kl": [point[0] for point in curve], "reward": [point[1] for point in curve]})


def _list_left_out(run: RunDir, rows: RunRows) -> None:
    """Write where the rows that were left out come from, and why, to the run's directory."""
    listed = [
        {
            "split": split,
            "file": row.place.file if row.place else None,
            "row": row.place.row if row.place else None,
            "reason": row.reason,
        }
        for split, left_out in rows.left_out.items()
        for row in left_out
    ]
    if listed:
        write_text(run.dropped, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in listed))


@contextmanager
def _saved(policy: Any, tokenizer: Any, folder: Path, offset: Tensor | None) -> Iterator[Path]:
    """Save a policy in Hugging Face format, adapter or full, with the tokenizer; whole or not at all.

    The `with` block gets the scratch folder. It becomes `folder` unless the block raises an error.
    """
    shutil.rmtree(folder, ignore_errors=True)  # left by an attempt that stopped between saving and recording
    with new_folder(folder) as scratch:
        save_model(policy, tokenizer, scratch)
        if (scratch / "adapter_config.json").is_file():
            save_quantization(policy, scratch)
        if offset is not None:
            save_offset(scratch, offset)
        seal_folder(scratch)
        yield scratch
