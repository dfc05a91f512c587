"""IPO: Azar et al. 2023."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from alignlab.lab.frontier import log_normalise
from alignlab.objectives.dpo import DPO
from alignlab.objectives.ipo import IPO
from alignlab.papers.claim import Band, Claim, Curve, Exact, Paper, Trained, above, below, near
from alignlab.papers.finished import Finished, by_setting, mean_curves, paired_difference
from alignlab.papers.tabular import Answers, Array, Preferences

_TAUS = (0.1, 0.5, 1.0)
_OBJECTIVES = ("ipo", "dpo")

# pi(c) of IPO for each tau, if a and b have beaten each other and a has beaten c.
_AMENDED = {0.1: 0.0034, 0.5: 0.1554, 1.0: 0.2327}
_THREE = Answers(np.log(np.full(3, 1 / 3)))

# Comparisons of the bandits; the first action won.
D1, D2, D3 = ("ab", "bc", "ac"), ("ab", "bc", "ca"), ("ab", "ba")


def weights_of(comparisons: Sequence[str], actions: str = "abc") -> Array:
    """[A, A] how often the first action was preferred to the second."""
    table = np.zeros((len(actions), len(actions)))
    for pair in comparisons:
        table[actions.index(pair[0]), actions.index(pair[1])] += 1
    return table


def two_actions() -> dict[str, float]:
    """pi(y1) at the minimum of both losses on the single pair y1 > y2, uniform reference."""
    two = Answers(np.log(np.full(2, 0.5)))
    pair = weights_of(["ab"], "ab")
    found: dict[str, float] = {}
    for tau in (*_TAUS, 2.0):
        ipo, dpo = (two.minimum(two.expected_loss(loss, pair)) for loss in (IPO(tau), DPO(tau)))
        found[f"IPO's pi(y1) at tau {tau:g}"] = float(np.exp(ipo[0]))
        found[f"DPO's pi(y1) at beta {tau:g}"] = float(np.exp(dpo[0]))
    return found


def optimum() -> dict[str, float]:
    """The minimum of IPO's expected loss, with pairs from the reference: pi_ref exp(p*(y > mu) / tau)."""
    answers = Preferences(np.log([0.5, 0.3, 0.2]), reward=np.array([1.0, 0.0, -1.0]))
    found: dict[str, float] = {}
    for tau in (0.1, 1.0):
        landed = np.exp(answers.minimum(answers.expected_loss(IPO(tau), answers.sampled)))
        found |= {f"pi(y{i + 1}) at tau {tau:g}": float(p) for i, p in enumerate(landed)}
    return found


def d3_as_printed() -> dict[str, float]:
    """The gradient of both losses in c's logit on D3, at ten random policies, and pi(c) at DPO's minimum."""
    policies = log_normalise(np.random.default_rng(0).normal(size=(10, 3)))
    table = weights_of(D3)
    losses = [_THREE.expected_loss(objective, table) for objective in (IPO(0.1), DPO(0.1))]
    largest = max(abs(float(_THREE.gradient(loss, policy)[2])) for loss in losses for policy in policies)
    return {"largest gradient in c's logit": largest, "DPO's pi(c)": float(np.exp(_THREE.minimum(losses[1])[2]))}


