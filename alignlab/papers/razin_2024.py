"""Likelihood displacement: Razin et al. 2024."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike

from alignlab.lab.tables import keywords, strings_of
from alignlab.objectives.dpo import DPO
from alignlab.papers.claim import Claim, Exact, Paper, Sampled, above, below, near
from alignlab.papers.small_transformer import of_strings, read
from alignlab.papers.softmax_model import NEVER, NO, YES, SoftmaxModel, descend, no_never_yes
from alignlab.types import Logps, PairLogps


def one_step() -> dict[str, float]:
    """The time derivative of every log-probability under gradient flow on DPO's loss, against the paper's formula.

    d log pi(z)/dt = g (<W_z - sum_v pi_v W_v, W_+ - W_-> + |h|^2 (1[z = +] - 1[z = -] - pi_+ + pi_-)), where g is the
    size of the loss's gradient in the margin. Five random models with 6 tokens and 3 dimensions.
    """
    worst, beta, better, worse = 0.0, 0.1, 0, 1
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        unembedding, hidden, before = (
            torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_()
            for size in ((6, 3), (3,), (3,))
        )
        model, start = SoftmaxModel(unembedding, hidden), SoftmaxModel(unembedding, before)
        reference = start.logps().detach()
        down = torch.autograd.grad(DPO(beta)(model.pair(better, worse, reference)).sum(), [unembedding, hidden])
        with torch.no_grad():
            ratio = model.logps() - reference
            size = beta * torch.sigmoid(-beta * (ratio[better] - ratio[worse]))
            policy = model.logps().exp()
            aligned = (unembedding - policy @ unembedding) @ (unembedding[better] - unembedding[worse])
            own = torch.zeros(6, dtype=torch.float64) - policy[better] + policy[worse]
            own[better] += 1
            own[worse] -= 1
            formula = size * (aligned + hidden @ hidden * own)
        for token in range(6):
            up = torch.autograd.grad(model.logps()[token], [unembedding, hidden])
            measured = -sum(float((a * b).sum()) for a, b in zip(up, down, strict=True))
            worst = max(worst, abs(measured - float(formula[token])))
    return {"largest error of d log pi / dt": worst}


def displacement() -> dict[str, float]:
    """p(No), p(Yes) and the margin while DPO is trained on No > Never; steps of 0.05."""
    path = descend(no_never_yes(), (NO, NEVER), DPO(0.1), rate=0.05, steps=500)
    start, middle, end = path[0], path[100], path[500]
    return {
        "drop of p(No)": float(start[NO] - end[NO]),
        "rise of p(Yes)": float(end[YES] - start[YES]),
        "p(No) at step 100": float(middle[NO]),
        "p(Yes) at step 100": float(middle[YES]),
        "p(No) at step 500": float(end[NO]),
        "margin at step 500": float((end[NO] / end[NEVER]).log() - (start[NO] / start[NEVER]).log()),
    }


def rank_correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's correlation: that of the ranks, where equal values share the mean of their ranks."""
    ranks = []
    for values in (x, y):
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[place])
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def hidden_similarity(seed: int) -> dict[str, float]:
    """Rank correlations over 80 pairs with the change of log p(preferred) in a step of DPO on that pair alone.

    The change is that of gradient flow in all weights: minus the product of the gradients of log p(preferred) and of
    the loss. CHES is <H_w, H_l> - |H_w|^2, where H sums the hidden states that predict an answer's tokens.
    """
    strings = strings_of(8, 5)
    prior = keywords(seed, letters=8, length=5)[0][0]
    model = of_strings(strings, prior, seed=seed)
    drawn = np.random.default_rng([seed, 8]).choice(len(strings), size=(100, 2), p=np.exp(prior) / np.exp(prior).sum())
    pairs = torch.as_tensor(strings[drawn[drawn[:, 0] != drawn[:, 1]][:80]])  # [P, 2, L]
    changes, scores = [], []
    for pair in pairs:
        logps, hidden = read(model, pair)
        sums = hidden.detach().sum(dim=1)
        scores.append(float(sums[0] @ sums[1] - sums[0] @ sums[0]))
        mask = torch.ones_like(pair[:1], dtype=torch.bool)
        better, worse = (Logps(side[None], mask, side.detach().sum()[None]) for side in logps)
        weights = tuple(model.parameters())
        down = torch.autograd.grad(DPO(0.1)(PairLogps(better, worse)).sum(), weights, retain_graph=True)
        up = torch.autograd.grad(logps[0].sum(), weights)
        changes.append(-sum(float((a * b).sum()) for a, b in zip(up, down, strict=True)))
    alike = (pairs[:, 0] == pairs[:, 1]).sum(dim=1).numpy()
    by_ches, by_edits = (rank_correlation(score, changes) for score in (scores, alike))
    return {
        "correlation with CHES": by_ches,
        "correlation with the number of equal letters": by_edits,
        "that of CHES minus that of equal letters": by_ches - by_edits,
    }


