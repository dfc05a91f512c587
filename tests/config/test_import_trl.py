"""TRL's arguments become a command line that alignlab accepts, with the losses that tests/peers holds equal."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from alignlab.config.composer import without_hydra
from alignlab.config.hydra_errors import unreadable
from alignlab.config.import_trl import LEARNING_RATES, import_trl
from alignlab.config.paths import conf_dir
from alignlab.config.preflight import to_train
from alignlab.config.schemas import Train
from alignlab.errors import ConfigError
from alignlab.objectives.aot import AOT
from alignlab.objectives.bco import BCO
from alignlab.objectives.cpo import CPO
from alignlab.objectives.discopop import DiscoPOP
from alignlab.objectives.dpo import DPO
from alignlab.objectives.exo import EXO
from alignlab.objectives.grpo import GRPO
from alignlab.objectives.ipo import IPO
from alignlab.objectives.kto import KTO
from alignlab.objectives.ld_dpo import LDDPO
from alignlab.objectives.length_dpo import LengthDPO
from alignlab.objectives.mix import Mix
from alignlab.objectives.orpo import ORPO
from alignlab.objectives.reward_model import RewardModel
from alignlab.objectives.rloo import RLOO
from alignlab.objectives.robust_dpo import RobustDPO
from alignlab.objectives.sft import SFT
from alignlab.objectives.simpo import SimPO
from alignlab.objectives.wpo import WPO

CLI = Callable[..., Any]
NAMES = {"model_name_or_path": "org/model", "dataset_name": "org/dataset"}


def written(folder: Path, **arguments: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps({**NAMES, **arguments}))
    return file


def composed(words: list[str]) -> Train:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return to_train(
            without_hydra(compose("train", [word.replace("<module>:<function>", "math:dist") for word in words]))
        )


@pytest.mark.parametrize(
    ("trainer", "arguments", "objective"),
    [
        ("dpo", {}, DPO(beta=0.1)),
        ("dpo", {"beta": 0.3, "loss_type": "ipo"}, IPO(tau=0.3, dialect="trl1")),
        ("dpo", {"loss_type": ["exo_pair"], "label_smoothing": 0.001}, EXO(beta=0.1, epsilon=0.001)),
        ("dpo", {"loss_type": "robust", "label_smoothing": 0.2}, RobustDPO(beta=0.1, label_smoothing=0.2)),
        ("dpo", {"loss_type": "robust"}, RobustDPO(beta=0.1, label_smoothing=0.0)),
        ("dpo", {"loss_type": "aot_unpaired"}, AOT(beta=0.1, pairing="unpaired")),
        ("dpo", {"loss_type": "discopop", "discopop_tau": 0.5}, DiscoPOP(beta=0.1, tau=0.5)),
        ("dpo", {"loss_type": "sigmoid_norm"}, LengthDPO(beta=0.1)),
        ("dpo", {"use_weighting": True}, WPO(beta=0.1, dialect="trl1")),
        ("dpo", {"ld_alpha": 0.4}, LDDPO(beta=0.1, alpha=0.4, dialect="trl1")),
        (
            "dpo",
            {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3},
            DPO(beta=0.1, divergence="alpha", divergence_alpha=0.3),
        ),
        ("kto", {"desirable_weight": 1.33}, KTO(beta=0.1, desirable_weight=1.33)),
        ("sft", {}, SFT()),
        ("reward", {"center_rewards_coefficient": 0.01}, RewardModel(centring=0.01)),
        ("orpo", {"beta": 0.2}, ORPO(odds_weight=0.2, nll="tokens")),
        ("cpo", {"cpo_alpha": 0.3}, CPO(beta=0.1, nll_weight=0.3, dialect="trl1")),
        ("cpo", {"loss_type": "simpo", "cpo_alpha": 0.0}, SimPO(beta=0.1, gamma=0.5, dialect="trl1")),
        ("rloo", {"num_generations": 4}, RLOO(beta=0.05, samples=4)),
        ("grpo", {"epsilon_high": 0.28}, GRPO(beta=0.0, samples=8, clip_higher=0.28, normaliser="tokens")),
    ],
)  # fmt: skip
def test_the_objective_is_the_one_that_trl_trains(
    trainer: str, arguments: dict[str, Any], objective: Any, tmp_path: Path
) -> None:
    assert composed(import_trl(written(tmp_path, **arguments), trainer).words).objective == objective


def test_a_weighted_sum_doubles_the_part_of_bco(tmp_path: Path) -> None:
    """tests/peers/test_trl_dpo.py: TRL adds BCO's losses of both answers, and alignlab takes their mean."""
    arguments = {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.5]}
    found = composed(import_trl(written(tmp_path, **arguments), "dpo").words).objective
    assert isinstance(found, Mix)
    kept = [{key: part[key] for key in ("name", "dialect", "beta", "weight") if key in part} for part in found.parts]
    assert kept == [
        {"name": "dpo", "dialect": "paper", "beta": 0.1, "weight": 0.8},
        {"name": "bco", "dialect": "trl1", "beta": 0.1, "weight": 0.4},
        {"name": "sft", "weight": 1.5},
    ]
    (one,) = [
        w for w in import_trl(written(tmp_path, loss_type="bco_pair"), "dpo").words if w.startswith("objective.p")
    ]
    assert one == "objective.parts=[{name:bco,dialect:trl1,beta:0.1,weight:2.0}]"
    assert BCO(beta=0.1, dialect="trl1").shift == "none"


