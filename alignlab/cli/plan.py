"""`alignlab plan`: memory, devices and time of a run, before it starts and without its weights."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from alignlab.cli.hydra_app import run_app
from alignlab.cli.refusal import print_error
from alignlab.errors import ConfigError, Problem
from alignlab.resources.gpus import GPUS
from alignlab.spelling import correct_spelling, counted
from alignlab.strategies.deepspeed import DeepSpeed

if TYPE_CHECKING:
    from alignlab.config.schemas import Train
    from alignlab.resources.estimate import Estimate, Machine, Range

_HELP = f"""usage: alignlab plan [key=value ...] [flags]

Prints what a run with these settings of `train` needs: the memory of a device at its peak, part by part, devices, time,
traffic between devices, and what to change if it does not fit. Nothing is loaded or downloaded. The numbers are
estimates (docs/scale.md).

  --gpu NAME       kind of device (default: h100): {", ".join(GPUS)}
  --devices N      number of devices that share each update (default: trainer.devices times trainer.nodes)
  --strategy NAME  how they share it: ddp, zero2, zero3 or fsdp (default: that of `strategy`). zero2 and zero3 are
                   strategy=deepspeed with strategy.stage=2 and 3; memory counts its strategy.offload
  --prompt N       tokens of a prompt (default: data.max_prompt_length)
  --answer N       tokens of an answer (default: what data.max_length leaves for it, or rollout.max_new_tokens)
  --json           print one JSON document. Its parts memory, micro_batch, work and traffic are of one device.
                   seconds_per_update is the same for each of them; tokens_per_second and gpu_hours are of all devices
                   together. time_is_lower_bound is true for small models, whose time is at least the lower number"""

_STRATEGIES = ("ddp", "zero2", "zero3", "fsdp")

_FLAGS = ("--gpu", "--devices", "--strategy", "--prompt", "--answer", "--json")

_flags = argparse.Namespace(gpu="h100", devices=None, strategy=None, prompt=None, answer=None, json=False)

_GIB = 2**30


def main(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    global _flags
    if {"-h", "--help"} & set(argv):
        print(_HELP)
        return 0
    parser = argparse.ArgumentParser("alignlab plan", usage=_HELP.removeprefix("usage: "), add_help=False)
    parser.add_argument("--gpu", default="h100")
    parser.add_argument("--strategy")
    parser.add_argument("--json", action="store_true")
    for name in ("devices", "prompt", "answer"):
        parser.add_argument(f"--{name}", type=int)
    try:
        _flags, words = parser.parse_known_args(argv)
    except SystemExit as stop:  # argparse has printed what is wrong
        return int(stop.code or 0)
    if unknown := list(_unknown_flags(words)):
        return print_error(ConfigError(unknown), words)
    _flags.gpu = _flags.gpu.lower().replace("-", "_")
    many = [w for w in words if w in ("-m", "--multirun") or w.lstrip("+").startswith("sweep=")]
    if many:
        print(f"alignlab: plan is about one run; leave out: {' '.join(many)}")
        return 2
    return run_app("train", _task, words)


def _task(config: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig

    from alignlab.config.plan import plan
    from alignlab.config.preflight import PreflightCache

    problems = list(_problems())
    if problems:
        raise ConfigError(problems)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # its notices are about training
    from alignlab.resources.estimate import Machine, estimate
    from alignlab.resources.work import Range

    made = plan(config, HydraConfig.get().overrides.task, PreflightCache(files=False))
    if problems := list(_problems_with(made.train)):
        raise ConfigError(problems)
    trainer, strategy = made.train.trainer, made.train.strategy
    own = f"zero{strategy.stage}" if isinstance(strategy, DeepSpeed) else "fsdp" if strategy.shards_weights else "ddp"
    machine = Machine(GPUS[_flags.gpu], _flags.devices or trainer.devices * trainer.nodes, _flags.strategy or own)
    runs = [estimate(run, machine, prompt=_flags.prompt, answer=_flags.answer) for run in made.chain()]
    if _flags.json:
        print(json.dumps({"runs": [run.record() for run in runs]}, indent=1))
        return
    for run in runs:
        print("\n".join(_lines(run)))
    if len(runs) > 1:
        hours = [run.gpu_hours for run in runs if run.updates]
        if len(hours) == len(runs):
            low, high = sum(one.low for one in hours), sum(one.high for one in hours)
            known = f"at least {_number(low)}" if any(run.only_at_least for run in runs) else _range(Range(low, high))
            print(f"all {len(runs)} runs: {known} GPU hours")


def _unknown_flags(words: Sequence[str]) -> Iterator[Problem]:
    """The problems of flags that resemble one of this verb. Others are left to Hydra."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        near = get_close_matches(name, _FLAGS, n=1, cutoff=0.75) if name.startswith("--") else []
        if near:
            value = value if equals or following.startswith("-") or "=" in following else following
            yield Problem(name, None, f"no such flag; there are: {', '.join(_FLAGS)}", f"{near[0]} {value or '...'}")


