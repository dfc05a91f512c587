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
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from alignlab.data.collate import Batch, LabelledBatch, PairBatch, collate_labelled, collate_pairs, to_device
from alignlab.data.datamodule import MicroBatches
from alignlab.data.layout import Rows
from alignlab.errors import NotEnoughMemoryError
from alignlab.metrics.base import Metric
from alignlab.models.logps import answer_logps, score_answers, score_predictions, summed
from alignlab.models.memory import out_of_memory
from alignlab.models.reference import LiveReference, Reference
from alignlab.modules.answer_metrics import label_metrics, preference_metrics, without_rounding
from alignlab.modules.distributed import gather, of_all, sharding_of, share, total
from alignlab.modules.gradient import backward, clip_and_update
from alignlab.modules.held_out_pairs import HeldOutPairs
from alignlab.modules.validity import check_start, gradient_not_finite, non_finite
from alignlab.objectives.base import Objective
from alignlab.optim.base import Optim
from alignlab.progress import Progress, silent
from alignlab.spelling import counted
from alignlab.types import LabelledLogps, Logps, PairLogps, halves

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
        metrics: Sequence[Metric] = (),
    ) -> None:
        """Arguments that need an explanation:

        clip:        gradients are clipped to this 2-norm; 0 does not clip.
        token_stats: also compute entropy, accuracy and mean logit of every token.
        log_every:   metrics are computed at every so many updates.
        pairs:       held-out pairs (or labels) to measure the policy on, unless its own held-out rows are these.
        metrics:     further metrics of batches.
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
        self.metrics = metrics
        self.state = objective.initial_state()
        self.tokens_seen = 0
        self.rows_seen = 0
        self.last_metrics: dict[str, float] = {}  # of the latest update; empty if it is not logged
        self.samples: list[dict[str, Any]] = []  # answers of the latest update, to show to people
        self.rows_at_work: Sequence[Any] = ()  # of the latest update or evaluation
        self.divided = False  # whether each process holds a part of each weight only
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

    def run(self, compute: Callable[..., Made], *args: Any) -> Made:
        """`compute(*args)`, for which sharded weights are gathered. All passes of an update or evaluation use this."""
        sharding = sharding_of(self.trainer)
        return sharding.run(compute, *args) if sharding else compute(*args)

    def forward(self, compute: Callable[..., Made], *args: Any) -> Made:
        """`compute(*args)`. Sharded weights are gathered for calls of a module (see `run`)."""
        return compute(*args)

    def references(self) -> list[Reference | None]:
        """All references of this run."""
        return [self.reference, self.pairs.reference if self.pairs else None]

    def critics(self) -> list[nn.Module]:
        """Models with a scalar head beside the policy."""
        return []

    def gathered(self) -> AbstractContextManager[None]:
        """A context in which each process holds all weights. All processes enter it together."""
        sharding = sharding_of(self.trainer)
        return sharding.gathered(self) if sharding else nullcontext()

    def configure_model(self) -> None:
        sharding = sharding_of(self.trainer)
        if sharding and sharding.divides_weights and not self.divided:
            references = [one.model for one in self.references() if isinstance(one, LiveReference)]
            # As submodules they belong to the root, whose forward pass gathers their embeddings and output layers too.
            self.beside = nn.ModuleList(dict.fromkeys(model for model in references if model is not self.policy))
            sharding.divide(self, [self.policy, *self.beside, *self.critics()])
            self.divided = True

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
        self.rows_at_work = rows
        began = time.perf_counter()
        step = self.global_step
        self._measured = self.should_log(step)
        optimizer: Any = self.optimizers()
        micro_batches, values = self.within_memory(rows, partial(backward, self))
        means = self.metric_values(values) if self._measured else {}
        if step == 0:
            self.check_start(means["loss"], values)
            means = self.without_rounding(means)
        norm = self._update(optimizer, step)
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
        self.rows_at_work, self._measured = rows, True
        found = self.held_out(rows, progress)
        if self.pairs is not None:
            found |= self._pair_metrics(self.pairs, progress)
        self.policy.train()
        return {"train/global_step": self.global_step, **{f"eval/{name}": value for name, value in found.items()}}

    def held_out(self, rows: Sequence[Any], progress: Progress) -> dict[str, float]:
        """Metrics over all held-out rows as one batch, with dropout off. `rows` are this process's share."""

        def see(batches: Sequence[Any], spare: Sequence[Any]) -> list[Any]:
            mean_count, values = self.mean_count(batches), []
            for batch in progress(batches, "evaluating"):
                values.append(self.run(self.compute_logps, batch, mean_count))
                self.raise_if_not_finite(self.finiteness_check(values[-1]), batch.index, values[-1])
            for batch in spare:
                self.run(self.compute_logps, batch, mean_count)
            return values

        _, values = self.within_memory(rows, see)
        whole = self.with_state(gather(self.trainer, values), update=False)
        return self.metric_values(whole) | {name: float(value) for name, value in self.on_pairs(whole).items()}

    def on_pairs(self, values: Any) -> dict[str, Tensor]:
        """Metrics of the held-out rows that all objectives have, if these are pairs or labels; needs a reference."""
        return {}

    def _pair_metrics(self, pairs: HeldOutPairs, progress: Progress) -> dict[str, float]:
        """Metrics of pairs or labelled answers that are not the objective's own rows. Each process scores its share."""

        def logps(batch: Batch) -> Logps:
            tokens, reference = answer_logps(self.policy, batch.rows), pairs.reference.sums(batch.rows)
            found = Logps(tokens, batch.rows.answer_mask, reference)
            self.raise_if_not_finite(found.checksum.reshape(-1, len(batch)).sum(0), batch.index)
            return found

        def see_pairs(batches: Sequence[PairBatch], spare: Sequence[PairBatch]) -> list[PairLogps]:
            seen = [PairLogps(*halves(self.run(logps, batch))) for batch in progress(batches, "evaluating pairs")]
            for batch in spare:
                self.run(logps, batch)
            return seen

        def see_labels(batches: Sequence[LabelledBatch], spare: Sequence[LabelledBatch]) -> list[LabelledLogps]:
            name = "evaluating labels"
            seen = [LabelledLogps(self.run(logps, batch), batch.desirable) for batch in progress(batches, name)]
            for batch in spare:
                self.run(logps, batch)
            return seen

        own = share(self.trainer, pairs.rows)
        if pairs.are_labelled:
            _, labelled = self.within_memory(own, see_labels, partial(collate_labelled, layout=pairs.layout))
            found = label_metrics(gather(self.trainer, labelled))
        else:
            _, paired = self.within_memory(own, see_pairs, partial(collate_pairs, layout=pairs.layout))
            found = preference_metrics(gather(self.trainer, paired))
        return {name: float(value) for name, value in found.items()}

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
        self,
        rows: Sequence[Any],
        work: Callable[[list[Any], list[Any]], Made],
        collate: Callable[[Any], Any] | None = None,
        *,
        alone: bool = False,
    ) -> tuple[list[Any], Made]:
        """(micro-batches of the rows, result of `work` on them). If memory runs out, smaller ones are tried.

        The smaller size stays for the rest of the run.
        work:    gets the micro-batches, and spare ones (see `_spare`).
        collate: makes a batch of rows, if these are not of the kind that is trained on.
        alone:   whether the other processes do not call this at the same time. There are no spare micro-batches then.
        Raises NotEnoughMemoryError if memory does not suffice for one row.
        """
        device, state = next(self.policy.parameters()).device, self.state
        while True:
            portions = replace(self.micro_batches, collate=collate) if collate else self.micro_batches
            micro_batches = [to_device(micro, device) for micro in portions.of(rows)]
            try:
                return micro_batches, work(micro_batches, [] if alone else self._spare(rows, micro_batches, portions))
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                largest = max(map(len, portions.split_by_budget(rows)))
                if largest > 1 and self.trainer.world_size > 1:  # the others wait for this process's results
                    raise NotEnoughMemoryError(
                        f"not enough memory for {counted(largest, 'row')} on one of several devices at step "
                        f"{self.global_step}\n  type: trainer.micro_batch_size={largest // 2}"
                    ) from error
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

    def _spare(self, rows: Sequence[Any], own: Sequence[Any], portions: MicroBatches) -> list[Any]:
        """Micro-batches that go through the model and do not count, so that all processes make the passes they need.

        With sharding they make equally many. DDP needs one from a process that has no rows.
        """
        if self.trainer.world_size == 1:
            return []
        counts = of_all(self.trainer, len(own))
        least = max(counts) if sharding_of(self.trainer) else 1
        filler = own[0] if own else None
        if not all(counts):
            first = next(part[0] for part in of_all(self.trainer, list(rows[:1])) if part)
            filler = filler or to_device(portions.collate([first]), next(self.policy.parameters()).device)
        return [filler] * (least - len(own))

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
            **{name: value for metric in self.metrics for name, value in metric(values).items()},
        }
        return {name: float(value) for name, value in found.items()}

    def without_rounding(self, means: dict[str, float]) -> dict[str, float]:
        """The metrics of the first batch without those that are rounding errors of the reference."""
        return without_rounding(means, relative=self.objective.requires.reference)

    def mean_count(self, batches: Sequence[Any]) -> float:
        """Mean number of tokens per answer that an NLL covers, over all processes."""
        tokens = total(self.trainer, sum(batch.imitated_tokens for batch in batches))
        return tokens / total(self.trainer, sum(map(len, batches)))

    def _update(self, optimizer: Any, step: int) -> float:
        """Clip the gradient to the 2-norm `clip`, if that is above 0, update the weights, and free the gradient.

        Returns the 2-norm before clipping. Raises NonFiniteError or DivergedError if it is not finite.
        """
        limit, sharding = self.clip if self.clip > 0 else math.inf, sharding_of(self.trainer)
        update = sharding.update if sharding else clip_and_update
        norm = update(optimizer, limit)
        if not math.isfinite(norm):
            raise gradient_not_finite(norm, step)
        return norm

    def check_start(self, loss: float, values: Any) -> None:
        """Raise PolicyIsNotReferenceError if the policy does not equal its reference before the first update."""
        check_start(self.policy, self.objective, loss, values)

    def raise_if_not_finite(self, numbers: Tensor, index: Tensor, values: Any = None) -> None:
        moves = getattr(self.objective, "moving_reference", False)  # if so, the reference is an earlier policy
        error = non_finite(numbers, index, self.global_step, None if moves else values)
        if error:
            raise error
