"""Values that cross rooms: log-probabilities with their masks, and what objectives say of themselves."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

import torch

Reduction = Literal["sum", "mean"]
NllReduction = Literal["sum", "mean", "tokens"]
DataShape = Literal["completions", "pairs", "labelled", "rankings", "rollouts"]


def _sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Sums are taken in float32, or in float64 where the input has it (tests against closed forms)."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass(frozen=True, eq=False)
class TokenStats:
    """What metrics tell of the prediction of every answer token, without gradient; 0 (False) off the answer.

    entropy:    [B, T] of the predicted distribution, nats.
    correct:    bool[B, T], True where the token was the likeliest one.
    mean_logit: [B, T] mean over the vocabulary.
    """

    entropy: torch.Tensor
    correct: torch.Tensor
    mean_logit: torch.Tensor


@dataclass(frozen=True, eq=False)
class Logps:
    """Log-probabilities of one completion per row.

    tokens:           [B, T] log pi(y_t | x, y_<t), nats, any float dtype; what stands where mask is False is ignored.
    mask:             bool[B, T], True on the tokens of the completion, end-of-sequence token included.
    reference:        [B] summed log-probability of the same completion under the reference, nats, or None.
    reference_tokens: [B, T] the same token by token, or None.
    reference_kl:     [B] sum_t KL(ref(.|s_t) || pi(.|s_t)) over the completion, nats, or None.
    collision:        [B, T] log sum_v pi(v | x, y_<t)^2, without gradient, or None.
    stats:            of every token's prediction, for metrics, or None.
    mean_count:       completion tokens per row over the global batch that these rows belong to, [B] where that is not
                      the same one for all; None: they are it.

    Raises ValueError for shapes that differ, for a mask that is not bool, and for a row without any token.
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
            raise ValueError(f"completions without a token in rows {empty}")

    @property
    def count(self) -> torch.Tensor:
        """[B] number of completion tokens."""
        return self.mask.sum(dim=1)

    def logp(self, reduction: Reduction) -> torch.Tensor:
        """[B] log-probability of the completion: summed over its tokens, or their mean; nats."""
        total = self._total(self.tokens)
        return total if reduction == "sum" else total / self.count

    def logratio(self, reduction: Reduction) -> torch.Tensor:
        """[B] log pi(y|x) - log pi_ref(y|x), summed or per token; nats. Raises ValueError without a reference."""
        if self.reference is None:
            raise ValueError("this objective needs reference log-probabilities and the batch has none")
        total = self.logp("sum") - self.reference
        return total if reduction == "sum" else total / self.count

    @property
    def checksum(self) -> torch.Tensor:
        """[B] finite where everything known of the row is finite."""
        total = self.logp("sum").detach()
        for rows in (self.reference, self.reference_kl):
            total = total if rows is None else total + rows.detach()
        for tokens in (self.reference_tokens, self.collision):
            total = total if tokens is None else total + self._total(tokens)
        return total

    def nll(self, reduction: NllReduction) -> torch.Tensor:
        """[B] negative log-probability: of the completion, per token of it, or divided by the batch's mean length.

        The mean over the batch is then a mean of sums, a mean of per-token means, or one mean over all its tokens.
        """
        if reduction != "tokens":
            return -self.logp(reduction)
        return -self.logp("sum") / self.batch_mean_count

    @property
    def batch_mean_count(self) -> float | torch.Tensor:
        """Completion tokens per row over the global batch; over these rows where nothing else is said."""
        return float(self.count.double().mean()) if self.mean_count is None else self.mean_count

    def tail_weighted(self, values: torch.Tensor, head: torch.Tensor, weight: float) -> torch.Tensor:
        """[B] sum of `values` [B, T] over the completion, tokens after its first `head` [B] ones times `weight`."""
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
    """A batch of single answers, each said to be good or bad.

    answers:    the answers.
    desirable:  bool[B], True where the answer is good.
    mismatched: each prompt with another row's answer, without gradient, or None.
    state:      what the objective keeps from step to step (Objective.next_state), or None.
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
    grades:  [B, K] how good the answers are said to be, larger is better; equal grades are not compared.
    margin:  [B] by how much the better one of a pair should lead, or None.
    """

    rewards: torch.Tensor
    mask: torch.Tensor
    grades: torch.Tensor
    margin: torch.Tensor | None = None

    @property
    def better(self) -> torch.Tensor:
        """bool[B, K, K], True where answer i is there, and graded better than answer j, which is there too."""
        both = self.mask[:, :, None] & self.mask[:, None, :]
        return both & (self.grades[:, :, None] > self.grades[:, None, :])


