"""Commas in questions, folders and lists of trackers do not make axes of a sweep."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from alignlab.config.commas import with_commas_kept


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("sweep.question=Which beta, and how sure?", "Which beta, and how sure?"),
        ("sweep.question=Is it DPO's beta: 0.1, or (0.3)?", "Is it DPO's beta: 0.1, or (0.3)?"),
        ("sweep.question='quoted, already'", "quoted, already"),
        ("sweep.question=plain", "plain"),
        ("sweep.question=Which\\ beta\\, say", "Which beta, say"),
        ("output_root=a,b", "a,b"),
        ("output_root=/data/x=1,y=2", "/data/x=1,y=2"),
        ("tracking=wandb,csv", ["wandb", "csv"]),
        ("tracking=[wandb,csv]", ["wandb", "csv"]),
        ("tracking=csv", "csv"),
    ],
)
def test_a_value_is_one(typed: str, value: object) -> None:
    (override,) = OverridesParser.create().parse_overrides([with_commas_kept(typed)])
    assert not override.is_sweep_override()
    found = override.value()
    assert (found if isinstance(found, list) else str(found)) == value


@pytest.mark.parametrize("typed", ["seed=1,2", "objective=dpo,ipo", "tracking.wandb.mode=online,offline", "-m"])
def test_other_words_are_as_typed(typed: str) -> None:
    assert with_commas_kept(typed) == typed
