"""Checks that a model has exactly the weights of its files, all finite, and an embedding for every token.

`from_pretrained` of transformers and peft fills missing weights with random numbers and only warns. Here missing
weights are an error, and so is a tensor that the model does not use.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from alignlab.errors import ModelError
from alignlab.spelling import counted

log = logging.getLogger(__name__)

# Masks and position tables that older releases of transformers saved with the weights. Models compute them anew.
_COMPUTED = re.compile(
    r"(^|\.)((attn|attention)\.(bias|masked_bias|causal_mask)|rotary_emb\.(inv_freq|\w+_cached)|position_ids)$"
)
# A tensor that belongs to a weight in 4 bits: (name of the weight, part).
_PART_OF_4_BITS = re.compile(r"(.+)(\.((nested_)?absmax|(nested_)?quant_map|quant_state\.\w+))")
_LONGEST = 1000  # maximum number of characters that are shown of an error
_FLOATS = ("F64", "F32", "F16", "BF16")

# Names of the number of layers in config.json, by family.
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_MAX_LISTED = 3

# Prefix of all tensor names -> what adds it, and how to save without it.
_WRAPPERS = {
    "_orig_mod.": "torch.compile does that; save the model that was compiled, not the compiled one",
    "module.": "DistributedDataParallel and DataParallel do that; save model.module",
    "base_model.model.": "peft does that; save model.merge_and_unload()",
}


_NEEDS_ITS_CODE = """needs Python code that comes with it, which runs only if the command line allows it
  read that code; then type: trust_remote_code=true after `alignlab evaluate`; after `alignlab train` \
model.trust_remote_code=true, and for a reward model reward.trust_remote_code=true or \
judge.reward_model.trust_remote_code=true"""


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Turn errors of libraries into a ModelError that names what could not be loaded."""
    try:
        yield
    except ModelError:
        raise
    except (OSError, ValueError, ImportError) as error:
        if "trust_remote_code" in str(error):
            raise ModelError(f"{what} {_NEEDS_ITS_CODE}") from error
        raise ModelError(f"{what} can't be loaded: {_cut(error)}") from error
    except Exception as error:  # damaged files cause many types of errors: SafetensorError, KeyError, EOFError, ...
        raise ModelError(f"{what} can't be loaded: {type(error).__name__}: {_cut(error)}") from error


def _cut(error: Exception) -> str:
    """The beginning of an error's text, because transformers lists hundreds of classes in some errors."""
    text = str(error)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def load_weights(
    auto_class: Any, path: str, *, new: Collection[str] = (), spare: Collection[str] = (), **how: Any
) -> tuple[Any, set[str]]:
    """Load weights with `from_pretrained` of an auto class of transformers, and check them.

    Returns (model, those names in `new` that got random weights).

    new:   names of parameters that the files may lack.
    spare: names of layers whose tensors may be unused, such as the language head of a reward model's base.
    how:   arguments of `from_pretrained`. `device_map="meta"` compares only names and shapes. It reads no weights but
           those that are stored quantized.

    Raises ModelError with all parameters that are missing or have another shape, all tensors that are left over, and
    all weights that are not finite or are not stored as floats.
    """
    with loading(f"model {path}"):
        _check_files(path)
        compared, quantized = how.get("device_map") == "meta", how.get("quantization_config") is not None
        if (compared or quantized) and _holds_quantized_weights(path, how.get("revision")):
            # The quantization of the files counts, and parts of a weight can't be put together without their values.
            how |= {"quantization_config": None, "device_map": {"": "cpu"}}
        elif quantized:
            # Quantized loading accepts wrong shapes without an error, so shapes are compared first.
            _load(auto_class, path, new, spare, **{**how, "quantization_config": None, "device_map": "meta"})
        model, made_up = _load(auto_class, path, new, spare, **how)
    check_finite(model, path)
    _copy_out_of_the_file(model)
    return model, made_up


