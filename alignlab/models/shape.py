"""The size of a model, and what its forward pass keeps for the backward pass, by models on torch's meta device.

Tensors on the meta device have shapes and no values, so a model of any size is looked at within seconds and a few MB.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from alignlab.errors import ModelError
from alignlab.models.adapters.base import Adapter
from alignlab.models.forward import backbone, innermost

_ATTENTION = "alignlab_shapes_only"


@dataclass(frozen=True)
class Shape:
    """Size of a causal language model under an adapter. All counts are numbers of parameters or of elements.

    weights:    parameters of the model itself; a tied embedding counts once.
    linear:     of these, the weights of the linear layers before the output layer. Each token is multiplied by them.
    head:       weights of the output layer, V * H.
    tied:       whether the output layer shares the embedding's weights.
    largest:    weights of the largest linear layer before the output layer.
    trained:    trained parameters of the model itself.
    added:      trained parameters of the adapter; 0 without one.
    frozen:     numbers of the adapter that are not trained.
    layers:     number of decoder layers.
    hidden:     width of the states between layers.
    query:      width of a token's queries over all heads.
    key:        width of a token's keys over all heads, and of its values.
    vocabulary: number of tokens.
    positions:  largest number of tokens in a sequence; None if the config does not say.
    """

    weights: int
    linear: int
    head: int
    tied: bool
    largest: int
    trained: int
    added: int
    frozen: int
    layers: int
    hidden: int
    query: int
    key: int
    vocabulary: int
    positions: int | None = None

    @property
    def trains_head(self) -> bool:
        """Whether the output layer is trained."""
        return self.trained == self.weights


@dataclass(frozen=True)
class Saved:
    """Bytes that autograd keeps of the forward pass of one micro-batch, without the output layer.

    outside: of what is before the first layer and after the last one.
    layer:   of a layer. The first layer keeps less if only an adapter is trained; `outside` has the difference.
    widest:  of the largest tensor that a layer keeps.
    inputs:  of a layer's input, which is all that gradient checkpointing keeps.
    """

    outside: int
    layer: int
    widest: int
    inputs: int

    def of(self, layers: int, *, checkpointing: bool) -> int:
        """Bytes that `layers` layers and what is around them keep."""
        if checkpointing:
            return max(0, self.outside) + layers * self.inputs
        return self.outside + layers * self.layer


def shape_of(config: Any, adapter: Adapter) -> Shape:
    """Size of the model of a Hugging Face config under an adapter.

    The weights are counted in the whole model, and the adapter's in models of one and of two layers.
    Raises ModelError for models whose layers are not attention and linear layers alone, such as mixtures of experts.
    """
    whole = _model(config, torch.float32)
    output, layers = whole.get_output_embeddings(), int(config.num_hidden_layers)
    if any(parameter.ndim > 2 for parameter in whole.parameters()):
        raise ModelError(
            f"a {type(whole).__name__} has experts or convolutions, for which there is no plan; plans are made for "
            "models of attention and dense layers"
        )
    counts = [_adapter_counts(_model(cut, torch.float32), adapter) for cut in _cut(config)]
    trained, added, frozen = (_at(layers, [count[i] for count in counts]) for i in range(3))
    heads = int(config.num_attention_heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    weights = sum(parameter.numel() for parameter in whole.parameters())
    linear = [layer.weight.numel() for layer in whole.modules() if _is_linear(layer) and layer is not output]
    return Shape(
        weights=weights,
        linear=sum(linear),
        head=output.weight.numel(),
        tied=output.weight is whole.get_input_embeddings().weight,
        largest=max(linear, default=0),
        trained=weights if all(count[3] for count in counts) else trained,
        added=added,
        frozen=frozen,
        layers=layers,
        hidden=int(config.hidden_size),
        query=heads * size,
        key=int(getattr(config, "num_key_value_heads", None) or heads) * size,
        vocabulary=int(config.vocab_size),
        positions=getattr(config, "max_position_embeddings", None),
    )


def saved_of(config: Any, adapter: Adapter, dtype: torch.dtype, sequences: int, length: int) -> Saved:
    """What autograd keeps of a forward pass of `sequences` x `length` tokens, as measured on the meta device.

    The attention keeps queries, keys, values, its output and one number for each query and head, as fused
    implementations do (Dao et al. 2022, https://arxiv.org/abs/2205.14135, algorithm 1).
    """
    one, *two = [_kept(_model(cut, dtype), adapter, sequences, length) for cut in _cut(config)]
    inputs = sequences * length * int(config.hidden_size) * dtype.itemsize
    if not two:
        return Saved(0, sum(one), max(one, default=0), inputs)
    layer = sum(two[0]) - sum(one)
    return Saved(sum(one) - layer, layer, _widest(one, two[0]), inputs)


def class_of(config: Any) -> str:
    """Name of the class of causal language models that a config describes."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return type(AutoModelForCausalLM.from_config(next(_cut(config)))).__name__


def _widest(one: list[int], two: list[int]) -> int:
    """The largest of the tensors that the second layer adds."""
    rest = list(two)
    for size in one:
        if size in rest:
            rest.remove(size)
    return max(rest, default=0)


def _cut(config: Any) -> Iterator[Any]:
    """The config with one layer and with two; only itself if it has fewer than two."""
    if int(config.num_hidden_layers) < 2:
        yield config
        return
    for layers in (1, 2):
        cut = copy.deepcopy(config)
        cut.num_hidden_layers = layers
        if getattr(cut, "layer_types", None):
            cut.layer_types = cut.layer_types[:layers]
        yield cut


def _at(layers: int, counts: list[int]) -> int:
    """A count at `layers` layers, from those at one and two layers."""
    return counts[0] if len(counts) == 1 else counts[0] + (layers - 1) * (counts[1] - counts[0])


def _model(config: Any, dtype: torch.dtype) -> Any:
    """A model on the meta device, whose attention computes shapes only."""
    from transformers import AttentionInterface, AutoModelForCausalLM

    AttentionInterface.register(_ATTENTION, _attention)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype, attn_implementation=_ATTENTION)


