"""Translates the arguments of a TRL training into a command line of `alignlab train`.

The losses are those that tests/peers holds equal to TRL 1.16: where TRL differs from the paper, the objective gets the
dialect `trl1`. A setting that the file leaves open has TRL's default, because a copied training should train the same.
"""

from __future__ import annotations

import ast
import errno
import json
import math
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from alignlab.config.trl_script import read_script
from alignlab.errors import ConfigError, Problem
from alignlab.integrity import refuse_device
from alignlab.spelling import as_typed, correct_spelling

_WHERE = "this command; nothing was written"

_MOST_BYTES = 1 << 24  # of a file

# Trainer -> TRL's default learning rate.
LEARNING_RATES = {
    "dpo": 1e-6, "kto": 1e-6, "sft": 2e-5, "reward": 1e-4, "orpo": 1e-6, "cpo": 1e-6, "rloo": 1e-6, "grpo": 1e-6,
}  # fmt: skip

_ONLINE = {"rloo", "grpo"}

# TRL's argument -> key here, for settings with the same meaning and unit.
_SAME = {
    "weight_decay": "optim.weight_decay",
    "warmup_steps": "optim.warmup_steps",
    "adam_beta1": "optim.beta1",
    "adam_beta2": "optim.beta2",
    "adam_epsilon": "optim.eps",
    "max_grad_norm": "trainer.gradient_clip",
    "gradient_checkpointing": "trainer.gradient_checkpointing",
    "logging_steps": "trainer.log_every",
    "eval_steps": "trainer.eval_every",
    "save_steps": "trainer.checkpoint_every",
    "max_prompt_length": "data.max_prompt_length",
    "dataset_config": "data.subset",
    "dataset_test_split": "data.eval_split",
    "attn_implementation": "model.attention",
    "lora_r": "peft.r",
    "lora_alpha": "peft.alpha",
    "lora_dropout": "peft.dropout",
    "temperature": "rollout.temperature",
    "max_completion_length": "rollout.max_new_tokens",
    "num_iterations": "rollout.epochs",
}

# Settings that change no number, or that alignlab decides by itself.
_WITHOUT_EFFECT = {
    "output_dir", "run_name", "logging_dir", "push_to_hub", "hub_model_id", "save_total_limit",
    "save_strategy", "logging_strategy", "remove_unused_columns",
    "dataset_num_proc", "dataloader_num_workers", "dataloader_pin_memory", "padding_free", "pad_to_multiple_of",
    "disable_dropout", "precompute_ref_log_probs", "precompute_ref_batch_size", "per_device_eval_batch_size",
    "log_completions", "do_train", "do_eval", "overwrite_output_dir", "logging_first_step",
    "gradient_checkpointing_kwargs", "disable_tqdm", "use_peft", "generate_during_eval", "activation_offloading",
    "task_type", "lora_task_type", "num_completions_to_print", "hub_private_repo", "hub_strategy",
    "no_remove_unused_columns", "dataset_streaming", "log_level", "auto_find_batch_size",
    "padding_value", "label_pad_token_id", "pad_token",
}  # fmt: skip

# Values that switch a setting off. Of these there is nothing to say.
_OFF = {
    "top_p": 1.0, "repetition_penalty": 1.0, "lora_bias": "none", "bnb_4bit_quant_type": "nf4", "inference_mode": False,
    "use_vllm": False, "lr_scheduler_kwargs": {},
}  # fmt: skip
_TRACKERS = ("wandb", "tensorboard", "mlflow", "trackio")


@dataclass(frozen=True)
class _Loss:
    """What a loss type of DPOTrainer is here.

    fields:    that TRL's other arguments do not decide.
    strength:  field that is TRL's beta; empty if there is none.
    smoothing: field that is TRL's label_smoothing, which TRL ignores in the other losses.
    tau:       field that is TRL's discopop_tau.
    weight:    times TRL's loss. TRL adds BCO's losses of both answers, and alignlab takes their mean.
    diverges:  whether f_divergence_type applies.
    """

    objective: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    strength: str = "beta"
    smoothing: str = ""
    tau: str = ""
    weight: float = 1.0
    diverges: bool = False


