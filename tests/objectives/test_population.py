"""In the lab, minimising the exact expectation of each loss with a reference gives its known optimum.

The losses are those of the real objectives over all ordered pairs (or labelled answers) of a small space; pairs are
drawn from the reference and labelled by Bradley-Terry unless it is said otherwise. Closed forms are computed without
them. P(y) = p*(y beats mu) = sum_y' pi_ref(y') sigma(r_y - r_y'), ties ½; d(y) = P(y) is then the share of wins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from alignlab.lab.frontier import expected, kl
from alignlab.objectives.aot import AOT
from alignlab.objectives.apo_down import APODown
from alignlab.objectives.apo_zero import APOZero
from alignlab.objectives.apo_zero_unpaired import APOZeroUnpaired
from alignlab.objectives.base import Objective
from alignlab.objectives.bco import BCO
from alignlab.objectives.dpo import DPO
from alignlab.objectives.dpop import DPOP
from alignlab.objectives.exo import EXO
from alignlab.objectives.hinge import Hinge
from alignlab.objectives.ipo import IPO
from alignlab.objectives.kto import KTO
from alignlab.objectives.ld_dpo import LDDPO
from alignlab.objectives.length_dpo import LengthDPO
from alignlab.objectives.nca import NCA
from alignlab.objectives.r_dpo import RDPO
from alignlab.objectives.robust_dpo import RobustDPO
from alignlab.objectives.rpo import RPO
from alignlab.objectives.sppo import SPPO
from alignlab.objectives.tdpo import TDPO
from alignlab.objectives.wpo import WPO
from alignlab.types import LabelledLogps, Logps, PairLogps
from tests.objectives.population import LONG, THREE, WORLD, Array, Space, bisect, logit, sigmoid, tv

TOLERANCE = 1e-5  # in total variation; the project requires 1e-3, most objectives reach 1e-8, and KTO 2e-6
EVEN = replace(LONG, lengths=np.array([3, 3, 3]))

# v = f'(u) up to the constants that objectives leave out -> log u; far beyond its end 600 or so stands for infinity
INVERSES: dict[str, Callable[[Array], Array]] = {
    "reverse_kl": lambda v: v,
    "forward_kl": lambda v: -np.log(np.maximum(1 - v, 1e-300)),
    "js": lambda v: np.where(v < math.log(2), v - np.log(np.maximum(2 - np.exp(np.minimum(v, 1.0)), 1e-300)), 600.0),
    "alpha": lambda v: -2 * np.log(np.maximum(1 - v / 2, 1e-150)),  # alpha = 1/2: v = 2 (1 - u^(-1/2))
}


def tilted(space: Space, value: Array) -> Array:
    """pi_ref exp(value), normalised."""
    weight = space.ref * np.exp(value - value.max())
    return weight / weight.sum()


def flipped(table: Array, share: float) -> Array:
    """Pair weights after a share of the labels was flipped."""
    return (1 - share) * table + share * table.T


def labels(space: Space, kept: float = 1.0) -> Array:
    """[2N] weights of answers from the reference, good with probability d; only a share of the good ones is kept."""
    return np.concatenate([kept * space.ref * space.wins, space.ref * (1 - space.wins)])


# ---- closed forms over several answers


@dataclass(frozen=True)
class Case:
    """An objective, the distribution on which it is minimised, and the expected optimum."""

    objective: Objective
    space: Space
    optimum: Array
    flips: float = 0.0
    line_search: bool = True


def cases() -> Iterator[tuple[str, Case]]:
    objective: Objective
    for name, space in {"three": LONG, "world": WORLD}.items():
        r, n, wins, one = space.reward, space.lengths, space.wins, replace(space, lengths=np.array([1]))
        for beta in (0.1, 0.5, 1.0, 5.0):
            # DPO, Theorem 1: pi_ref e^{r / beta}; f-divergences: f'(pi / pi_ref) = r / beta + c
            for divergence, inverse in INVERSES.items():
                best = one.normalised(r / beta, inverse)
                yield f"dpo {divergence} {beta} {name}", Case(DPO(beta, divergence=divergence), space, best)
            # length-normalised: rho_y = n_y (r_y / beta + c)
            yield f"length_dpo {beta} {name}", Case(LengthDPO(beta), space, space.normalised(r / beta))
            # R-DPO: pi_ref e^{(r - alpha n) / beta}
            yield f"r_dpo {beta} {name}", Case(RDPO(beta, alpha=0.2), space, tilted(space, (r - 0.2 * n) / beta))
        # f' of the summed ratio, per token: f' = n (r / beta + c)
        best = space.normalised(2 * r, INVERSES["js"])
        yield f"length_dpo js {name}", Case(LengthDPO(0.5, divergence="js"), space, best)
        for flips in (0.1, 0.2, 0.3):
            # rDPO on labels flipped with its own epsilon: the clean optimum
            objective = RobustDPO(0.5, label_smoothing=flips)
            yield f"robust_dpo {flips} {name}", Case(objective, space, tilted(space, 2 * r), flips)
        for tau in (0.1, 1.0):
            # IPO, mu = pi_ref: pi_ref e^{P / tau}; per token rho = n (P / tau + c); with f-divergences f' = P / tau + c
            yield f"ipo {tau} {name}", Case(IPO(tau), space, tilted(space, wins / tau))
            yield f"ipo mean {tau} {name}", Case(IPO(tau, dialect="trl1"), space, space.normalised(wins / tau))
            best = one.normalised(wins / tau, INVERSES["alpha"])
            yield f"ipo alpha {tau} {name}", Case(IPO(tau, divergence="alpha"), space, best)
        # objectives that equal DPO for a value of their own parameter
        for objective in (DPOP(0.5, penalty=0.0), RPO(0.5, nll_weight=0.0), LDDPO(0.5, alpha=1.0)):
            yield f"{type(objective).__name__} as dpo {name}", Case(objective, space, tilted(space, 2 * r))
    best = tilted(THREE, 2 * THREE.reward)
    # no tail to down-weight at equal lengths; one KL for all answers of one token; weights alike for (w, l) and (l, w)
    for dialect in ("trl1", "trl0"):
        yield f"ld_dpo equal lengths {dialect}", Case(LDDPO(0.5, alpha=0.3, dialect=dialect), EVEN, best)
    yield "tdpo1 one token", Case(TDPO(0.5, alpha=1.0, stop_gradient=False), THREE, best)
    yield "wpo one token", Case(WPO(0.5), THREE, best, line_search=False)


CASES = dict(cases())


@pytest.mark.parametrize("name", CASES)
def test_lands_on_its_optimum(name: str) -> None:
    """The comments in cases() give the closed forms."""
    case = CASES[name]
    landed = case.space.landing(case.objective, flipped(case.space.sampled, case.flips), line_search=case.line_search)
    assert case.optimum.sum() == pytest.approx(1.0, abs=1e-9)
    assert tv(case.optimum, case.space.ref) > 1e-3, "the reference itself is no optimum to find"
    assert tv(landed, case.optimum) < TOLERANCE


@pytest.mark.parametrize(
    ("beta", "policy", "reward", "distance"),
    [
        (0.1, None, 0.99997276, 0.69284753),
        (0.5, (0.91867231, 0.07459727, 0.00673043), 0.91194188, 0.43220514),
        (1.0, (0.78439876, 0.17313851, 0.04246273), 0.74193603, 0.19224545),
        (5.0, None, 0.41598609, 0.01139061),
    ],
)
def test_dpo_goldens(beta: float, policy: tuple[float, ...] | None, reward: float, distance: float) -> None:
    """pi_ref e^{r / beta} for pi_ref = (.5, .3, .2), r = (1, 0, -1), with its reward and KL, to 8 decimals."""
    landed = np.log(THREE.landing(DPO(beta), THREE.sampled))[None]
    assert policy is None or np.exp(landed[0]) == pytest.approx(policy, abs=1e-8)
    assert expected(landed, THREE.reward[None]) == pytest.approx(reward, abs=1e-8)
    assert kl(landed, THREE.reference[None]) == pytest.approx(distance, abs=1e-8)


@pytest.mark.parametrize(
    ("tau", "policy"), [(0.1, (0.92851396, 0.06502775, 0.00645828)), (1.0, (0.57117937, 0.27646469, 0.15235594))]
)
def test_ipo_goldens(tau: float, policy: tuple[float, ...]) -> None:
    """pi_ref e^{P / tau}, P = (.64547699, .43068243, .24028389)."""
    assert THREE.wins == pytest.approx((0.64547699, 0.43068243, 0.24028389), abs=1e-8)
    assert THREE.landing(IPO(tau), THREE.sampled) == pytest.approx(policy, abs=1e-8)


@pytest.mark.parametrize("noise", [0.1, 0.2, 0.3])
def test_noise_moves_dpo_and_cdpo_but_not_robust_dpo(noise: float) -> None:
    """With flipped Bradley-Terry labels, DPO moves less far than pi_ref e^{r / beta}. cDPO flips again and moves even
    less far.
    """
    weights, clean = flipped(WORLD.sampled, noise), tilted(WORLD, 2 * WORLD.reward)
    order = [RobustDPO(0.5, label_smoothing=noise), DPO(0.5), DPO(0.5, label_smoothing=noise)]
    landed = [WORLD.landing(objective, weights) for objective in order]
    assert [tv(p, clean) for p in landed] == sorted(tv(p, clean) for p in landed)
    assert tv(landed[0], clean) < TOLERANCE
    assert tv(landed[1], clean) > 0.02
    rewards = [float(p @ WORLD.reward) for p in landed]
    distances = [kl(np.log(p)[None], WORLD.reference[None]) for p in landed]
    assert rewards == sorted(rewards, reverse=True)
    assert distances == sorted(distances, reverse=True)
    assert tv(WORLD.landing(order[2], weights), WORLD.landing(DPO(0.5), flipped(weights, noise))) < TOLERANCE


def test_price_of_a_token_shortens_answers() -> None:
    """E[n] under R-DPO equals that under pi_ref e^{(r - alpha n) / beta}, and it falls with alpha."""
    lengths = []
    for alpha in (0.0, 0.01, 0.03, 0.1):
        landed = LONG.landing(RDPO(0.5, alpha=alpha), LONG.sampled)
        lengths.append(float(landed @ LONG.lengths))
        best = tilted(LONG, 2 * (LONG.reward - alpha * LONG.lengths))
        assert lengths[-1] == pytest.approx(float(best @ LONG.lengths), abs=1e-6)
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < lengths[0] - 0.01


# ---- IPO's bandits: finite data with deterministic labels, three actions a, b, c and a uniform reference

BANDIT = Space(np.log(np.full(3, 1 / 3)), np.zeros(3))
D1, D2, D3 = ((0, 1), (1, 2), (0, 2)), ((0, 1), (1, 2), (2, 0)), ((0, 1), (1, 0))
THIRDS = (1 / 3, 1 / 3, 1 / 3)


def counts(pairs: tuple[tuple[int, int], ...], actions: int = 3) -> Array:
    table = np.zeros((actions, actions))
    np.add.at(table, tuple(np.array(pairs).T), 1.0)
    return table


@pytest.mark.parametrize(
    ("pairs", "tau", "printed"),
    [
        (D1, 0.1, (0.9644, 0.0344, 0.0012)),
        (D1, 0.5, (0.5627, 0.2889, 0.1483)),
        (D1, 1.0, (0.4484, 0.3213, 0.2302)),
        *((pairs, tau, THIRDS) for pairs in (D2, D3) for tau in (0.1, 0.5, 1.0)),
        *((d, tau, ((1 - c) / 2, (1 - c) / 2, c)) for tau, c in ((0.1, 0.0034), (0.5, 0.1554), (1.0, 0.2327))
          for d in ((*D3, (0, 2)), (*D3, (1, 2)))),
    ],
)  # fmt: skip
def test_ipo_on_finite_data(pairs: tuple[tuple[int, int], ...], tau: float, printed: tuple[float, ...]) -> None:
    """pi_ref e^s, s = Lap⁺ (wins - losses) / (2 tau), Lap the Laplacian of the graph of pairs; c = 1 / (2 e^{1/2τ} + 1)
    where a and b have beaten each other and c lost once; an action in no pair stays where it was."""
    table = counts(pairs)
    graph = table + table.T
    laplacian = np.diag(graph.sum(1)) - graph
    best = tilted(BANDIT, np.linalg.pinv(laplacian) @ (table.sum(1) - table.sum(0)) / (2 * tau))
    landed = BANDIT.landing(IPO(tau), table)
    assert tv(landed, best) < TOLERANCE
    assert landed == pytest.approx(printed, abs=1e-4)
    if len(pairs) == 3 and pairs[:2] == D3:
        assert landed[2] == pytest.approx(1 / (1 + 2 * math.exp(1 / (2 * tau))), abs=1e-8)


def test_dpo_on_finite_data() -> None:
    """For every beta, DPO gives all probability to a on D1, and none to c on D3 with a loss of c. A cycle leaves the
    policy uniform.
    """
    for beta in (0.1, 1.0):
        assert BANDIT.landing(DPO(beta), counts(D1))[0] > 0.999
        assert BANDIT.landing(DPO(beta), counts(D2)) == pytest.approx(THIRDS, abs=1e-12)
        assert BANDIT.landing(DPO(beta), counts(((0, 1), (1, 0), (0, 2))))[2] < 1e-3


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.5])
def test_contradictory_pair_does_not_hold_the_third_action(beta: float) -> None:
    """y1 and y2 each beat the other once. DPO's loss depends only on h, so (½, ½, 0+) and (0+, 0+, 1) are optimal."""
    table = torch.as_tensor(counts(D3)).flatten()
    for eps in (1e-3, 1e-30, 1e-300):
        for p in ((0.5 - eps / 2, 0.5 - eps / 2, eps), (eps, eps, 1 - 2 * eps)):
            lp = torch.log(torch.tensor(p, dtype=torch.float64))
            loss = (table * BANDIT.losses(DPO(beta), lp)).sum()
            assert loss.item() == pytest.approx(2 * math.log(2), abs=1e-12)