def _copy_out_of_the_file(model: Any) -> None:
    """Give the weights of a CPU memory of their own.

    transformers leaves them in the mapped safetensors file. A program that overwrites the file in place would change
    them during a run. Matrix products that read them there can take twice as long, because the pages of a mapped file
    are small and its tensors are not aligned. If there is an accelerator, weights are copied to it instead, and the
    processes of a machine share the mapped file until then.
    """
    if torch.accelerator.is_available():
        return
    for weight in model.parameters():
        if weight.device.type == "cpu" and weight.is_floating_point():
            weight.data = weight.data.clone()


def _load(auto_class: Any, path: str, new: Collection[str], spare: Collection[str], **how: Any) -> tuple[Any, set[str]]:
    with _silent_transformers():
        model, info = auto_class.from_pretrained(path, output_loading_info=True, ignore_mismatched_sizes=True, **how)
    _check_architecture(model.config, path)
    buffers = {name for name, _ in model.named_buffers()}
    missing = {*info["missing_keys"], *_missing_scales(model)}
    unexpected = {
        name
        for name in info["unexpected_keys"]
        if name not in buffers and not _COMPUTED.search(name) and not set(name.split(".")) & set(spare)
    }
    shapes = [(name, tuple(found), tuple(wanted)) for name, found, wanted in info["mismatched_keys"]]
    faults = [*_faults(missing - set(new), unexpected, shapes, type(model).__name__), *info["error_msgs"]]
    if faults:
        raise _error(f"model {path}", "its files do not hold the weights that its config.json describes", faults)
    _check_tied(model, path)
    return model, missing & set(new)


def _holds_quantized_weights(path: str, revision: str | None) -> bool:
    """Whether the weights of a folder or a hub name are stored quantized."""
    from transformers import PretrainedConfig

    return PretrainedConfig.get_config_dict(path, revision=revision)[0].get("quantization_config") is not None


def _missing_scales(model: Any) -> Iterator[str]:
    """Names of tensors that files of 4-bit weights lack without an error of the library.

    With double quantization (see `quantization`), the scales of a weight are 8-bit numbers, and `nested_absmax` holds
    their scales. Without it, the library takes the 8-bit numbers for the scales.
    """
    for name, weight in model.named_parameters():
        state = getattr(weight, "quant_state", None)
        if state is not None and not state.nested and not state.absmax.is_floating_point():
            yield f"{name}.nested_absmax"


@contextmanager
def _silent_transformers() -> Iterator[None]:
    """Hide progress bars of transformers and its reports about missing weights, which this file raises as errors."""
    from transformers.utils import logging as theirs

    level, bar = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        if bar:
            theirs.enable_progress_bar()


def saved_weights(adapter: str) -> dict[str, torch.Tensor]:
    """The tensors in the folder of an adapter, by name. Raises ModelError if it has none or they can't be read."""
    from peft import load_peft_weights

    with loading(f"adapter {adapter}"):
        if not any((Path(adapter) / name).is_file() for name in ("adapter_model.safetensors", "adapter_model.bin")):
            raise ModelError(f"adapter {adapter} has no adapter_model.safetensors, which holds its weights")
        _check_readable(Path(adapter), ["adapter_model.safetensors"])
        found: dict[str, torch.Tensor] = load_peft_weights(adapter, device="cpu")
        return found


