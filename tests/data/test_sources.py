"""Rows from the lab, from HH-RLHF and from files."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from alignlab.data.conversations import UnusableRowError
from alignlab.data.rows import Split
from alignlab.data.sources.hh_rlhf import HHRLHF, parse_transcripts
from alignlab.data.sources.lab import Lab
from alignlab.data.sources.pairs import Pairs
from alignlab.errors import ConfigError, DataError

LAB = Lab(alphabet="abc", length=3, prompts=2, prompt_length=1, demonstrations=4000, pair_count=20000, eval_limit=500)


def reference(world: object) -> np.ndarray:
    return LAB.world.demonstrator_logps


def test_lab_demonstrations_follow_their_author() -> None:
    rows = LAB.completions("train").rows
    assert len(rows) == 4000
    place = {text: i for i, text in enumerate(LAB.world.completion_texts)}
    counts = np.zeros_like(LAB.world.demonstrator_logps)
    for row in rows:
        counts[LAB.world.prompt_texts.index(str(row.prompt)), place[row.completion]] += 1
    p = np.exp(LAB.world.demonstrator_logps)
    expected = p * counts.sum(1, keepdims=True)
    likely = expected > 5
    chi2 = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
    dof = likely.sum() - 2
    assert abs(chi2 - dof) < 5 * np.sqrt(2 * dof)


def test_lab_labels_are_bradley_terry() -> None:
    """Mean of (win - sigmoid(gold difference)) is 0 within 4 standard errors, and the labels are not deterministic."""
    pairs = LAB.pairs("train", reference).rows
    world = LAB.world
    place = {text: i for i, text in enumerate(world.completion_texts)}
    gaps = np.array(
        [
            world.gold_reward[world.prompt_texts.index(str(p.prompt)), [place[p.chosen], place[p.rejected]]] @ [1, -1]
            for p in pairs
        ]
    )
    size = np.abs(gaps)
    better_won = gaps > 0
    probability = 1 / (1 + np.exp(-size))
    error = (better_won - probability)[size > 0]
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(len(error))
    assert 0.6 < better_won.mean() < 0.8


def test_lab_deterministic_labels_never_err() -> None:
    lab = Lab(alphabet="abc", length=3, prompts=2, prompt_length=1, pair_count=500, labels="deterministic")
    world = lab.world
    place = {text: i for i, text in enumerate(world.completion_texts)}
    for pair in lab.pairs("train", lambda w: w.demonstrator_logps).rows:
        x = world.prompt_texts.index(str(pair.prompt))
        assert world.gold_reward[x, place[pair.chosen]] >= world.gold_reward[x, place[pair.rejected]]
        assert pair.chosen != pair.rejected
        assert pair.chosen_ended == (len(pair.chosen) < 3)


def test_lab_splits_differ_and_repeat() -> None:
    assert LAB.pairs("eval", reference).rows == LAB.pairs("eval", reference).rows
    assert LAB.pairs("eval", reference).rows != LAB.pairs("train", reference).rows[:500]
    assert len(LAB.pairs("eval", reference).rows) == 500


def flipped(share: float, split: Split = "train") -> list[bool]:
    """Whether each pair's label is flipped."""
    clean = LAB.pairs(split, reference).rows
    noisy = dataclasses.replace(LAB, flipped=share).pairs(split, reference).rows
    assert all({a.chosen, a.rejected} == {b.chosen, b.rejected} for a, b in zip(clean, noisy, strict=True))
    assert all(b.chosen_ended == (len(b.chosen) < 3) for b in noisy)
    return [a.chosen != b.chosen for a, b in zip(clean, noisy, strict=True)]


def test_lab_labels_are_flipped_as_often_as_asked() -> None:
    """Exactly the given share of labels is flipped, and the pairs are the same otherwise.

    A larger share flips the pairs of a smaller one too. No held-out label is flipped.
    """
    few, many = flipped(0.1), flipped(0.4)
    assert (sum(few), sum(many), sum(flipped(0.0))) == (2000, 8000, 0)
    assert all(more for less, more in zip(few, many, strict=True) if less)
    assert few[:1000] != sorted(few[:1000], reverse=True), "anywhere in the data"
    assert sum(flipped(0.5, "eval")) == 0


def test_lab_keeps_a_share_of_the_good_answers() -> None:
    """Exactly the given share of good answers is kept, and all bad ones. Held-out answers and pairs do not change."""
    lab = dataclasses.replace(LAB, desirable_kept=0.1)
    rows, whole = lab.labelled("train", reference).rows, LAB.labelled("train", reference).rows
    assert sum(row.desirable for row in rows) == 2000
    assert [row for row in rows if not row.desirable] == [row for row in whole if not row.desirable]
    good = {(row.prompt, row.completion) for row in whole if row.desirable}
    assert all((row.prompt, row.completion) in good for row in rows if row.desirable)
    assert len(lab.labelled("eval", reference).rows) == 1000
    assert lab.pairs("train", reference).rows == LAB.pairs("train", reference).rows
    only_bad = dataclasses.replace(LAB, desirable_kept=0.0).labelled("train", reference).rows
    assert len(only_bad) == 20000


