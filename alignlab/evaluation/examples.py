"""Stored examples: one row a sample, with every side's answer to the same prompt. All statistics start from these.

Columns, where a side is `policy` or a baseline (`reference`, `chosen`, a run, a model) and a judge goes by its name:

    prompt_id, prompt, sample    digest and text of the prompt, number of the sample
    turn                         1 or 2, where some prompts have two; a second turn's row stands behind its first
    conversation                 the prompt's messages as JSON, null where it is one text
    <side>/answer, /tokens, /ended
    <side>/policy_logps, /reference_logps    of every token of the answer, nats, at temperature 1
    <side>/score/<judge>         what a judge that scores gave; NaN where it gave nothing valid
    <side>/first/<judge>, /second/<judge>    what the policy's answer got against this side's when shown first, second:
                                 1 won, 1/2 tied, 0 lost, NaN invalid, null unjudged
    <side>/said/<judge>          the judge's words
    sha256                       checksum of all other columns and the facts; every row has the same
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
    """Columns of one length.

    facts: what was done: settings, prompts, digests of weights and judges.
    """

    columns: dict[str, list[Any]]
    facts: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns["prompt_id"])

    def __getitem__(self, name: str) -> list[Any]:
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    @property
    def sides(self) -> list[str]:
        """The policy first."""
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
        """Columns, those of one judge left out."""
        endings = tuple(f"/{kind}/{judge}" for kind in ("score", "first", "second", "said"))
        return {name: values for name, values in self.columns.items() if not name.endswith(endings)}

    def write(self, folder: Path) -> None:
        """Store as Parquet, whole or not at all, with the checksum of columns and facts as one more column."""
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
        """Read a folder or a file. Older versions wrote no checksum; such a file is not verified.

        Raises DataError if there is no file or it holds no examples, and DamagedError if it is not what was written.
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


def same_prompts(one: Examples, other: Examples) -> bool:
    """Whether both are answers to the same prompts, row by row."""
    return all(one[name] == other[name] for name in ("prompt_id", "sample"))


def unscored(values: Iterable[Any]) -> list[float]:
    """Scores with NaN for null: Parquet keeps the two apart, arithmetic does not."""
    return [float("nan") if value is None else float(value) for value in values]
