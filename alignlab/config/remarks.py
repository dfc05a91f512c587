"""What an objective has to say about its rows, as far as that is known before a model is loaded."""

from __future__ import annotations

from pathlib import Path

from alignlab.config.schemas import Train
from alignlab.data.own_files import OwnFiles


def remarks_on_file(train: Train) -> list[str]:
    """Remarks on the labels of a file of the user's own; none for other rows, which a run remarks on at its start.

    Rows are counted before tokenizing, which may leave some out.
    """
    source, needs = train.data, train.objective.requires
    if needs.data != "labelled" or not isinstance(source, OwnFiles) or not Path(source.path).is_file():
        return []
    rows = source.labelled("train", None).rows
    good = sum(row.desirable for row in rows)
    counts = {"rows": len(rows), "desirable": good, "undesirable": len(rows) - good}
    return list(train.objective.remarks(counts))
