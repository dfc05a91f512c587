"""Win counts of HALOs' evaluations (KTO, Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306) with intervals.

A row is one run, with exp_name, judge, seed, total, and with name and wins of candidate and baseline. Comparisons that
neither won are ties.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alignlab.errors import DataError
from alignlab.evaluation.benchmarks.files import read_rows
from alignlab.statistics.intervals import Estimate, share_interval


@dataclass(frozen=True)
class Row:
    """One run's counts and win-rates.

    paper: wins / total, as in the paper's tables. A tie counts as not won.
    rate:  win-rate in which a tie counts half.
    """

    run: str
    judge: str
    wins: int
    ties: int
    losses: int
    paper: Estimate
    rate: Estimate


def read_table(path: str | Path, *, level: float = 0.95) -> list[Row]:
    """All runs of a `results.jsonl`, in its order. Raises DataError for a row whose counts do not add up."""
    table = []
    for i, row in enumerate(read_rows(path, "exp_name", "total", "candidate", "baseline"), 1):
        wins, losses = int(row["candidate"]["wins"]), int(row["baseline"]["wins"])
        ties = int(row["total"]) - wins - losses
        if min(wins, losses, ties) < 0:
            raise DataError(f"{path}, row {i}: {wins} + {losses} wins of {row['total']}")
        paper, rate = (share_interval(wins, *counts, level=level) for counts in ((0, ties + losses), (ties, losses)))
        table.append(Row(row["exp_name"], row.get("judge", ""), wins, ties, losses, paper, rate))
    return table
