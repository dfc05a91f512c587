"""Training proper: Lightning around a module, its metrics written out, the policy evaluated and saved."""

from __future__ import annotations

import logging
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch

from alignlab.config.plan import Plan
from alignlab.data.datamodule import AlignmentData, MicroBatches
from alignlab.data.tokenize import mean_tokens
from alignlab.evaluation.exact import completion_logps, exact_metrics
from alignlab.lab.frontier import Frontier
from alignlab.ledger.run_dir import RunDir, write_json
from alignlab.models.economy import checkpoint_layers, compile_layers, compiler_fault, compiling_pays
from alignlab.models.quantization import save_quantization
from alignlab.modules.base import AlignmentModule
from alignlab.tracking.metrics import TAIL, check_known
from alignlab.tracking.sinks.base import RunIdentity, Sink
from alignlab.tracking.sinks.jsonl import JsonlSink, read_rows
from alignlab.training.callbacks import Checkpoint, Recorder
from alignlab.training.progress import bars_wanted, progress_bar
from alignlab.training.rows import RunRows, asked_of_reference, choose_layout_for, couple_of, load_rows
from alignlab.training.shapes import SHAPES
from alignlab.training.start import Start, load_start, name_base, policy_and_reference

log = logging.getLogger(__name__)

# How far past its own KL a run's frontier is drawn, and at least how far.
_CURVE_BEYOND, _CURVE_AT_LEAST = 1.2, 6.0


def fit(plan: Plan, run: RunDir, *, group: str | None, resume: bool) -> dict[str, Any]:
    """Train a plan into its directory; returns what run.json keeps of it."""
    config = plan.train
    pl.seed_everything(config.seed, verbose=False)
    start = load_start(plan)
    name_base(start, run)
    rows = load_rows(start)
    done = int(torch.load(run.checkpoint, weights_only=True)["global_step"]) if resume else 0
    before = start.exact_logps if config.data.world is not None and config.reference_kind != "none" else None
    facts = {"data/record": rows.record, "ref/digest": start.weights}
    spoken = ", ".join(config.objective.spoken())
    facts["objective/dialect"] = spoken
    with _sinks(plan, run, group, done, facts) as (sinks, summary):
        recorder = Recorder(sinks, config.trainer.eval_every, progress_bar(bars_wanted(config.trainer.progress)))
        recorder.eval_metrics = next((row for row in reversed(read_rows(run.metrics)) if "eval/loss" in row), {})
        checkpoint = Checkpoint(run, config.trainer.checkpoint_every)
        trainer = _trainer(plan, run, [recorder, checkpoint])
        module, data = _module_and_data(start, rows, trainer)
        data.start = done
        began = time.perf_counter()
        try:
            _train(trainer, module, data, run, resume=resume)
        finally:
            checkpoint.restore_signals()
        module.to(trainer.strategy.root_device)
        recorder.evaluate(trainer, module, data)
        summary |= {
            f"{split}/tokens/truncated_frac": rows.record[split]["truncated_frac"] for split in ("train", "eval")
        }
        summary |= _summary(recorder, run, time.perf_counter() - began)
        if before is not None:
            summary |= _exact(start, before, module.policy, run)
        _save(module.policy, start.tokenizer, run)
        check_known(summary)
    return {
        "summary": summary,
        "objective": {"name": plan.id.rpartition("-")[0], **plan.config["objective"], "spoken": spoken},
        "data": rows.record,
        "model": {"fingerprint": config.model.fingerprint(), "reference_weights": start.weights},
    }


@contextmanager
def _sinks(
    plan: Plan, run: RunDir, group: str | None, done: int, facts: Mapping[str, Any]
) -> Iterator[tuple[list[Sink], dict[str, float]]]:
    """Open sinks and a summary to fill; whatever happens inside, every sink is told how it ended."""
    kind = plan.id.rpartition("-")[0]
    config = {**plan.config, "job/hash": plan.id, "sweep/id": group, **facts}
    identity = RunIdentity(id=run.id, directory=run.path, group=group, job_type=kind, config=config)
    sinks = [JsonlSink(run.metrics, resume_at=done), plan.train.tracking.open(identity)]
    summary: dict[str, float] = {}
    failed = True
    try:
        yield sinks, summary
        failed = False
    finally:
        for sink in sinks:
            sink.finish(summary, failed=failed)


