"""A table of golden values that were computed independently of this code, and the losses at extreme values.

Golden answers have 20 and 25 tokens and -42 and -50 nats under the reference, so that lengths matter. `golden.json`
beside this file holds the table: loss and slopes of each objective at three log-probabilities of the policy, computed
from the published formulas without alignlab.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alignlab.discovery import classes_by_module
from alignlab.objectives.aot import AOT
from alignlab.objectives.apo_down import APODown
from alignlab.objectives.apo_zero import APOZero
from alignlab.objectives.apo_zero_unpaired import APOZeroUnpaired
from alignlab.objectives.base import Objective
from alignlab.objectives.bco import BCO
from alignlab.objectives.cpo import CPO
from alignlab.objectives.discopop import DiscoPOP
from alignlab.objectives.dpo import DPO
from alignlab.objectives.dpop import DPOP
from alignlab.objectives.exo import EXO
from alignlab.objectives.hinge import Hinge
from alignlab.objectives.ipo import IPO
from alignlab.objectives.kto import KTO
from alignlab.objectives.ld_dpo import LDDPO
from alignlab.objectives.length_dpo import LengthDPO
from alignlab.objectives.mix import Mix
from alignlab.objectives.nca import NCA
from alignlab.objectives.online import Online
from alignlab.objectives.orpo import ORPO, orpo_loss
from alignlab.objectives.r_dpo import RDPO
from alignlab.objectives.reward_model import RewardModel
from alignlab.objectives.robust_dpo import RobustDPO
from alignlab.objectives.rpo import RPO
from alignlab.objectives.simpo import SimPO
from alignlab.objectives.slic import SLiC
from alignlab.objectives.sppo import SPPO
from alignlab.objectives.tdpo import TDPO
from alignlab.objectives.wpo import WPO
from alignlab.types import LabelledLogps, Logps, PairLogps, RankedRewards, join
from tests.objectives.build import logps, pair, scalar

# Mean log-ratio of the mismatched answers in the golden table's KTO: (0 + 1) / 2.
HALF_A_NAT = logps([[-1.0], [-2.0]], [-1.0, -3.0])


def spread(total: Tensor, count: int, reference: float | None) -> Logps:
    """One answer of `count` tokens, with a log-probability [1] split equally, and all data that objectives need."""
    tokens = (total / count).expand(1, count)
    return Logps(
        tokens,
        torch.ones(1, count, dtype=torch.bool),
        None if reference is None else torch.tensor([reference], dtype=torch.float64),
        reference_tokens=None if reference is None else torch.full((1, count), reference / count, dtype=torch.float64),
        reference_kl=torch.zeros(1, dtype=torch.float64),
        collision=tokens.detach(),  # as for a uniform policy, so that WPO's weight is 1
    )


def seen(objective: Objective, chosen: Logps, rejected: Logps, mismatched: Logps | None = None) -> Any:
    """The two answers in the shape that the objective works on."""
    if objective.requires.data == "labelled":
        return LabelledLogps(join([chosen, rejected]), torch.tensor([True, False]), mismatched)
    return PairLogps(chosen, rejected)


def outcome(
    objective: Objective,
    values: tuple[float, float],
    reference: tuple[float, float],
    counts: tuple[int, int],
    mismatched: Logps,
) -> list[float]:
    """The loss summed over the rows, and its derivatives by the two summed log-probabilities."""
    chosen, rejected = scalar(values[0]), scalar(values[1])
    first, second = spread(chosen, counts[0], reference[0]), spread(rejected, counts[1], reference[1])
    loss = objective(seen(objective, first, second, mismatched)).sum()
    return [loss.item(), *(slope.item() for slope in torch.autograd.grad(loss, (chosen, rejected)))]


# (name in the table, objective, divisor of the summed loss). KTO's golden value is the mean of a pair's two rows, BCO's
# is their sum.
TABLE: dict[str, tuple[Objective, int]] = {
    "dpo b=.1": (DPO(beta=0.1), 1),
    "cdpo b=.1 eps=.1": (DPO(beta=0.1, label_smoothing=0.1), 1),
    "rdpo b=.1 eps=.1": (RobustDPO(beta=0.1, label_smoothing=0.1), 1),
    "ipo(sum) tau=.1": (IPO(tau=0.1), 1),
    "ipo(mean,TRL) tau=.1": (IPO(tau=0.1, dialect="trl1"), 1),
    "hinge/slic-norm b=.1": (Hinge(beta=0.1), 1),
    "slic-hf d=1 lam=.1": (SLiC(delta=1.0, nll_weight=0.1), 1),
    "dpo-LN b=5": (LengthDPO(beta=5.0), 1),
    "simpo b=2 g=1": (SimPO(beta=2.0, gamma=1.0), 1),
    "cpo b=.1 nll=1": (CPO(beta=0.1, nll_weight=1.0), 1),
    "orpo lam=.1": (ORPO(odds_weight=0.1), 1),
    "dpop b=.3 lam=50": (DPOP(beta=0.3, penalty=50.0), 1),
    "rdpo-len b=.1 al=.01": (RDPO(beta=0.1, alpha=0.01), 1),
    "apo_zero b=.1": (APOZero(beta=0.1), 1),
    "apo_down b=.1": (APODown(beta=0.1), 1),
    "kto b=.1 z=.5 (w des,l und) mean of 2": (KTO(beta=0.1), 2),
    "exo b=.1 eps=1e-3": (EXO(beta=0.1, epsilon=1e-3), 1),
    "nca b=.1": (NCA(beta=0.1), 1),
    "bco(no shift) b=.1": (BCO(beta=0.1, shift="none"), 1),
    "sppo_hard b=.1": (SPPO(beta=0.1), 1),
}
CASES = {"G0": (-42.0, -50.0), "G1": (-40.0, -55.0), "G3": (-52.0, -45.0)}


@pytest.fixture(scope="module")
def golden() -> dict[str, dict[str, list[float]]]:
    path = Path(__file__).with_name("golden.json")
    values: dict[str, dict[str, list[float]]] = json.loads(path.read_text())["values"]
    return values


def test_no_golden_row_is_left_out(golden: dict[str, dict[str, list[float]]]) -> None:
    assert set(golden) == set(TABLE)
    assert len(TABLE) == 20
    assert all(set(row) == set(CASES) for row in golden.values())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", TABLE)
def test_golden_value_and_gradients(name: str, case: str, golden: dict[str, dict[str, list[float]]]) -> None:
    objective, rows = TABLE[name]
    found = outcome(objective, CASES[case], (-42.0, -50.0), (20, 25), HALF_A_NAT)
    assert [value / rows for value in found] == pytest.approx(golden[name][case], abs=1e-7)


# z0 = (1 - 1 + 0.5 + 0.2) / 4 = 0.175; with -52 in the first row (-1 - 1 + 0.5 + 0.2) / 4 = -0.325, which is held at 0
@pytest.mark.parametrize(
    ("first", "raw", "kl", "losses"),
    [
        (-50.0, 0.175, 0.175, [0.45450121, 0.47065875, 0.42984097, 0.49562511]),
        # log-ratios 2, -1, 3, 0 at beta 0.1: 1 - sigmoid(0.2), sigmoid(-0.1), 1 - sigmoid(0.3), sigmoid(0)
        (-52.0, -0.325, 0.0, [0.45016600, 0.47502081, 0.42555748, 0.5]),
    ],
)
def test_golden_batch_of_kto(first: float, raw: float, kl: float, losses: list[float]) -> None:
    batch = LabelledLogps(
        logps([[-10.0], [-20.0], [-30.0], [-40.0]], [-12.0, -19.0, -33.0, -40.0]),
        torch.tensor([True, False, True, False]),
        logps([[first], [-60.0], [-70.0], [-80.0]], [-51.0, -59.0, -70.5, -80.2]),
    )
    loss, metrics = KTO(beta=0.1)(batch), KTO(beta=0.1).metrics(batch)
    assert loss.tolist() == pytest.approx(losses, abs=1e-8)
    assert [metrics["kto/kl_raw"].item(), metrics["kl"].item()] == pytest.approx([raw, kl], abs=1e-14)
    if raw > 0:
        assert loss.mean().item() == pytest.approx(0.4626565123, abs=1e-10)


def test_golden_ranking_of_four() -> None:
    """Six pairs: three leads of 1, two of 2, one of 3; (3 * 0.3132616875 + 2 * 0.1269280110 + 0.0485873516) / 6."""
    grades = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    rewards = torch.tensor([[2.0, 1.0, 0.0, -1.0]], dtype=torch.float64)
    loss = RewardModel()(RankedRewards(rewards, torch.ones(1, 4, dtype=torch.bool), grades))
    assert loss.item() == pytest.approx(0.2070380727, abs=1e-10)


def test_golden_odds_term_of_orpo() -> None:
    """Means -0.5 and -1: the log odds differ by 0.97407698, of which -log sigmoid is 0.32029979."""
    chosen, rejected = scalar(-0.5), scalar(-1.0)
    loss = orpo_loss(chosen, rejected, torch.zeros(1, dtype=torch.float64), odds_weight=1.0)
    slopes = torch.autograd.grad(loss.sum(), (chosen, rejected))
    assert loss.item() == pytest.approx(0.32029979, abs=1e-8)
    assert [slope.item() for slope in slopes] == pytest.approx([-0.69654377, 0.43357017], abs=1e-8)


# Policy = reference; answers of 2 and 4 tokens with -3 and -6 nats. Beta 0.1 unless it is named, so that a logistic
# loss is ln 2 and its slopes are -+0.1 / 2.
LN2 = math.log(2.0)
AT_REFERENCE: dict[str, tuple[Objective, list[float]]] = {
    "dpo": (DPO(beta=0.1), [LN2, -0.05, 0.05]),
    "robust_dpo": (RobustDPO(beta=0.1, label_smoothing=0.1), [LN2, -0.0625, 0.0625]),  # 0.05 / (1 - 0.2)
    "ipo": (IPO(tau=0.1), [25.0, -10.0, 10.0]),  # 5^2 and 2 * 5
    "hinge": (Hinge(beta=0.1), [1.0, -0.1, 0.1]),
    "length_dpo": (LengthDPO(beta=0.1), [LN2, -0.025, 0.0125]),  # 0.05 / 2 and 0.05 / 4
    "dpop": (DPOP(beta=0.1), [LN2, -0.05, 0.05]),
    "rpo": (RPO(beta=0.1), [LN2 + 1.5, -0.55, 0.05]),  # NLL 3 / 2 tokens, slope 1 / 2
    "r_dpo": (RDPO(beta=0.1, alpha=0.0), [LN2, -0.05, 0.05]),
    "apo_zero": (APOZero(beta=0.1), [1.0, -0.025, 0.025]),  # sigmoid'(0) = 1/4
    "apo_down": (APODown(beta=0.1), [1.0, 0.0, 0.025]),
    # KL of (1/2, 1/2) to (0.9, 0.1): -ln 2 - ln(0.09) / 2 = ln(5 / 3); slope sigmoid'(0) ln(0.1 / 0.9) = -ln(9) / 4
    "exo": (EXO(beta=0.1, epsilon=0.1), [math.log(5 / 3), -math.log(9) / 40, math.log(9) / 40]),
    "nca": (NCA(beta=0.1), [2 * LN2, -0.025, 0.025]),  # -1/2 + 1/4
    "sppo": (SPPO(beta=0.1), [50.0, -10.0, 10.0]),  # 2 * 5^2
    # m = 1/2, m' = 1 / (4 tau) = 1: slope in z m' (1 - ln 2) - 1/4 - 1/2 = 1/4 - ln 2
    "discopop": (DiscoPOP(beta=0.1, tau=0.25), [(LN2 + 1) / 2, 0.025 - 0.1 * LN2, 0.1 * LN2 - 0.025]),
    "ld_dpo": (LDDPO(beta=0.1, alpha=0.5), [LN2, -0.05, 0.0375]),  # 2 of the 4 tokens at half weight
    "tdpo": (TDPO(beta=0.1), [LN2, -0.05, 0.05]),
    "wpo": (WPO(beta=0.1), [LN2, -0.05, 0.05]),
    "aot": (AOT(beta=0.1), [LN2, -0.05, 0.05]),
    # two rows: lambda / 2 each, slopes lambda beta / 4
    "kto": (KTO(beta=0.1, desirable_weight=1.0, undesirable_weight=2.0), [1.5, -0.025, 0.05]),
    "apo_zero_unpaired": (APOZeroUnpaired(beta=0.1), [1.0, -0.025, 0.025]),
    "bco": (BCO(beta=0.1), [2 * LN2, -0.05, 0.05]),
    "mix": (Mix(parts=[{"name": "dpo", "beta": 0.1, "weight": 2}]), [2 * LN2, -0.1, 0.1]),
}


def test_all_objectives_with_a_reference_are_here() -> None:
    family = classes_by_module("alignlab.objectives", Objective)
    with_reference = {
        name
        for name, cls in family.items()
        if not issubclass(cls, Online) and (isinstance(cls.requires, property) or cls.requires.reference)
    }
    assert set(AT_REFERENCE) == with_reference - {"reward_model"}, "a property: what they need depends on their fields"


@pytest.mark.parametrize("name", AT_REFERENCE)
def test_policy_equals_reference(name: str) -> None:
    objective, expected = AT_REFERENCE[name]
    still = logps([[-1.0]], [-1.0])
    assert outcome(objective, (-3.0, -6.0), (-3.0, -6.0), (2, 4), still) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("name", AT_REFERENCE)
def test_missing_reference_is_refused(name: str) -> None:
    objective = AT_REFERENCE[name][0]
    chosen, rejected = spread(scalar(-3.0), 2, None), spread(scalar(-6.0), 4, None)
    with pytest.raises(ValueError, match=r"needs reference .*the batch has none"):
        objective(seen(objective, chosen, rejected, logps([[-1.0]], [-1.0])))


def test_zero_tokens_are_refused_with_the_row() -> None:
    mask = torch.tensor([[True, False], [True, True], [False, False]])
    with pytest.raises(ValueError, match=r"without a token in rows \[2\]"):
        Logps(torch.zeros(3, 2), mask)


# An answer of 4 tokens with a log-ratio of 2 is preferred to itself. Only the gradient of an NLL remains, per token.
SAME_ANSWER: dict[str, tuple[Objective, float]] = {
    "dpo": (DPO(beta=0.1), 0.0),
    "cdpo": (DPO(beta=0.1, label_smoothing=0.1), 0.0),
    "dpo js": (DPO(beta=0.1, divergence="js"), 0.0),
    "robust_dpo": (RobustDPO(beta=0.1), 0.0),
    "ipo": (IPO(tau=0.1), 0.0),
    "ipo mean": (IPO(tau=0.1, reduction="mean"), 0.0),
    "hinge": (Hinge(beta=0.1), 0.0),
    "length_dpo": (LengthDPO(beta=5.0), 0.0),
    "r_dpo": (RDPO(beta=0.1), 0.0),
    "exo": (EXO(beta=0.1), 0.0),
    "discopop": (DiscoPOP(beta=0.1), 0.0),
    "ld_dpo": (LDDPO(beta=0.1), 0.0),
    "tdpo": (TDPO(beta=0.1), 0.0),
    "wpo": (WPO(beta=0.1), 0.0),
    "aot": (AOT(beta=0.1), 0.0),
    "dpop": (DPOP(beta=0.1), 0.0),  # above the reference there is no penalty
    "simpo": (SimPO(beta=2.0, gamma=1.0), 0.0),
    "slic": (SLiC(nll_weight=0.5), -0.5),
    "cpo": (CPO(beta=0.1, nll_weight=0.5), -0.5),
    "rpo": (RPO(beta=0.1, nll_weight=0.5), -0.125),
    "orpo": (ORPO(odds_weight=0.5), -0.25),
}


@pytest.mark.parametrize("name", SAME_ANSWER)
def test_an_answer_preferred_to_itself_teaches_nothing(name: str) -> None:
    objective, per_token = SAME_ANSWER[name]
    side = spread(scalar(-6.0), 4, -8.0)
    tokens = side.tokens.detach().requires_grad_()
    side = replace(side, tokens=tokens)
    (slope,) = torch.autograd.grad(objective(PairLogps(side, side)).sum(), tokens)
    assert slope.tolist() == [[per_token] * 4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("far", "loss", "slope"), [("rejected", 0.0, 0.0), ("chosen", 1000.0, 0.1)])
def test_dpo_far_from_the_reference(far: str, loss: float, slope: float, dtype: torch.dtype) -> None:
    """Ten tokens of -1000 against a reference of 0 on one side: h = +-1e4, at beta 0.1 softplus of -+1000."""
    near = Logps(torch.full((1, 10), -1000.0, dtype=dtype), torch.ones(1, 10, dtype=torch.bool), torch.tensor([-1e4]))
    away = replace(near, tokens=near.tokens.clone().requires_grad_(), reference=torch.zeros(1))
    out = DPO(beta=0.1)(PairLogps(near, away) if far == "rejected" else PairLogps(away, near))
    (found,) = torch.autograd.grad(out.sum(), away.tokens)
    assert out.dtype == torch.float32
    assert out.item() == loss
    assert found.float().tolist() == [pytest.approx([-slope] * 10, rel=4e-3)]  # bfloat16 has three digits


def test_kto_without_one_of_the_classes() -> None:
    """z0 = (2 + 0) / 2 = 1 from all rows, nothing is divided by a count: 1 - sigmoid(+-0.1) at log-ratios 2 and 0."""
    answers, mismatched = logps([[-1.0], [-1.0]], [-3.0, -1.0]), logps([[-1.0], [-1.0]], [-3.0, -1.0])
    low, high = 0.47502081252106, 0.52497918747894
    good = KTO(beta=0.1)(LabelledLogps(answers, torch.tensor([True, True]), mismatched))
    bad = KTO(beta=0.1, undesirable_weight=2.0)(LabelledLogps(answers, torch.tensor([False, False]), mismatched))
    assert good.tolist() == pytest.approx([low, high], abs=1e-14)
    assert bad.tolist() == pytest.approx([2 * high, 2 * low], abs=1e-14)


def test_no_gradient_through_the_reference_point_of_kto() -> None:
    """An answer is its own mismatched one. Its gradient is that of a constant z0 = 2, though the loss is constant."""
    answers = logps([[-1.0]], [-3.0])
    loss = KTO(beta=0.1)(LabelledLogps(answers, torch.tensor([True]), answers))
    (slope,) = torch.autograd.grad(loss.sum(), answers.tokens)
    assert loss.item() == 0.5
    assert slope.item() == pytest.approx(-0.1 / 4, abs=1e-16)


# The rejected answer's mean goes to 0 while the preferred one stays at -1, log odds -0.5413: z = -14.3568349126,
# loss softplus(-z) = 14.356835494554, slope sigmoid(-z) / (1 - exp(-1e-6)) = 999999.918; at 0 the clamp has stopped it.
# At -60 the log odds are the mean itself: z = 59.4587, loss and slope exp(-z) = 1.5e-26.
@pytest.mark.parametrize(
    ("mean", "loss", "slope"),
    [(0.0, 14.356835494554, 0.0), (-1e-6, 14.356835494554, 999999.91802313), (-60.0, 0.0, 1.5046153324e-26)],
)
def test_orpo_at_both_ends(mean: float, loss: float, slope: float) -> None:
    rejected = scalar(mean)
    odds_term = ORPO(odds_weight=1.0)(PairLogps(spread(scalar(-1.0), 1, None), spread(rejected, 1, None))) - 1.0
    (found,) = torch.autograd.grad(odds_term.sum(), rejected)
    assert odds_term.item() == pytest.approx(loss, abs=1e-9)
    assert found.item() == pytest.approx(slope, rel=1e-9, abs=0)


# Answers have one token each, so the mean equals the sum.
@pytest.mark.parametrize(
    ("by_mean", "by_sum"),
    [
        (LengthDPO(beta=0.3), DPO(beta=0.3)),
        (IPO(tau=0.1, reduction="mean"), IPO(tau=0.1, reduction="sum")),
        (CPO(beta=0.3, nll="mean"), CPO(beta=0.3, nll="sum")),
        (CPO(beta=0.3, nll="tokens"), CPO(beta=0.3, nll="sum")),
        (RPO(beta=0.3, nll="tokens"), RPO(beta=0.3, nll="mean")),
        (SimPO(beta=0.3, gamma=0.0), CPO(beta=0.3, nll_weight=0.0)),
    ],
)
def test_one_token_each(by_mean: Callable[[Any], Tensor], by_sum: Callable[[Any], Tensor]) -> None:
    batch = pair([[-1.0], [-0.1]], [[-3.0], [-2.0]], [-1.5, -1.0], [-2.0, -0.5])
    assert torch.equal(by_mean(batch), by_sum(batch))
