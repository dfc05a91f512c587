"""`alignlab check` looks at the rows of a command line: for people, as JSON, and as tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from alignlab.errors import ModelError
from alignlab.models.adapters.lora import LoRA
from alignlab.models.sources.tiny import Tiny
from alignlab.training import audit_rows
from tests.data.families import FAMILIES, tokenizer_of

Run = Callable[..., Any]

TINY = [
    "model=tiny", "model.hidden_size=8", "model.layers=1", "model.heads=1", "model.intermediate_size=8",
    "trainer.batch_size=4", "trainer.max_steps=10", "tracking=none",
]  # fmt: skip


def write(file: Path, *rows: dict[str, Any]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pair(prompt: str, chosen: str = "yes", rejected: str = "no") -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


@pytest.fixture
def pairs(tmp_path: Path) -> list[str]:
    """Eight training pairs (one twice, two that contradict each other, one without a preference), four held out."""
    train = [*(pair(f"p{i}") for i in range(4)), pair("p0"), pair("q"), pair("q", "no", "yes"), pair("r", "x", "x")]
    write(tmp_path / "train.jsonl", *train)
    write(tmp_path / "eval.jsonl", *(pair(prompt) for prompt in ("p0", "p1", "s", "t")))
    return ["check", *TINY, "data=pairs", "data.path=train.jsonl", "data.eval_path=eval.jsonl"]


def document(alignlab: Run, *words: str, code: int = 0) -> dict[str, Any]:
    """The JSON document on standard output, which has nothing else."""
    result = alignlab(*words, "--json")
    assert result.code == code, result.err
    found: dict[str, Any] = json.loads(result.out)
    return found


def warnings_of(audit: dict[str, Any]) -> dict[str, int]:
    return {f"{finding['split']} {finding['name']}": finding["count"] for finding in audit["warnings"]}


def test_warnings_do_not_fail(alignlab: Run, pairs: list[str], tmp_path: Path) -> None:
    result = alignlab(*pairs)
    assert result.code == 0
    assert "training rows: 7, 5 different prompts\n" in result.out
    assert "warning    1 of 7 training rows (14.3%) are the same as an earlier row (train.jsonl, row 5)\n" in result.out
    assert "                 type: 'data.drop=[duplicate]'\n" in result.out
    assert "warning    2 of 4 held-out rows (50.0%) have a prompt that training uses too" in result.out
    assert "10 updates of 4 rows, an epoch is 1.75 updates, 5.71 epochs in all" in result.out
    assert "loss at the start 0.6931" in result.out
    assert "\x1b[" not in result.out, "no colour outside a terminal"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eval.jsonl", "train.jsonl"]


def test_scores_that_contradict_the_labels(alignlab: Run, pairs: list[str], tmp_path: Path) -> None:
    scores = [(1, 2), ("0.5", 0.7), (3, 1), (None, 1), (1, float("nan")), (1, 9)]
    rows = [pair(f"p{i}") | {"score_chosen": a, "score_rejected": b} for i, (a, b) in enumerate(scores)]
    write(tmp_path / "train.jsonl", *rows)
    result = alignlab(*pairs)
    assert "3 of 4 training rows (75.0%) have a score_chosen below their score_rejected" in result.out
    assert "type: 'data.columns={chosen: rejected, rejected: chosen}', if they are" in result.out
    result = alignlab(*pairs, "data.columns={chosen: rejected, rejected: chosen}")
    assert (result.code, "score_chosen below" in result.out) == (0, False)


def test_json(alignlab: Run, pairs: list[str]) -> None:
    found = document(alignlab, *pairs)
    (point,) = found["points"]
    audit = found["audits"][point["audit"]]
    assert warnings_of(audit) == {
        "train identical": 1, "train duplicate": 1, "train swapped": 2, "eval leaked": 2, "eval leaked_row": 2,
    }  # fmt: skip
    tokens = audit["facts"]["train"]["tokens"]
    # the prompt begins with a token of its own, and each answer ends with one
    assert tokens["parts"]["chosen"] == {"count": 7, "mean": 3.86, "median": 4.0, "p95": 4.0, "max": 4}
    assert tokens["parts"]["prompt"]["max"] == 3
    assert point["facts"] == {
        "rows_per_update": 4.0,
        "updates": 10,
        "updates_per_epoch": 1.75,
        "epochs": pytest.approx(40 / 7),
        "tokens_per_update": pytest.approx(4 * tokens["per_row"], abs=0.02),
        "loss_at_start": pytest.approx(0.693147, abs=1e-6),
    }
    assert [run["status"] for run in point["runs"]] == [None]


def test_the_length_of_a_run_in_epochs(alignlab: Run, pairs: list[str]) -> None:
    words = [word for word in pairs if "max_steps" not in word]
    (point,) = document(alignlab, *words, "trainer.max_epochs=2")["points"]
    assert (point["facts"]["updates"], point["facts"]["epochs"]) == (4, pytest.approx(16 / 7))


def test_points_that_share_rows_are_audited_once(
    alignlab: Run, pairs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = []
    original = audit_rows.look_at_texts
    monkeypatch.setattr(
        audit_rows, "look_at_texts", lambda loaded: looked_at.append(len(loaded.rows)) or original(loaded)
    )
    sweep = ["-m", "objective=dpo,ipo,orpo", "strength=0.1,0.5", "trainer.batch_size=2,4"]
    found = document(alignlab, *(word for word in pairs if "batch_size" not in word), *sweep)
    assert (len(found["points"]), len(found["audits"])) == (12, 1)
    assert looked_at == [7, 4]
    losses = [point["facts"]["loss_at_start"] for point in found["points"]]
    known = {round(loss, 4) for loss in losses if loss is not None}
    assert (known, losses.count(None)) == ({0.6931, 25.0, 1.0}, 4), (
        "ln 2 for DPO, 1 / (4 tau^2) for IPO, unknown for ORPO"
    )
    per_row = next(iter(found["audits"].values()))["facts"]["train"]["tokens"]["per_row"]
    assert {round(point["facts"]["tokens_per_update"] / per_row) for point in found["points"]} == {2, 4}


def test_errors_have_exit_code_1(alignlab: Run, tmp_path: Path) -> None:
    """One held-out row is too few for KTO."""
    rows = [{"prompt": f"p{i}", "completion": "a", "label": i % 2 == 0} for i in range(10)]
    write(tmp_path / "rows.jsonl", *rows)
    words = ["check", *TINY, "objective=kto", "data=unpaired", "data.path=rows.jsonl"]
    result = alignlab(*words)
    assert result.code == 1
    assert "error      one held-out row is left, but this objective estimates a KL" in result.out
    assert result.err == "alignlab: 1 error in the data\n"
    (error,) = document(alignlab, *words, code=1)["points"][0]["errors"]
    assert (error["name"], error["split"]) == ("one_row", "eval")


def test_one_sided_labels(alignlab: Run, tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "completion": "a", "label": True} for i in range(20)]
    write(tmp_path / "rows.jsonl", *rows)
    found = document(alignlab, "check", *TINY, "objective=bco", "data=unpaired", "data.path=rows.jsonl")
    (audit,) = found["audits"].values()
    assert warnings_of(audit) == {"train one_sided": 18}
    assert audit["facts"]["train"]["labels"] == {"desirable": 18, "undesirable": 0}
    assert found["points"][0]["remarks"] == [], "told once"


@pytest.mark.parametrize(("asked", "told"), [("4", False), ("5", True), ("0", False)])
def test_too_few_held_out_prompts(asked: str, told: bool, alignlab: Run, pairs: list[str]) -> None:
    point = document(alignlab, *pairs, f"evaluation.prompts={asked}")["points"][0]
    found = [finding["text"] for finding in point["warnings"] if finding["name"] == "few_held_out"]
    assert found == (["evaluation.prompts=5, but only 4 different prompts are held out"] if told else [])


def test_rows_as_tokens(alignlab: Run, tmp_path: Path) -> None:
    """A row is named by its place in the file. A character of several tokens is written once."""
    write(tmp_path / "rows.jsonl", pair("x", "same", "same"), pair("a\nb", "já", "no"), pair("c"))
    write(tmp_path / "eval.jsonl", pair("d"))
    words = ["check", *TINY, "data=pairs", "data.path=rows.jsonl", "data.eval_path=eval.jsonl"]
    result = alignlab(*words, "--show", "1")
    assert "rows.jsonl, row 2\n        prompt      </s>a⏎b\n" in result.out
    assert "        chosen      |j|á|</s>|\n        rejected    |n|o|</s>|\n" in result.out
    assert "row 3" not in result.out
    (audit,) = document(alignlab, *words, "--show", "5")["audits"].values()
    assert [row["place"] for row in audit["shown"]] == ["rows.jsonl, row 2", "rows.jsonl, row 3"]
    assert audit["shown"][0]["answers"]["chosen"][-1] == {"text": "</s>", "special": True}


def test_a_sample_of_many_rows(alignlab: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All texts are looked at, so the duplicate is found; and it is said how many rows were not tokenized."""
    monkeypatch.setattr(audit_rows, "SAMPLE", 5)
    write(tmp_path / "rows.jsonl", *(pair(f"p{i % 11}") for i in range(12)))
    write(tmp_path / "eval.jsonl", pair("d"))
    words = ["check", *TINY, "data=pairs", "data.path=rows.jsonl", "data.eval_path=eval.jsonl"]
    (some,) = document(alignlab, *words)["audits"].values()
    assert warnings_of(some)["train duplicate"] == 1
    assert some["facts"]["train"]["tokens"]["rows"] == 5
    assert some["unchecked"] == ["the tokens of 7 of 12 train rows; --rows all looks at them too"]
    (every,) = document(alignlab, *words, "--rows", "all")["audits"].values()
    assert every["facts"]["train"]["tokens"]["rows"] == 12
    assert every["unchecked"] == []