# ---- two actions, the first preferred with probability p: one number h = rho_1 - rho_2

TWO = Space(np.log(np.array([0.3, 0.7])), np.zeros(2))


def turning_point(objective: Objective, p: float, reach: float) -> float:
    """h at which the derivative of the mean loss changes from negative to positive, also at kinks."""
    weights = torch.tensor([0.0, p, 1 - p, 0.0], dtype=torch.float64)

    def derivative(h: float) -> float:
        s = torch.tensor([h, 0.0], dtype=torch.float64, requires_grad=True)
        (weights * TWO.losses(objective, TWO.policy(s))).sum().backward()
        assert s.grad is not None
        return s.grad[0].item()

    return bisect(derivative, -reach, reach)


def first(h: float) -> float:
    """pi(y1) at this h."""
    return float(sigmoid(np.array(h + logit(0.3))))


def q(z: float) -> float:
    return float(sigmoid(np.array(z)))


B = 0.4
TURNING: dict[str, tuple[Objective, Callable[[float], Any]]] = {
    "dpo": (DPO(B), lambda p: logit(p) / B),
    "cdpo": (DPO(B, label_smoothing=0.1), lambda p: logit(0.9 * p + 0.1 * (1 - p)) / B),
    "robust_dpo": (RobustDPO(B, label_smoothing=0.1), lambda p: logit((p - 0.1) / 0.8) / B),
    "ipo": (IPO(B), lambda p: (2 * p - 1) / (2 * B)),
    "exo": (EXO(B), lambda p: (2 * p - 1) * logit(0.999) / B),
    "exo soft": (EXO(B, epsilon=0.1), lambda p: (2 * p - 1) * logit(0.9) / B),
    "hinge": (Hinge(B), lambda p: np.sign(p - 0.5) / B),
    "dpop": (DPOP(B), lambda p: 0.0),
    "rpo": (RPO(B), lambda p: bisect(lambda h: B * (q(B * h) - p) + first(h) - p, -50, 50)),
    "tdpo2": (TDPO(B, alpha=0.5), lambda p: bisect(
        lambda h: q(B * h) - p + 0.5 * (p * q(-B * h) + (1 - p) * q(B * h)) * (first(h) - 0.3), -50, 50)),
}  # fmt: skip


