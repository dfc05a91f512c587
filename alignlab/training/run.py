"""One run from plan to record: parents first, then rows, reference, training, evaluation, and the saved policy."""

from __future__ import annotations

import gc
import logging
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from omegaconf import OmegaConf

from alignlab.config.plan import Plan
from alignlab.data.collate import collate_completions, collate_pairs
from alignlab.data.datamodule import AlignmentData, rows_used
from alignlab.data.fingerprint import digest
from alignlab.data.rows import Split
from alignlab.data.template import Template
from alignlab.data.tokenize import (
    CompletionTokens,
    Cutter,
    LengthReport,
    PairTokens,
    tokenize_completions,
    tokenize_pairs,
)
from alignlab.errors import AlignlabError, DataError
from alignlab.evaluation.exact import completion_logps, exact_metrics
from alignlab.lab.frontier import Frontier
from alignlab.ledger.run_dir import RunDir, write_json
from alignlab.models.reference import Reference, adapter_off, cached, frozen_copy, reference_sums, weights_digest
from alignlab.models.sources.base import load_pretrained
from alignlab.modules.base import AlignmentModule
from alignlab.modules.preference import PreferenceModule
from alignlab.modules.sft import SFTModule
from alignlab.tracking.metrics import check_known
from alignlab.tracking.sinks.base import RunIdentity
from alignlab.tracking.sinks.jsonl import JsonlSink, read_rows
from alignlab.training.callbacks import Checkpoint, Recorder
from alignlab.training.progress import bars_wanted, progress_bar, quiet_libraries

log = logging.getLogger(__name__)

# One module per shape of data; an objective names the shape, never the module.
MODULES: dict[str, type[AlignmentModule]] = {"completions": SFTModule, "pairs": PreferenceModule}
COLLATE: dict[str, Callable[[Any], Any]] = {"completions": collate_completions, "pairs": collate_pairs}


@dataclass(frozen=True)
class Start:
    """The policy before training, as loaded: it is also the reference."""

    model: Any
    tokenizer: Any
    weights: str