def test_rows_that_a_chat_template_renders(alignlab: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the model has no weights, because a check needs none."""
    (family,) = (family for family in FAMILIES if family.name == "chatml")
    tokenizer = tokenizer_of(family)
    tokenizer.save_pretrained(tmp_path / "model")
    LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64).save_pretrained(tmp_path / "model")
    write(tmp_path / "rows.jsonl", pair("p"), pair("<|im_start|>user\nq<|im_end|>"))
    write(tmp_path / "eval.jsonl", pair("d"))
    words = ["check", "model=hub", "model.name=./model", "data=pairs", "data.path=rows.jsonl"]
    words += ["data.eval_path=eval.jsonl", "data.max_length=64", "data.max_prompt_length=48", "tracking=none"]
    (audit,) = document(alignlab, *words, code=1)["audits"].values()
    (error,) = audit["errors"]
    assert error["name"] == "unusable_rows"
    assert "row 2" in error["text"]
    assert "<|im_end|>, <|im_start|>" in error["text"]
    assert "type data.template=none" in error["text"]
    assert audit["facts"] == {}
    shown = alignlab(*words, "data.template=none", "--show", "2")
    assert shown.code == 0
    assert "        prompt      <|im_start|>user⏎q<|im_end|>\n        chosen      |y|e|s|<|im_end|>|\n" in shown.out
    write(tmp_path / "rows.jsonl", *(pair(f"p{i}") for i in range(5)))
    monkeypatch.setattr(audit_rows, "COMPARED", 3)
    (some,) = document(alignlab, *words)["audits"].values()
    assert some["facts"]["train"]["tokens"]["compared"] == 3
    text = "the ids of 2 of 5 train rows against the tokenizer's own rendering"
    assert some["unchecked"] == [f"{text}; --rows all compares them too"]
    assert document(alignlab, *words, "--rows", "all")["audits"].popitem()[1]["unchecked"] == []
    too_long = alignlab(*words, "data.template=none", "data.max_length=128", "data.max_prompt_length=96")
    assert too_long.code == 0, "no row is longer than the model"


def test_a_model_out_of_reach_is_unchecked(alignlab: Run, pairs: list[str]) -> None:
    words = [word for word in pairs if not word.startswith("model")]
    result = alignlab(*words, "model=hub", "model.name=nobody/no-such-model")
    assert result.code == 0
    assert "unchecked  the tokens: the tokenizer of nobody/no-such-model can't be loaded" in result.out
    assert "1 of 7 training rows (14.3%) are the same as an earlier row" in result.out, "texts are looked at"


def test_a_data_set_out_of_reach_is_unchecked(alignlab: Run) -> None:
    found = document(alignlab, "check", *TINY, "data=hh_rlhf")
    (audit,) = found["audits"].values()
    (unchecked,) = audit["unchecked"]
    assert unchecked.startswith("the rows: Anthropic/hh-rlhf can't be reached")
    assert found["points"][0]["facts"]["epochs"] is None


def test_rows_of_the_lab_are_not_looked_at(alignlab: Run) -> None:
    result = alignlab("check", "experiment=lab_dpo")
    assert "the rows are made when the run starts and are not checked" in result.out
    assert document(alignlab, "check", "experiment=lab_dpo")["audits"] == {}


def test_a_sweep_says_once_that_rows_are_not_checked_and_what_its_launcher_would_start(alignlab: Run) -> None:
    pytest.importorskip("submitit", reason='pip install "alignlab[slurm]"')
    words = ["launcher=slurm", "launcher.cluster=local", "launcher.partition=gpu"]
    found = alignlab("check", "experiment=lab_dpo", "-m", "seed=1,2", *words).out
    assert found.count("are not checked") == found.count("the rows of 2 points are made") == 1
    assert "2 jobs for what the points need, then 2 jobs for the points, as processes of this machine" in found
    assert re.search(r"each job: gpus=1, cpus=4, .*partition=gpu\n", found)
    assert "this is one run, which computes here" in alignlab("check", "experiment=lab_dpo", *words).err


def test_wrong_flags(alignlab: Run) -> None:
    result = alignlab("check", "--rows", "some")
    assert result.code == 2
    assert "invalid choice: 'some' (choose from 'all')" in result.err
    assert "--show N     show the first N training rows as tokens" in alignlab("check", "--help").out


def test_what_a_run_records_is_what_check_says(alignlab: Run, pairs: list[str], tmp_path: Path) -> None:
    words = [*pairs[1:], "data.drop=[duplicate,swapped,leaked]"]
    (audit,) = document(alignlab, "check", *words)["audits"].values()
    result = alignlab("train", *words, "trainer.max_steps=1")
    assert result.code == 0, result.err
    (run,) = tmp_path.glob("outputs/runs/dpo-*")
    data = json.loads((run / "run.json").read_text())["data"]
    assert data["audit"]["facts"] == audit["facts"]
    assert data["audit"]["warnings"] == audit["warnings"]
    assert data["train"]["dropped"] == {
        "identical answers": 1, "prompt is held out": 3, "same pair the other way round": 2,
    }  # fmt: skip
    assert data["train"]["rows"] == 2
    listed = [json.loads(line) for line in (run / "dropped.jsonl").read_text().splitlines()]
    assert {"split": "train", "file": "train.jsonl", "row": 8, "reason": "identical answers"} in listed
    assert sorted((row["row"], row["reason"]) for row in listed) == [
        (1, "prompt is held out"), (2, "prompt is held out"), (5, "prompt is held out"),
        (6, "same pair the other way round"), (7, "same pair the other way round"), (8, "identical answers"),
    ]  # fmt: skip


def test_a_run_stops_on_errors(alignlab: Run, tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "completion": "a", "label": True} for i in range(10)]
    write(tmp_path / "rows.jsonl", *rows)
    result = alignlab("train", *TINY, "objective=kto", "data=unpaired", "data.path=rows.jsonl")
    assert result.code == 2
    assert "one held-out row is left" in result.err
    (record,) = tmp_path.glob("outputs/runs/*/run.json")
    assert json.loads(record.read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("targets", "lacking"), [("q_proj,no_such", "no_such"), ("nope", "nope"), ("q_proj,v_proj", "")]
)
def test_layers_of_an_adapter_that_the_model_lacks(targets: str, lacking: str, alignlab: Run) -> None:
    """peft itself refuses them only if the model has none of them. The check does so without weights."""
    words = ["peft=lora", f"peft.target_modules='{targets}'"]
    found = alignlab("check", "experiment=lab_dpo", *words)
    assert found.code == (2 if lacking else 0), found.err
    if lacking:
        assert f"the model has no layer named {lacking}\n  its linear layers: q_proj, k_proj, v_proj" in found.err
        with pytest.raises(ModelError, match=f"no layer named {lacking}"):
            LoRA(target_modules=targets).wrap(Tiny(name="t", alphabet="abc").load()[0])
