"""KL, scores and win-rates of several runs by prompt, so that runs can be compared on the same prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignlab.evaluation.examples import Examples, same_prompts, unscored
from alignlab.statistics.intervals import Array
from alignlab.statistics.winrate import resolve

KL = "eval/kl_ref/sequence_k1"


@dataclass(frozen=True)
class ByPrompt:
    """Numbers of runs on the same prompts, for comparisons.

    metrics:  run -> metric -> [P] mean over the answers to each prompt.
    prompts:  P.
    left_out: prompts that are left out, because some run has no valid verdict of the judge there.
    """

    metrics: Mapping[str, Mapping[str, Array]]
    prompts: int
    left_out: int


def by_prompt(runs: Mapping[str, Examples], judge: str) -> ByPrompt | None:
    """KL, and scores and win-rates by one judge, of all runs; None if the runs have different prompts.

    The names are those of alignlab/tracking/metrics.py. `<score>/reference` and `<win-rate>/reference` are those of the
    policy before training. A metric that one run lacks is left out.
    """
    first = next(iter(runs.values()))
    if not all(same_prompts(first, examples) for examples in runs.values()):
        return None
    _, codes = np.unique(np.asarray(first["prompt_id"]), return_inverse=True)
    counts = np.bincount(codes)
    found = {
        run: {name: np.bincount(codes, weights=rows) / counts for name, rows in _rows(examples, judge).items()}
        for run, examples in runs.items()
    }
    common = [name for name in next(iter(found.values())) if all(name in of for of in found.values())]
    valid = np.all([np.isfinite(of[name]) for of in found.values() for name in common] or [counts > 0], axis=0)
    kept = {run: {name: of[name][valid] for name in common if valid.any()} for run, of in found.items()}
    return ByPrompt(kept, int(valid.sum()), int((~valid).sum()))


@dataclass(frozen=True)
class OfRun:
    """Numbers of one run by prompt, in an order that depends on the prompts only.

    prompts:     [P] digests of the prompts.
    samples:     number of answers.
    all_prompts: the prompts are all that there are.
    values:      metric -> [P] mean over the answers to each prompt; NaN if an answer has no valid verdict. Metrics have
                 the names of SAMPLED (alignlab/tracking/metrics.py), and `winrate/<judge>` is against the first
                 baseline. `winrates` has those against each baseline.
    winrates:    (judge, baseline) -> [P].
    """

    prompts: tuple[str, ...]
    samples: int
    all_prompts: bool
    values: Mapping[str, Array]
    winrates: Mapping[tuple[str, str], Array]

    def same_prompts(self, other: OfRun) -> bool:
        return (self.prompts, self.samples) == (other.prompts, other.samples)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as a summary stores them. NaN is None."""
        rates: dict[str, dict[str, Any]] = {}
        for (judge, baseline), won in self.winrates.items():
            rates.setdefault(baseline, {})[judge] = _plain(won)
        values = {name: _plain(of) for name, of in self.values.items()}
        about = {"prompts": list(self.prompts), "samples": self.samples, "all_prompts": self.all_prompts}
        return {**about, "values": values, "winrates": rates}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> OfRun:
        """The reverse of `as_dict`. Raises KeyError, TypeError or ValueError for anything else."""
        prompts = tuple(map(str, stored["prompts"]))
        values = {name: _array(of, len(prompts)) for name, of in dict(stored["values"]).items()}
        rates = {
            (judge, baseline): _array(of, len(prompts))
            for baseline, judges in dict(stored["winrates"]).items()
            for judge, of in dict(judges).items()
        }
        return cls(prompts, int(stored["samples"]), bool(stored["all_prompts"]), values, rates)


def _plain(values: Array) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _array(values: Sequence[float | None], prompts: int) -> Array:
    found = np.array(unscored(values))
    if found.shape != (prompts,):
        raise ValueError(f"{len(found)} values of {prompts} prompts")
    return found


def of_run(examples: Examples) -> OfRun:
    """KL, scores and win-rates of one run by prompt, by all of its judges."""
    names, codes = np.unique(np.asarray(examples["prompt_id"]), return_inverse=True)
    counts = np.bincount(codes)
    compared = {(judge, baseline): None for baseline in examples.baselines for judge in examples.compared_by(baseline)}
    judges = dict.fromkeys([*examples.scored_by, *(judge for judge, _ in compared)]) or {"": None}
    values = {
        name.removeprefix("eval/"): np.bincount(codes, weights=rows) / counts
        for judge in judges
        for name, rows in _rows(examples, judge).items()
    }
    rates = {
        (judge, baseline): np.bincount(codes, weights=_rates(examples, baseline, judge)) / counts
        for judge, baseline in compared
    }
    return OfRun(tuple(map(str, names)), len(examples), examples.all_prompts, values, rates)


def _rows(examples: Examples, judge: str) -> dict[str, Array]:
    """metric -> [R] its value for each answer; NaN without a valid verdict."""
    found: dict[str, Array] = {}
    if "policy/reference_logps" in examples:
        pairs = zip(examples["policy/policy_logps"], examples["policy/reference_logps"], strict=True)
        found[KL] = np.array([sum(p) - sum(q) for p, q in pairs])
    for side, name in (("policy", "mean"), ("reference", "reference")):
        if f"{side}/score/{judge}" in examples:
            found[f"eval/score/{judge}/{name}"] = np.array(unscored(examples[f"{side}/score/{judge}"]))
    baseline = next((b for b in examples.baselines if f"{b}/first/{judge}" in examples), None)
    if baseline is not None:
        found[f"eval/winrate/{judge}"] = _rates(examples, baseline, judge)
        if baseline == "reference":
            found[f"eval/winrate/{judge}/reference"] = np.full(len(examples), 0.5)
    return found


def _rates(examples: Examples, baseline: str, judge: str) -> Array:
    """[R] the policy's result of each comparison with the baseline; NaN without a valid verdict."""
    rates = np.array(unscored(examples[f"{baseline}/first/{judge}"]))
    if f"{baseline}/second/{judge}" not in examples:
        return rates
    other = np.array(unscored(examples[f"{baseline}/second/{judge}"]))
    return resolve(rates, other, disagreement=examples.facts.get(f"disagreement/{judge}", "tie"))
