"""Tables and figure of docs/scale.md: published figures against the plan, costs above 70B, and how both grow.

    python -m benchmarks.scale --figure docs/scale.png

Nothing is measured here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from alignlab.models.adapters.lora import LoRA
from alignlab.models.adapters.none import FullFineTuning
from alignlab.models.known_configs import known_config
from alignlab.resources.advice import devices_for
from alignlab.resources.gpus import GPUS, USABLE
from alignlab.resources.memory import memory_of
from alignlab.resources.setup import Setup
from alignlab.resources.work import seconds_of, work_of
from benchmarks.common import table

GIB = 2**30

LLAMA_8B, LLAMA_70B, LLAMA_405B = (f"meta-llama/Llama-3.1-{size}" for size in ("8B", "70B", "405B"))


@dataclass(frozen=True)
class Published:
    """A figure of torchtune (README of 2024-10): batches of 2 packed rows of 2,048 tokens, layers compiled.

    rank:    of LoRA on all linear layers.
    gib:     peak memory of a device.
    speed:   tokens per second of all devices.
    """

    model: str
    how: str
    gpu: str
    devices: int
    gib: float
    speed: float
    rank: int = 8


PUBLISHED = (
    Published(LLAMA_8B, "LoRA", "rtx4090", 1, 16.2, 3083),
    Published(LLAMA_8B, "QLoRA", "rtx4090", 1, 7.4, 2413),
    Published(LLAMA_70B, "LoRA", "a100_80", 8, 27.6, 3497),
    Published(LLAMA_405B, "QLoRA", "a100_80", 8, 44.8e9 / GIB, 653),
)


def packed(published: Published) -> Setup:
    """The same training as a setup: a row is 2,048 tokens, nearly all of which are predicted."""
    return Setup(
        config=known_config(published.model),
        adapter=LoRA(r=published.rank),
        dtype="bfloat16",
        quantized=published.how == "QLoRA",
        checkpointing=True,
        token_stats=False,
        shared=False,
        rows=2,
        micro_rows=2,
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


# Models of the figure, from small to large.
GROWTH = (
    "HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-360M", "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-3B",
    LLAMA_8B, "Qwen/Qwen2.5-14B", "Qwen/Qwen2.5-32B", "Qwen/Qwen2.5-72B", LLAMA_405B,
)  # fmt: skip


def figure(file: Path) -> None:
    """Memory of one device and GPU hours against parameters, and against the length of rows."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(10, 4), layout="constrained")
    left, right = drawn.subplots(1, 2)
    for how, colour in (("full", "#b2182b"), ("LoRA", "#2166ac")):
        setups = [Job(model, how).setup for model in GROWTH]
        sizes = [setup.shape.weights / 1e9 for setup in setups]
        left.plot(sizes, [memory_of(s).total / GIB for s in setups], "o-", color=colour, label=how)
        seconds = [seconds_of(work_of(s), memory_of(s), GPUS["h100"]) for s in setups]
        right.fill_between(
            sizes,
            [1000 * s.low / 3600 for s in seconds],
            [1000 * s.high / 3600 for s in seconds],
            color=colour,
            alpha=0.3,
            label=how,
        )
    for gpu in ("rtx4090", "h100", "h200"):
        left.axhline(GPUS[gpu].gib, color="grey", linewidth=0.8, linestyle="--")
        left.text(0.13, GPUS[gpu].gib * 1.05, gpu, fontsize=8, color="grey")
    left.set_ylabel("memory on one device at the peak, GiB")
    right.set_ylabel("H100 hours for 1,000 updates of 64 pairs")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="parameters, billions")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    drawn.savefig(file, dpi=150)


def text(head: Sequence[str], rows: Iterator[tuple[str, ...]]) -> str:
    return table(head, list(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, help="file of the figure")
    args = parser.parse_args()
    head = ("model", "what", "devices", "GiB", "planned", "error", "tokens/s", "planned", "share of peak")
    print(text(head, against_published()), end="\n\n")
    print(text(("model", "what", "H100", "GiB each", "tokens/s", "s/update", "GPU hours"), costs()))
    if args.figure:
        figure(args.figure)


if __name__ == "__main__":
    main()
