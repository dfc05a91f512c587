"""Base of all modules: one optimizer step on a global batch, which is processed in micro-batches.

Loss and metrics are means over the whole global batch. The outputs of all micro-batches and processes are joined first
and then evaluated once. So a batch of 8 equals 4 accumulated batches of 2, and two processes with 4 rows each.
"""

from __future__ import annotations

import logging
import math
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from alignlab.data.collate import PairBatch, collate_pairs, to_device
from alignlab.data.datamodule import MicroBatches
from alignlab.data.layout import Rows
from alignlab.errors import DivergedError, NonFiniteError, NotEnoughMemoryError, PolicyIsNotReferenceError
from alignlab.models.logps import answer_logps, score_answers, score_predictions, summed
from alignlab.models.memory import out_of_memory
from alignlab.models.reference import Reference
from alignlab.models.tolerances import tolerance_of
from alignlab.modules.answer_metrics import preference_metrics
from alignlab.modules.distributed import gather, rows_before, total, without_sync
from alignlab.modules.held_out_pairs import HeldOutPairs
from alignlab.objectives.base import Objective
from alignlab.optim.base import Optim
from alignlab.progress import Progress, silent
from alignlab.spelling import counted
from alignlab.types import Logps, PairLogps, halves, map_tensors

log = logging.getLogger(__name__)

Made = TypeVar("Made")


