"""Compares `alignlab plan` with measured updates on this machine: memory of the process, and time.

    python -m benchmarks.plan memory     resident memory: SmolLM2-135M with LoRA and in full, at three lengths, with the
                                         memory allocator as it is and with large blocks returned at once
    python -m benchmarks.plan time       seconds of a core: small models of several sizes, at several lengths

Memory is measured in a process of its own for each run. The results are a Markdown table, and go to --json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import machine, machine_line, save, say, scratch, table

# (overrides of the model, name in the table)
SMOLLM2 = (["model=smollm2_135m"], "SmolLM2-135M")
SIZES = ((128, 4), (256, 4), (384, 6))
LENGTHS = {"memory": ((64, 32), (192, 64), (384, 128)), "time": ((12, 6), (32, 16))}

TEXT = "the cat sat on a mat and saw that it was late in the day so he went home to eat and then to bed"

# glibc returns a freed block of at least so many bytes to the system at once, instead of keeping it for later.
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "131072"}

# Updates of a run; those before the second are not measured, since they also create the optimizer's state.
UPDATES = {"memory": 2, "time": 3}

COMMON = [
    "objective=dpo",
    "data=pairs",
    "tracking=none",
    "evaluation=off",
    "trainer.compile=never",
    "trainer.batch_size=2",
    "data.max_length=2000",
    "data.max_prompt_length=1500",
    "trainer.progress=false",
    "trainer.keep=record",
]


@dataclass(frozen=True)
class Point:
    """A measured run.

    prompt, answer: tokens of its rows.
    planned, found: bytes (memory), or operations and seconds of a core (time), of an update.
    seconds:        of a core, for an update.
    """

    name: str
    peft: str
    prompt: int
    answer: int
    planned: float
    found: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "time"))
    parser.add_argument("--json", type=Path, help="file for all measurements")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(asdict(measured(args.what, *json.loads(args.one)))))
        return
    points, returned = [], []
    for setting in settings(args.what):
        if args.what == "time":
            points.append(measured("time", *setting))
        else:
            points.append(in_own_process(*setting))
            returned.append(in_own_process(*setting, **RETURNED))
            say(str(returned[-1]))
        say(str(points[-1]))
    print(machine_line(machine()))
    print(memory_table(points, returned) if args.what == "memory" else time_table(points))
    save(args.json, {"machine": machine(), "points": [asdict(point) for point in (*points, *returned)]})


def in_own_process(*setting: Any, **environment: str) -> Point:
    """A measurement of memory."""
    command = [sys.executable, "-m", "benchmarks.plan", "memory", "--one", json.dumps(setting)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise SystemExit(f"{setting} failed:\n{done.stderr[-3000:]}")
    return Point(**json.loads(done.stdout.splitlines()[-1]))


def settings(what: str) -> Iterator[tuple[str, list[str], str, int, int]]:
    """(name, overrides of the model, peft, prompt, answer) of each run."""
    for prompt, answer in LENGTHS[what]:
        for peft in ("lora", "none"):
            if what == "memory":
                yield SMOLLM2[1], SMOLLM2[0], peft, prompt, answer
                continue
            for hidden, layers in SIZES:
                model = [f"model.{key}={value}" for key, value in size(hidden, layers).items()]
                yield f"{hidden} x {layers}", ["model=tiny", *model], peft, prompt, answer


def size(hidden: int, layers: int) -> dict[str, int]:
    """Sizes of a tiny model."""
    return {"hidden_size": hidden, "layers": layers, "heads": hidden // 64, "intermediate_size": 3 * hidden}


def measured(what: str, name: str, model: Sequence[str], peft: str, prompt: int, answer: int) -> Point:
    """Run DPO on pairs of these lengths, and compare an update with its plan."""
    import hydra
    import peft as _  # noqa: F401  # counts as imported

    from alignlab.cli.main import main as alignlab
    from alignlab.config.paths import conf_dir
    from alignlab.config.plan import plan
    from alignlab.modules.base import AlignmentModule
    from alignlab.resources.memory import memory_of
    from alignlab.resources.setup import setup_of
    from alignlab.resources.work import work_of

    with scratch() as folder:
        write_pairs(folder / "pairs.jsonl", prompt, answer)
        words = [*model, f"peft={peft}", f"data.path={folder}/pairs.jsonl", f"output_root={folder}/outputs"]
        words += [*COMMON, f"trainer.max_steps={UPDATES[what]}"]
        before, found, seconds = resident(), list[float](), list[float]()
        lengths: set[tuple[int, int]] = set()

        def watched(step: Callable[..., Any]) -> Callable[..., Any]:
            def update(self: Any, rows: Any, index: int) -> Any:
                lengths.update((len(p), len(a)) for row in rows for p, a in row.answers())
                forget_peak()
                began = time.process_time()
                out = step(self, rows, index)
                seconds.append(time.process_time() - began)
                found.append(peak() - before if what == "memory" else seconds[-1])
                return out

            return update

        original = AlignmentModule.training_step
        AlignmentModule.training_step = watched(original)  # type: ignore[method-assign]
        try:
            if alignlab(["train", *words]):
                raise SystemExit("the run failed")
        finally:
            AlignmentModule.training_step = original  # type: ignore[method-assign]
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            made = plan(hydra.compose("train", words), words)
        longest = {"prompt": max(p for p, _ in lengths), "answer": max(a for _, a in lengths)}
        setup = setup_of(made, made.train.model.load_config(), **longest)
    planned = memory_of(setup).total if what == "memory" else work_of(setup).operations
    return Point(name, peft, **longest, planned=planned, found=min(found[1:]), seconds=min(seconds[1:]))


def write_pairs(file: Path, prompt: int, answer: int) -> None:
    """Pairs of about so many tokens: words that are one token each for SmolLM2, or bytes."""
    words = TEXT.split()

    def text(row: int, length: int) -> str:
        return " ".join(words[(row * 5 + i * i + i) % len(words)] for i in range(length))

    rows = [
        {"prompt": text(i, prompt), "chosen": text(i + 41, answer), "rejected": text(i + 83, answer)} for i in range(20)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))


def resident() -> int:
    """Resident memory of this process, bytes."""
    return _status("VmRSS")


def peak() -> int:
    """Largest resident memory since `forget_peak`, bytes."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Let Linux count the largest resident memory anew."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def memory_table(points: Sequence[Point], returned: Sequence[Point]) -> str:
    """Planned tensor bytes against the growth of resident memory.

    returned: the same runs with RETURNED.
    """
    rows = []
    for p, r in zip(points, returned, strict=True):
        kept, given = (f"{p.planned / found.found - 1:+.0%}" for found in (p, r))
        sizes = (f"{size / 1e9:.2f}" for size in (p.planned, p.found, r.found))
        planned, found, smaller = sizes
        time_ratio = f"{r.seconds / p.seconds:.2f}"
        rows.append((p.name, p.peft, p.prompt, p.answer, planned, found, kept, smaller, given, time_ratio))
    head = ("model", "peft", "prompt", "answer", "planned GB", "measured GB", "error")
    return table((*head, "returned at once GB", "error", "time of an update"), rows)


