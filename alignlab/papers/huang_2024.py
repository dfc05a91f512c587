"""The N+ implementation details of PPO: Huang et al. 2024."""

from __future__ import annotations

import torch

from alignlab.objectives.ppo import PPO
from alignlab.papers.claim import Claim, Exact, Paper, below, near
from alignlab.types import Logps, RolloutLogps, Rollouts


def step_0() -> dict[str, float]:
    """PPO's diagnostics on answers that the current policy has just sampled; 8 answers of 1 to 6 tokens."""
    generator = torch.Generator().manual_seed(0)

    def rand() -> torch.Tensor:
        return torch.rand(8, 6, generator=generator, dtype=torch.float64)

    mask = torch.arange(6) < torch.randint(1, 7, (8, 1), generator=generator)
    logps, values = -rand(), rand()
    answers = Logps(logps, mask, (logps * 0.9 * mask).sum(dim=1))
    batch = RolloutLogps(
        answers, logps, rand(), longest=torch.tensor(6), values=values, old_values=values, returns=rand()
    )
    found = {name: float(value) for name, value in PPO(kl_coef=0.05).metrics(batch).items()}
    return {
        "distance of the ratio from 1": abs(found["val/ratio"] - 1) + abs(found["val/token_ratio_var"]),
        "approxkl": found["policy/approxkl_avg"],
        "clipfrac": found["policy/clipfrac_avg"],
    }


def advantages() -> dict[str, float]:
    """Rewards with the KL of each token, GAE and whitening, on four tokens worked out by hand."""
    row = {
        "logps": (-1.0, -2.0, -0.5, -3.0),
        "reference": (-1.2, -1.5, -0.7, -2.0),
        "values": (0.1, 0.2, 0.3, 0.4),
    }
    tensors = {name: torch.tensor([values], dtype=torch.float64) for name, values in row.items()}
    mask = torch.ones(1, 4, dtype=torch.bool)
    score = torch.tensor([[1.5]], dtype=torch.float64)
    rollouts = Rollouts(score, mask, ended=torch.tensor([True]), **tensors)
    whitened, returns = PPO(kl_coef=0.05).advantages(rollouts, 0.05)
    assert returns is not None
    found = {f"return of token {t + 1}": float(value) for t, value in enumerate(returns[0])}
    return found | {f"advantage of token {t + 1}": float(value) for t, value in enumerate(whitened[0])}


_RETURNS = (1.37595625, 1.448375, 1.4825, 1.55)
_WHITENED = (1.22833311, 0.67967206, -0.63074885, -1.27725632)

PAPER = Paper(
    name="huang_2024",
    title="The N+ Implementation Details of RLHF with PPO: A Case Study on TL;DR Summarization",
    authors="Huang et al. 2024",
    url="https://arxiv.org/abs/2403.17031",
    claims=(
        Claim(
            name="step-0",
            words="Before the first update the probability ratio is 1, approxkl is 0 and clipfrac is 0.",
            source="implementation details of PPO, the check of the ratio",
            expected=(
                below("distance of the ratio from 1", 1e-6, "printed"),
                below("approxkl", 1e-12, "printed"),
                near("clipfrac", 0.0, 0.0, "printed"),
            ),
            measured_by=Exact(step_0),
            deviations=(
                "Paper: Pythia on TL;DR. Here: random log-probabilities of 8 answers, which the policy shares.",
            ),
        ),
        Claim(
            name="advantages",
            words="Each token is charged beta times its log-ratio, the score comes with the last token, and advantages "
            "are whitened over the answer's tokens.",
            source="implementation details of PPO: per-token KL, GAE with gamma 1 and lambda .95, whitening",
            expected=(
                *(near(f"return of token {t + 1}", value, 1e-6, "derived") for t, value in enumerate(_RETURNS)),
                *(near(f"advantage of token {t + 1}", value, 1e-6, "derived") for t, value in enumerate(_WHITENED)),
            ),
            measured_by=Exact(advantages),
            deviations=("Paper: Pythia on TL;DR. Here: one answer of four tokens, worked out by hand.",),
        ),
        Claim(
            name="reward-model-accuracy",
            words="The accuracy of reward models on TL;DR grows with their size.",
            source="table of 4 seeds: .628, .669 and .689 at 1B, 2.8B and 6.9B",
            expected=(near("accuracy at 6.9B", 0.689, 0.008, "printed"),),
            measured_by=None,
            scale="full",
        ),
    ),
)
