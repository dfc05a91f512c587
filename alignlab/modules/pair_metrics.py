"""What is logged about preferences: the same definitions for every objective (alignlab/tracking/metrics.py)."""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.modules.sums import mean_of
from alignlab.types import Logps, PairLogps, Requires

SATURATED_BELOW = 0.01


def pair_sums(batch: PairLogps, requires: Requires, reward_scale: float) -> dict[str, tuple[Tensor, Tensor]]:
    """(sum, count) of every pair metric of a micro-batch.

    Rewards are reward_scale times the log-ratio as the objective reduces it; without a reference, times the
    log-probability.
    """
    with torch.no_grad():
        sides = {"chosen": batch.chosen, "rejected": batch.rejected}
        reward = {side: reward_scale * _score(logps, requires) for side, logps in sides.items()}
        margin = reward["chosen"] - reward["rejected"]
        out = {
            "rewards/chosen": mean_of(reward["chosen"]),
            "rewards/rejected": mean_of(reward["rejected"]),
            "rewards/margins": mean_of(margin),
            "rewards/accuracies": mean_of((margin > 0).float()),
            "pref/accuracy_ties_half": mean_of((margin > 0).float() + 0.5 * (margin == 0).float()),
            "pref/saturated_frac": mean_of((torch.sigmoid(-margin) < SATURATED_BELOW).float()),
            "pref/chosen_longer_frac": mean_of((batch.chosen.count > batch.rejected.count).float()),
        }
        for side, logps in sides.items():
            total = logps.logp("sum")
            out[f"logps/{side}"] = mean_of(total)
            out[f"logps/{side}_per_token"] = (total.sum(), logps.count.sum())
        if requires.reference:
            ratio = {side: logps.logratio("sum") for side, logps in sides.items()}
            out["logratios/chosen"] = mean_of(ratio["chosen"])
            out["logratios/rejected"] = mean_of(ratio["rejected"])
            out["logratios/margins"] = mean_of(ratio["chosen"] - ratio["rejected"])
            out["displacement/frac_chosen_down"] = mean_of((ratio["chosen"] < 0).float())
    return out


def _score(logps: Logps, requires: Requires) -> Tensor:
    return logps.logratio(requires.length) if requires.reference else logps.logp(requires.length)