@pytest.mark.parametrize("p", [0.2, 0.5, 0.75])
@pytest.mark.parametrize("name", TURNING)
def test_margin_of_two_actions(name: str, p: float) -> None:
    """β h is logit p (DPO), logit((1-ε)p + ε(1-p)) (cDPO), logit((p-ε) / (1-2ε)) (rDPO), (2p-1) logit(1-ε) (EXO), the
    sign of p - ½ (hinge); h is (2p-1) / 2τ (IPO). DPOP stays at the reference while (1-p) λ pi_ref > 2p - 1, both ways.
    RPO: β (σ(βh) - p) + α (pi_1 - p) = 0. TDPO2: σ(βh) - p + α E[σ(-βh)] (pi_1 - pi_ref,1) = 0, the last term because
    the preferred answer's KL is held fixed: even for one-token answers it stays nearer the reference than DPO.
    """
    objective, closed_form = TURNING[name]
    found = turning_point(objective, p, 20 / B)
    if name == "hinge" and p == 0.5:
        assert abs(found) <= 1 / B + 1e-9, "flat between the kinks"
        return
    assert found == pytest.approx(float(closed_form(p)), abs=1e-8)
    if name == "tdpo2" and p != 0.5:
        assert abs(found) < abs(logit(p) / B) - 1e-3


