"""Tables and figure of docs/scale.md: published figures against the plan, costs above 70B, and how needs grow.

    python -m benchmarks.scale --figure docs/scale.png

Nothing is measured here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alignlab.models.adapters.lora import LoRA
from alignlab.models.adapters.none import FullFineTuning
from alignlab.models.known_configs import known_config
from alignlab.resources.advice import devices_for
from alignlab.resources.gpus import GPUS, USABLE
from alignlab.resources.memory import memory_of
from alignlab.resources.setup import Setup
from alignlab.resources.traffic import traffic_of
from alignlab.resources.work import seconds_of, work_of
from benchmarks.common import table

GIB = 2**30

LLAMA_8B, LLAMA_70B, LLAMA_405B = (f"meta-llama/Llama-3.1-{size}" for size in ("8B", "70B", "405B"))


@dataclass(frozen=True)
class Published:
    """A figure of torchtune (README of 2024-09): batches of 2 packed rows of 2,048 tokens, layers compiled.

    gib:     peak memory of a device.
    speed:   tokens per second of all devices.
    rank:    of LoRA, as in torchtune's config of that day, and so are the layers that have it.
    layers:  names of these layers.
    rows:    of a batch.
    """

    model: str
    how: str
    gpu: str
    devices: int
    gib: float
    speed: float
    rank: int = 8
    layers: str = "all-linear"
    rows: int = 2


# The config of 405B has batches of one row, although the README says two for all of its figures.
PUBLISHED = (
    Published(LLAMA_8B, "LoRA", "rtx4090", 1, 16.2, 3083, layers="q_proj,v_proj"),
    Published(LLAMA_8B, "QLoRA", "rtx4090", 1, 7.4, 2413),
    Published(LLAMA_70B, "LoRA", "a100_80", 8, 27.6, 3497, 16, "q_proj,k_proj,v_proj"),
    Published(LLAMA_405B, "QLoRA", "a100_80", 8, 44.8e9 / GIB, 653, 16),
    Published(LLAMA_405B, "QLoRA", "a100_80", 8, 44.8e9 / GIB, 653, 16, rows=1),
)


def packed(published: Published) -> Setup:
    """The same training as a setup: a row is 2,048 tokens, nearly all of which are predicted."""
    return Setup(
        config=known_config(published.model),
        adapter=LoRA(r=published.rank, target_modules=published.layers),
        dtype="bfloat16",
        quantized=published.how == "QLoRA",
        checkpointing=True,
        token_stats=False,
        shared=False,
        rows=published.rows,
        micro_rows=published.rows,
        micro_tokens=10**6,
        prompt=1,
        answer=2047,
        answers=1,
        reference="none",
    )


def against_published() -> Iterator[tuple[str, ...]]:
    """Rows of the table of published figures."""
    for one in PUBLISHED:
        setup = packed(one)
        planned = memory_of(setup, devices=one.devices, strategy="fsdp").total / GIB
        work = work_of(setup)
        reached = work.operations * one.speed / work.tokens / one.devices / GPUS[one.gpu].flops
        seconds = seconds_of(work, memory_of(setup), GPUS[one.gpu])
        speed = [one.devices * work.tokens / s for s in (seconds.high, seconds.low)]
        yield (
            one.model.partition("/")[2],
            one.how,
            f"{one.devices} x {one.gpu}",
            str(one.rows),
            f"{one.gib:.1f}",
            f"{planned:.1f}",
            f"{planned / one.gib - 1:+.0%}",
            f"{one.speed:,.0f}",
            f"{speed[0]:,.0f} to {speed[1]:,.0f}",
            f"{reached:.0%}",
        )


@dataclass(frozen=True)
class Job:
    """A training of the cost table: 1,000 updates of 64 pairs of 512 + 512 tokens, in bfloat16."""

    model: str
    how: str

    @property
    def setup(self) -> Setup:
        adapter = FullFineTuning() if self.how == "full" else LoRA()
        return Setup(
            config=known_config(self.model),
            adapter=adapter,
            dtype="bfloat16",
            checkpointing=True,
            rows=64,
            micro_rows=1,
            prompt=512,
            answer=512,
        )


JOBS = tuple(
    Job(model, how)
    for model in (LLAMA_8B, LLAMA_70B, "Qwen/Qwen2.5-72B-Instruct", LLAMA_405B)
    for how in ("LoRA", "full")
)


def costs(gpu: str = "h100") -> Iterator[tuple[str, ...]]:
    """Rows of the cost table."""
    kind, limit = GPUS[gpu], USABLE * GPUS[gpu].gib * GIB
    for job in JOBS:
        setup = job.setup
        devices = devices_for(setup, limit)
        if devices is None:
            yield (job.model.partition("/")[2], job.how, "-", "-", "-", "-", "-")
            continue
        share = replace(setup, rows=max(1, -(-setup.rows // devices)))
        memory = memory_of(share, devices=devices, strategy="fsdp")
        seconds, tokens = seconds_of(work_of(share), memory, kind), work_of(share).tokens * devices
        hours = [s * 1000 * devices / 3600 for s in (seconds.low, seconds.high)]
        yield (
            job.model.partition("/")[2],
            job.how,
            str(devices),
            f"{memory.total / GIB:.0f}",
            f"{tokens / seconds.high:,.0f} to {tokens / seconds.low:,.0f}",
            f"{seconds.low:.1f} to {seconds.high:.1f}",
            f"{hours[0]:,.0f} to {hours[1]:,.0f}",
        )


def grown() -> Iterator[tuple[str, ...]]:
    """Rows of the table of growth: what changes if one thing of a training on 8 H100 grows."""
    base = replace(Job(LLAMA_8B, "LoRA").setup, rows=8)
    full = replace(Job(LLAMA_8B, "full").setup, rows=8)
    for name, setup, devices, strategy in (
        ("8B, LoRA, 64 pairs of 512 + 512 tokens, 8 devices, `fsdp`", base, 8, "fsdp"),
        ("the same with `ddp`", base, 8, "ddp"),
        ("all weights trained", full, 8, "fsdp"),
        ("8.8 times the parameters (70B)", replace(base, config=known_config(LLAMA_70B)), 8, "fsdp"),
        ("twice the tokens of a row", replace(base, prompt=1024, answer=1024), 8, "fsdp"),
        ("16 times the tokens of a row", replace(base, prompt=8192, answer=8192), 8, "fsdp"),
        ("twice the pairs (128)", replace(base, rows=16), 8, "fsdp"),
        ("twice the nodes (16 devices)", replace(base, rows=4), 16, "fsdp"),
        ("8 times the nodes (64 devices, a pair each)", replace(base, rows=1), 64, "fsdp"),
    ):
        seconds = seconds_of(work_of(setup), memory_of(setup), GPUS["h100"])
        sent = traffic_of(setup, devices=devices, strategy=strategy) / 1e9
        yield (
            name,
            f"{seconds.low:.2g} to {seconds.high:.2g}",
            f"{memory_of(setup, devices=devices, strategy=strategy).total / GIB:.1f}",
            f"{sent:,.0f}" if sent >= 1 else f"{sent:.2g}",
            f"{_two_digits(sent / seconds.high)} to {_two_digits(sent / seconds.low)}",
        )


def _two_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


# Models, tokens of a row and devices of the figure, from small to large.
MODELS = (
    "HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-360M", "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-3B",
    LLAMA_8B, "Qwen/Qwen2.5-14B", "Qwen/Qwen2.5-32B", "Qwen/Qwen2.5-72B", LLAMA_405B,
)  # fmt: skip
LENGTHS = tuple(2**power for power in range(8, 16))
DEVICES = tuple(2**power for power in range(1, 7))


def figure(file: Path) -> None:
    """Memory above time or traffic, against parameters, tokens of a row, and devices."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    drawn = Figure(figsize=(13, 7), layout="constrained")
    (by_size, by_length, by_devices), (hours_by_size, hours_by_length, traffic) = drawn.subplots(2, 3)
    for how, colour in (("full", "#b2182b"), ("LoRA", "#2166ac")):
        models = [Job(model, how).setup for model in MODELS]
        rows = [replace(Job(LLAMA_8B, how).setup, prompt=n // 2, answer=n // 2) for n in LENGTHS]
        shares = [replace(Job(LLAMA_8B, how).setup, rows=64 // n) for n in DEVICES]
        sizes = [setup.shape.weights / 1e9 for setup in models]
        for axes, hours, values, setups in (
            (by_size, hours_by_size, sizes, models),
            (by_length, hours_by_length, LENGTHS, rows),
        ):
            axes.plot(values, [memory_of(s).total / GIB for s in setups], "o-", color=colour, label=how)
            _draw_hours(hours, values, setups, how, colour)
        for strategy, line in (("ddp", "o--"), ("fsdp", "o-")):
            both = [(n, share) for n, share in zip(DEVICES, shares, strict=True)]
            held = [memory_of(share, devices=n, strategy=strategy).total / GIB for n, share in both]
            sent = [traffic_of(share, devices=n, strategy=strategy) / 1e9 for n, share in both]
            by_devices.plot(DEVICES, held, line, color=colour, label=f"{how}, {strategy}")
            traffic.plot(DEVICES, sent, line, color=colour, label=f"{how}, {strategy}")
    for gpu in ("rtx4090", "h100", "h200"):
        by_size.axhline(GPUS[gpu].gib, color="grey", linewidth=0.8, linestyle="--")
        by_size.text(0.13, GPUS[gpu].gib * 1.05, gpu, fontsize=8, color="grey")
    by_size.set_ylabel("memory of one device at the peak, GiB")
    hours_by_size.set_ylabel("H100 hours for 1,000 updates of 64 pairs")
    traffic.set_ylabel("GB that a device sends in an update")
    below = ("parameters, billions", "tokens of prompt and answer (8B)", "devices (8B, 64 pairs of 512 + 512 tokens)")
    columns = ((by_size, hours_by_size), (by_length, hours_by_length), (by_devices, traffic))
    for column, label in zip(columns, below, strict=True):
        for axes in column:
            axes.set(xscale="log", yscale="log", xlabel=label)
            axes.legend(frameon=False, fontsize=8)
            axes.spines[["top", "right"]].set_visible(False)
            axes.yaxis.set_minor_formatter(NullFormatter())
    for axes in (by_devices, traffic):
        axes.set_xticks(DEVICES, list(map(str, DEVICES)))
        axes.xaxis.set_minor_locator(NullLocator())
    for axes in (by_size, by_length, by_devices):
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
    drawn.savefig(file, dpi=120)


def _draw_hours(axes: Any, values: Sequence[float], setups: Sequence[Setup], label: str, colour: str) -> None:
    seconds = [seconds_of(work_of(setup), memory_of(setup), GPUS["h100"]) for setup in setups]
    low, high = [[1000 * s.low / 3600 for s in seconds], [1000 * s.high / 3600 for s in seconds]]
    axes.fill_between(values, low, high, color=colour, alpha=0.3, label=label)


def text(head: Sequence[str], rows: Iterator[tuple[str, ...]]) -> str:
    return table(head, list(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, help="file of the figure")
    args = parser.parse_args()
    head = ("model", "what", "devices", "rows", "GiB each", "planned", "error", "tokens/s", "planned", "share of peak")
    print(text(head, against_published()), end="\n\n")
    print(text(("model", "what", "H100", "GiB each", "tokens/s", "s/update", "GPU hours"), costs()), end="\n\n")
    print(text(("training", "s/update", "GiB of a device", "GB that it sends", "GB/s"), grown()))
    if args.figure:
        figure(args.figure)


if __name__ == "__main__":
    main()
