"""Every claim can fail: an error planted in what it measures changes its verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from alignlab.papers.claim import Batched, Claim, Exact, Sampled
from alignlab.papers.library import library
from alignlab.papers.measuring import computed
from alignlab.papers.verdict import Verdict, decide

Wrong = Callable[[Callable[..., Any]], Callable[..., Any]]

CLAIMS = {
    f"{paper.name} {claim.name}": claim
    for paper in library().values()
    for claim in paper.claims
    if isinstance(claim.measured_by, Exact | Sampled | Batched)
}
NOT_REPRODUCED: dict[str, Verdict] = {
    "dpo_2023 dominates-ideal-rl": "contradicted",
    "gao_2022 ideal-rl-form": "contradicted",
    "ipo_2023 d3-as-printed": "underdetermined",
    "kto_2024 reference-point": "contradicted",
    "rafailov_2024 ipo-least": "underdetermined",
    "razin_2024 ches": "underdetermined",
    "xu_2024 learnt-reward": "contradicted",
}


def verdict_on(claim: Claim) -> Verdict:
    measured_by = claim.measured_by
    assert isinstance(measured_by, Exact | Sampled | Batched)
    return decide(claim.expected, computed(measured_by), kind=claim.kind, premises=claim.premises).verdict


# ---- kinds of errors: the right function -> a wrong one


def scaled(key: str, factor: float) -> Wrong:
    """A hyper-parameter is multiplied: beta twice, tau twice, ..."""
    return lambda right: lambda *a, **k: right(*a, **{**k, key: factor * k[key]})


def swapped(right: Callable[..., Any]) -> Callable[..., Any]:
    """The sign: the preferred and the dispreferred answer change places."""
    return lambda chosen, rejected, *a, **k: right(rejected, chosen, *a, **k)


def without_rejected(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda chosen, rejected, **k: right(chosen, torch.zeros_like(rejected), **k)


def times(factor: float) -> Wrong:
    """The result has the wrong scale, as with a sum for a mean."""
    return lambda right: lambda *a, **k: factor * right(*a, **k)


def with_option(**options: Any) -> Wrong:
    return lambda right: lambda *a, **k: right(*a, **{**k, **options})


def negated(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda first, *a, **k: right(-first, *a, **k)


def all_good(right: Callable[..., Any]) -> Callable[..., Any]:
    """Bad answers get the loss of good ones."""
    return lambda logratio, desirable, kl, **k: right(logratio, torch.ones_like(desirable), kl, **k)


def weights_swapped(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *a, beta, desirable_weight, undesirable_weight: right(
        *a, beta=beta, desirable_weight=undesirable_weight, undesirable_weight=desirable_weight
    )


def always_sum(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda logps, reduction: right(logps, "sum")


def no_length(right: Callable[..., Any]) -> Callable[..., Any]:
    """The fit does not see the lengths."""

    def wrong(design: Any, y: Any, ridge: float) -> Any:
        blind = design.copy()
        blind[:, 1] = 0.0
        return right(blind, y, ridge)

    return wrong


def price_paid_back(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda chosen, rejected, longer, **k: right(chosen, rejected, -longer, **k)


def first_half(right: Callable[..., Any]) -> Callable[..., Any]:
    """Later battles are lost."""
    return lambda a, b, scores, **k: right(a[:1000], b[:1000], scores[:1000], **k)


def never_resampled(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda totals, draws, **k: totals.sum(0, keepdims=True).repeat(draws, axis=0)


def first_order_only(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda first, second, **k: first


def lower_point(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda frontier, strength: right(frontier, 2 * strength)


def without_last_factor(right: Callable[..., Any]) -> Callable[..., Any]:
    """The group's mean as a baseline, instead of the mean of the others."""
    return lambda rewards: right(rewards) * (rewards.shape[1] - 1) / rewards.shape[1]


def backwards(right: Callable[..., Any]) -> Callable[..., Any]:
    """KL in the other direction."""
    return lambda p, q: right(q, p)


@dataclass(frozen=True)
class Planted:
    """An error in the object `target` (module or class, then its attribute)."""

    target: str
    wrong: Wrong