@dataclass(frozen=True)
class Fit:
    """seconds = overhead + operations / rate, fitted to the relative errors."""

    overhead: float
    rate: float

    def seconds(self, operations: float) -> float:
        return self.overhead + operations / self.rate


def fit(points: Sequence[Point]) -> Fit:
    """Least squares of the relative errors: minimise sum ((o + w x - y) / y)^2 over o >= 0 and w."""
    import numpy as np

    work = np.array([p.planned for p in points])
    seconds = np.array([p.found for p in points])
    columns = np.stack([1 / seconds, work / seconds], axis=1)
    (overhead, slope), *_ = np.linalg.lstsq(columns, np.ones(len(points)), rcond=None)
    if overhead < 0:
        ratio = work / seconds
        return Fit(0.0, float((ratio @ ratio) / ratio.sum()))
    return Fit(float(overhead), float(1 / slope))


def time_table(points: Sequence[Point]) -> str:
    """The fit, and each point as predicted by the fit to all other models."""
    whole = fit(points)
    rows = []
    for p in points:
        others = fit([q for q in points if q.name != p.name])
        error = others.seconds(p.planned) / p.found - 1
        rows.append((p.name, p.peft, p.prompt, p.answer, f"{p.planned / 1e9:.1f}", f"{p.found:.3f}", f"{error:+.0%}"))
    head = ("hidden x layers", "peft", "prompt", "answer", "10^9 operations", "core seconds", "error")
    return f"{whole.overhead * 1e3:.1f} ms + operations / {whole.rate / 1e9:.1f} * 10^9 a second\n\n{table(head, rows)}"


if __name__ == "__main__":
    main()