def run_plan(plan: Plan, *, group: str | None = None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Run a plan and everything it starts from; return the record (run.json) of the run.

    A finished run is not run again (unless `rerun`), an interrupted one resumes from its last checkpoint, and a run
    that another process has in hand is waited for.
    """
    quiet_libraries()
    for step in plan.chain():
        record = _run_one(step, group=group, overrides=overrides if step is plan else (), leaf=step is plan)
    return record


def _run_one(plan: Plan, *, group: str | None, overrides: Sequence[str], leaf: bool) -> dict[str, Any]:
    train = plan.train
    run = RunDir.of(train.output_root, plan.id)
    with run.lock():
        again = train.rerun and leaf
        if run.status() == "done" and not again:
            log.info("%s: done already, in %s", run.id, run.path)
            return run.record()
        resume = run.checkpoint.is_file() and not again
        run.start(
            OmegaConf.to_yaml(OmegaConf.create(dict(plan.config))),
            fresh=not resume,
            parent=plan.parent.id if plan.parent else None,
            sweep=group,
            overrides=list(overrides),
        )
        handler = _log_to(run.log)
        try:
            log.info("%s: %s", run.id, "resuming" if resume else "starting")
            outcome = _train(plan, run, group=group, resume=resume)
            run.end("done", **outcome)
        except KeyboardInterrupt:
            run.end("interrupted", "stopped from the keyboard")
            raise
        except BaseException as error:
            log.debug("%s", traceback.format_exc())
            run.end("failed", f"{type(error).__name__}: {error}")
            if not isinstance(error, AlignlabError):
                run.log.open("a").write(traceback.format_exc())
            raise
        finally:
            logging.getLogger().removeHandler(handler)
            handler.close()
            gc.collect()  # a sweep in one process starts its next point with this one's memory free
        log.info("%s: done, in %s", run.id, run.path)
        return run.record()


def _train(plan: Plan, run: RunDir, *, group: str | None, resume: bool) -> dict[str, Any]:
    """Everything between the run directory's first and last status; returns what run.json keeps."""
    train, needs = plan.train, plan.train.objective.requires
    bars = bars_wanted(train.trainer.progress)
    pl.seed_everything(train.seed, verbose=False)
    start = _starting_policy(plan, run)
    train_rows, eval_rows, data_record = _rows(plan, start)
    trainer, recorder, sinks = _trainer(plan, run, group, bars, resume=resume)
    used = rows_used(len(train_rows), train.trainer.batch_size, train.seed, train.trainer.max_steps)
    reference, policy = _reference_and_policy(plan, start, [*(train_rows[i] for i in used), *eval_rows], trainer, bars)
    extra = {"reference": reference} if needs.reference else {}
    module = MODULES[needs.data](
        policy,
        train.objective,
        train.optim,
        max_steps=train.trainer.max_steps,
        clip=train.trainer.gradient_clip,
        seed=train.seed,
        **extra,
    )
    data = AlignmentData(
        train_rows,
        eval_rows,
        COLLATE[needs.data],
        batch_size=train.trainer.batch_size,
        micro_batch_size=train.trainer.micro_batch_size,
        steps=train.trainer.max_steps,
        seed=train.seed,
    )
    exact_reference = _exact(start.model, plan, start) if needs.reference else None
    failed = True
    summary: dict[str, float] = {}
    try:
        began = time.perf_counter()
        _fit(trainer, module, data, run, resume=resume)
        summary = _summary(recorder, module, run, time.perf_counter() - began)
        exact_policy = _exact(policy, plan, start)
        if exact_policy is not None and exact_reference is not None and train.data.world is not None:
            summary |= exact_metrics(exact_policy, exact_reference, train.data.world)
            _write_frontier(run, exact_reference, train, summary["exact/kl"])
        _save_policy(policy, start.tokenizer, run)
        check_known(summary)
        failed = False
    finally:
        for sink in sinks:
            sink.finish(summary, failed=failed)
    return {"summary": summary, "data": data_record, "reference_weights": start.weights}


def _starting_policy(plan: Plan, run: RunDir) -> Start:
    """The parent's trained policy, or the weights that the config names."""
    if plan.parent is None:
        model, tokenizer = plan.train.model.load()
        if plan.train.peft.can_switch_off and not model.name_or_path:
            # An adapter is saved with the name of its base; a model built from its config has none until it is saved.
            model.save_pretrained(run.base)
            model.name_or_path = str(run.base.resolve())
    else:
        parent = RunDir.of(plan.train.output_root, plan.parent.id)
        model, tokenizer = load_pretrained(
            str(_full_policy(parent).resolve()),
            dtype=plan.train.model.dtype,
            revision=None,
            attention=getattr(plan.train.model, "attention", "") or None,
            trust_remote_code=getattr(plan.train.model, "trust_remote_code", False),
        )
    return Start(model, tokenizer, weights_digest(model))


def _full_policy(parent: RunDir) -> Path:
    """Folder of the parent's policy as a full model.

    An adapter is merged into its base and written out once: what is trained on top of it then names a base that holds
    the parent's training too, and switching the new adapter off gives the parent back, not the base below it.
    """
    if not (parent.policy / "adapter_config.json").is_file():
        return parent.policy
    with parent.lock():
        if not parent.merged.is_dir():
            log.info("merging the adapter of %s into its base once", parent.id)
            model, tokenizer = load_pretrained(
                str(parent.policy), dtype="float32", revision=None, attention=None, trust_remote_code=False
            )
            scratch = parent.merged.with_suffix(".tmp")
            model.save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)
            scratch.rename(parent.merged)
    return parent.merged