def _trainer(plan: Plan, run: RunDir, callbacks: list[Any]) -> pl.Trainer:
    settings = plan.train.trainer
    with _lightning_quiet():
        return pl.Trainer(
            max_steps=settings.max_steps,
            accelerator=settings.accelerator,
            devices=1,
            callbacks=callbacks,
            limit_val_batches=0,  # evaluation is the recorder's: Lightning's own counts batches, and forgets on resume
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=bars_wanted(settings.progress),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            default_root_dir=run.path,
        )


def _module_and_data(start: Start, rows: RunRows, trainer: pl.Trainer) -> tuple[AlignmentModule, AlignmentData]:
    config = start.plan.train
    settings, needs = config.trainer, config.objective.requires
    shape = SHAPES[needs.data]
    for remark in config.objective.remarks(shape.count(rows.train)):
        log.info("%s", remark)

    device = trainer.strategy.root_device
    start.model.to(device)
    layout = choose_layout_for(start, rows.train)
    policy, reference = policy_and_reference(start, lambda: asked_of_reference(config, rows), layout, device)
    if settings.gradient_checkpointing:
        checkpoint_layers(policy)
    tokens = settings.max_steps * settings.batch_size * mean_tokens(rows.train)
    if settings.compile == "always" or (settings.compile == "auto" and compiling_pays(policy, int(tokens))):
        if fault := compiler_fault():
            log.warning("the model's layers are not compiled: %s", fault)
        else:
            log.info("the model's layers are compiled at the first update")
            compile_layers(policy)
    module = shape.module(
        policy,
        config.objective,
        config.optim,
        MicroBatches(lambda rows: shape.collate(rows, layout), settings.micro_batch_size, settings.micro_batch_tokens),
        max_steps=settings.max_steps,
        clip=settings.gradient_clip,
        seed=config.seed,
        reference=reference,
        token_stats=settings.token_stats,
    )
    data = AlignmentData(
        rows.train,
        rows.held_out,
        batch_size=settings.batch_size,
        steps=settings.max_steps,
        seed=config.seed,
        couple=couple_of(config),
    )
    return module, data


def _train(trainer: pl.Trainer, module: AlignmentModule, data: AlignmentData, run: RunDir, *, resume: bool) -> None:
    """Train to the last step, from the last checkpoint where there is one."""
    with _lightning_quiet():
        try:
            trainer.fit(module, datamodule=data, ckpt_path=str(run.checkpoint) if resume else None, weights_only=True)
        except SystemExit as stop:  # what Lightning makes of a KeyboardInterrupt, after its callbacks have seen it
            raise KeyboardInterrupt from stop


def _summary(recorder: Recorder, run: RunDir, seconds: float) -> dict[str, float]:
    """First loss, means over the last tenth of the updates, last step's metrics, last evaluation's metrics."""
    steps = [row for row in read_rows(run.metrics) if "train/loss" in row]
    tail = steps[-max(1, len(steps) // 10) :]
    return {
        "start/loss": steps[0]["train/loss"],
        **{
            f"tail/{name}": sum(values) / len(values)
            for name in TAIL
            if (values := [row[f"train/{name}"] for row in tail if f"train/{name}" in row])
        },
        **steps[-1],
        **recorder.eval_metrics,
        "time/train_seconds": round(seconds, 2),
    }


def _exact(start: Start, before: Any, policy: Any, run: RunDir) -> dict[str, float]:
    """Exact metrics of the trained policy; the frontier of its reference is stored for figures."""
    world = start.plan.train.data.world
    assert world is not None
    found = exact_metrics(completion_logps(policy, start.tokenizer, world), before, world)
    reach = max(_CURVE_AT_LEAST, _CURVE_BEYOND * found["exact/kl"])
    curve = Frontier(before, world.gold_reward).curve(reach)
    write_json(run.frontier, {"kl": [point[0] for point in curve], "reward": [point[1] for point in curve]})
    return found


def _save(policy: Any, tokenizer: Any, run: RunDir) -> None:
    """Hugging Face format, adapter or full, with the tokenizer; whole or not at all."""
    scratch = run.policy.with_suffix(".tmp")
    for left_over in (scratch, run.policy):  # of an attempt that was stopped between saving and its last status
        shutil.rmtree(left_over, ignore_errors=True)
    policy.save_pretrained(scratch)
    if (scratch / "adapter_config.json").is_file():
        save_quantization(policy, scratch)
    tokenizer.save_pretrained(scratch)
    scratch.rename(run.policy)


@contextmanager
def _lightning_quiet() -> Iterator[None]:
    """Without its advice on data loaders, loggers and checkpoints that are ours to decide."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
