"""Computes numbers with intervals from stored examples. It needs no model and no torch, so it can be repeated later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from alignlab.evaluation.benchmarked import flat_benchmarks
from alignlab.evaluation.by_prompt import of_run
from alignlab.evaluation.examples import Examples, unscored
from alignlab.evaluation.text_metrics import distinct, repetition
from alignlab.statistics.best_of_n import best_of_n
from alignlab.statistics.intervals import Estimate, mean_interval, score_interval
from alignlab.statistics.kl import forward_kl, kl_estimates
from alignlab.statistics.winrate import WinRate, paired_difference, win_rate

# Parts of a metric's name -> of an estimate.
_ENDS = (("ci_low", "low"), ("ci_high", "high"), ("n", "n"))

# Values of n of a best-of-n curve. Only those up to the number of samples are used.
_BEST_OF = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def summarise(examples: Examples) -> dict[str, Any]:
    """All statistics of the examples, as plain values. Estimates have a standard error, an interval and n (prompts).

    all_prompts: whether the prompts are all that there are, so that intervals are over the answers to each.
    kl:        estimator -> KL in nats (alignlab/statistics/kl.py); empty if the temperature of sampling was not 1.
    answers:   side -> tokens, characters, share that ended, repetition, number of different texts, share of distinct
               n-grams, mean scores.
    compared:  baseline -> judge -> win-rate of the policy, and mean difference of scores if the judge scores.
    by_prompt: KL, scores and win-rates by prompt (`OfRun.as_dict`), so that runs can be compared prompt by prompt.
    best_of_n: judge -> n -> mean score of the best of n samples; empty for one sample per prompt.
    """
    prompts = examples["prompt_id"]
    return {
        "rows": len(examples),
        "prompts": len(set(prompts)),
        "all_prompts": examples.all_prompts,
        "kl": {name: asdict(estimate) for name, estimate in _kl(examples).items()},
        "answers": {side: _answers(examples, side) for side in examples.sides},
        "compared": {
            baseline: {
                judge: _compared(examples, baseline, judge)
                for judge in dict.fromkeys([*examples.compared_by(baseline), *examples.scored_by])
            }
            for baseline in examples.baselines
        },
        "by_prompt": of_run(examples).as_dict(),
        "best_of_n": {judge: found for judge in examples.scored_by if (found := _best_of(examples, judge))},
    }


def win_rate_of(examples: Examples, baseline: str, judge: str) -> WinRate:
    """Win-rate of the policy against a baseline, with an interval over prompts, or over answers if these are all."""
    first, second = examples[f"{baseline}/first/{judge}"], examples.columns.get(f"{baseline}/second/{judge}")
    judged = [i for i, score in enumerate(first) if score is not None and (second is None or second[i] is not None)]
    return win_rate(
        [first[i] for i in judged],
        None if second is None else [second[i] for i in judged],
        None if examples.all_prompts else [examples["prompt_id"][i] for i in judged],
        unjudged=len(first) - len(judged),
        disagreement=examples.facts.get(f"disagreement/{judge}", "tie"),
    )


def unjudged_by(summary: Mapping[str, Any]) -> list[str]:
    """The judges that could not be asked about any answer, so that a summary has no win-rate by them."""
    rates: dict[str, list[Mapping[str, float]]] = {}
    for judges in summary.get("compared", {}).values():
        for judge, numbers in judges.items():
            rates.setdefault(judge, []).extend([numbers["win_rate"]] if "win_rate" in numbers else [])
    return [
        judge
        for judge, found in rates.items()
        if found and all(rate["unjudged"] and not rate["n"] and not rate["invalid"] for rate in found)
    ]


def _kl(examples: Examples) -> dict[str, Estimate]:
    prompts, fixed = examples["prompt_id"], examples.all_prompts
    found: dict[str, Estimate] = {}
    if "policy/reference_logps" in examples:
        logps = examples["policy/policy_logps"], examples["policy/reference_logps"]
        found |= kl_estimates(*logps, prompts, all_prompts=fixed)
    for side, name in (("reference", "forward_k1"), ("chosen", "forward_on_data")):
        if f"{side}/policy_logps" in examples:
            logps = examples[f"{side}/policy_logps"], examples[f"{side}/reference_logps"]
            found[name] = forward_kl(*logps, prompts, all_prompts=fixed)
    return found


def _answers(examples: Examples, side: str) -> dict[str, Any]:
    texts, prompts, fixed = examples[f"{side}/answer"], examples["prompt_id"], examples.all_prompts
    ended = np.asarray(examples[f"{side}/ended"], dtype=np.float64)
    lengths = {"tokens": examples[f"{side}/tokens"], "characters": [len(text) for text in texts]}
    shares: dict[str, Any] = {"ended": ended, "repetition": [repetition(text) for text in texts]}
    found: dict[str, Any] = {
        **{name: asdict(mean_interval(v, prompts, all_clusters=fixed, least=0.0)) for name, v in lengths.items()},
        **{name: asdict(score_interval(v, None if fixed else prompts)) for name, v in shares.items()},
        "different": len({text.strip() for text in texts}),
        "distinct_1": distinct(texts, 1),
        "distinct_2": distinct(texts, 2),
    }
    for judge in examples.scored_by:
        if f"{side}/score/{judge}" in examples:
            scores = np.array(unscored(examples[f"{side}/score/{judge}"]))
            valid = ~np.isnan(scores)
            kept = [name for name, ok in zip(prompts, valid, strict=True) if ok]
            found[f"score/{judge}"] = asdict(mean_interval(scores[valid], kept, all_clusters=fixed))
    return found


def _compared(examples: Examples, baseline: str, judge: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if f"{baseline}/first/{judge}" in examples:
        found["win_rate"] = win_rate_of(examples, baseline, judge).numbers()
    if f"{baseline}/score/{judge}" in examples:
        own, other = (unscored(examples[f"{side}/score/{judge}"]) for side in ("policy", baseline))
        found["score_difference"] = asdict(
            paired_difference(own, other, examples["prompt_id"], all_prompts=examples.all_prompts)
        )
    return found


def _best_of(examples: Examples, judge: str) -> dict[str, Any]:
    """Best-of-n scores. Empty if there are no rows, one sample per prompt, or different numbers of samples."""
    by_prompt: dict[tuple[str, int], list[float]] = {}
    turns = examples["turn"] if "turn" in examples else [1] * len(examples)
    keys = zip(examples["prompt_id"], turns, strict=True)
    for prompt, score in zip(keys, unscored(examples[f"policy/score/{judge}"]), strict=True):
        by_prompt.setdefault(prompt, []).append(score)
    table = list(by_prompt.values())
    samples = len(table[0]) if table else 0
    if samples < 2 or any(len(row) != samples for row in table) or np.isnan(table).any():
        return {}
    found = best_of_n(table, [n for n in _BEST_OF if n <= samples], prompts=[prompt for prompt, _ in by_prompt])
    return {str(n): asdict(estimate) for n, estimate in found.items()}


def flat(summary: dict[str, Any], against: str) -> Iterator[tuple[str, float]]:
    """(name, value) of the summary's metrics (see alignlab/tracking/metrics.py). Win-rates are against one baseline."""
    kl, policy = summary["kl"], summary["answers"]["policy"]
    for name in ("sequence_k1", "sequence_k2", "sequence_k3", "token_k3", "per_token", "forward_k1", "forward_on_data"):
        if name in kl:
            yield f"kl_ref/{name}", kl[name]["value"]
            yield f"kl_ref/{name}/se", kl[name]["standard_error"]
    yield "samples/mean_length", policy["tokens"]["value"]
    yield "samples/eos_frac", policy["ended"]["value"]
    yield "samples/repetition", policy["repetition"]["value"]
    yield "samples/distinct_2", policy["distinct_2"]
    for key, value in policy.items():
        if key.startswith("score/"):
            yield f"{key}/mean", value["value"]
            yield f"{key}/se", value["standard_error"]
    for key, value in summary["answers"].get("reference", {}).items():
        if key.startswith("score/"):
            yield f"{key}/reference", value["value"]
    for side, prefix in (("policy", ""), ("reference", "/reference")):
        for name in ("over_refusal", "refusal"):
            rate = summary.get("refusals", {}).get(side, {}).get(name)
            if rate and rate["n"]:
                yield f"refusals/{name}{prefix}", rate["value"]
                if side == "policy":
                    yield from ((f"refusals/{name}/{end}", rate[at]) for end, at in _ENDS)
    yield from flat_benchmarks(summary.get("benchmarks", {}))
    for judge, found in summary["compared"].get(against, {}).items():
        if "win_rate" in found:
            numbers = found["win_rate"]
            yield f"winrate/{judge}", numbers["value"]
            if against == "reference":
                yield f"winrate/{judge}/reference", 0.5  # of the reference against itself
            for part in ("ci_low", "ci_high", "n", "tie_rate", "invalid", "order_consistency"):
                if part in numbers:
                    yield f"winrate/{judge}/{part}", numbers[part]
