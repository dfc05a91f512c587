"""The cost of claims at the papers' size."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose

from alignlab.config.plan import plan
from alignlab.papers.compute import EXPERIMENTS, Pass, cost_line, full_scale_of, gpu_hours
from alignlab.papers.library import library
from alignlab.papers.record import row_of
from alignlab.papers.scoreboard import in_full


def test_hours_worked_out_by_hand() -> None:
    """6 x 1e9 parameters x 6e7 tokens are 3.6e17 operations: 1,000 s at 40 % of 9e14 per second."""
    trained, scored = Pass("DPO", 1e9, 1e5, 600), Pass("reference", 1e9, 1e5, 600, trained=False)
    assert trained.operations == pytest.approx(3.6e17)
    assert gpu_hours([trained], per_second=9e14, used=0.4) == pytest.approx(1000 / 3600)
    assert scored.operations == pytest.approx(trained.operations / 3)


def test_every_claim_of_an_experiment_exists_and_shows_its_cost() -> None:
    for one in EXPERIMENTS:
        assert 0.05 < one.hours < 500
        for name in one.claims:
            paper, claim = name.split()
            assert full_scale_of(paper, claim) is one
            assert claim in library()[paper].names
    assert full_scale_of("dpo_2023", "theorem-1") is None


def test_the_cost_is_shown(tmp_path: Path) -> None:
    paper = library()["dpo_2023"]
    (claim,) = (claim for claim in paper.claims if claim.name == "figure-2-left")
    text = in_full(row_of(tmp_path, paper, claim))
    full = full_scale_of("dpo_2023", "figure-2-left")
    assert full is not None
    assert f"at the paper's size: {cost_line(full)}" in text
    assert "alignlab train experiment=paper/imdb_gpt2_large takes about" in text


def test_the_page_has_the_hours() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "papers.md").read_text()
    for one in EXPERIMENTS:
        (line,) = (line for line in page.splitlines() if line.startswith(f"| `{one.experiment}` |"))
        assert line.endswith(f"| {one.hours:.2g} |")


# experiment -> (updates or epochs, rows of an update, learning rate), and (optimizer, rows of an update) of its parent.
PRINTED = {
    "imdb_gpt2_large": ((1.0, 64, 1e-6), ("rmsprop", 64)),
    "hh_pythia": ((1.0, 64, 1e-6), ("rmsprop", 64)),
    "tldr_pythia": ((1.0, 128, 5e-7), ("rmsprop", 128)),
    "tldr_pythia_ppo": ((7812, 512, 3e-6), ("adamw", 128)),
    "ultrafeedback_zephyr": ((1.0, 128, 5e-7), None),
}


def test_every_experiment_is_here() -> None:
    assert {one.experiment for one in EXPERIMENTS} == {f"paper/{name}" for name in PRINTED}


@pytest.mark.parametrize("name", PRINTED)
def test_experiments_have_the_papers_settings_on_any_hardware(name: str, hydra_conf: None) -> None:
    """All runs that an experiment needs are planned. A smaller GPU changes neither the batch nor the run."""
    words = [f"experiment=paper/{name}", *(["data.path=org/pairs"] if name.startswith("imdb") else [])]
    made, on_a_small_gpu = (plan(compose("train", [*words, *more])) for more in ([], ["trainer.micro_batch_size=1"]))
    (length, rows, rate), parent = PRINTED[name]
    train = made.train
    assert (train.trainer.max_epochs or train.trainer.max_steps, train.trainer.batch_size, train.optim.lr) == (
        length, rows, rate,
    )  # fmt: skip
    assert made.id == on_a_small_gpu.id
    assert [one.id for one in made.chain()] == [one.id for one in on_a_small_gpu.chain()]
    if parent is None:
        assert made.parent is None
    else:
        assert made.parent is not None
        assert (made.parent.kinds["optim"], made.parent.train.trainer.batch_size) == parent
    if name == "tldr_pythia_ppo":
        assert made.reward is not None
        assert made.reward.train.trainer.max_steps * made.reward.train.trainer.batch_size == pytest.approx(
            92_858, abs=64
        )
        assert train.trainer.max_steps * train.trainer.batch_size / train.rollout.epochs == pytest.approx(1e6, abs=512)
