"""Benchmarks of lm-eval: the scores of its items, and a small local task."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from alignlab.errors import ConfigError
from alignlab.evaluation.benchmarks.lm_eval import LmEval, _silent_programs, scores_of
from alignlab.models.sources.tiny import Tiny

TASK = """
task: sums
dataset_path: json
dataset_kwargs:
  data_files: {test: %s}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}} ="
doc_to_choice: ["2", "3"]
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def test_scores_of_items() -> None:
    samples = {
        "gsm8k": [
            {"doc_id": 1, "filter": "strict", "metrics": ["exact_match"], "exact_match": 0.0},
            {"doc_id": 0, "filter": "strict", "metrics": ["exact_match"], "exact_match": 1.0},
            {"doc_id": 0, "filter": "loose", "metrics": ["exact_match"], "exact_match": 1.0},
        ],
        "ifeval": [
            {"doc_id": 0, "filter": "none", "metrics": ["prompt", "inst"], "prompt": True, "inst": [True, False]},
            {"doc_id": 1, "filter": "none", "metrics": ["prompt", "inst"], "prompt": False, "inst": [False]},
        ],
    }
    assert scores_of(samples) == {
        "gsm8k/exact_match/strict": [1.0, 0.0],
        "gsm8k/exact_match/loose": [1.0],
        "ifeval/prompt": [1.0, 0.0],
        "ifeval/inst": [1.0, 0.0, 0.0],
    }


def test_settings_that_are_wrong() -> None:
    with pytest.raises(ConfigError) as caught:
        LmEval(tasks=[], limit=-1, shots=-2, batch_size=0)
    assert [problem.key for problem in caught.value.problems] == ["tasks", "limit", "shots", "batch_size"]
    assert "include_path" in [problem.key for problem in LmEval(tasks=["a"], include_path="nowhere").missing()]


def test_programs_that_lm_eval_starts_are_silent(capfd: pytest.CaptureFixture[str]) -> None:
    """It asks git for a commit, and git writes "fatal" if the working directory is no repository."""
    fail = [sys.executable, "-S", "-c", "import os; os.write(2, b'fatal: no repository')"]
    with _silent_programs():
        subprocess.run(fail, check=True)
        print("a bar of progress", file=sys.stderr)
    assert capfd.readouterr().err == "a bar of progress\n"
    subprocess.run(fail, check=True)
    assert capfd.readouterr().err == "fatal: no repository"


@pytest.mark.slow
def test_a_small_local_task(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason='pip install "alignlab[benchmarks]"')
    rows = [{"question": f"{i} + 1", "answer": i - 1} for i in (1, 2)] * 3
    (tmp_path / "rows.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sums.yaml").write_text(TASK % (tmp_path / "rows.json"))
    model, tokenizer = Tiny(name="tiny", max_positions=128).load()
    benchmark = LmEval(tasks=["sums"], include_path=str(tmp_path), limit=4)
    first = benchmark.scores(model, tokenizer)
    assert list(first) == ["sums/acc"]
    assert len(first["sums/acc"]) == 4
    assert set(first["sums/acc"]) <= {0.0, 1.0}
    assert benchmark.scores(model, tokenizer) == first
    assert list(benchmark.missing()) == []
    wrong = list(LmEval(tasks=["summs", "qqqqqqqq", "sums"], include_path=str(tmp_path)).missing())
    assert [(problem.key, problem.value) for problem in wrong] == [("tasks", "summs"), ("tasks", "qqqqqqqq")]
    assert [problem.type_this.partition("   ")[0] for problem in wrong] == ["tasks=[sums]", "lm-eval ls tasks"]
