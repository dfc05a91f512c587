"""How often 95 % intervals hold the true value: over seeds, over seeds and prompts, at a KL, over few prompts.

    python -m benchmarks.coverage [--tries 4000]

The numbers of docs/evaluation.md come from here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np

from alignlab.statistics.intervals import bootstrap_mean, mean_interval
from alignlab.statistics.kl_budget import Setting, reward_at
from alignlab.statistics.seeds_and_prompts import Crossed
from alignlab.statistics.winrate import paired_difference

Rng = np.random.Generator
Array = np.ndarray

LEVEL = 0.95


# Metrics over seeds, all with mean 0.
def _lucky(share: float) -> Callable[[Rng, int], Array]:
    """Seeds that differ by 0.01, but for a share of them that is 1 better."""
    return lambda rng, n: rng.normal(0, 0.01, n) + (rng.random(n) < share) - share


SEEDS: dict[str, Callable[[Rng, int], Array]] = {
    "normal": lambda rng, n: rng.normal(0, 1, n),
    "skewed (exponential)": lambda rng, n: rng.exponential(1, n) - 1,
    "one seed in five is far better": _lucky(0.2),
    "one seed in ten is far better": _lucky(0.1),
    "one seed in twenty is far better": _lucky(0.05),
}


def over_seeds(rng: Rng, tries: int) -> Iterator[str]:
    for name, draw in SEEDS.items():
        for seeds in (2, 3, 5, 10, 20, 30):
            found = [mean_interval(draw(rng, seeds)) for _ in range(tries)]
            yield f"mean over {seeds} seeds, {name}: {np.mean([e.low <= 0 <= e.high for e in found]):.3f}"


def over_differences(rng: Rng, tries: int) -> Iterator[str]:
    """Paired differences of a setting to one whose seeds are normal, with a standard deviation of 0.01."""
    for name, draw in SEEDS.items():
        for seeds in (3, 5, 10):
            found = [mean_interval(draw(rng, seeds) - rng.normal(0, 0.01, seeds)) for _ in range(tries)]
            yield f"difference over {seeds} seeds, {name}: {np.mean([e.low <= 0 <= e.high for e in found]):.3f}"


def over_seeds_and_prompts(rng: Rng, tries: int) -> Iterator[str]:
    for seeds, prompts in ((2, 64), (3, 16), (3, 64), (5, 64), (10, 64)):
        for of_seeds in (0.0, 0.1, 1.0):
            hits = []
            for _ in range(tries // 2):
                table = rng.normal(0, of_seeds, (seeds, 1)) + rng.normal(0, 1, (1, prompts))
                found = Crossed()(list(table + rng.normal(0, 1, (seeds, prompts))), LEVEL)
                hits.append(found.low <= 0 <= found.high)
            yield f"{seeds} seeds x {prompts} prompts, spreads {of_seeds:g} and 1: {np.mean(hits):.3f}"


def _by_seed(values: Array) -> dict[str, float]:
    return {str(seed): float(value) for seed, value in enumerate(values)}


def at_a_kl(rng: Rng, tries: int) -> Iterator[str]:
    """Settings at 1 and 3 nats on a curve of slope 1/2; KL and reward of a seed vary together."""
    for spread in (0.1, 0.3, 0.6):
        for seeds in (2, 3, 5):
            hits = []
            for _ in range(tries):
                curve = []
                for kl in (1.0, 3.0):
                    moved, luck = rng.normal(0, spread, seeds), rng.normal(0, 0.1, seeds)
                    kls, rewards = kl + moved, kl / 2 + moved / 2 + luck
                    curve.append(Setting(_by_seed(kls), _by_seed(rewards), {}))
                found = reward_at(curve, 2.0)
                interval = mean_interval(list(found.values())) if found else mean_interval([0.0])
                hits.append(interval.low <= 1.0 <= interval.high)
            yield f"reward at 2 nats, {seeds} seeds, KL ± {spread}: {np.mean(hits):.3f}"


def over_few_prompts(rng: Rng, tries: int) -> Iterator[str]:
    for prompts in (8, 16, 64):
        for rate in (0.05, 0.17, 0.5):
            rows = (rng.random((tries // 4, 2, prompts)) < np.array([[rate], [rate / 2]])).astype(float)
            means = [bootstrap_mean(row[0], draws=500, seed=i) for i, row in enumerate(rows)]
            differences = [paired_difference(*row) for row in rows]
            held = [np.mean([e.low <= rate <= e.high for e in means])]
            held.append(np.mean([e.low <= rate / 2 <= e.high for e in differences]))
            yield f"{prompts} prompts, rate {rate}: bootstrap_mean {held[0]:.3f}, paired_difference {held[1]:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=4000)
    tries = parser.parse_args().tries
    rng = np.random.default_rng(0)
    for simulate in (over_seeds, over_differences, over_seeds_and_prompts, at_a_kl, over_few_prompts):
        for line in simulate(rng, tries):
            print(line, flush=True)


if __name__ == "__main__":
    main()
