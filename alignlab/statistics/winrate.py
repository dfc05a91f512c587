"""Win-rates with intervals over prompts, counts of wins, ties, losses and invalid rows, and position bias.

A score is the candidate's result on a row: 1 won, 1/2 tied, 0 lost, a value between for a judge that grades, and NaN if
the judge gave no verdict. No torch and no model is needed, so all results can be recomputed from stored rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from alignlab.statistics.intervals import Array, Estimate, bootstrap_mean, chosen, mean_interval, score_interval

TIES = ("half", "drop", "lose")


@dataclass(frozen=True)
class Orders:
    """The judge's position bias, from rows that were shown in both orders. Only rows with two verdicts count.

    consistency:    share of rows with the same verdict in both orders (Zheng et al. 2023, table 2).
    favours_first:  share of rows in which the answer shown first won in both orders.
    favours_second: share of rows in which the answer shown second won in both orders.
    first_rate:     mean score of the answer shown first; 1/2 for a judge without position bias.
    """

    consistency: Estimate
    favours_first: float
    favours_second: float
    first_rate: Estimate


@dataclass(frozen=True)
class WinRate:
    """A win-rate with its counts.

    rate:      the win-rate with its interval, from `rate.n` prompts.
    wins, ties, losses: numbers of rows, after the two orders of each row were combined.
    invalid:   rows without a verdict in at least one order. They are not part of the rate.
    unjudged:  rows that the judge could not be asked about. They are not part of the rate.
    orders:    position bias; None if each row was shown in one order only.
    """

    rate: Estimate
    wins: int
    ties: int
    losses: int
    invalid: int
    unjudged: int
    orders: Orders | None

    def numbers(self) -> dict[str, float]:
        """All numbers as a flat mapping, for logging and tables."""
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
    second:       [R] scores of the same rows with the candidate shown second; None if only one order was shown.
    prompts:      [R] name of each row's prompt; None if every row has its own.
    unjudged:     number of further rows that the judge could not be asked about. They are only counted.
    ties:         half: a tie counts half; drop: wins / (wins + losses); lose: wins / all, as in the tables of KTO's
                  paper.
    disagreement: score of a row whose two orders disagree: tie, or mean (for judges that grade).
    Raises ValueError for other values of `ties` or `disagreement`, or if `first` and `second` differ in length.
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
    """[R], [R] -> [R] one score per row from the scores in two orders. NaN if one of them is NaN.

    tie:  different verdicts make a tie. This is the rule of MT-Bench (Zheng et al. 2023,
          https://arxiv.org/abs/2306.05685, section 3.4).
    mean: the mean of the two scores. For wins and losses it gives the same as `tie`, and it keeps a judge's grades.
    Raises ValueError if the lengths differ, or for another `disagreement`.
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
    x: ArrayLike,
    y: ArrayLike,
    prompts: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
    all_prompts: bool = False,
) -> Estimate:
    """Mean of x - y over the rows in which neither is NaN, with an interval over prompts.

    x, y:    [R] scores of two runs on the same rows. Effects of the prompt that both runs share cancel.
    prompts: [R] name of each row's prompt; None if every row has its own.
    seed:    of the bootstrap.
    all_prompts: the prompts are all that there are; the interval is over the answers to each.

    If all scores are in [0, 1], (x - y + 1) / 2 is a win-rate, and its score interval is used (`score_interval`; for
    wins and losses it is Tango's interval of a difference of matched shares). A bootstrap knows only the differences
    that it saw, so it is too narrow if few prompts differ, and has no width if none does.

    For other scores it is a bootstrap interval. If the difference is the same on all prompts, prompts that were not
    drawn count as differing by up to the range of all scores; if all scores are equal, the interval is infinite.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    valid = ~np.isnan(a - b)
    a, b, names = a[valid], b[valid], chosen(prompts, valid)
    if all_prompts:
        over_answers = mean_interval(a - b, names, level=level, all_clusters=True)
        if over_answers.standard_error > 0:
            return over_answers
    scores = np.concatenate([a, b])
    if ((scores >= 0) & (scores <= 1)).all():
        half = score_interval((a - b + 1) / 2, names, level=level)
        low, high = 2 * half.low - 1, 2 * half.high - 1
        return Estimate(float((a - b).mean()) if len(a) else half.value, 2 * half.standard_error, low, high, half.n)
    largest = float(np.ptp(scores)) or float("inf")
    return bootstrap_mean(a - b, names, level=level, seed=seed, bounds=(-largest, largest))
