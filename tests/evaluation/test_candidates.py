"""A closed set of candidates: brute force on a tiny model, renormalised metrics, and a run from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignlab.data.sources.candidates import Candidates
from alignlab.data.template import Template
from alignlab.data.tokenize import PromptTokens
from alignlab.evaluation.exact import completion_logps, exact_metrics
from alignlab.integrity import read_sealed
from alignlab.lab.candidates import ABSENT, CandidateWorld
from alignlab.models.sources.tiny import Tiny
from alignlab.rollout.closed_set import ClosedSet

ROWS = (
    ("Is the sky blue?", ("Yes", "No", "Maybe so"), (1.0, 0.0, -0.5)),
    ("Name a colour.", ("red", "a stone"), (0.5, -2.0)),
)
WORLD = CandidateWorld(prompts=2, rows=ROWS)


def written(folder: Path, rows: Any = ROWS) -> str:
    file = folder / "candidates.jsonl"
    names = ("prompt", "candidates", "scores")
    file.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    return str(file)


@pytest.mark.parametrize("ends", [True, False])
def test_log_probabilities_are_those_of_one_answer_at_a_time(ends: bool) -> None:
    model, tokenizer = Tiny(name="tiny").load()
    table = completion_logps(model, tokenizer, CandidateWorld(prompts=2, rows=ROWS, ends=ends))
    assert table.shape == (2, 3)
    assert table[1, 2] == ABSENT
    for x, (prompt, texts, _) in enumerate(ROWS):
        for y, text in enumerate(texts):
            row = Template(tokenizer).encode(prompt, [(text, ends)])
            ids = torch.tensor([[*row.prompt, *row.answers[0]]])
            with torch.no_grad():
                logps = torch.log_softmax(model(ids).logits[0].double(), dim=-1)
            places = range(len(row.prompt) - 1, ids.shape[1] - 1)
            assert table[x, y] == pytest.approx(sum(float(logps[t, ids[0, t + 1]]) for t in places), abs=1e-4)


def test_metrics_are_those_of_a_choice_among_the_candidates() -> None:
    """Reference (.2, .1, .1) and (.3, .1) of the model's mass; policy (.1, .1, 0) and (.2, .2)."""
    with np.errstate(divide="ignore"):
        reference = np.log([[0.2, 0.1, 0.1], [0.3, 0.1, 1.0]])
        policy = np.log([[0.1, 0.1, 1e-300], [0.2, 0.2, 1.0]])
    reference[1, 2] = policy[1, 2] = ABSENT
    found = exact_metrics(policy, reference, WORLD)
    assert found["exact/mass_reference"] == pytest.approx(0.4)
    assert found["exact/mass"] == pytest.approx(0.3)
    first, second = 0.5 * np.log(0.5 / 0.5) + 0.5 * np.log(0.5 / 0.25), 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(2.0)
    assert found["exact/kl"] == pytest.approx((first + second) / 2)
    assert found["exact/reward"] == pytest.approx(((1.0 + 0.0) / 2 + (0.5 - 2.0) / 2) / 2)
    assert found["exact/reward_reference"] == pytest.approx((0.5 - 0.125 + 0.375 - 0.5) / 2)
    # P(policy's score is higher) + P(equal) / 2: (1/2)(3/4) + (1/2)(1/4 + 1/8), and (1/2)(5/8) + (1/2)(1/8)
    assert found["exact/winrate"] == pytest.approx((0.5 * 0.75 + 0.5 * 0.375 + 0.5 * 0.625 + 0.5 * 0.125) / 2)
    assert found["exact/frontier_gap"] >= 0


def test_pairs_are_drawn_from_the_reference_and_labelled_by_the_scores(tmp_path: Path) -> None:
    reference = np.array([[0.2, 0.1, 0.1], [0.3, 0.1, 0.0]])
    reference = np.where(reference > 0, np.log(np.maximum(reference, 1e-9)), ABSENT)
    source = Candidates(path=written(tmp_path), pair_count=4000, labels="deterministic")
    pairs = source.pairs("train", lambda world: reference).rows
    assert {(pair.chosen, pair.rejected) for pair in pairs} == {
        ("Yes", "No"), ("Yes", "Maybe so"), ("No", "Maybe so"), ("red", "a stone"),
    }  # fmt: skip
    own = [pair for pair in pairs if pair.prompt == ROWS[0][0]]
    # P({No, Maybe}) = .25 (.25 / .75) + .25 (.25 / .75) = 1/6, within five standard errors
    share = sum("Yes" not in (pair.chosen, pair.rejected) for pair in own) / len(own)
    assert abs(share - 1 / 6) < 5 * np.sqrt(1 / 6 * 5 / 6 / len(own))
    noisy = Candidates(path=source.path, pair_count=4000).pairs("train", lambda world: reference).rows
    right = [pair.chosen == "red" for pair in noisy if pair.prompt == ROWS[1][0]]
    assert abs(np.mean(right) - 1 / (1 + np.exp(-2.5))) < 0.03


