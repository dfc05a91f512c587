"""Hints for keys that do not exist. A wrong hint is worse than none: following it changes the run.

A hint names another key in three cases: the typed key is a misspelling of it, lacks its group, or is its name in other
software. The hint repeats the typed value if the other key accepts it. If a setting works differently here, the hint
explains that in words and gives nothing to type.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alignlab.config.registry import NAMED_GROUPS, schemas
from alignlab.spelling import correct_option, correct_spelling

# Whether a config accepts settings, given as key -> value or group -> option.
Accepts = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True)
class Hint:
    """An explanation of an unknown key, and what to type instead. Either may be empty."""

    text: str = ""
    type_this: str = ""


# Names in TRL, transformers, axolotl, Lightning and others -> the same setting in the same unit here.
SYNONYMS = {
    "learning_rate": "optim.lr",
    "lr_scheduler": "optim.schedule",
    "lr_scheduler_type": "optim.schedule",
    "num_warmup_steps": "optim.warmup_steps",
    "adam_beta1": "optim.beta1",
    "adam_beta2": "optim.beta2",
    "adam_epsilon": "optim.eps",
    "epoch": "trainer.max_epochs",
    "epochs": "trainer.max_epochs",
    "n_epochs": "trainer.max_epochs",
    "num_epochs": "trainer.max_epochs",
    "num_train_epochs": "trainer.max_epochs",
    "total_epochs": "trainer.max_epochs",
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
    "max_train_steps": "trainer.max_steps",
    "num_steps": "trainer.max_steps",
    "train_steps": "trainer.max_steps",
    "total_steps": "trainer.max_steps",
    "grad_clip": "trainer.gradient_clip",
    "clip_grad_norm": "trainer.gradient_clip",
    "test_size": "data.eval_fraction",
    "val_size": "data.eval_fraction",
    "val_split": "data.eval_fraction",
    "patience": "trainer.patience",
    "early_stopping_patience": "trainer.patience",
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
    "num_iterations": "rollout.epochs",
    "epsilon": "objective.clip",
    "epsilon_high": "objective.clip_higher",
    "center_rewards_coefficient": "objective.centring",
    "f_divergence_type": "objective.divergence",
    "dataset_config": "data.subset",
    "dataset_train_split": "data.split",
    "dataset_test_split": "data.eval_split",
    "model_revision": "model.revision",
    "num_mini_batches": "rollout.minibatches",
    "wandb_project": "tracking.wandb.project",
    "wandb_entity": "tracking.wandb.entity",
    "project": "tracking.wandb.project",
    "entity": "tracking.wandb.entity",
    "tags": "tracking.wandb.tags",
    "simpo_gamma": "objective.gamma",
    "scale_rewards": "objective.scale",
}

# Options whose fields a hint may name, for groups whose options do not all have these fields.
OPTION_WITH_FIELDS = {"peft": "lora", "model": "hub"}

# Names in other software -> config group.
GROUP_SYNONYMS = {
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

_BATCH_SIZE = (
    "trainer.batch_size is the total number of rows per update (rows per device x accumulation steps x devices); "
    "trainer.micro_batch_size is the number of rows that go through the model at once, which changes no result"
)
_ROWS = "rows come from data=pairs, data=unpaired or data=rankings with data.path=<a file, a folder or a hub name>"
_MODEL = "to load a model from the hub or a folder, type model=hub model.name=<name or folder>; its data must be text"
_PRECISION = "there is no mixed precision: model.dtype is the dtype of the weights (float32, bfloat16, float16)"
_QUANTIZED = "for weights in 4 bits type model.quantize=nf4, with model=hub and peft=lora"
_LOSS = "the loss is chosen by objective=<name>; `alignlab objectives` shows them all (TRL's sigmoid is dpo)"
_REFERENCE = (
    "the reference is the policy before training (model.parent or model=...), and reference=cached, copy or "
    "adapter_off chooses how it is kept"
)
_MAX_NEW_TOKENS = (
    "rollout.max_new_tokens limits answers that are sampled in training, evaluation.max_new_tokens limits those of an "
    "evaluation, and data.max_length limits prompt and answer of a data row together"
)
_NLL = (
    "TRL's weight multiplies the NLL per token, and objective.nll_weight multiplies the NLL summed over the answer; "
    "the same number is a larger weight here"
)
_HUB_ONLY = (
    "is a setting of model=hub, which loads a model from the hub or a folder; the model of this run does not have it"
)
_KL = "the weight of the KL is a field of the objective: objective.kl_coef for ppo, objective.beta for most others"
_WARMUP = "warm-up is counted in updates: optim.warmup_steps"
_STRATEGY = "trainer.eval_every, trainer.checkpoint_every and trainer.log_every count updates; 0 means only at the end"
_RESUME = "type the same command again: it resumes a run that was stopped"
_DEVICES = "trainer.devices=<number of devices of a run>; launcher=local gives each point of a sweep its own GPUs"
_SHARED = f"strategy=ddp, fsdp or deepspeed says how the devices of a run share the work; {_DEVICES}"
_SAMPLER = "engine=vllm samples with vLLM; engine.cache_gb is its memory for keys and values, engine.server a server"
_NAME = "a run is named by its id, a hash of its settings; sweep.name=<name> names a sweep"
_REWARD = (
    "reward=reward_model reward.model=<folder or hub name> 'reward.run=[]', "
    "or reward=gold reward.function=my_rules:score"
)
_DEVICE = f"trainer.accelerator is auto, cpu, gpu or mps; {_DEVICES}"
_WORKERS = "rows are tokenized once, before training, and kept; there are no workers and no unused columns"
_HUB = "a policy is a folder in Hugging Face's format, outputs/runs/<id>/policy; upload it with `hf upload`"
_STOPPING = "trainer.keep_best=eval/loss trainer.eval_every=50 trainer.patience=<evaluations without a better value>"
_SAMPLING = "answers are sampled from the whole distribution; temperature is the only setting"
_DROPOUT = "models are trained without dropout, except for that of the adapter: peft=lora peft.dropout=<p>"
_LENGTHS = "rows are packed without padding where a check finds this exact; trainer.layout=plain switches it off"

# Settings that work differently here.
EXPLANATIONS = {
    **dict.fromkeys(
        (
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "per_gpu_train_batch_size",
            "train_batch_size",
            "eval_batch_size",
            "mini_batch_size",
            "micro_batch_size",
            "micro_batch_size_per_gpu",
            "micro_train_batch_size",
            "gradient_accumulation",
            "gradient_accumulation_steps",
            "accumulate_grad_batches",
        ),
        _BATCH_SIZE,
    ),
    **dict.fromkeys(
        ("dataset", "datasets", "dataset_name", "dataset_path", "train_file", "data_path", "data_files", "pairs"), _ROWS
    ),
    **dict.fromkeys(("bf16", "fp16", "precision", "mixed_precision"), _PRECISION),
    **dict.fromkeys(("load_in_4bit", "load_in_8bit", "use_qlora", "quantization"), _QUANTIZED),
    **dict.fromkeys(("loss_type", "loss_fn"), _LOSS),
    **dict.fromkeys(("ref_model", "ref_model_name_or_path", "reference_model", "precompute_ref_log_probs"), _REFERENCE),
    **dict.fromkeys(("max_completion_length", "response_length", "max_new_tokens"), _MAX_NEW_TOKENS),
    **dict.fromkeys(("eval_strategy", "evaluation_strategy", "save_strategy", "logging_strategy"), _STRATEGY),
    **dict.fromkeys(("resume", "resume_from_checkpoint"), _RESUME),
    **dict.fromkeys(("model_name", "model_name_or_path", "base_model"), _MODEL),
    **dict.fromkeys(("deepspeed", "fsdp", "fsdp_config", "ddp_backend"), _SHARED),
    **dict.fromkeys(("use_vllm", "vllm_mode", "vllm_gpu_memory_utilization", "vllm_server_base_url"), _SAMPLER),
    **dict.fromkeys(("packing", "padding_free"), _LENGTHS),
    "run": "`alignlab train run=<id> trainer.max_steps=<more>` goes on with a finished run; a check is of new runs",
    "use_weighting": "weighted DPO is an objective of its own: objective=wpo",
    "ld_alpha": "length-desensitised DPO is an objective of its own: objective=ld_dpo objective.alpha=<alpha>",
    "torch_compile": "trainer.compile=auto, always or never",
    "use_cpu": "trainer.accelerator=cpu",
    **dict.fromkeys(("run_name", "experiment_name", "exp_name"), _NAME),
    **dict.fromkeys(("reward_model_path", "reward_model_name_or_path", "reward_funcs"), _REWARD),
    **dict.fromkeys(("device", "devices", "gpus", "n_gpus", "num_gpus", "ngpus"), _DEVICE),
    **dict.fromkeys(
        ("remove_unused_columns", "dataloader_num_workers", "num_workers", "workers", "dataset_num_proc"), _WORKERS
    ),
    **dict.fromkeys(("push_to_hub", "hub_model_id"), _HUB),
    **dict.fromkeys(("early_stopping", "load_best_model_at_end", "metric_for_best_model"), _STOPPING),
    **dict.fromkeys(("top_p", "top_k", "min_p", "repetition_penalty"), _SAMPLING),
    **dict.fromkeys(("disable_dropout", "dropout"), _DROPOUT),
    "reference_free": "objectives without a reference are objective=cpo, orpo and simpo",
    "sync_ref_model": "the reference stays the policy before training; rounds=<n> trains in rounds, each from the last",
    "save_total_limit": "the last two training states are kept; trainer.keep is what stays of a finished run",
    "truncation_mode": "prompts are cut on the left, and answers on the right",
    "missing_eos_penalty": "rollout.missing_end=subtract rollout.missing_end_score=<penalty>",
    "gamma_beta_ratio": "objective=simpo objective.margin=ratio objective.gamma=<ratio>",
    "disable_tqdm": "trainer.progress=false switches progress bars off",
    "kl_coef": _KL,
    "warmup_ratio": _WARMUP,
    "use_peft": "type peft=lora for an adapter",
}


# Groups whose options train the same policy, so that another one may be proposed for a setting.
_EXCHANGED = ("strategy", "engine")

# Strategies of Lightning, accelerate and others -> what to type for the nearest one.
_STRATEGIES = {
    **dict.fromkeys(("zero", "zero1", "zero_1", "deepspeed_stage_1"), "strategy=deepspeed"),
    **dict.fromkeys(("zero2", "zero_2", "deepspeed_stage_2"), "strategy=deepspeed strategy.stage=2"),
    "deepspeed_stage_2_offload": "strategy=deepspeed strategy.stage=3 strategy.offload=optimizer",
    **dict.fromkeys(("zero3", "zero_3", "deepspeed_stage_3"), "strategy=deepspeed strategy.stage=3"),
    "deepspeed_stage_3_offload": "strategy=deepspeed strategy.stage=3 strategy.offload=all",
    **dict.fromkeys(("fsdp1", "fsdp2", "fsdp_native", "full_shard", "fully_shard", "hybrid_shard"), "strategy=fsdp"),
    **dict.fromkeys(("dp", "ddp_spawn", "ddp_fork", "ddp_notebook", "distributed", "multi_gpu"), "strategy=ddp"),
    "ddp_find_unused_parameters_false": "strategy=ddp",
    "ddp_find_unused_parameters_true": "strategy=ddp strategy.find_unused=true",
    **dict.fromkeys(("single_device", "none", "no"), "strategy=auto"),
}


def strategy_for(word: str) -> str:
    """What to type for the name that a strategy has in other software; empty if the name is unknown."""
    return _STRATEGIES.get(re.sub(r"\W+", "_", word.lower()), "")


# Objective -> why its objective.nll_weight is not TRL's cpo_alpha or rpo_alpha.
_OTHER_NLL_WEIGHT = {
    "cpo": f"{_NLL}, unless objective.dialect=trl1 is set, which has the NLL per token",
    "slic": _NLL,
}


def hint_for(key: str, text: str, value: Any, config: DictConfig, accepts: Accepts) -> Hint:
    """The hint for a key that is not in the config.

    text, value: the value that was typed, as text and as it was parsed.
    accepts:     whether the config accepts settings.
    """
    parent, _, leaf = key.rpartition(".")
    keys = _all_keys(config)
    if guess := correct_spelling(leaf, [k.rpartition(".")[2] for k in keys if k.rpartition(".")[0] == parent]):
        return Hint(type_this=_assignment({_joined_key(parent, guess): value}, text, accepts))
    if parent == "" and (group := correct_spelling(leaf, [g for g in schemas() if g in config])):
        return _option_hint(group, text, accepts)
    if key in ("data.path", "data.eval_path", "data.columns"):
        return Hint(f"no such key: this data reads no files; {_ROWS}")
    if parent and parent.split(".")[0] not in config:
        return _other_group_hint(key, text, value, keys, accepts)
    name = re.sub(r"(?<=[a-z])(?=[A-Z])|-", "_", leaf).lower()
    anywhere = parent in ("", "trainer")  # other software has no groups, or keeps all settings in its trainer
    target = SYNONYMS.get(f"{parent}.{name}") or SYNONYMS.get(name) or (key if key in _fields_of_options() else "")
    if (
        target
        and (anywhere or target.startswith(f"{parent}."))
        and (hint := _synonym_hint(target, text, value, config, accepts))
    ):
        return hint
    if key in ("objective.loss_type", "objective.loss_fn", "objective.loss"):
        option = _option_hint("objective", text, accepts)
        return Hint(f"no such key; {_LOSS}", option.type_this)
    if key == "objective.beta" and (other_name := _strength_of(config)):
        text_ = f"no such key; the strength of this objective is objective.{other_name}"
        return Hint(text_, _assignment({f"objective.{other_name}": value}, text, accepts))
    if not anywhere:
        alone = parent in config and parent not in NAMED_GROUPS
        has = [k.rpartition(".")[2] for k in keys if k.rpartition(".")[0] == parent]
        if not alone:
            return Hint()
        options = schemas().get(parent, {})
        choice = option_with(parent, leaf, options) if parent in _EXCHANGED else ""
        return Hint(of_other_options(parent, leaf, options, has), f"{choice} {key}={text}" if choice else "")
    found = [k for k in keys if k.rpartition(".")[2] == name and k.count(".") == 1]
    otherwise = EXPLANATIONS.get(name, "") if "trainer" in config and found != ["objective.kl_coef"] else ""
    if otherwise:
        return Hint(f"no such key; {otherwise}")
    if len(found) == 1:
        return Hint(f"no such key; it is called {found[0]} here", _assignment({found[0]: value}, text, accepts))
    if found:
        return Hint(f"no such key; there are: {', '.join(found)}")
    if parent == "" and GROUP_SYNONYMS.get(name, "") in [*schemas()]:
        group = GROUP_SYNONYMS[name]
        hint = _option_hint(group, text, accepts)
        return Hint(f"no such key; it is called {group} here", hint.type_this) if hint.type_this else hint
    return _other_objective_hint(target.removeprefix("objective.") if target else name, config)


def _other_objective_hint(name: str, config: DictConfig) -> Hint:
    """The hint for a setting that only other objectives have."""
    said = of_other_options("objective", name, schemas()["objective"]) if "objective" in config else ""
    return Hint(f"no such key; {said}" if said else "")


def of_other_options(group: str, name: str, options: Mapping[str, type], has: Collection[str] | None = None) -> str:
    """Which options of a group have a key that the chosen one lacks; empty if none has it.

    options: option -> its dataclass.
    has:     keys of the chosen option, which are listed first; None lists none.
    """
    having = _options_with(name, options)
    if not having:
        return ""
    some = ", ".join(having[:6]) + (" and others" if len(having) > 6 else "")
    first = ""
    if has is not None:
        own = f"{group} has: {', '.join(sorted(has))}" if has else f"this {group} has no settings"
        first = f"no such key; {own}; "
    return f"{first}{group}.{name} is a setting of {group}={some}, and not of the {group} of this run"


def option_with(group: str, name: str, options: Mapping[str, type]) -> str:
    """The option of a group that alone has this key; empty if none or several have it."""
    having = _options_with(name, options)
    return f"{group}={having[0]}" if len(having) == 1 else ""


def _options_with(name: str, options: Mapping[str, type]) -> list[str]:
    return [option for option, schema in options.items() if name in (f.name for f in fields(schema))]


def _strength_of(config: DictConfig) -> str:
    """The field that is the strength of the objective; empty if it has none."""
    chosen = OmegaConf.get_type(config.objective) if "objective" in config else None
    return str(getattr(chosen, "strength", None) or "")


def _fields_of_options() -> list[str]:
    """Fields of the options in OPTION_WITH_FIELDS, whether or not these are chosen."""
    return [
        f"{group}.{f.name}" for group, option in OPTION_WITH_FIELDS.items() for f in fields(schemas()[group][option])
    ]


def _synonym_hint(target: str, text: str, value: Any, config: DictConfig, accepts: Accepts) -> Hint | None:
    """The hint for a setting under another name; None if no choice of option gives the config that setting."""
    group, renamed = target.split(".")[0], f"no such key; it is called {target} here"
    option = OPTION_WITH_FIELDS.get(group, "")
    exists = target in _all_keys(config)
    # every option has model.name, but only `hub` loads a model by it
    other_option = option and group in config and OmegaConf.get_type(config[group]) is not schemas()[group][option]
    if group == "model" and other_option and not exists:
        return Hint(f"no such key; {target} {_HUB_ONLY}")  # to type model=hub would train another model
    if target == "objective.nll_weight" and exists and (ineligible_reason := _other_nll_weight(config)):
        return Hint(f"no such key; {ineligible_reason}")
    if other_option and (not exists or target == "model.name"):
        both = accepts({group: option, target: value})
        return Hint(renamed, f"{group}={option} {target}={text}") if both else None
    return Hint(renamed, _assignment({target: value}, text, accepts)) if exists else None


def _other_nll_weight(config: DictConfig) -> str:
    """Why objective.nll_weight is not TRL's weight; empty if it is."""
    chosen, options = OmegaConf.get_type(config.objective), schemas()["objective"]
    return next((text for name, text in _OTHER_NLL_WEIGHT.items() if options[name] is chosen), "")


