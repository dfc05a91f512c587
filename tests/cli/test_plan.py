"""`alignlab plan`: what it prints, as text and as JSON, and what it says of mistakes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

Run = Callable[..., Any]

SMALL = ["model=tiny", "data=pairs", "data.path=no_such_file.jsonl", "tracking=none"]


def test_a_run_that_fits(alignlab: Run) -> None:
    found = alignlab("plan", *SMALL, "peft=lora", "--gpu", "t4", "--prompt", "100", "--answer", "20")
    assert found.code == 0, "files need not exist"
    assert "a forward pass: 8 sequences of 140 tokens" in found.out
    assert "fits on t4 (16 GiB, 90 % for tensors)" in found.out
    assert "100 updates: at least " in found.out, "of a model this small, only a lower bound is known"
    assert "or change" not in found.out


def test_a_run_that_does_not_fit(alignlab: Run) -> None:
    words = ["model=llama3_1_8b", "data=ultrafeedback_binarized", "optim.lr=1e-6", "trainer.max_epochs=1"]
    found = alignlab("plan", *words, "--gpu", "rtx4090").out
    weights = 4 * 8_030_261_248 / 2**30
    assert re.search(rf"weights +{weights:.2f}\n +gradients +{weights:.2f}\n +optimizer +{2 * weights:.2f}\n", found)
    assert "does not fit on rtx4090 (24 GiB, 90 % for tensors)\n  with a larger batch, it fits on 32 devices" in found
    assert "(trainer.devices=32 strategy=fsdp trainer.batch_size=32)" in found, "as `train` would accept it"
    assert (
        "\n  as it is, it fits on 32 devices"
        in alignlab("plan", *words, "trainer.batch_size=32", "--gpu", "rtx4090").out
    )
    (typed,) = re.findall(r"\n  type: (.*)\n", found)
    assert typed.split()[-1] in ("peft=lora", "peft=qlora")
    assert "1,000 updates (trainer.max_epochs decides their number)" in found


def test_runs_that_come_first_are_planned_too(alignlab: Run) -> None:
    first, second = json.loads(alignlab("plan", *SMALL, "model.parent=sft", "--json").out)["runs"]
    assert [run["id"].split("-")[0] for run in (first, second)] == ["sft", "dpo"]
    assert (first["micro_batch"]["length"], second["micro_batch"]["length"]) == (512, 640)
    assert first["memory"]["weights"] == second["memory"]["weights"] == 4 * first["parameters"]
    assert first["time_is_lower_bound"]
    assert (second["updates"], second["fits"], second["advice"], second["devices_needed"]) == (100, True, [], 1)


def test_what_train_refuses_is_not_planned(alignlab: Run) -> None:
    four_bits = ["model=llama3_1_8b", "data=ultrafeedback_binarized", "peft=qlora"]
    assert "\n  no number of devices holds it" in alignlab("plan", *four_bits, "--gpu", "rtx4090").out
    found = alignlab("plan", *four_bits, "--devices", "3", "--strategy", "fsdp")
    assert found.code == 2
    for said in ("2 problems", "type: trainer.batch_size=15", "can't divide weights of 4 bits", "type: --strategy ddp"):
        assert said in found.err


def test_mistakes(alignlab: Run) -> None:
    found = alignlab("plan", *SMALL, "--gpu", "h10", "--devices", "0", "--strategy", "ddpp")
    assert found.code == 2
    for said in ("--gpu = h10", "type: --gpu h100", "--devices = 0", "--strategy = ddpp", "must be one of: ddp"):
        assert said in found.err
    for typed, near in (("A100", "type: --gpu a100_40   or   --gpu a100_80"), ("rtx9999", "h200, b200\n")):
        assert alignlab("plan", *SMALL, "--gpu", typed).err.rstrip("\n").endswith(near.rstrip("\n"))
    flag = alignlab("plan", *SMALL, "--gpus", "t4")
    assert (flag.code, flag.err.rstrip().endswith("type: --gpu t4")) == (2, True)
    long = alignlab("plan", *SMALL, "data.max_length=4000")
    assert (long.code, "the model 2048 positions" in long.err) == (2, True)
    many = alignlab("plan", *SMALL, "-m", "seed=1,2")
    assert (many.code, "leave out: -m" in many.out) == (2, True)
    unknown = alignlab("plan", "model=hub", "model.name=org/none", "data=pairs", "data.path=x")
    assert (unknown.code, "org/none" in unknown.err) == (2, True)


def test_devices_and_strategy_are_those_of_the_run_unless_they_are_given(alignlab: Run) -> None:
    shared = ["plan", *SMALL, "trainer.devices=2", "strategy=fsdp"]
    assert "(2 devices, fsdp)" in alignlab(*shared).out
    assert "(4 devices, ddp)" in alignlab(*shared, "--devices", "4", "--strategy", "ddp").out


def test_online_time_on_more_devices(alignlab: Run) -> None:
    online = ["plan", *SMALL[:-1], "objective=grpo", "reward=gold", "reward.function=m:f", "tracking=none"]

    def steps(devices: int) -> float:
        found = alignlab(*online, "rollout.batch_size=64", "--gpu", "T4", "--devices", str(devices), "--json")
        return json.loads(found.out)["runs"][-1]["work"]["steps"]

    assert (steps(1), steps(2), steps(4)) == (2 * steps(2), steps(4), steps(4)), "128 answers, 64 at a time"
    said = "more devices do not shorten this part"
    assert said in alignlab(*online, "--devices", "4").out
    assert said not in alignlab(*online, "rollout.batch_size=8", "--devices", "4").out


def test_one_device_has_no_strategy(alignlab: Run) -> None:
    assert "no use for --strategy fsdp" in alignlab("plan", *SMALL, "--strategy", "fsdp").out
