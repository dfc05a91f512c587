"""Operations of an update, and how long they take.

A multiplication by a weight costs two operations for each token in the forward pass, two for the gradient of its input,
and two for the gradient of the weight if that is trained (Kaplan et al. 2020, https://arxiv.org/abs/2001.08361, section
2.1). Attention costs 4 * length * width operations for each token and layer, and twice as many in the backward pass.
Gradient checkpointing costs one more forward pass of the layers. tests/resources/test_work.py compares the operations
with torch.utils.flop_counter.
"""

from __future__ import annotations

from dataclasses import dataclass

from alignlab.resources.gpus import GPU
from alignlab.resources.memory import Memory, in_pieces
from alignlab.resources.setup import Setup

# Share of a GPU's peak that training reaches, from low to high. Others have measured 0.6 to 0.7 with packed rows and
# compiled layers on 1 to 8 GPUs (torchtune, docs/scale.md), 0.46 for PaLM (Chowdhery et al. 2022,
# https://arxiv.org/abs/2204.02311, table 3), and 0.38 to 0.43 for Llama-3.1-405B on 8,192 to 16,384 GPUs (Grattafiori
# et al. 2024, https://arxiv.org/abs/2407.21783, table 4). Short rows, small batches and slow networks reach less.
UTILISATION = (0.2, 0.7)

# Share of the memory bandwidth that sampling token by token reaches. An assumption: it was not measured here.
BANDWIDTH_USED = (0.1, 0.5)


@dataclass(frozen=True)
class Work:
    """Operations of an update on one device.

    training: of forward and backward passes.
    scoring:  of passes without gradient: the live reference, and log-probabilities and rewards of sampled answers.
    sampling: of sampling answers.
    steps:    passes in which one token of each sampled answer is computed, on average.
    tokens:   tokens that are trained on: prompts and answers, a prompt once for each answer.
    """

    training: float
    scoring: float
    sampling: float
    steps: float
    tokens: int

    @property
    def operations(self) -> float:
        """All operations."""
        return self.training + self.scoring + self.sampling


@dataclass(frozen=True)
class Range:
    """A number that is known only within bounds."""

    low: float
    high: float

    def times(self, factor: float) -> Range:
        """Both bounds multiplied."""
        return Range(self.low * factor, self.high * factor)


def work_of(setup: Setup) -> Work:
    """Operations of an update on one device."""
    forward, backward = passes(setup)
    rows = setup.rows / setup.micro
    layers, head = forward
    training = layers + head + backward
    if setup.checkpointing:
        training += layers
    if setup.critic == "network":
        training *= 2
    live = setup.reference in ("copy", "adapter_off") and setup.sampled == 0
    scoring = (layers + head) * live
    sampling = steps = 0.0
    if setup.sampled:
        # The reference, and a reward model or critic, see each sampled answer once, and each prompt's tokens with it.
        seen = setup.rollouts * (setup.prompt + setup.answer)
        each = 2 * setup.shape.linear
        scoring = seen * each * (1 + setup.reward_model + (setup.critic == "network")) / rows
        sampling = seen * each + 2 * setup.shape.head * setup.rollouts * setup.answer
        steps = setup.answer * setup.batches_sampled / setup.reuse
    tokens = setup.rows * setup.answers * (setup.prompt + setup.answer)
    return Work(rows * training, rows * scoring, sampling, steps, tokens)


def passes(setup: Setup) -> tuple[tuple[float, float], float]:
    """((operations of the layers forward, of the output layer forward), operations backward) of a micro-batch."""
    shape, tokens = setup.shape, setup.sequences * setup.length
    linear = 2 * tokens * (shape.linear + shape.added)
    attention = 4 * tokens * setup.length * shape.query * shape.layers
    head = 0.0 if setup.scores else 2.0 * setup.predicted * shape.head
    backward = linear + 2 * attention + head  # gradients of inputs
    backward += 2 * tokens * (shape.added + (shape.linear if shape.trains_head else 0))
    if shape.trains_head:
        backward += head * (2 if in_pieces(setup) else 1)  # the gradient of the layer, and the logits again
    return (linear + attention, head), backward


def seconds_of(work: Work, memory: Memory, gpu: GPU) -> Range:
    """Seconds of an update on a GPU, between the shares of its peak that others have measured.

    memory: of one device that has all weights, which are read whenever a token is sampled.
    """

    def at(share: float, bandwidth: float) -> float:
        computed = work.operations / (gpu.flops * share)
        read = work.steps * memory.weights / (gpu.bandwidth * bandwidth)
        return computed + read

    low, high = UTILISATION
    slow, fast = BANDWIDTH_USED
    return Range(at(high, fast), at(low, slow))
