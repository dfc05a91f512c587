"""What all modules share: one optimizer step on a global batch that arrives as micro-batches.

Loss and metrics are divided by counts of the whole global batch, so a batch of 8 is the same as 4 x 2 accumulated or as
two processes with 4 each.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from alignlab.data.collate import to_device
from alignlab.errors import NonFiniteError, PolicyIsNotReferenceError
from alignlab.modules.sums import MetricSums
from alignlab.objectives.base import Objective
from alignlab.optim.base import Optim

# How far the first loss may be from its known value: rounding of the log-probability sums over a few hundred tokens.
_START_TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 0.25, torch.float16: 0.05}


class AlignmentModule(pl.LightningModule):
    """Base of the modules. Subclasses say what a micro-batch's loss and metrics are."""

    def __init__(
        self, policy: nn.Module, objective: Objective, optim: Optim, *, max_steps: int, clip: float, seed: int
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold only what is trained
        self.policy = policy
        self.objective = objective
        self.optim_config = optim
        self.max_steps = max_steps
        self.clip = clip
        self.seed = seed
        self.tokens_seen = 0
        self.rows_seen = 0
        self.last_metrics: dict[str, float] = {}

    @abstractmethod
    def losses(self, batch: Any) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """[B] losses of a micro-batch and its metrics as (sum, count), `loss` excepted."""

    def denominator(self, batch: Any) -> int:
        """What this micro-batch adds to the count that divides the summed loss."""
        return batch.answer_tokens if self.objective.requires.normaliser == "tokens" else len(batch)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return [to_device(micro, device) for micro in batch] if isinstance(batch, list) else to_device(batch, device)

    def on_fit_start(self) -> None:
        self.policy.train()  # Lightning keeps the mode it finds, and loaded models come in evaluation mode

    def training_step(self, micro_batches: list[Any], batch_idx: int) -> None:
        """One update on a global batch."""
        began = time.perf_counter()
        step = self.global_step
        # Random numbers of a step depend on the step alone, so a resumed run draws the same dropout masks.
        torch.manual_seed(self.seed * 1_000_003 + step)
        optimizer: Any = self.optimizers()
        total = self._global_sum(sum(map(self.denominator, micro_batches)))
        world = self.trainer.world_size
        sums = MetricSums()
        for i, micro in enumerate(micro_batches):
            last = i == len(micro_batches) - 1
            with nullcontext() if last else self._without_sync():
                loss, metrics = self.losses(micro)
                self._refuse_non_finite(loss, micro)
                self.manual_backward(loss.sum() * (world / total))  # gradients are averaged over processes
            count = torch.tensor(float(self.denominator(micro)), device=loss.device)
            sums.add({"loss": (loss.sum(), count), **metrics})
        means = self._global_means(sums)
        if step == 0:
            self._check_start(means["loss"])
        norm = self._clip(optimizer)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule: Any = self.lr_schedulers()
        rate = schedule.get_last_lr()[0]
        schedule.step()
        tokens = int(self._global_sum(sum(micro.all_tokens for micro in micro_batches)))
        self.tokens_seen += tokens
        self.rows_seen += int(self._global_sum(sum(map(len, micro_batches))))
        self.last_metrics = {
            "train/global_step": step + 1,
            **{f"train/{name}": value for name, value in means.items()},
            "train/learning_rate": rate,
            "train/grad_norm": norm,
            "train/num_tokens": self.tokens_seen,
            "train/epoch": self.rows_seen / len(self.trainer.datamodule.train),  # type: ignore[attr-defined]
            "train/tokens/per_second": tokens / (time.perf_counter() - began),
        }
        self.log("loss", means["loss"], prog_bar=True, logger=False)

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Any]) -> dict[str, float]:
        """Metrics over all batches of a split (this process's share of it), dropout off."""
        sums = MetricSums()
        self.policy.eval()
        for batch in batches:
            batch = to_device(batch, next(self.policy.parameters()).device)
            loss, metrics = self.losses(batch)
            self._refuse_non_finite(loss, batch)
            count = torch.tensor(float(self.denominator(batch)), device=loss.device)
            sums.add({"loss": (loss.sum(), count), **metrics})
        self.policy.train()
        means = self._global_means(sums)
        return {"train/global_step": self.global_step, **{f"eval/{name}": value for name, value in means.items()}}

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.policy.parameters() if p.requires_grad]
        optimizer = self.optim_config.build(trained)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.optim_config.factor(step, self.max_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint["seen"] = {"tokens": self.tokens_seen, "rows": self.rows_seen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        lacking = {name for name, p in self.named_parameters() if p.requires_grad} - checkpoint["state_dict"].keys()
        if lacking:
            raise ValueError(f"the checkpoint lacks {len(lacking)} trained parameters, {min(lacking)} for one")
        self.tokens_seen, self.rows_seen = checkpoint["seen"]["tokens"], checkpoint["seen"]["rows"]

    def _clip(self, optimizer: Any) -> float:
        """2-norm of the gradient before clipping; clips to `clip` where that is above 0."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        return float(nn.utils.clip_grad_norm_(parameters, self.clip if self.clip > 0 else float("inf")))

    def _global_sum(self, value: float) -> float:
        if self.trainer.world_size == 1:
            return value
        total = self.trainer.strategy.reduce(torch.tensor(float(value), device=self.device), reduce_op="sum")
        return float(total)

    def _global_means(self, sums: MetricSums) -> dict[str, float]:
        names, totals = sums.stacked()
        if self.trainer.world_size > 1:
            totals = self.trainer.strategy.reduce(totals, reduce_op="sum")
        return MetricSums.means(names, totals)

    def _without_sync(self) -> Any:
        """With several processes gradients are exchanged only at the last micro-batch."""
        no_sync = getattr(self.trainer.strategy.model, "no_sync", None)
        return no_sync() if no_sync else nullcontext()

    def _refuse_non_finite(self, loss: Tensor, batch: Any) -> None:
        bad = ~torch.isfinite(loss)
        if bad.any():
            rows = batch.index[bad].tolist()
            raise NonFiniteError(f"loss is not finite at step {self.global_step} for rows {rows} of the data")

    def _check_start(self, loss: float) -> None:
        """Before any update the policy is its reference, and the loss of many objectives is then a known number."""
        expected = self.objective.loss_at_reference
        if expected is None or any(isinstance(m, nn.Dropout) and m.p > 0 and m.training for m in self.policy.modules()):
            return
        tolerance = _START_TOLERANCE[next(self.policy.parameters()).dtype]
        if abs(loss - expected) > tolerance:
            raise PolicyIsNotReferenceError(
                f"first loss is {loss:.6f} but must be {expected:.6f} while the policy equals its reference\n"
                "  the reference log-probabilities belong to other weights, another tokenizer or another dtype;\n"
                "  type: reference=copy to compute them afresh"
            )