def load_adapter(model: Any, adapter: str) -> Any:
    """The peft model of `model` and the adapter that is saved in a folder.

    Raises ModelError with all tensors that are missing in the folder, unused, or of another shape than `model` needs.
    """
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict

    saved = saved_weights(adapter)
    with loading(f"adapter {adapter}"):
        config = PeftConfig.from_pretrained(adapter)
        if model.device.type == "meta" and hasattr(config, "init_lora_weights"):
            config.init_lora_weights = True  # other settings compute with the base's weights, which are not read here
        if config.is_prompt_learning:
            raise ModelError(f"adapter {adapter} is {config.peft_type}, which can't be merged into a model's weights")
        policy = get_peft_model(model, config)
        expected = get_peft_model_state_dict(policy, save_embedding_layers=False)
        shapes = _other_shapes(saved, {**policy.state_dict(), **expected})
        missing, unexpected = set(expected) - set(saved), set()
        try:
            info = policy.load_adapter(
                adapter, "default", torch_device="cpu", low_cpu_mem_usage=model.device.type == "meta"
            )
        except (KeyError, RuntimeError):
            if not missing and not shapes:
                raise
        else:
            # peft renames tensors that other releases saved. It reports missing tensors of its own, but no missing
            # biases of the base.
            missing = {*info.missing_keys, *(name for name in missing if name.endswith(".bias"))}
            unexpected = {name for name in info.unexpected_keys if not _is_copy(name, saved, policy)}
    base = model.name_or_path or type(model).__name__
    if faults := list(_faults(missing, unexpected, shapes, f"this adapter on {base}")):
        raise _error(f"adapter {adapter}", "its file does not hold what its adapter_config.json describes", faults)
    return policy


def _is_copy(name: str, saved: Mapping[str, torch.Tensor], policy: Any) -> bool:
    """Whether a tensor of an adapter's file is a copy of one that was loaded under another name.

    If the vocabulary has grown, peft saves whole embeddings, and the trained part of them a second time.
    """
    if name not in saved:
        return False
    layer, _, weight = name.rpartition(".")
    twins = (f"{layer}.default.{weight}", f"{name}.default", name.replace(".original_module.", "."))
    loaded = policy.state_dict()
    return any(twin in loaded and (loaded[twin].is_meta or torch.equal(loaded[twin], saved[name])) for twin in twins)


def check_finite(model: Any, path: str) -> None:
    """Raise ModelError with the parameters that hold NaN or an infinite number."""
    bad = {name: weight.dtype for name, weight in model.named_parameters() if not _finite(weight)}
    if not bad:
        return
    fix = "\n  type: model.dtype=float32, or bfloat16 (float16 ends at 65504)" if torch.float16 in bad.values() else ""
    raise ModelError(f"model {path} can't be used: NaN or infinite numbers in {_counted(bad, 'parameter')}{fix}")


