"""Trains one run with Lightning, evaluates the policy and saves it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch

from alignlab.config.plan import Plan
from alignlab.config.schemas import Train
from alignlab.data.datamodule import AlignmentData, MicroBatches
from alignlab.data.layout import Layout
from alignlab.judges.base import Judge
from alignlab.models.reference import Reference
from alignlab.models.sharding import fill, without_values
from alignlab.modules.base import AlignmentModule
from alignlab.progress import bars_wanted
from alignlab.runs.directory import RunDir
from alignlab.strategies.place import ALONE, Place
from alignlab.tracking.metrics import CHOSEN
from alignlab.training.best_policy import BestPolicy
from alignlab.training.callbacks import Checkpoint, Pruner, UpdatesBar
from alignlab.training.data_shapes import shape_of
from alignlab.training.dataset import RunRows, batch_transform_of, load_starts
from alignlab.training.environment import StartedTogether
from alignlab.training.nonfinite import NonFinite
from alignlab.training.prepare import prepare
from alignlab.training.pruning import PruningThresholds
from alignlab.training.run_recorder import RunRecorder
from alignlab.training.sampling_callback import EvaluationCallback, Standby
from alignlab.training.setup import (
    log_end_of_turn,
    save_adapter_base,
)
from alignlab.training.state import make_whole, read_state, refuse_other_model

log = logging.getLogger(__name__)


def fit(
    plan: Plan,
    run: RunDir,
    *,
    group: str | None,
    done: int,
    thresholds: PruningThresholds | None = None,
    judges: Mapping[str, Judge] | None = None,
    place: Place = ALONE,
    explained: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> dict[str, Any]:
    """Train one run and save its policy. Returns the results for run.json; nothing in a process that does not lead.

    group:      name of the sweep that the run belongs to.
    done:       updates in the saved training state that the run resumes from.
    thresholds: the run is stopped if an evaluation is worse than these.
    judges:     judges of the evaluations during training, by name.
    place:      of this process among those that train the run. Only the first one writes.
    explained:  a context that replaces errors of the connection to other processes by what caused them.
    """
    leads = place.rank == 0
    config = plan.train
    if not leads:  # the leader stores what all of them read: token rows, merged parents, reference log-probabilities
        torch.distributed.barrier()
    ((start, rows),) = load_starts([plan])
    # The seed is set after loading: merging an adapter, which not every run does, uses random numbers.
    pl.seed_everything(config.seed, verbose=False)
    log_end_of_turn(start)
    save_adapter_base(start)
    if config.trainer.max_epochs:
        plan = plan.with_length(len(rows.train))
        config, start = plan.train, replace(start, plan=plan)
    if leads:
        run.update(config=dict(plan.config), reference_weights=start.weights, data=rows.record)
    with RunRecorder(plan, run, start, rows, group=group, done=done, writes=leads) as recorder, explained():
        checkpoint = Checkpoint(run, config.trainer.checkpoint_every, config.trainer.checkpoint_minutes)
        own = [callback.build() for callback in config.callback.values()]
        callbacks: list[pl.Callback] = [*own, recorder.metrics]  # in this order: own ones may add metrics
        sampling = None
        if config.evaluation.every and leads:
            sampling = EvaluationCallback(plan, run, start, judges or {}, recorder.metrics)
            callbacks.append(sampling)
        elif config.evaluation.every:
            callbacks.append(Standby(config.evaluation.every))
        best = None
        if config.trainer.keep_best:
            best = BestPolicy(config.trainer.keep_best, config.trainer.patience, recorder.metrics)
            callbacks.append(best)
        nonfinite = NonFinite(run, start.tokenizer.decode, anomaly=config.trainer.anomaly)
        callbacks += [
            nonfinite,
            checkpoint,
            *([Pruner(thresholds, recorder.metrics, checkpoint)] if thresholds else []),
        ]
        trainer = make_trainer(config, run, callbacks, place, max_steps=config.trainer.max_steps)
        several = place.world > 1
        shards = several and config.strategy.shards_weights
        if leads and done and not shards:
            make_whole(run)
        prepared = prepare(start, rows, trainer.strategy.root_device, shards=shards)
        if leads and several:
            torch.distributed.barrier()
        whole = without_values(prepared.policy) if shards else None
        module = make_module(config, prepared.policy, prepared.layout, prepared.reference, **prepared.extras)
        data = make_data(config, rows, start=done)
        if done:
            trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
            refuse_other_model(run.checkpoint, read_state(run.checkpoint, run)["state_dict"], trained)
        with around_lightning(checkpoint):
            resumed_from = str(run.checkpoint) if done else None
            try:
                trainer.fit(module, datamodule=data, ckpt_path=resumed_from, weights_only=True)
            except RuntimeError as error:
                raise (nonfinite.error_of(error, module.global_step) or error) from error.__cause__
            finally:
                nonfinite.stop()
        module.to(trainer.strategy.root_device)
        with lightning_quiet():
            recorder.metrics.validate(trainer, module, data)
            if whole is not None:
                fill(whole, module.policy, keep=leads)
        policy = module.policy if whole is None else whole
        if not leads:
            return {}
        if sampling:
            recorder.summary["time/sampling_seconds"] = round(sampling.seconds, 2)
        seconds = recorder.metrics.seconds
        chosen = _choose(best, recorder, policy, trainer) if best else {}
        return {**recorder.finish(policy, seconds), **chosen}


def _choose(best: BestPolicy, recorder: RunRecorder, policy: Any, trainer: pl.Trainer) -> dict[str, Any]:
    """Make the best policy the policy of the run, and save the last one if it is another. Returns the record of it."""
    updates = trainer.global_step
    best.consider(updates, policy)
    if best.step != updates:
        recorder.save_last(policy)
        best.restore(policy)
    chosen = best.record(updates, trainer.max_steps)
    log.info("the policy after %d of %d updates is chosen: its %s is the best", best.step, updates, best.metric)
    recorder.summary[f"{CHOSEN}{best.metric}"] = float(best.step)
    return {"chosen": chosen}


def make_trainer(config: Train, run: RunDir, callbacks: list[Any], place: Place = ALONE, **length: int) -> pl.Trainer:
    """Lightning's trainer without the features that alignlab implements itself.

    place:  of this process among those that train the run.
    length: when training stops: `max_steps` or `max_epochs`.
    """
    settings, several = config.trainer, place.world > 1
    shown = bars_wanted(settings.progress) and place.rank == 0
    with lightning_quiet():
        return pl.Trainer(
            **length,  # type: ignore[arg-type]
            accelerator=settings.accelerator,
            devices=place.each,
            num_nodes=place.nodes,
            strategy=config.strategy.build() if several else "auto",
            plugins=[StartedTogether(place)] if several else None,
            callbacks=[*callbacks, *([UpdatesBar(settings.max_steps)] if shown else [])],
            limit_val_batches=0,  # MetricsCallback evaluates: Lightning counts batches, and forgets the count on resume
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=shown,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            default_root_dir=run.path,
        )


def make_module(
    config: Train, policy: Any, layout: Layout, reference: Reference | None, **more: Any
) -> AlignmentModule:
    """The module that trains the policy on the config's objective.

    more: further arguments of the module's class, such as `context` for online objectives.
    """
    settings, shape = config.trainer, shape_of(config.objective.requires)
    return shape.module(
        policy,
        config.objective,
        config.optim,
        MicroBatches(lambda rows: shape.collate(rows, layout), settings.micro_batch_size, settings.micro_batch_tokens),
        max_steps=settings.max_steps,
        clip=settings.gradient_clip,
        seed=config.seed,
        reference=reference,
        token_stats=settings.token_stats,
        log_every=settings.log_every,
        metrics=list(config.metric.values()),
        **more,
    )


def make_data(config: Train, rows: RunRows, *, start: int) -> AlignmentData:
    """The batches of the rows, beginning with update `start`. Each batch of rollouts is used for several updates."""
    settings, rollout = config.trainer, config.rollout
    online = config.objective.requires.online
    data = AlignmentData(
        rows.train,
        rows.held_out,
        batch_size=settings.batch_size * (rollout.minibatches if online else 1),
        repeats=rollout.updates if online else 1,
        steps=settings.max_steps,
        seed=config.seed,
        batch_transform=batch_transform_of(config),
        sampling=settings.sampling,
        divided=not online,
    )
    data.start = start
    return data


@contextmanager
def around_lightning(checkpoint: Checkpoint) -> Iterator[None]:
    """Around `Trainer.fit`: no warnings, KeyboardInterrupt instead of Lightning's exit code, and signals as before."""
    try:
        with lightning_quiet():
            yield
    except SystemExit as stop:
        if stop.code != 1:  # of a cluster's scheduler that has queued this run again
            raise
        raise KeyboardInterrupt from stop  # after its callbacks, Lightning turns this error into exit code 1
    finally:
        checkpoint.restore_signals()


@contextmanager
def lightning_quiet() -> Iterator[None]:
    """Hide Lightning's warnings about data loaders, loggers and checkpoints, which alignlab handles itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