class AlignmentModule(pl.LightningModule):
    """Base of the modules. Subclasses compute the log-probabilities of a micro-batch and the metrics of a batch."""

    temperature = 1.0  # logits are divided by it

    def __init__(
        self,
        policy: nn.Module,
        objective: Objective,
        optim: Optim,
        micro_batches: MicroBatches,
        *,
        max_steps: int,
        clip: float,
        seed: int,
        reference: Reference | None = None,
        token_stats: bool = True,
        log_every: int = 1,
        pairs: HeldOutPairs | None = None,
    ) -> None:
        """Arguments that need an explanation:

        clip:        gradients are clipped to this 2-norm; 0 does not clip.
        token_stats: also compute entropy, accuracy and mean logit of every token.
        log_every:   metrics are computed at every so many updates.
        pairs:       held-out pairs to measure the policy on, unless its own held-out rows are these pairs.
        """
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold only what is trained
        self.policy = policy
        self.objective = objective
        self.optim_config = optim
        self.micro_batches = micro_batches
        self.max_steps = max_steps
        self.clip = clip
        self.seed = seed
        self.reference = reference
        self.token_stats = token_stats
        self.log_every = log_every
        self.pairs = pairs
        self.state = objective.initial_state()
        self.tokens_seen = 0
        self.rows_seen = 0
        self.last_metrics: dict[str, float] = {}  # of the latest update; empty if it is not logged
        self.samples: list[dict[str, Any]] = []  # answers of the latest update, to show to people
        self._measured = True
        self._step_ended = 0.0

    @abstractmethod
    def compute_logps(self, batch: Any, mean_count: float) -> Any:
        """The input of the objective for a micro-batch: log-probabilities (nats) or rewards, with gradient.

        mean_count: mean number of tokens per answer that an NLL covers, over the global batch.
        """

    def with_gradient(self, batch: Any) -> Any:
        """The part of a micro-batch that needs a gradient."""
        return batch

    def compute_without_grad(self, batch: Any, mean_count: float) -> Any:
        """Values that need no gradient and on which all rows of the global batch depend; None if there are none.

        They are computed for the whole batch first, so that the other part needs one forward pass instead of two.
        """
        return None

    def attach_without_grad(self, values: Any, beside: Any) -> Any:
        """`values`, which have a gradient, together with those that have none (`beside`)."""
        return values

    @abstractmethod
    def compute_metrics(self, values: Any) -> dict[str, Tensor]:
        """Metrics of a whole batch (scalars) without the loss. A metric without any row to average is left out."""

    @abstractmethod
    def finiteness_check(self, values: Any) -> Tensor:
        """[B] one number per example. It is finite if all values of the example are."""

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch  # rows of token ids stay; their micro-batches are moved later

    def on_fit_start(self) -> None:
        self.policy.train()  # Lightning keeps a module's mode, and models are loaded in evaluation mode

    def on_train_start(self) -> None:
        self._step_ended = time.perf_counter()

    def training_step(self, rows: Sequence[Any], batch_idx: int) -> None:
        """One update on a global batch. `rows` are this process's share of it.

        Raises NonFiniteError or DivergedError if a number is not finite, PolicyIsNotReferenceError if the first loss is
        wrong, and NotEnoughMemoryError if memory does not suffice for one row.
        """
        began = time.perf_counter()
        step = self.global_step
        self._measured = self.should_log(step)
        optimizer: Any = self.optimizers()
        micro_batches, values = self.within_memory(rows, self._backward)
        means = self.metric_values(values) if self._measured else {}
        if step == 0:
            self.check_start(means["loss"], values)
        norm = self._clip(optimizer)
        if not math.isfinite(norm):
            raise gradient_not_finite(norm, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule: Any = self.lr_schedulers()
        rate = schedule.get_last_lr()[0]
        schedule.step()
        tokens = int(total(self.trainer, sum(micro.all_tokens for micro in micro_batches)))
        self.tokens_seen += tokens
        self.rows_seen += int(total(self.trainer, sum(map(len, micro_batches))))
        before, self._step_ended = self._step_ended, time.perf_counter()
        self.last_metrics = {}
        if not self._measured:
            return
        self.last_metrics = {
            "train/global_step": step + 1,
            **{f"train/{name}": value for name, value in means.items()},
            "train/learning_rate": rate,
            "train/grad_norm": norm,
            "train/num_tokens": self.tokens_seen,
            "train/epoch": self.rows_seen / len(self.trainer.datamodule.train),  # type: ignore[attr-defined]
            "train/tokens/per_second": tokens / (self._step_ended - began),
            "train/step_seconds": self._step_ended - before,
        }
        self.log("loss", means["loss"], prog_bar=True, logger=False)

    def should_log(self, step: int) -> bool:
        """Whether update `step` (from 0) is logged: the first, the last, and every `log_every`-th one are."""
        return step == 0 or (step + 1) % self.log_every == 0 or step + 1 == self.max_steps

    @torch.no_grad()
    def validate(self, rows: Sequence[Any], progress: Progress = silent) -> dict[str, float]:
        """Metrics over all held-out rows as one batch, and over the held-out pairs. `rows` are this process's share."""
        self.policy.eval()
        self._measured = True
        found = self.held_out(rows, progress)
        if self.pairs is not None:
            found |= self._pair_metrics(self.pairs, progress)
        self.policy.train()
        return {"train/global_step": self.global_step, **{f"eval/{name}": value for name, value in found.items()}}

    def held_out(self, rows: Sequence[Any], progress: Progress) -> dict[str, float]:
        """Metrics over all held-out rows as one batch, with dropout off. `rows` are this process's share."""

        def see(batches: Sequence[Any]) -> list[Any]:
            mean_count, values = self._mean_count(batches), []
            for batch in progress(batches, "evaluating"):
                values.append(self.compute_logps(batch, mean_count))
                self._refuse_non_finite(self.finiteness_check(values[-1]), batch.index, values[-1])
            return values

        _, values = self.within_memory(rows, see)
        whole = self.with_state(gather(self.trainer, values), update=False)
        return self.metric_values(whole) | {name: float(value) for name, value in self.on_pairs(whole).items()}

    def on_pairs(self, values: Any) -> dict[str, Tensor]:
        """`preference_metrics` of the held-out rows, if these are pairs and have a reference; empty otherwise."""
        return {}

    def _pair_metrics(self, pairs: HeldOutPairs, progress: Progress) -> dict[str, float]:
        """`preference_metrics` of pairs that are not the objective's own rows. Each process scores its share."""

        def see(batches: Sequence[PairBatch]) -> list[PairLogps]:
            found = []
            for batch in progress(batches, "evaluating pairs"):
                tokens, reference = answer_logps(self.policy, batch.rows), pairs.reference.sums(batch.rows)
                seen = PairLogps(*halves(Logps(tokens, batch.rows.answer_mask, reference)))
                self._refuse_non_finite(seen.chosen.checksum + seen.rejected.checksum, batch.index)
                found.append(seen)
            return found

        share = pairs.rows[self.trainer.global_rank :: self.trainer.world_size]
        _, values = self.within_memory(share, see, partial(collate_pairs, layout=pairs.layout))
        return {name: float(value) for name, value in preference_metrics(gather(self.trainer, values)).items()}

    def answers(self, rows: Rows, mean_count: float, *, gradient: bool = True) -> Logps:
        """Log-probabilities (nats) of answers under the policy, and what the objective needs of the reference.

        mean_count: see `compute_logps`.
        gradient:   whether the log-probabilities need a gradient.
        """
        needs, reference = self.objective.requires, self.reference
        whole = reference.predictions(rows) if reference and needs.reference_kl else None
        tokens = reference.tokens(rows) if reference and needs.reference_tokens and whole is None else None
        if whole is not None:
            with torch.no_grad():
                tokens = score_predictions(whole, rows).tokens
        with nullcontext() if gradient else torch.no_grad():
            seen = score_answers(
                self.policy,
                rows,
                temperature=self.temperature,
                collision=needs.collision,
                reference=whole,
                stats=gradient and self.token_stats and self._measured,
            )
        sums = None
        if reference:
            sums = reference.sums(rows) if tokens is None else summed(tokens, rows.answer_mask)
        return Logps(
            seen.tokens,
            rows.answer_mask,
            reference=sums,
            reference_tokens=tokens if needs.reference_tokens else None,
            reference_kl=seen.reference_kl,
            collision=seen.collision,
            stats=seen.stats,
            mean_count=mean_count,
        )

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = self.optim_config.build(trained)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.optim_config.factor(step, self.max_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint["seen"] = {"tokens": self.tokens_seen, "rows": self.rows_seen}
        checkpoint["objective_state"] = self.state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        lacking = {name for name, p in self.named_parameters() if p.requires_grad} - checkpoint["state_dict"].keys()
        if lacking:
            raise ValueError(f"the checkpoint lacks {len(lacking)} trained parameters, for example {min(lacking)}")
        self.tokens_seen, self.rows_seen = checkpoint["seen"]["tokens"], checkpoint["seen"]["rows"]
        self.state = checkpoint["objective_state"]

    def within_memory(
        self, rows: Sequence[Any], work: Callable[[list[Any]], Made], collate: Callable[[Any], Any] | None = None
    ) -> tuple[list[Any], Made]:
        """(micro-batches of the rows, result of `work` on them). If memory runs out, smaller ones are tried.

        The smaller size stays for the rest of the run.
        collate: makes a batch of rows, if these are not of the kind that is trained on.
        Raises NotEnoughMemoryError if memory does not suffice for one row.
        """
        device, state = next(self.policy.parameters()).device, self.state
        while True:
            portions = replace(self.micro_batches, collate=collate) if collate else self.micro_batches
            micro_batches = [to_device(micro, device) for micro in portions.of(rows)]
            try:
                return micro_batches, work(micro_batches)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or self.trainer.world_size > 1:
                    raise
                largest = max(map(len, portions.split_by_budget(rows)))
                if largest == 1:
                    tokens = max(micro.all_tokens for micro in micro_batches)
                    raise NotEnoughMemoryError(
                        f"not enough memory for one row of {counted(tokens, 'token')} at step {self.global_step}: "
                        f"{error}\n"
                        "  type: trainer.gradient_checkpointing=true, or a smaller data.max_length"
                    ) from None
            # This is after the handler, in which the failed attempt's tensors are still alive.
            self.zero_grad(set_to_none=True)
            self.state = state
            self.micro_batches = self.micro_batches.halved(largest)
            if device.type == "cuda":
                torch.cuda.empty_cache()
            log.warning(
                "not enough memory for %s at a time; continuing with %d",
                counted(largest, "row"),
                self.micro_batches.rows,
            )

    def _backward(self, micro_batches: list[Any]) -> Any:
        """Compute the gradients of a global batch's mean loss. Returns the values of the whole batch."""
        mean_count = self._mean_count(micro_batches)
        seen = [
            self._with_step_seed(i, self.compute_without_grad, micro, mean_count)
            for i, micro in enumerate(micro_batches)
        ]
        beside = None if seen[0] is None else gather(self.trainer, seen)
        split = len(micro_batches) > 1 or self.trainer.world_size > 1
        if split and self.objective.requires.couples_batch:
            return self._backward_coupled(micro_batches, mean_count, beside)
        return self._backward_each(micro_batches, mean_count, beside)

    def _backward_each(self, micro_batches: Sequence[Any], mean_count: float, beside: Any) -> Any:
        """Compute the gradients of a loss that is a mean over rows, one micro-batch at a time.

        Returns the values of the whole batch.
        """
        # Lightning averages the gradients of the processes, hence the factor world_size.
        share = self.trainer.world_size / total(self.trainer, sum(map(len, micro_batches)))
        seen = []
        for i, micro in enumerate(micro_batches):
            with nullcontext() if i == len(micro_batches) - 1 else without_sync(self.trainer):
                value = self._compute_logps(i, micro, mean_count)
                loss = self.objective(self.with_state(self.attach_without_grad(value, beside), update=True))
                self._refuse_non_finite(loss, micro.index)
                self.manual_backward(loss.sum() * share)
            seen.append(map_tensors(value, torch.Tensor.detach))
        return self.with_state(self.attach_without_grad(gather(self.trainer, seen), beside), update=False)

    def _backward_coupled(self, micro_batches: Sequence[Any], mean_count: float, beside: Any) -> Any:
        """Compute the gradients of a loss in which rows depend on each other. Returns the values of the whole batch.

        Gao et al. 2021, https://arxiv.org/abs/2101.06983, section 3.2. The result is exact and costs one more forward:

        1. A pass without gradient computes the values of every micro-batch.
        2. The loss of the whole batch is differentiated with respect to these values.
        3. A second pass propagates these derivatives to the parameters.
        """
        with torch.no_grad():
            seen = [self._compute_logps(i, micro, mean_count) for i, micro in enumerate(micro_batches)]
        own = [map_tensors(value, _leaf) for value in seen]
        whole = self.with_state(self.attach_without_grad(gather(self.trainer, own), beside), update=True)
        loss = self.objective(whole)
        index = torch.cat([micro.index for micro in micro_batches])
        start = rows_before(self.trainer, len(index))
        self._refuse_non_finite(loss[start : start + len(index)], index)
        loss.mean().backward()
        for i, (micro, leaves) in enumerate(zip(micro_batches, own, strict=True)):
            with nullcontext() if i == len(micro_batches) - 1 else without_sync(self.trainer):
                carried = _surrogate_dot(self._compute_logps(i, micro, mean_count), leaves)
                self.manual_backward(torch.stack(carried).sum() * self.trainer.world_size)
        return map_tensors(whole, torch.Tensor.detach)

    def _compute_logps(self, i: int, micro: Any, mean_count: float) -> Any:
        """`compute_logps` for the part of the i-th micro-batch that needs a gradient.

        Raises NonFiniteError or DivergedError if a value is not finite.
        """
        value = self._with_step_seed(i, self.compute_logps, self.with_gradient(micro), mean_count)
        self._refuse_non_finite(self.finiteness_check(value), micro.index, value)
        return value

    def _with_step_seed(self, i: int, look: Callable[[Any, float], Made], micro: Any, mean_count: float) -> Made:
        """Call `compute_logps` with random numbers that depend only on seed, step, process and micro-batch.

        So a resumed run has the same dropout masks, and so does a second pass over the same micro-batch.
        """
        place = (self.seed * 1_000_003 + self.global_step) * 1_009 + i
        _seed(place * self.trainer.world_size + self.trainer.global_rank)
        return look(micro, mean_count)

    def with_state(self, values: Any, *, update: bool) -> Any:
        """The batch with the objective's state. With `update=True`, the state is first updated with this batch."""
        if self.state is None:
            return values
        if update:
            self.state = self.objective.next_state(values, self.state)
        return replace(values, state=self.state)

    @torch.no_grad()
    def metric_values(self, values: Any) -> dict[str, float]:
        """Loss and all metrics of a whole batch as numbers."""
        found = {
            "loss": self.objective(values).mean(),
            **self.compute_metrics(values),
            **self.objective.metrics(values),
        }
        return {name: float(value) for name, value in found.items()}

    def _mean_count(self, batches: Sequence[Any]) -> float:
        """Mean number of tokens per answer that an NLL covers, over all processes."""
        tokens = total(self.trainer, sum(batch.imitated_tokens for batch in batches))
        return tokens / total(self.trainer, sum(map(len, batches)))

    def _clip(self, optimizer: Any) -> float:
        """Clip the gradient to the 2-norm `clip`, if that is above 0. Returns the 2-norm before clipping."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        return float(nn.utils.clip_grad_norm_(parameters, self.clip if self.clip > 0 else float("inf")))

    def _refuse_non_finite(self, numbers: Tensor, index: Tensor, values: Any = None) -> None:
        moves = getattr(self.objective, "moving_reference", False)  # if so, the reference is an earlier policy
        error = non_finite(numbers, index, self.global_step, None if moves else values)
        if error:
            raise error

    def check_start(self, loss: float, values: Any) -> None:
        """Check that the policy equals its reference before the first update.

        Then all log-ratios are 0, and the loss of many objectives is known. With dropout, nothing is checked.
        Raises PolicyIsNotReferenceError if a log-ratio or the loss is wrong.
        """
        if any(isinstance(m, nn.Dropout) and m.p > 0 and m.training for m in self.policy.modules()):
            return
        tolerance, expected = tolerance_of(self.policy), self.objective.loss_at_reference
        faults = (
            [f"log-ratios of up to {far:.6f} nats per token, but all must be 0"]
            if (far := _farthest(values)) > tolerance.start_ratio
            else []
        )
        if expected is not None and abs(loss - expected) > tolerance.start_loss * max(1.0, abs(expected)):
            faults.append(f"first loss is {loss:.6f} but must be {expected:.6f}")
        if faults:
            raise PolicyIsNotReferenceError(
                f"{'; '.join(faults)} while the policy equals its reference\n"
                "  the reference log-probabilities belong to other weights, another tokenizer or another dtype;\n"
                "  type: reference=copy to compute them again"
            )


def non_finite(numbers: Tensor, index: Tensor, step: int, values: Any = None) -> NonFiniteError | None:
    """The error for examples with a number that is not finite; None if all `numbers` [B] are finite.

    index:  [B] places of the examples in the data.
    values: log-probabilities of the examples. If those of the reference are not finite, the run has not diverged,
            because training does not change the reference.
    """
    bad = ~torch.isfinite(numbers)
    if not bad.any():
        return None
    if values is not None and not _finite_reference(values):
        return NonFiniteError(
            f"the reference's log-probabilities are not finite at step {step} for rows "
            f"{index[bad].tolist()} of the data; either the reference's weights or these rows are at fault"
        )
    text = f"log-probabilities or loss are not finite at step {step} for rows {index[bad].tolist()} of the data"
    return _diverged_or_wrong(text, step)


def gradient_not_finite(norm: float, step: int) -> NonFiniteError:
    """The error for a gradient that is not finite although all other numbers are."""
    return _diverged_or_wrong(f"the gradient is not finite at step {step} (2-norm {norm})", step)


def _diverged_or_wrong(text: str, step: int) -> NonFiniteError:
    """DivergedError after the first update. Before it, NonFiniteError: the weights or the data are wrong."""
    if step:
        return DivergedError(text)
    return NonFiniteError(f"{text}: nothing is trained yet, so either the loaded weights or the data are at fault")


def _seed(number: int) -> None:
    """`torch.manual_seed` for the devices in use. torch's own function records a traceback for each unused device."""
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(number)


def _farthest(values: Any) -> float:
    """Largest absolute log-ratio per token of any answer in a batch; 0 without a reference."""
    if isinstance(values, Logps):
        return 0.0 if values.reference is None else float(values.logratio("mean").abs().max())
    parts = [getattr(values, field.name) for field in fields(values)]
    return max([0.0, *(_farthest(part) for part in parts if is_dataclass(part))])


def _finite_reference(values: Any) -> bool:
    """Whether all log-probabilities of the reference are finite."""
    if isinstance(values, Logps):
        seen = (values.reference, values.reference_tokens)
        return all(bool(torch.isfinite(tensor).all()) for tensor in seen if tensor is not None)
    parts = [getattr(values, field.name) for field in fields(values)]
    return all(_finite_reference(part) for part in parts if is_dataclass(part))


def _leaf(value: Tensor) -> Tensor:
    """The tensor as a leaf that collects a gradient, if its type allows that."""
    return value.detach().requires_grad_(value.is_floating_point())


def _surrogate_dot(values: Any, leaves: Any) -> list[Tensor]:
    """For every tensor with a gradient: the sum of the tensor times the gradient of its leaf."""
    dots: list[Tensor] = []
    for field in fields(values):
        value, leaf = getattr(values, field.name), getattr(leaves, field.name)
        if isinstance(value, Tensor) and value.requires_grad and leaf.grad is not None:
            dots.append((value * leaf.grad).sum())
        elif is_dataclass(value):
            dots += _surrogate_dot(value, leaf)
    return dots
