"""What several seeds say about a setting: its mean with an interval, which settings can't be told apart, and how many
more seeds would tell them apart. Pure numbers; Student's t throughout, so seeds are taken to scatter normally.

Settings are compared seed by seed: the same seed draws the same rows for both, and what it brings to both cancels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alignlab.statistics.intervals import Estimate, mean_interval
from alignlab.statistics.power import pairs_needed

LEVEL, POWER = 0.95, 0.8

# More seeds than this are not counted out.
MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Comparison:
    """A setting beside the best one.

    difference: its metric minus the best's over the seeds that both have, with an interval that holds for all settings
                at once; None for the best itself.
    tied:       whether the interval does not lie on the worse side of 0 (or the setting is the best); None where fewer
                than two shared seeds leave it unknown.
    more_seeds: seeds beyond those of the difference at which the two would be told apart; None where they are already,
                where that is unknown, or where it would take more than MOST_SEEDS.
    """

    difference: Estimate | None
    tied: bool | None
    more_seeds: int | None


def compare_with_best(
    settings: Mapping[str, Mapping[str, float]],
    *,
    lower_is_better: bool,
    level: float = LEVEL,
    least: float = 0.0,
    candidates: Collection[str] | None = None,
    comparisons: int | None = None,
) -> tuple[str | None, dict[str, Comparison]]:
    """The setting with the best mean, and every setting beside it.

    settings:    name -> seed -> metric.
    least:       settings whose means differ by less are tied, however surely they differ.
    candidates:  settings that can be the best; None allows all of them. Without a candidate nothing is compared.
    comparisons: number of comparisons that `level` holds for at once; None counts those made here.

    The best is looked for among the settings with the most seeds, since a mean over other seeds is another mean: a
    setting whose bad seeds failed would look good.

    Each of the k - 1 intervals has level 1 - (1 - level) / (k - 1) (Bonferroni). So the truly best setting is among the
    tied ones with probability `level` or more: it is left out only where some setting seems better than it by more than
    its interval allows, which for each of the k - 1 others happens with probability (1 - level) / (k - 1) at most.
    """
    can_be = {name: seeds for name, seeds in settings.items() if candidates is None or name in candidates}
    most = max((len(seeds) for seeds in can_be.values()), default=0)
    if most == 0:
        return None, {}
    sign = 1.0 if lower_is_better else -1.0
    full = {name: sign * float(np.mean(list(s.values()))) for name, s in can_be.items() if len(s) == most}
    best = min(full, key=lambda name: full[name])
    count = sum(bool(seeds) for seeds in settings.values()) - 1 if comparisons is None else comparisons
    each = 1 - (1 - level) / max(1, count)
    found: dict[str, Comparison] = {}
    for name, seeds in settings.items():
        if name == best:
            found[name] = Comparison(None, True, None)
            continue
        differences = paired(seeds, settings[best])
        interval = mean_interval(differences, level=each)
        worse = interval.low > 0 if lower_is_better else interval.high < 0
        too_little = abs(interval.value) < least
        tied = (not worse or too_little) if interval.n > 1 else None
        more = seeds_to_separate(differences, level=each) if tied and not too_little else None
        found[name] = Comparison(interval, tied, None if more is None else max(1, more - interval.n))
    return best, found


def paired(a: Mapping[str, float], b: Mapping[str, float]) -> list[float]:
    """a - b at every seed that both have."""
    return [a[seed] - b[seed] for seed in a if seed in b]


def seeds_to_separate(differences: Sequence[float], *, level: float = LEVEL, power: float = POWER) -> int | None:
    """Smallest n at which a two-sided paired t test separates two settings with probability `power`.

    The difference and its spread are taken to be those seen. None where they are not known (n < 2), where there is no
    difference, or where more than MOST_SEEDS would be needed.
    """
    if len(differences) < 2:
        return None
    mean, spread = float(np.mean(differences)), float(np.std(differences, ddof=1))
    return pairs_needed(mean, spread, chance=power, level=level, most=MOST_SEEDS)
