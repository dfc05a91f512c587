"""Checks a run for over-optimisation and other faults. The result is a verdict of one word, with its numbers.

It needs no model and no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import NormalDist
from typing import Any

from alignlab.statistics.intervals import share_interval

VERDICTS = ("healthy", "displaced", "drifted", "over-optimised", "collapsed")
NO_VERDICT = "no verdict"


@dataclass(frozen=True)
class Limits:
    """Limits of the checks. All but `max_kl` and `displacement` are relative to the policy before training (the
    reference). A check with an interval is hit only if the whole interval lies beyond the limit.

    repetition:    maximum increase of the share of repeated 4-grams of words.
    shortest:      minimum mean length in tokens, as a share of the reference's.
    ended:         maximum decrease of the share of answers that end by themselves.
    distinct:      minimum share of distinct pairs of words, as a share of the reference's.
    displacement:  maximum loss of log-probability of held-out preferred answers, nats per token.
    max_kl:        maximum KL to the reference without a proven gain, nats per answer; 0 switches the check off.
    """

    repetition: float = 0.2
    shortest: float = 0.25
    ended: float = 0.5
    distinct: float = 0.5
    displacement: float = 0.1
    max_kl: float = 10.0


@dataclass(frozen=True)
class Check:
    """One check: a value, its limit, whether the value is beyond it (`hit`), and the verdict if so (`means`)."""

    name: str
    value: float
    limit: float
    hit: bool
    means: str


@dataclass(frozen=True)
class Health:
    """The worst verdict of the checks.

    unknown: reasons why `healthy` could not be confirmed. If there are any and no check is hit, there is no verdict.
    unseen:  problems that no check covers, so that `healthy` does not exclude them.
    """

    verdict: str
    checks: list[Check]
    unknown: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "checks": [asdict(check) for check in self.checks]}


def health(
    summary: Mapping[str, Any],
    *,
    proxy: str = "",
    earlier: Sequence[Mapping[str, Any]] = (),
    held_out: Mapping[str, float] | None = None,
    held_out_rows: int = 0,
    limits: Limits = Limits(),
) -> Health:
    """Verdict on a summary of examples that has the reference as a baseline.

    proxy:         judge whose score the run trained on (directly, or through preferences made from it). All other
                   judges are held out.
    earlier:       summaries of the same prompts from earlier in the run, to find scores that fell from their best.
    held_out:      the run's own metrics on `held_out_rows` held-out rows: `eval/logratios/chosen_per_token`,
                   `eval/pref/accuracy_ties_half`, and in the lab `exact/kl`, `exact/reward`, `exact/reward_reference`.

    The verdicts, the worst one first:

    - collapsed: the texts are broken (repetition, no end, empty, no variety).
    - over-optimised: a held-out judge scores the answers lower than the reference's, or lower than earlier in the run,
      by more than the interval, and the proxy (if there is one) has not fallen too.
    - drifted: the KL to the reference is above `limits.max_kl`, and no held-out score, win-rate or accuracy is above
      that of the start by more than its interval.
    - displaced: held-out preferred answers have lost probability (Razin et al. 2024, https://arxiv.org/abs/2410.08847).
    - healthy: none of these, in an evaluation that could have shown collapse and drift.
    - no verdict: none of these, but the evaluation could not have shown all of them.
    """
    metrics = held_out or {}
    found = [
        *_collapse(summary, limits),
        *_scores(summary, proxy, earlier),
        *_drift(summary, proxy, metrics, held_out_rows, limits),
        *_displacement(metrics, limits),
    ]
    checks = [check for check in found if not math.isnan(check.value) and not math.isnan(check.limit)]
    unknown = list(_unknown(summary, metrics, checks, limits))
    worst = max((VERDICTS.index(check.means) for check in checks if check.hit), default=0)
    verdict = NO_VERDICT if worst == 0 and unknown else VERDICTS[worst]
    judged = any(check.means == "over-optimised" for check in checks)
    return Health(
        verdict, checks, unknown, [] if judged else ["over-optimisation, without the scores of a held-out judge"]
    )


def _unknown(
    summary: Mapping[str, Any], metrics: Mapping[str, float], checks: Sequence[Check], limits: Limits
) -> Iterator[str]:
    """Reasons why the evaluation can't call a policy healthy."""
    if not summary["rows"]:
        yield "there are no answers"
        return
    if summary["prompts"] < 2:
        yield "one prompt gives no intervals"
    policy, reference = summary["answers"]["policy"], summary["answers"].get("reference")
    if reference is None:
        yield "the answers are not compared with the reference's (evaluation.baselines)"
    elif not any(check.means == "collapsed" for check in checks):
        yield "the answers give no statistics to compare"
    if reference and policy["different"] == reference["different"] == 1 < summary["prompts"]:
        yield "policy and reference each give the same answer to every prompt"
    if policy["ended"]["value"] == 0 and "exact/kl" not in metrics:
        yield "every answer was cut off (evaluation.max_new_tokens)"
    if limits.max_kl and math.isnan(_kl(summary, metrics)[1]):
        yield "the KL to the reference is not known"


def _kl(summary: Mapping[str, Any], metrics: Mapping[str, float]) -> tuple[str, float]:
    """(estimator, KL in nats per answer); NaN if there is none. In the lab the KL is exact."""
    if "exact/kl" in metrics:
        return "exact KL", metrics["exact/kl"]
    return "KL k1", summary["kl"].get("sequence_k1", {}).get("value", math.nan)


def _drift(
    summary: Mapping[str, Any], proxy: str, metrics: Mapping[str, float], rows: int, limits: Limits
) -> Iterator[Check]:
    if limits.max_kl:
        name, kl = _kl(summary, metrics)
        gained = any(_gains(summary, proxy, metrics, rows))
        yield Check(f"{name}, nats per answer", kl, limits.max_kl, kl > limits.max_kl and not gained, "drifted")


def _gains(summary: Mapping[str, Any], proxy: str, metrics: Mapping[str, float], rows: int) -> Iterator[bool]:
    """Whether each held-out number is above that of the start by more than its 95 % interval."""
    for judge, found in summary["compared"].get("reference", {}).items():
        if judge != proxy:
            yield "score_difference" in found and found["score_difference"]["low"] > 0
            yield "win_rate" in found and found["win_rate"]["ci_low"] > 0.5
    if "pairs" in summary:  # before training, all implicit rewards are 0
        yield summary["pairs"]["rate"]["low"] > summary["pairs"].get("start", 0.5)
    accuracy = metrics.get("eval/pref/accuracy_ties_half", math.nan)
    if rows and not math.isnan(accuracy):
        yield share_interval(accuracy * rows, 0, (1 - accuracy) * rows).low > 0.5
    yield proxy != "gold" and metrics.get("exact/reward", math.nan) > metrics.get("exact/reward_reference", math.nan)


def _collapse(summary: Mapping[str, Any], limits: Limits) -> Iterator[Check]:
    policy, reference = summary["answers"]["policy"], summary["answers"].get("reference")
    if summary["rows"]:
        wordless = math.isnan(policy["distinct_1"])  # without any word, the share is NaN
        yield Check("an answer with a word in it", float(not wordless), 1.0, wordless, "collapsed")
    if reference is None:
        return
    if summary["prompts"] > 1:
        alike = policy["different"] == 1 < reference["different"]
        yield Check("different answers", policy["different"], 1, alike, "collapsed")
    most = reference["repetition"]["value"] + limits.repetition
    repeated = policy["repetition"]
    yield Check("repetition", repeated["value"], most, repeated["low"] > most, "collapsed")
    for name, least in (
        ("tokens", limits.shortest * reference["tokens"]["value"]),
        ("ended", reference["ended"]["value"] - limits.ended),
    ):
        if not least <= 0:  # no value is below a limit of 0
            yield Check(name, policy[name]["value"], least, policy[name]["high"] < least, "collapsed")
    distinct, least = policy["distinct_2"], limits.distinct * reference["distinct_2"]
    yield Check("distinct_2", distinct, least, distinct < least, "collapsed")


def _scores(summary: Mapping[str, Any], proxy: str, earlier: Sequence[Mapping[str, Any]]) -> Iterator[Check]:
    compared = summary["compared"].get("reference", {})
    fallen = _high(compared.get(proxy, {})) < 0
    for judge, found in compared.items():
        if judge == proxy:
            continue
        if not math.isnan(high := _high(found)):
            name = f"{judge}: upper end of score minus the reference's"
            yield Check(name, high, 0.0, high < 0 and not fallen, "over-optimised")
        elif "win_rate" in found and not math.isnan(high := found["win_rate"]["ci_high"]):
            yield Check(f"{judge}: upper end of win-rate", high, 0.5, high < 0.5 and not fallen, "over-optimised")
        key = f"score/{judge}"
        before = [s["answers"]["policy"][key] for s in earlier if key in s["answers"]["policy"]]
        if before and key in summary["answers"]["policy"]:
            best, now = max(before, key=lambda e: e["value"]), summary["answers"]["policy"][key]
            spread = math.hypot(best["standard_error"], now["standard_error"])
            sure = NormalDist().inv_cdf(1 - 0.025 / len(before)) * spread  # Bonferroni: the best of so many was chosen
            fall = best["value"] - now["value"]
            yield Check(f"{judge}: fall from its best", fall, sure, fall > sure and not fallen, "over-optimised")


def _high(found: Mapping[str, Any]) -> float:
    return float(found["score_difference"]["high"]) if "score_difference" in found else math.nan


def _displacement(metrics: Mapping[str, float], limits: Limits) -> Iterator[Check]:
    if (value := metrics.get("eval/logratios/chosen_per_token")) is not None:
        hit = value < -limits.displacement
        yield Check(
            "log-ratio of held-out chosen answers, nats per token", value, -limits.displacement, hit, "displaced"
        )
