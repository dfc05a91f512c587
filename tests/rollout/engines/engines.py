"""Engines of the tests, which sample as the Hugging Face engine does and say other log-probabilities."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alignlab.checks import finite
from alignlab.errors import Problem
from alignlab.rollout.engines.base import Engine, Sampler
from alignlab.rollout.engines.huggingface import HuggingFace
from alignlab.rollout.sampling import Sample

SERVER = "engine.server=http://127.0.0.1:8000"


@dataclass(kw_only=True)
class Other(Engine):
    """An engine with a copy of the weights.

    off:       added to each log-probability, nats.
    stale:     the weights of the first update are kept.
    silent:    no log-probabilities are given.
    endless:   answers are said not to have ended.
    unchecked: training without log-probabilities is allowed.
    """

    off: float = 0.01
    stale: bool = False
    silent: bool = False
    endless: bool = False
    unchecked: bool = False

    def problems(self) -> Iterator[Problem]:
        yield from finite("off", self.off, example=0.01)

    @property
    def allows_unchecked(self) -> bool:
        return self.unchecked

    def sampler(self) -> Sampler:
        if "_running" not in vars(self):
            self._running = _Copy(self)
        return self._running


class _Copy(Sampler):
    def __init__(self, engine: Other) -> None:
        self._engine, self._model = engine, None

    def update(self, model: Any) -> None:
        if self._model is None or not self._engine.stale:
            self._model = copy.deepcopy(model)

    def sample(self, *asked: Any) -> list[Sample]:
        own = HuggingFace().sampler()
        own.update(self._model)
        return [
            replace(sample, logps=self._said(sample.logps), ended=sample.ended and not self._engine.endless)
            for sample in own.sample(*asked)
        ]

    def _said(self, logps: Sequence[float]) -> list[float]:
        return [] if self._engine.silent else [logp + self._engine.off for logp in logps]