DPO, IPO, KTO = (
    "alignlab.objectives.dpo.dpo_loss",
    "alignlab.objectives.ipo.ipo_loss",
    "alignlab.objectives.kto.kto_loss",
)
ROBUST, RANKED = "alignlab.objectives.robust_dpo.robust_dpo_loss", "alignlab.objectives.reward_model.reward_model_loss"
ERRORS: dict[str, list[Planted]] = {
    "ahmadian_2024 unbiased": [Planted("alignlab.objectives.advantages.leave_one_out", without_last_factor)],
    "chiang_2024 bootstrap-coverage": [Planted("alignlab.statistics.ratings.resampled_sums", never_resampled)],
    "chiang_2024 order-of-battles": [Planted("alignlab.papers.chiang_2024.bradley_terry", first_half)],
    "chowdhury_2024 noise-costs-reward": [Planted(DPO, scaled("beta", 0.05))],
    "chowdhury_2024 recovers": [Planted(ROBUST, scaled("label_smoothing", 0.0))],
    "chowdhury_2024 unbiased": [Planted(ROBUST, times(0.9)), Planted(ROBUST, swapped)],
    "dpo_2023 dominates-ideal-rl": [Planted("alignlab.lab.frontier.Frontier.point", lower_point)],
    "dpo_2023 frontier": [Planted("alignlab.papers.dpo_2023.tilt", lambda f: lambda p, r, s: f(p, r, 2 * s))],
    "dpo_2023 implicit-reward": [Planted(DPO, scaled("beta", 2)), Planted(DPO, swapped)],
    "dpo_2023 theorem-1": [Planted(DPO, scaled("beta", 2)), Planted(DPO, swapped)],
    "dr_grpo_2025 question-difficulty": [
        Planted("alignlab.objectives.advantages.group_normalised", with_option(by_deviation=True)),
        Planted("alignlab.objectives.advantages.group_normalised", with_option(by_deviation=False)),
    ],
    "dubois_2024 removes-length": [Planted("alignlab.statistics.length_control._fit", no_length)],
    "feng_2024 gradient-field": [Planted(DPO, scaled("beta", 2)), Planted(DPO, swapped)],
    "gao_2022 hump": [Planted(RANKED, negated)],
    "gao_2022 ideal-rl-form": [Planted("alignlab.papers.gao_2022.kl", backwards)],
    "huang_2024 advantages": [
        Planted("alignlab.objectives.ppo.gae", with_option(lam=1.0)),
        Planted("alignlab.objectives.ppo.token_rewards", negated),
    ],
    "huang_2024 step-0": [Planted("alignlab.objectives.online.ratio_of", times(1.01))],
    "instructgpt_2022 k-way-batches": [Planted(RANKED, times(6.0)), Planted(RANKED, negated)],
    "ipo_2023 d3-as-printed": [Planted(DPO, without_rejected)],
    "ipo_2023 optimum": [Planted(IPO, scaled("tau", 2)), Planted(IPO, swapped)],
    "ipo_2023 two-actions": [Planted(IPO, scaled("tau", 2)), Planted(DPO, swapped)],
    "kto_2024 contradictory-pairs": [Planted(KTO, all_good)],
    "kto_2024 imbalance": [Planted(KTO, weights_swapped), Planted(KTO, negated)],
    "kto_2024 reference-point": [Planted("alignlab.types.Logps.logratio", times(-0.5))],
    "mitchell_2023 margins": [Planted(DPO, scaled("label_smoothing", 0.5)), Planted(DPO, swapped)],
    "orpo_2024 odds-ratio": [Planted("alignlab.types.Logps.logp", always_sum)],
    "pal_2024 gradient-ratio": [Planted("alignlab.objectives.dpop.dpop_loss", scaled("penalty", 2))],
    "pal_2024 keeps-the-chosen": [Planted("alignlab.objectives.dpop.dpop_loss", scaled("penalty", 0))],
    "park_2024 expected-length": [Planted("alignlab.objectives.r_dpo.r_dpo_loss", price_paid_back)],
    "rafailov_2024 direct-hump": [Planted(IPO, scaled("tau", 100.0))],
    "rafailov_2024 ipo-least": [Planted(IPO, scaled("tau", 100.0))],
    "rafailov_2024 third-action": [Planted(DPO, without_rejected), Planted(IPO, without_rejected)],
    "razin_2024 ches": [Planted(DPO, swapped)],
    "razin_2024 displacement": [Planted(DPO, scaled("beta", 2)), Planted(DPO, swapped)],
    "razin_2024 one-step": [Planted(DPO, scaled("beta", 2)), Planted(DPO, swapped)],
    "simpo_2024 length-normalised": [
        Planted("alignlab.types.Logps.logp", always_sum),
        Planted("alignlab.objectives.simpo.simpo_loss", scaled("gamma", 2)),
    ],
    "spin_2024 fixed-point": [Planted(DPO, swapped)],
    "stiennon_2020 best-of-n-kl": [Planted("alignlab.papers.stiennon_2020.best_of_n_kl", times(0.9))],
    "xu_2024 learnt-reward": [Planted(RANKED, times(0.0))],
    "xu_2024 table-1": [Planted(DPO, swapped)],
    "zheng_2023 both-orders": [Planted("alignlab.statistics.winrate.resolve", first_order_only)],
}


def test_every_claim_has_a_planted_error() -> None:
    assert set(ERRORS) == set(CLAIMS)


# Claims that take more than a few seconds.
SLOW = ("rafailov_2024 direct-hump", "rafailov_2024 ipo-least", "razin_2024 ches", "xu_2024 learnt-reward")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CLAIMS])
def test_a_planted_error_changes_the_verdict(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = CLAIMS[name]
    expected = NOT_REPRODUCED.get(name, "reproduced")
    assert verdict_on(claim) == expected
    for error in ERRORS[name]:
        with monkeypatch.context() as patch:
            place, _, attribute = error.target.rpartition(".")
            holder = _object(place)
            patch.setattr(holder, attribute, error.wrong(getattr(holder, attribute)))
            found = verdict_on(claim)
        assert found != expected, f"{error.target} is wrong and the verdict is still {found}"


def _object(path: str) -> Any:
    """A module, or a class of a module."""
    try:
        return __import__(path, fromlist=["_"])
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(__import__(module, fromlist=["_"]), name)
