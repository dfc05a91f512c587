"""Engines: the software that samples answers of a policy, for online training, evaluation and synthesis."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from alignlab.checks import Checked
from alignlab.data.layout import PLAIN
from alignlab.errors import EngineError, Problem
from alignlab.models.reference import ScoringOptions, token_logps
from alignlab.progress import Progress, silent
from alignlab.rollout.sampling import Draw, Sample
from alignlab.rollout.settings import Sampling

log = logging.getLogger(__name__)

# Largest mean distance between log-probabilities of sampled tokens from an engine and from the policy, nats per token.
AGREEMENT = 0.05

# Number of answers that are scored by the policy to check an engine outside of training, and tokens of a forward pass.
_CHECKED, _TOKENS = 8, 4096


class Sampler(ABC):
    """A running engine. `update` comes before the first `sample`."""

    @abstractmethod
    def update(self, model: Any) -> None:
        """Sample with the weights that `model` has now. An adapter that is switched off is left out."""

    @abstractmethod
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        draws: Sequence[Draw],
        how: Sampling,
        ends: Sequence[int],
        progress: Progress = silent,
        value: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> list[Sample]:
        """One answer to each prompt (token ids).

        draws: for each prompt what decides its answer.
        ends:  ids of the tokens that end an answer, at least one.
        value: [B, H] last hidden states -> [B] values before the tokens that they predict. Only exact engines get it.

        Raises DataError if prompt and answer exceed the model's positions.
        """


@dataclass(kw_only=True)
class Engine(Checked, ABC):
    """Base of engines."""

    # Whether the samples are those of the policy's own forward passes, as are their log-probabilities. The log-
    # probabilities of other engines are computed again by the policy, and the two are compared.
    exact: ClassVar[bool] = False

    @property
    def identity(self) -> str:
        """The name of this engine in ids of runs and keys of stored answers. Empty for exact engines."""
        return "" if self.exact else type(self).__module__.rpartition(".")[2]

    @property
    def allows_unchecked(self) -> bool:
        """Whether a run may train on answers without log-probabilities, which can't be compared with the policy's."""
        return False

    def missing(self) -> Iterator[Problem]:
        """Problems of packages that are not installed. They are checked before anything is loaded."""
        return iter(())

    @abstractmethod
    def sampler(self) -> Sampler:
        """The running engine. Engines that hold weights of their own run once in a process."""

    def check(
        self, model: Any, prompts: Sequence[Sequence[int]], samples: Sequence[Sample], how: Sampling
    ) -> float | None:
        """Compare the log-probabilities of a few short answers with those that the policy computes (see `compared`).

        Exact engines are not checked.
        """
        if self.exact or not samples:
            return None
        pairs = sorted(zip(prompts, samples, strict=True), key=lambda pair: len(pair[0]) + len(pair[1].ids))[:_CHECKED]
        device = next(model.parameters()).device
        options = ScoringOptions(PLAIN, _CHECKED, _TOKENS, device, lambda parts, what: parts)
        rows = [(list(prompt), sample.ids) for prompt, sample in pairs]
        scored = token_logps(model, rows, options, how.temperature)
        return self.compared([sample for _, sample in pairs], [row.tolist() for row in scored])

    def compared(
        self, samples: Sequence[Sample], logps: Sequence[Sequence[float]], *, training: bool = False
    ) -> float | None:
        """Mean difference between the log-probabilities of samples from this engine and `logps`, nats per token.

        logps:    log-probabilities of the same tokens under the policy. Further columns are ignored.
        training: whether the policy will train on the samples.

        None if the engine gives no log-probabilities. It is unchecked then, which the log says.
        Raises EngineError if the difference exceeds AGREEMENT, or if the engine is unchecked in training and its
        settings do not allow that.
        """
        name = self.identity
        if not all(sample.logps for sample in samples):
            text = f"engine={name} gives no log-probabilities: it is unchecked whether it has the policy's weights"
            if training and not self.allows_unchecked:
                raise EngineError(f"{text}\n  type: engine=huggingface, or engine.unchecked=true to train nevertheless")
            log.warning("%s", text)
            return None
        mean = mean_difference(samples, logps)
        if not mean <= AGREEMENT:  # also if it is NaN
            raise EngineError(
                f"log-probabilities of answers from engine={name} differ from those of the policy by {mean:.3f} nats "
                f"per token, and {AGREEMENT} are allowed: the engine has other weights, or it samples in another way\n"
                "  type: engine=huggingface"
            )
        return mean


def mean_difference(samples: Sequence[Sample], logps: Sequence[Sequence[float]]) -> float:
    """Mean distance between the log-probabilities of samples and `logps` of the same tokens, nats per token.

    Columns of `logps` beyond the tokens of a sample are ignored.
    """
    distances = [
        abs(theirs - ours)
        for sample, row in zip(samples, logps, strict=True)
        for theirs, ours in zip(sample.logps, row, strict=False)
    ]
    return sum(distances) / len(distances)