def test_cdpo_on_one_deterministic_pair() -> None:
    """beta h = logit(1 - ε): 2.19722458 at ε = .1."""
    for beta in (0.1, 1.0):
        h = turning_point(DPO(beta, label_smoothing=0.1), 1.0, 20 / beta)
        assert beta * h == pytest.approx(2.19722458, abs=1e-8)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_ld_dpo_on_answers_of_one_and_of_two_tokens(alpha: float) -> None:
    """β (rho_1 - (1 + α) / 2 rho_2) = logit p where each of the longer answer's tokens has half of rho_2."""
    space, p = replace(TWO, lengths=np.array([1, 2])), 0.75
    landed = space.landing(LDDPO(B, alpha=alpha), np.array([[0.0, p], [1 - p, 0.0]]))
    rho = np.log(landed) - space.reference
    assert B * (rho[0] - (1 + alpha) / 2 * rho[1]) == pytest.approx(logit(p), abs=1e-8)


@pytest.mark.parametrize("tau", [0.1, 0.5, 1.0, 2.0])
def test_certain_preference_between_two_actions(tau: float) -> None:
    """IPO: pi(y1) = σ(1 / 2τ) from a uniform reference; DPO falls for ever, h grows, pi(y1) -> 1 for every beta."""
    uniform, certain = Space(np.log(np.full(2, 0.5)), np.zeros(2)), np.array([[0.0, 1.0], [0.0, 0.0]])
    assert uniform.landing(IPO(tau), certain)[0] == pytest.approx(q(1 / (2 * tau)), abs=1e-8)
    losses = []
    for h in range(0, 200, 10):
        lp = uniform.policy(torch.tensor([float(h), 0.0], dtype=torch.float64))
        losses.append(uniform.losses(DPO(tau), lp)[1].item())
    assert all(later < earlier for earlier, later in pairwise(losses))
    assert uniform.landing(DPO(tau), certain)[0] > 0.9999


