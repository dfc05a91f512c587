"""A saved policy loads as the trained policy, also if it starts from an adapter folder or a LoRA parent."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alignlab.judges.base import Answer
from alignlab.judges.reward_model import RewardModel
from alignlab.models.sources.tiny import Tiny
from alignlab.training import run_recorder as point
from tests.models.test_lineage import save_adapter, save_base, write_config

Run = Callable[..., Any]

RUNS = Path("outputs/runs")
DATA = [
    "data=pairs", "data.path=mine.jsonl", "trainer.batch_size=4", "trainer.max_steps=1", "optim.lr=1e-9",
    "evaluation=off",
    "tracking=none",
]  # fmt: skip
ADAPTER = ["model=hub", "model.name=adapter"]
IDS = torch.arange(60, 80)[None]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A base, an adapter that changes it considerably, and pairs."""
    save_adapter(save_base(tmp_path / "base"), tmp_path / "adapter")
    pairs = [{"prompt": f"Say {i}", "chosen": f"{i}!", "rejected": "no, never"} for i in range(12)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    return tmp_path


def only(kind: str, root: Path = RUNS) -> Path:
    (found,) = root.glob(f"{kind}-*[0-9a-f]")
    return found


def logits(folder: Path) -> torch.Tensor:
    """Logits of a saved policy, loaded only with transformers and peft."""
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    adapter = (folder / "adapter_config.json").is_file()
    kind = AutoPeftModelForCausalLM if adapter else AutoModelForCausalLM
    return kind.from_pretrained(str(folder))(IDS).logits.detach()


def test_an_adapter_on_an_adapters_folder(alignlab: Run, folders: Path) -> None:
    """DPO starts from an SFT adapter and learns nothing: it saves the SFT policy. A sweep saves one base."""
    result = alignlab("train", *ADAPTER, "peft=lora", *DATA, "-m", "seed=1,2", "hydra/launcher=serial")
    assert result.code == 0, result.err
    expected = logits(folders / "adapter")
    runs = sorted(RUNS.glob("dpo-*[0-9a-f]"))
    for run in runs:
        torch.testing.assert_close(logits(run / "policy"), expected, atol=1e-5, rtol=0)
    assert (logits(folders / "base") - expected).abs().max() > 0.1
    (base,) = (folder for folder in Path("outputs/bases").iterdir() if folder.is_dir())
    named = {json.loads((run / "policy/adapter_config.json").read_text())["base_model_name_or_path"] for run in runs}
    assert named == {str(base.resolve())}
    assert alignlab("evaluate", f"run={runs[0].name}", "evaluation.max_new_tokens=4").code == 0
    (summary,) = runs[0].glob("evaluation/*/summary.json")
    assert json.loads(summary.read_text())["kl"]["sequence_k1"]["value"] == pytest.approx(0.0, abs=1e-4)


def test_full_fine_tuning_from_an_adapters_folder(alignlab: Run, folders: Path) -> None:
    result = alignlab("train", *ADAPTER, "peft=none", *DATA)
    assert result.code == 0, result.err
    torch.testing.assert_close(logits(only("dpo") / "policy"), logits(folders / "adapter"), atol=1e-5, rtol=0)
    assert not Path("outputs/bases").exists(), "a whole model names no base"
    result = alignlab("train", *ADAPTER, "peft=none", *DATA, "optim.lr=1e-2", "trainer.max_steps=3", "output_root=two")
    assert result.code == 0, result.err
    changed = logits(only("dpo", Path("two/runs")) / "policy") - logits(folders / "adapter")
    assert changed.abs().max() > 0.05


def test_a_chain_of_adapters_ends_in_full_fine_tuning(alignlab: Run, folders: Path) -> None:
    """SFT with LoRA, then DPO with LoRA, then DPO of all weights: each starts where the one before ended."""
    much = ["optim.lr=1e-2", "trainer.max_steps=5", "peft=lora"]
    sft = json.dumps(["objective=sft", *much])
    parent = json.dumps(["objective=dpo", *much, f"model.parent={sft}"])
    result = alignlab("train", "model=tiny", "peft=none", *DATA, f"model.parent={parent}", "objective=ipo")
    assert result.code == 0, result.err
    ends = {kind: logits(only(kind) / "policy") for kind in ("sft", "dpo", "ipo")}
    torch.testing.assert_close(ends["ipo"], ends["dpo"], atol=1e-5, rtol=0)
    assert (ends["dpo"] - ends["sft"]).abs().max() > 0.05
    (summary,) = (json.loads(file.read_text())["summary"] for file in only("ipo").glob("run.json"))
    assert summary["start/loss"] == pytest.approx(25.0, abs=1e-3), "1 / (4 tau^2) at the reference"


def test_a_parents_merged_policy_has_the_parents_dtype(alignlab: Run, folders: Path) -> None:
    parent = json.dumps(["objective=sft", "optim.lr=1e-2", "trainer.max_steps=5", "model.dtype=float32"])
    words = ["model=tiny", "model.dtype=bfloat16", "peft=lora", *DATA, f"model.parent={parent}"]
    assert alignlab("train", *words).code == 0
    assert json.loads((only("sft") / "merged/config.json").read_text())["dtype"] == "float32"


def test_a_reward_model_from_an_adapters_folder(alignlab: Run, folders: Path) -> None:
    """A reward model, loaded again, gives the rewards of the adapter's policy, not those of the base."""
    words = ["objective=reward_model", "peft=lora", *DATA, "optim.lr=1e-2", "trainer.max_steps=4"]
    result = alignlab("train", *ADAPTER, *words, "data.eval_path=mine.jsonl")
    assert result.code == 0, result.err
    judge = RewardModel(model=str(only("reward_model") / "policy"))
    preferred = judge.score([Answer(str(i), (f"Say {i}",), (f"{i}!",)) for i in range(12)])
    assert sum(preferred) / 12 == pytest.approx(0.0, abs=1e-4), "relative to the preferred answers"
    base = json.loads((only("reward_model") / "policy/adapter_config.json").read_text())["base_model_name_or_path"]
    torch.testing.assert_close(logits(Path(base)), logits(folders / "adapter"), atol=1e-5, rtol=0)


def test_the_base_of_an_adapter_decides_the_run(alignlab: Run, folders: Path) -> None:
    """A run with another base of its adapter has another id. The same base in another folder gives the same id."""
    command = ["train", *ADAPTER, "peft=lora", *DATA]
    assert alignlab(*command).code == 0
    first = only("dpo").name
    (folders / "base").rename(folders / "moved")
    write_config(folders / "adapter", base_model_name_or_path="moved")
    assert "done already" in alignlab(*command).err
    save_base(folders / "moved", seed=1)
    assert alignlab(*command).code == 0
    assert len(list(RUNS.glob("dpo-*[0-9a-f]"))) == 2
    assert (RUNS / first).is_dir()


def test_baselines_and_judges_of_adapters(alignlab: Run, folders: Path) -> None:
    """A baseline's base decides the evaluation's folder. A run that trains a judge inherits the peft of the policy."""
    assert alignlab("train", "model=tiny", "peft=lora", "peft.r=3", *DATA).code == 0
    judge = json.dumps(["objective=reward_model", "model=tiny", *DATA, "output_root=judges"])
    words = ["evaluation.baselines=[./adapter]", "evaluation.max_new_tokens=2", "judge=reward_model"]
    words += ["judge.reward_model.model=", f"judge.reward_model.run={judge}"]
    for folders_expected, seed in enumerate((0, 0, 1), start=1):
        save_base(folders / "base", seed=seed)
        result = alignlab("evaluate", "run=dpo", *words)
        assert result.code == 0, result.err
        assert len(list(only("dpo").glob("evaluation/*"))) == min(folders_expected, 1) + (seed == 1)
    config = json.loads((only("reward_model", Path("judges/runs")) / "run.json").read_text())["config"]
    assert config["peft"]["r"] == 3


def test_a_missing_base_is_a_problem_before_anything_starts(alignlab: Run, folders: Path) -> None:
    (folders / "base").rename(folders / "moved")
    write_config(folders / "adapter", base_model_name_or_path=str(folders / "base"))
    result = alignlab("train", *ADAPTER, "peft=lora", *DATA)
    assert result.code == 2
    assert f"belongs to the model {folders / 'base'}, and there is no such folder" in result.err
    assert not RUNS.exists()


@pytest.mark.parametrize("objective", ["dpo", "reward_model"])
def test_a_policy_that_loads_as_another_one_fails(
    objective: str, alignlab: Run, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base that the adapter names is overwritten while the run trains."""
    check = point.check_saved

    def overwritten(*args: Any) -> None:
        model, _ = Tiny(name="t", hidden_size=16, init_seed=7).load()
        model.save_pretrained("base")
        check(*args)

    command = ["train", "model=hub", "model.name=base", "peft=lora", f"objective={objective}", *DATA]
    with monkeypatch.context() as patched:
        patched.setattr(point, "check_saved", overwritten)
        result = alignlab(*command)
    assert result.code == 1
    (record,) = (json.loads(file.read_text()) for file in RUNS.glob("*/run.json"))
    assert record["status"] == "failed"
    said = "is not the one that was trained: it is off by up to "
    assert said in record["reason"]
    far, unit = record["reason"].split(said)[1].split()[:2]
    assert (float(far) > 0.01, unit) == (True, "in" if objective == "reward_model" else "nats")
    assert not (RUNS / record["id"] / "policy").exists()
    assert not list((RUNS / record["id"]).glob("*.tmp"))


def test_points_of_a_vectorized_run_are_checked(alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each saved policy is checked. A point whose policy would load as another one fails; the other point is done."""
    checked = []
    check = point.check_saved

    def spoilt(policy: Any, folder: Path, *args: Any) -> None:
        checked.append(folder.parent.name)
        if len(checked) == 1:
            with torch.no_grad():
                policy.lm_head.weight[0] += 1.0
        check(policy, folder, *args)

    monkeypatch.setattr(point, "check_saved", spoilt)
    lab = [
        "data.alphabet=abc", "data.length=3", "data.prompts=2", "data.prompt_length=1", "data.pair_count=100",
        "data.eval_limit=50", "model.hidden_size=32", "model.parent=[]", "trainer.max_steps=2",
    ]  # fmt: skip
    result = alignlab(
        "train", "experiment=lab_dpo", *lab, "tracking=none", "-m", "objective.beta=0.1,0.3", "launcher=vectorized"
    )
    assert result.code == 3, result.err
    records = {name: json.loads((RUNS / name / "run.json").read_text()) for name in checked}
    assert [records[name]["status"] for name in checked] == ["failed", "done"]
    assert [records[name]["stacked"] for name in checked] == [2, 2]
    assert "nats per token" in records[checked[0]]["reason"]
    assert math.isfinite(records[checked[1]]["summary"]["exact/kl"])
