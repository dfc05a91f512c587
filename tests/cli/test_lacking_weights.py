"""A tensor is taken out of a file of weights: every verb that reads the file says so, and nothing is filled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alignlab.models.sources.tiny import Tiny
from alignlab.runs.directory import RunDir
from tests.lab_runs import LAB, REWARD, only
from tests.models.taken_out import UP_PROJ, take_out
from tests.test_old_runs import FIXTURE, LOW

Run = Callable[..., Any]

pytestmark = pytest.mark.slow

QUESTIONS = ["evaluation.questions=p.jsonl"]
LORA = [
    "model=hub", "model.name=base", "peft=lora", "data=pairs", "evaluation=off", "data.path=mine.jsonl",
    "trainer.max_steps=2", "trainer.batch_size=4", "tracking=none",
]  # fmt: skip
REWARD_OF = ["model=tiny", "model.name=tiny", "objective=rloo", "reward=reward_model", "reward.run=[]"]


def refusals(alignlab: Run, said: str, *commands: list[str]) -> None:
    """Assert that each command is refused, and says `said`."""
    for words in commands:
        found = alignlab(*words)
        assert (found.code, said in found.err, "Traceback" in found.err) == (2, True, False), (words, found.err)


def verbs(name: str) -> list[list[str]]:
    """Commands that read the policy of a run."""
    return [
        ["evaluate", f"run={name}", "evaluation.prompts=2"],
        ["generate", name, "p.jsonl"],
        ["chat", name],
        ["export", name, "--to", "merged", "again"],
    ]


@pytest.fixture
def prompts(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')


@pytest.mark.usefixtures("prompts")
def test_a_policy_and_an_exported_folder(alignlab: Run) -> None:
    shutil.copytree(FIXTURE, "outputs")
    assert alignlab("export", LOW, "--to", "merged", "exported").code == 0
    take_out(Path("exported/model.safetensors"), UP_PROJ)
    said = f"random numbers: 1 parameter ({UP_PROJ})"
    refusals(
        alignlab, said,
        ["generate", "exported", "p.jsonl"],
        ["chat", "exported"],
        ["evaluate", "model=exported", *QUESTIONS],
        ["evaluate", f"run={LOW}", "evaluation.baselines=[exported]"],
    )  # fmt: skip
    take_out(Path("outputs/runs", LOW, "policy/model.safetensors"), UP_PROJ)
    refusals(alignlab, said, *verbs(LOW))
    assert not Path("again").exists()


@pytest.mark.usefixtures("prompts")
def test_an_adapter_its_base_in_4_bits_and_a_judge_with_an_adapter(alignlab: Run, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    model, tokenizer = Tiny(name="t").load()
    model.save_pretrained("base")
    tokenizer.save_pretrained("base")
    rows = [{"prompt": f"Say {i}", "chosen": f"{i}!", "rejected": "no, never"} for i in range(12)]
    Path("mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for objective in ("dpo", "reward_model"):
        assert alignlab("train", *LORA, "model.quantize=nf4", f"objective={objective}").code == 0
    policy, judge = only("dpo"), only("reward_model")
    judged = [
        ["evaluate", "model=tiny", *QUESTIONS, "judge=reward_model", "judge.reward_model.run=[]",
         f"judge.reward_model.model={judge}/policy"],
        ["train", *LORA, *REWARD_OF, f"reward.model={judge}/policy"],
        ["train", *LORA, *REWARD_OF, f"reward.model={judge}/policy", "objective=ppo", "objective.critic=network"],
        ["export", judge.name, "--to", "merged", "again"],
    ]  # fmt: skip
    adapters = ["export", policy.name, "--to", "adapter", "--base", "org/base", "again"]
    whole = {file: file.read_bytes() for file in (Path("base/model.safetensors"), *Path("outputs").rglob("adapter_*"))}
    for file, part, said, commands in (
        (Path("base/model.safetensors"), UP_PROJ, UP_PROJ, [*verbs(policy.name), adapters, *judged]),
        (policy / "policy/adapter_model.safetensors", "lora_A", "lora_A", [*verbs(policy.name), adapters]),
        (judge / "policy/adapter_model.safetensors", "lora_A", "lora_A", judged),
        (judge / "policy/adapter_model.safetensors", "score", "it was saved without a head", judged),
    ):
        take_out(file, part)
        refusals(alignlab, said, *commands)
        file.write_bytes(whole[file])
    assert not Path("again").exists()


@pytest.mark.parametrize("critic", ["head", "network"])
@pytest.mark.usefixtures("reward_model")
def test_a_critic_in_a_training_state(critic: str, alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run does not resume from a state that lacks a tensor of its critic. It starts anew, and says so."""
    from alignlab.training import callbacks

    command = ["train", *LAB, *REWARD, "objective=ppo", f"objective.critic={critic}", "trainer.max_steps=6"]
    write = callbacks.MetricsCallback.write

    def stop(self: Any, row: dict[str, float]) -> None:
        write(self, row)
        if row.get("train/global_step") == 4 and "train/loss" in row:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.MetricsCallback, "write", stop)
        assert alignlab(*command, "trainer.checkpoint_every=1").code != 0
    run = RunDir.of("outputs", only("ppo").name)
    state = torch.load(run.checkpoint, weights_only=True)
    name = min(name for name in state["state_dict"] if name.startswith("critic."))
    del state["state_dict"][name]
    torch.save(state, run.checkpoint)
    result = alignlab(*command)
    assert result.code == 0, result.err
    assert f"another model (other tensors: 1, the first is {name}), and the run starts anew" in result.err
    assert run.record()["resumed_from"] == 0


@pytest.mark.usefixtures("reward_model")
def test_a_critic_that_starts_from_a_reward_model_without_its_head(alignlab: Run) -> None:
    """Also the judge of an evaluation, and the reward of a run without a critic."""
    file = only("reward_model") / "policy/model.safetensors"
    whole = file.read_bytes()
    for part, said in (("score", "it was saved without a head"), (UP_PROJ, f"random numbers: 1 parameter ({UP_PROJ})")):
        take_out(file, part)
        for words in (["objective=ppo", "objective.critic=network"], ["objective=grpo"]):
            refusals(alignlab, said, ["train", *LAB, *REWARD, *words, "trainer.max_steps=1"])
        file.write_bytes(whole)