# ---- each response by itself: stationary under sum pi = 1, solved by nested bisection


def threshold(b: float, a: Array, l: Array) -> Callable[[Array], Array]:
    return lambda rho: b * (l - a) * sigmoid(b * rho) * sigmoid(-b * rho)


SHARES: dict[str, tuple[Callable[..., Objective], Callable[..., Callable[[Array], Array]]]] = {
    "nca": (NCA, lambda b, a, l: lambda rho: b * ((1.5 * a + 0.5 * l) * sigmoid(b * rho) - a)),
    "sppo": (SPPO, lambda b, a, l: lambda rho: 2 * (a + l) * rho - (a - l) / b),
    "bco": (partial(BCO, shift="none"), lambda b, a, l: lambda rho: b * ((a + l) * sigmoid(b * rho) - a)),
    "apo_zero": (APOZero, threshold),
    "apo_zero_unpaired": (APOZeroUnpaired, threshold),
}


@pytest.mark.parametrize(("space", "beta"), [(THREE, 1.0), (WORLD, 0.3)], ids=["three", "world"])
@pytest.mark.parametrize("name", SHARES)
def test_lands_where_each_share_of_wins_puts_it(name: str, beta: float, space: Space) -> None:
    """A response wins with weight a = pi_ref d and loses with l = pi_ref (1 - d); f'(rho_y) = G pi_y for all y, f being
    a ℓ(u) + ½ (a + l) ℓ(-u) (NCA), a (rho - 1/2β)² + l (rho + 1/2β)² (SPPO), a ℓ(u) + l ℓ(-u) (BCO without a shift) or
    a σ(-u) + l σ(u) (APO-zero, paired or not), u = β rho. If sum pi did not hold them, they would go to u = log 2d,
    rho = (2d - 1) / 2β, u = logit d, and for APO-zero to plus or minus infinity by the sign of d - ½. NCA at β = 1
    needs no holding: pi_ref 2d sums to 1.
    """
    build, slope = SHARES[name]
    objective = build(beta)
    weights = space.sampled if objective.requires.data == "pairs" else labels(space)
    best = space.constrained(slope(beta, space.ref * space.wins, space.ref * (1 - space.wins)))
    landed = space.landing(objective, weights)
    assert best.sum() == pytest.approx(1.0, abs=1e-9)
    assert tv(landed, best) < TOLERANCE
    if name == "nca" and beta == 1:
        assert tv(landed, 2 * space.ref * space.wins) < TOLERANCE
    if name.startswith("apo"):
        assert ((landed > 1e-3 * space.ref) == (space.wins > 0.5)).all()


