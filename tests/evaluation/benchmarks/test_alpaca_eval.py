"""AlpacaEval 2: the published leaderboard from the published annotations and weights; files in its own form."""

from __future__ import annotations

import csv
import gzip
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from alignlab.errors import DataError
from alignlab.evaluation.benchmarks.alpaca_eval import (
    Annotations,
    leaderboard_row,
    published_length_controlled,
    read_annotations,
    read_difficulty,
    read_prompts,
    read_weights,
    write_model_outputs,
)
from alignlab.evaluation.intervals import Array


@pytest.fixture
def folder(shared_data: Path) -> Path:
    return shared_data / "alpaca_eval"


@lru_cache(maxsize=1)
def annotations(folder: Path) -> dict[str, Annotations]:
    columns: dict[str, list[list[float]]] = {}
    with gzip.open(folder / "ae2_annotations.csv.gz", "rt") as lines:
        for row in csv.DictReader(lines):
            values = [float(row[k] or "nan") for k in ("preference", "len_model", "len_baseline", "index")]
            columns.setdefault(row["model"], []).append(values)
    found: dict[str, Annotations] = {}
    for model, rows in columns.items():
        preference, length, baseline, index = np.array(rows).T
        found[model] = Annotations(preference, length, baseline, index.astype(np.int64))
    return found


def leaderboard(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "ae2_leaderboard.csv").open() as lines:
        return {row[""]: row for row in csv.DictReader(lines)}


def test_published_win_rates(folder: Path) -> None:
    """All 51 listed models: win-rate and standard error to 1e-6, counts exactly."""
    listed, known, difficulty = (
        leaderboard(folder),
        annotations(folder),
        read_difficulty(folder / "ae2_instruction_difficulty.csv"),
    )
    models = sorted(known.keys() & listed.keys())
    assert len(models) == 51
    ours, theirs, raw = [], [], []
    for model in models:
        row, published = leaderboard_row(known[model], difficulty), listed[model]
        for key in ("win_rate", "standard_error", "discrete_win_rate"):
            assert getattr(row, key) == pytest.approx(float(published[key]), abs=1e-6), (model, key)
        for key in ("n_wins", "n_wins_base", "n_draws", "n_total"):
            assert getattr(row, key) == int(published[key]), (model, key)
        assert row.wins.rate.value == pytest.approx(row.win_rate / 100)
        if model != "gpt4_gamed":
            ours.append(100 * row.controlled.rate.value)
            theirs.append(float(published["length_controlled_winrate"]))
            raw.append(row.win_rate)
    off, ranks = np.abs(np.subtract(ours, theirs)), np.corrcoef(np.argsort(np.argsort([ours, theirs], axis=1), axis=1))
    assert off.mean() == pytest.approx(1.29, abs=0.05), "our plain fit against their penalised one with gamed data"
    assert off.max() < 5
    assert np.abs(np.subtract(raw, theirs)).mean() > 4
    assert ranks[0, 1] > 0.95


def test_published_length_controlled_win_rates(folder: Path) -> None:
    """To 1e-6 for 168 of 171 models; the other three are within 0.2."""
    listed, difficulty = leaderboard(folder), read_difficulty(folder / "ae2_instruction_difficulty.csv")
    weights = read_weights(folder / "ae2_lc_weights.csv")
    assert len(weights) == 171
    exact, errors = [], 0
    for model, values in weights.items():
        published = listed[model]
        rate, error = published_length_controlled(values, difficulty, int(published["n_total"]))
        off = abs(rate - float(published["length_controlled_winrate"]))
        assert off < 0.2, model
        exact.append(off < 1e-6)
        if published["lc_standard_error"]:
            errors += 1
            assert error == pytest.approx(float(published["lc_standard_error"]), abs=1e-10), model
    assert sum(exact) == 168
    assert errors == 10
    assert weights["gpt4_1106_preview_verbose"].length > 0, "a longer answer is liked"


def test_annotations_in_their_own_form(folder: Path, tmp_path: Path) -> None:
    """`annotations.json` made of real outputs has the lengths and the numbers of the table."""
    with gzip.open(folder / "eval_set_outputs.jsonl.gz", "rt") as lines:
        outputs = [json.loads(line) for line in lines]
    known = annotations(folder)["vicuna-13b-v1.5"]
    rows = [
        {
            "instruction": outputs[i]["instruction"],
            "generator_1": "gpt4_1106_preview",
            "generator_2": "vicuna-13b-v1.5",
            "output_1": outputs[i]["outputs"]["gpt4_1106_preview"],
            "output_2": outputs[i]["outputs"]["vicuna-13b-v1.5"],
            "preference": None if np.isnan(p) else p,
            "index": int(i),
        }
        for i, p in zip(known.index, known.preference, strict=True)
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    found = read_annotations(tmp_path / "annotations.json")
    np.testing.assert_array_equal(found.length, known.length)
    np.testing.assert_array_equal(found.baseline_length, known.baseline_length)
    assert leaderboard_row(found) == leaderboard_row(known)
    rows[3]["generator_2"] = "another"
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match="several models: another, vicuna"):
        read_annotations(tmp_path / "annotations.json")


def test_prompts_in_and_outputs_out(folder: Path, tmp_path: Path) -> None:
    prompts = read_prompts(folder / "eval_set_outputs.jsonl.gz")
    assert len(prompts) == 805
    outputs = [f"answer {i} \u2028 ü" for i in range(805)]
    write_model_outputs(tmp_path / "new" / "model_outputs.json", prompts, outputs, "our-run")
    rows = json.loads((tmp_path / "new" / "model_outputs.json").read_text(encoding="utf-8"))
    assert rows[7] == {
        "dataset": prompts[7].dataset,
        "instruction": prompts[7].instruction,
        "output": outputs[7],
        "generator": "our-run",
    }
    assert read_prompts(tmp_path / "new" / "model_outputs.json") == prompts
    with pytest.raises(ValueError, match="805 prompts and 1 outputs"):
        write_model_outputs(tmp_path / "x.json", prompts, ["one"], "our-run")


def test_old_ties_and_missing_preferences() -> None:
    values: list[Array] = [np.array([1.0, 2.0, 0.0, np.nan]), np.array([9.0, 5, 7, 2]), np.array([4.0, 8, 7, 7])]
    found = leaderboard_row(Annotations(*values, index=np.arange(4)))
    assert (found.n_wins, found.n_wins_base, found.n_draws, found.n_total) == (1, 1, 1, 3)
    assert found.win_rate == pytest.approx(50.0)
    assert found.wins.invalid == 1


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "line 1 is not JSON"),
        ('{"a": 1}', "must hold a list of rows, and holds one object with the keys a"),
        ('[{"instruction": "x"}, {"prompt": "y"}]', "row 2: has no instruction"),
        ("[3]", "row 1: must be an object with named columns, not 3"),
    ],
)
def test_files_that_are_something_else(content: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(DataError, match=text):
        read_prompts(tmp_path / "p.json")


def test_tables_that_are_something_else(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't be read"):
        read_prompts(tmp_path / "absent.json")
    (tmp_path / "t.csv").write_text("index,difficulty\n0,1\n")
    with pytest.raises(DataError, match="instruction_difficulty"):
        read_difficulty(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("index,instruction_difficulty\n5,1\n")
    with pytest.raises(DataError, match="indices must be 0 to 0"):
        read_difficulty(tmp_path / "t.csv")
