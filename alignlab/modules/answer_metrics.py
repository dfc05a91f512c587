"""Metrics of answers. They are defined the same for every objective; alignlab/tracking/metrics.py describes them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from alignlab.types import LabelledLogps, Logps, PairLogps, map_tensors

# A pair counts as saturated if sigmoid(-margin), the factor of its gradient, is below this.
SATURATED_BELOW = 0.01


# B answers -> [B] implicit rewards (Objective.reward).
Reward = Callable[[Logps], Tensor]


def token_metrics(*sides: Logps) -> dict[str, Tensor]:
    """Entropy (nats per token) over all answers, and token accuracy over the first kind (the preferred answers).

    The result is empty if no kind has token statistics.
    """
    seen = [(side, side.stats) for side in sides if side.stats is not None]
    if not seen:
        return {}
    entropies = torch.stack([stats.entropy.sum() for _, stats in seen])
    return {
        "entropy": entropies.sum() / torch.stack([side.count.sum() for side, _ in seen]).sum(),
        "mean_token_accuracy": _per_token(seen[0][0], seen[0][1].correct.float()),
    }


def pair_metrics(batch: PairLogps, reward: Reward) -> dict[str, Tensor]:
    """Every metric of a batch of pairs, as scalars."""
    chosen, rejected = reward(batch.chosen), reward(batch.rejected)
    margin = chosen - rejected
    longer = (batch.chosen.count - batch.rejected.count).to(margin.dtype)
    out = {
        "rewards/chosen": chosen.mean(),
        "rewards/rejected": rejected.mean(),
        "rewards/margins": margin.mean(),
        "rewards/accuracies": _share(margin > 0),
        "pref/accuracy_ties_half": _share(margin > 0) + 0.5 * _share(margin == 0),
        "pref/saturated_frac": _share(torch.sigmoid(-margin) < SATURATED_BELOW),
        "pref/likelihood_accuracies": _share(batch.chosen.logp("mean") > batch.rejected.logp("mean")),
        "pref/chosen_longer_frac": _share(longer > 0),
        "nll_loss": -_per_token(batch.chosen, batch.chosen.logp("sum")),
        **token_metrics(batch.chosen, batch.rejected),
        **_side("chosen", batch.chosen),
        **_side("rejected", batch.rejected),
        **_displacement(batch.chosen),
    }
    if batch.chosen.reference is not None:
        out["logratios/margins"] = out["logratios/chosen"] - out["logratios/rejected"]
    if len(margin) > 1 and margin.std() > 0 and longer.std() > 0:
        out["pref/length_corr"] = torch.corrcoef(torch.stack([margin, longer]))[0, 1]
    return out


def preference_metrics(batch: PairLogps) -> dict[str, Tensor]:
    """Metrics of a policy on held-out pairs, as scalars. They are the same for every objective and need a reference."""
    h = batch.chosen.logratio("sum") - batch.rejected.logratio("sum")
    return {
        "pairs/accuracy": _share(h > 0) + 0.5 * _share(h == 0),
        "pairs/margin": h.mean(),
        "pairs/distance": h.abs().mean(),
        "pairs/n": torch.tensor(float(len(h))),
    }


def label_metrics(batch: LabelledLogps) -> dict[str, Tensor]:
    """Metrics of a policy on held-out labelled answers, as scalars; empty if one kind is missing.

    The area under the curve is the share of all couples of a good and a bad answer in which the good one has the larger
    log-ratio, ties 1/2. It is computed from ranks (Mann and Whitney 1947).
    """
    good = batch.desirable
    n_good, n_bad = int(good.sum()), int((~good).sum())
    if not n_good or not n_bad:
        return {}
    ratio = batch.answers.logratio("sum").double()
    _, order, counts = torch.unique(ratio, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0).double() - (counts - 1).double() / 2)[order]  # ties share the mean of their ranks
    wins = ranks[good].sum() - n_good * (n_good + 1) / 2
    return {
        "labels/auc": wins / (n_good * n_bad),
        "labels/distance": ratio.abs().mean(),
        "labels/n_good": torch.tensor(float(n_good)),
        "labels/n_bad": torch.tensor(float(n_bad)),
    }


def labelled_metrics(batch: LabelledLogps, reward: Reward) -> dict[str, Tensor]:
    """Every metric of a batch of labelled answers, as scalars. Good answers count as chosen, bad ones as rejected.

    If the batch has no answers of a kind, the metrics of that kind are left out.
    """
    out: dict[str, Tensor] = {}
    for name, rows in (("chosen", batch.desirable), ("rejected", ~batch.desirable)):
        if rows.any():
            side = map_tensors(batch.answers, lambda tensor, rows=rows: tensor[rows])
            out[f"rewards/{name}"] = reward(side).mean()
            out |= _side(name, side)
            if name == "chosen":
                out |= _displacement(side)
    if batch.desirable.any() and not batch.desirable.all():
        for kind in ("rewards", "logratios"):
            if f"{kind}/chosen" in out:
                out[f"{kind}/margins"] = out[f"{kind}/chosen"] - out[f"{kind}/rejected"]
    out |= {name: value for name, value in token_metrics(batch.answers).items() if name == "entropy"}
    rewards = reward(batch.answers)
    towards = torch.where(batch.desirable, rewards, -rewards)
    out["pref/saturated_frac"] = _share(torch.sigmoid(-towards) < SATURATED_BELOW)
    return out


def without_rounding(metrics: dict[str, float], *, relative: bool) -> dict[str, float]:
    """Metrics of the first batch, before any update, where the policy equals its reference.

    All log-ratios are 0 there, but for rounding (a reference from the store was computed in other batches). So shares
    that depend on their signs would be noise, and get the values that ties give. A correlation with them is left out.

    relative: whether rewards are log-ratios to the reference.
    """
    ties = {"displacement/frac_chosen_down": 0.0}
    if relative:
        ties |= {"rewards/accuracies": 0.0, "pref/accuracy_ties_half": 0.5}
        metrics = {name: value for name, value in metrics.items() if name != "pref/length_corr"}
    return {name: ties.get(name, value) for name, value in metrics.items()}


def _side(name: str, side: Logps) -> dict[str, Tensor]:
    """Log-probabilities of one kind of answers (nats), and their log-ratios if there is a reference."""
    out = {f"logps/{name}": side.logp("sum").mean(), f"logps/{name}_per_token": _per_token(side, side.logp("sum"))}
    if side.stats is not None:
        out[f"logits/{name}"] = _per_token(side, side.stats.mean_logit)
    if side.reference is not None:
        ratio = side.logratio("sum")
        out |= {f"logratios/{name}": ratio.mean(), f"logratios/{name}_per_token": _per_token(side, ratio)}
    return out


def _displacement(chosen: Logps) -> dict[str, Tensor]:
    """How much the log-probabilities of preferred answers changed since the start of training, the reference."""
    if chosen.reference is None:
        return {}
    ratio = chosen.logratio("sum")
    return {"displacement/chosen_delta": ratio.mean(), "displacement/frac_chosen_down": _share(ratio < 0)}


def _per_token(side: Logps, total: Tensor) -> Tensor:
    """[B] sums over each answer's tokens -> mean over all tokens."""
    return total.sum() / side.count.sum()


def _share(true: Tensor) -> Tensor:
    return true.float().mean()
