"""The lines of an evaluation beside its tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignlab.evaluation.examples import Examples
from alignlab.evaluation.graded_answers import scores_of
from alignlab.evaluation.summary import summarise
from alignlab.inert import fenced, visible
from alignlab.integrity import write_sealed
from alignlab.reports.evaluated_sweep import write_sweep
from alignlab.reports.evaluation import _power, summary_text, write_answers


def test_the_difference_that_a_number_of_prompts_can_show() -> None:
    """Comparisons with the same number of prompts and ties share a line; 783 is the table's number for five points."""

    def rates(prompts: int, ties: float) -> dict[str, Any]:
        return {"judge": {"win_rate": {"n": float(prompts), "tie_rate": ties}}}

    assert _power({"one": rates(783, 0.0), "other": rates(783, 0.0)}, 783) == [
        "with 783 prompts, a win-rate that differs from 0.5 by 0.05 can be detected (power 80 %); "
        "a difference of 0.05 needs 783"
    ]
    assert _power({"one": rates(2, 0.0)}, 2)[0].startswith(
        "with 2 prompts, no difference of a win-rate from 0.5 can be detected (power 80 %); a difference of 0.05 needs"
    )
    assert _power({"one": rates(400, 0.95)}, 400)[0].endswith("can be detected (power 80 %, 95% ties)")
    assert _power({"one": rates(256, 255 / 256)}, 256) == []
    assert _power({"one": rates(9, 1.0), "other": {"judge": {"score_difference": {}}}}, 9) == []


def test_several_answers_to_a_prompt_count_as_the_independent_answers_that_they_are_worth() -> None:
    """Of 400 answers to 100 prompts, √(1/4 / n) = 0.04 makes n = 156; a difference of 0.11 needs them."""
    rate = {"n": 100.0, "tie_rate": 0.0, "wins": 200.0, "ties": 0.0, "losses": 200.0, "value": 0.5}
    (line,) = _power({"reference": {"judge": {"win_rate": {**rate, "standard_error": 0.04}}}}, 100)
    assert line == (
        "with 100 prompts of 4 answers each, worth 156 independent answers, a win-rate that differs from 0.5 by 0.11 "
        "can be detected (power 80 %); a difference of 0.05 needs 502"
    )
    (line,) = _power({"reference": {"judge": {"win_rate": {**rate, "standard_error": 0.5}}}}, 100)
    assert "worth 100 independent answers" in line, "never fewer than prompts"
    (line,) = _power({"reference": {"judge": {"win_rate": {**rate, "standard_error": 0.01}}}}, 100)
    assert "worth 400 independent answers" in line, "never more than answers"


def test_one_prompt_has_no_interval() -> None:
    one, other = (summary_text(summarise(examples_of(1.0, 0.5, 0, prompts=prompts))) for prompts in (1, 2))
    assert "; means have no interval, because one prompt gives none" in one.splitlines()[0]
    assert "none]" not in one
    assert re.search(r"\| policy \| [\d.]+ \| [\d.]+ \|", one)
    assert "means have" not in other
    assert not re.search(r"\| policy .* \[-", other.split("score by")[0])


def examples_of(kl: float, score: float, seed: int, prompts: int = 24) -> Examples:
    """A run whose answers have this log-ratio and this score above the reference's, on average."""
    rng = np.random.default_rng(seed)
    level = np.random.default_rng(0).normal(0, 1, prompts)
    ratio = kl + rng.normal(0, 0.2, prompts)
    own = level + score + rng.normal(0, 0.1, prompts)
    return Examples(
        {
            "prompt_id": [f"p{i}" for i in range(prompts)],
            "prompt": ["?"] * prompts,
            "sample": [0] * prompts,
            "conversation": [None] * prompts,
            "policy/answer": ["yes"] * prompts,
            "policy/tokens": [1] * prompts,
            "policy/ended": [True] * prompts,
            "policy/policy_logps": [[-1.0]] * prompts,
            "policy/reference_logps": [[-1.0 - r] for r in ratio],
            "policy/score/rule": own.tolist(),
            "reference/answer": ["no"] * prompts,
            "reference/tokens": [1] * prompts,
            "reference/ended": [True] * prompts,
            "reference/score/rule": level.tolist(),
            "reference/first/rule": [1.0 if a > b else 0.0 for a, b in zip(own, level, strict=True)],
        },
        {"judge/rule": "abc"},
    )


