"""What a script of TRL says without being run: values, rows, weights, and which training is meant."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from alignlab.config.import_trl import LEARNING_RATES
from alignlab.config.trl_script import read_script
from alignlab.errors import ConfigError


def read(script: str, wanted: str = "") -> tuple[str, dict[str, Any], dict[str, str]]:
    """(trainer, arguments, the last note on each argument)."""
    trainer, arguments, notes = read_script(ast.parse(script), LEARNING_RATES, wanted)
    return trainer, arguments, dict(notes)


@pytest.mark.parametrize(
    ("before", "expression", "value"),
    [
        ("RATE = 1e-5", "RATE", 1e-5),
        ("RATE: float = 1e-5", "RATE * 2", 2e-5),
        ("N = 512", "N // 2", 256),
        ("N = 512", "-N", -512),
        ("B = 0.3", "f'dpo-{B}'", "dpo-0.3"),
        ("A = 'out'", "A + '/x'", "out/x"),
        ("C = {'lr': 2e-6}", "C['lr']", 2e-6),
        ("import torch", "torch.bfloat16", "bfloat16"),
        ("", "SchedulerType.COSINE", "cosine"),
        ("K = ['q_proj']\nL = K", "L", ["q_proj"]),
    ],
)
def test_a_value_that_is_made_of_literals_is_known(before: str, expression: str, value: Any) -> None:
    assert read(f"{before}\nDPOConfig(x={expression})")[1]["x"] == value


@pytest.mark.parametrize(
    "script",
    [
        "R = 1\nR = 2\nDPOConfig(x=R)",
        "R = 1\nR += 1\nDPOConfig(x=R)",
        "for R in (1, 2):\n    DPOConfig(x=R)",
        "def train(R):\n    DPOConfig(x=R)\nR = 1",
        "R = {'a': 1}\nR['a'] = 2\nDPOConfig(x=R)",
        "R = [1]\nR.append(2)\nDPOConfig(x=R)",
        "DPOConfig(x=args.lr)",
        "DPOConfig(x=float(text))",
        "R = R\nDPOConfig(x=R)",
        "DPOConfig(x=1 / 0)",
        "DPOConfig(x='a' * 999)",
        "DPOConfig(x=2 ** 999)",
        "\n".join([f"A{i + 1} = [A{i}, A{i}]" for i in range(40)]) + "\nA0 = 1\nDPOConfig(x=A40)",
        "\n".join([f"A{i + 1} = A{i} * A{i}" for i in range(40)]) + "\nA0 = 9\nDPOConfig(x=A40)",
    ],
)  # fmt: skip
def test_a_value_that_may_change_is_a_placeholder(script: str) -> None:
    _, arguments, notes = read(script)
    assert arguments["x"] == "<x>"
    assert "computed when the script runs" in notes["x"]


def test_arguments_of_a_dict_and_those_set_later_count() -> None:
    script = """common = dict(beta=0.3, bf16=is_supported())
