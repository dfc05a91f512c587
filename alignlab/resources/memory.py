"""Memory of a device at the peak of an update: an arithmetic model of tensor bytes.

- Weights, gradients, optimizer states and their shares on several devices: Rajbhandari et al. 2020 (ZeRO),
  https://arxiv.org/abs/1910.02054, section 3.
- What the layers keep for the backward pass is measured on the meta device (alignlab/models/shape.py). With gradient
  checkpointing, layers keep their inputs, and one layer at a time is computed again: Chen et al. 2016,
  https://arxiv.org/abs/1604.06174, and for transformers Korthikanti et al. 2022, https://arxiv.org/abs/2205.05198,
  section 4.
- Weights in 4 bits: Dettmers et al. 2023 (QLoRA), https://arxiv.org/abs/2305.14314, section 3.

tests/resources/test_memory.py compares the peak with what torch's profiler counts, within 10 %.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from alignlab.models.logps import LOGITS_AT_ONCE
from alignlab.resources.setup import Setup

# NF4: half a byte per weight, one byte for a block of 64, and a float32 for 256 blocks.
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)

# Tensors of the size of a piece of logits that exist at a time. With statistics: logits, their log-softmax, and three
# steps of the entropy. Without: logits, log-softmax, and two gradients in the backward pass.
_LOGITS_WITH_STATS, _LOGITS = 5, 4

# Tensors of [answers, vocabulary] in float64 while a token is sampled: logits, softmax, its running sum, and one more.
_SAMPLING = 4


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, at the moment when an update or its rollouts need most.

    weights:      policy, with its adapter.
    gradients:    of the trained parameters.
    optimizer:    its state.
    reference:    a copy of the weights, if the reference is one.
    critic:       a critic or a reward model of its own, with gradients and optimizer state of the critic.
    activations:  what the layers keep for the backward pass, and what one layer needs while it is computed. With fsdp
                  also the weights that are gathered meanwhile.
    logits:       a piece of logits with its derivatives, and the gradient of the output layer.
    rollouts:     keys and values of the answers that are sampled, and the distributions of their next tokens.
    """

    weights: float
    gradients: float
    optimizer: float
    reference: float
    critic: float
    activations: float
    logits: float
    rollouts: float

    @property
    def total(self) -> float:
        """All bytes."""
        return sum(getattr(self, field.name) for field in fields(self))


def memory_of(setup: Setup, *, devices: int = 1, strategy: str = "ddp") -> Memory:
    """Memory of each device.

    strategy: of several devices. ddp: each has everything, and a second copy of the gradients while they are summed.
              zero2: gradients and optimizer state are shared out, and DeepSpeed keeps a copy of the weights in float32
              with the latter. fsdp: weights are shared out too; two layers at a time are gathered, the embeddings and
              the output layer during a whole pass (alignlab/models/sharding.py), and all weights while answers are
              sampled. zero3: as fsdp, with DeepSpeed's copy. Its buffers, of less than 1 GB, are not counted.
    """
    weights, gathered, all_gathered = weights_of(setup), 0.0, 0.0
    gradients, optimizer = float(setup.trained * setup.trained_item), setup.trained * setup.moments
    reference = _dense(setup) if setup.reference == "copy" else 0.0
    critic = _critic(setup)
    if devices > 1 and strategy == "ddp":
        gradients *= 2
    elif devices > 1:
        copy = 4 * setup.trained if strategy in ("zero2", "zero3") else 0
        gradients, optimizer = gradients / devices, (optimizer + copy) / devices
        if strategy in ("fsdp", "zero3"):
            layer, around = gathered_at_a_time(setup)
            gathered, all_gathered = 2 * layer + around, weights + reference + critic
            weights, reference, critic = weights / devices, reference / devices, critic / devices
        if setup.offload != "none":
            gradients = optimizer = 0.0
        if setup.offload == "all":
            weights = reference = critic = 0.0
    fixed = {"weights": weights, "optimizer": optimizer, "reference": reference, "critic": critic}
    moments = [
        Memory(**fixed, gradients=g, activations=a + (all_gathered if r else gathered), logits=z, rollouts=r)
        for g, a, z, r in _moments(setup, gradients)
    ]
    return max(moments, key=lambda memory: memory.total)


def offloaded_of(setup: Setup, *, devices: int, strategy: str) -> float:
    """Bytes that the memory of the machine holds for each device, because of `strategy.offload`."""
    if setup.offload == "none" or devices == 1:
        return 0.0
    kept = memory_of(replace(setup, offload="none"), devices=devices, strategy=strategy)
    moved = kept.optimizer + setup.trained * 4 / devices  # gradients in float32
    return moved + (kept.weights + kept.reference + kept.critic if setup.offload == "all" else 0.0)


