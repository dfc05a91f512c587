"""AlpacaEval 2: reproduces the published leaderboard from published annotations and weights; tests its file formats."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

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
from alignlab.statistics.intervals import Array


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
    """For all 51 listed models, win-rate and standard error agree to 1e-6, and counts are equal."""
    listed, known, difficulty = (
        leaderboard(folder),
        annotations(folder),
        read_difficulty(folder / "ae2_instruction_difficulty.csv"),
    )
    models = sorted(known.keys() & listed.keys())
    assert len(models) == 51
    ours, without, theirs, raw = [], [], [], []
    for model in models:
        row, published = leaderboard_row(known[model], difficulty), listed[model]
        for key in ("win_rate", "standard_error", "discrete_win_rate"):
            assert getattr(row, key) == pytest.approx(float(published[key]), abs=1e-6), (model, key)
        for key in ("n_wins", "n_wins_base", "n_draws", "n_total"):
            assert getattr(row, key) == int(published[key]), (model, key)
        assert row.wins.rate.value == pytest.approx(row.win_rate / 100)
        if model != "gpt4_gamed":
            ours.append(100 * row.controlled.rate.value)
            without.append(100 * leaderboard_row(known[model]).controlled.rate.value)
            theirs.append(float(published["length_controlled_winrate"]))
            raw.append(row.win_rate)
    off, ranks = np.abs(np.subtract(ours, theirs)), np.corrcoef(np.argsort(np.argsort([ours, theirs], axis=1), axis=1))
    assert off.mean() == pytest.approx(1.29, abs=0.05), "our plain fit against their penalised one with gamed data"
    assert off.max() < 5
    off = np.subtract(without, theirs)
    assert [float(np.abs(off).mean()), float(off.mean()), float(np.abs(off).max())] == pytest.approx(
        [6.82, 6.82, 22.8], abs=0.1
    ), "without difficulty"
    assert np.abs(np.subtract(raw, theirs)).mean() > 4
    assert ranks[0, 1] > 0.95


def test_published_length_controlled_win_rates(folder: Path) -> None:
    """168 of 171 models agree to 1e-6, and the other three to 0.2."""
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
    """An `annotations.json` made from real outputs gives the lengths and the numbers of the table."""
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


def in_its_own_form(folder: Path, model: str) -> list[dict[str, Any]]:
    """Annotations of a model without an index, in the order of its file, with some prompts missing.

    The outputs of most models are not available. Letters replace them, as many as the texts have characters.
    """
    with gzip.open(folder / "eval_set_outputs.jsonl.gz", "rt") as lines:
        instructions = [json.loads(line)["instruction"] for line in lines]
    known = annotations(folder)[model]
    return [
        {
            "instruction": instructions[int(i)],
            "generator_1": "gpt4_1106_preview",
            "generator_2": model,
            "output_1": "x" * int(baseline),
            "output_2": "y" * int(length),
            "preference": None if np.isnan(preference) else preference,
        }
        for i, preference, length, baseline in zip(
            known.index, known.preference, known.length, known.baseline_length, strict=True
        )
    ]


@pytest.mark.parametrize(
    ("model", "rows", "controlled"),
    [("text_davinci_001", 803, 6.41), ("phi-2", 803, 3.15), ("minotaur-13b", 804, 8.21)],
)
def test_files_that_lack_rows_and_index(folder: Path, tmp_path: Path, model: str, rows: int, controlled: float) -> None:
    """By row numbers, text_davinci_001 would have 16.56, phi-2 4.12 and minotaur-13b 13.05."""
    file, prompts = tmp_path / "annotations.json", folder / "eval_set_outputs.jsonl.gz"
    made = in_its_own_form(folder, model)
    difficulty = read_difficulty(folder / "ae2_instruction_difficulty.csv")
    file.write_text(json.dumps(made))
    found = read_annotations(file, prompts)
    assert len(found.index) == rows
    np.testing.assert_array_equal(found.index, annotations(folder)[model].index)
    row = leaderboard_row(found, difficulty)
    assert 100 * row.controlled.rate.value == pytest.approx(controlled, abs=0.005)
    made.reverse()
    file.write_text(json.dumps(made))
    backwards = leaderboard_row(read_annotations(file, prompts), difficulty)
    assert backwards.controlled.rate.value == pytest.approx(row.controlled.rate.value, abs=1e-9)
    with pytest.raises(DataError, match=rf"{rows} of {rows} rows have no index.*name the evaluation set's file"):
        read_annotations(file)


SET = ["a?", "b?", "c?", "d?"]


def annotated(*instructions: str, index: Sequence[Any] | None = None, **changed: Any) -> list[dict[str, Any]]:
    """Rows in which the model wins on c? and d? and loses on the others. All outputs have the same length."""
    rows = [
        {
            "instruction": text,
            "generator_1": "base",
            "generator_2": "model",
            "output_1": "12345678",
            "output_2": "abcdefgh",
            "preference": 2.0 if text in ("c?", "d?") else 1.0,
            **changed,
        }
        for text in instructions
    ]
    return rows if index is None else [{**row, "index": i} for row, i in zip(rows, index, strict=True)]


def read(folder: Path, rows: list[dict[str, Any]], instructions: Sequence[str] | None = SET) -> Annotations:
    (folder / "annotations.json").write_text(json.dumps(rows))
    if instructions is None:
        return read_annotations(folder / "annotations.json")
    (folder / "set.json").write_text(json.dumps([{"instruction": text} for text in instructions]))
    return read_annotations(folder / "annotations.json", folder / "set.json")


def test_places_by_index_and_by_instruction(tmp_path: Path) -> None:
    asked = ("d?", "c?", "a?")
    assert read(tmp_path, annotated(*asked)).index.tolist() == [3, 2, 0]
    assert read(tmp_path, annotated(*asked, index=[3, 2, 0])).index.tolist() == [3, 2, 0]
    assert read(tmp_path, annotated(*asked, index=[3.0, 2, 0]), None).index.tolist() == [3, 2, 0]
    assert read(tmp_path, annotated(*asked, index=[3, None, 0])).index.tolist() == [3, 2, 0]
    twice = [*SET, "c?"]
    assert read(tmp_path, annotated(*asked, index=[3, 4, 0]), twice).index.tolist() == [3, 4, 0]


def test_difficulty_is_that_of_the_rows_prompt_by_hand(tmp_path: Path) -> None:
    """Prompt 0 of 9 is missing. The model wins 3 of 4 prompts of difficulty -1 and 1 of 4 of +1. Lengths are equal.

    So quality + difficulty * (-1) = log 3 and quality + difficulty * 1 = -log 3, which gives difficulty = -log 3. With
    row numbers, the two kinds would be exchanged, and it would be +log 3.
    """
    asked = [f"{i}?" for i in range(9)]
    rows = annotated(*asked[1:])
    for row, won in zip(rows, (1, 0, 1, 0, 1, 0, 0, 1), strict=True):
        row["preference"] = 1.0 + won
    found = leaderboard_row(read(tmp_path, rows, asked), [(-1.0) ** i for i in range(9)])
    assert found.controlled.weights.difficulty == pytest.approx(-np.log(3), abs=1e-3)
    assert found.controlled.weights.quality == pytest.approx(0.0, abs=1e-3)


BOTH = annotated("a?", "zz?", "b?", "c?", "yy?")


@pytest.mark.parametrize(
    ("rows", "instructions", "text"),
    [
        (BOTH, SET, "2 of 5 rows have an instruction that is not in the evaluation set (row 2, 5)"),
        (annotated("a?", "b?"), ["a?", "a?", "b?"], "1 of 2 rows has an instruction that the evaluation set has more"),
        (annotated("a?", "b?", "a?"), SET, "2 of 3 rows have the same prompt as another row (row 1, 3)"),
        (annotated(*SET, index=[0, 1, 2, 2]), None, "2 of 4 rows have the same prompt as another row (row 3, 4)"),
        (annotated(*SET, index=[0, 1, 2, 4]), SET, "1 of 4 rows has an index that is not a whole number from 0 to 3"),
        (annotated(*SET, index=[0, -1, 2, 3]), None, "1 of 4 rows has an index that is not a whole number from 0 on"),
        (annotated(*SET, index=[0, "1", True, 2.5]), None, "3 of 4 rows have an index that is not a whole number"),
        (annotated(*SET, index=[0, 1, 3, 2]), SET, "2 of 4 rows have another instruction than the evaluation set has"),
        (annotated(*SET, index=[0, 1, None, 3]), None, "1 of 4 rows has no index"),
        (annotated("a?", "b?", output_2=None), SET, "2 of 2 rows have an output that is not a text"),
        (annotated("a?", "b?", preference=3), SET, "2 of 2 rows have a preference that is not a number from 1 to 2"),
        (annotated("a?", "b?", preference="1"), SET, "2 of 2 rows have a preference that is not a number from 1 to 2"),
        ([*annotated("a?"), *annotated("b?", generator_1="x")], SET, "several baselines: base, x (generator_1)"),
        ([], SET, "has no annotations"),
    ],
)  # fmt: skip
def test_rows_that_belong_nowhere_are_refused_and_counted(
    rows: list[dict[str, Any]], instructions: list[str] | None, text: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=re.escape(text)):
        read(tmp_path, rows, instructions)


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    rows = [*annotated("a?", "zz?", preference=7), *annotated("b?", generator_2="other")]
    with pytest.raises(DataError) as caught:
        read(tmp_path, rows)
    assert str(caught.value).splitlines()[1:] == [
        "  the annotations are of several models: model, other (generator_2)",
        "  2 of 3 rows have a preference that is not a number from 1 to 2, 0 (a tie) or null (row 1, 2)",
        "  1 of 3 rows has an instruction that is not in the evaluation set (row 2)",
    ]


@pytest.mark.parametrize("index", [[0, 1, 2, 5], [0, 1, -1, 3], [0, 1, 2, 4]])
def test_prompts_without_a_difficulty_are_refused(index: list[int]) -> None:
    values: list[Array] = [np.array([1.0, 2.0, 1.0, 2.0]), np.array([9.0, 5, 7, 2]), np.array([4.0, 8, 7, 7])]
    known = [0.5, 1.0, 0.1, 0.3, float("nan")]
    with pytest.raises(
        DataError, match=r"1 of 4 annotations: no difficulty of the prompt .*; there are difficulties of 5 prompts"
    ):
        leaderboard_row(Annotations(*values, index=np.array(index)), known)


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
    ("preferences", "index", "counts"),
    [
        ([np.nan, np.nan], [0, 1], "a preference in 0 of 2 annotations, on 0 prompts"),
        ([1.5], [0], "a preference in 1 of 1 annotation, on 1 prompt"),
        ([1.5, np.nan], [0, 1], "a preference in 1 of 2 annotations, on 1 prompt"),
        ([1.5, 1.0], [3, 3], "a preference in 2 of 2 annotations, on 1 prompt"),
        ([], [], "a preference in 0 of 0 annotations"),
    ],
)
def test_too_few_preferences_are_refused(preferences: list[float], index: list[int], counts: str) -> None:
    lengths = np.arange(len(index), dtype=float)
    with pytest.raises(DataError, match=f"{counts}.* at least two prompts"):
        leaderboard_row(Annotations(np.array(preferences, dtype=float), lengths, lengths, index=np.array(index, int)))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "line 1 is not JSON"),
        ('{"a": 1}', "must contain a list of rows, but contains one object with the keys a"),
        ('[{"instruction": "x"}, {"prompt": "y"}]', "row 2: has no instruction"),
        ("[3]", "row 1: must be an object with named columns, not 3"),
    ],
)
def test_files_that_are_something_else(content: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(DataError, match=text):
        read_prompts(tmp_path / "p.json")


def test_tables_that_are_something_else(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        read_prompts(tmp_path / "absent.json")
    (tmp_path / "t.csv").write_text("index,difficulty\n0,1\n")
    with pytest.raises(DataError, match="instruction_difficulty"):
        read_difficulty(tmp_path / "t.csv")
    for content, text in (
        ("5,1\n", "indices must be 0 to 0"),
        ("0,1\n0,2\n", "indices must be 0 to 1, each of them once"),
        ("0,1\n-1,2\n", "indices must be 0 to 1"),
        ("0,1\n1,nan\n", "difficulties must be finite numbers"),
        ("0,1\n1,hard\n", "is not a number"),
        ("0,1\n1\n", "row 2: has 1 cell, but the header has 2"),
    ):
        (tmp_path / "t.csv").write_text(f"index,instruction_difficulty\n{content}")
        with pytest.raises(DataError, match=text):
            read_difficulty(tmp_path / "t.csv")