_DPO_LOSSES = {
    "sigmoid": _Loss("dpo", diverges=True),
    "hinge": _Loss("hinge", diverges=True),
    "ipo": _Loss("ipo", {"dialect": "trl1"}, strength="tau", diverges=True),
    "exo_pair": _Loss("exo", smoothing="epsilon", diverges=True),
    "nca_pair": _Loss("nca"),
    "robust": _Loss("robust_dpo", smoothing="label_smoothing", diverges=True),
    "bco_pair": _Loss("bco", {"dialect": "trl1"}, weight=2.0),
    "sppo_hard": _Loss("sppo"),
    "aot": _Loss("aot", smoothing="label_smoothing"),
    "aot_unpaired": _Loss("aot", {"pairing": "unpaired"}, smoothing="label_smoothing"),
    "apo_zero": _Loss("apo_zero"),
    "apo_down": _Loss("apo_down"),
    "discopop": _Loss("discopop", tau="tau", diverges=True),
    "sft": _Loss("sft", strength=""),
    "sigmoid_norm": _Loss("length_dpo", diverges=True),
}
# DPO with a weight on each pair (use_weighting), and with one on the tail of the longer answer (ld_alpha).
_WEIGHTED, _LENGTHS = _Loss("wpo", {"dialect": "trl1"}, diverges=True), _Loss("ld_dpo", {"dialect": "trl1"})
_KTO_LOSSES = {"kto": ("kto", True), "apo_zero_unpaired": ("apo_zero_unpaired", False)}  # whether it has two weights
_DIVERGENCES = {
    "reverse_kl": "reverse_kl",
    "forward_kl": "forward_kl",
    "js_divergence": "js",
    "alpha_divergence": "alpha",
}
# TRL's defaults of the arguments that decide the loss of DPOTrainer.
_DPO_ARGUMENTS = {
    "beta": 0.1, "label_smoothing": 0.0, "discopop_tau": 0.05, "f_divergence_type": "reverse_kl",
    "f_alpha_divergence_coef": 0.5, "ld_alpha": None, "use_weighting": False,
}  # fmt: skip
_NORMALISERS = {"grpo": "answers", "dapo": "tokens", "dr_grpo": "constant"}


@dataclass
class Imported:
    """A translated training.

    words: of `alignlab train`.
    notes: (argument, why it is not among the words, or what is different), in the order of the file.
    """

    trainer: str
    words: list[str] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)

    def set(self, key: str, value: Any) -> None:
        self.words.append(f"{key}={as_typed(value)}")

    def note(self, argument: str, text: str) -> None:
        self.notes.append((argument, text))


def import_trl(file: Path, trainer: str = "") -> Imported:
    """Translate a YAML or JSON file of TRL arguments, or the arguments of a Python script.

    trainer: dpo, kto, sft, reward, orpo, cpo, rloo or grpo; not needed for a script, whose classes name it, unless it
             has several trainings.
    The script is parsed, never run. Raises ConfigError for a file that can't be read, and without a known trainer.
    """
    found, arguments, notes = _read(file, trainer)
    trainer = trainer or found
    if trainer not in LEARNING_RATES:
        guess = correct_spelling(trainer, LEARNING_RATES) if trainer else "dpo"
        text = f"must name TRL's trainer: one of {', '.join(LEARNING_RATES)}"
        raise ConfigError([Problem("trainer", trainer or None, text, f"trainer={guess or 'dpo'}")], where=_WHERE)
    result = Imported(trainer, notes=notes)
    rest = dict(arguments)
    _objective(result, rest)
    _model(result, rest)
    _data(result, rest)
    _training(result, rest)
    for name, value in rest.items():
        if name in _SAME:
            if value is not None:
                result.set(_SAME[name], value)
        elif name not in _WITHOUT_EFFECT and value not in (None, False, _OFF.get(name)):
            result.note(name, "has no counterpart")
    return result


# --- reading ---------------------------------------------------------------------------------------------------------