def final_policies(runs: Sequence[Finished]) -> dict[str, list[float]]:
    """pi(a), pi(b) and pi(c) at the end of each setting's runs: `objective=ipo strength=0.1: pi(a)` -> over seeds."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for action, p in zip("abc", run.action_probabilities(), strict=True):
            found.setdefault(f"{run.setting}: pi({action})", []).append(float(p))
    return found


def action_curves(runs: Sequence[Finished]) -> dict[str, Curve]:
    """The same probabilities along the training: the mean over seeds after every 500 updates."""
    return {
        f"{setting}: pi({action})": curve
        for action in "abc"
        for setting, curve in mean_curves(runs, f"exact/action/{action}").items()
    }


# All comparisons of ten actions on which everybody agrees.
_CERTAIN = tuple(itertools.combinations("abcdefghij", 2))
_STEPS = (600, 4000)


def growth_of_kl(runs: Sequence[Finished]) -> dict[str, list[float]]:
    """The KL after 4,000 updates minus that after 600, for each loss and strength."""
    kl = by_setting(runs, "exact/kl")
    short, long = (f"trainer.max_steps={steps}" for steps in _STEPS)
    settings = [name for name in kl if name.endswith(long)]
    return {
        f"growth at {name.removesuffix(long).strip()}": paired_difference(kl, name, name.replace(long, short))
        for name in settings
    }


def _bandit(comparisons: Sequence[str], seeds: int = 10) -> Trained:
    return Trained(
        (
            "experiment=bandit_ipo",
            "tracking=none",
            f"data.comparisons=[{','.join(comparisons)}]",
            f"objective={','.join(_OBJECTIVES)}",
            f"strength={','.join(f'{tau:g}' for tau in _TAUS)}",
            f"seed={','.join(map(str, range(seeds)))}",
            "trainer.eval_every=500",
        ),
        final_policies,
        curves=action_curves,
    )


def _limits(policies: dict[float, tuple[float, float, float]]) -> tuple[Band, ...]:
    """IPO's three probabilities for each tau, within 0.02: the last iterate of Adam keeps moving by about that."""
    return tuple(
        near(f"objective=ipo strength={tau:g}: pi({action})", p, 0.02, "derived")
        for tau, policy in policies.items()
        for action, p in zip("abc", policy, strict=True)
    )


_SETTING = "The paper's tau values are not printed beside its figures; 0.1, 0.5 and 1 are used."

