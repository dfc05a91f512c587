"""What decides memory and time of an update, as numbers. They are read from a run's config, and changed for advice."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from alignlab.config.plan import Plan
from alignlab.data.layout import Layout
from alignlab.errors import ConfigError, Problem
from alignlab.models.adapters.base import Adapter
from alignlab.models.layout_check import is_known
from alignlab.models.shape import Saved, Shape, class_of, saved_of, shape_of
from alignlab.optim.adamw import AdamW
from alignlab.optim.base import Optim
from alignlab.strategies.deepspeed import DeepSpeed

# Bytes of a number.
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

# What was found for a config and an adapter: a plan compares many setups that differ in other things.
_shapes: dict[tuple[str, str], Shape] = {}
_saved: dict[tuple[str, str, str, int, int], Saved] = {}

# Number of answers to a prompt that a row of rankings is planned with.
_RANKED = 2


@dataclass(frozen=True)
class Setup:
    """A training as numbers. Lengths are in tokens; the longest rows decide memory, so they are upper bounds.

    config:        Hugging Face config of the model.
    adapter:       what is trained.
    dtype:         of the weights.
    quantized:     whether the linear layers are kept in 4 bits (NF4 with double quantization).
    quantizable:   whether they could be: only models of the group `hub` can.
    checkpointing: whether only the inputs of layers are kept for the backward pass.
    token_stats:   whether statistics of every token's prediction are computed.
    split:         whether logits are computed in pieces, and only for answer tokens.
    shared:        whether the answers of a row share its prompt in the model.
    rows:          rows per update on one device.
    micro_rows:    largest number of rows of a micro-batch.
    micro_tokens:  largest number of tokens of a micro-batch; a prompt counts once for each answer.
    prompt:        tokens of a prompt.
    answer:        tokens of an answer.
    answers:       answers of a row: 2 for pairs, the number of samples for online objectives.
    optim:         the optimizer.
    reference:     none, cached, adapter_off or copy.
    needs_live:    whether the objective needs the reference model itself, so that stored log-probabilities can't serve.
    scores:        whether the model is a reward model, which has no output layer.
    sampled:       answers that a device samples at a time; 0 if the objective samples none.
    rollouts:      answers that a device samples for an update, on average.
    reuse:         number of updates that use a batch of rollouts.
    critic:        head, network, or empty.
    reward_model:  whether a reward model of the policy's size is in memory.
    offload:       what zero2 and zero3 keep in the memory of the machine: none, optimizer or all.
    """

    config: Any
    adapter: Adapter
    dtype: str = "float32"
    quantized: bool = False
    quantizable: bool = True
    checkpointing: bool = False
    token_stats: bool = True
    split: bool = True
    shared: bool = True
    rows: int = 16
    micro_rows: int = 16
    micro_tokens: int = 2048
    prompt: int = 384
    answer: int = 128
    answers: int = 2
    optim: Optim = field(default_factory=lambda: AdamW(lr=1e-4))
    reference: str = "cached"
    needs_live: bool = False
    scores: bool = False
    sampled: int = 0
    rollouts: float = 0.0
    reuse: int = 1
    critic: str = ""
    reward_model: bool = False
    offload: str = "none"

    @cached_property
    def shape(self) -> Shape:
        """Size of the policy."""
        key = (self.config.to_json_string(), repr(self.adapter))
        if key not in _shapes:
            _shapes[key] = shape_of(self.config, self.adapter)
        return _shapes[key]

    @cached_property
    def saved(self) -> Saved:
        """What the forward pass of a micro-batch keeps."""
        import torch

        key = (self.config.to_json_string(), repr(self.adapter), self.dtype, self.sequences, self.length)
        if key not in _saved:
            _saved[key] = saved_of(self.config, self.adapter, getattr(torch, self.dtype), self.sequences, self.length)
        return _saved[key]

    @property
    def item(self) -> int:
        """Bytes of a weight that is not quantized."""
        return BYTES[self.dtype]

    @property
    def trained_item(self) -> int:
        """Bytes of a trained parameter. peft keeps adapters in float32 whatever the dtype of the base."""
        return 4 if self.shape.added else self.item

    @property
    def moments(self) -> float:
        """Bytes that the optimizer keeps for each trained parameter."""
        return self.optim.state_bytes(self.trained_item)

    @property
    def trained(self) -> int:
        """Number of trained parameters."""
        lost = self.shape.head if self.scores and self.shape.trains_head and not self.shape.tied else 0
        return self.shape.trained + self.shape.added - lost

    @property
    def micro(self) -> int:
        """Rows of a micro-batch."""
        each = self.answers * (self.prompt + self.answer)
        return max(1, min(self.micro_rows, self.rows, self.micro_tokens // each))

    @property
    def micro_batches(self) -> int:
        """Micro-batches of an update."""
        return -(-self.rows // self.micro)

    @property
    def packed(self) -> bool:
        """Whether the answers of a row stand behind one copy of its prompt: if the layout can, and if it is cheaper."""
        if not self.shared or self.answers < 2:
            return False
        cost = Layout(width=int(self.config.hidden_size)).cost
        return cost(self.prompt + 2 * self.answer) <= 2 * cost(self.prompt + self.answer)

    @property
    def sequences(self) -> int:
        """Sequences of a micro-batch."""
        return self.micro * (1 if self.packed else self.answers)

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        return self.prompt + self.answer * (self.answers if self.packed else 1)

    @property
    def batches_sampled(self) -> int:
        """Batches in which a device samples its answers of a batch of rollouts; 0 if the objective samples none."""
        return math.ceil(self.rollouts * self.reuse / self.sampled) if self.sampled else 0

    @property
    def predicted(self) -> int:
        """Answer tokens of a micro-batch, for each of which there are logits."""
        return self.micro * self.answers * self.answer


def setup_of(
    plan: Plan, config: Any, *, prompt: int | None = None, answer: int | None = None, devices: int = 1
) -> Setup:
    """The setup of a run.

    config:         Hugging Face config of its model.
    prompt, answer: lengths in tokens; None: the longest that the config allows.
    devices:        number of devices that share the rows of an update.
    Raises ConfigError if a row has more tokens than the model has positions.
    """
    train = plan.train
    needs, data, trainer, rollout = train.objective.requires, train.data, train.trainer, train.rollout
    longest = data.max_prompt_length, data.max_length - data.max_prompt_length
    if data.world is not None and data.world.is_whole:  # the lab's rows are short, whatever the limits say
        longest = getattr(data.world, "prompt_length", 1) + 1, data.world.length
    elif needs.online:
        longest = data.max_prompt_length, rollout.max_new_tokens
    prompt = longest[0] if prompt is None else prompt
    answer = longest[1] if answer is None else answer
    samples = int(getattr(train.objective, "samples", 1))
    answers = {"pairs": 2, "rankings": _RANKED, "rollouts": samples}.get(needs.data, 1)
    attention = str(getattr(train.model, "attention", ""))
    split = trainer.layout != "plain" and is_known(class_of(config))
    own = -(-trainer.batch_size * rollout.minibatches // devices) * samples if needs.online else 0
    found = Setup(
        config=config,
        adapter=train.peft,
        dtype=train.model.dtype,
        quantized=not train.model.trainable,
        quantizable=hasattr(train.model, "quantize"),
        checkpointing=trainer.gradient_checkpointing,
        token_stats=trainer.token_stats,
        split=split,
        shared=split and attention in ("", "sdpa", "eager"),
        rows=max(1, -(-trainer.batch_size // devices)),
        micro_rows=trainer.micro_batch_size,
        micro_tokens=trainer.micro_batch_tokens,
        prompt=prompt,
        answer=answer,
        answers=answers,
        optim=train.optim,
        reference=train.reference_kind,
        needs_live=needs.live_reference,
        scores=needs.data == "rankings",
        sampled=min(rollout.batch_size, own),
        rollouts=own / rollout.updates,
        reuse=rollout.updates,
        critic=needs.critic,
        reward_model=plan.reward is not None or bool(train.reward is not None and train.reward.weights),
        offload=train.strategy.offload if isinstance(train.strategy, DeepSpeed) else "none",
    )
    if found.shape.positions is not None and prompt + answer > found.shape.positions:
        text = f"prompt and answer have {prompt + answer} tokens, and the model {found.shape.positions} positions"
        raise ConfigError(
            [Problem("data.max_length", data.max_length, text, f"data.max_length={found.shape.positions}")]
        )
    return found