def sweep_of(tmp_path: Path, runs: dict[tuple[str, str, str], tuple[float, float]]) -> tuple[Path, dict[str, Path]]:
    """A sweep over objective, strength and seed with an evaluation of each run, (KL, score) each."""
    points, folders = [], {}
    for (objective, strength, seed), (kl, score) in runs.items():
        run = f"{objective}-{strength}-{seed}"
        points.append({"point": len(points), "run": run, "objective": objective, "strength": strength, "seed": seed})
        rows = examples_of(kl, score, seed=len(points))
        folders[run] = tmp_path / "runs" / run / "evaluation" / "e"
        rows.write(folders[run])
        summary = {**summarise(rows), "health": {"verdict": "healthy"}}
        write_sealed(folders[run] / "summary.json", {"run": run, **summary})
    axes = ["objective", "strength", "seed"]
    directory = tmp_path / "sweeps" / "s"
    write_sealed(directory / "sweep.json", {"name": "s", "question": "", "axes": axes, "points": points})
    return directory, folders


def test_the_evaluation_of_a_sweep_has_a_row_for_each_setting(tmp_path: Path) -> None:
    """dpo is on a line of slope 1, ipo of slope 1/2: at 2 nats 2 and 1 above the start."""
    strengths = {"0.1": 4.0, "1.0": 1.0}
    slopes = {"dpo": 1.0, "ipo": 0.5}
    runs = {
        (objective, strength, seed): (kl, slope * kl)
        for objective, slope in slopes.items()
        for strength, kl in (strengths.items() if objective == "dpo" else {"0.1": 2.0, "1.0": 1.0}.items())
        for seed in ("1", "2", "3")
    }
    directory, folders = sweep_of(tmp_path, runs)
    text = write_sweep(directory, folders)
    assert text == (directory / "evaluation.md").read_text().removeprefix("# s\n\n").rstrip("\n")
    section = text.split("## Runs")[0]
    assert "nan" not in section
    assert "## judged by rule" in section
    rows = [line for line in section.splitlines() if line.startswith(("| dpo", "| ipo"))]
    assert [row.split(" | ")[:3] for row in rows] == [
        ["| dpo", "0.1", "3"], ["| dpo", "1.0", "3"], ["| ipo", "0.1", "3"], ["| ipo", "1.0", "3"],
    ]  # fmt: skip
    assert "± is half of a 95 % t interval of the mean over seeds and prompts together" in section
    last = [line for line in section.splitlines() if "| objective dpo |" in line][-1]
    assert float(last.split(" | ")[0].strip("| ")) == pytest.approx(2.0, abs=0.1)
    assert float(last.split(" | ")[4].split(" ± ")[0]) == pytest.approx(2.0, abs=0.1)
    assert "nats, the best is objective dpo. No other is tied with it" in section


def test_the_evaluation_of_a_sweep_with_one_seed_says_so(tmp_path: Path) -> None:
    runs = {("dpo", "0.1", "1"): (2.0, 1.0), ("dpo", "0.2", "1"): (1.9, 0.0)}
    text = write_sweep(*sweep_of(tmp_path, runs))
    assert "over prompts. With one seed, nothing is known about other seeds" in text
    assert "The best is objective dpo, strength 0.1. No other is tied with it" in text
    assert "chance that the best wins | tied" in text
    kl, score, rate = next(line for line in text.splitlines() if line.startswith("| dpo | 0.2")).split(" | ")[3:6]
    ratios = 1.9 + np.random.default_rng(2).normal(0, 0.2, 24)
    assert kl == f"{ratios.mean():.3f} ± {2.0687 * ratios.std(ddof=1) / 24**0.5:.3f}", "t(23) of a 95 % interval"
    assert " ± " in score
    assert " [" in rate
    assert "IQM" not in text
    assert "What is said about ties holds for these runs. With one seed, nothing is known about other seeds" in text
    assert "24 seeds" not in text, "the 24 prompts are no seeds"


def test_methods_at_common_kls_have_the_numbers_of_their_seeds(tmp_path: Path) -> None:
    """A method with one seed among others has no interval. If all have one seed, intervals are over its prompts."""

    def rows(folder: Path, runs: dict[tuple[str, str, str], tuple[float, float]]) -> list[list[str]]:
        text = write_sweep(*sweep_of(folder, runs))
        return [line.split(" | ")[2:5] for line in text.splitlines() if re.search(r"\| objective \w+ \|", line)]

    strengths = {"0.1": 2.0, "1.0": 1.5}
    one = {
        (o, s, "1"): (kl, slope * kl) for o, slope in {"dpo": 0.5, "ipo": 0.25}.items() for s, kl in strengths.items()
    }
    more = {("dpo", s, "2"): (kl, 0.5 * kl) for s, kl in strengths.items()}
    dpo, ipo = rows(tmp_path / "mixed", one | more)[-2:]
    assert (dpo[0], ipo[0]) == ("2", "1")
    assert " ± " in dpo[2]
    assert float(ipo[2]) == pytest.approx(0.5, abs=0.1)
    single = rows(tmp_path / "single", one)[-2:]
    assert [(seeds, " ± " in gain) for seeds, _, gain in single] == [("1", True), ("1", True)]