@pytest.mark.parametrize(("key", "value"), [("flipped", 0.6), ("flipped", -0.1), ("desirable_kept", 1.1)])
def test_lab_refuses_shares_that_are_none(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match="must lie in"):
        dataclasses.replace(LAB, **{key: value})


def test_lab_pairs_need_the_reference() -> None:
    with pytest.raises(ValueError, match="sampled from the reference"):
        LAB.pairs("train", None)


def test_transcripts() -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant:"
    pair = parse_transcripts(f"{start} Because.", f"{start} No idea.")
    assert pair.prompt == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Why?"},
    ]
    assert (pair.chosen, pair.rejected) == ("Because.", "No idea.")
    with pytest.raises(UnusableRowError, match="transcripts differ"):
        parse_transcripts(f"{start} a", "\n\nHuman: Ho\n\nAssistant: a")


def test_hh_rlhf_counts_what_it_leaves_out(shared_data: Path) -> None:
    """helpful-base has 2,354 rows: 9 differ before the last answer, 4 have an empty answer, 2 have equal answers."""
    source = HHRLHF(path=str(shared_data / "hh_rlhf"), eval_limit=0)
    held_out = source.pairs("eval", None)
    assert dict(held_out.dropped) == {
        "transcripts differ before the last answer": 9,
        "empty answer": 4,
        "identical answers": 2,
    }
    assert len(held_out.rows) == 2354 - 15
    train = source.pairs("train", None)
    assert len(train.rows) == 2749 + 1137 - sum(train.dropped.values())
    assert not list(source.missing())


def test_hh_rlhf_never_trains_on_what_it_holds_out(tmp_path: Path) -> None:
    for subset, split in (("a", "test"), ("b", "train"), ("b", "test")):
        with gzip.open(tmp_path / f"{subset}.{split}.jsonl.gz", "wt") as handle:
            handle.write(json.dumps({"chosen": f"\n\nHuman: {split}\n\nAssistant: x", "rejected": ""}) + "\n")
    assert not list(HHRLHF(path=str(tmp_path), subsets=["a", "b"], eval_subsets=["b"]).missing())
    (file,) = HHRLHF(path=str(next(tmp_path.rglob("*.gz")))).missing()
    assert "is a file; name a folder" in file.allowed
    problems = list(HHRLHF(path=str(tmp_path), subsets=["a"], eval_subsets=["a", "c"]).missing())
    assert [p.key for p in problems] == ["subsets", "eval_subsets"]
    assert "held out" in problems[0].allowed
    assert "there are: a, b" in problems[1].allowed


ROWS = [{"prompt": f"question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(20)]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json", ".parquet", ".csv"])
def test_pairs_from_every_format(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"rows{suffix}"
    frame = pd.DataFrame(ROWS)
    if suffix == ".parquet":
        frame.to_parquet(file)
    elif suffix == ".csv":
        frame.to_csv(file, index=False)
    else:
        frame.to_json(file, orient="records", lines=suffix != ".json")
    source = Pairs(path=str(file), eval_fraction=0.25)
    assert not list(source.missing())
    train, held_out = source.pairs("train", None).rows, source.pairs("eval", None).rows
    assert (len(train), len(held_out)) == (15, 5)
    assert {p.chosen for p in train} | {p.chosen for p in held_out} == {row["chosen"] for row in ROWS}


def test_pairs_in_conversational_form(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    turn = [{"role": "user", "content": "Hi"}]
    rows = [{"prompt": turn, "chosen": [{"role": "assistant", "content": c}], "rejected": "no"} for c in ("yes", "no")]
    file.write_text("\n".join(map(json.dumps, rows)))
    loaded = Pairs(path=str(file), eval_path=str(file)).pairs("train", None)
    assert loaded.rows[0].prompt == turn
    assert loaded.rows[0].chosen == "yes"
    assert dict(loaded.dropped) == {"identical answers": 1}


def test_pairs_name_missing_columns_and_bad_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "a", "chosen": "b"}))
    with pytest.raises(DataError, match="no column rejected; it has: prompt, chosen"):
        Pairs(path=str(file)).pairs("train", None)
    file.write_text("\n".join(json.dumps({"prompt": "a", "chosen": c, "rejected": "r"}) for c in ("x", None)))
    with pytest.raises(DataError, match="row 2"):
        Pairs(path=str(file)).pairs("train", None)
    file.write_text("{not json")
    with pytest.raises(DataError, match=r"rows\.jsonl: 1 row can't be used\n  line 1: is not JSON"):
        Pairs(path=str(file)).pairs("train", None)


def test_same_content_same_fingerprint_wherever_it_lies(tmp_path: Path) -> None:
    one, two, other = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl"))
    one.write_text("x")
    two.write_text("x")
    other.write_text("y")
    prints = [Pairs(path=str(f)).fingerprint() for f in (one, two, other)]
    assert prints[0] == prints[1] != prints[2]