def check_tokens(model: Any, tokenizer: Any, path: str) -> None:
    """Raise ModelError if the tokenizer has tokens without an embedding in the model.

    Added tokens that occur only if a text names them cause only a warning. These are added tokens that are not in the
    chat template and are not BOS, EOS or UNK. Gemma 3's text models have such a token for images, and some Llamas have
    one for padding.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    beyond = {token: number for token, number in tokenizer.get_vocab().items() if number >= rows}
    if not beyond:
        return
    named = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token}
    template = str(tokenizer.chat_template or "")
    added = tokenizer.get_added_vocab()
    needed = [token for token in beyond if token not in added or token in named or token in template]
    shown = _shortened(f"{token!r} ({beyond[token]})" for token in sorted(needed or beyond, key=beyond.__getitem__))
    if not needed:
        log.warning("%s has embeddings of %s, but none of the added tokens %s", path, counted(rows, "token"), shown)
        return
    raise ModelError(
        f"model {path} can't be used with its tokenizer: it has {rows} rows of embeddings, and none for "
        f"{len(beyond)} of the tokenizer's tokens: {shown}\n"
        "  put the model's own tokenizer into its folder, or make room for the tokens and train them: "
        "model.resize_token_embeddings(len(tokenizer))"
    )


def _finite(weight: torch.Tensor) -> bool:
    state = getattr(weight, "quant_state", None)
    if state is not None:  # bitsandbytes: a bad weight makes its block's scale and the mean of all scales bad
        scales = state.offset if state.nested else state.absmax
        return bool(torch.isfinite(scales).all())
    if not weight.is_floating_point() or not weight.numel() or weight.is_meta or weight.itemsize < 2:
        return True
    # This is 6 times as fast as checking every number. If there is a NaN, minimum and maximum are NaN.
    return bool(torch.isfinite(torch.stack(torch.aminmax(weight))).all())


def _is_tied(model: Any) -> bool:
    """Whether language head and embeddings are one parameter, or have no values to compare."""
    head = model.get_output_embeddings()
    return head is None or head.weight.is_meta or head.weight is model.get_input_embeddings().weight


def _faults(
    missing: Collection[str], unexpected: Collection[str], shapes: Collection[tuple[str, Any, Any]], owner: str
) -> Iterator[str]:
    if missing:
        yield f"missing, so they would be random numbers: {_counted(missing, 'parameter')}"
    if unexpected:
        yield f"not used by {owner}: {_counted(unexpected, 'tensor')}"
    for name, found, wanted in _natural_order(shapes)[:_MAX_LISTED]:
        yield f"{name} is {list(found)} in the file, and {list(wanted)} is needed"
    if len(shapes) > _MAX_LISTED:
        yield f"{len(shapes) - _MAX_LISTED} more have the wrong shape"
    if prefix := _prefix(missing, unexpected):
        yield f"names in the file begin with {prefix!r}" + (f": {_WRAPPERS[prefix]}" if prefix in _WRAPPERS else "")
    elif list(missing) == ["lm_head.weight"] and not unexpected:
        yield "a model saved without its language head predicts no tokens; name the causal language model itself"


def _error(what: str, reason: str, faults: Iterable[str]) -> ModelError:
    fix = (
        "copy or download the folder again, or correct its config; save_pretrained writes weights and config that match"
    )
    return ModelError("\n  ".join([f"{what} can't be used: {reason}", *faults, fix]))


def _counted(names: Collection[str], noun: str) -> str:
    """`2 parameters (a.weight, b.weight)`."""
    return f"{counted(len(names), noun)} ({_shortened(_natural_order(names))})"


def _shortened(names: Iterable[str]) -> str:
    listed = list(names)
    more = [f"and {len(listed) - _MAX_LISTED} more"] if len(listed) > _MAX_LISTED else []
    return ", ".join([*listed[:_MAX_LISTED], *more])


def _natural_order(names: Iterable[Any]) -> list[Any]:
    """The names sorted, with layer 2 before layer 10."""
    return sorted(names, key=lambda name: [int(p) if i % 2 else p for i, p in enumerate(re.split(r"(\d+)", str(name)))])


def _prefix(missing: Collection[str], unexpected: Collection[str]) -> str:
    """The prefix that was added to tensor names in the file; empty if there is none.

    All unexpected names begin with it, and one of them without the prefix is a missing name.
    """
    for name in unexpected:
        rest = max((m for m in missing if name.endswith(f".{m}")), key=len, default="")
        prefix = name.removesuffix(rest) if rest else ""
        if prefix and all(other.startswith(prefix) for other in unexpected):
            return prefix
    return ""


def _other_shapes(saved: dict[str, Any], expected: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, saved shape, expected shape) of the tensors whose shapes differ."""
    both = saved.keys() & expected.keys()
    return [
        (name, tuple(saved[name].shape), tuple(expected[name].shape))
        for name in both
        if saved[name].shape != expected[name].shape
    ]


def _check_architecture(config: Any, path: str) -> None:
    """Raise ModelError if `architectures` and `model_type` in config.json belong to different kinds of models."""
    import transformers

    for name in config.architectures or ():
        known = getattr(getattr(transformers, name, None), "config_class", None)
        if known is not None and not isinstance(config, known):
            raise ModelError(
                f"model {path} can't be used: its config.json names two kinds of models, model_type "
                f"{config.model_type!r} and architectures {name!r}\n"
                "  correct the one that does not match the weights"
            )