args = DPOConfig(**common, **{'seed': 7}, **more)
args.beta = 0.5"""
    _, arguments, notes = read(script)
    assert arguments == {"beta": 0.5, "bf16": "<bf16>", "seed": 7}
    assert notes["bf16"] == "line 1: computed when the script runs: is_supported()"
    assert "** adds arguments" in notes["DPOConfig"]


TWO = """
SFTTrainer(model="org/base", args=SFTConfig(learning_rate=1e-4, packing=True))
first, second = KTOConfig(learning_rate=9.0), KTOConfig(learning_rate=2e-6)
chosen = KTOConfig(learning_rate=1e-6)
KTOTrainer(model, args=chosen)
"""


def test_one_training_of_several_is_read() -> None:
    trainer, arguments, notes = read(TWO)
    assert (trainer, arguments["learning_rate"]) == ("kto", 1e-6)
    assert "packing" not in arguments
    assert "trainer=sft" in notes["sft"]
    trainer, arguments, _ = read(TWO, "sft")
    assert (trainer, arguments["learning_rate"], arguments["model_name_or_path"]) == ("sft", 1e-4, "org/base")
    with pytest.raises(ConfigError, match="which has: sft, kto"):
        read(TWO, "dpo")


@pytest.mark.parametrize(
    ("rows", "train", "held_out", "found"),
    [
        ("d = load_dataset('json', data_files='p.jsonl', split='train')", "d", None, {"dataset_name": "p.jsonl"}),
        (
            "d = load_dataset('csv', data_files={'train': ['a.csv', 'b.csv'], 'test': 'c.csv'})",
            "d['train']",
            "d['test']",
            {"dataset_name": ["a.csv", "b.csv"], "eval_dataset_name": "c.csv"},
        ),
        (
            "d = load_dataset('org/set', 'small')",
            "d['train_prefs']",
            "d['test_prefs'].shuffle(seed=1)",
            {
                "dataset_name": "org/set",
                "dataset_config": "small",
                "dataset_train_split": "train_prefs",
                "dataset_test_split": "test_prefs",
            },
        ),
        (
            "d = load_dataset(path='org/set', split='train[:1%]').train_test_split(test_size=0.2)",
            "d['train']",
            "d['test']",
            {"dataset_name": "org/set", "dataset_train_split": "train[:1%]", "dataset_test_size": 0.2},
        ),
        (
            "d = load_dataset('org/set', split='train').shuffle().select(range(64))\n"
            "e = load_dataset('org/other', split='test')",
            "d",
            "e",
            {
                "dataset_name": "org/set",
                "dataset_limit": 64,
                "eval_dataset_name": "org/other",
                "dataset_test_split": "test",
            },
        ),
        ("d = Dataset.from_json('p.jsonl')", "d", None, {"dataset_name": "p.jsonl"}),
    ],
)
def test_rows_are_followed_to_where_they_are_read(
    rows: str, train: str, held_out: str | None, found: dict[str, Any]
) -> None:
    script = f"{rows}\nDPOTrainer(model='m', train_dataset={train}, eval_dataset={held_out})"
    assert read(script)[1] == {"model_name_or_path": "m", **found}


def test_what_changes_rows_is_named() -> None:
    script = """
d = load_dataset("org/set", split="train")
d = d.map(tidy)
d = d.filter(good).remove_columns("x")
pool.map(f, [1])
KTOTrainer(model="m", train_dataset=prepare(d))
"""
    _, _, notes = read(script)
    assert set(notes) == {"map", "filter", "prepare"}
    assert notes["map"].startswith("line 3: ")


def test_weights_are_followed_to_where_they_are_loaded() -> None:
    script = """
NAME = "org/policy"
other = AutoModelForSequenceClassification.from_pretrained("org/scorer")
model, tokenizer = Fast.from_pretrained(model_name=NAME, torch_dtype=torch.float16, device_map="auto",
                                        quantization_config=BitsAndBytesConfig(load_in_4bit=True))
model = get_peft_model(model, LoraConfig(r=4))
reference = AutoModelForCausalLM.from_pretrained(NAME)
DPOTrainer(model, reference, args=DPOConfig())
"""
    _, arguments, notes = read(script)
    assert arguments["model_name_or_path"] == "org/policy"
    assert (arguments["dtype"], arguments["load_in_4bit"], arguments["lora_r"]) == ("float16", True, 4)
    assert notes == {}
    _, _, notes = read(script.replace("from_pretrained(NAME)", "from_pretrained('org/another')"))
    assert "the reference here is the policy before training" in notes["ref_model"]


def test_rewards_are_named() -> None:
    _, arguments, notes = read("GRPOTrainer(model='m', reward_funcs=[short, polite])")
    assert "reward_model_name_or_path" not in arguments
    assert notes["reward_funcs"] == "line 1: polite"
    assert read("GRPOTrainer('m', 'org/reward')")[1]["reward_model_name_or_path"] == "org/reward"


def test_a_script_of_an_older_trl_is_read() -> None:
    script = """
args = TrainingArguments(per_device_train_batch_size=2)
DPOTrainer(model, None, args=args, tokenizer=t, beta=0.2, loss_type="ipo", callbacks=[Mine()], max_length=LENGTH)
"""
    _, arguments, notes = read(script)
    assert arguments == {
        "per_device_train_batch_size": 2,
        "learning_rate": 5e-5,
        "beta": 0.2,
        "loss_type": "ipo",
        "callbacks": True,
        "max_length": "<max_length>",
        "model_name_or_path": "<model_name_or_path>",
    }
    assert "callbacks" not in notes


def test_arguments_of_the_command_line_are_pointed_out() -> None:
    _, arguments, notes = read("p = TrlParser((DPOConfig,))\nDPOTrainer(m.name, args=p.parse())")
    assert arguments == {"model_name_or_path": "<model_name_or_path>"}
    assert "write them into a YAML file" in notes["TrlParser"]
