"""Objectives on answers that the policy samples itself. The answers are scored and then used for some updates."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alignlab.data.fingerprint import row_key
from alignlab.data.layout import Layout, Rows
from alignlab.data.rows import Prompt
from alignlab.data.tokenize import CompletionTokens, PairTokens, PromptTokens
from alignlab.errors import DivergedError, NonFiniteError, PolicyIsNotReferenceError
from alignlab.models.forward import at_temperature, precision, predict
from alignlab.models.heads import Critic, HeadCritic, NetworkCritic
from alignlab.models.logps import answer_logps, score_predictions, summed
from alignlab.models.reference import CachedReference, LiveReference, Reference
from alignlab.models.tolerances import tolerance_of
from alignlab.modules.answer_metrics import token_metrics
from alignlab.modules.base import AlignmentModule
from alignlab.modules.distributed import of_all, share, total, whole
from alignlab.modules.preference import PreferenceModule
from alignlab.modules.sft import SFTModule
from alignlab.objectives.online import Online, PolicyGradient
from alignlab.objectives.self_generated import GeneratedPairs, Imitation
from alignlab.progress import Progress, silent
from alignlab.rollout.closed_set import ClosedSet
from alignlab.rollout.engines.base import Engine
from alignlab.rollout.engines.huggingface import HuggingFace
from alignlab.rollout.experience import RolloutBatch, RolloutTokens, collate_rollouts, table
from alignlab.rollout.sampling import Draw, Sample
from alignlab.rollout.scoring import ScoredResponse, Scorer, shape_scores
from alignlab.rollout.settings import Rollout
from alignlab.types import Logps, RolloutLogps, Rollouts

_LOGP_DIFFERENCE = "sampling/sampling_logp_difference/mean"

# If at least so many answers are all the same, the policy has collapsed.
_COLLAPSED = 32

Row = RolloutTokens | PairTokens | CompletionTokens


@dataclass(frozen=True)
class _Answer:
    """A sampled answer, and the numbers of its tokens that its process has computed.

    logps:     log-probabilities of its tokens before training on it, nats.
    reference: the same under the reference.
    values:    the critic's values; None without a critic.
    """

    sample: Sample
    score: float
    logps: list[float]
    reference: list[float]
    values: list[float] | None


@dataclass(frozen=True)
class RolloutContext:
    """Everything that rollouts need.

    rollout: their settings.
    start:   the policy before training, which is the reference.
    ends:    ids of the tokens that end an answer.
    text_of: (token ids of an answer, prompt) -> its text, without the end token.
    layout:  layout of the answers in a forward pass.
    scorer:  scores of answers that the policy trains on; None if nothing is scored.
    gold:    the lab's gold reward, which is only logged; None if `scorer` is the gold reward or there is none.
    critic:  estimates values of tokens; None if the objective needs none.
    closed:  the candidates that answers are chosen from; None if any text may be an answer.
    engine:  samples the answers.
    """

    rollout: Rollout
    start: LiveReference
    ends: Sequence[int]
    text_of: Callable[[Sequence[int], Prompt], str]
    layout: Layout
    scorer: Scorer | None = None
    gold: Scorer | None = None
    critic: Critic | None = None
    closed: ClosedSet | None = None
    engine: Engine = field(default_factory=HuggingFace)


@dataclass(frozen=True)
class Experience:
    """A batch of rollouts as rows to train on.

    number:    number of the batch, from 0.
    groups:    rows of each prompt.
    reference: key of an answer (hexadecimal) -> log-probabilities of its tokens under the reference, nats.
    metrics:   metrics of the rollouts.
    shown:     some of the answers, to show to people.
    """

    number: int
    groups: list[list[Any]]
    reference: dict[str, list[float]]
    metrics: dict[str, float]
    shown: list[dict[str, Any]]


class OnlineModule(AlignmentModule):
    """Base of the three modules below, with the online loop.

    The rows of a step are the prompts of the batch of rollouts that the step uses. Every process gets all of them. It
    samples and scores answers to its share of the prompts. Then the answers of all processes are gathered, so that what
    follows (advantages, minibatches, metrics) is the same in all of them and as in one process. Of a minibatch, each
    process trains on its share of the rows.
    """

    objective: Online
    row_type: type[Row]

    def __init__(self, *args: Any, context: RolloutContext, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.context = context
        self.critic = context.critic
        self.temperature = context.rollout.temperature
        self.experience: Experience | None = None
        self._fresh = True
        # Sum of |log-probability in an update - log-probability at sampling| over fresh tokens, nats; number of tokens.
        self._difference, self._compared = 0.0, 0
        self._shown_of = -1
        self.coefficient = self.objective.coefficient if isinstance(self.objective, PolicyGradient) else 0.0

    @abstractmethod
    def make_rows(
        self, prompts: Sequence[PromptTokens], sampled: Sequence[Sample], rollouts: Rollouts
    ) -> Iterator[Any]:
        """For each prompt the list of its rows to train on."""

    def training_step(self, rows: Sequence[PromptTokens], batch_idx: int) -> None:
        """One update. Before the first update with a batch of rollouts, that batch is sampled.

        Raises the errors of AlignmentModule.training_step. Also raises DivergedError if the policy is too far from the
        reference or has collapsed.
        """
        how = self.context.rollout
        number, part = divmod(self.global_step, how.updates)
        if self.experience is None or self.experience.number != number:
            self.experience = self._gather(rows, number)
            self._set_reference(self.experience.reference)
        self._fresh, self._difference, self._compared = part == 0, 0.0, 0
        minibatch = self._minibatch(self.experience, part)
        super().training_step(share(self.trainer, minibatch), batch_idx)
        self._share_learned(minibatch)
        compared = total(self.trainer, self._compared)
        if compared:
            difference = self._check_difference(total(self.trainer, self._difference) / compared)
            if self._reuse_sampling_logps:
                self.experience.metrics[_LOGP_DIFFERENCE] = difference
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
        """Metrics of one answer to each held-out prompt. The random numbers are the same at every evaluation."""
        sampled, rollouts, _ = self._generate_rollouts(rows, 0, samples=1, author="policy", progress=progress)
        return self._rollout_metrics(rollouts, sampled, "policy", self._gold(rows, sampled))

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

    def references(self) -> list[Reference | None]:
        return [*super().references(), self.context.start]

    def critics(self) -> list[nn.Module]:
        critic = self.critic
        return [] if critic is None else [critic.scorer if isinstance(critic, NetworkCritic) else critic]

    def _gather(self, prompts: Sequence[PromptTokens], number: int) -> Experience:
        """Sample answers to all prompts, and turn them into rows to train on."""
        objective = self.objective
        sampled, rollouts, reference = self._generate_rollouts(
            prompts, number + 1, samples=objective.samples, author=objective.author
        )
        difference = self._sampling_difference(sampled, rollouts)
        metrics = self._rollout_metrics(rollouts, sampled, objective.author, self._gold(prompts, sampled)) | difference
        if number:
            self._refuse_diverged(prompts, sampled, metrics)
        groups = list(self.make_rows(prompts, sampled, rollouts))
        if isinstance(objective, PolicyGradient):
            metrics["objective/kl_coef"] = self.coefficient
            self.coefficient = objective.next_coefficient(self.coefficient, metrics["objective/kl"], len(sampled))
        return Experience(number, groups, reference, metrics, self._shown(prompts, sampled, rollouts))

    @torch.no_grad()
    @torch.compiler.set_stance("force_eager")  # otherwise layers would be compiled again for every length
    def _generate_rollouts(
        self, prompts: Sequence[PromptTokens], batch: int, *, samples: int, author: str, progress: Progress = silent
    ) -> tuple[list[Sample], Rollouts, dict[str, list[float]]]:
        """Sample and score answers. Returns (samples, rollouts, log-probabilities under the reference by key).

        All processes get the answers to all prompts. Answers to one prompt are neighbours.
        batch:   number of the batch, from 1. 0 is an evaluation, for which the last result is empty.
        samples: number of answers to each prompt.
        author:  "policy", or "start" for the policy before training.
        """
        context, own = self.context, share(self.trainer, prompts)
        draws = self._draws(prompts, batch, samples)
        drawn = share(self.trainer, [draws[i * samples : (i + 1) * samples] for i in range(len(prompts))])
        with self.gathered():
            by_prompt, by_key = self._own_answers(own, [one for rows in drawn for one in rows], batch, author, progress)
        answers = [answer for group in whole(self.trainer, by_prompt) for answer in group]
        sampled = [answer.sample for answer in answers]
        ended = torch.tensor([answer.ended for answer in sampled])
        scores = torch.tensor([answer.score for answer in answers], dtype=torch.float32)
        logps = table([answer.logps for answer in answers])
        mask = torch.arange(logps.shape[1])[None] < torch.tensor([len(answer.ids) for answer in sampled])[:, None]
        values = [answer.values for answer in answers if answer.values is not None]
        rollouts = Rollouts(
            shape_scores(scores, ended, context.rollout).view(len(prompts), samples),
            mask,
            logps,
            ended,
            table([answer.reference for answer in answers]),
            table(values) if values else None,
        )
        reference: dict[str, list[float]] = {}
        for part in of_all(self.trainer, by_key):
            reference |= part
        return sampled, rollouts, reference

    def _own_answers(
        self, prompts: Sequence[PromptTokens], draws: Sequence[Draw], batch: int, author: str, progress: Progress
    ) -> tuple[list[list[_Answer]], dict[str, list[float]]]:
        """(answers to each of this process's prompts, log-probabilities under the reference by key).

        draws: what decides each answer. The other arguments are those of `_generate_rollouts`.
        """
        if not prompts:
            return [], {}
        context, device = self.context, next(self.policy.parameters()).device
        samples = len(draws) // len(prompts)
        by_start = author == "start"
        model = context.start.model if by_start else self.policy
        value = (
            context.critic.of_states
            if batch and self._reuse_sampling_logps and isinstance(context.critic, HeadCritic)
            else None
        )
        with context.start.ready(device) if by_start else nullcontext():
            if context.closed is not None:
                numbers = [one.uniforms(1) for one in draws]
                sampled = context.closed.draw(model, prompts, numbers, self.temperature)
            else:
                repeated = [row.prompt for row in prompts for _ in range(samples)]
                engine = context.engine.sampler()
                engine.update(model)
                sampled = engine.sample(repeated, draws, context.rollout, context.ends, progress, value)
        rows = _rows(prompts, sampled, with_demonstrations=self.objective.moving_reference)
        scores = self._scores(context.scorer, prompts, sampled)
        values = None
        if batch and isinstance(self.objective, PolicyGradient):
            logps, values = self._logps_and_values(rows, sampled)
        elif context.engine.exact:
            logps = table([answer.logps for answer in sampled])
        else:
            logps = self._start_logps(rows) if by_start else self._policy_logps(rows)
        reference = logps if by_start else self._start_logps(rows)

        def cut(by_token: Tensor, i: int) -> list[float]:
            return by_token[i, : len(sampled[i].ids)].tolist()

        answers = [
            _Answer(one, scores[i], cut(logps, i), cut(reference, i), None if values is None else cut(values, i))
            for i, one in enumerate(sampled)
        ]
        by_key = self._reference_by_key(rows, reference) if batch else {}
        return [answers[i * samples : (i + 1) * samples] for i in range(len(prompts))], by_key

    def _reference_by_key(self, rows: Sequence[RolloutTokens], reference: Tensor) -> dict[str, list[float]]:
        """Key of an answer -> log-probabilities of its tokens under the reference, nats.

        The reference is the policy before training (`reference` [N, T]). With a moving reference, it is the policy as
        it is now, and the answers of the data are included.
        """
        if self.objective.moving_reference:
            rows = [RolloutTokens(row.index, row.prompt, [answer for _, answer in row.answers()]) for row in rows]
            reference = self._policy_logps(rows)
        pairs = [(row.prompt, completion) for row in rows for completion in row.completions]
        return {
            row_key(prompt, answer).hex(): logps[: len(answer)]
            for (prompt, answer), logps in zip(pairs, reference.tolist(), strict=True)
        }

    def _policy_logps(self, rows: Sequence[RolloutTokens]) -> Tensor:
        """[N, T] log-probabilities of all answers under the policy as it is now, nats."""
        see = partial(answer_logps, self.policy, temperature=self.temperature)
        return self._by_token(rows, lambda batch: see(batch.rows))

    def _start_logps(self, rows: Sequence[RolloutTokens]) -> Tensor:
        """[N, T] log-probabilities of all answers under the policy before training, nats."""
        return self._by_token(rows, lambda batch: self.context.start.tokens(batch.rows))

    @property
    def _reuse_sampling_logps(self) -> bool:
        """Whether the log-probabilities from sampling are used, so that the old policy needs no extra forward pass.

        They are used if an epoch is one update. The ratios then come from the forward pass of that update
        (`compute_logps`). The log-probabilities from sampling serve only for the KL, and the hidden states from
        sampling for a critic that reads them. In half precision, sampling and training round differently, by more than
        a small KL. So half precision needs the extra pass, unless answers are used once and there is no critic. Engines
        that are not exact need it too.
        """
        how, critic = self.context.rollout, self.context.critic
        if not self.context.engine.exact or how.minibatches > 1:
            return False
        if isinstance(critic, HeadCritic) and not self.context.layout.split:
            return False
        return precision(self.policy) in ("float32", "float64") or (how.epochs == 1 and critic is None)

    def _logps_and_values(
        self, rows: Sequence[RolloutTokens], sampled: Sequence[Sample]
    ) -> tuple[Tensor, Tensor | None]:
        """([N, T] log-probabilities of answers before training on them, [N, T] values of the critic or None)."""
        critic = self.context.critic
        if self._reuse_sampling_logps:
            logps = table([answer.logps for answer in sampled])
            if isinstance(critic, NetworkCritic):
                return logps, self._by_token(rows, lambda batch: critic.of_rows(batch.rows))
            return logps, None if critic is None else table([answer.values for answer in sampled])

        def see(batch: RolloutBatch) -> Tensor:
            predictions = at_temperature(predict(self.policy, batch.rows), self.temperature)
            tokens = score_predictions(predictions, batch.rows).tokens
            both = [tokens] if critic is None else [tokens, critic(self.policy, batch.rows, predictions)]
            return torch.stack(both, dim=-1)

        by_token = self._by_token(rows, see)
        return by_token[..., 0], by_token[..., 1] if critic is not None else None

    def _by_token(self, rows: Sequence[RolloutTokens], look: Callable[[RolloutBatch], Tensor]) -> Tensor:
        """[N, T, ...] results of `look` for all tokens, on the CPU. `look` is called with one micro-batch at a time."""

        def see(batches: list[RolloutBatch], spare: list[RolloutBatch]) -> list[Tensor]:
            return [part for batch in batches for part in look(batch).float().cpu()]

        training = self.policy.training
        self.policy.eval()
        _, parts = self.within_memory(rows, see, partial(collate_rollouts, layout=self.context.layout), alone=True)
        self.policy.train(training)
        lengths = [len(completion) for row in rows for completion in row.completions]
        return torch.nn.utils.rnn.pad_sequence(
            [part[:length] for part, length in zip(parts, lengths, strict=True)], batch_first=True
        )

    def _draws(self, prompts: Sequence[PromptTokens], batch: int, samples: int) -> list[Draw]:
        """What decides each answer: the seed, the prompt and the number of earlier answers to it.

        Batch 0 is an evaluation.
        """
        before: Counter[tuple[int, ...]] = Counter()
        draws = []
        for row in prompts:
            key = tuple(row.prompt)
            first = (batch * len(prompts) + before[key]) * samples
            draws += [Draw(self.seed, row.prompt, 2 * (first + k) + (batch > 0)) for k in range(samples)]
            before[key] += 1
        return draws

    def _scores(self, scorer: Scorer | None, prompts: Sequence[PromptTokens], sampled: Sequence[Sample]) -> list[float]:
        """One score per answer. Raises NonFiniteError if one is not finite."""
        if scorer is None:
            return [0.0] * len(sampled)
        each = len(sampled) // len(prompts)
        repeated = [row for row in prompts for _ in range(each)]
        answers = [
            ScoredResponse(row.content, self._text(row, one), one.ended)
            for row, one in zip(repeated, sampled, strict=True)
        ]
        scores = list(scorer(answers))
        for one, score in zip(answers, scores, strict=True):
            if not math.isfinite(score):
                raise NonFiniteError(f"the score of an answer is {score}: {one.answer[:80]!r}")
        return scores

    def _gold(self, prompts: Sequence[PromptTokens], sampled: Sequence[Sample]) -> float | None:
        gold = self.context.gold
        return None if gold is None else float(np.mean(self._scores(gold, prompts, sampled)))

    def _text(self, row: PromptTokens, answer: Sample) -> str:
        return self.context.text_of(answer.ids, row.content)

    def _rollout_metrics(
        self, rollouts: Rollouts, sampled: Sequence[Sample], author: str, gold: float | None
    ) -> dict[str, float]:
        """Metrics of a batch of rollouts (see alignlab/tracking/metrics.py). Answers of the start have no KL."""
        ratio, mask, scores = rollouts.log_ratio, rollouts.mask, rollouts.scores
        sums = ratio.sum(dim=1)
        lengths = mask.sum(dim=1).float()
        ended = rollouts.ended.float().mean()
        penalty = -self.coefficient * sums.mean()
        metrics = {
            "objective/kl": sums.mean(),
            "objective/entropy": -torch.where(mask, rollouts.logps, 0.0).sum(dim=1).mean(),
            "objective/non_score_reward": penalty,
            "kl_ref/sequence_k1": sums.mean(),
            "kl_ref/token_k3": torch.where(mask, torch.expm1(-ratio.clamp(min=-50)) + ratio, 0.0).sum(dim=1).mean(),
            "val/num_eos_tokens": rollouts.ended.float().sum(),
            "completions/mean_length": lengths.mean(),
            "completions/min_length": lengths.min(),
            "completions/max_length": lengths.max(),
            "completions/clipped_ratio": 1 - ended,
            "completions/distinct_frac": torch.tensor(len({tuple(answer.ids) for answer in sampled}) / len(sampled)),
        }
        if self.context.scorer is not None:
            metrics |= {
                "objective/rlhf_reward": scores.mean() + penalty,
                "objective/scores": scores.mean(),
                "objective/scores_std": scores.std(unbiased=False),
            }
        if scores.shape[1] > 1 and self.context.scorer is not None:
            deviation = scores.std(dim=1)
            metrics |= {"reward_std": deviation.mean(), "frac_reward_zero_std": (deviation == 0).float().mean()}
        of_the_policy = ("objective/kl", "objective/non_score_reward", "objective/rlhf_reward", "kl_ref/")
        numbers = {
            name: float(value)
            for name, value in metrics.items()
            if author == "policy" or not name.startswith(of_the_policy)
        }
        return numbers if gold is None else numbers | {"objective/gold_scores": gold}

    def _refuse_diverged(
        self, prompts: Sequence[PromptTokens], sampled: Sequence[Sample], metrics: Mapping[str, float]
    ) -> None:
        """Raise DivergedError if the KL to the reference exceeds `max_kl` or all answers are the same."""
        limit, kl = self.context.rollout.max_kl, metrics.get("objective/kl", 0.0)
        if limit and kl > limit:
            raise DivergedError(f"the KL is {kl:.1f} nats per answer, above rollout.max_kl={limit:g}")
        distinct = len({tuple(row.prompt) for row in prompts})
        if distinct > 1 and len(sampled) >= _COLLAPSED and len({tuple(answer.ids) for answer in sampled}) == 1:
            text = self._text(prompts[0], sampled[0])
            raise DivergedError(f"the policy has collapsed: the same answer to all {distinct} prompts: {text[:80]!r}")

    def _shown(
        self, prompts: Sequence[PromptTokens], sampled: Sequence[Sample], rollouts: Rollouts
    ) -> list[dict[str, Any]]:
        """The first `shown` answers, each with its prompt, score and KL (nats)."""
        each = rollouts.scores.shape[1]
        kl, scores = rollouts.log_ratio.sum(dim=1).tolist(), rollouts.scores.flatten().tolist()
        return [
            {
                "prompt": row.content if isinstance(row.content, str) else row.content[-1]["content"],
                "completion": self._text(row, sampled[i]),
                "score": scores[i],
                "kl": kl[i],
                "ended": sampled[i].ended,
            }
            for i, row in enumerate(row for row in prompts for _ in range(each))
        ][: self.context.rollout.shown]

    def _minibatch(self, experience: Experience, part: int) -> list[Any]:
        """Rows of update `part` with a batch of rollouts. Each epoch has another order of the prompts."""
        epoch, place = divmod(part, self.context.rollout.minibatches)
        order = np.random.default_rng([self.seed, experience.number, epoch]).permutation(len(experience.groups))
        chosen = np.array_split(order, self.context.rollout.minibatches)[place]
        return [row for i in sorted(chosen) for row in experience.groups[i]]

    def _share_learned(self, minibatch: Sequence[Any]) -> None:
        """Give all processes the log-probabilities that each has put into its rows (see `compute_logps`)."""
        if not self._learns or self.trainer.world_size == 1:
            return
        learnt = [[table[0] for table in row.known] for row in share(self.trainer, minibatch)]
        for row, logps in zip(minibatch, whole(self.trainer, learnt), strict=True):
            for table_of_answer, of_answer in zip(row.known, logps, strict=True):
                table_of_answer[0] = of_answer

    @property
    def _learns(self) -> bool:
        """Whether this update gives its rows the log-probabilities with which later epochs compare."""
        return False

    def _sampling_difference(self, sampled: Sequence[Sample], rollouts: Rollouts) -> dict[str, float]:
        """The metric of how far log-probabilities at sampling are from those of the training path.

        For exact engines, only policy gradients have it. It is left out if the engine gives no log-probabilities.
        Raises PolicyIsNotReferenceError, or EngineError for an engine that is not exact, if they are too far apart.
        """
        if not self.context.engine.exact:
            found = self.context.engine.compared(sampled, rollouts.logps.tolist(), training=True)
            return {} if found is None else {_LOGP_DIFFERENCE: found}
        if not isinstance(self.objective, PolicyGradient):
            return {}
        given = table([answer.logps for answer in sampled])
        difference = (rollouts.logps - given)[rollouts.mask].abs().mean()
        return {_LOGP_DIFFERENCE: self._check_difference(float(difference))}

    def _check_difference(self, difference: float) -> float:
        """Check that log-probabilities of fresh answers in training equal those at sampling. Returns `difference`.

        difference: mean absolute difference over all fresh answers, nats per token. Single tokens differ by more in
                    half precision, because of rounding.
        Raises PolicyIsNotReferenceError if it is larger than rounding.
        """
        if difference > tolerance_of(self.policy).start_ratio:
            raise PolicyIsNotReferenceError(
                f"log-probabilities of fresh answers differ by {difference:.6f} nats per token from those at sampling, "
                "before any training on these answers: sampling and training do not use the same policy\n"
                "  type: peft.dropout=0 or trainer.layout=plain"
            )
        return difference

    def _set_reference(self, reference: Mapping[str, list[float]]) -> None:
        """Set the reference of the answers of this batch of rollouts."""
        tokens = {bytes.fromhex(key): np.array(row, dtype=np.float32) for key, row in reference.items()}
        self.reference = CachedReference({key: float(row.sum()) for key, row in tokens.items()}, tokens)


class PolicyGradientModule(OnlineModule):
    """Trains on answers with advantages (policy gradient)."""

    objective: PolicyGradient
    row_type = RolloutTokens

    def make_rows(
        self, prompts: Sequence[PromptTokens], sampled: Sequence[Sample], rollouts: Rollouts
    ) -> Iterator[Any]:
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
        each = len(sampled) // len(prompts)
        for place, row in enumerate(_rows(prompts, sampled, self.objective.requires.demonstrations)):
            own = range(place * each, (place + 1) * each)
            tables = [known[i, :, : len(sampled[i].ids)].clone() for i in own]  # copies, because a view saves all
            yield [RolloutTokens(row.index, row.prompt, row.completions, tables, row.demonstration)]

    def compute_logps(self, batch: RolloutBatch, mean_count: float) -> RolloutLogps:
        """Everything that the objective needs, by one forward pass of all answers that also serves the critic."""
        needs, rows, known = self.objective.requires, batch.rows, batch.known
        assert self.reference is not None
        predictions = at_temperature(predict(self.policy, rows), self.temperature)
        wanted = self.token_stats and self._measured
        seen = score_predictions(predictions, rows, stats=wanted, entropy=needs.entropy)
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
            difference = (seen.tokens.detach() - old)[rows.answer_mask].abs()
            self._difference += float(difference.sum())
            self._compared += len(difference)
            if self.context.rollout.minibatches == 1:  # this is still the policy that sampled the answers
                old = seen.tokens.detach()
                if self._learns:
                    batch.learn(old)
        shown = batch.demonstrations
        return RolloutLogps(
            answers,
            old,
            known[..., 1],
            torch.full((len(batch),), self.context.rollout.max_new_tokens, device=known.device),
            values=self.critic(self.policy, rows, predictions) if self.critic is not None else None,
            returns=known[..., 2] if self.critic is not None else None,
            old_values=known[..., 3] if self.critic is not None else None,
            entropy=seen.entropy,
            demonstration=None if shown is None else self._imitated(shown, batch.asked),
        )

    @property
    def _learns(self) -> bool:
        how = self.context.rollout
        return self._fresh and how.minibatches == 1 and how.epochs > 1

    def finiteness_check(self, values: RolloutLogps) -> Tensor:
        total = values.answers.checksum + values.advantages.sum(dim=1)
        return total if values.values is None else total + values.values.detach().sum(dim=1)

    def compute_metrics(self, values: RolloutLogps) -> dict[str, Tensor]:
        metrics = token_metrics(values.answers)
        return {"policy/entropy_avg": metrics["entropy"]} if metrics else {}

    def _imitated(self, rows: Rows, asked: Tensor) -> Logps:
        """Log-probabilities of the data's own answer to the prompt of each sampled answer."""
        tokens = answer_logps(self.policy, rows)
        return Logps(tokens[asked], rows.answer_mask[asked])


class GeneratedPairsModule(OnlineModule, PreferenceModule):
    """Trains on pairs of sampled answers, or on pairs of the data's answer and a sampled one."""

    objective: GeneratedPairs
    row_type = PairTokens

    def make_rows(
        self, prompts: Sequence[PromptTokens], sampled: Sequence[Sample], rollouts: Rollouts
    ) -> Iterator[Any]:
        each = len(sampled) // len(prompts)
        groups: list[list[PairTokens]] = [[] for _ in prompts]
        for p, winner, loser in self.objective.pairs(rollouts):
            row, rejected = prompts[p], sampled[p * each + loser].ids
            chosen = row.completion if winner is None else sampled[p * each + winner].ids
            groups[p].append(PairTokens(row.index, row.prompt, chosen, rejected))
        yield from groups


class ImitationModule(OnlineModule, SFTModule):
    """Trains on the best of the sampled answers."""

    objective: Imitation
    row_type = CompletionTokens

    def make_rows(
        self, prompts: Sequence[PromptTokens], sampled: Sequence[Sample], rollouts: Rollouts
    ) -> Iterator[Any]:
        each = len(sampled) // len(prompts)
        for p, (row, kept) in enumerate(zip(prompts, self.objective.kept(rollouts).tolist(), strict=True)):
            own = sampled[p * each : (p + 1) * each]
            yield [
                CompletionTokens(row.index, row.prompt, one.ids) for one, keep in zip(own, kept, strict=True) if keep
            ]


def _rows(prompts: Sequence[PromptTokens], sampled: Sequence[Sample], with_demonstrations: bool) -> list[RolloutTokens]:
    """Prompts with their sampled answers, before any numbers of their tokens are computed."""
    each = len(sampled) // len(prompts)
    return [
        RolloutTokens(
            row.index,
            row.prompt,
            [answer.ids for answer in sampled[i * each : (i + 1) * each]],
            demonstration=row.completion if with_demonstrations else None,
        )
        for i, row in enumerate(prompts)
    ]