def _check_tied(model: Any, path: str) -> None:
    """Raise ModelError if the config ties weights that differ in the file.

    transformers 5 keeps both tensors. Earlier releases and other software keep one of them, which makes another model.
    """
    if _is_tied(model) or not getattr(model.config.get_text_config(), "tie_word_embeddings", True):
        return
    with torch.device("meta"):
        by_config = type(model)(model.config).all_tied_weights_keys
    if torn := by_config.keys() - model.all_tied_weights_keys.keys():
        raise ModelError(
            f"model {path} can't be used: its config.json ties weights to the embeddings (tie_word_embeddings), but "
            f"its file holds other numbers for them: {_counted(torn, 'tensor')}\n"
            '  write "tie_word_embeddings": false into config.json to use them, or remove them from the file'
        )


def _check_files(path: str) -> None:
    """Raise ModelError if a file of a folder is missing, is cut off, or holds weights that are not floats."""
    folder = Path(path)
    index, single = folder / "model.safetensors.index.json", "model.safetensors"
    if (folder / single).is_file():
        files = [single]
    elif index.is_file():
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        return
    if lacking := [file for file in files if not (folder / file).is_file()]:
        raise ModelError(
            f"model {path} can't be used: {len(lacking)} of {len(files)} files that {index.name} names are missing: "
            f"{_shortened(lacking)}\n  copy or download them"
        )
    dtypes = _check_readable(folder, files)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    layers = next((config[name] for name in _LAYERS if isinstance(config.get(name), int)), 0)
    if layers > len(dtypes):  # each layer has a tensor at least; a model of a billion layers would never be built
        raise ModelError(
            f"model {path} can't be used: its config.json describes {layers:,} layers, and its files hold "
            f"{counted(len(dtypes), 'tensor')}"
        )
    # Quantized checkpoints hold integers, and their config has a quantization_config.
    if "quantization_config" in config:
        if lacking := _lacking_parts(dtypes):
            reason = "its files lack parts of weights in 4 bits"
            raise _error(f"model {path}", reason, _faults(lacking, (), (), ""))
    else:
        bad = {name: dtype for name, dtype in dtypes.items() if name.endswith(".weight") and dtype not in _FLOATS}
        if bad:
            raise ModelError(
                f"model {path} can't be used: its config.json has no quantization_config, but these weights are "
                f"{_shortened(sorted(set(bad.values())))} instead of floats: {_counted(bad, 'tensor')}"
            )


def _lacking_parts(names: Collection[str]) -> list[str]:
    """Tensors that 4-bit weights in files lack. Each weight has the same parts, such as its scales."""
    parts: dict[str, set[str]] = {}
    for match in filter(None, map(_PART_OF_4_BITS.fullmatch, names)):
        parts.setdefault(match[1], set()).add(match[2])
    every = set().union(*parts.values())
    return [f"{weight}{part}" for weight in parts for part in {"", *every} if f"{weight}{part}" not in names]


def _check_readable(folder: Path, files: Iterable[str]) -> dict[str, str]:
    """Tensor name -> data type, from the headers of safetensors files. Raises ModelError with all damaged files."""
    from safetensors import SafetensorError, safe_open

    dtypes, damaged = {}, []
    for name in files:
        file = folder / name
        if not file.is_file():
            continue
        try:
            with safe_open(file, framework="pt") as tensors:
                dtypes.update({key: tensors.get_slice(key).get_dtype() for key in tensors.keys()})  # noqa: SIM118
        except SafetensorError as error:
            pointer = file.open("rb").read(40).startswith(b"version https://git-lfs")
            damaged.append(f"{name}: " + ("a pointer of Git LFS; type: git lfs pull" if pointer else str(error)))
    if damaged:
        fix = "copy or download them again"
        raise ModelError("\n  ".join([f"{folder} can't be loaded: files are damaged", *damaged, fix]))
    return dtypes