@pytest.mark.parametrize("space", [THREE, WORLD], ids=["three", "world"])
@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_bco_at_its_own_shift(beta: float, space: Space) -> None:
    """At δ* = -β log Z, Z = sum pi_ref (d / (1-d))^{1/β}: pi_ref (d / (1-d))^{1/β} / Z, where σ(β rho - δ*) = d."""
    best = tilted(space, logit(space.wins) / beta)
    shift = -beta * math.log(float(np.sum(space.ref * np.exp(logit(space.wins) / beta))))
    state = torch.tensor([shift, 1.0, shift, 1.0], dtype=torch.float64)
    assert tv(space.landing(BCO(beta), labels(space), state), best) < TOLERANCE


@pytest.mark.parametrize(("objective", "finite"), [(APOZero(0.1), True), (APODown(0.1), False)])
def test_apo_at_the_reference(objective: Objective, finite: bool) -> None:
    """Slopes β/4 times l - a (zero: winners up, losers down) and l (down: all that ever lose go down, the losers more).

    APO-down has no finite optimum: with sum pi = 1 it runs into a corner, one response alone.
    """
    won, lost = 2 * WORLD.ref * WORLD.wins, 2 * WORLD.ref * (1 - WORLD.wins)
    slope = WORLD.slope(objective, WORLD.sampled, torch.as_tensor(WORLD.reference))
    assert slope == pytest.approx(0.025 * (lost - won if finite else lost), abs=1e-12)
    assert (WORLD.landing(objective, WORLD.sampled, small_steps=100).max() > 0.999) != finite


# ---- KTO


@pytest.mark.parametrize(
    ("space", "good", "bad", "kept"),
    [(THREE, 1, 1, 1), (THREE, 2, 1, 1), (WORLD, 1, 1, 1), (WORLD, 1, 1.2, 1), (WORLD, 10, 1, 0.1)],
    ids=["three", "three lambda_D 2", "world", "world lambda_U 1.2", "world a tenth"],
)
def test_kto_keeps_what_is_above_the_threshold(space: Space, good: float, bad: float, kept: float) -> None:
    """Mass ends on exactly {d / (1-d) > λ_U / λ_D}, d after the share of good answers that is kept; there it is shared
    so that the slope c β σ(u) σ(-u) is the same multiple of pi, c = λ_D a - λ_U l. With a tenth of the good answers
    λ_D = 10 is the balanced threshold."""
    won, lost = good * kept * space.ref * space.wins, bad * space.ref * (1 - space.wins)
    best = space.constrained(threshold(0.1, won, lost))
    landed = space.landing(KTO(0.1, good, bad), labels(space, kept), small_steps=100)
    above = space.wins / (1 - space.wins) > bad / (good * kept)
    assert 0 < above.sum() < len(above)
    assert ((landed > 1e-3 * space.ref) == above).all()
    assert tv(landed, best) < TOLERANCE
    if kept < 1:
        assert (above == (space.wins > 0.5)).all(), "the balanced set"


