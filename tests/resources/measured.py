"""What torch itself counts: the tensors that are alive before an update, and the allocations of the update."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from alignlab.modules.base import AlignmentModule
from alignlab.modules.online import OnlineModule


@dataclass
class Measured:
    """Bytes of the tensors before the second update, the largest sum of its allocations, and its rows' lengths."""

    before: int = 0
    update: int = 0
    prompt: int = 0
    answer: int = 0

    @property
    def peak(self) -> int:
        return self.before + self.update


@contextmanager
def second_update(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[Measured]:
    """Measure the second update of the training that runs inside the block."""
    found, active = Measured(), False

    def measured(original: Callable[..., Any]) -> Callable[..., Any]:
        def step(self: Any, rows: Any, index: int) -> Any:
            nonlocal active
            if active or self.global_step != 1:
                return original(self, rows, index)
            active = True
            lengths = [(len(prompt), len(answer)) for row in rows for prompt, answer in row.answers()]
            found.prompt, found.answer = max(p for p, _ in lengths), max(a for _, a in lengths)
            found.before = alive(self)
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
                out = original(self, rows, index)
            found.update = largest_sum(seen, folder / "trace.json")
            active = False
            return out

        return step

    for kind in (AlignmentModule, OnlineModule):
        patch.setattr(kind, "training_step", measured(kind.training_step))
    yield found


def alive(module: Any) -> int:
    """Bytes of weights, references and optimizer states; each storage once."""
    models = [module, getattr(module.reference, "model", None)]
    if isinstance(module, OnlineModule):
        models.append(module.context.start.model)
    tensors = [t for model in models if model is not None for t in (*model.parameters(), *model.buffers())]
    for state in module.optimizers().optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def largest_sum(seen: profile, file: Path) -> int:
    """The largest sum of the bytes that were allocated and not yet freed, of a profile."""
    seen.export_chrome_trace(str(file))
    events = [e for e in json.loads(file.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    total = largest = 0
    for event in sorted(events, key=lambda e: float(e["ts"])):
        total += int(event["args"]["Bytes"])
        largest = max(largest, total)
    return largest