PAPER = Paper(
    name="ipo_2023",
    title="A General Theoretical Paradigm to Understand Learning from Human Preferences",
    authors="Azar et al. 2023",
    url="https://arxiv.org/abs/2310.12036",
    remarks=(
        "Equation 17 uses summed log-ratios. TRL and HALOs use means over tokens, for which tau has another meaning.",
        "The arXiv version gives a mini-batch of 9; the conference version is said to give 90.",
    ),
    claims=(
        Claim(
            name="two-actions",
            words="If y1 is always preferred, IPO's pi(y1) is sigma(1 / (2 tau)), and DPO's goes to 1 for every tau.",
            source="section 5.3.1",
            expected=(
                *(
                    near(f"IPO's pi(y1) at tau {tau:g}", p, 1e-4, "derived")
                    for tau, p in ((0.1, 0.9933), (0.5, 0.7311), (1.0, 0.6225), (2.0, 0.5622))
                ),
                *(above(f"DPO's pi(y1) at beta {tau:g}", 0.999, "printed") for tau in (*_TAUS, 2.0)),
            ),
            measured_by=Exact(two_actions),
        ),
        Claim(
            name="optimum",
            words="IPO's loss is minimised by pi_ref exp(p*(y > mu) / tau).",
            source="equation 17, and the optimum that it was derived from",
            expected=tuple(
                near(f"pi(y{i + 1}) at tau {tau:g}", p, 1e-6, "derived")
                for tau, policy in (
                    (0.1, (0.92851396, 0.06502775, 0.00645828)),
                    (1.0, (0.57117937, 0.27646469, 0.15235594)),
                )
                for i, p in enumerate(policy)
            ),
            measured_by=Exact(optimum),
            deviations=("Here: pi_ref = (0.5, 0.3, 0.2), Bradley-Terry preferences with rewards 1, 0, -1.",),
        ),
        Claim(
            name="bandit-d1",
            words="On a total order of three actions, IPO's policy depends on tau, and DPO always takes the best one.",
            source="section 5.4, figure 1",
            expected=(
                *_limits({0.1: (0.9644, 0.0344, 0.0012), 0.5: (0.5627, 0.2889, 0.1483), 1.0: (0.4484, 0.3213, 0.2302)}),
                *(above(f"objective=dpo strength={tau:g}: pi(a)", 0.999, "derived") for tau in _TAUS),
            ),
            measured_by=_bandit(D1),
            deviations=(_SETTING, "Paper: flax and optax. Here: torch; the optimizer, rate and batch are the paper's."),
            note="The limits are solved from the paper's loss: s = Lap+ (wins - losses) / (2 tau), pi = softmax(s).",
        ),
        Claim(
            name="bandit-d2",
            words="On a cycle of three actions, both IPO and DPO stay uniform.",
            source="section 5.4",
            expected=tuple(
                near(f"objective={name} strength={tau:g}: pi({action})", 1 / 3, 0.05, "derived")
                for name in _OBJECTIVES
                for tau in _TAUS
                for action in "abc"
            ),
            measured_by=_bandit(D2, seeds=20),
            version=2,
            deviations=(_SETTING, "Paper: 10 seeds. Here: 20."),
            note="Version 1 expected 1/3 within 0.02 from 10 seeds and was underdetermined: at a constant rate, Adam's "
            "last iterate scatters by up to 0.07 under DPO with beta 0.1.",
        ),
        Claim(
            name="regularisation",
            words="If preferences are certain, DPO's policy leaves the reference further and further, whatever beta "
            "is; IPO's stops at a distance that tau sets.",
            source="sections 4 and 5",
            expected=(
                *(above(f"growth at objective=dpo strength={beta:g}", 0.05, "derived") for beta in (1.0, 5.0)),
                *(near(f"growth at objective=ipo strength={tau:g}", 0.0, 0.05, "derived") for tau in (1.0, 5.0)),
            ),
            measured_by=Trained(
                (
                    "experiment=bandit_ipo",
                    "tracking=none",
                    "data.alphabet=abcdefghij",
                    f"data.comparisons=[{','.join(map(''.join, _CERTAIN))}]",
                    f"objective={','.join(_OBJECTIVES)}",
                    "strength=1,5",
                    f"trainer.max_steps={','.join(map(str, _STEPS))}",
                    "seed=0,1,2,3,4",
                ),
                growth_of_kl,
            ),
            deviations=(
                "Paper: an argument. Here: ten actions, all 45 comparisons of a total order, 600 and 4,000 updates.",
            ),
            note="The growth is that of KL(pi || pi_ref), in nats. With noisy labels, beta sets DPO's KL: see dpo_2023 "
            "theorem-1.",
        ),
        Claim(
            name="d3-as-printed",
            words="Where a and b have beaten each other, DPO excludes the action c that was never preferred.",
            source="section 5.4, figure 2, with the data as printed: D3 = {(a, b), (b, a)}",
            premises=(above("largest gradient in c's logit", 1e-9, "derived"),),
            expected=(below("DPO's pi(c)", 0.001, "printed"),),
            measured_by=Exact(d3_as_printed),
            note="c is in no pair of the printed data, so both losses are constant in its logit: pi(c) stays where it "
            "starts. The figure needs a third pair. See bandit-d3-amended.",
        ),
        Claim(
            name="bandit-d3-amended",
            words="Where a and b have beaten each other and c has lost, IPO keeps c in a proportion that tau sets, and "
            "DPO excludes it.",
            source="section 5.4, figure 2, with the pair (a, c) added",
            expected=(
                *(near(f"objective=ipo strength={tau:g}: pi(c)", p, 0.01, "derived") for tau, p in _AMENDED.items()),
                *(below(f"objective=dpo strength={tau:g}: pi(c)", 0.001, "derived") for tau in _TAUS),
            ),
            measured_by=_bandit((*D3, "ac")),
            version=2,
            deviations=(_SETTING, "The printed data has no pair with c; (a, c) is added."),
            note="pi(c) is 1 / (1 + 2 exp(1 / (2 tau))) in the limit. Version 1 also expected pi(a) and pi(b), which "
            "the claim is not about, within 0.02. They were open at tau 0.1, where Adam's last iterate scatters.",
        ),
    ),
)
