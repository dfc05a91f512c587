"""What to type instead of a key that does not exist. A wrong hint is worse than none: following it changes the run.

A key is named only where it is what was typed, misspelt or without its group, or the same setting under the name that
other software gives it. The value goes along where its unit is the same and the key takes it. Where a setting works
another way here, that is said in words, with nothing to type.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alignlab.config.registry import schemas
from alignlab.spelling import meant, meant_option

# Whether a config takes these settings: key -> value, or group -> option.
Fits = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True)
class Hint:
    """What is said about an unknown key, and what to type; either may be empty."""

    text: str = ""
    type_this: str = ""


# The same setting, in the same unit, as TRL, transformers, axolotl, Lightning and others call it.
SAME = {
    "learning_rate": "optim.lr",
    "lr_scheduler": "optim.schedule",
    "lr_scheduler_type": "optim.schedule",
    "num_warmup_steps": "optim.warmup_steps",
    "adam_beta1": "optim.beta1",
    "adam_beta2": "optim.beta2",
    "adam_epsilon": "optim.eps",
    "batch_size": "trainer.batch_size",
    "global_batch_size": "trainer.batch_size",
    "max_grad_norm": "trainer.gradient_clip",
    "gradient_clip_val": "trainer.gradient_clip",
    "logging_steps": "trainer.log_every",
    "log_every_n_steps": "trainer.log_every",
    "eval_steps": "trainer.eval_every",
    "save_steps": "trainer.checkpoint_every",
    "output_dir": "output_root",
    "max_length": "data.max_length",
    "max_seq_len": "data.max_length",
    "max_seq_length": "data.max_length",
    "sequence_len": "data.max_length",
    "cutoff_len": "data.max_length",
    "max_prompt_length": "data.max_prompt_length",
    "max_train_samples": "data.train_limit",
    "max_eval_samples": "data.eval_limit",
    "attn_implementation": "model.attention",
    "torch_dtype": "model.dtype",
    "lora_r": "peft.r",
    "lora_rank": "peft.r",
    "peft.rank": "peft.r",
    "lora_alpha": "peft.alpha",
    "lora_dropout": "peft.dropout",
    "lora_target": "peft.target_modules",
    "lora_target_modules": "peft.target_modules",
    "model_name": "model.name",
    "model_name_or_path": "model.name",
    "base_model": "model.name",
    "num_generations": "objective.samples",
    "cliprange": "objective.clip",
    "cliprange_value": "objective.value_clip",
    "vf_coef": "objective.value_weight",
    "init_kl_coef": "objective.kl_coef",
    "cpo_alpha": "objective.nll_weight",
    "rpo_alpha": "objective.nll_weight",
    "num_ppo_epochs": "rollout.epochs",
    "num_mini_batches": "rollout.minibatches",
    "wandb_project": "tracking.project",
    "wandb_entity": "tracking.entity",
}

# Options that have the keys of their group, where not all have them or mean the same by them.
OPTION = {"peft": "lora", "model": "hub"}

# Config groups as other software calls them.
GROUP = {
    "optimizer": "optim",
    "report_to": "tracking",
    "logger": "tracking",
    "algorithm": "objective",
    "algo": "objective",
    "method": "objective",
    "rl": "objective",
    "loss": "objective",
    "adapter": "peft",
    "lora": "peft",
    "dataset": "data",
    "train": "trainer",
    "training": "trainer",
    "wandb": "tracking",
}

_EPOCHS = (
    "there is no setting in epochs: trainer.max_steps counts updates, and an epoch is as many updates as there are "
    "training rows divided by trainer.batch_size (times rollout.epochs where answers are drawn while training)"
)
_PORTIONS = (
    "trainer.batch_size is the number of rows per update in all (rows per device x accumulation steps x devices), and "
    "trainer.micro_batch_size how many of them go through the model at once, which changes no result"
)
_ROWS = "rows come from data=pairs, data=unpaired or data=rankings with data.path=<a file, a folder or a hub name>"
_MODEL = "a model of the hub, or in a folder, is model=hub model.name=<its name>, for data that is text"
_PRECISION = "there is no mixed precision: model.dtype is the dtype of the weights (float32, bfloat16, float16)"
_QUANTIZED = "weights in 4 bits are model.quantize=nf4, for models of the hub, with peft=lora"
_LOSS = "the loss is chosen by objective=<name>; `alignlab objectives` shows them all (TRL's sigmoid is dpo)"
_REFERENCE = (
    "the reference is the policy before training (model.parent or model=...), and reference=cached, copy or "
    "adapter_off says how it is kept"
)
_DRAWN = (
    "rollout.max_new_tokens limits answers that are drawn to train on, evaluation.max_new_tokens those of an "
    "evaluation, and data.max_length prompts with answers of the data"
)
_KL = "a weight of the KL is a field of some objectives: objective.kl_coef of ppo, objective.beta of most others"
_WARMUP = "warm-up is counted in updates: optim.warmup_steps"
_STRATEGY = "trainer.eval_every, trainer.checkpoint_every and trainer.log_every count updates; 0 waits for the end"
_RESUME = "the same command goes on from where a run was stopped"

# Settings that work another way here.
OTHERWISE = {
    **dict.fromkeys(
        ("epoch", "epochs", "n_epochs", "num_epochs", "max_epochs", "num_train_epochs", "total_epochs"), _EPOCHS
    ),
    **dict.fromkeys(
        (
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "per_gpu_train_batch_size",
            "train_batch_size",
            "eval_batch_size",
            "mini_batch_size",
            "gradient_accumulation",
            "gradient_accumulation_steps",
            "accumulate_grad_batches",
        ),
        _PORTIONS,
    ),
    **dict.fromkeys(
        ("dataset", "datasets", "dataset_name", "dataset_path", "train_file", "data_path", "data_files", "pairs"), _ROWS
    ),
    **dict.fromkeys(("bf16", "fp16", "precision", "mixed_precision"), _PRECISION),
    **dict.fromkeys(("load_in_4bit", "load_in_8bit", "use_qlora", "quantization"), _QUANTIZED),
    **dict.fromkeys(("loss_type", "loss_fn"), _LOSS),
    **dict.fromkeys(("ref_model", "ref_model_name_or_path", "reference_model", "precompute_ref_log_probs"), _REFERENCE),
    **dict.fromkeys(("max_completion_length", "response_length", "max_new_tokens"), _DRAWN),
    **dict.fromkeys(("eval_strategy", "evaluation_strategy", "save_strategy", "logging_strategy"), _STRATEGY),
    **dict.fromkeys(("resume", "resume_from_checkpoint"), _RESUME),
    **dict.fromkeys(("model_name", "model_name_or_path", "base_model"), _MODEL),
    "kl_coef": _KL,
    "warmup_ratio": _WARMUP,
    "use_peft": "an adapter is peft=lora",
}


def instead(key: str, text: str, value: Any, config: DictConfig, fits: Fits) -> Hint:
    """What is said about a key that is not in the config, and what to type.

    text, value: what was typed for it, as text and as it was read.
    fits:        whether the config takes settings.
    """
    parent, _, leaf = key.rpartition(".")
    there = _keys(config)
    if guess := meant(leaf, [k.rpartition(".")[2] for k in there if k.rpartition(".")[0] == parent]):
        return Hint(type_this=_typed({_under(parent, guess): value}, text, fits))
    if parent == "" and (group := meant(leaf, [g for g in schemas() if g in config])):
        return _option(group, text, fits)
    if parent and parent.split(".")[0] not in config:
        return _moved(key, text, value, there, fits)
    name = re.sub(r"(?<=[a-z])(?=[A-Z])|-", "_", leaf).lower()
    anywhere = parent in ("", "trainer")  # the names of others have no groups, or all stand with the trainer
    target = SAME.get(f"{parent}.{name}") or SAME.get(name) or (key if key in _of_other_options() else "")
    if target and (anywhere or target.startswith(f"{parent}.")) and (hint := _same(target, text, value, config, fits)):
        return hint
    if not anywhere:
        return Hint()
    found = [k for k in there if k.rpartition(".")[2] == name and k.count(".") == 1]
    otherwise = OTHERWISE.get(name, "") if "trainer" in config and found != ["objective.kl_coef"] else ""
    if otherwise:
        return Hint(f"no such key; {otherwise}")
    if len(found) == 1:
        return Hint(f"no such key; it is called {found[0]} here", _typed({found[0]: value}, text, fits))
    if found:
        return Hint(f"no such key; there are: {', '.join(found)}")
    return _option(GROUP[name], text, fits) if parent == "" and GROUP.get(name, "") in [*schemas()] else Hint()


def _of_other_options() -> list[str]:
    """Keys that an option of their group brings, which may not be the one that is chosen."""
    return [f"{group}.{f.name}" for group, option in OPTION.items() for f in fields(schemas()[group][option])]


def _same(target: str, text: str, value: Any, config: DictConfig, fits: Fits) -> Hint | None:
    """A setting under another name; None where the config has it with no choice of options."""
    group, said = target.split(".")[0], f"no such key; it is called {target} here"
    option = OPTION.get(group, "")
    there = target in _keys(config)
    # every model has a name, and only those of one option are found by it
    other_option = option and group in config and OmegaConf.get_type(config[group]) is not schemas()[group][option]
    if other_option and (not there or target == "model.name"):
        both = fits({group: option, target: value})
        return Hint(said, f"{group}={option} {target}={text}") if both else None
    return Hint(said, _typed({target: value}, text, fits)) if there else None


def _moved(key: str, text: str, value: Any, there: list[str], fits: Fits) -> Hint:
    """A key whose first part is no part of the config: another name, or a misspelling, of one that is."""
    first, _, rest = key.partition(".")
    roots = list(dict.fromkeys(k.split(".")[0] for k in there))
    root = GROUP.get(first.lower()) or meant(first, roots)
    moved = f"{root}.{rest}"
    return Hint(type_this=_typed({moved: value}, text, fits)) if root and moved in there else Hint()


def _option(group: str, text: str, fits: Fits) -> Hint:
    """Another name of a group, where an option of the group was typed."""
    options = list(schemas()[group])
    option = text if text in options else meant_option(text, options)
    return Hint(type_this=f"{group}={option}") if option and fits({group: option}) else Hint()


def _typed(setting: dict[str, Any], text: str, fits: Fits) -> str:
    (key,) = setting
    return f"{key}={text}" if fits(setting) else f"{key}=..."


def _under(parent: str, leaf: str) -> str:
    return f"{parent}.{leaf}" if parent else leaf


def _keys(config: DictConfig) -> list[str]:
    """Every key that can be set, hydra's and those of an absent group left out."""
    return [key for key in _walk(config, "") if not key.startswith("hydra.")]


def _walk(config: DictConfig, above: str) -> Iterator[str]:
    for name in config:
        node = config._get_node(name)
        key = _under(above, str(name))
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            yield from _walk(node, key)
        else:
            yield key