def _problems() -> Iterator[Problem]:
    if _flags.gpu not in GPUS:
        longer = [name for name in GPUS if name.startswith(_flags.gpu) or name.endswith(_flags.gpu)]
        near = longer or [guess for guess in [correct_spelling(_flags.gpu, GPUS)] if guess]
        fix = "   or   ".join(f"--gpu {name}" for name in near)
        yield Problem("--gpu", _flags.gpu, f"must be one of: {', '.join(GPUS)}", fix)
    if _flags.strategy not in (None, *_STRATEGIES):
        zero = _flags.strategy.startswith(("zero", "deepspeed"))
        fix = "--strategy zero2   or   --strategy zero3" if zero else "--strategy fsdp"
        yield Problem("--strategy", _flags.strategy, f"must be one of: {', '.join(_STRATEGIES)}", fix)
    for name, example in (("devices", 8), ("prompt", 384), ("answer", 128)):
        value = getattr(_flags, name)
        if value is not None and value < 1:
            yield Problem(f"--{name}", value, "must be at least 1", f"--{name} {example}")


def _problems_with(train: Train) -> Iterator[Problem]:
    """Problems of --devices and --strategy with a run, as `train` would have them with trainer.devices and strategy."""
    rows, devices = train.trainer.batch_size, _flags.devices or 1
    if rows % devices:
        text = f"trainer.batch_size={rows} must be a multiple of the number of devices"
        yield Problem("--devices", devices, text, f"trainer.batch_size={max(1, round(rows / devices)) * devices}")
    if _flags.strategy in ("fsdp", "zero3") and not train.model.trainable:
        yield Problem("--strategy", _flags.strategy, "can't divide weights of 4 bits", "--strategy ddp")
    if _flags.strategy not in (None, "ddp") and not train.optim.works_on_parts:
        yield Problem("--strategy", _flags.strategy, "can't divide the state of this optimizer", "--strategy ddp")


def _lines(run: Estimate) -> Iterator[str]:
    setup, machine, memory = run.setup, run.machine, run.memory
    gpu = machine.gpu
    yield f"{run.id}: {run.model}"
    share = setup.trained / (setup.shape.weights + setup.shape.added)
    yield (
        f"  {_short(setup.shape.weights)} parameters, {_short(setup.trained)} trained ({share:.2%}), "
        f"{'linear layers in 4 bits' if setup.quantized else setup.dtype}"
    )
    yield (
        f"  an update: {counted(setup.rows, 'row')} with {counted(setup.answers, 'answer')} on a device; "
        f"prompts up to {counted(setup.prompt, 'token')}, answers up to {setup.answer}"
    )
    yield f"  a forward pass: {counted(setup.sequences, 'sequence')} of {setup.length} tokens"
    yield f"memory of a device at the peak, GiB ({_devices(machine.devices)}{_how(machine)}):"
    if machine.devices == 1 and _flags.strategy:
        yield f"  one device has no use for --strategy {_flags.strategy}; add --devices N to plan for several"
    for part in fields(memory):
        if value := getattr(memory, part.name):
            yield f"  {part.name:<12} {value / _GIB:9.2f}"
    verdict = "fits" if run.fits else "does not fit"
    yield f"  {'total':<12} {memory.total / _GIB:9.2f}   {verdict} on {gpu.name} ({gpu.gib:g} GiB, 90 % for tensors)"
    if run.offloaded:
        yield (
            f"  {'offloaded':<12} {run.offloaded / _GIB:9.2f}   in the memory of the machine, for each device; the "
            "time below is without the transfers and the update on the CPU"
        )
    if not run.fits:
        yield from _changes(run)
    yield from _time(run)


