"""Remarks of an objective on the labels of its rows, before a model is loaded."""

from __future__ import annotations

from pathlib import Path

from alignlab.config.schemas import Train
from alignlab.data.noise import with_noise
from alignlab.data.own_files import OwnFiles
from alignlab.spelling import counted


def remarks_on_file(train: Train) -> list[str]:
    """Remarks on the labels in a file or a folder of the user. Remarks on other rows are made when a run starts.

    All training rows count, also those that tokenizing drops later.
    """
    if train.rounds:
        runs = counted(train.rounds, "run")
        return [f"instead there will be {runs} on samples, whose ids are known when their rows are made"]
    source, needs = train.data, train.objective.requires
    if needs.data != "labelled" or not isinstance(source, OwnFiles) or not Path(source.path).exists():
        return []
    rows = with_noise(source.labelled("train", None), source.noise)[0].rows
    good = sum(row.desirable for row in rows)
    counts = {"rows": len(rows), "desirable": good, "undesirable": len(rows) - good}
    return list(train.objective.data_warnings(counts))
