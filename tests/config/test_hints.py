"""Hints for misspelt keys and for keys of other software, and that the hints themselves can be typed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra

from alignlab.config.composer import Composer
from alignlab.config.hints import strategy_for
from alignlab.config.paths import conf_dir
from alignlab.config.preflight import to_evaluate, to_train
from alignlab.errors import ConfigError

LAB: list[str] = []
HUB = ["model=hub", "model.name=org/model", "data=hh_rlhf"]
LORA = [*HUB, "peft=lora"]
BEST = [*LAB, "trainer.eval_every=10", "trainer.keep_best=eval/loss"]
PPO = ["objective=ppo"]
GRPO = ["objective=grpo"]
RPO = ["objective=rpo"]
CPO = ["objective=cpo"]

# (overrides of the config, override with an unknown key, what the hint says to type)
TYPED = [
    # the last part of a key
    (LAB, "beta=0.3", "objective.beta=0.3"),
    (LAB, "lr=1e-4", "optim.lr=1e-4"),
    (LAB, "weight_decay=0.1", "optim.weight_decay=0.1"),
    (LAB, "warmup_steps=3", "optim.warmup_steps=3"),
    (LAB, "max_steps=20", "trainer.max_steps=20"),
    (LAB, "label_smoothing=0.1", "objective.label_smoothing=0.1"),
    (LAB, "gradient_checkpointing=true", "trainer.gradient_checkpointing=true"),
    (LAB, "trainer.lr=1e-4", "optim.lr=1e-4"),
    (LAB, "+beta=0.3", "objective.beta=0.3"),
    (LORA, "r=8", "peft.r=8"),
    (PPO, "kl_coef=0.2", "objective.kl_coef=0.2"),
    # the same setting under another name
    (LAB, "learning_rate=1e-4", "optim.lr=1e-4"),
    (LAB, "optim.learning_rate=1e-4", "optim.lr=1e-4"),
    (LAB, "lr_scheduler_type=cosine", "optim.schedule=cosine"),
    (LAB, "adam_beta2=0.95", "optim.beta2=0.95"),
    (LAB, "batch_size=8", "trainer.batch_size=8"),
    (LAB, "max_grad_norm=0.5", "trainer.gradient_clip=0.5"),
    (LAB, "trainer.max_grad_norm=0.5", "trainer.gradient_clip=0.5"),
    (LAB, "logging_steps=5", "trainer.log_every=5"),
    (LAB, "eval_steps=50", "trainer.eval_every=50"),
    (LAB, "save_steps=50", "trainer.checkpoint_every=50"),
    (LAB, "output_dir=out", "output_root=out"),
    (HUB, "max_length=700", "data.max_length=700"),
    (HUB, "max_prompt_length=100", "data.max_prompt_length=100"),
    (HUB, "max_train_samples=100", "data.train_limit=100"),
    (HUB, "model_name_or_path=org/other", "model.name=org/other"),
    (HUB, "torch_dtype=bfloat16", "model.dtype=bfloat16"),
    (LAB, "epochs=3", "trainer.max_epochs=3"),
    (BEST, "early_stopping_patience=3", "trainer.patience=3"),
    (LAB, "max_epochs=1", "trainer.max_epochs=1"),
    (LAB, "num_train_epochs=3", "trainer.max_epochs=3"),
    (LORA, "lora_r=8", "peft.r=8"),
    (HUB, "lora_r=8", "peft=lora peft.r=8"),
    (HUB, "lora_alpha=16", "peft=lora peft.alpha=16"),
    (HUB, "peft.r=8", "peft=lora peft.r=8"),
    (HUB, "lora_dropout=0.05", "peft=lora peft.dropout=0.05"),
    (GRPO, "num_generations=4", "objective.samples=4"),
    (RPO, "rpo_alpha=0.5", "objective.nll_weight=0.5"),
    (HUB, "attn_implementation=eager", "model.attention=eager"),
    (PPO, "cliprange=0.3", "objective.clip=0.3"),
    (PPO, "num_ppo_epochs=4", "rollout.epochs=4"),
    (GRPO, "num_iterations=2", "rollout.epochs=2"),
    (PPO, "epsilon=0.3", "objective.clip=0.3"),
    (GRPO, "epsilon_high=0.28", "objective.clip_higher=0.28"),
    (["objective=exo"], "epsilon=0.01", "objective.epsilon=0.01"),
    (LAB, "f_divergence_type=forward_kl", "objective.divergence=forward_kl"),
    (LAB, "f_divergence_type=js_divergence", "objective.divergence=..."),
    (LAB, "wandb_project=mine", "tracking.wandb.project=mine"),
    (LAB, "project=mine", "tracking.wandb.project=mine"),
    (LAB, "num_steps=20", "trainer.max_steps=20"),
    (["data=pairs", "data.path=x", "model=tiny"], "test_size=0.2", "data.eval_fraction=0.2"),
    (["objective=simpo"], "simpo_gamma=0.7", "objective.gamma=0.7"),
    (GRPO, "scale_rewards=false", "objective.scale=false"),
    (LAB, "report_to=none", "tracking=none"),
    (LAB, "report_to=tensorboard", "tracking=tensorboard"),
    (LAB, "optimizer=adamw", "optim=adamw"),
    (LAB, "optimizer.lr=1e-4", "optim.lr=1e-4"),
    (LAB, "loss.beta=0.3", "objective.beta=0.3"),
    # misspelt
    (LAB, "objective.bta=0.2", "objective.beta=0.2"),
    (LAB, "objectve.beta=0.2", "objective.beta=0.2"),
    (LAB, "batchSize=8", "trainer.batch_size=8"),
    (LAB, "sede=3", "seed=3"),
    # values that the key does not take are not copied
    (LAB, "lr=fast", "optim.lr=..."),
    (LAB, "learning_rate=-1", "optim.lr=..."),
    (LAB, "eval_steps=0.1", "trainer.eval_every=..."),
    (LAB, "max_steps=-1", "trainer.max_steps=..."),
    (LAB, "lr_scheduler_type=polynomial", "optim.schedule=..."),
    (LAB, "+objective.bta=-1", "objective.beta=..."),
    (LAB, "sede=-1", "seed=..."),
]

# explained in words, because no key has the same meaning and unit
EXPLAINED = [
    ("per_device_train_batch_size=4", "total number of rows per update"),
    ("micro_batch_size=2", "total number of rows per update"),
    ("micro_train_batch_size=2", "total number of rows per update"),
    ("gradient_accumulation_steps=4", "total number of rows per update"),
    ("bf16=true", "no mixed precision"),
    ("fp16=true", "no mixed precision"),
    ("load_in_4bit=true", "model.quantize=nf4"),
    ("loss_type=ipo", "objective=<name>"),
    ("dataset_name=org/rows", "data.path=<a file"),
    ("pairs=mine.jsonl", "data.path=<a file"),
    ("model_name_or_path=gpt2", "model=hub model.name=<name or folder>"),
    ("warmup_ratio=0.1", "counted in updates"),
    ("max_completion_length=64", "rollout.max_new_tokens limits"),
    ("kl_coef=0.1", "objective.kl_coef for ppo"),
    ("temperature=0.7", "there are: evaluation.temperature, rollout.temperature"),
    ("name=mine", "there are: model.name, sweep.name"),
    ("eval_strategy=steps", "count updates"),
    ("resume_from_checkpoint=true", "type the same command again"),
    ("deepspeed=ds.json", "trainer.devices=<number of devices of a run>"),
    ("use_vllm=true", "engine=vllm samples with vLLM"),
    ("packing=true", "trainer.layout=plain"),
    ("use_weighting=true", "objective=wpo"),
    ("ld_alpha=0.5", "objective=ld_dpo objective.alpha=<alpha>"),
    ("torch_compile=true", "trainer.compile=auto"),
    ("use_cpu=true", "trainer.accelerator=cpu"),
    ("disable_tqdm=true", "trainer.progress=false"),
    # no similar key
    # settings of other objectives
    ("gamma=0.9", "objective.gamma is a setting of objective=ppo, simpo, and not of the objective of this run"),
    ("num_generations=4", "objective.samples is a setting of objective="),
    ("desirable_weight=2", "objective.desirable_weight is a setting of objective=kto"),
    ("missing_eos_penalty=1", "rollout.missing_end=subtract"),
    # settings that do not exist here
    ("run=dpo-3c90", "`alignlab train run=<id> trainer.max_steps=<more>` goes on with a finished run"),
    ("run_name=mine", "sweep.name=<name> names a sweep"),
    ("dropout=0.1", "peft=lora peft.dropout"),
    ("gpus=2", "launcher=local gives each point"),
    ("push_to_hub=true", "`hf upload`"),
    ("early_stopping=true", "trainer.keep_best=eval/loss"),
    ("top_p=0.9", "temperature is the only setting"),
    ("reference_free=true", "orpo and simpo"),
    ("label_smoothing_factor=0.1", "no such key; the config has: callback, data"),
    ("min_steps=3", "no such key; the config has: callback, data"),
    ("trainer.steps=3", "no such key; trainer has: accelerator"),
    ("optim.beta3=0.9", "no such key; optim has: beta1, beta2"),
    ("evaluation.max_length=9", "no such key; evaluation has: "),
    ("report_to=comet_ml", "no such key; the config has: callback, data"),
]


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield Composer(GlobalHydra.instance().config_loader(), "train")


def hint_of(composer: Composer, base: list[str], word: str) -> tuple[str, str]:
    """(explanation of one unknown key, what the hint says to type)."""
    config, problems = composer.compose([*base, word])
    try:
        to_train(config)
    except ConfigError as error:
        problems += error.problems
    (problem,) = problems
    assert problem.key == word.lstrip("+").split("=")[0]
    return problem.allowed, problem.type_this


@pytest.mark.parametrize(("base", "word", "expected"), TYPED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_to_type(base: list[str], word: str, expected: str, composer: Composer) -> None:
    text, hint = hint_of(composer, base, word)
    assert text.startswith("no such key")
    assert hint == expected
    if not hint.endswith("=..."):
        config, problems = composer.compose([*base, *shlex.split(hint)])
        assert problems == []
        to_train(config)


@pytest.mark.parametrize(("word", "expected"), EXPLAINED, ids=lambda value: value.split("=")[0])
def test_explanation(word: str, expected: str, composer: Composer) -> None:
    text, hint = hint_of(composer, LAB, word)
    assert expected in text
    assert hint == ""


@pytest.mark.parametrize("word", ["cpo_alpha=0.5", "rpo_alpha=0.5", "trainer.cpo_alpha=0.5", "objective.cpo_alpha=0.5"])
def test_an_nll_weight_per_token_is_not_one_of_a_sum(word: str, composer: Composer) -> None:
    """To follow the hint would multiply the NLL by the length of the answer."""
    text, hint = hint_of(composer, CPO, word)
    assert "multiplies the NLL per token" in text
    assert "objective.dialect=trl1" in text
    assert hint == ""
    assert hint_of(composer, ["objective=slic"], word)[1] == ""


@pytest.mark.parametrize(
    "word", ["attn_implementation=sdpa", "trainer.attn_implementation=sdpa", "model.attention=sdpa"]
)
@pytest.mark.parametrize("base", [LAB, ["model=tiny", "data=hh_rlhf"]])
def test_a_setting_of_hub_models_does_not_swap_the_model(base: list[str], word: str, composer: Composer) -> None:
    text, hint = hint_of(composer, base, word)
    assert "model.attention is a setting of model=hub" in text
    assert hint == ""


def test_no_seed_of_the_data_becomes_the_seed_of_the_run(composer: Composer) -> None:
    assert hint_of(composer, HUB, "data.seed=3")[1] == ""


def test_there_are_enough_of_them() -> None:
    assert len({word.split("=")[0] for _, word, _ in TYPED}) > 40
    assert len(EXPLAINED) > 20


def test_keys_of_an_evaluation() -> None:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composer = Composer(GlobalHydra.instance().config_loader(), "evaluate")
        _, (problem,) = composer.compose(["run=dpo", "max_new_tokens=32"])
        assert problem.type_this == "evaluation.max_new_tokens=32"
        config, problems = composer.compose(["run=dpo", problem.type_this])
        assert problems == []
        assert to_evaluate(config).evaluation.max_new_tokens == 32
        _, (problem,) = composer.compose(["run=dpo", "beta=0.3"])
        assert (problem.type_this, problem.allowed.split(": ")[1].split(", ")[:2]) == (
            "",
            ["accelerator", "benchmark"],
        )


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["strategy.offload=all"], "strategy=deepspeed strategy.offload=all"),
        (["strategy=fsdp", "strategy.stage=3"], "strategy=deepspeed strategy.stage=3"),
    ],
)
def test_a_setting_of_another_option_that_trains_the_same(words: list[str], fix: str, composer: Composer) -> None:
    *base, word = words
    assert hint_of(composer, [*LAB, *base], word)[1] == fix


@pytest.mark.parametrize(
    ("word", "fix"),
    [
        ("zero2", "strategy=deepspeed strategy.stage=2"),
        ("deepspeed_stage_3", "strategy=deepspeed strategy.stage=3"),
        ("DeepSpeed-Stage-3-offload", "strategy=deepspeed strategy.stage=3 strategy.offload=all"),
        ("ddp_find_unused_parameters_true", "strategy=ddp strategy.find_unused=true"),
        ("colossalai", ""),
    ],
)
def test_strategies_of_other_software(word: str, fix: str) -> None:
    assert strategy_for(word) == fix
