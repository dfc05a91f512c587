"""Asks the items of benchmarks, and stores the score of each item so that nothing is asked twice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alignlab.errors import DamagedError
from alignlab.evaluation.benchmarked import benchmark_numbers
from alignlab.evaluation.benchmarks.base import Benchmark
from alignlab.evaluation.suite import ModelSide
from alignlab.integrity import json_digest, read_sealed, set_aside, write_sealed
from alignlab.plugins import code_of
from alignlab.training.setup import device_of

log = logging.getLogger(__name__)

# Side -> function that loads it.
Sides = Mapping[str, Callable[[], ModelSide]]


def benchmark_summary(
    benchmarks: Mapping[str, Benchmark], sides: Sides, contents: Mapping[str, str], kept_in: Path, accelerator: str
) -> dict[str, Any]:
    """Benchmark's name -> score -> numbers (`benchmark_numbers`). Sides are loaded only if their scores are not stored.

    sides:    `policy` and, if there is one, `reference`.
    contents: side -> digest of its weights, as far as it is known without loading them.
    kept_in:  folder of stored scores.
    """
    loaded: dict[str, ModelSide] = {}

    def scores(name: str, side: str) -> dict[str, list[float]]:
        benchmark = benchmarks[name]
        about = [type(benchmark).__name__, asdict(benchmark), benchmark.fingerprint(), code_of(type(benchmark))]
        file = kept_in / f"{json_digest([about, contents[side]], 32)}.json"
        if (kept := _kept(file)) is None:
            if side not in loaded:
                loaded[side] = sides[side]()
                loaded[side].model.to(device_of(accelerator)).eval()
            log.info("%s: asking the %s", name, side)
            found = benchmark.scores(loaded[side].model, loaded[side].tokenizer)
            kept = {score: [float(value) for value in values] for score, values in found.items()}
            write_sealed(file, {"benchmark": name, "weights": contents[side], "scores": kept})
        return kept

    return {name: benchmark_numbers({side: scores(name, side) for side in sides}) for name in benchmarks}


def _kept(file: Path) -> dict[str, list[float]] | None:
    try:
        return dict(read_sealed(file)["scores"])
    except FileNotFoundError:
        return None
    except (DamagedError, KeyError, TypeError) as error:
        damaged = error if isinstance(error, DamagedError) else DamagedError(file, "holds no scores")
        log.warning("%s", set_aside(damaged, "the benchmark is asked again"))
        return None