PAPER = Paper(
    name="razin_2024",
    title="Unintentional Unalignment: Likelihood Displacement in Direct Preference Optimization",
    authors="Razin et al. 2024",
    url="https://arxiv.org/abs/2410.08847",
    claims=(
        Claim(
            name="displacement",
            words="Training DPO on No > Never moves probability from No to Yes, while the margin grows.",
            source="table 1: p(No) falls from .85 to .01 with OLMo-1B, by at least .21 with every model; "
            "Yes is among the tokens that rise, by how much is not printed",
            expected=(
                above("drop of p(No)", 0.21, "printed"),
                above("rise of p(Yes)", 0.0, "printed"),
                above("margin at step 500", 0.0, "printed"),
                near("p(No) at step 100", 0.186, 0.002, "derived"),
                near("p(Yes) at step 100", 0.771, 0.002, "derived"),
                near("p(No) at step 500", 0.003, 0.002, "derived"),
            ),
            measured_by=Exact(displacement),
            version=2,
            deviations=(
                "Paper: OLMo-1B, Gemma-2B and Llama-3-8B on Persona prompts, after SFT. Here: four tokens, a hidden "
                "state of two dimensions, and unembeddings in which Yes is closer to No than Never is.",
            ),
        ),
        Claim(
            name="one-step",
            words="In a step of DPO, the log-probability of a token changes by the alignment of its unembedding with "
            "the difference W_+ - W_- of the pair's unembeddings, plus a term for the two tokens of the pair.",
            source="Theorems 1 and 2",
            expected=(below("largest error of d log pi / dt", 1e-9, "derived"),),
            measured_by=Exact(one_step),
            deviations=("Paper: any model, one token. Here: five random models with 6 tokens and 3 dimensions.",),
        ),
        Claim(
            name="ches",
            words="The more similar the hidden states of a pair's answers are (a high CHES score), the less DPO raises "
            "the preferred answer; the edit distance says less about it.",
            source="section 5.2 and figure 2: CHES orders subsets of UltraFeedback, edit distance does not",
            expected=(
                below("correlation with CHES", 0.0, "printed"),
                below("that of CHES minus that of equal letters", 0.0, "printed"),
            ),
            measured_by=Sampled(hidden_similarity),
            deviations=(
                "Paper: language models of 1B to 8B, subsets of 512 pairs that are trained on together. Here: a "
                "transformer of width 32 on strings of five letters, and one step of gradient flow on each of 80 "
                "pairs.",
                "Paper: edit distance. Here: the number of places with the same letter; all strings are equally long.",
            ),
            note="Correlations are Spearman's. On strings so short no pair displaces its preferred answer in one step: "
            "CHES orders how much it rises. Answers that share letters have similar hidden states in so small a "
            "model, so both scores order the pairs about equally, and 10 seeds can't tell which one does it better.",
        ),
        Claim(
            name="table-1-olmo",
            words="With OLMo-1B, p(No) falls from .85 to .01.",
            source="table 1",
            expected=(near("largest drop of p(No)", 0.84, 0.05, "printed"),),
            measured_by=None,
            scale="full",
        ),
    ),
)
