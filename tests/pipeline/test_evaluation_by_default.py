"""The evaluation that a run on text has without being asked: KL, and a win-rate if there is a judge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose

from alignlab.config.plan import plan
from alignlab.data.sources.pairs import Pairs
from alignlab.evaluation.examples import Examples
from alignlab.pipeline.evaluate import _more_held_out, counts_up_to, prompt_counts
from alignlab.training import evaluation_suite
from alignlab.training.evaluation_suite import time_left
from tests.lab_runs import only

TEXT = [
    "model=tiny", "model.hidden_size=8", "model.layers=1", "model.heads=1", "model.intermediate_size=8", "data=pairs",
    "data.path=mine.jsonl", "tracking=none", "trainer.max_steps=2", "trainer.batch_size=4",
]  # fmt: skip


def test_numbers_of_prompts_to_choose_from() -> None:
    assert prompt_counts(64) == [16, 32, 64]
    assert prompt_counts(40) == [16, 32, 40]
    assert prompt_counts(16) == [16]
    assert prompt_counts(8) == [8]
    assert prompt_counts(0)[:3] == [16, 32, 64]
    assert prompt_counts(0)[-1] == 0


def test_how_more_prompts_are_held_out() -> None:
    assert _more_held_out(Pairs(path="x.jsonl")) == "; in a new run, data.eval_fraction=0.5 holds out half of the rows"
    assert _more_held_out(Pairs(path="x", eval_path="y")) == ""
    assert _more_held_out(Pairs(path="x", eval_split="test", eval_limit=1)).endswith("data.eval_limit takes more")


def test_a_point_answers_as_many_prompts_as_the_others_of_its_sweep() -> None:
    """If the data has 40 held-out prompts, an evaluation of up to 64 answered 40."""
    assert counts_up_to([16, 32, 64], 16) == [16]
    assert counts_up_to([16, 32, 64], 40) == [16, 32, 64]
    assert counts_up_to([16, 32, 64, 0], 100) == [16, 32, 64, 0]
    assert counts_up_to([16, 32, 64], 10) == [16], "fewer prompts than the smallest number"
    assert counts_up_to([16, 32], 64) == [16, 32], "the others were asked for more"


@pytest.mark.parametrize(
    ("words", "evaluated"),
    [
        ([], True),
        (["evaluation=off"], False),
        (["debug=fast"], False),
        (["debug=overfit"], False),
        (["reference=none", "objective=orpo"], False),
        (["objective=orpo"], True),
        (["objective=sft"], False),
        (["objective=reward_model"], False),
        (["objective=sft", "evaluation.at_end=true"], True),
    ],
)
def test_who_is_evaluated(words: list[str], evaluated: bool, hydra_conf: None) -> None:
    text = ["model=tiny", "data=support_desk", *words]
    assert plan(compose("train", text), text).is_evaluated_at_end is evaluated


def test_the_lab_samples_nothing(hydra_conf: None) -> None:
    planned = plan(compose("train", []), [])
    assert planned.is_measured_exactly
    assert not planned.is_evaluated_at_end


def test_a_run_has_kl_and_win_rate_once(alignlab: Callable[..., Any], tmp_path: Path) -> None:
    """16 of 30 held-out prompts, because the training took less than a second. The same command adds nothing."""
    rows = [{"prompt": f"Number {i}", "chosen": f"It is {i}", "rejected": "no"} for i in range(60)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "taste.py").write_text("def longer(prompt, answer):\n    return len(answer)\n")
    judged = [*TEXT, "data.eval_fraction=0.5", "judge=gold", "judge.gold.function=taste:longer"]
    said = alignlab("train", *judged)
    assert said.code == 0, said.err
    assert "evaluated on 16 held-out prompts; KL to the reference" in said.out
    assert "win-rate against reference by gold" in said.out
    record = json.loads((only("dpo") / "run.json").read_text())
    assert {"eval/kl_ref/sequence_k1", "eval/winrate/gold", "eval/pairs/accuracy"} <= record["summary"].keys()
    assert record["evaluated_prompts"] == 16
    (file,) = only("dpo").glob("evaluation/*/rows.parquet")
    written = file.stat().st_mtime_ns
    assert alignlab("train", *judged).code == 0
    assert file.stat().st_mtime_ns == written
    unjudged = alignlab("train", *TEXT, "data.eval_fraction=0.5", "seed=2")
    assert "no win-rate, because there is no judge (judge=<name> adds one)" in unjudged.out
    assert "accuracy on held-out pairs" in unjudged.out
    failing = alignlab("train", *TEXT, "data.eval_limit=1", "seed=3")
    assert failing.code == 0, "a run that could not be evaluated is done"


def test_the_time_that_evaluations_may_sample_for() -> None:
    """A tenth of the training without them, less what they have taken."""
    assert time_left(100.0, 0.0) == pytest.approx(10.0)
    assert time_left(110.0, 10.0) == pytest.approx(0.0)
    assert time_left(110.0, 5.0) == pytest.approx(5.5)
    assert time_left(30.0, 10.0) == pytest.approx(-8.0)


def test_evaluations_during_training_keep_within_a_share_of_its_time(
    alignlab: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None if there is no time, and all on 16 prompts if there is."""
    rows = [{"prompt": f"Number {i}", "chosen": f"It is {i}", "rejected": "no"} for i in range(60)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    often = [*TEXT, "data.eval_fraction=0.5", "evaluation.every=1", "evaluation.max_new_tokens=4"]

    def evaluated(share: float, *words: str) -> tuple[list[int], str, float]:
        """(prompts of each evaluation during training, what was logged, seconds of sampling)."""
        monkeypatch.setattr(evaluation_suite, "TIME_SHARE", share)
        said = alignlab("train", *often, *words)
        assert said.code == 0, said.err
        (run,) = (file.parent for file in Path("outputs/runs").glob("*/run.json") if words[0] in file.read_text())
        sizes = [len(Examples.read(folder)) for folder in sorted(run.glob("evaluation/step-*"))]
        return sizes, said.err, json.loads((run / "run.json").read_text())["summary"]["time/sampling_seconds"]

    sizes, said, seconds = evaluated(0.0, "seed=11")
    assert (sizes, seconds) == ([], 0.0)
    assert "2 evaluations during training left out" in said
    assert "evaluation.at_end=true (no limit)" in said
    sizes, said, seconds = evaluated(1e6, "seed=12")
    assert sizes == [16, 16]
    assert seconds > 0
    assert "left out" not in said


def test_the_end_of_a_sweep_says_once_that_a_judge_gives_a_win_rate(
    alignlab: Callable[..., Any], tmp_path: Path
) -> None:
    rows = [{"prompt": f"Number {i}", "chosen": f"It is {i}", "rejected": "no"} for i in range(60)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "taste2.py").write_text("def longer(prompt, answer):\n    return len(answer)\n")
    sweep = [*TEXT, "data.eval_fraction=0.5", "evaluation.max_new_tokens=4", "-m", "seed=1,2"]
    said = alignlab("train", *sweep)
    assert said.code == 0, said.err
    assert said.out.count("judge=<name> adds one") == 1
    assert said.out.index("judge=<name> adds one") < said.out.index("written to outputs/sweeps")
    judged = alignlab("train", *sweep, "judge=gold", "judge.gold.function=taste2:longer")
    assert judged.code == 0, judged.err
    assert "judge=<name>" not in judged.out
    assert "judge=<name>" not in alignlab("train", *sweep, "evaluation=off", "trainer.max_steps=1").out