def _read(file: Path, trainer: str) -> tuple[str, dict[str, Any], list[tuple[str, str]]]:
    """(trainer if the file names it, argument -> value, notes on arguments that are computed when a script runs)."""
    try:
        refuse_device(file)
        if file.stat().st_size > _MOST_BYTES:
            raise OSError(errno.EFBIG, "is too large for a file of arguments", str(file))
        if file.suffix == ".py":
            with tokenize.open(file) as script:  # in the encoding that the script declares
                return read_script(ast.parse(script.read()), LEARNING_RATES, trainer)
        text = file.read_text(encoding="utf-8-sig")
        loaded = json.loads(text, object_pairs_hook=_once) if file.suffix == ".json" else yaml.load(text, _Yaml)
        json.dumps(loaded, default=str)  # raises ValueError if a YAML alias is inside of its own anchor
    except OSError as error:
        raise ConfigError([Problem("file", file, f"can't be read: {error.strerror}")], where=_WHERE) from error
    except UnicodeDecodeError as error:
        text = f"can't be read as {error.encoding} (byte {error.start}); save it as UTF-8"
        raise ConfigError([Problem("file", file, text)], where=_WHERE) from error
    except (ValueError, RecursionError, MemoryError, SyntaxError, yaml.YAMLError) as error:
        raise ConfigError([Problem("file", file, f"can't be read: {error}")], where=_WHERE) from error
    if not isinstance(loaded, dict) or not all(isinstance(name, str) for name in loaded):
        text = "must hold arguments with their values, such as `learning_rate: 1.0e-6`"
        raise ConfigError([Problem("file", file, text)], where=_WHERE)
    arguments = {name: _number(value) for name, value in loaded.items()}
    if _strategy(arguments) != "no":
        arguments.setdefault("dataset_test_split", "test")  # as the scripts of TRL do
    return "", arguments, []


class _Yaml(yaml.SafeLoader):
    """Reads YAML, and refuses a key that a mapping has twice. YAML forbids it, and PyYAML takes the last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        _refuse_twice([key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"])
        return super().construct_mapping(node, deep)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises ValueError if it has a key twice."""
    _refuse_twice([key for key, _ in pairs])
    return dict(pairs)


def _refuse_twice(keys: Sequence[str]) -> None:
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"these keys are there twice: {', '.join(twice)}")


def _strategy(arguments: Mapping[str, Any]) -> str:
    """TRL's eval_strategy. YAML reads `no` as false."""
    return str(arguments.get("eval_strategy", arguments.get("evaluation_strategy")) or "no")


def _number(value: Any) -> Any:
    """YAML reads 1e-6 as a text, because it has no dot; TRL reads it as a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


# --- translating: each function takes out of `rest` what it has used -------------------------------------------------


def _objective(result: Imported, rest: dict[str, Any]) -> None:
    translate: Mapping[str, Callable[[Imported, dict[str, Any]], None]] = {
        "dpo": _dpo, "kto": _kto, "sft": _sft, "reward": _reward, "orpo": _orpo, "cpo": _cpo, "rloo": _rloo,
        "grpo": _grpo,
    }  # fmt: skip
    translate[result.trainer](result, rest)


def _dpo(result: Imported, rest: dict[str, Any]) -> None:
    types = rest.pop("loss_type", "sigmoid")
    types = list(map(str, types)) if isinstance(types, list) else [str(types)]
    weights = rest.pop("loss_weights", None) or [1.0] * len(types)
    if not isinstance(weights, list) or len(weights) != len(types) or not all(map(_is_number, weights)):
        result.note("loss_weights", f"must be numbers, one for each loss type; here each of {', '.join(types)} has 1")
        weights = [1.0] * len(types)
    if (alpha := rest.pop("rpo_alpha", None)) and _is_number(alpha):  # of TRL before 1.0
        types, weights = [*types, "sft"], [*weights, alpha]
    given = {name: rest.pop(name, default) for name, default in _DPO_ARGUMENTS.items()}
    parts = []
    for kind, weight in zip(types, weights, strict=False):
        if (loss := _DPO_LOSSES.get(kind)) is None:
            if not _is_open(kind):
                result.note("loss_type", f"{kind} has no counterpart")
            continue
        if types == ["sigmoid"] and given["use_weighting"]:
            loss = _WEIGHTED
        elif types == ["sigmoid"] and given["ld_alpha"] is not None:
            loss = replace(_LENGTHS, fields={**_LENGTHS.fields, "alpha": given["ld_alpha"]})
        parts.append((loss.objective, weight * loss.weight, _fields(result, kind, loss, given)))
    if types != ["sigmoid"]:
        for name in ("use_weighting", "ld_alpha"):
            if given[name] not in (None, False):
                result.note(name, "works here with the loss of DPO only")
    if parts:
        _write(result, parts)
    else:
        result.words.append("objective=<objective>")


def _fields(result: Imported, kind: str, loss: _Loss, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of one loss of DPOTrainer."""
    fields = dict(loss.fields)
    if loss.strength:
        fields[loss.strength] = given["beta"]
    if loss.tau:
        fields[loss.tau] = given["discopop_tau"]
    if loss.smoothing:
        fields[loss.smoothing] = given["label_smoothing"]
    elif given["label_smoothing"]:
        result.note("label_smoothing", f"is ignored by TRL 1.x in loss_type={kind}; objective.label_smoothing is cDPO")
    divergence = given["f_divergence_type"]
    if divergence != "reverse_kl" and loss.diverges:
        fields["divergence"] = _DIVERGENCES.get(str(divergence), divergence)
        if divergence == "alpha_divergence":
            fields["divergence_alpha"] = given["f_alpha_divergence_coef"]
    elif divergence != "reverse_kl" and loss.strength:
        result.note("f_divergence_type", f"does not apply to loss_type={kind}")
    return fields