@pytest.mark.parametrize(("good", "kept"), [(1.0, 1.0), (1.0, 0.1), (10.0, 0.1)])
def test_kto_pushes_by_the_threshold_anywhere(good: float, kept: float) -> None:
    """∂/∂lp_y = β σ(u) σ(-u) (λ_U l - λ_D a), u = β (rho - z0), z0 = 0 or above; with a tenth of the good answers at
    weight 1 everything sinks."""
    lp = WORLD.policy(torch.randn(len(WORLD.ref), generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    for policy in (lp, lp + 5.0):  # log-ratios whose mean under the reference is negative, and positive
        rho = policy.numpy() - WORLD.reference
        u = 0.1 * (rho - max(0.0, float(WORLD.ref @ rho)))
        lost = WORLD.ref * (1 - WORLD.wins) - good * kept * WORLD.ref * WORLD.wins
        slope = WORLD.slope(KTO(0.1, good), labels(WORLD, kept), policy)
        assert slope == pytest.approx(0.1 * sigmoid(u) * sigmoid(-u) * lost, abs=1e-14)
        assert (slope > 0).all() == (good * kept == 0.1)


def test_kto_and_contradictory_answers() -> None:
    """If every answer is good as often as bad, its two terms sum to 1, and the gradient is exactly 0 everywhere."""
    lp = WORLD.policy(torch.randn(len(WORLD.ref), generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    half = np.ones(2 * len(WORLD.ref))
    assert WORLD.slope(KTO(0.1), half, lp) == pytest.approx(0.0, abs=1e-15)
    assert WORLD.losses(KTO(0.1), lp).sum().item() == pytest.approx(len(WORLD.ref), abs=1e-12)


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_kto_reference_point_of_answers_from_the_reference(beta: float) -> None:
    """The mean log-ratio of mismatched y' ~ pi_ref is -KL(pi_ref || pi) in expectation, so that z0 is held at 0, not at
    KL(pi || pi_ref). Ten answers in the proportions .5, .3, .2 have exactly that mean."""
    best = torch.as_tensor(tilted(THREE, THREE.reward / beta)).log()
    rows = torch.arange(3).repeat_interleave(torch.tensor([5, 3, 2]))
    batch = LabelledLogps(THREE.logps(best, rows), torch.ones(10, dtype=torch.bool), THREE.logps(best, rows))
    metrics = KTO(beta).metrics(batch)
    assert metrics["kto/kl_raw"].item() == pytest.approx(-kl(THREE.reference[None], best.numpy()[None]), abs=1e-12)
    assert metrics["kto/kl_raw"] < 0
    assert metrics["kl"] == 0


# ---- at the reference, or as distributions


def test_wpo_weighs_1_where_the_policy_is_uniform() -> None:
    """pi_w pi_l / (sum pi²)² = 1 for one-token answers and a uniform policy, so the loss there is ln 2."""
    uniform = torch.full((3,), -math.log(3.0), dtype=torch.float64)
    assert BANDIT.losses(WPO(0.5), uniform).numpy() == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize("pairing", ["paired", "unpaired"])
def test_aot_on_equal_distributions(pairing: str) -> None:
    """Margins of the policy that are the reference's in another order, or log-ratios of preferred answers that are the
    dispreferred ones' in another order: every quantile meets its like, loss ln 2 each."""
    values, order = torch.randn(8, generator=torch.Generator().manual_seed(0)).double(), torch.arange(8).flip(0)
    one, none = torch.ones(8, 1, dtype=torch.bool), torch.zeros(8, 1, dtype=torch.float64)
    if pairing == "paired":
        batch = PairLogps(Logps(values[:, None], one, values[order]), Logps(none, one, none[:, 0]))
    else:
        batch = PairLogps(Logps(values[:, None], one, none[:, 0]), Logps(values[order][:, None], one, none[:, 0]))
    assert AOT(0.5, pairing=pairing)(batch).numpy() == pytest.approx(math.log(2), abs=1e-12)
