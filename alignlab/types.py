"""Types that several packages share: log-probabilities with their masks, rollouts, and the needs of objectives."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

import torch

Reduction = Literal["sum", "mean"]
NllReduction = Literal["sum", "mean", "tokens"]
DataShape = Literal["completions", "pairs", "labelled", "rankings", "rollouts"]


def _sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """dtype for sums: float64 for float64 input (tests against closed forms), else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass(frozen=True, eq=False)
class TokenStats:
    """Statistics of the prediction of every answer token, for metrics. Without gradient; 0 (False) off the answer.

    entropy:    [B, T] entropy of the predicted distribution, nats.
    correct:    bool[B, T], True if the token was the most likely one.
    mean_logit: [B, T] mean logit over the vocabulary.
    """

    entropy: torch.Tensor
    correct: torch.Tensor
    mean_logit: torch.Tensor


@dataclass(frozen=True, eq=False)
class Logps:
    """Log-probabilities of one answer per row.

    tokens:           [B, T] log pi(y_t | x, y_<t), nats, any float dtype. Values where the mask is False are ignored.
    mask:             bool[B, T], True on the tokens of the answer, including the end-of-sequence token.
    reference:        [B] summed log-probability of the same answer under the reference, nats, or None.
    reference_tokens: [B, T] log-probability of each token under the reference, nats, or None.
    reference_kl:     [B] sum_t KL(ref(.|s_t) || pi(.|s_t)) over the answer, nats, or None.
    collision:        [B, T] log sum_v pi(v | x, y_<t)^2, without gradient, or None.
    stats:            statistics of every token's prediction, for metrics, or None.
    mean_count:       mean number of answer tokens per row of the global batch. [B] if the rows belong to different
                      global batches. None means that these rows are the whole global batch.

    Raises ValueError if shapes differ, if the mask is not bool, or if a row has no token.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    reference: torch.Tensor | None = None
    reference_tokens: torch.Tensor | None = None
    reference_kl: torch.Tensor | None = None
    collision: torch.Tensor | None = None
    stats: TokenStats | None = None
    mean_count: float | torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.tokens.ndim != 2 or self.tokens.shape != self.mask.shape:
            raise ValueError(f"tokens {tuple(self.tokens.shape)} and mask {tuple(self.mask.shape)} must both be [B, T]")
        if self.mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool, got {self.mask.dtype}")
        for name, shape in (
            ("reference", self.tokens.shape[:1]),
            ("reference_kl", self.tokens.shape[:1]),
            ("reference_tokens", self.tokens.shape),
            ("collision", self.tokens.shape),
        ):
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ValueError(f"{name} must be {list(shape)}, got {tuple(value.shape)}")
        has_tokens = self.mask.any(dim=1)
        if not has_tokens.all():
            empty = (~has_tokens).nonzero().flatten().tolist()
            raise ValueError(f"answers without a token in rows {empty}")

    @property
    def count(self) -> torch.Tensor:
        """[B] number of answer tokens."""
        return self.mask.sum(dim=1)

    def logp(self, reduction: Reduction) -> torch.Tensor:
        """[B] log-probability of the answer: the sum over its tokens (nats), or their mean (nats per token)."""
        total = self._total(self.tokens)
        return total if reduction == "sum" else total / self.count

    def logratio(self, reduction: Reduction) -> torch.Tensor:
        """[B] log pi(y|x) - log pi_ref(y|x): the sum (nats), or the mean over the answer's tokens (nats per token).

        Raises ValueError if there is no reference.
        """
        if self.reference is None:
            raise ValueError("this objective needs reference log-probabilities and the batch has none")
        total = self.logp("sum") - self.reference
        return total if reduction == "sum" else total / self.count

    @property
    def checksum(self) -> torch.Tensor:
        """[B] a number that is finite if and only if all log-probabilities and KLs of the row are finite."""
        total = self.logp("sum").detach()
        for rows in (self.reference, self.reference_kl):
            total = total if rows is None else total + rows.detach()
        for tokens in (self.reference_tokens, self.collision):
            total = total if tokens is None else total + self._total(tokens)
        return total

    def nll(self, reduction: NllReduction) -> torch.Tensor:
        """[B] negative log-probability of the answer, nats or nats per token.

        sum:    summed over the answer's tokens.
        mean:   divided by the answer's number of tokens.
        tokens: divided by the mean number of answer tokens in the global batch. The mean over the batch is then the
                mean over all of its tokens.
        """
        if reduction != "tokens":
            return -self.logp(reduction)
        return -self.logp("sum") / self.batch_mean_count

    @property
    def batch_mean_count(self) -> float | torch.Tensor:
        """Mean number of answer tokens per row of the global batch; of these rows if `mean_count` is None."""
        return float(self.count.double().mean()) if self.mean_count is None else self.mean_count

    def tail_weighted(self, values: torch.Tensor, head: torch.Tensor, weight: float) -> torch.Tensor:
        """[B] sum of `values` [B, T] over the answer; values after the first `head` [B] tokens count `weight` times."""
        late = self.mask.cumsum(dim=1) > head[:, None]
        values = values.to(_sum_dtype(values.dtype))
        return self._total(torch.where(late, weight * values, values))

    def _total(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(_sum_dtype(values.dtype)).masked_fill(~self.mask, 0.0).sum(dim=1)


@dataclass(frozen=True, eq=False)
class PairLogps:
    """A batch of preferences: row i of `chosen` was preferred to row i of `rejected` for the same prompt."""

    chosen: Logps
    rejected: Logps

    def __post_init__(self) -> None:
        if len(self.chosen.tokens) != len(self.rejected.tokens):
            raise ValueError(f"{len(self.chosen.tokens)} chosen and {len(self.rejected.tokens)} rejected answers")


@dataclass(frozen=True, eq=False)
class LabelledLogps:
    """A batch of single answers, each labelled good or bad.

    answers:    log-probabilities of the answers.
    desirable:  bool[B], True if the answer is labelled good.
    mismatched: log-probabilities of each prompt with another row's answer, without gradient, or None.
    state:      state that the objective keeps between steps (Objective.next_state), or None.
    """

    answers: Logps
    desirable: torch.Tensor
    mismatched: Logps | None = None
    state: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class RankedRewards:
    """A batch of prompts with K answers each, scored by a reward model.

    rewards: [B, K] scalar rewards.
    mask:    bool[B, K], True where there is an answer.
    grades:  [B, K] grades of the answers in the data; larger is better. Answers of equal grade are not compared.
    margin:  [B] by how much the reward of the better answer of a pair should exceed that of the other, or None.
    """

    rewards: torch.Tensor
    mask: torch.Tensor
    grades: torch.Tensor
    margin: torch.Tensor | None = None

    @property
    def better(self) -> torch.Tensor:
        """bool[B, K, K], True if answers i and j both exist and answer i has the higher grade."""
        both = self.mask[:, :, None] & self.mask[:, None, :]
        return both & (self.grades[:, :, None] > self.grades[:, None, :])


@dataclass(frozen=True, eq=False)
class Rollouts:
    """P prompts with K answers each, sampled from a policy. The N = P K answers are ordered by prompt.

    scores:    [P, K] scores of the answers.
    mask:      bool[N, T], True on answer tokens, including the end-of-sequence token.
    logps:     [N, T] log-probability of each token under the sampling policy, at the sampling temperature, nats.
    reference: [N, T] log-probability of each token under the reference, at the same temperature, nats, or None.
    values:    [N, T] the critic's value before each token, or None.
    ended:     bool[N], False if a length limit cut the answer off.
    """

    scores: torch.Tensor
    mask: torch.Tensor
    logps: torch.Tensor
    ended: torch.Tensor
    reference: torch.Tensor | None = None
    values: torch.Tensor | None = None

    @property
    def log_ratio(self) -> torch.Tensor:
        """[N, T] log pi - log pi_ref of every token, nats; 0 off the answers. Raises ValueError without a reference."""
        if self.reference is None:
            raise ValueError("this objective needs reference log-probabilities and the rollouts have none")
        return torch.where(self.mask, self.logps - self.reference, 0.0)


@dataclass(frozen=True, eq=False)
class RolloutLogps:
    """A training batch of answers that were sampled earlier.

    answers:       their log-probabilities under the current policy.
    old:           [B, T] log-probability of each token under the policy that sampled the answers, nats.
    advantages:    [B, T] advantage of each token, in units of reward.
    values:        [B, T] the critic's current value before each token, or None.
    old_values:    [B, T] the critic's value before each token when the answers were sampled, or None.
    returns:       [B, T] the critic's targets, or None.
    entropy:       [B, T] entropy of each token's prediction, with gradient, nats, or None.
    demonstration: log-probabilities of the data's own answers to the same prompts, or None.
    longest:       the largest number of tokens that an answer may have.
    """

    answers: Logps
    old: torch.Tensor
    advantages: torch.Tensor
    longest: torch.Tensor
    values: torch.Tensor | None = None
    old_values: torch.Tensor | None = None
    returns: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    demonstration: Logps | None = None

    @property
    def log_ratio(self) -> torch.Tensor:
        """[B, T] log pi - log pi_old of every token, nats; 0 off the answers."""
        return torch.where(self.answers.mask, self.answers.tokens - self.old, 0.0)


Values = TypeVar("Values")


def halves(value: Values) -> tuple[Values, Values]:
    """(first half, second half) of a batch's rows."""
    return map_tensors(value, lambda t: t[: len(t) // 2]), map_tensors(value, lambda t: t[len(t) // 2 :])


def map_tensors(value: Values, change: Any) -> Values:
    """A copy of a dataclass with `change` applied to every tensor in it, also in dataclasses that it holds."""
    new: dict[str, Any] = {}
    for field in fields(value):  # type: ignore[arg-type]
        part = getattr(value, field.name)
        if isinstance(part, torch.Tensor):
            new[field.name] = change(part)
        elif hasattr(part, "__dataclass_fields__"):
            new[field.name] = map_tensors(part, change)
    return replace(value, **new)  # type: ignore[type-var]


def join(values: list[Values]) -> Values:
    """Concatenate batches of one kind. Rows keep their order; shorter rows are padded with zeros (False in masks).

    Raises ValueError if a field is set in some of the batches only.
    """
    new: dict[str, Any] = {}
    for field in fields(values[0]):  # type: ignore[arg-type]
        parts = [getattr(value, field.name) for value in values]
        if len({type(part) for part in parts}) > 1:
            raise ValueError(f"{field.name} is set in some parts of a batch and not in others")
        if isinstance(parts[0], torch.Tensor):
            width = max((part.shape[1] for part in parts if part.ndim > 1), default=0)
            padded = [torch.nn.functional.pad(p, (0, width - p.shape[1])) if p.ndim > 1 else p for p in parts]
            new[field.name] = torch.cat(padded)
        elif hasattr(parts[0], "__dataclass_fields__"):
            new[field.name] = join(parts)
    return replace(values[0], **new)  # type: ignore[type-var]


@dataclass(frozen=True)
class Requires:
    """What an objective needs. The loader, the module and the reference read this, never the objective's name.

    data:             "completions" (one answer per row), "pairs" (a preferred and a dispreferred answer), "labelled"
                      (one good or bad answer per row), "rankings" (K graded answers per row, scored by a reward model)
                      or "rollouts" (the policy's own answers with advantages).
    reference:        summed log-probabilities under the reference.
    reference_tokens: the log-probability of each token under the reference.
    reference_kl:     the reference's whole distribution at every token, for KL(reference || policy).
    collision:        log sum_v pi(v)^2 at every token.
    mismatched:       prompts with other rows' answers, for a KL estimate. They always cover the whole global batch.
    couples_batch:    the loss of a row depends on the other rows, so the whole global batch is passed at once.
    margin:           margins of pairs, from the data.
    length:           reduction of log-probabilities in the implicit reward, for an objective without a reference.
    online:           the policy samples the answers during training. Only prompts are read from the data, and `data`
                      describes what is built from the sampled answers.
    critic:           what learns the values: a "head" on the policy, a "network" of its own, or "" for no critic.
    entropy:          entropies with gradient.
    demonstrations:   the data's own answers to the prompts that the policy answers.
    """

    data: DataShape
    reference: bool = False
    reference_tokens: bool = False
    reference_kl: bool = False
    collision: bool = False
    mismatched: bool = False
    couples_batch: bool = False
    margin: bool = False
    length: Reduction = "sum"
    online: bool = False
    critic: str = ""
    entropy: bool = False
    demonstrations: bool = False

    @property
    def rows(self) -> str:
        """The shape of rows that is read from the data: "prompts" for an online objective, else `data`."""
        return "prompts" if self.online else self.data

    @property
    def any_reference(self) -> bool:
        """Whether the run has a reference. Offline imitation and reward models have none."""
        return self.online or self.data not in ("completions", "rankings")

    @property
    def live_reference(self) -> bool:
        """Whether the reference model itself must run, because stored log-probabilities are not enough."""
        return self.reference_kl or self.online
