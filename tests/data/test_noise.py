"""Flipped labels and imbalance of training rows, for every shape of rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignlab.data.noise import Noise, with_noise
from alignlab.data.rows import Completion, Labelled, Loaded, Pair, Ranking
from alignlab.errors import ConfigError

PAIRS = [Pair(f"p{i}", f"good {i}", f"bad {i}", True, i % 2 == 0, margin=1.0) for i in range(20)]
LABELLED = [Labelled(f"p{i}", f"a{i}", i < 15) for i in range(20)]


def places(rows: list[Any], changed: list[Any]) -> set[int]:
    return {i for i, (before, after) in enumerate(zip(rows, changed, strict=True)) if before != after}


def test_pairs_are_exchanged() -> None:
    loaded, flipped = with_noise(Loaded(PAIRS), Noise(flipped=0.25))
    assert flipped == 5
    changed = places(PAIRS, loaded.rows)
    assert len(changed) == 5
    for i in changed:
        assert loaded.rows[i] == Pair(f"p{i}", f"bad {i}", f"good {i}", i % 2 == 0, True, margin=1.0)
    more = places(PAIRS, with_noise(Loaded(PAIRS), Noise(flipped=0.5))[0].rows)
    assert changed < more, "with a larger share the same rows and more"
    assert places(PAIRS, with_noise(Loaded(PAIRS), Noise(flipped=0.25, seed=1))[0].rows) != changed
    assert with_noise(Loaded(PAIRS), Noise())[0].rows == PAIRS


def test_labels_are_flipped_and_good_answers_left_out() -> None:
    loaded, flipped = with_noise(Loaded(LABELLED), Noise(desirable_kept=0.2))
    assert (flipped, loaded.dropped) == (0, {"data.noise.desirable_kept": 12})
    assert [row.desirable for row in loaded.rows] == [True] * 3 + [False] * 5
    loaded, flipped = with_noise(Loaded(LABELLED), Noise(flipped=0.1))
    changed = places(LABELLED, loaded.rows)
    assert len(changed) == flipped == 2
    assert all(loaded.rows[i].desirable != LABELLED[i].desirable for i in changed)


def test_rankings_are_reversed_and_answers_to_imitate_are_not_changed() -> None:
    ranking = Ranking("p", ["a", "b", "c"], [1.0, 5.0, 2.0], [True] * 3)
    loaded, flipped = with_noise(Loaded([ranking, ranking]), Noise(flipped=0.5))
    assert flipped == 1
    assert sorted(row.grades for row in loaded.rows) == [[1.0, 5.0, 2.0], [5.0, 1.0, 4.0]]
    answers = Loaded([Completion("p", "a")])
    assert with_noise(answers, Noise(flipped=0.5)) == (answers, 0)
    assert with_noise(Loaded([]), Noise(flipped=0.5)) == (Loaded([]), 0)


@pytest.mark.parametrize(
    ("settings", "key"), [({"flipped": 0.6}, "flipped"), ({"desirable_kept": -1}, "desirable_kept")]
)
def test_ranges(settings: dict[str, float], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        Noise(**settings)  # type: ignore[arg-type]


def test_the_record_counts_and_only_training_rows_change(alignlab: Callable[..., Any], tmp_path: Path) -> None:
    rows = [{"prompt": f"Say {i}", "chosen": f"{i} is fine", "rejected": "no"} for i in range(40)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    small = [
        "model=tiny", "data=pairs", "evaluation=off", "data.path=mine.jsonl", "tracking=none", "trainer.max_steps=1",
        "trainer.batch_size=4", "data.max_length=64", "data.max_prompt_length=32", "reference=none",
    ]  # fmt: skip

    def data_of(kind: str) -> dict[str, Any]:
        (file,) = (file for file in Path("outputs/runs").glob(f"{kind}-*/run.json"))
        return json.loads(file.read_text())["data"]  # type: ignore[no-any-return]

    noisy = [*small, "data.noise.flipped=0.25"]
    found = alignlab("train", *noisy, "objective=simpo")
    assert found.code == 0, found.err
    assert data_of("simpo")["train"]["flipped"] == 9, "a quarter of 36"
    assert "flipped" not in data_of("simpo")["eval"]
    assert "9 labels flipped" in found.err
    clean = alignlab("train", *small, "objective=cpo")
    assert clean.code == 0, clean.err
    assert data_of("cpo")["eval"]["digest"] == data_of("simpo")["eval"]["digest"]
    assert data_of("cpo")["train"]["digest"] != data_of("simpo")["train"]["digest"]
    assert alignlab("evaluate", "run=simpo", "evaluation.prompts=1", "evaluation.max_new_tokens=2").code == 0

    def planned(*words: str) -> str:
        return str(alignlab("check", "objective=simpo", *words).out.split()[0])

    assert planned(*small) == planned(*small, "data.noise.flipped=0.0", "data.noise.seed=0")
    assert planned(*small) != planned(*noisy)
    assert planned(*small, "objective=sft") == planned(*noisy, "objective=sft"), "it imitates the preferred answers"
    for words, text in (
        (["data.noise.flipped=0.7"], "data.noise.flipped = 0.7\n      must lie in [0.0, 0.5]"),
        (["data.noise.desirable_kept=0.1"], "is used by objectives on labelled answers only"),
        (["data.noise.flip=0.1"], "data.noise has: desirable_kept, flipped, seed"),
        (["+data.noise.flip=0.1"], "data.noise.flip = 0.1\n      no such key; there are: flipped, desirable_kept"),
    ):
        refused = alignlab("check", *small, "objective=simpo", *words)
        assert (refused.code, text in refused.err) == (2, True), refused.err
