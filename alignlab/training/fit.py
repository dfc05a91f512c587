"""Training proper: Lightning around a module, its metrics written out, the policy evaluated and saved."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl

from alignlab.config.plan import Plan
from alignlab.config.schemas import Train, Trainer
from alignlab.data.datamodule import AlignmentData, MicroBatches
from alignlab.data.layout import Layout
from alignlab.data.tokenize import mean_tokens
from alignlab.judges.base import Judge
from alignlab.models.efficiency import checkpoint_layers, compile_layers, compiler_fault, compiling_pays
from alignlab.models.layout_check import rows_to_look_at
from alignlab.models.reference import Reference
from alignlab.modules.base import AlignmentModule
from alignlab.progress import bars_wanted
from alignlab.runs.directory import RunDir
from alignlab.training.callbacks import Checkpoint, Pruner, UpdatesBar
from alignlab.training.data_shapes import shape_of
from alignlab.training.dataset import RunRows, batch_transform_of, choose_layout_for, load_rows, reference_requests
from alignlab.training.pairs import held_out_pairs
from alignlab.training.pruning import PruningThresholds
from alignlab.training.rollout_setup import online_policy
from alignlab.training.run_recorder import RunRecorder
from alignlab.training.sampling_callback import EvaluationCallback
from alignlab.training.setup import (
    InitialPolicy,
    load_initial_policy,
    log_end_of_turn,
    policy_and_reference,
    save_adapter_base,
)
from alignlab.training.state import read_state, refuse_other_model

log = logging.getLogger(__name__)


def fit(
    plan: Plan,
    run: RunDir,
    *,
    group: str | None,
    done: int,
    thresholds: PruningThresholds | None = None,
    judges: Mapping[str, Judge] | None = None,
) -> dict[str, Any]:
    """Train a plan into its directory, as long as it is not worse than `thresholds`; returns what run.json keeps of it.

    done:   updates that its last state holds, which it goes on from.
    judges: of what is drawn on the way.
    """
    config = plan.train
    start = load_initial_policy(plan)
    pl.seed_everything(
        config.seed, verbose=False
    )  # only now: merging an adapter, which not every run does, uses random numbers
    log_end_of_turn(start)
    save_adapter_base(start)
    rows = load_rows(start)
    with RunRecorder(plan, run, start, rows, group=group, done=done) as point:
        checkpoint = Checkpoint(run, config.trainer.checkpoint_every)
        callbacks: list[pl.Callback] = [point.recorder]
        if config.evaluation.every:
            callbacks.append(EvaluationCallback(plan, run, start, judges or {}, point.recorder))
        callbacks += [checkpoint, *([Pruner(thresholds, point.recorder, checkpoint)] if thresholds else [])]
        trainer = make_trainer(config.trainer, run, callbacks, max_steps=config.trainer.max_steps)
        module, data = _module_and_data(start, rows, trainer)
        data.start = done
        if done:
            trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
            refuse_other_model(run.checkpoint, read_state(run.checkpoint, run)["state_dict"], trained)
        try:
            _train(trainer, module, data, run, resume=done > 0)
        finally:
            checkpoint.restore_signals()
        module.to(trainer.strategy.root_device)
        point.recorder.validate(trainer, module, data)
        return point.finish(module.policy, point.recorder.seconds)


def make_trainer(settings: Trainer, run: RunDir, callbacks: list[Any], **length: int) -> pl.Trainer:
    """Lightning's trainer with everything switched off that is done elsewhere; `length` is when it stops."""
    shown = bars_wanted(settings.progress)
    with lightning_quiet():
        return pl.Trainer(
            **length,  # type: ignore[arg-type]
            accelerator=settings.accelerator,
            devices=1,
            callbacks=[*callbacks, *([UpdatesBar(settings.max_steps)] if shown else [])],
            limit_val_batches=0,  # evaluation is the recorder's: Lightning's own counts batches, and forgets on resume
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=shown,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            default_root_dir=run.path,
        )


def _module_and_data(start: InitialPolicy, rows: RunRows, trainer: pl.Trainer) -> tuple[AlignmentModule, AlignmentData]:
    config = start.plan.train
    settings, needs = config.trainer, config.objective.requires
    shape = shape_of(needs)
    for remark in config.objective.data_warnings(shape.count(rows.train)):
        log.info("%s", remark)

    device = trainer.strategy.root_device
    start.model.to(device)
    layout = choose_layout_for(start, rows.train)
    context = reference = None
    if needs.online:
        policy, context = online_policy(start, layout, rows_to_look_at(start.model, rows.train))
        layout = context.layout
    else:
        policy, reference = policy_and_reference(start, lambda: reference_requests(config, rows), layout, device)
    if settings.gradient_checkpointing:
        checkpoint_layers(policy)
    tokens = settings.max_steps * settings.batch_size * mean_tokens(rows.train)
    if settings.compile == "always" or (settings.compile == "auto" and compiling_pays(policy, int(tokens))):
        if fault := compiler_fault():
            log.warning("the model's layers are not compiled: %s", fault)
        else:
            log.info("the model's layers are compiled at the first update")
            compile_layers(policy)
    beside: dict[str, Any] = {"around": context} if context else {}
    beside["pairs"] = held_out_pairs(start, rows, layout, device, context.start if context else reference)
    module = make_module(config, policy, layout, reference, **beside)
    minibatches, repeats = (config.rollout.minibatches, config.rollout.updates) if needs.online else (1, 1)
    data = AlignmentData(
        rows.train,
        rows.held_out,
        batch_size=settings.batch_size * minibatches,
        repeats=repeats,
        steps=settings.max_steps,
        seed=config.seed,
        batch_transform=batch_transform_of(config),
        sampling=settings.sampling,
    )
    return module, data


def make_module(
    config: Train, policy: Any, layout: Layout, reference: Reference | None, **more: Any
) -> AlignmentModule:
    """What trains the policy by the config's objective; `more` is what modules of its kind take besides."""
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
        **more,
    )


def _train(trainer: pl.Trainer, module: AlignmentModule, data: AlignmentData, run: RunDir, *, resume: bool) -> None:
    """Train to the last step, from the last checkpoint where there is one."""
    with lightning_quiet():
        try:
            trainer.fit(module, datamodule=data, ckpt_path=str(run.checkpoint) if resume else None, weights_only=True)
        except SystemExit as stop:
            if stop.code != 1:  # a scheduler's, which has queued this run again
                raise
            raise KeyboardInterrupt from stop  # 1 is what Lightning makes of it, after its callbacks have seen it


@contextmanager
def lightning_quiet() -> Iterator[None]:
    """Without its advice on data loaders, loggers and checkpoints that are ours to decide."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