def _time(run: Estimate) -> Iterator[str]:
    from alignlab.resources.estimate import SMALL

    setup, machine = run.setup, run.machine
    together = "" if machine.devices == 1 else f" on {_devices(machine.devices)} together"
    length = f"{run.updates:,} updates" if run.updates else "1,000 updates (trainer.max_epochs decides their number)"
    if run.only_at_least:
        yield f"time of an update on {machine.gpu.name}: at least {_number(run.seconds.low)} s"
        yield f"  {length}: at least {_number(run.gpu_hours.low)} GPU hours"
        yield (
            f"  a model below {_short(SMALL)} parameters takes longer: the time to start kernels, which can be most of "
            "it, is not counted"
        )
    else:
        tokens = f"{_range(run.tokens_per_second)} tokens/s{together}"
        yield f"time of an update on {machine.gpu.name}: {_range(run.seconds)} s; {tokens}"
        yield f"  {length}: {_range(run.gpu_hours)} GPU hours"
    if setup.batches_sampled == 1:
        yield "  sampling reads all weights for each token; more devices do not shorten this part of the time"
    if machine.devices > 1:
        speed = run.bytes_per_second.times(1e-9)
        yield (
            f"network: each device sends {_number(run.traffic / 1e9)} GB in an update, which takes as long as the "
            f"computation at {f'no more than {_number(speed.high)}' if run.only_at_least else _range(speed)} GB/s"
        )


def _changes(run: Estimate) -> Iterator[str]:
    rows = run.setup.rows * run.machine.devices  # of an update
    how = "strategy=deepspeed strategy.stage=3" if run.sharing == "zero3" else "strategy=fsdp"
    if run.needed is None:
        yield "  no number of devices holds it as it is"
    elif rows % run.needed == 0:
        how = f"trainer.devices={run.needed} {how}"
        yield f"  as it is, it fits on {_devices(run.needed)} that share the weights ({how})"
    else:
        how = f"trainer.devices={run.needed} {how} trainer.batch_size={run.needed}"
        yield f"  with a larger batch, it fits on {_devices(run.needed)} that share the weights ({how})"
    if run.advice:
        yield "  or change, one after another:"
        for one in run.advice:
            note = "   changes the results" if one.changes else ""
            yield f"    {one.words[-1]:<38} {one.memory.total / _GIB:9.2f} GiB{note}"
        last = run.advice[-1]
        enough = last.memory.total <= run.machine.limit
        yield f"  {'type' if enough else 'still too large with'}: {' '.join(last.words)}"
    else:
        yield "  no setting would make it smaller; shorten the rows (data.max_length)"


def _devices(count: int) -> str:
    return counted(count, "device")


def _how(machine: Machine) -> str:
    return f", {machine.strategy}" if machine.devices > 1 else ""


def _range(of: Range) -> str:
    return f"{_number(of.low)} to {_number(of.high)}"


def _number(value: float) -> str:
    """A number with two significant digits, or as a whole number if it is large."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _short(count: int) -> str:
    """A number of parameters: 8.03 B, 41.9 M."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            return f"{count / size:.3g} {unit}"
    return str(count)
