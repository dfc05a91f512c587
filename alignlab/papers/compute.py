"""What claims about the papers' own models would cost, and the experiments that run them.

A forward and backward pass takes 6 operations for each parameter and token, a forward pass 2 (Kaplan et al. 2020,
https://arxiv.org/abs/2001.08361, section 2.1). Attention is left out: it is small for these lengths.

    hours = operations / (operations per second of the GPU x share of them that is used) / 3600
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Operations per second of an H100 (SXM) in bfloat16 without sparsity, by its data sheet, and the share of them that
# training reaches in practice.
PER_SECOND, USED = 989e12, 0.4


@dataclass(frozen=True)
class Pass:
    """Tokens that go through a model.

    what:       what they are for.
    parameters: of the model.
    rows:       number of prompts with their answers.
    tokens:     tokens of a row, on average.
    trained:    whether there is a backward pass.
    """

    what: str
    parameters: float
    rows: float
    tokens: float
    trained: bool = True

    @property
    def operations(self) -> float:
        return (6 if self.trained else 2) * self.parameters * self.rows * self.tokens


@dataclass(frozen=True)
class FullScale:
    """An experiment at the paper's size.

    experiment: its name below conf/experiment.
    claims:     the claims that it measures, as `paper claim`.
    passes:     what goes through the models in one run, its SFT and reward model included. Lengths are assumptions.
    """

    experiment: str
    claims: tuple[str, ...]
    passes: tuple[Pass, ...]

    @property
    def hours(self) -> float:
        """Hours on one H100."""
        return gpu_hours(self.passes)


def gpu_hours(passes: Sequence[Pass], *, per_second: float = PER_SECOND, used: float = USED) -> float:
    """Hours on one GPU: the operations of all passes, divided by what the GPU does in an hour."""
    return sum(one.operations for one in passes) / (per_second * used) / 3600


def full_scale_of(paper: str, claim: str) -> FullScale | None:
    """The experiment that measures a claim at the paper's size; None if there is none."""
    return next((one for one in EXPERIMENTS if f"{paper} {claim}" in one.claims), None)


def cost_line(found: FullScale) -> str:
    """How to run an experiment, and what it costs."""
    parts = ", ".join(f"{one.what} {gpu_hours([one]):.2g}" for one in found.passes)
    return (
        f"alignlab train experiment={found.experiment} takes about {found.hours:.2g} hours on one H100 "
        f"({parts}; {USED:.0%} of {PER_SECOND / 1e12:.0f} TFLOP/s)"
    )


EXPERIMENTS = (
    FullScale(
        "paper/imdb_gpt2_large",
        ("dpo_2023 figure-2-left",),
        (
            Pass("SFT", 774e6, 25_000, 128),
            Pass("samples", 774e6, 100_000, 56, trained=False),
            Pass("reference", 774e6, 150_000, 104, trained=False),
            Pass("DPO", 774e6, 150_000, 104),
        ),
    ),
    FullScale(
        "paper/hh_pythia",
        ("park_2024 length-controlled-gain",),
        (
            Pass("SFT", 2.8e9, 161_000, 200),
            Pass("reference", 2.8e9, 161_000, 280, trained=False),
            Pass("DPO", 2.8e9, 161_000, 280),
        ),
    ),
    FullScale(
        "paper/tldr_pythia",
        ("dpo_2023 figure-2-right", "rafailov_2024 figure-1"),
        (
            Pass("SFT", 2.8e9, 117_000, 400),
            Pass("reference", 2.8e9, 92_000, 440, trained=False),
            Pass("DPO", 2.8e9, 92_000, 440),
        ),
    ),
    FullScale(
        "paper/tldr_pythia_ppo",
        (),
        (
            Pass("SFT", 1e9, 116_722, 400),
            Pass("reward model", 1e9, 92_858, 440),
            Pass("rollouts", 1e9, 1_000_000, 4 * 440, trained=False),  # sampling, reference, reward and old values
            Pass("PPO", 1e9, 4 * 1_000_000, 2 * 440),  # four epochs of policy and critic
        ),
    ),
    FullScale(
        "paper/ultrafeedback_zephyr",
        ("simpo_2024 table-mistral-base", "kto_2024 table-2-zephyr"),
        (
            Pass("reference", 7.2e9, 61_000, 900, trained=False),
            Pass("DPO", 7.2e9, 61_000, 900),
        ),
    ),
)
