"""Settings of sampling, and of rollouts during training: number of updates, scores of answers that were cut off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from alignlab.checks import Checked, at_least, finite, one_of, positive
from alignlab.errors import Problem

MISSING_END = ("keep", "replace", "subtract")


@dataclass(kw_only=True)
class Sampling(Checked):
    """How answers are sampled. There is no top-k, top-p or penalty, because every KL would miss what they cut off.

    max_new_tokens: maximum length of an answer in tokens, including its end token. Longer answers are cut off and count
                    as not ended.
    temperature:    logits are divided by it. Only at 1 is a KL that of the policy itself.
    batch_size:     number of answers that are sampled at a time. It is halved if there is not enough memory.
    """

    group: ClassVar[str] = "evaluation"  # group of these settings in a config; empty if they are in none

    max_new_tokens: int = 128
    temperature: float = 1.0
    batch_size: int = 16

    def problems(self) -> Iterator[Problem]:
        yield from at_least("max_new_tokens", self.max_new_tokens, 1, example=128)
        yield from positive("temperature", self.temperature, example=1.0)
        yield from at_least("batch_size", self.batch_size, 1, example=16)

    def setting(self, name: str) -> str:
        """How a setting is typed."""
        return f"{self.group}.{name}" if self.group else name


@dataclass(kw_only=True)
class Rollout(Sampling):
    """Settings of rollouts, the answers that an online run samples to train on.

    A batch of rollouts has `minibatches` x trainer.batch_size prompts. It is used for `epochs` x `minibatches` updates
    of trainer.batch_size prompts each. The run's seed, the prompt and the number of a sample decide the sample. In the
    lab, answers are cut off at its horizon, and `max_new_tokens` has no effect.

    epochs:            number of passes over each batch of rollouts.
    minibatches:       number of updates per pass.
    missing_end:       what happens to the score of an answer that was cut off: keep, replace (it becomes
                       `missing_end_score`, as in N+, Huang et al. 2024), or subtract (`missing_end_score` is
                       subtracted, as in TRL).
    missing_end_score: the new score, or the number to subtract.
    score_clip:        scores are clipped to [-score_clip, score_clip]; 0 does not clip.
    max_kl:            the run counts as diverged at so many nats per answer from the reference; 0 never ends a run.
    shown:             number of answers of each batch that are saved as a table.
    """

    group: ClassVar[str] = "rollout"

    batch_size: int = 64
    epochs: int = 1
    minibatches: int = 1
    missing_end: str = "keep"
    missing_end_score: float = -1.0
    score_clip: float = 0.0
    max_kl: float = 100.0
    shown: int = 8

    @property
    def updates(self) -> int:
        """Number of updates per batch of rollouts."""
        return self.epochs * self.minibatches

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from at_least("epochs", self.epochs, 1, example=1)
        yield from at_least("minibatches", self.minibatches, 1, example=1)
        yield from one_of("missing_end", self.missing_end, MISSING_END)
        yield from finite("missing_end_score", self.missing_end_score, example=-1.0)
        if self.missing_end == "subtract" and self.missing_end_score < 0:
            text = "must be at least 0 if it is subtracted: less would reward answers that do not end"
            yield Problem("missing_end_score", self.missing_end_score, text, "missing_end_score=1.0")
        yield from at_least("score_clip", self.score_clip, 0.0, example=5.0, hint="0 does not clip scores")
        yield from at_least("max_kl", self.max_kl, 0.0, example=100.0, hint="0 never ends a run")
        yield from at_least("shown", self.shown, 0, example=8)
