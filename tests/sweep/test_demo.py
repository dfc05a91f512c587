"""The whole demo. It takes minutes, so it is not part of `make test`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


@pytest.mark.slow
def test_the_demo_gives_the_table_of_the_readme(alignlab: Callable[..., Any]) -> None:
    """Rounding differs between machines and grows over 400 updates, to at most 15 % of KL, reward and gap."""
    assert alignlab("train", "experiment=lab_dpo", "sweep=dpo_beta", "sweep.name=demo").code == 0
    table = pd.read_csv("outputs/sweeps/demo/table.csv")
    header, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.search(r"(\| objective\.beta .*?)\n\n", README, re.S).group(1).splitlines()  # type: ignore[union-attr]
        if not line.startswith("|---")
    ]
    for heading, metric in (
        ("exact KL (nats)", "exact/kl"),
        ("exact reward", "exact/reward"),
        ("gap", "exact/frontier_gap"),
    ):
        printed = [float(row[header.index(heading)]) for row in rows]
        assert table[metric].tolist() == pytest.approx(printed, rel=0.15)
    assert (table["exact/frontier_gap"] > 0).all(), "nothing is above the frontier"