def _rows(plan: Plan, start: Start) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Tokenized training and held-out rows, and the record of what was loaded, left out and cut."""
    train = plan.train
    template = Template(start.tokenizer)
    cut = Cutter(train.data.max_length, train.data.max_prompt_length)
    tokens: dict[Split, list[Any]] = {}
    record: dict[str, Any] = {"fingerprint": train.data.fingerprint()}
    splits: tuple[Split, Split] = ("train", "eval")
    for split in splits:
        tokenized: tuple[list[Any], LengthReport]
        if train.objective.requires.data == "pairs":
            pairs = train.data.pairs(split, lambda world: completion_logps(start.model, start.tokenizer, world))
            tokenized, dropped = tokenize_pairs(pairs.rows, template, cut), pairs.dropped
        else:
            answers = train.data.completions(split)
            tokenized, dropped = tokenize_completions(answers.rows, template, cut), answers.dropped
        tokens[split], report = tokenized
        record[split] = _split_record(tokens[split], dropped, report)
        log.info("%s rows: %s", split, _in_words(record[split]))
        if not tokens[split]:
            raise DataError(f"no {split} rows are left; dropped: {dict(dropped)}")
    return tokens["train"], _renumber(tokens["eval"], len(tokens["train"])), record


def _renumber(rows: list[Any], offset: int) -> list[Any]:
    """Held-out rows follow the training rows in the reference store."""
    return [type(row)(**{**row.__dict__, "index": row.index + offset}) for row in rows]


def _split_record(
    rows: Sequence[PairTokens | CompletionTokens], dropped: Counter[str], report: LengthReport
) -> dict[str, Any]:
    content = digest(repr(tuple(row.__dict__.values())).encode() for row in rows)
    return {"rows": len(rows), "digest": content, "dropped": dict(dropped), **report.summary()}


_PART = {
    "prompt": "prompts",
    "chosen": "chosen answers",
    "rejected": "rejected answers",
    "completion": "answers",
}


def _in_words(record: Mapping[str, Any]) -> str:
    parts = [str(record["rows"])]
    parts += [f"{count} left out ({reason})" for reason, count in record["dropped"].items()]
    parts += [
        f"{100 * value:.1f} % of {_PART[key.removeprefix('truncated_').removesuffix('_frac')]} cut"
        for key, value in record.items()
        if key.startswith("truncated_") and value
    ]
    return ", ".join(parts)


def _reference_and_policy(
    plan: Plan, start: Start, rows: list[Any], trainer: pl.Trainer, bars: bool
) -> tuple[Reference | None, Any]:
    """The reference as the config names it, and the policy that will be trained."""
    train = plan.train
    if not train.objective.requires.reference:
        return None, train.peft.wrap(start.model)
    if train.reference == "adapter_off":
        policy = train.peft.wrap(start.model)
        return adapter_off(policy), policy
    if train.reference == "copy":
        return frozen_copy(start.model), train.peft.wrap(start.model)
    sums = reference_sums(
        start.model,
        rows,
        Path(train.output_root) / "reference",
        weights=start.weights,
        micro_batch_size=train.trainer.micro_batch_size,
        device=trainer.strategy.root_device,
        progress=progress_bar(bars),
    )
    return cached(sums), train.peft.wrap(start.model)


def _trainer(
    plan: Plan, run: RunDir, group: str | None, bars: bool, *, resume: bool
) -> tuple[pl.Trainer, Recorder, list[Any]]:
    train = plan.train
    identity = RunIdentity(
        id=run.id,
        directory=run.path,
        group=group,
        job_type=plan.id.rpartition("-")[0],
        config=plan.config,
    )
    resume_at = int(torch.load(run.checkpoint, weights_only=True)["global_step"]) if resume else 0
    sinks = [JsonlSink(run.metrics, resume_at=resume_at), train.tracking.open(identity)]
    recorder = Recorder(sinks)
    settings = train.trainer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_steps=settings.max_steps,
            accelerator=settings.accelerator,
            devices=settings.devices,
            callbacks=[recorder, Checkpoint(run, settings.checkpoint_every)],
            val_check_interval=settings.eval_every or None,
            check_val_every_n_epoch=None if settings.eval_every else 1,
            limit_val_batches=1.0 if settings.eval_every else 0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=bars,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            default_root_dir=run.path,
        )
    return trainer, recorder, sinks


def _fit(trainer: pl.Trainer, module: AlignmentModule, data: AlignmentData, run: RunDir, *, resume: bool) -> None:
    """Train to the last step and evaluate; from the last checkpoint where there is one."""
    if resume:
        data.start = int(torch.load(run.checkpoint, weights_only=True)["global_step"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            trainer.fit(module, datamodule=data, ckpt_path=str(run.checkpoint) if resume else None, weights_only=True)
        except SystemExit as stop:  # what Lightning makes of a KeyboardInterrupt, after its callbacks have seen it
            raise KeyboardInterrupt from stop
        if module.eval_metrics.get("train/global_step") != trainer.global_step:
            trainer.limit_val_batches = 1.0
            trainer.validate(module, datamodule=data, verbose=False)


def _summary(recorder: Recorder, module: AlignmentModule, run: RunDir, seconds: float) -> dict[str, float]:
    rows = read_rows(run.metrics)
    first = next((row["train/loss"] for row in rows if row.get("train/global_step") == 1 and "train/loss" in row), None)
    return {
        **({"start/loss": first} if first is not None else {}),
        **module.last_metrics,
        **module.eval_metrics,
        "time/train_seconds": round(seconds, 2),
    }


def _exact(model: Any, plan: Plan, start: Start) -> Any:
    world = plan.train.data.world
    return None if world is None else completion_logps(model, start.tokenizer, world)


def _write_frontier(run: RunDir, reference: Any, train: Any, reached: float) -> None:
    """The curve that a figure draws behind the run's point."""
    curve = Frontier(reference, train.data.world.gold_reward).curve(max(6.0, 1.2 * reached))
    write_json(run.frontier, {"kl": [p[0] for p in curve], "reward": [p[1] for p in curve]})


def _save_policy(policy: Any, tokenizer: Any, run: RunDir) -> None:
    """Hugging Face format, adapter or full, with the tokenizer; whole or not at all."""
    scratch = run.policy.with_suffix(".tmp")
    policy.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    scratch.rename(run.policy)


def _log_to(file: Path) -> logging.Handler:
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    return handler