def _moments(setup: Setup, gradients: float) -> list[tuple[float, float, float, float]]:
    """(gradients, activations, logits, rollouts) at the three moments of which one is the peak.

    - The backward pass of the last micro-batch begins: activations are there, and gradients of earlier micro-batches.
    - It ends: gradients are there, and one layer is still at work.
    - Answers are sampled: there are no gradients.
    """
    earlier = gradients if setup.micro_batches > 1 else 0.0
    kept = setup.saved.of(setup.shape.layers, checkpointing=setup.checkpointing) + _mask(setup)
    working = setup.saved.layer + 2 * setup.saved.widest + _dequantized(setup)
    begins = kept + (working if setup.checkpointing else 2 * setup.saved.widest + _dequantized(setup))
    head = _logits(setup)
    found = [
        (earlier, kept, head, 0.0),
        (earlier, begins, _head_gradient(setup), 0.0),
        (gradients, working + _mask(setup), 0.0, 0.0),
    ]
    return [*found, (0.0, 0.0, 0.0, _rollouts(setup))] if setup.sampled else found


def gathered_at_a_time(setup: Setup) -> tuple[float, float]:
    """Bytes of the weights that fsdp gathers (for a layer, for what is around the layers).

    A reference that is a copy has embeddings and an output layer of its own, which are gathered with the policy's.
    """
    around = _around(setup)
    layer = (weights_of(setup) - around) / max(1, setup.shape.layers)
    return layer, around * (2 if setup.reference == "copy" else 1)


def _around(setup: Setup) -> float:
    """Bytes of the weights that are no linear layers of the decoder: embeddings, norms, and the output layer."""
    shape = setup.shape
    head = shape.head if setup.scores and not shape.tied else 0
    return float((shape.weights - shape.linear - head) * setup.item)


def _dense(setup: Setup) -> float:
    """Bytes of the model's own weights. Linear layers of the decoder may be quantized."""
    return setup.shape.linear * (NF4_BYTES if setup.quantized else setup.item) + _around(setup)


def weights_of(setup: Setup) -> float:
    return _dense(setup) + (setup.shape.added + setup.shape.frozen) * 4


def _critic(setup: Setup) -> float:
    """A critic network with gradients and optimizer state, and a reward model; without an output layer of their own."""
    size = _dense(setup) - (0 if setup.shape.tied else setup.shape.head * setup.item)
    trained = setup.trained * (setup.trained_item * 2 + setup.moments)
    network = size + trained - (setup.trained * setup.trained_item if setup.shape.trains_head else 0)
    return (network if setup.critic == "network" else 0.0) + (size if setup.reward_model else 0.0)


def _mask(setup: Setup) -> float:
    """The attention mask: a number for each pair of tokens if answers share prompts, else a bit stored as a byte."""
    return setup.sequences * setup.length**2 * (setup.item if setup.shared else 1)


def _dequantized(setup: Setup) -> float:
    """A 4-bit layer is expanded while it is used."""
    return setup.shape.largest * setup.item if setup.quantized else 0.0


def in_pieces(setup: Setup) -> bool:
    """Whether logits are computed in pieces, and again in the backward pass."""
    return setup.split and setup.predicted * setup.shape.vocabulary > LOGITS_AT_ONCE


def _logits(setup: Setup) -> float:
    """Bytes of the logits while they are computed, and of the gradient of an output layer that is trained."""
    if setup.scores:
        return 0.0
    numbers = setup.predicted * setup.shape.vocabulary
    if in_pieces(setup):
        numbers = min(numbers, LOGITS_AT_ONCE)
    tensors = _LOGITS_WITH_STATS if setup.token_stats else _LOGITS
    half = numbers * setup.item if setup.item < 4 else 0
    states = setup.predicted * setup.shape.hidden * setup.item  # their gradient
    return numbers * 4 * tensors + half + states + _head_gradient(setup)


def _head_gradient(setup: Setup) -> float:
    """The gradient of the output layer, and a second one while pieces are added up."""
    if setup.scores or not setup.shape.trains_head:
        return 0.0
    return setup.shape.head * setup.item * (2 if in_pieces(setup) else 1)


def _rollouts(setup: Setup) -> float:
    """Keys and values of all tokens, a layer's copy while they are extended, and the next tokens' distributions."""
    length = setup.prompt + setup.answer
    cache = 2 * setup.shape.key * setup.item * setup.sampled * length
    return cache * (setup.shape.layers + 1) + _SAMPLING * 8 * setup.sampled * setup.shape.vocabulary