def test_runs_that_are_not_evaluated_and_runs_with_other_prompts_are_named(tmp_path: Path) -> None:
    directory, folders = sweep_of(tmp_path, {("dpo", "0.1", seed): (2.0, 1.0) for seed in "123"})
    folders.pop("dpo-0.1-3")
    assert "Missing seeds of objective dpo, strength 0.1: 3 (not evaluated)." in write_sweep(directory, folders)
    rows = examples_of(1.0, 1.0, seed=9, prompts=5)
    rows.write(folders["dpo-0.1-2"])
    assert "The runs have different prompts, so they are not compared." in write_sweep(directory, folders)


def test_scores_of_reward_bench_2_by_subset() -> None:
    """Math 1 of 2. Ties without its `tied` row has no score, and so the mean has none."""
    row = {"prompt": "p", "chosen": ["a"], "rejected": ["b"]}
    rows = [{**row, "prompt": i, "id": str(i), "subset": "Math", "scores": [i, 0.5]} for i in (0.0, 1.0)]
    text = summary_text({"pairs": scores_of(rows)}).splitlines()
    assert text[2] == "| Math | 2 | 2 | 0.500 [0.095, 0.905] | 0 |"
    assert text[3] == "| mean of the subsets | 2 | 2 | 0.500 [0.095, 0.905] | 0 |"
    missing = "Factuality, Focus, Precise IF, Safety"
    assert text[4:] == [f"not the leaderboard's mean, because the file has no row of {missing}, Ties"]
    rows += [{**row, "id": "ref:1", "subset": "Ties", "scores": [2.0, 1.0]}]
    text = summary_text({"pairs": scores_of(rows)}).splitlines()
    assert text[4] == "| mean of the subsets | 3 | 2 | none | 0 |"
    assert text[5].startswith("Ties: ref_accuracy 1.000, tied_accuracy none, margin_tied none")
    assert text[6] == "Ties has no score: it needs a number with both a ref and a tied row"
    assert text[7].endswith(f"no row of {missing}")


UNSAFE = {
    "markup": ("</div><script>alert(1)</script>", "&lt;/div&gt;&lt;script&gt;alert(1)&lt;/script&gt;"),
    "terminal": ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
    "order": ("\u202eevil\u202c", "\\u202eevil\\u202c"),
    "null": ("a\x00b", "a\\x00b"),
    "half a character": ("\ud800", "\\ud800"),
    "table": ("| a | b |", "| a | b |"),
    "end of a block": ("```\n# Heading\n<img src=x>", "```\n# Heading\n&lt;img src=x&gt;"),
}


@pytest.mark.parametrize("kind", UNSAFE)
def test_texts_on_the_pages_of_answers_are_text(kind: str, tmp_path: Path) -> None:
    """Prompts, answers, and names of runs, sides and judges. The pages have the tags and lines of harmless ones."""
    text, in_html = UNSAFE[kind]

    def pages(text: str) -> tuple[str, str]:
        side, score = f"base{text}", f"policy/score/j{text}"
        columns: dict[str, list[Any]] = {
            "prompt_id": ["p"], "prompt": [text], "sample": [0],
            "policy/answer": [text], "policy/tokens": [3], "policy/ended": [True], score: [1.0],
            f"{side}/answer": [text], f"{side}/tokens": [3], f"{side}/ended": [False],
            f"{side}/first/j": [1.0], f"{side}/score/j{text}": [0.0],
        }  # fmt: skip
        write_answers(tmp_path, f"run{text}", Examples(columns), shown=5)
        return (tmp_path / "answers.md").read_text(), (tmp_path / "answers.html").read_text()

    plain_md, plain_html = pages("plain")
    md, page = pages(text)
    for shown in (md, page):
        assert visible(shown, 10**6) == shown, "no character that a terminal obeys, that is unseen or that reorders"
    assert page.count(in_html) >= 3
    assert re.findall(r"<[^>]*>", page) == re.findall(r"<[^>]*>", plain_html)
    assert md.count(fenced(text)) == 3, "the prompt and two answers, each as one block"
    outside = md.replace(fenced(text), "")
    assert len(outside.splitlines()) == len(plain_md.replace(fenced("plain"), "").splitlines())
    assert not re.search(r"(?<!\\)[<>|`]", outside)


def test_an_answer_of_a_megabyte_is_cut_and_an_empty_one_is_named(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "prompt_id": ["p"], "prompt": ["x" * 10**6], "sample": [0],
        "policy/answer": [""], "policy/tokens": [1], "policy/ended": [True],
    }  # fmt: skip
    write_answers(tmp_path, "run", Examples(columns), shown=1)
    for name in ("answers.md", "answers.html"):
        text = (tmp_path / name).read_text()
        assert len(text) < 25_000
        assert "[... 980,000 more characters]" in text
    assert "(nothing)" in (tmp_path / "answers.md").read_text()
