"""The sentiment experiment: its commands, how its points are compared, and the whole chain with a tiny model."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignlab.cli import synthesize, train
from alignlab.papers import imdb
from alignlab.papers.claim import Curve, Workspace
from alignlab.papers.figure import figures_of
from alignlab.papers.imdb import GRID, SMALL, Method, Point, curve_of, lead_of, scores_of_the_start
from alignlab.papers.library import library
from alignlab.papers.measuring import Bench
from alignlab.papers.record import row_of

VERBS = {"train": train.main, "synthesize": synthesize.main}


def place(root: Path) -> Workspace:
    return Workspace(root / "outputs", root / "folder", "reviews.jsonl")


def point(kl: float, reward: float) -> Point:
    return Point("DPO", (kl, kl - 1, kl + 1), (reward, reward - 0.1, reward + 0.1))


@pytest.mark.parametrize("experiment", [SMALL, GRID], ids=["small", "grid"])
def test_the_commands(experiment: imdb.Experiment, tmp_path: Path) -> None:
    found = list(experiment.commands("imdb-smollm2", place(tmp_path)))
    assert [words[0] for words in found] == ["synthesize"] * 3 + ["train"] * len(experiment.methods)
    pairs, held_out = f"{tmp_path}/folder/pairs.jsonl", f"{tmp_path}/folder/held_out.jsonl"
    assert found[0][-2:] == ("synthesis.prompts=320", f"to={pairs}")
    assert {"data.split=test", "data.eval_split=train", f"to={held_out}"} <= set(found[1])
    parent = 'model.parent=["imdb_sft","data.path=reviews.jsonl"]'
    assert found[2] == (*found[1][:-1], "synthesis.form=rankings", f"to={tmp_path}/folder/held_out_ranked.jsonl")
    for words in found:
        assert parent in words, "all start from the same run"
    for words in found[3:]:
        assert {f"data.path={pairs}", f"data.eval_path={held_out}", "evaluation.prompts=128"} <= set(words)
        assert "{" not in " ".join(words).replace(parent, "")
    assert len({words[-1] for words in found[3:]}) == len(experiment.methods), "each sweep has its own name"


def test_the_lead_is_interpolated_and_nothing_is_said_outside_the_path() -> None:
    path = [(4.0, 0.9), (0.0, 0.5), (2.0, 0.7)]
    assert lead_of(path, point(3.0, 0.6)) == pytest.approx(0.2)
    assert lead_of(path, point(0.0, 0.6)) == pytest.approx(-0.1)
    assert lead_of(path, point(4.5, 0.6)) is None


def test_samples_of_the_start(tmp_path: Path) -> None:
    rows = [{"grades": [0.0, math.log(3)]}, {"grades": [1.0]}]
    (tmp_path / "ranked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert scores_of_the_start(tmp_path / "ranked.jsonl", 2) == [[0.5, pytest.approx(0.75)]]


def test_a_curve_has_intervals_in_both_directions() -> None:
    found = curve_of([point(2.0, 0.7), point(4.0, 0.9)])
    assert (found.x, found.y) == ((2.0, 4.0), (0.7, 0.9))
    assert (found.left, found.right) == ((1.0, 3.0), (3.0, 5.0))
    assert found.low == pytest.approx((0.6, 0.8))
    assert found.high == pytest.approx((0.8, 1.0))


def test_the_figure_shows_the_papers_points_and_ours(tmp_path: Path) -> None:
    from alignlab.papers.record import ClaimFile

    paper = library()["dpo_2023"]
    (claim,) = (claim for claim in paper.claims if claim.name == "imdb-smollm2")
    (figure,) = (figure for figure in figures_of("dpo_2023") if "imdb-smollm2" in figure.claims)

    def drawn() -> Any:
        rows = {claim.name: row_of(tmp_path, paper, claim) for claim in paper.claims}
        return figure.draw(figure.points("dpo_2023"), rows)

    assert [right for _, right in drawn().rows] == [None]
    file = ClaimFile(tmp_path, "dpo_2023", "imdb-smollm2")
    file.begin(paper, claim, [])
    file.end({"DPO minus PPO-GT": [0.1]}, curves={"DPO": Curve((2,), (0.7,), (0.6,), (0.8,), (1,), (13.5,))})
    ((left, right),) = drawn().rows
    assert [series.name for series in left.series][:2] == ["DPO", "PPO"]
    assert (right.series[0].left, right.series[0].right) == ([1], [13.5])
    assert drawn().x_range[1] > 13.5, "the axis holds the intervals"
    decision = row_of(tmp_path, paper, claim).decision
    assert decision.verdict == "needs-scale"
    assert decision.results[0].value == 0.1


def review(rng: random.Random, number: int, good: bool, split: str) -> dict[str, Any]:
    """A review in words of one letter, some of which a model of bytes writes by chance."""
    letters = "abcdefghijklm" if good else "nopqrstuvwxyz"
    words = rng.choices(letters, k=20) + rng.choices("abcdefghijklmnopqrstuvwxyz", k=5)
    return {"split": split, "text": f"{number} " + " ".join(words), "label": int(good)}


def short(method: Method) -> Method:
    kept = [word for word in method.words if not word.startswith(("trainer.max_steps", "objective.beta"))]
    beta = [word for word in method.words if word.startswith("objective.beta")]
    return replace(method, words=(*kept, *beta[:1], "trainer.max_steps=4", "trainer.batch_size=2"))


@pytest.mark.slow
def test_every_point_of_the_grid_passes_the_checks(tmp_path: Path, alignlab: Callable[..., Any]) -> None:
    """`alignlab check` composes all points of all methods, with a tiny model, and trains nothing."""
    rng = random.Random(0)
    rows = [review(rng, i, i % 2 == 0, "train" if i < 40 else "test") for i in range(60)]
    Path("reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    workspace = place(tmp_path)
    workspace.folder.mkdir()
    pairs = [{"prompt": f"{i} a b c", "chosen": f" a {i}", "rejected": f" z {i}"} for i in range(40)]
    for name, part in (("pairs", pairs[:30]), ("held_out", pairs[30:])):
        (workspace.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    tiny = replace(GRID, model=("model=tiny", "peft=lora"))
    points = []
    for words in list(tiny.commands("imdb-smollm2-grid", workspace))[3:]:
        found = alignlab("check", *words[1:])
        assert found.code == 0, found.err
        points.append(found.out.count(": not run yet"))
    assert points == [2 * 10, 2 * 4, 2 * 2, 2 * 3, 2 * 4, 3 * 4], "each with its SFT, the last ones with a reward model"
    assert not Path("outputs/runs").exists()


@pytest.mark.slow
def test_the_whole_chain_with_a_tiny_model(tmp_path: Path, alignlab: Callable[..., Any]) -> None:
    """All stages run, every policy has a point, and a second call finds everything done."""
    rng = random.Random(0)
    rows = [review(rng, i, i % 2 == 0, "train" if i < 80 else "test") for i in range(120)]
    Path("reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny = replace(
        SMALL, model=("model=tiny", "peft=none"), sft=("trainer.max_steps=2", "trainer.batch_size=4"), prompts=16,
        samples=2, held_out=8, tokens=16, methods=tuple(map(short, SMALL.methods)),
    )  # fmt: skip
    paper = library()["dpo_2023"]
    (claim,) = (claim for claim in paper.claims if claim.name == "imdb-smollm2")
    claim = replace(claim, measured_by=tiny.commands_and_numbers(claim.name))
    bench = Bench(Path("outputs/papers"), Path("outputs"), train.main, (), VERBS, "reviews.jsonl")
    row = bench.measure(paper, claim)
    assert row.decision.verdict == "needs-scale", row.decision.why
    assert row.record["status"] == "done"
    curves = row.record["curves"]
    assert list(curves) == ["DPO", "Unlikelihood", "Preferred-FT", "RLOO-GT", "PPO-GT", "SFT and best-of-n"]
    assert len(curves["DPO"]["x"]) == 4
    assert all(0 < y < 1 for curve in curves.values() for y in curve["y"]), "probabilities"
    assert curves["SFT and best-of-n"]["x"] == pytest.approx([0.0, 0.1931], abs=1e-4), "ln 2 - 1/2"
    best = curves["SFT and best-of-n"]["y"]
    assert best[1] > best[0]
    assert row.record["measured"]["accuracy of the reward on held-out reviews"][0] > 0.9
    assert "<data>" in row.record["commands"][0]
    assert "reviews.jsonl" not in " ".join(row.record["commands"])
    files = list(Path("outputs/runs").glob("*/run.json"))
    before = {file: file.stat().st_mtime_ns for file in files if "sft" not in file.parent.name}
    again = bench.measure(paper, claim, again=True)
    assert again.record["measured"] == row.record["measured"]
    assert {file: file.stat().st_mtime_ns for file in before} == before, "no run is trained again"