def _is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer, also as in GPT-2, whose class has another name."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _wrapped(adapter: Adapter, model: Any) -> Any:
    """`adapter.wrap(model)` without the warnings of libraries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return adapter.wrap(model)


def _adapter_counts(model: Any, adapter: Adapter) -> tuple[int, int, int, bool]:
    """(trained parameters of the model, of the adapter, frozen numbers of the adapter, is all of the model trained)."""
    own = {id(parameter) for parameter in model.parameters()}
    buffers = {id(buffer) for buffer in model.buffers()}
    policy = _wrapped(adapter, model)
    parameters = list(policy.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad and id(p) in own)
    added = sum(p.numel() for p in parameters if p.requires_grad and id(p) not in own)
    frozen = sum(p.numel() for p in parameters if not p.requires_grad and id(p) not in own)
    frozen += sum(b.numel() for b in policy.buffers() if id(b) not in buffers)
    return trained, added, frozen, all(p.requires_grad for p in parameters if id(p) in own)


def _kept(model: Any, adapter: Adapter, sequences: int, length: int) -> list[int]:
    """Bytes of each storage that autograd keeps of a forward pass, without parameters and buffers."""
    policy = _wrapped(adapter, model).train()
    own = {StorageWeakRef(t.untyped_storage()) for t in (*policy.parameters(), *policy.buffers())}
    kept: dict[StorageWeakRef, int] = {}
    alive: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = StorageWeakRef(tensor.untyped_storage())
        if storage not in own:
            kept[storage] = tensor.untyped_storage().nbytes()
            alive.append(tensor)  # so that no later storage gets the same address
        return tensor

    ids = torch.zeros(sequences, length, dtype=torch.long, device="meta")
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        backbone(innermost(policy))(input_ids=ids, use_cache=False)
    return list(kept.values())


class _Fused(torch.autograd.Function):
    """What a fused attention keeps for its backward pass. It computes nothing."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        sequences, heads, length, _ = query.shape
        output = query.new_empty(sequences, length, heads, value.shape[-1]).transpose(1, 2)
        log_sums = query.new_empty(sequences, heads, length, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, log_sums)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        raise NotImplementedError("shapes only")


def _attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers. Keys and values are repeated for all heads, as with a given mask."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    return _Fused.apply(query, key, value).transpose(1, 2), None
