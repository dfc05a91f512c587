"""The policy itself, as a Hugging Face model (`alignlab.rollout.sampling.draw`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from alignlab.progress import Progress, silent
from alignlab.rollout.engines.base import Engine, Sampler
from alignlab.rollout.sampling import Draw, Sample, draw
from alignlab.rollout.settings import Sampling


@dataclass(kw_only=True)
class HuggingFace(Engine):
    """Samples with the policy's own forward passes, token by token. It needs no second copy of the weights."""

    exact: ClassVar[bool] = True

    def sampler(self) -> Sampler:
        return _OwnPasses()


class _OwnPasses(Sampler):
    def update(self, model: Any) -> None:
        self._model = model

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        draws: Sequence[Draw],
        how: Sampling,
        ends: Sequence[int],
        progress: Progress = silent,
        value: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> list[Sample]:
        numbers = [one.uniforms(how.max_new_tokens) for one in draws]
        return draw(self._model, prompts, numbers, how, ends, progress, value)