def _other_group_hint(key: str, text: str, value: Any, keys: list[str], accepts: Accepts) -> Hint:
    """The hint for a key whose first part is another name, or a misspelling, of a part of the config."""
    first, _, rest = key.partition(".")
    roots = list(dict.fromkeys(k.split(".")[0] for k in keys))
    root = GROUP_SYNONYMS.get(first.lower()) or correct_spelling(first, roots)
    moved = f"{root}.{rest}"
    return Hint(type_this=_assignment({moved: value}, text, accepts)) if root and moved in keys else Hint()


def _option_hint(group: str, text: str, accepts: Accepts) -> Hint:
    """The hint for another name of a group, if the value is an option of that group."""
    options = [*schemas()[group], *(["none"] if group == "tracking" else [])]
    option = text if text in options else correct_option(text, options)
    return Hint(type_this=f"{group}={option}") if option and accepts({group: option}) else Hint()


def _assignment(setting: dict[str, Any], text: str, accepts: Accepts) -> str:
    (key,) = setting
    return f"{key}={text}" if accepts(setting) else f"{key}=..."


def _joined_key(parent: str, leaf: str) -> str:
    return f"{parent}.{leaf}" if parent else leaf


def _all_keys(config: DictConfig) -> list[str]:
    """Every key that can be set, except hydra's and those of groups that are not chosen."""
    return [key for key in _leaves(config, "") if not key.startswith("hydra.")]


def _leaves(config: DictConfig, above: str) -> Iterator[str]:
    for name in config:
        node = config._get_node(name)
        key = _joined_key(above, str(name))
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            yield from _leaves(node, key)
        else:
            yield key
