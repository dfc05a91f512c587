"""What is said about numbers of devices and nodes before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from alignlab.config.schemas import Trainer, keys_outside_id, problems_of_start
from alignlab.errors import ConfigError
from alignlab.strategies.place import ALONE, Place


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"devices": 3}, "trainer.batch_size=15"),
        ({"devices": 2, "batch_size": 7}, "trainer.batch_size=8"),
        ({"devices": 8, "batch_size": 2}, "trainer.batch_size=8"),
        ({"devices": 2, "nodes": 3}, "trainer.batch_size=18"),
        ({"devices": 0}, "trainer.devices=1"),
        ({"nodes": -1}, "trainer.nodes=1"),
    ],
)
def test_a_batch_is_divided_equally(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Trainer(**settings)
    (problem,) = caught.value.problems
    assert problem.under("trainer").type_this == said
    Trainer(devices=4, nodes=2, batch_size=16)


@pytest.mark.parametrize(
    ("place", "settings", "key", "said"),
    [
        (ALONE, {"nodes": 2, "devices": 4}, "trainer.nodes", "torchrun --nnodes=2 --nproc-per-node=4"),
        (Place(0, 2, 0, 2), {"devices": 4}, "trainer.devices", "trainer.devices=2"),
        (Place(0, 4, 0, 2), {"devices": 2, "nodes": 4}, "trainer.nodes", "trainer.nodes=2"),
        (Place(0, 3, 0, 3), {}, "trainer.batch_size", "trainer.batch_size=15"),
        (Place(0, 4, 0, 2), {"devices": 2, "nodes": 2}, "", ""),
        (Place(0, 4, 0, 2), {}, "", ""),
        (Place(0, 16, 0, 8), {"devices": 8}, "", ""),
        (Place(0, 16, 0, 8), {"nodes": 2}, "", ""),
        (Place(0, 16, 0, 8), {"devices": 16}, "trainer.devices", "trainer.devices=8"),
        (ALONE, {"devices": 4}, "", ""),
    ],
)
def test_the_start_and_the_config_agree(
    place: Place, settings: dict[str, Any], key: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignlab.config.schemas.given_place", lambda: place)
    found = list(problems_of_start(Trainer(**settings)))
    assert [problem.key for problem in found] == ([key] if key else [])
    assert all(said in problem.type_this for problem in found)


def test_devices_do_not_count_in_the_id() -> None:
    assert {"trainer.devices", "trainer.nodes", "strategy"} <= set(keys_outside_id())
