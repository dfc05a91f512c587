"""Win-rates that state their error: wins, ties, losses, invalid; both orders; position bias; intervals by prompt.

A score is what the candidate got on a row: 1 won, 1/2 tied, 0 lost, anything between for a judge that grades, NaN where
the judge's answer was no verdict. No torch here, and no model: all of it can be computed again from stored rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from alignlab.statistics.intervals import Array, Estimate, bootstrap_mean, chosen, score_interval

TIES = ("half", "drop", "lose")


@dataclass(frozen=True)
class Orders:
    """What showing every pair in both orders says about the judge; rows that are valid in both.

    consistency:    share of rows with the same verdict in both orders (Zheng et al. 2023, table 2).
    favours_first:  share of rows where whatever was shown first won both times.
    favours_second: share of rows where whatever was shown second won both times.
    first_rate:     mean score of the answer shown first; 1/2 for a judge without position bias, whatever the answers.
    """

    consistency: Estimate
    favours_first: float
    favours_second: float
    first_rate: Estimate


@dataclass(frozen=True)
class WinRate:
    """A win-rate and all that stands behind it.

    rate:      the win-rate with its interval; `rate.n` prompts.
    wins, ties, losses: rows, after the two orders of a row were put together.
    invalid:   rows where the judge gave no verdict (in one of the orders at least); in no rate.
    unjudged:  rows that the judge could not be asked about; in no rate.
    orders:    None where each row was shown in one order only.
    """

    rate: Estimate
    wins: int
    ties: int
    losses: int
    invalid: int
    unjudged: int
    orders: Orders | None

    def numbers(self) -> dict[str, float]:
        """Flat, for logging and tables."""
        judged = self.wins + self.ties + self.losses
        found = {
            "value": self.rate.value,
            "ci_low": self.rate.low,
            "ci_high": self.rate.high,
            "standard_error": self.rate.standard_error,
            "n": float(self.rate.n),
            "wins": float(self.wins),
            "ties": float(self.ties),
            "losses": float(self.losses),
            "invalid": float(self.invalid),
            "unjudged": float(self.unjudged),
            "tie_rate": self.ties / judged if judged else float("nan"),
        }
        if self.orders is not None:
            found |= {
                "order_consistency": self.orders.consistency.value,
                "favours_first": self.orders.favours_first,
                "favours_second": self.orders.favours_second,
                "first_rate": self.orders.first_rate.value,
            }
        return found


def win_rate(
    first: ArrayLike,
    second: ArrayLike | None = None,
    prompts: Sequence[Hashable] | None = None,
    *,
    unjudged: int = 0,
    ties: str = "half",
    disagreement: str = "tie",
    level: float = 0.95,
) -> WinRate:
    """Win-rate of a candidate from its scores.

    first:        [R] scores with the candidate shown first.
    second:       [R] scores of the same rows with the candidate shown second; None where only one order was shown.
    prompts:      [R] name of each row's prompt; None where every row has its own.
    unjudged:     rows that are not among these because the judge could not be asked; only counted.
    ties:         half, drop (wins / (wins + losses)) or lose (wins / all, as in the tables of KTO's paper).
    disagreement: what two orders that disagree come to: tie, or mean (for judges that grade).
    """
    if ties not in TIES:
        raise ValueError(f"ties must be one of {', '.join(TIES)}, not {ties}")
    ab = np.asarray(first, dtype=np.float64)
    ba = None if second is None else np.asarray(second, dtype=np.float64)
    scores = ab if ba is None else resolve(ab, ba, disagreement=disagreement)
    valid = ~np.isnan(scores)
    used, names = scores[valid], chosen(prompts, valid)
    wins, tied, losses = int((used > 0.5).sum()), int((used == 0.5).sum()), int((used < 0.5).sum())
    kept = used != 0.5 if ties == "drop" else np.ones(len(used), dtype=bool)
    counted = np.where(used == 0.5, 0.0, used) if ties == "lose" else used
    return WinRate(
        rate=score_interval(counted[kept], chosen(names, kept), level=level),
        wins=wins,
        ties=tied,
        losses=losses,
        invalid=int((~valid).sum()),
        unjudged=unjudged,
        orders=None if ba is None else _orders(ab, ba, prompts, level),
    )


def resolve(first: Array, second: Array, *, disagreement: str = "tie") -> Array:
    """[R], [R] -> [R] one score a row from its two orders; NaN where one of them is.

    tie: verdicts that differ make a tie, the rule of MT-Bench (Zheng et al. 2023, https://arxiv.org/abs/2306.05685,
    section 3.4). mean: the mean, which for wins and losses is the same and keeps what a grading judge said.
    """
    if first.shape != second.shape:
        raise ValueError(f"{len(first)} scores in one order and {len(second)} in the other")
    if disagreement not in ("tie", "mean"):
        raise ValueError(f"disagreement must be tie or mean, not {disagreement}")
    mean = (first + second) / 2
    if disagreement == "mean":
        return mean
    same = np.sign(first - 0.5) == np.sign(second - 0.5)
    return np.where(same | np.isnan(mean), mean, 0.5)


def _orders(ab: Array, ba: Array, prompts: Sequence[Hashable] | None, level: float) -> Orders:
    both = ~np.isnan(ab + ba)
    one, other, names = np.sign(ab[both] - 0.5), np.sign(ba[both] - 0.5), chosen(prompts, both)
    favoured = [float(((one == side) & (other == -side)).mean()) if both.any() else float("nan") for side in (1, -1)]
    return Orders(
        consistency=score_interval((one == other).astype(np.float64), names, level=level),
        favours_first=favoured[0],
        favours_second=favoured[1],
        first_rate=score_interval((ab[both] + 1 - ba[both]) / 2, names, level=level),
    )


def paired_difference(
    x: ArrayLike, y: ArrayLike, prompts: Sequence[Hashable] | None = None, *, level: float = 0.95, seed: int = 0
) -> Estimate:
    """Mean of x - y over the rows where both are scores, with a bootstrap interval over prompts.

    x, y: [R] scores of two runs on the same rows; what the prompts have in common cancels.
    """
    difference = np.asarray(x, dtype=np.float64) - np.asarray(y, dtype=np.float64)
    valid = ~np.isnan(difference)
    return bootstrap_mean(difference[valid], chosen(prompts, valid), level=level, seed=seed)
