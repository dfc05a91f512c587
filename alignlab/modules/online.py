"""Objectives on answers that the policy gives itself: gathered, scored, and learnt from for some updates."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignlab.data.fingerprint import row_key
from alignlab.data.layout import Layout, Rows
from alignlab.data.tokenize import CompletionTokens, PairTokens, PromptTokens
from alignlab.errors import DivergedError, NonFiniteError, PolicyIsNotReferenceError
from alignlab.models.forward import at_temperature, precision, predict
from alignlab.models.heads import Critic, HeadCritic, NetworkCritic
from alignlab.models.logps import answer_logps, score_predictions, summed
from alignlab.models.reference import CachedReference, LiveReference
from alignlab.models.tolerances import tolerance_of
from alignlab.modules.answer_metrics import token_metrics
from alignlab.modules.base import AlignmentModule
from alignlab.modules.preference import PreferenceModule
from alignlab.modules.sft import SFTModule
from alignlab.objectives.online import Online, PolicyGradient
from alignlab.objectives.self_generated import GeneratedPairs, Imitation
from alignlab.progress import Progress, silent
from alignlab.rollout.experience import RolloutBatch, RolloutTokens, collate_rollouts, table
from alignlab.rollout.sampling import Sample, draw, uniforms
from alignlab.rollout.scoring import ScoredResponse, Scorer, shape_scores
from alignlab.rollout.settings import Rollout
from alignlab.types import Logps, RolloutLogps, Rollouts

_OFF = "sampling/sampling_logp_difference/mean"

# Answers from which on it tells something that all are the same.
_COLLAPSED = 32

Row = RolloutTokens | PairTokens | CompletionTokens


@dataclass(frozen=True)
class RolloutContext:
    """What answers are gathered with.

    start:   the policy as it was before training, which is the reference.
    ends:    ids of the tokens that end an answer.
    text_of: ids of an answer -> its text, without the end.
    layout:  of answers that go through a model.
    scorer:  what answers are learnt by; None where nothing is scored.
    gold:    the lab's own reward, to be watched where it is not what answers are learnt by.
    critic:  what is expected of answers; None where the objective does not ask.
    """

    rollout: Rollout
    start: LiveReference
    ends: Sequence[int]
    text_of: Callable[[Sequence[int]], str]
    layout: Layout
    scorer: Scorer | None = None
    gold: Scorer | None = None
    critic: Critic | None = None


@dataclass(frozen=True)
class Experience:
    """A batch of rollouts as rows to learn from.

    number:    of the batch, from 0.
    groups:    rows by prompt.
    reference: of all their answers, token by token, as key (hexadecimal) -> log-probabilities.
    metrics:   of the rollouts.
    shown:     some of the answers, for people.
    """

    number: int
    groups: list[list[Any]]
    reference: dict[str, list[float]]
    metrics: dict[str, float]
    shown: list[dict[str, Any]]


class OnlineModule(AlignmentModule):
    """Base of the three below: the loop. A step's rows are the prompts of the batch of rollouts that it belongs to."""

    objective: Online
    row_type: type[Row]

    def __init__(self, *args: Any, context: RolloutContext, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.context = context
        self.critic = context.critic
        self.temperature = context.rollout.temperature
        self.experience: Experience | None = None
        self._fresh = True
        self._off, self._looked_at = 0.0, 0  # nats and tokens of fresh answers that an update has looked at
        self._shown_of = -1
        self.coefficient = self.objective.coefficient if isinstance(self.objective, PolicyGradient) else 0.0

    @abstractmethod
    def make_rows(self, prompts: Sequence[PromptTokens], drawn: Sequence[Sample], rollouts: Rollouts) -> Iterator[Any]:
        """Lists of the rows of each prompt, prompt by prompt."""

    def training_step(self, rows: Sequence[PromptTokens], batch_idx: int) -> None:
        """One update; before the first one of a batch of rollouts, that batch is gathered."""
        how = self.context.rollout
        number, part = divmod(self.global_step, how.updates)
        if self.experience is None or self.experience.number != number:
            self.experience = self._gather(rows, number)
            self._set_reference(self.experience.reference)
        self._fresh, self._off, self._looked_at = part == 0, 0.0, 0
        super().training_step(self._minibatch(self.experience, part), batch_idx)
        if self._looked_at:
            off = self._refuse_other_answers(self._off / self._looked_at)
            if self._reuse_sampling_logps:
                self.experience.metrics[_OFF] = off
        self.samples = []
        if self.last_metrics:
            if self._shown_of != number:
                self._shown_of, self.samples = number, self.experience.shown
            seen = (number + 1) * len(rows)
            self.last_metrics |= {f"train/{name}": value for name, value in self.experience.metrics.items()}
            self.last_metrics |= {
                "train/epoch": seen / len(self.trainer.datamodule.train),  # type: ignore[attr-defined]
                "train/episode": seen * self.objective.samples,
            }

    def held_out(self, rows: Sequence[PromptTokens], progress: Progress) -> dict[str, float]:
        """One answer to each held-out prompt, always from the same random numbers."""
        drawn, rollouts, _ = self._generate_rollouts(rows, 0, samples=1, author="policy", progress=progress)
        return self._measured_rollouts(rollouts, drawn, "policy", self._gold(rows, drawn))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        open_still = self.experience is not None and self.global_step % self.context.rollout.updates
        checkpoint["experience"] = asdict(self.experience) if self.experience and open_still else None
        checkpoint["kl_coefficient"], checkpoint["shown_of"] = self.coefficient, self._shown_of

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.coefficient, self._shown_of = checkpoint["kl_coefficient"], checkpoint["shown_of"]
        if kept := checkpoint["experience"]:
            groups = [[self.row_type(**row) for row in group] for group in kept["groups"]]
            self.experience = Experience(**{**kept, "groups": groups})
            self._set_reference(self.experience.reference)

    def _gather(self, prompts: Sequence[PromptTokens], number: int) -> Experience:
        """Answers to all prompts, and what is to be learnt from them."""
        objective = self.objective
        drawn, rollouts, reference = self._generate_rollouts(
            prompts, number + 1, samples=objective.samples, author=objective.author
        )
        metrics = self._measured_rollouts(rollouts, drawn, objective.author, self._gold(prompts, drawn))
        if number:
            self._refuse_diverged(prompts, drawn, metrics)
        groups = list(self.make_rows(prompts, drawn, rollouts))
        if isinstance(objective, PolicyGradient):
            given = table([answer.logps for answer in drawn])
            metrics[_OFF] = self._refuse_other_answers(float((rollouts.logps - given)[rollouts.mask].abs().mean()))
            metrics["objective/kl_coef"] = self.coefficient
            self.coefficient = objective.next_coefficient(self.coefficient, metrics["objective/kl"], len(drawn))
        return Experience(number, groups, reference, metrics, self._shown(prompts, drawn, rollouts))

    @torch.no_grad()
    @torch.compiler.set_stance("force_eager")  # compiled layers would be compiled again for every length
    def _generate_rollouts(
        self, prompts: Sequence[PromptTokens], batch: int, *, samples: int, author: str, progress: Progress = silent
    ) -> tuple[list[Sample], Rollouts, dict[str, list[float]]]:
        """Answers, side by side for each prompt, as rollouts, and their log-probabilities under the reference.

        batch: its number, from 1; 0 is for evaluation, from which nothing is learnt.
        """
        context, device = self.context, next(self.policy.parameters()).device
        asked = [row.prompt for row in prompts for _ in range(samples)]
        by_start = author == "start"
        model = context.start.model if by_start else self.policy
        numbers = self._numbers(prompts, batch, samples)
        value = (
            context.critic.of_states
            if batch and self._reuse_sampling_logps and isinstance(context.critic, HeadCritic)
            else None
        )
        with context.start.ready(device) if by_start else nullcontext():
            drawn = draw(model, asked, numbers, context.rollout, context.ends, progress, value)
        rows = _rows(prompts, drawn, with_demonstrations=self.objective.moving_reference)
        scores = torch.tensor(self._scores(context.scorer, prompts, drawn), dtype=torch.float32)
        ended = torch.tensor([answer.ended for answer in drawn])
        given = table([answer.logps for answer in drawn])
        mask = torch.arange(given.shape[1])[None] < torch.tensor([len(answer.ids) for answer in drawn])[:, None]
        logps, values = given, None
        if batch and isinstance(self.objective, PolicyGradient):
            logps, values = self._seen_by_policy(rows, drawn)
        reference = given if by_start else self._passed(rows, lambda batch: context.start.tokens(batch.rows))
        rollouts = Rollouts(
            shape_scores(scores, ended, context.rollout).view(len(prompts), samples),
            mask,
            logps,
            ended,
            reference,
            values,
        )
        return drawn, rollouts, self._held_to(rows, reference) if batch else {}

    def _held_to(self, rows: Sequence[RolloutTokens], reference: Tensor) -> dict[str, list[float]]:
        """Log-probabilities of all answers under what pairs are held to: the start, or the policy as it is."""
        if self.objective.moving_reference:  # and the data's answers are asked for too
            rows = [RolloutTokens(row.index, row.prompt, [answer for _, answer in row.answers()]) for row in rows]
            see = partial(answer_logps, self.policy, temperature=self.temperature)
            reference = self._passed(rows, lambda batch: see(batch.rows))
        asked = [(row.prompt, completion) for row in rows for completion in row.completions]
        return {row_key(*one).hex(): of[: len(one[1])] for one, of in zip(asked, reference.tolist(), strict=True)}

    @property
    def _reuse_sampling_logps(self) -> bool:
        """Whether the log-probabilities from sampling are used, so that no extra forward of the old policy is needed.

        They are used if an epoch is one update. The ratios then come from the forward of that update
        (`compute_logps`). The log-probabilities from sampling are used for the KL only, and the hidden states from
        sampling for a critic that reads them. In half precision, sampling and training round differently, by more than
        a small KL. There an extra forward is made, except for answers that are used once and without a critic.
        """
        how, critic = self.context.rollout, self.context.critic
        if how.minibatches > 1 or (isinstance(critic, HeadCritic) and not self.context.layout.split):
            return False
        return precision(self.policy) in ("float32", "float64") or (how.epochs == 1 and critic is None)

    def _seen_by_policy(self, rows: Sequence[RolloutTokens], drawn: Sequence[Sample]) -> tuple[Tensor, Tensor | None]:
        """[N, T] log-probabilities of answers before anything is learnt from them, and what the critic expects."""
        critic = self.context.critic
        if self._reuse_sampling_logps:
            logps = table([answer.logps for answer in drawn])
            if isinstance(critic, NetworkCritic):
                return logps, self._passed(rows, lambda batch: critic.of_rows(batch.rows))
            return logps, None if critic is None else table([answer.values for answer in drawn])

        def see(batch: RolloutBatch) -> Tensor:
            found = at_temperature(predict(self.policy, batch.rows), self.temperature)
            tokens = score_predictions(found, batch.rows).tokens
            both = [tokens] if critic is None else [tokens, critic(self.policy, batch.rows, found)]
            return torch.stack(both, dim=-1)

        found = self._passed(rows, see)
        return found[..., 0], found[..., 1] if critic is not None else None

    def _passed(self, rows: Sequence[RolloutTokens], look: Callable[[RolloutBatch], Tensor]) -> Tensor:
        """[N, T, ...] of what is seen of all answers, a micro-batch at a time, on the CPU."""

        def see(batches: list[RolloutBatch]) -> list[Tensor]:
            return [part for batch in batches for part in look(batch).float().cpu()]

        training = self.policy.training
        self.policy.eval()
        _, parts = self.within_memory(rows, see, partial(collate_rollouts, layout=self.context.layout))
        self.policy.train(training)
        lengths = [len(completion) for row in rows for completion in row.completions]
        return torch.nn.utils.rnn.pad_sequence(
            [part[:length] for part, length in zip(parts, lengths, strict=True)], batch_first=True
        )

    def _numbers(self, prompts: Sequence[PromptTokens], batch: int, samples: int) -> list[Any]:
        """Random numbers of each answer: of the seed, the prompt and how often it was asked before; batch 0 is for
        evaluation.
        """
        before: Counter[tuple[int, ...]] = Counter()
        found = []
        for row in prompts:
            key = tuple(row.prompt)
            first = (batch * len(prompts) + before[key]) * samples
            count = self.context.rollout.max_new_tokens
            found += [uniforms(self.seed, row.prompt, 2 * (first + k) + (batch > 0), count) for k in range(samples)]
            before[key] += 1
        return found

    def _scores(self, scorer: Scorer | None, prompts: Sequence[PromptTokens], drawn: Sequence[Sample]) -> list[float]:
        if scorer is None:
            return [0.0] * len(drawn)
        each = len(drawn) // len(prompts)
        asked = [row for row in prompts for _ in range(each)]
        said = [ScoredResponse(row.said, self._text(one), one.ended) for row, one in zip(asked, drawn, strict=True)]
        scores = list(scorer(said))
        for one, score in zip(said, scores, strict=True):
            if not math.isfinite(score):
                raise NonFiniteError(f"the score of an answer is {score}: {one.answer[:80]!r}")
        return scores

    def _gold(self, prompts: Sequence[PromptTokens], drawn: Sequence[Sample]) -> float | None:
        gold = self.context.gold
        return None if gold is None else float(np.mean(self._scores(gold, prompts, drawn)))

    def _text(self, answer: Sample) -> str:
        return self.context.text_of(answer.ids)

    def _measured_rollouts(
        self, rollouts: Rollouts, drawn: Sequence[Sample], author: str, gold: float | None
    ) -> dict[str, float]:
        """What is told of a batch of rollouts (alignlab/tracking/metrics.py); of the start's answers no KL."""
        ratio, mask, scores = rollouts.log_ratio, rollouts.mask, rollouts.scores
        sums = ratio.sum(dim=1)
        lengths = mask.sum(dim=1).float()
        ended = rollouts.ended.float().mean()
        penalty = -self.coefficient * sums.mean()
        found = {
            "objective/kl": sums.mean(),
            "objective/entropy": -torch.where(mask, rollouts.logps, 0.0).sum(dim=1).mean(),
            "objective/non_score_reward": penalty,
            "objective/rlhf_reward": scores.mean() + penalty,
            "objective/scores": scores.mean(),
            "objective/scores_std": scores.std(unbiased=False),
            "kl_ref/sequence_k1": sums.mean(),
            "kl_ref/token_k3": torch.where(mask, torch.expm1(-ratio.clamp(min=-50)) + ratio, 0.0).sum(dim=1).mean(),
            "val/num_eos_tokens": rollouts.ended.float().sum(),
            "completions/mean_length": lengths.mean(),
            "completions/min_length": lengths.min(),
            "completions/max_length": lengths.max(),
            "completions/clipped_ratio": 1 - ended,
            "completions/distinct_frac": torch.tensor(len({tuple(answer.ids) for answer in drawn}) / len(drawn)),
        }
        if scores.shape[1] > 1:
            deviation = scores.std(dim=1)
            found |= {"reward_std": deviation.mean(), "frac_reward_zero_std": (deviation == 0).float().mean()}
        of_the_policy = ("objective/kl", "objective/non_score_reward", "objective/rlhf_reward", "kl_ref/")
        numbers = {
            name: float(value)
            for name, value in found.items()
            if author == "policy" or not name.startswith(of_the_policy)
        }
        return numbers if gold is None else numbers | {"objective/gold_scores": gold}

    def _refuse_diverged(
        self, prompts: Sequence[PromptTokens], drawn: Sequence[Sample], metrics: Mapping[str, float]
    ) -> None:
        """Raises DivergedError where the policy has gone too far, or always says the same."""
        limit, kl = self.context.rollout.max_kl, metrics.get("objective/kl", 0.0)
        if limit and kl > limit:
            raise DivergedError(f"the KL is {kl:.1f} nats per answer, above rollout.max_kl={limit:g}")
        different = len({tuple(row.prompt) for row in prompts})
        if different > 1 and len(drawn) >= _COLLAPSED and len({tuple(answer.ids) for answer in drawn}) == 1:
            text = self._text(drawn[0])
            raise DivergedError(f"the policy has collapsed: the same answer to all {different} prompts: {text[:80]!r}")

    def _shown(
        self, prompts: Sequence[PromptTokens], drawn: Sequence[Sample], rollouts: Rollouts
    ) -> list[dict[str, Any]]:
        each = rollouts.scores.shape[1]
        kl, scores = rollouts.log_ratio.sum(dim=1).tolist(), rollouts.scores.flatten().tolist()
        return [
            {
                "prompt": row.said if isinstance(row.said, str) else row.said[-1]["content"],
                "completion": self._text(drawn[i]),
                "score": scores[i],
                "kl": kl[i],
                "ended": drawn[i].ended,
            }
            for i, row in enumerate(row for row in prompts for _ in range(each))
        ][: self.context.rollout.shown]

    def _minibatch(self, experience: Experience, part: int) -> list[Any]:
        """Rows of an update: each epoch goes through the prompts in another order."""
        epoch, place = divmod(part, self.context.rollout.minibatches)
        order = np.random.default_rng([self.seed, experience.number, epoch]).permutation(len(experience.groups))
        mine = np.array_split(order, self.context.rollout.minibatches)[place]
        return [row for i in sorted(mine) for row in experience.groups[i]]

    def _refuse_other_answers(self, off: float) -> float:
        """How far answers are from the probabilities that they were drawn with, where nothing was learnt from them yet;
        nats per token, over all of them: single ones round by more in half precision."""
        if off > tolerance_of(self.policy).start_ratio:
            raise PolicyIsNotReferenceError(
                f"fresh answers are off by {off:.6f} nats per token from what they were drawn with, before anything "
                "was learnt from them: drawing and training do not see the same policy\n"
                "  type: peft.dropout=0 or trainer.layout=plain"
            )
        return off

    def _set_reference(self, reference: Mapping[str, list[float]]) -> None:
        """What log-ratios are taken against while this batch of rollouts is learnt from."""
        tokens = {bytes.fromhex(key): np.array(row, dtype=np.float32) for key, row in reference.items()}
        self.reference = CachedReference({key: float(row.sum()) for key, row in tokens.items()}, tokens)


class PolicyGradientModule(OnlineModule):
    """Answers with advantages."""

    objective: PolicyGradient
    row_type = RolloutTokens

    def make_rows(self, prompts: Sequence[PromptTokens], drawn: Sequence[Sample], rollouts: Rollouts) -> Iterator[Any]:
        advantages, returns = self.objective.advantages(rollouts, self.coefficient)
        nothing = torch.zeros_like(rollouts.logps)
        known = torch.stack(
            [
                rollouts.logps,
                advantages.float(),
                nothing if returns is None else returns.float(),
                nothing if rollouts.values is None else rollouts.values,
            ],
            dim=1,
        )
        each = len(drawn) // len(prompts)
        for place, row in enumerate(_rows(prompts, drawn, self.objective.requires.demonstrations)):
            mine = range(place * each, (place + 1) * each)
            tables = [known[i, :, : len(drawn[i].ids)].clone() for i in mine]  # each is saved, without all others
            yield [RolloutTokens(row.index, row.prompt, row.completions, tables, row.demonstration)]

    def compute_logps(self, batch: RolloutBatch, mean_count: float) -> RolloutLogps:
        """One forward of all answers, the critic's part of it included."""
        needs, rows, known = self.objective.requires, batch.rows, batch.known
        assert self.reference is not None
        found = at_temperature(predict(self.policy, rows), self.temperature)
        wanted = self.token_stats and self._measured
        seen = score_predictions(found, rows, stats=wanted, entropy=needs.entropy)
        by_token = self.reference.tokens(rows)
        answers = Logps(
            seen.tokens,
            rows.answer_mask,
            reference=summed(by_token, rows.answer_mask),
            reference_tokens=by_token if needs.reference_tokens else None,
            stats=seen.stats,
            mean_count=mean_count,
        )
        old = known[..., 0]
        if self._fresh:
            off = (seen.tokens.detach() - old)[rows.answer_mask].abs()
            self._off, self._looked_at = self._off + float(off.sum()), self._looked_at + len(off)
            if self.context.rollout.minibatches == 1:  # for all answers this is the policy that gave them
                old = seen.tokens.detach()
                if self.context.rollout.epochs > 1:
                    batch.learn(old)
        shown = batch.demonstrations
        return RolloutLogps(
            answers,
            old,
            known[..., 1],
            torch.full((len(batch),), self.context.rollout.max_new_tokens, device=known.device),
            values=self.critic(self.policy, rows, found) if self.critic is not None else None,
            returns=known[..., 2] if self.critic is not None else None,
            old_values=known[..., 3] if self.critic is not None else None,
            entropy=seen.entropy,
            demonstration=None if shown is None else self._imitated(shown, batch.asked),
        )

    def finiteness_check(self, values: RolloutLogps) -> Tensor:
        total = values.answers.checksum + values.advantages.sum(dim=1)
        return total if values.values is None else total + values.values.detach().sum(dim=1)

    def compute_metrics(self, values: RolloutLogps) -> dict[str, Tensor]:
        found = token_metrics(values.answers)
        return {"policy/entropy_avg": found["entropy"]} if found else {}

    def _imitated(self, rows: Rows, asked: Tensor) -> Logps:
        """Of each answer's prompt the data's own answer."""
        tokens = answer_logps(self.policy, rows)
        return Logps(tokens[asked], rows.answer_mask[asked])


class GeneratedPairsModule(OnlineModule, PreferenceModule):
    """Pairs of the policy's own answers, or of the data's against them."""

    objective: GeneratedPairs
    row_type = PairTokens

    def make_rows(self, prompts: Sequence[PromptTokens], drawn: Sequence[Sample], rollouts: Rollouts) -> Iterator[Any]:
        each = len(drawn) // len(prompts)
        groups: list[list[PairTokens]] = [[] for _ in prompts]
        for p, winner, loser in self.objective.pairs(rollouts):
            row, rejected = prompts[p], drawn[p * each + loser].ids
            chosen = row.completion if winner is None else drawn[p * each + winner].ids
            groups[p].append(PairTokens(row.index, row.prompt, chosen, rejected))
        yield from groups


class ImitationModule(OnlineModule, SFTModule):
    """The best of the policy's own answers."""

    objective: Imitation
    row_type = CompletionTokens

    def make_rows(self, prompts: Sequence[PromptTokens], drawn: Sequence[Sample], rollouts: Rollouts) -> Iterator[Any]:
        each = len(drawn) // len(prompts)
        for p, (row, kept) in enumerate(zip(prompts, self.objective.kept(rollouts).tolist(), strict=True)):
            mine = drawn[p * each : (p + 1) * each]
            yield [
                CompletionTokens(row.index, row.prompt, one.ids) for one, keep in zip(mine, kept, strict=True) if keep
            ]


def _rows(prompts: Sequence[PromptTokens], drawn: Sequence[Sample], with_demonstrations: bool) -> list[RolloutTokens]:
    """Prompts with their answers, nothing known of them yet."""
    each = len(drawn) // len(prompts)
    return [
        RolloutTokens(
            row.index,
            row.prompt,
            [answer.ids for answer in drawn[i * each : (i + 1) * each]],
            demonstration=row.completion if with_demonstrations else None,
        )
        for i, row in enumerate(prompts)
    ]
