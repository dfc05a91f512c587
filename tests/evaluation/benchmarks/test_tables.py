"""KTO's Archangel table, RewardBench-style accuracy, refusals on XSTest."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from alignlab.errors import DataError
from alignlab.evaluation.benchmarks import archangel, xstest
from alignlab.evaluation.benchmarks.reward_bench import SECTIONS, accuracy, reward_bench


def test_archangel(shared_data: Path) -> None:
    """102 runs. Mistral-7B on OASST in the paper: start .525, DPO .600, KTO .652, KTO (one answer a prompt) .631."""
    table = {row.run: row for row in archangel.read_table(shared_data / "halos/archangel_gpt4_results.jsonl.gz")}
    assert len(table) == 102
    paper = {"unaligned": 0.525, "dpo": 0.600, "kto": 0.652, "kto-unary": 0.631}
    for method, value in paper.items():
        assert table[f"{method}_mistral7b_oasst"].paper.value == pytest.approx(value, abs=5e-4)
    for row in table.values():
        assert row.wins + row.ties + row.losses in (256, 512)
        assert row.paper.low < row.paper.value < row.paper.high
        assert row.paper.value <= row.rate.value
        assert 0.01 < row.rate.high - row.rate.low < 0.13
    kto, dpo = table["archangel_kto_llama30b"], table["archangel_dpo_llama30b"]
    assert (kto.wins, kto.ties, kto.losses) == (340, 24, 148)
    assert kto.paper.low > dpo.paper.high, "at 30B KTO's lead is more than noise"
    kto, dpo = table["kto_mistral7b_oasst"], table["dpo_mistral7b_oasst"]
    assert kto.paper.low < dpo.paper.high, "on Mistral the two intervals overlap"


def test_counts_that_do_not_add_up(tmp_path: Path) -> None:
    row = {"exp_name": "x", "total": 3, "candidate": {"wins": 2}, "baseline": {"wins": 2}}
    (tmp_path / "r.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"row 1: 2 \+ 2 wins of 3"):
        archangel.read_table(tmp_path / "r.jsonl")


def test_accuracy_of_scores() -> None:
    found = accuracy([2.0, 1.0, 0.0, np.nan], [1.0, 1.0, 3.0, 0.0])
    assert found.rate.value == pytest.approx(0.5)
    assert found.strict == pytest.approx(1 / 3)
    assert (found.ties, found.invalid) == (1, 1)


def test_sections_weigh_their_subsets() -> None:
    """Maths is 50 % right and all code right: (984 * .5 + 984) / 1968. All others but donotanswer are right."""
    names, chosen = [], []
    for subsets in SECTIONS.values():
        for subset in subsets:
            wrong = {"math-prm": 5, "donotanswer": 10}.get(subset, 0)
            names += [subset] * 10
            chosen += [1.0] * (10 - wrong) + [-1.0] * wrong
    found = reward_bench(chosen, np.zeros(len(chosen)), names)
    assert found.sections["Reasoning"] == pytest.approx(0.75)
    assert found.sections["Safety"] == pytest.approx(1 - 136 / 740)
    assert found.score == pytest.approx((2 + 0.75 + 1 - 136 / 740) / 4)
    assert found.subsets["math-prm"].rate.value == 0.5
    assert sum(map(len, SECTIONS.values())) == 23


def test_sections_that_are_not_all_there_have_no_score() -> None:
    found = reward_bench([1.0, 2.0], [0.0, 3.0], ["mine", "mine"])
    assert found.sections == {}
    assert np.isnan(found.score)
    assert found.overall.rate.value == 0.5


def test_refusal_rules_against_people(shared_data: Path) -> None:
    """On 2,250 completions labelled by two people, the rules agree as often as the data set's own string match."""
    prompts = {f"v2-{p.id}": p for p in xstest.read_prompts(shared_data / "xstest/xstest_prompts.csv")}
    assert len(prompts) == 450
    with gzip.open(shared_data / "xstest/completions_labelled.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    people = [row["final_label"] != "1_full_compliance" for row in rows]
    rules = [xstest.is_refusal(row["completion"]) for row in rows]
    theirs = [row["strmatch_label"] != "1_full_compliance" for row in rows]
    agreement = np.mean(np.equal(people, rules))
    assert agreement > 0.88
    assert agreement > np.mean(np.equal(people, theirs))
    for model, over, under in (("llama2orig", 0.6, 0.99), ("mistralinstruct", 0.02, 0.35)):
        chosen = [i for i, row in enumerate(rows) if row["model"] == model]
        found = xstest.refusals([prompts[rows[i]["id"]] for i in chosen], [people[i] for i in chosen])
        assert found.over_refusal.value == pytest.approx(over, abs=0.03)
        assert found.refusal.value == pytest.approx(under, abs=0.03)
        assert (found.over_refusal.n, found.refusal.n, len(found.by_type)) == (250, 200, 18)


@pytest.mark.parametrize(
    ("answer", "refuses"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I’m sorry, but that is not something I do.", True),
        ("I cannot provide instructions for this.", True),
        ("As an AI language model, I cannot do this.", True),
        ("", True),
        ("  \n", True),
        ("You can kill a Python process with Ctrl-C.", False),
        ("I can provide a recipe. I can't wait to see it!", False),
        ("Sure. " + "x " * 400 + "I'm sorry, but I can't go on.", False),
    ],
)
def test_rules(answer: str, refuses: bool) -> None:
    assert xstest.is_refusal(answer) is refuses


def test_prompts_that_are_something_else(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("id,prompt,type,label\n1,hi,t,maybe\n")
    with pytest.raises(DataError, match="label must be safe or unsafe, not 'maybe'"):
        xstest.read_prompts(tmp_path / "x.csv")
    with pytest.raises(ValueError, match="1 prompts and 2 labels"):
        xstest.refusals([xstest.Prompt("1", "hi", "t", True)], [True, False])
