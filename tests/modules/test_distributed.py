"""Rows are divided among processes and put together again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alignlab.modules import distributed
from alignlab.types import Logps


def process(rank: int, world: int) -> Any:
    device = torch.device("cpu")
    return SimpleNamespace(global_rank=rank, world_size=world, strategy=SimpleNamespace(root_device=device))


@pytest.mark.parametrize("rows", [1, 2, 7, 9])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_shares_are_the_rows_in_their_order(rows: int, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [f"row {i}" for i in range(rows)]
    shares = [distributed.share(process(rank, world), whole) for rank in range(world)]
    assert sorted(row for share in shares for row in share) == whole
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    monkeypatch.setattr(distributed, "of_all", lambda trainer, value: shares)
    for rank in range(world):
        assert distributed.whole(process(rank, world), shares[rank]) == whole


def test_a_process_may_have_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be fewer held-out rows than processes."""
    mine = Logps(torch.tensor([[-1.0, -2.0]]), torch.tensor([[True, True]]))
    monkeypatch.setattr(distributed, "of_all", lambda trainer, value: [None, mine, None])
    for rank, values in ((0, []), (1, [mine])):
        found = distributed.gather(process(rank, 3), values)
        assert found.tokens.tolist() == [[-1.0, -2.0]]


def test_the_first_process_decides() -> None:
    several = process(1, 2)
    several.strategy.broadcast = lambda value: "its value"
    assert distributed.decided(several, "mine") == "its value"
    assert distributed.decided(process(0, 1), "mine") == "mine"
