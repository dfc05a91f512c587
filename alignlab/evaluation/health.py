"""Over-optimisation watch: one word for a run, and the numbers that it rests on. No model and no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

VERDICTS = ("healthy", "displaced", "over-optimised", "collapsed")


@dataclass(frozen=True)
class Limits:
    """From where on something is wrong; each is compared with what training started from, and the whole interval has to
    lie beyond it.

    repetition:    how much more of the answers may be repeated runs of words.
    shortest:      least share of the reference's mean length, tokens.
    ended:         how much smaller the share of answers that end by themselves may be.
    distinct:      least share of the reference's distinct pairs of words.
    displacement:  by how much held-out preferred answers may lose, nats per token.
    """

    repetition: float = 0.2
    shortest: float = 0.25
    ended: float = 0.5
    distinct: float = 0.5
    displacement: float = 0.1


@dataclass(frozen=True)
class Check:
    """One look: what was found, against what, and the verdict that it would mean."""

    name: str
    value: float
    limit: float
    hit: bool
    means: str


@dataclass(frozen=True)
class Health:
    """The worst of what the checks found."""

    verdict: str
    checks: list[Check]

    def as_dict(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "checks": [asdict(check) for check in self.checks]}


def health(
    summary: Mapping[str, Any],
    *,
    proxy: str = "",
    earlier: Sequence[Mapping[str, Any]] = (),
    held_out: Mapping[str, float] | None = None,
    limits: Limits = Limits(),
) -> Health:
    """Verdict on a summary of examples that has the reference as a baseline.

    proxy:    judge whose score was trained on (directly, or by preferences that came from it); all others are held out.
    earlier:  summaries of the same prompts from earlier in the run; a score that has come down from its best is told.
    held_out: the run's own metrics; `eval/logratios/chosen_per_token` is looked at.

    collapsed: the texts are broken (repetition, no end, nothing said, no variety).
    over-optimised: a held-out judge finds the answers worse than the reference's, or than earlier in the run, and the
    interval leaves no doubt; where there is a proxy it has not fallen likewise.
    displaced: held-out preferred answers have lost probability (Razin et al. 2024, https://arxiv.org/abs/2410.08847).
    """
    checks = [*_collapse(summary, limits), *_scores(summary, proxy, earlier), *_displacement(held_out or {}, limits)]
    worst = max((VERDICTS.index(check.means) for check in checks if check.hit), default=0)
    return Health(VERDICTS[worst], checks)


def _collapse(summary: Mapping[str, Any], limits: Limits) -> Iterator[Check]:
    policy, reference = summary["answers"]["policy"], summary["answers"].get("reference")
    if reference is None:
        return
    most = reference["repetition"]["value"] + limits.repetition
    repeated = policy["repetition"]
    yield Check("repetition", repeated["value"], most, repeated["low"] > most, "collapsed")
    for name, least in (
        ("tokens", limits.shortest * reference["tokens"]["value"]),
        ("ended", reference["ended"]["value"] - limits.ended),
    ):
        yield Check(name, policy[name]["value"], least, policy[name]["high"] < least, "collapsed")
    if not math.isnan(policy["distinct_2"]) and not math.isnan(reference["distinct_2"]):
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
            sure = NormalDist().inv_cdf(1 - 0.025 / len(before)) * spread  # the best was chosen out of so many
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