@pytest.mark.parametrize("trainer", sorted(LEARNING_RATES))
def test_what_is_left_open_has_trls_default(trainer: str, tmp_path: Path) -> None:
    """Held against TRL's own dataclasses if it is installed: the learning rate, the batch, the length, the seed."""
    online = trainer in ("rloo", "grpo")
    train = composed(import_trl(written(tmp_path), trainer).words)
    assert (train.optim.lr, train.optim.schedule, train.optim.weight_decay) == (LEARNING_RATES[trainer], "linear", 0.0)
    rows = {"grpo": 1, "rloo": 4}.get(trainer, 8)  # TRL counts answers: 8 are one prompt of GRPO, and 4 of RLOO
    assert (train.trainer.batch_size, train.trainer.max_epochs, train.trainer.gradient_clip) == (rows, 3.0, 1.0)
    assert train.seed == 42
    assert train.data.max_length == 1024 or online
    trl = pytest.importorskip("trl")
    if config := getattr(trl, {"dpo": "DPOConfig", "kto": "KTOConfig", "sft": "SFTConfig", "reward": "RewardConfig",
                               "rloo": "RLOOConfig", "grpo": "GRPOConfig"}.get(trainer, ""), None):  # fmt: skip
        theirs = config(output_dir=str(tmp_path), bf16=False, use_cpu=True, report_to=[])
        assert (theirs.learning_rate, theirs.per_device_train_batch_size, theirs.num_train_epochs, theirs.seed) == (
            train.optim.lr, 8, train.trainer.max_epochs, train.seed,
        )  # fmt: skip
        assert online or theirs.max_length == train.data.max_length
        assert not online or theirs.generation_batch_size == rows * theirs.num_generations


def test_a_script_is_parsed_and_not_run(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        f"""
import pathlib
pathlib.Path({str(tmp_path / "ran")!r}).touch()
from trl import KTOConfig, KTOTrainer
RATE = float("1e-5")
model = AutoModelForCausalLM.from_pretrained("org/model")
rows = load_dataset("org/dataset", "small", split="train[:1%]")
args = KTOConfig(output_dir="x", beta=0.2, learning_rate=RATE, per_device_train_batch_size=2,
                 gradient_accumulation_steps=3, max_steps=20, **more)
KTOTrainer(model=model, args=args, peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
"""
    )
    found = import_trl(script)
    assert not (tmp_path / "ran").exists()
    assert found.trainer == "kto"
    wanted = {"model.name=org/model", "data=unpaired", "data.path=org/dataset", "data.subset=small",
              "data.split=train[:1%]", "objective.beta=0.2", "trainer.batch_size=6", "trainer.max_steps=20", "peft.r=4",
              "peft.alpha=8", "peft.dropout=0.0", "peft.target_modules='q_proj,v_proj'",
              "optim.lr=<learning_rate>"}  # fmt: skip
    assert wanted <= set(found.words)
    assert ("learning_rate", "line 8: computed when the script runs: RATE") in found.notes
    assert any(name == "KTOConfig" and "** adds arguments" in text for name, text in found.notes)


def test_what_has_no_counterpart_is_listed(tmp_path: Path) -> None:
    arguments = {"label_smoothing": 0.1, "sync_ref_model": True, "warmup_ratio": 0.1, "bf16": True, "optim": "lion",
                 "lr_scheduler_type": "polynomial", "save_steps": 0.2, "output_dir": "x"}  # fmt: skip
    found = import_trl(written(tmp_path, **arguments), "dpo")
    always = {"per_device_train_batch_size", "eval_dataset"}
    assert {name for name, _ in found.notes} == {*arguments, *always} - {"output_dir"}


