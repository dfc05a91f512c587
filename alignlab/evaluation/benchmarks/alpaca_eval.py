"""AlpacaEval 2's file formats: reads prompts and annotations, writes `model_outputs.json`, computes the leaderboard.

A preference is 1 if the baseline is surely better and 2 if the model is (AlpacaEval's convention). Numbers that are
named as on the leaderboard are in per cent. Length control: Dubois et al. 2024, https://arxiv.org/abs/2404.04475.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from alignlab.data.conversations import read_text
from alignlab.errors import DataError
from alignlab.evaluation.benchmarks.files import Row, parse_rows, read_rows, read_table, write_rows
from alignlab.evaluation.benchmarks.prompt_places import MAX_LISTED, faulty_rows, prompt_places
from alignlab.spelling import counted
from alignlab.statistics.intervals import Array
from alignlab.statistics.length_control import LengthControlled, Weights, controlled_rate, length_controlled
from alignlab.statistics.winrate import WinRate, win_rate


@dataclass(frozen=True)
class Prompt:
    """One instruction of the evaluation set."""

    instruction: str
    dataset: str = ""


def read_prompts(path: str | Path) -> list[Prompt]:
    """The evaluation set in its order, from `alpaca_eval.json` or any file of rows with `instruction`.

    Raises DataError with every row that can't be used.
    """

    def prompt(row: Row) -> Prompt:
        return Prompt(read_text(row["instruction"], "instruction"), row.get("dataset", ""))

    return parse_rows(path, prompt, "instruction")


def write_model_outputs(path: str | Path, prompts: Sequence[Prompt], outputs: Sequence[str], generator: str) -> None:
    """Write `model_outputs.json` for `alpaca_eval --model_outputs`, with one output per prompt in the set's order.

    Raises ValueError if the numbers of prompts and outputs differ.
    """
    if len(prompts) != len(outputs):
        raise ValueError(f"{len(prompts)} prompts and {len(outputs)} outputs")
    write_rows(
        path,
        [
            {"dataset": prompt.dataset, "instruction": prompt.instruction, "output": output, "generator": generator}
            for prompt, output in zip(prompts, outputs, strict=True)
        ],
    )


@dataclass(frozen=True)
class Annotations:
    """A judge's preferences on one model, [R] each. Lengths are in characters.

    preference: in [1, 2]; NaN if there is none.
    index:      position of the prompt in the evaluation set. Its difficulty is looked up by it.
    """

    preference: Array
    length: Array
    baseline_length: Array
    index: np.ndarray

    @property
    def scores(self) -> Array:
        """[R] preference - 1, in [0, 1]. Old files write a tie as a preference of 0."""
        return np.where(self.preference == 0, 1.5, self.preference) - 1


def read_annotations(path: str | Path, evaluation_set: str | Path | None = None) -> Annotations:
    """Read `annotations.json` of one model. output_1 is the baseline's, output_2 the model's. Rows are in any order.

    evaluation_set: file with the instructions of the evaluation set in its order (`read_prompts`). If every row has an
                    `index`, it gives the row's prompt. Otherwise the row's instruction does.

    Raises DataError with all kinds of faults and the number of rows that have each: a row that belongs to no prompt or
    to several, rows that belong to the same prompt, and values that are not annotations of one model against one
    baseline.
    """
    rows = read_rows(path, "output_1", "output_2", "preference")
    if not rows:
        raise DataError(f"{path} has no annotations")
    instructions = None if evaluation_set is None else [p.instruction for p in read_prompts(evaluation_set)]
    index, wrong = prompt_places(rows, instructions)
    wrong = [*_wrong_generators(rows), *_wrong_values(rows), *wrong]
    if wrong:
        raise DataError("\n  ".join([f"{path}:", *wrong]))
    return Annotations(
        preference=np.array([np.nan if row["preference"] is None else row["preference"] for row in rows], dtype=float),
        length=np.array([len(row["output_2"]) for row in rows], dtype=float),
        baseline_length=np.array([len(row["output_1"]) for row in rows], dtype=float),
        index=np.array(index, dtype=np.int64),
    )


def _wrong_generators(rows: Sequence[Row]) -> list[str]:
    """Faults of the generators: there must be one baseline (generator_1) and one model (generator_2)."""
    names = {key: sorted({str(row.get(key)) for row in rows}) for key in ("generator_1", "generator_2")}
    return [
        f"the annotations are of several {what}: {', '.join(names[key])} ({key})"
        for key, what in (("generator_1", "baselines"), ("generator_2", "models"))
        if len(names[key]) > 1
    ]


def _wrong_values(rows: Sequence[Row]) -> list[str]:
    text = (not (isinstance(row["output_1"], str) and isinstance(row["output_2"], str)) for row in rows)
    preferences = (not _is_preference(row["preference"]) for row in rows)
    return [
        *faulty_rows(text, "an output that is not a text"),
        *faulty_rows(preferences, "a preference that is not a number from 1 to 2, 0 (a tie) or null"),
    ]


def _is_preference(value: Any) -> bool:
    if value is None:
        return True
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and (math.isnan(value) or value == 0 or 1 <= value <= 2)


@dataclass(frozen=True)
class Leaderboard:
    """A row of the leaderboard, with intervals that AlpacaEval does not compute.

    win_rate, standard_error, n_wins, n_wins_base, n_draws, n_total, discrete_win_rate, avg_length: the leaderboard's
                columns (avg_length is over the annotated rows, in characters).
    wins:       the win-rate as a `WinRate`, with an interval.
    controlled: alignlab's fit of the length-controlled win-rate, in [0, 1].
    """

    win_rate: float
    standard_error: float
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int
    discrete_win_rate: float
    avg_length: int
    wins: WinRate
    controlled: LengthControlled


def leaderboard_row(annotations: Annotations, difficulty: ArrayLike | None = None) -> Leaderboard:
    """Compute the leaderboard's numbers from annotations.

    difficulty: [prompts of the set] from `read_difficulty`; None leaves the term out of the length-controlled fit.
    Raises DataError if fewer than two prompts have a preference.
    """
    scores = annotations.scores
    valid = ~np.isnan(scores)
    used = scores[valid]
    if len(prompts := np.unique(annotations.index[valid])) < 2:
        raise DataError(
            f"a preference in {len(used)} of {counted(len(scores), 'annotation')}, on "
            f"{counted(len(prompts), 'prompt')}: the leaderboard's numbers need preferences on at least two prompts"
        )
    wins = win_rate(scores, prompts=annotations.index.tolist())
    hardness = None if difficulty is None else _difficulty_of(annotations.index, difficulty)
    return Leaderboard(
        win_rate=100 * float(used.mean()),
        standard_error=100 * float(used.std(ddof=1)) / np.sqrt(len(used)),
        n_wins=wins.wins,
        n_wins_base=wins.losses,
        n_draws=wins.ties,
        n_total=len(used),
        discrete_win_rate=100 * (wins.wins + wins.ties / 2) / len(used),
        avg_length=int(annotations.length.mean()),
        wins=wins,
        controlled=length_controlled(
            scores, annotations.length, annotations.baseline_length, difficulty=hardness,
            prompts=annotations.index.tolist(),
        ),
    )  # fmt: skip


def _difficulty_of(index: np.ndarray, difficulty: ArrayLike) -> Array:
    """[R] difficulty of each annotation's prompt. Raises DataError if one has none."""
    known = np.asarray(difficulty, dtype=np.float64)
    without = (index < 0) | (index >= len(known))
    without[~without] = ~np.isfinite(known[index[~without]])
    if without.any():
        some = ", ".join(map(str, index[without][:MAX_LISTED]))
        raise DataError(
            f"{without.sum()} of {counted(len(index), 'annotation')}: no difficulty of the prompt (index {some}"
            f"{', ...' if without.sum() > MAX_LISTED else ''}); "
            f"there are difficulties of {counted(len(known), 'prompt')}"
        )
    return known[index]