@dataclass(frozen=True, eq=False)
class Rollouts:
    """P prompts with K answers each, as a policy gave them; N = P K answers, those to one prompt side by side.

    scores:    [P, K] what the answers are worth.
    mask:      bool[N, T], True on answer tokens, the end included.
    logps:     [N, T] under the policy that gave them, at the temperature it gave them at, nats.
    reference: [N, T] under the reference, at that temperature, or None.
    values:    [N, T] what a critic expected before each token, or None.
    ended:     bool[N], False where a length limit cut an answer off.
    """

    scores: torch.Tensor
    mask: torch.Tensor
    logps: torch.Tensor
    ended: torch.Tensor
    reference: torch.Tensor | None = None
    values: torch.Tensor | None = None

    @property
    def log_ratio(self) -> torch.Tensor:
        """[N, T] log pi - log pi_ref of every token, 0 off the answers; nats. ValueError without a reference."""
        if self.reference is None:
            raise ValueError("this objective holds the policy to a reference and the rollouts have none")
        return torch.where(self.mask, self.logps - self.reference, 0.0)


@dataclass(frozen=True, eq=False)
class RolloutLogps:
    """A batch of answers that a policy gave before, to be learnt from.

    answers:       their log-probabilities under the policy as it is now.
    old:           [B, T] under the policy that gave them, nats.
    advantages:    [B, T] by how much each token was better than expected, in units of reward.
    values:        [B, T] what the critic expects now before each token, or None.
    old_values:    [B, T] what it expected when the answers were given, or None.
    returns:       [B, T] what it should have expected, or None.
    entropy:       [B, T] of each token's prediction, with gradient, nats, or None.
    demonstration: log-probabilities of the data's own answers to the same prompts, or None.
    longest:       most tokens that an answer may have.
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
        """[B, T] log pi - log pi_old of every token, 0 off the answers; nats."""
        return torch.where(self.answers.mask, self.answers.tokens - self.old, 0.0)


Values = TypeVar("Values")


def halves(value: Values) -> tuple[Values, Values]:
    """The first and the second half of a batch's rows."""
    return map_tensors(value, lambda t: t[: len(t) // 2]), map_tensors(value, lambda t: t[len(t) // 2 :])


def map_tensors(value: Values, change: Any) -> Values:
    """The same value with `change` applied to every tensor in it."""
    new: dict[str, Any] = {}
    for field in fields(value):  # type: ignore[arg-type]
        part = getattr(value, field.name)
        if isinstance(part, torch.Tensor):
            new[field.name] = change(part)
        elif hasattr(part, "__dataclass_fields__"):
            new[field.name] = map_tensors(part, change)
    return replace(value, **new)  # type: ignore[type-var]


def join(values: list[Values]) -> Values:
    """Batches of one kind as one batch, rows in order; shorter rows are padded with zeros (False in masks)."""
    new: dict[str, Any] = {}
    for field in fields(values[0]):  # type: ignore[arg-type]
        parts = [getattr(value, field.name) for value in values]
        if len({type(part) for part in parts}) > 1:
            raise ValueError(f"{field.name} is there in some parts of a batch and not in others")
        if isinstance(parts[0], torch.Tensor):
            width = max((part.shape[1] for part in parts if part.ndim > 1), default=0)
            padded = [torch.nn.functional.pad(p, (0, width - p.shape[1])) if p.ndim > 1 else p for p in parts]
            new[field.name] = torch.cat(padded)
        elif hasattr(parts[0], "__dataclass_fields__"):
            new[field.name] = join(parts)
    return replace(values[0], **new)  # type: ignore[type-var]


@dataclass(frozen=True)
class Requires:
    """What an objective needs; loader, module and reference follow from it, never from the objective's name.

    data:             "completions" (one answer a row), "pairs" (a preferred and a dispreferred one), "labelled" (one
                      answer a row, good or bad), "rankings" (K graded answers a row, scored by a reward model) or
                      "rollouts" (the policy's own answers with advantages).
    reference:        summed log-probabilities under the reference policy.
    reference_tokens: the same token by token.
    reference_kl:     the reference's whole distribution at every token, for KL(reference || policy).
    collision:        log sum_v pi(v)^2 at every token.
    mismatched:       prompts with other rows' answers, for a KL estimate; those of the whole global batch, always.
    couples_batch:    the loss of a row depends on the other rows, so the whole global batch is passed at once.
    margin:           margins of pairs, from the data.
    length:           how the implicit reward of an objective without a reference sums log-probabilities.
    online:           answers come from the policy while it trains, and `data` is what is made of them; of the data only
                      prompts are read.
    critic:           what to expect of answers is learnt beside the policy: by a "head" on it, or by a "network".
    entropy:          entropies with gradient.
    demonstrations:   the data's own answers to the prompts that are answered online.
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
        """What is read of the data: "prompts", or the shape that the objective works on."""
        return "prompts" if self.online else self.data

    @property
    def any_reference(self) -> bool:
        """Whether there is a reference at all: imitation and reward models have none."""
        return self.online or self.data not in ("completions", "rankings")

    @property
    def live_reference(self) -> bool:
        """Whether stored log-probabilities are not enough and the reference model itself must run."""
        return self.reference_kl or self.online