def _write(result: Imported, parts: Sequence[tuple[str, float, dict[str, Any]]]) -> None:
    """The words of one objective, or of a weighted sum."""
    name, weight, fields = parts[0]
    if len(parts) > 1 or weight != 1:
        result.set("objective", "mix")
        result.set("objective.parts", [{"name": name, **fields, "weight": weight} for name, weight, fields in parts])
        return
    result.set("objective", name)
    for key, value in fields.items():
        result.set(f"objective.{key}", value)


def _kto(result: Imported, rest: dict[str, Any]) -> None:
    kind = str(rest.pop("loss_type", "kto"))
    if kind not in _KTO_LOSSES:
        result.note("loss_type", f"{kind} has no counterpart; kto is used")
    name, weighted = _KTO_LOSSES.get(kind, _KTO_LOSSES["kto"])
    result.set("objective", name)
    result.set("objective.beta", rest.pop("beta", 0.1))
    for key in ("desirable_weight", "undesirable_weight"):
        value = rest.pop(key, 1.0)
        if weighted:
            result.set(f"objective.{key}", value)


def _sft(result: Imported, rest: dict[str, Any]) -> None:
    result.set("objective", "sft")
    if rest.pop("loss_type", "nll") != "nll":
        result.note("loss_type", "has no counterpart; the mean over tokens (nll) is used")
    for name in ("packing", "assistant_only_loss"):
        if rest.pop(name, False):
            result.note(
                name, "has no counterpart: each row is one prompt with one answer, and only the answer is learnt"
            )
    rest.pop("completion_only_loss", None)


def _reward(result: Imported, rest: dict[str, Any]) -> None:
    result.set("objective", "reward_model")
    result.set("objective.centring", rest.pop("center_rewards_coefficient", None) or 0.0)


def _orpo(result: Imported, rest: dict[str, Any]) -> None:
    result.set("objective", "orpo")
    result.set("objective.odds_weight", rest.pop("beta", 0.1))
    result.set("objective.nll", "tokens")
    result.note("beta", "TRL's NLL includes the prompt's tokens; here it is over the answer's tokens only")


def _cpo(result: Imported, rest: dict[str, Any]) -> None:
    kind, beta, nll = str(rest.pop("loss_type", "sigmoid")), rest.pop("beta", 0.1), rest.pop("cpo_alpha", 1.0)
    gamma, smoothing = rest.pop("simpo_gamma", 0.5), rest.pop("label_smoothing", 0.0)
    if smoothing:
        result.note("label_smoothing", "has no counterpart")
    losses = {"sigmoid": ("cpo", "nll_weight", nll), "simpo": ("simpo", "gamma", gamma)}
    if kind not in losses:
        result.note("loss_type", f"{kind} has no counterpart; the logistic loss is used")
    name, key, value = losses.get(kind, losses["sigmoid"])
    if key == "gamma" and nll:
        result.note("cpo_alpha", f"TRL adds {nll} times the NLL, because cpo_alpha is not 0; SimPO has no such term")
    for word, of in (("", name), (".beta", beta), (f".{key}", value), (".dialect", "trl1")):
        result.set(f"objective{word}", of)


