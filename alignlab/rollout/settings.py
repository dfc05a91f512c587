"""How answers are gathered while a policy trains, and what their scores are made into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from alignlab.checks import Checked, at_least, finite, one_of, positive
from alignlab.errors import Problem

MISSING_END = ("keep", "replace", "subtract")


@dataclass(kw_only=True)
class Sampling(Checked):
    """How answers are drawn. There is no top-k, top-p or penalty: what they cut off would be missing from every KL.

    max_new_tokens: longest answer in tokens, its end included; a longer one is cut off and has not ended.
    temperature:    logits are divided by it; a KL is that of the policy itself at 1 only.
    batch_size:     answers drawn at a time; a matter of memory, and halved where that does not suffice.
    """

    group: ClassVar[str] = "evaluation"  # where these settings stand in a config

    max_new_tokens: int = 128
    temperature: float = 1.0
    batch_size: int = 16

    def problems(self) -> Iterator[Problem]:
        yield from at_least("max_new_tokens", self.max_new_tokens, 1, example=128)
        yield from positive("temperature", self.temperature, example=1.0)
        yield from at_least("batch_size", self.batch_size, 1, example=16)


@dataclass(kw_only=True)
class Rollout(Sampling):
    """One batch of rollouts is `minibatches` x trainer.batch_size prompts, and serves for `epochs` x `minibatches`
    updates, of trainer.batch_size prompts each. A sample is decided by the run's seed, the prompt and its number. In
    the lab answers are cut off at its horizon, whatever `max_new_tokens` says.

    epochs:            how often every answer is learnt from.
    minibatches:       updates per epoch of a batch of rollouts.
    missing_end:       what becomes of the score of an answer that was cut off: keep, replace (it becomes
                       `missing_end_score`, N+) or subtract (`missing_end_score` is taken off, TRL).
    missing_end_score: the score, or what is taken off.
    score_clip:        scores are held within plus and minus this; 0 does not hold them.
    max_kl:            nats per answer from the reference at which a run has diverged; 0 never ends it.
    shown:             answers of each batch that are kept as a table.
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
        """Updates that a batch of rollouts serves for."""
        return self.epochs * self.minibatches

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from at_least("epochs", self.epochs, 1, example=1)
        yield from at_least("minibatches", self.minibatches, 1, example=1)
        yield from one_of("missing_end", self.missing_end, MISSING_END)
        yield from finite("missing_end_score", self.missing_end_score, example=-1.0)
        if self.missing_end == "subtract" and self.missing_end_score < 0:
            text = "must be at least 0 where it is taken off: less would reward answers that do not end"
            yield Problem("missing_end_score", self.missing_end_score, text, "missing_end_score=1.0")
        yield from at_least("score_clip", self.score_clip, 0.0, example=5.0, hint="0 does not hold scores")
        yield from at_least("max_kl", self.max_kl, 0.0, example=100.0, hint="0 never ends a run")
        yield from at_least("shown", self.shown, 0, example=8)
