"""A benchmark: of two results of an addition, the right one must be the likelier one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from alignlab.checks import at_least
from alignlab.errors import Problem
from alignlab.evaluation.benchmarks.base import Benchmark


@dataclass(kw_only=True)
class Additions(Benchmark):
    """Sums of two digits, each with the right result and one that is too large by one.

    items: number of sums.
    """

    items: int = 20

    def problems(self) -> Iterator[Problem]:
        yield from at_least("items", self.items, 1, example=20)

    def scores(self, model: Any, tokenizer: Any) -> Mapping[str, Sequence[float]]:
        sums = [(i % 10, i // 10 % 10) for i in range(self.items)]
        right = [
            float(
                _logp(model, tokenizer, f"{a} + {b} = ", str(a + b))
                > _logp(model, tokenizer, f"{a} + {b} = ", str(a + b + 1))
            )
            for a, b in sums
        ]
        return {"accuracy": right}


def _logp(model: Any, tokenizer: Any, prompt: str, answer: str) -> float:
    """Log-probability of an answer, nats."""
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    own = tokenizer(answer, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([before + own], device=next(model.parameters()).device)
    with torch.no_grad():
        logps = model(input_ids=ids).logits[0].float().log_softmax(-1)
    return float(sum(logps[len(before) + i - 1, token] for i, token in enumerate(own)))