def read_difficulty(path: str | Path) -> Array:
    """[prompts] instruction difficulty by index, from a table with columns index and instruction_difficulty.

    Raises DataError unless the table has each index from 0 on once, with a number.
    """
    rows = read_table(path, "index", "instruction_difficulty")
    try:
        found = {int(row["index"]): float(row["instruction_difficulty"]) for row in rows}
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: an index or a difficulty is not a number ({error})") from error
    if found.keys() != set(range(len(rows))) or not np.isfinite(list(found.values())).all():
        raise DataError(
            f"{path}: indices must be 0 to {len(rows) - 1}, each of them once, and difficulties must be finite numbers"
        )
    return np.array([found[i] for i in range(len(rows))])


def read_weights(path: str | Path) -> dict[str, Weights]:
    """Model -> its published weights (`length_controlled_v1/baseline_*.csv`).

    The published length term is that of baseline minus model. alignlab uses model minus baseline, so the weight changes
    its sign.
    """
    length, difficulty, quality = (
        "np.tanh(std_delta_len)",
        "instruction_difficulty",
        "not_gamed_baseline.astype(float)",
    )
    rows = read_table(path, "", length, difficulty, quality)
    return {row[""]: Weights(float(row[quality]), -float(row[length]), float(row[difficulty])) for row in rows}


def published_length_controlled(weights: Weights, difficulty: ArrayLike, n_total: int = 805) -> tuple[float, float]:
    """(length_controlled_winrate, lc_standard_error), per cent, from weights over the first n_total prompts.

    The leaderboard uses the first n_total of the 805 prompts, even if the model has no annotations of some of them.
    """
    rate, error = controlled_rate(weights, np.asarray(difficulty)[:n_total])
    return 100 * rate, 100 * error