def _rloo(result: Imported, rest: dict[str, Any]) -> None:
    _online(result, rest, "rloo", {"beta": ("beta", 0.05), "num_generations": ("samples", 2), "epsilon": ("clip", 0.2)})


def _grpo(result: Imported, rest: dict[str, Any]) -> None:
    kind, scale = str(rest.pop("loss_type", "dapo")), rest.pop("scale_rewards", "group")
    fields = {"beta": ("beta", 0.0), "num_generations": ("samples", 8), "epsilon": ("clip", 0.2)}
    _online(result, rest, "grpo", {**fields, "epsilon_high": ("clip_higher", 0.0)})
    if kind in _NORMALISERS:
        result.set("objective.normaliser", _NORMALISERS[kind])
    else:
        result.note("loss_type", f"{kind} has no counterpart")
    if scale in (True, "group", False, "none"):
        result.set("objective.scale", scale in (True, "group"))
    else:
        result.note("scale_rewards", f"{scale} has no counterpart")


def _online(result: Imported, rest: dict[str, Any], name: str, fields: Mapping[str, tuple[str, Any]]) -> None:
    result.set("objective", name)
    for theirs, (ours, default) in fields.items():
        value = rest.pop(theirs, default)
        value = default if value is None else value
        result.set(f"objective.{ours}", value)
        if theirs == "num_generations":
            _rollouts(result, rest, value)
    rest.setdefault("max_completion_length", 512)
    rest.pop("reward_funcs", None)
    if model := rest.pop("reward_model_name_or_path", None):
        result.words += ["reward=reward_model", f"reward.model={model}", "reward.run=[]"]
    else:
        result.words += ["reward=gold", "reward.function=<module>:<function>"]
        text = "reward.function is a function (prompt, answer) -> number of a module of yours; both are texts"
        result.note("reward_funcs", text)