def test_rows_of_an_online_training_are_prompts(tmp_path: Path) -> None:
    """TRL 1.16: one update has per_device_train_batch_size x gradient_accumulation_steps answers."""
    arguments = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 2, "num_generations": 8,
                 "steps_per_generation": 8, "num_iterations": 3}  # fmt: skip
    train = composed(import_trl(written(tmp_path, **arguments), "grpo").words)
    assert (train.trainer.batch_size, train.trainer.micro_batch_size) == (4, 2)
    assert (train.rollout.minibatches, train.rollout.epochs) == (4, 3)
    uneven = import_trl(written(tmp_path, num_generations=3), "grpo")
    assert "trainer.batch_size=<prompts of an update>" in uneven.words


@pytest.mark.parametrize(
    ("arguments", "words", "left_out"),
    [
        ({"report_to": "none"}, {"tracking=none"}, ""),
        ({"report_to": ["wandb", "tensorboard"]}, {"tracking=[wandb,tensorboard]"}, ""),
        ({"report_to": "comet_ml"}, set(), "report_to"),
        ({"eval_strategy": "steps", "eval_steps": 5}, {"trainer.eval_every=5", "data.eval_split=test"}, ""),
        ({"eval_strategy": "steps", "logging_steps": 5}, {"trainer.eval_every=5", "trainer.log_every=5"}, ""),
        ({"eval_strategy": "epoch"}, {"data.eval_split=test"}, "eval_strategy"),
        ({"warmup_ratio": 0.1, "max_steps": 25}, {"optim.warmup_steps=3", "trainer.max_steps=25"}, ""),
        ({"warmup_steps": 0.1, "max_steps": 25}, {"optim.warmup_steps=3"}, ""),
        ({"warmup_ratio": 0.1}, {"optim.warmup_steps=<warmup_ratio x updates>"}, "warmup_ratio"),
        ({"datasets": [{"path": "a/b", "split": "train[:9]"}]}, {"data.path=a/b", "data.split=train[:9]"}, ""),
        ({"datasets": [{"path": "a/b"}, {"path": "a/c"}]}, set(), "datasets"),
        ({"model_init_kwargs": {"torch_dtype": "bfloat16"}}, {"model.dtype=bfloat16"}, ""),
        ({"rpo_alpha": 0.5}, {"objective=mix"}, ""),
        ({"max_seq_length": 256}, {"data.max_length=256", "data.max_prompt_length=255"}, ""),
        ({"max_completion_length": 64}, {"data.max_length=1024"}, "max_completion_length"),
        ({"loss_type": "unheard"}, {"objective=<objective>"}, "loss_type"),
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1]}, {"objective=mix"}, "loss_weights"),
        ({"use_vllm": False, "sync_ref_model": False, "max_grad_norm": None, "env": None}, set(), ""),
    ],
)
def test_an_argument_becomes_words_or_a_note(
    arguments: dict[str, Any], words: set[str], left_out: str, tmp_path: Path
) -> None:
    found = import_trl(written(tmp_path, **arguments), "dpo")
    assert words <= set(found.words)
    assert {name for name, _ in found.notes} - {"per_device_train_batch_size", "eval_dataset"} == {left_out} - {""}


def test_vllm_samples_the_answers_of_an_online_training(tmp_path: Path) -> None:
    assert import_trl(written(tmp_path, use_vllm=True), "grpo").words[:2] == ["engine=vllm", "objective=grpo"]
    assert import_trl(written(tmp_path, use_vllm=False), "grpo").words[0] == "objective=grpo"
    assert "use_vllm" in dict(import_trl(written(tmp_path, use_vllm=True), "dpo").notes)


def test_a_reward_model_is_the_reward(tmp_path: Path) -> None:
    words = import_trl(written(tmp_path, reward_model_name_or_path="org/reward"), "rloo").words
    assert {"reward=reward_model", "reward.model=org/reward", "reward.run=[]"} <= set(words)


@pytest.mark.parametrize("trainer", ["dpo", "cpo", "grpo"])
@pytest.mark.parametrize("value", ["<computed>", [1], 1e400])
def test_a_value_of_any_kind_is_taken(trainer: str, value: Any, tmp_path: Path) -> None:
    """A placeholder of a script, or a mistake in a file, does not end the translation."""
    names = [
        "loss_type", "loss_weights", "beta", "label_smoothing", "learning_rate", "optim", "lr_scheduler_type",
        "warmup_ratio", "warmup_steps", "max_steps", "num_train_epochs", "per_device_train_batch_size", "report_to",
        "gradient_accumulation_steps", "max_length", "max_prompt_length", "truncation_mode", "bf16", "dtype", "lora_r",
        "lora_target_modules", "eval_steps", "eval_strategy", "save_steps", "num_generations", "steps_per_generation",
        "scale_rewards", "cpo_alpha", "f_divergence_type", "datasets", "dataset_test_size", "model_init_kwargs",
        "center_rewards_coefficient", "seed", "load_in_4bit", "use_weighting", "ld_alpha", "packing",
    ]  # fmt: skip
    for name in names:
        assert import_trl(written(tmp_path, **{name: value}), trainer).words[0].partition("=")[0] in (
            "objective",
            "optim",
        )


