"""Over-optimisation of reward models: Gao et al. 2022."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from alignlab.lab.frontier import expected, kl, tilt
from alignlab.lab.tables import counts_of, keywords, standardised, strings_of
from alignlab.objectives.reward_model import RewardModel
from alignlab.papers.claim import Claim, Paper, Sampled, above, below, near
from alignlab.papers.tabular import Array
from alignlab.types import RankedRewards

_WORDS, _LENGTH = 8, 5
_PAIRS = 1000


@lru_cache(maxsize=16)
def world(seed: int) -> tuple[Array, Array, Array]:
    """(reference [N], gold reward [N], counts of each word [N, V]) of all 8^5 sequences; see `keywords`."""
    prior, gold = keywords(seed, letters=_WORDS, length=_LENGTH)
    return prior[0], gold[0], counts_of(strings_of(_WORDS, _LENGTH), _WORDS)


def proxy(seed: int) -> Array:
    """[N] a reward model that is linear in the counts, fitted to 1,000 pairs that the gold reward has ranked."""
    reference, gold, counts = world(seed)
    rng = np.random.default_rng([seed, 6])
    pairs = rng.choice(len(reference), size=(_PAIRS, 2), p=np.exp(reference))
    pairs = pairs[gold[pairs[:, 0]] != gold[pairs[:, 1]]]
    features, grades = torch.as_tensor(counts[pairs]), torch.as_tensor(gold[pairs])
    mask = torch.ones_like(grades, dtype=torch.bool)
    theta = torch.zeros(_WORDS, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([theta], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        search.zero_grad()
        loss = RewardModel()(RankedRewards(features @ theta, mask, grades)).mean() + 1e-3 * (theta**2).mean()
        loss.backward()
        return loss

    search.step(closure)
    return standardised(counts @ theta.detach().numpy(), reference)


def optimised(seed: int) -> tuple[Array, Array]:
    """(KL [B], gold reward [B]) of the exact optimum of proxy reward minus beta KL, from beta 20 to 0.03."""
    reference, gold, _ = world(seed)
    reward = proxy(seed)
    points = []
    for beta in np.geomspace(20, 0.03, 16):
        policy = tilt(reference[None], reward[None], float(beta))
        points.append((kl(policy, reference[None]), expected(policy, gold[None])))
    kls, golds = np.array(points).T
    return kls, golds


def hump(seed: int) -> dict[str, float]:
    """How far the gold reward rises while the proxy is optimised, how far it falls afterwards, and where it peaks."""
    kls, golds = optimised(seed)
    top = int(golds.argmax())
    return {
        "rise of the gold reward": float(golds[top]),
        "fall after the peak": float(golds[top] - golds[-1]),
        "KL at the peak": float(kls[top]),
    }


@dataclass(frozen=True)
class Form:
    """A form of the gold reward with two coefficients, linear in them: d -> [..., 2] what they are multiplied with."""

    words: str
    columns: Callable[[Array], Array]


FORMS = (
    Form("d (alpha - beta log d)", lambda d: np.stack([d, -d * np.log(d)], axis=1)),
    Form("d (alpha - beta d)", lambda d: np.stack([d, -(d**2)], axis=1)),
)


def fitted(form: Form, d: Array, y: Array) -> Array:
    """[B] the form's values at d, with the coefficients that fit y best (least squares)."""
    design = form.columns(d)
    return np.asarray(design @ np.linalg.lstsq(design, y, rcond=None)[0])


def forms(seed: int) -> dict[str, float]:
    """Root mean squared errors of the paper's two forms, fitted to the gold reward of exact RL by d = sqrt(KL)."""
    kls, golds = optimised(seed)
    kept = kls > 0.05
    d, y = np.sqrt(kls[kept]), golds[kept]
    rl, bon = (float(np.sqrt(np.mean((fitted(form, d, y) - y) ** 2))) for form in FORMS)
    return {"error of best-of-n's form minus that of RL's": bon - rl, "error of RL's form": rl}


_HERE = (
    "Paper: a 1.2B policy and reward models of 3M to 3B parameters. Here: all 32,768 sequences of 5 words, a reward "
    "model linear in the counts of words, 1,000 pairs.",
    "Paper: PPO. Here: the exact optimum of proxy reward minus beta KL, for 16 betas.",
)

PAPER = Paper(
    name="gao_2022",
    title="Scaling Laws for Reward Model Overoptimization",
    authors="Gao et al. 2022",
    url="https://arxiv.org/abs/2210.10760",
    claims=(
        Claim(
            name="hump",
            words="As a policy is optimised against a learned reward, the gold reward rises and then falls.",
            source="figure 1",
            expected=(
                above("rise of the gold reward", 0.5, "derived"),
                above("fall after the peak", 0.2, "derived"),
                below("KL at the peak", 6.0, "derived"),
            ),
            measured_by=Sampled(hump),
            deviations=_HERE,
        ),
        Claim(
            name="ideal-rl-form",
            words="The form that the paper fits to PPO, d (alpha - beta log d), holds for RL as such: RL that reaches "
            "its optimum follows it more closely than best-of-n's form d (alpha - beta d); d is the square root of "
            "the KL.",
            source="section 3.1, equations 1 and 2, which were fitted to PPO without a KL penalty",
            expected=(above("error of best-of-n's form minus that of RL's", 0.0, "derived"),),
            measured_by=Sampled(forms),
            version=2,
            deviations=_HERE,
            note="The paper says this of PPO as it was trained, and not of ideal RL; that stays open. Exact RL is "
            "fitted better by the form that the paper found for best-of-n. RL's form has an infinite slope at d = 0, "
            "which no exact optimum has.",
        ),
        Claim(
            name="coefficients",
            words="alpha of best-of-n grows with the size of the reward model, and beta falls.",
            source="figure 3",
            expected=(
                near("alpha of best-of-n at 3B", 0.66, 0.03, "notes"),
                near("beta of best-of-n at 3B", 0.09, 0.01, "notes"),
            ),
            measured_by=None,
            scale="full",
        ),
    ),
)