def _rollouts(result: Imported, rest: dict[str, Any], generations: Any) -> None:
    """The rows of an update. TRL counts answers; a row of trainer.batch_size is a prompt with all of its answers."""
    per_device, accumulated = rest.pop("per_device_train_batch_size", 8), rest.pop("gradient_accumulation_steps", 1)
    batch, steps = rest.pop("generation_batch_size", None), rest.pop("steps_per_generation", None)
    known = all(map(_is_number, (generations, per_device, accumulated))) and generations >= 1
    prompts, rest_of_answers = divmod(per_device * accumulated, generations) if known else (0, 0)
    if prompts and not rest_of_answers:
        result.set("trainer.batch_size", int(prompts))
        result.set("trainer.micro_batch_size", max(1, int(per_device // generations)))
    else:
        result.words.append("trainer.batch_size=<prompts of an update>")
    text = "counts answers, and trainer.batch_size counts prompts, those of one device; multiply it by yours"
    result.note("per_device_train_batch_size", text)
    updates = batch / (per_device * accumulated) if known and _is_number(batch) else None
    updates = steps / accumulated if known and _is_number(steps) else updates
    if updates is not None and updates >= 1 and updates == int(updates):
        result.set("rollout.minibatches", int(updates))
    elif batch is not None or steps is not None:
        name = "generation_batch_size" if steps is None else "steps_per_generation"
        result.note(name, "rollout.minibatches is the number of updates from one batch of answers")


def _model(result: Imported, rest: dict[str, Any]) -> None:
    name = rest.pop("model_name_or_path", None)
    result.words += ["model=hub", f"model.name={name or '<hub name or folder>'}"]
    if (revision := rest.pop("model_revision", "main")) != "main":
        result.set("model.revision", revision)
    inner = rest.pop("model_init_kwargs", None)
    rest |= {key: value for key, value in inner.items() if key not in rest} if isinstance(inner, dict) else {}
    dtype = rest.pop("torch_dtype", None)
    dtype = rest.pop("dtype", dtype)
    if dtype in ("float32", "bfloat16", "float16"):
        result.set("model.dtype", dtype)
    elif dtype is not None and not _is_open(dtype):
        result.note("dtype", f"{dtype} has no counterpart: model.dtype is float32, bfloat16 or float16")
    mixed = [rest.pop(name, None) for name in ("bf16", "fp16")]
    if True in mixed:
        result.note("bf16", "there is no mixed precision: model.dtype=bfloat16 keeps the weights in bfloat16")
    lora = {key for key in rest if key.startswith("lora_")}
    if rest.get("use_peft") or lora:
        result.words.append("peft=lora")
        rest |= {
            key: rest.get(key, default) for key, default in (("lora_r", 16), ("lora_alpha", 32), ("lora_dropout", 0.05))
        }
        modules = rest.pop("lora_target_modules", None)
        if modules:
            names = ",".join(map(str, modules)) if isinstance(modules, list) else modules
            result.set("peft.target_modules", names if _is_open(names) else f"'{names}'")
        else:
            result.note(
                "lora_target_modules", "peft chooses layers by the architecture; peft=lora takes all linear ones"
            )
    else:
        result.words.append("peft=none")
    if rest.pop("load_in_4bit", False) is True:
        result.set("model.quantize", "nf4")
    if rest.pop("trust_remote_code", False):
        result.note(
            "trust_remote_code", "type model.trust_remote_code=true yourself, after you have read the model's code"
        )


def _data(result: Imported, rest: dict[str, Any]) -> None:
    shapes = {"kto": "unpaired", "sft": "completions", "rloo": "prompts", "grpo": "prompts"}
    result.set("data", shapes.get(result.trainer, "pairs"))
    _rows(result, rest)
    if result.trainer not in _ONLINE:
        older = rest.pop("max_seq_length", 1024)
        length = rest.pop("max_length", older)
        if rest.pop("max_completion_length", None):
            result.note("max_completion_length", "data.max_length limits prompt and answer together")
        if length is None:
            result.note("max_length", "null: choose data.max_length, the most tokens in a prompt and an answer")
        else:
            result.set("data.max_length", _whole(length))
            if rest.get("max_prompt_length") is None and _is_number(length):
                result.set("data.max_prompt_length", int(length) - 1)
    if rest.pop("truncation_mode", "keep_start") != "keep_start":
        result.note("truncation_mode", "prompts are cut on the left and answers on the right")


def _rows(result: Imported, rest: dict[str, Any]) -> None:
    """Where the rows are, and which of them are held out."""
    parts = rest.pop("datasets", None)
    if isinstance(parts, list) and len(parts) == 1 and isinstance(parts[0], dict):
        names = {"path": "dataset_name", "name": "dataset_config", "split": "dataset_train_split"}
        rest |= {names.get(str(key), str(key)): value for key, value in parts[0].items()}
    elif parts:
        result.note("datasets", "several sets are data=mixture (docs/sources.md)")
    result.set("data.path", rest.pop("dataset_name", None) or "<file, folder or hub name>")
    train, test = rest.pop("dataset_train_split", "train"), rest.pop("dataset_test_split", None)
    fraction, limit, held_out = (
        rest.pop(name, None) for name in ("dataset_test_size", "dataset_limit", "eval_dataset_name")
    )
    for key, value in (
        ("data.split", None if train == "train" else train),
        ("data.train_limit", limit),
        ("data.eval_path", held_out),
        ("data.eval_split", test),
        ("data.eval_fraction", fraction),
    ):
        if value is not None:
            result.set(key, value)
    if held_out is None and test is None and fraction is None:
        result.note("eval_dataset", "data.eval_fraction=0.1: a tenth of the rows is held out and not trained on")


def _training(result: Imported, rest: dict[str, Any]) -> None:
    result.set("optim.lr", rest.pop("learning_rate", LEARNING_RATES[result.trainer]))
    _optimizer(result, rest)
    if result.trainer not in _ONLINE:
        _batch(result, rest)
    elif rest.pop("use_vllm", False) is True:
        result.words.insert(0, "engine=vllm")
    steps, epochs = rest.pop("max_steps", -1), rest.pop("num_train_epochs", 3.0)
    fixed = _is_open(steps) or (_is_number(steps) and steps > 0)
    _warm_up(result, rest, steps)
    if fixed:
        result.set("trainer.max_steps", _whole(steps))
    else:
        result.set("trainer.max_epochs", epochs)
    rest.setdefault("max_grad_norm", 1.0)
    result.set("seed", rest.pop("seed", 42))
    _trackers(result, rest)
    _strategies(result, rest)
    for key in ("logging_steps", "eval_steps", "save_steps"):
        value = rest.get(key)
        if isinstance(value, float) and not value.is_integer():
            result.note(key, "a share of the training has no counterpart: it is counted in updates")
            rest.pop(key)
        elif value is not None:
            rest[key] = _whole(value)


def _optimizer(result: Imported, rest: dict[str, Any]) -> None:
    name, schedule = str(rest.pop("optim", "adamw_torch")), rest.pop("lr_scheduler_type", "linear")
    if "8bit" in name or "bnb" in name:
        result.words.insert(0, "optim=adamw_8bit")
    elif not name.startswith("adamw") and not _is_open(name):
        result.note("optim", f"{name} has no counterpart; AdamW is used")
    if schedule in ("constant", "linear", "cosine") or _is_open(schedule):
        result.set("optim.schedule", schedule)
    elif schedule == "constant_with_warmup":
        result.set("optim.schedule", "constant")
    else:
        result.note("lr_scheduler_type", f"{schedule} has no counterpart: constant, linear or cosine")


def _batch(result: Imported, rest: dict[str, Any]) -> None:
    per_device, accumulated = rest.pop("per_device_train_batch_size", 8), rest.pop("gradient_accumulation_steps", 1)
    known = _is_number(per_device) and _is_number(accumulated)
    result.set("trainer.batch_size", int(per_device * accumulated) if known else "<rows of an update>")
    result.set("trainer.micro_batch_size", _whole(per_device))
    result.note("per_device_train_batch_size", "trainer.batch_size is that of one device; multiply it by yours")


def _warm_up(result: Imported, rest: dict[str, Any], steps: Any) -> None:
    """Warm-up as a number of updates. A warmup_steps below 1 is a share of all updates, too."""
    ratio = rest.pop("warmup_ratio", None) or 0.0
    given = rest.get("warmup_steps")
    if _is_number(given) and 0 < given < 1:
        ratio = rest.pop("warmup_steps")
    elif given:
        return  # it has precedence
    if not ratio:
        return
    if _is_number(ratio) and _is_number(steps) and steps > 0:
        rest["warmup_steps"] = math.ceil(ratio * steps)
    else:
        result.words.append("optim.warmup_steps=<warmup_ratio x updates>")
        share = f"{ratio:g}" if _is_number(ratio) else "it"
        result.note("warmup_ratio", f"warm-up is counted in updates: {share} x the number of updates")


def _trackers(result: Imported, rest: dict[str, Any]) -> None:
    given = rest.pop("report_to", "all")
    names = [name for name in (given if isinstance(given, list) else [given]) if name not in (None, "none", "all")]
    known = [name for name in names if name in _TRACKERS]
    if missing := [str(name) for name in names if name not in known and not _is_open(name)]:
        result.note("report_to", f"{', '.join(missing)} has no counterpart: {', '.join(_TRACKERS)}")
    if known:
        result.set("tracking", known[0] if len(known) == 1 else known)
    elif given in ("none", None, []):
        result.words.append("tracking=none")


def _strategies(result: Imported, rest: dict[str, Any]) -> None:
    """Steps count only where the strategy is to count them."""
    evaluated, saved = _strategy(rest), str(rest.get("save_strategy") or "no")
    if evaluated == "no":
        rest.pop("eval_steps", None)
    elif evaluated == "epoch":
        rest.pop("eval_steps", None)
        result.note("eval_strategy", "epoch: trainer.eval_every counts updates; a run is always evaluated at its end")
    elif evaluated == "steps" and rest.get("eval_steps") is None and "logging_steps" in rest:
        rest["eval_steps"] = rest["logging_steps"]  # transformers' default
    if saved != "steps" and "save_strategy" in rest:
        rest.pop("save_steps", None)
    for name in ("eval_strategy", "evaluation_strategy"):
        rest.pop(name, None)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_open(value: Any) -> bool:
    """Whether it is the placeholder of a value that a script computes."""
    return isinstance(value, str) and value.startswith("<")


def _whole(value: Any) -> Any:
    """A whole number that may be written as 2.0. Anything else is returned as it is."""
    return int(value) if _is_number(value) else value


def notes_text(notes: list[tuple[str, str]]) -> Iterator[str]:
    """One line for each note."""
    for argument, text in notes:
        yield f"  {argument}: {text}"
