"""data=mixture: several sources as one."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import hydra
import pytest

from alignlab.config.plan import Plan, plan
from alignlab.data.conversations import prompt_key
from alignlab.data.noise import Noise
from alignlab.data.sources.bandit import Bandit
from alignlab.data.sources.mixture import Mixture
from alignlab.data.sources.pairs import Pairs
from alignlab.data.sources.prompts import Prompts
from alignlab.data.sources.rankings import Rankings
from alignlab.data.sources.unpaired import Unpaired
from alignlab.errors import ConfigError, DataError


def pairs(folder: Path, name: str, count: int, first: int = 0) -> Pairs:
    """Pairs with the prompts `first`, `first` + 1, ... A tenth is held out."""
    file = folder / f"{name}.jsonl"
    rows = [{"prompt": f"Q{i}", "chosen": f"{name} {i}", "rejected": "b"} for i in range(first, first + count)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Pairs(path=str(file), eval_limit=0)


@pytest.fixture
def mixture(tmp_path: Path) -> Mixture:
    """40 rows of `a` and 20 of `b`, with different prompts: 36 + 18 are for training, 4 + 2 held out."""
    parts = {"a": pairs(tmp_path, "a", 40), "b": pairs(tmp_path, "b", 20, first=100)}
    return Mixture(parts=parts, eval_limit=0)


def counts(mixture: Mixture) -> dict[str, int]:
    return dict(Counter(row.chosen[0] for row in mixture.pairs("train", None).rows))


def test_shares_of_the_parts(mixture: Mixture) -> None:
    assert counts(mixture) == {"a": 36, "b": 18}
    assert counts(replace(mixture, weights={"a": 1, "b": 1})) == {"a": 18, "b": 18}
    assert counts(replace(mixture, weights={"a": 1, "b": 2})) == {"a": 9, "b": 18}
    few = replace(mixture, counts={"a": 5})
    assert counts(few) == {"a": 5, "b": 18}
    assert dict(few.pairs("train", None).dropped) == {"more than the mixture takes of a": 31}
    assert sum(counts(replace(few, train_limit=10)).values()) == 10
    with pytest.raises(DataError, match=r"b has 18 training rows, not 19\n  type: 'data.counts={b:18}'"):
        counts(replace(mixture, counts={"b": 19}))


def test_a_part_without_a_row_is_refused(mixture: Mixture) -> None:
    with pytest.raises(
        DataError, match=r"all 36 training rows of a leave no row for b\n  type: a smaller data.weights.a"
    ):
        counts(replace(mixture, weights={"a": 100, "b": 1}))
    assert counts(replace(mixture, weights={"a": 36, "b": 1})) == {"a": 36, "b": 1}


def test_rows_of_a_part_are_left_out_as_it_says(mixture: Mixture, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(file.read_text() * 2)
    assert counts(mixture) == {"a": 72, "b": 18}
    own = replace(mixture, parts={**mixture.parts, "a": replace(mixture.parts["a"], drop=["duplicate"])})
    assert counts(own) == {"a": 36, "b": 18}
    assert own.pairs("train", None).dropped == {"same as an earlier row": 36}
    assert own.pairs("eval", None).dropped == {"same as an earlier row": 4}


def test_the_order_is_mixed_and_repeats(mixture: Mixture) -> None:
    """Parts alternate: with 36 and 18 rows in random order, 24 neighbours differ on average."""
    rows = mixture.pairs("train", None).rows
    assert rows == mixture.pairs("train", None).rows
    assert rows != replace(mixture, seed=1).pairs("train", None).rows
    assert 14 < sum(one.chosen[0] != other.chosen[0] for one, other in pairwise(rows)) < 34
    assert all(row.place for row in rows)


def test_every_part_holds_out_rows(mixture: Mixture) -> None:
    held_out = mixture.pairs("eval", None).rows
    assert [row.chosen[0] for row in held_out] == list("ababaa"), "in turn"
    assert [row.chosen[0] for row in replace(mixture, eval_limit=4).pairs("eval", None).rows] == list("abab")
    assert len(mixture.labelled("eval", None).rows) == 12


def test_a_prompt_that_another_part_holds_out_is_not_trained_on(tmp_path: Path) -> None:
    """The 20 prompts of `b` are prompts of `a` too."""
    mixture = Mixture(parts={"a": pairs(tmp_path, "a", 40), "b": pairs(tmp_path, "b", 20)}, eval_limit=0)
    train, held_out = mixture.pairs("train", None), mixture.pairs("eval", None)
    assert not {prompt_key(row.prompt) for row in train.rows} & {prompt_key(row.prompt) for row in held_out.rows}
    left_out = train.dropped["prompt is held out in another part"]
    assert left_out > 0
    assert len(train.rows) + left_out == 36 + 18


def test_parts_that_do_not_go_together(tmp_path: Path, mixture: Mixture) -> None:
    a, path = mixture.parts["a"], "x.jsonl"
    for parts, words in (
        ({"a": a}, "must be at least two sources"),
        ({"a": a, "b": Bandit()}, "is a lab"),
        ({"a": a, "b": replace(a, template="none")}, "the template of a mixture holds for all parts"),
        ({"a": a, "b": replace(a, noise=Noise(flipped=0.1))}, "a setting of the mixture, not of its parts"),
    ):
        with pytest.raises(ConfigError, match=words):
            Mixture(parts=parts)
    assert Mixture(parts={"a": Rankings(path=path), "b": Unpaired(path=path)}).shapes == ("completions", "labelled")
    assert Mixture(parts={"a": a, "b": Prompts(path=path)}).shapes == ()
    for settings, words in (
        ({"weights": {"a": 1}}, "must be given for all parts; missing: b"),
        ({"weights": {"a": 1, "c": 1}}, "no such part; there are: a, b"),
        ({"counts": {"a": 0}}, "must be greater than 0"),
        ({"weights": {"a": 1, "b": 1}, "counts": {"a": 1}}, "leave one of the two out"),
    ):
        with pytest.raises(ConfigError, match=words):
            replace(mixture, **settings)  # type: ignore[arg-type]


def planned(*words: str) -> Plan:
    return plan(hydra.compose("train", ["data=mixture", "model=tiny", *words]), words)


def test_the_id_stands_for_the_parts(mixture: Mixture, tmp_path: Path, hydra_conf: None) -> None:
    """It depends on the content and the settings of each part, and not on where the files are."""

    def words(folder: Path, *more: str) -> list[str]:
        parts = [f"+data@data.parts.{n}=pairs" for n in "ab"]
        return [*parts, *(f"data.parts.{n}.path={folder / n}.jsonl" for n in "ab"), *more]

    first = planned(*words(tmp_path))
    shutil.copytree(tmp_path, tmp_path / "moved", ignore=shutil.ignore_patterns("moved"))
    assert planned(*words(tmp_path / "moved")).id == first.id
    others = [["data.parts.a.eval_fraction=0.2"], ["++data.weights={a: 1, b: 1}"], ["data.seed=1"]]
    assert len({first.id, *(planned(*words(tmp_path, *more)).id for more in others)}) == 4
    with (tmp_path / "moved" / "a.jsonl").open("a") as handle:
        handle.write(json.dumps({"prompt": "new", "chosen": "a", "rejected": "b"}) + "\n")
    assert planned(*words(tmp_path / "moved")).id != first.id
    restored: Any = Mixture(**first.config["data"])
    assert {name: type(part) for name, part in restored.parts.items()} == {"a": Pairs, "b": Pairs}


def test_a_part_that_can_not_be_read_is_told_with_its_own_keys(mixture: Mixture) -> None:
    mixture.parts["b"] = Pairs(path="org/nothing")
    with pytest.raises(DataError, match=r"org/nothing can't be reached: .*\n  type: data.parts.b.path=<a local copy>"):
        mixture.pairs("train", None)


def test_parts_are_typed_and_checked(alignlab: Callable[..., Any], mixture: Mixture) -> None:
    parts = ["data.parts.a=pairs", "data.parts.b=pairs", "data.parts.a.path=a.jsonl"]
    words = ["check", "data=mixture", "model=tiny", *parts]
    result = alignlab(*words)
    assert result.code == 2
    assert "data.parts.b.path\n      needs a value" in result.err
    result = alignlab(*words, "data.parts.b.path=c.jsonl")
    assert "data.parts.b.path = c.jsonl\n      no such file" in result.err
    Path("data.jsonl").write_text('{"prompt": "p", "best": "a", "rejected": "b"}\n')
    result = alignlab(*words, "data.parts.b.path=data.jsonl")
    assert "data.jsonl has no column chosen; it has: prompt, best, rejected" in result.err
    assert "type: 'data.parts.b.columns={chosen: <its name>}'" in result.err
    assert alignlab(*words, "data.parts.b.path=b.jsonl", "data.weights={a: 1, b: 3}").code == 0