def test_rows_that_can_not_be_used_are_all_told(tmp_path: Path) -> None:
    rows = [
        ("p", ["a"], [1]), ("q", ["a", "b"], [1]), ("r", ["a", "a"], [1, 2]), ("s", ["a", "b"], [1, "x"]),
        ("p", ["a", "b"], [1, 2]),
    ]  # fmt: skip
    (problem,) = Candidates(path=written(tmp_path, rows)).missing()
    for text in (
        "5 rows can't be used",
        "row 1: candidates must be a list of at least two texts",
        "row 2: has 2 candidates and 1 scores",
        "row 3: a candidate is listed twice",
        "row 4: scores must be a list of finite numbers",
        "row 5: has the prompt of an earlier row",
    ):
        assert text in problem.allowed, text


def test_a_run_on_a_text_model(alignlab: Callable[..., Any], tmp_path: Path) -> None:
    words = [
        "train", "data=candidates", f"data.path={written(tmp_path)}", "data.pair_count=20", "data.eval_limit=10",
        "model=tiny", "objective=dpo", "trainer.max_steps=4", "trainer.batch_size=4", "optim.lr=0.01", "tracking=none",
        "trainer.progress=false",
    ]  # fmt: skip
    refused = alignlab(*[word.replace("=dpo", "=ppo") for word in words])
    assert refused.code == 2
    assert "baselines must be other answers to the same prompt" in refused.err
    done = alignlab(*words)
    assert done.code == 0, done.err
    (run,) = Path("outputs/runs").glob("dpo-*[0-9a-f]")
    summary = read_sealed(run / "run.json")["summary"]
    assert summary["exact/kl"] > 0
    assert 0 < summary["exact/mass_reference"] < 1
    assert summary["exact/frontier_gap"] == pytest.approx(summary["exact/frontier_reward"] - summary["exact/reward"])
    assert read_sealed(run / "frontier.json")["kl"][0] == 0.0


def test_samples_are_candidates_by_their_probabilities() -> None:
    """Numbers at equal distances give each candidate its share of the set's probability."""
    model, tokenizer = Tiny(name="tiny").load()
    template = Template(tokenizer)
    closed = ClosedSet.of({row[0]: row[1] for row in ROWS}, template, ends=True)
    prompts = [PromptTokens(i, list(template.prompt_ids(row[0])), [0], row[0]) for i, row in enumerate(ROWS)]
    numbers = [np.array([(k + 0.5) / 400]) for _ in ROWS for k in range(400)]
    samples = closed.draw(model, prompts, numbers, 1.0)
    table = np.exp(WORLD.normalised(completion_logps(model, tokenizer, WORLD)))
    for x, (prompt, candidates, _) in enumerate(ROWS):
        texts = [closed.text_of(sample.ids, prompt) for sample in samples[400 * x : 400 * (x + 1)]]
        shares = [texts.count(candidate) / 400 for candidate in candidates]
        assert shares == pytest.approx(table[x, : len(candidates)].tolist(), abs=1 / 400)
    assert all(sample.ended for sample in samples)
    assert sum(samples[0].logps) == pytest.approx(completion_logps(model, tokenizer, WORLD)[0].max(), abs=20)
    hot = closed.draw(model, prompts, numbers, 1e6)
    counts = [[sample.ids for sample in hot[:400]].count(list(ids)) for ids in closed.answers[ROWS[0][0]]]
    assert counts[0] > counts[2], "at a high temperature shorter candidates are likelier"


@pytest.mark.slow
def test_an_online_run_learns_from_candidates(alignlab: Callable[..., Any], tmp_path: Path) -> None:
    rows = [("Pick", ("ab", "cd", "ef"), (1.0, 0.0, -1.0)), ("Choose", ("gh", "ij"), (-1.0, 1.0))]
    words = [
        "train", "data=candidates", f"data.path={written(tmp_path, rows)}", "model=tiny", "objective=rloo",
        "objective.beta=0.01", "objective.samples=4", "trainer.max_steps=12", "trainer.batch_size=2", "optim.lr=0.003",
        "tracking=none", "trainer.progress=false",
    ]  # fmt: skip
    done = alignlab(*words)
    assert done.code == 0, done.err
    (run,) = Path("outputs/runs").glob("rloo-*[0-9a-f]")
    summary = read_sealed(run / "run.json")["summary"]
    assert summary["exact/reward"] > summary["exact/reward_reference"] + 0.1
    shown = [json.loads(line) for line in (run / "completions.jsonl").read_text().splitlines()]
    assert {row["completion"] for row in shown} <= {text for row in rows for text in row[1]}
    scores = {(row[0], text): score for row in rows for text, score in zip(row[1], row[2], strict=True)}
    assert all(row["score"] == scores[row["prompt"], row["completion"]] for row in shown)