@pytest.mark.parametrize(
    ("content", "words", "text"),
    [
        ("learning_rate: 1e-6", [], "trainer=dpo"),
        ("learning_rate: 1e-6", ["trainer=dop"], "trainer=dpo"),
        ("- 1\n- 2", ["trainer=dpo"], "must hold arguments"),
        ("a: [", ["trainer=dpo"], "can't be read"),
        ("a: 1", ["trainer=dpo", "to=x"], "only trainer=<name> is"),
        ("beta: 0.1\nbeta: 0.5", ["trainer=dpo"], "these keys are there twice: beta"),
        ("beta: &a {x: *a}", ["trainer=dpo"], "can't be read: Circular reference"),
    ],
)
def test_mistakes_are_told(content: str, words: list[str], text: str, tmp_path: Path, alignlab: CLI) -> None:
    (tmp_path / "config.yaml").write_text(content)
    found = alignlab("import-trl", "config.yaml", *words)
    assert found.code == 2
    assert text in found.err


def test_files_that_can_not_be_read_are_told(tmp_path: Path, alignlab: CLI) -> None:
    (tmp_path / "twice.json").write_text('{"seed": 1, "seed": 2}')
    (tmp_path / "wide.yaml").write_bytes("beta: 0.1".encode("utf-16"))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large.yaml").touch()
    os.truncate(tmp_path / "large.yaml", 1 << 40)
    told = {
        "twice.json": "these keys are there twice: seed", "wide.yaml": "save it as UTF-8",
        "nothing.yaml": "No such file", "pipe": "is a device or a pipe", "/dev/zero": "is a device or a pipe",
        "large.yaml": "is too large",
    }  # fmt: skip
    for name, text in told.items():
        found = alignlab("import-trl", name, "trainer=dpo")
        assert (found.code, text in found.err) == (2, True), found.err


def test_a_script_has_the_encoding_that_it_declares(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_bytes("# -*- coding: latin-1 -*-\n# ä\nDPOConfig(beta=0.3)".encode("latin-1"))
    assert "objective.beta=0.3" in import_trl(file, "dpo").words


@pytest.mark.parametrize("trainer", ["dpo", "kto", "grpo"])
def test_placeholders_are_told_before_a_run(trainer: str, tmp_path: Path) -> None:
    """Each word with a placeholder, as it was printed, is a problem that says so."""
    script = tmp_path / "train.py"
    names = {"dpo": "DPO", "kto": "KTO", "grpo": "GRPO"}
    script.write_text(
        f"args = {names[trainer]}Config(learning_rate=a(), beta=b(), per_device_train_batch_size=c())\n"
        f"{names[trainer]}Trainer(args=args, peft_config=LoraConfig(target_modules=d()))\n"
    )
    words = [word for word in import_trl(script).words if "<" in word]
    assert {word.partition("=")[0] for word in words} >= {"model.name", "data.path", "optim.lr", "objective.beta",
                                                          "peft.target_modules", "trainer.batch_size"}  # fmt: skip
    for word in words:
        with pytest.raises(HydraException):
            OverridesParser.create().parse_override(word)
        problem = unreadable(word)
        assert re.fullmatch(r"can't be read: <[\w ,x]+> stands for a value of yours; .*", problem.allowed), word
        assert problem.type_this == f"{word.partition('=')[0]}=..."


def test_the_command_is_printed(tmp_path: Path, alignlab: CLI) -> None:
    (tmp_path / "config.yaml").write_text("learning_rate: 5e-7\nloss_type: [sigmoid, sft]\nloss_weights: [1, 0.5]\n")
    found = alignlab("import-trl", "config.yaml", "trainer=dpo")
    assert found.code == 0
    assert "alignlab train objective=mix" in found.out
    assert "    optim.lr=5e-07 \\\n" in found.out
    assert "    'model.name=<hub name or folder>' \\\n" in found.out, "it can be pasted into a shell"
    assert "Replace what is between < and >." in found.out
    with pytest.raises(ConfigError, match="can't be read"):
        import_trl(tmp_path / "none.yaml", "dpo")
