"""Stored examples. A row is a sample: every side's answer to the same prompt. All statistics are computed from them.

A side is `policy` or a baseline (`reference`, `chosen`, a run, a model). A judge is named by its name. Columns:

    prompt_id, prompt, sample    digest and text of the prompt, number of the sample
    turn                         1 or 2, only if some prompts have two turns; the second turn's row follows its first
    conversation                 the prompt's messages as JSON, null if the prompt is one text
    <side>/answer, /tokens, /ended           text, number of tokens, whether the answer ended by itself
    <side>/policy_logps, /reference_logps    log-probability of every token of the answer, nats, at temperature 1
    <side>/score/<judge>         score of a judge that scores; NaN if it gave no valid one
    <side>/first/<judge>, /second/<judge>    score of the policy's answer against this side's, when the policy's answer
                                 is shown first or second: 1 won, 1/2 tied, 0 lost, NaN invalid, null unjudged
    <side>/said/<judge>          text of the judge
    sha256                       checksum of all other columns and the facts, the same in every row
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignlab.errors import DamagedError, DataError
from alignlab.integrity import json_digest, new_file

FILE = "rows.parquet"
_SEAL = "sha256"
_ABOUT = ("prompt_id", "prompt", "sample")


@dataclass(frozen=True)
class Examples:
    """Columns of equal length.

    facts: how the examples were made: settings, prompts, digests of weights and judges.
    """

    columns: dict[str, list[Any]]
    facts: dict[str, str] = field(default_factory=dict)

    def followed_by(self, others: Examples) -> Examples:
        """These rows and, below them, those of `others`, which have the same columns."""
        return Examples({name: [*values, *others[name]] for name, values in self.columns.items()}, self.facts)

    def __len__(self) -> int:
        return len(self.columns["prompt_id"])

    def __getitem__(self, name: str) -> list[Any]:
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    @property
    def all_prompts(self) -> bool:
        """Whether the prompts are all that there are (in the lab), not a sample of them."""
        return self.facts.get("prompts") == "all"

    @property
    def sides(self) -> list[str]:
        """All sides, the policy first."""
        return [name.removesuffix("/answer") for name in self.columns if name.endswith("/answer")]

    @property
    def baselines(self) -> list[str]:
        return [side for side in self.sides if side != "policy"]

    @property
    def scored_by(self) -> list[str]:
        """Judges that scored the policy's answers."""
        return [name.removeprefix("policy/score/") for name in self.columns if name.startswith("policy/score/")]

    def compared_by(self, baseline: str) -> list[str]:
        """Judges that compared the policy's answers with this side's."""
        start = f"{baseline}/first/"
        return [name.removeprefix(start) for name in self.columns if name.startswith(start)]

    def without(self, judge: str) -> dict[str, list[Any]]:
        """All columns except those of one judge."""
        endings = tuple(f"/{kind}/{judge}" for kind in ("score", "first", "second", "said"))
        return {name: values for name, values in self.columns.items() if not name.endswith(endings)}

    def write(self, folder: Path) -> None:
        """Store as a Parquet file, whole or not at all. One more column holds the checksum of columns and facts."""
        import pyarrow
        from pyarrow import parquet

        table = pyarrow.table(self.columns)
        seal = json_digest([table.to_pydict(), self.facts])
        table = table.append_column(_SEAL, pyarrow.array([seal] * len(table), pyarrow.string()))
        table = table.replace_schema_metadata(self.facts)
        with new_file(folder / FILE) as scratch:
            parquet.write_table(table, scratch)

    @staticmethod
    def read(place: Path) -> Examples:
        """Read a folder or a file. Files of older versions have no checksum and are not verified.

        Raises DataError if there is no file or it holds no examples, and DamagedError if it changed since it was
        written.
        """
        import pyarrow
        from pyarrow import parquet

        file = place / FILE if place.is_dir() else place
        if file.is_dir():
            raise DamagedError(file, "is a folder")
        try:
            table = parquet.read_table(file)
            columns = table.to_pydict()
            facts = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        except (OSError, MemoryError, ValueError, pyarrow.ArrowException) as error:
            if isinstance(error, FileNotFoundError | PermissionError):
                raise DataError(f"{file} holds no stored examples: {error}") from error
            raise DamagedError(file, f"holds no stored examples: {error}") from error
        seal = columns.pop(_SEAL, None)
        if seal and set(seal) != {json_digest([columns, facts])}:
            raise DamagedError(file, "is damaged (its checksum is wrong)")
        if lacking := [name for name in (*_ABOUT, "policy/answer") if name not in table.column_names]:
            raise DataError(f"{file} holds no stored examples: no column {', '.join(lacking)}")
        return Examples(columns, facts)


def facts_of(folder: Path) -> dict[str, str]:
    """The facts of the examples in a folder, without reading the examples; empty if there are none, or no more."""
    import pyarrow
    from pyarrow import parquet

    try:
        metadata = parquet.read_schema(folder / FILE).metadata or {}
        return {key.decode(): value.decode() for key, value in metadata.items()}
    except (OSError, ValueError, pyarrow.ArrowException):
        return {}


def same_prompts(one: Examples, other: Examples) -> bool:
    """Whether both are answers to the same prompts, row by row."""
    return all(one[name] == other[name] for name in ("prompt_id", "sample"))


def unscored(values: Iterable[Any]) -> list[float]:
    """Scores with NaN instead of null. Parquet distinguishes the two; arithmetic does not."""
    return [float("nan") if value is None else float(value) for value in values]
