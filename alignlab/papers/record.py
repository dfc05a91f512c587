"""Records of measured claims: one JSON file for each claim, with its expectation, the measured values and their origin.

A record holds no verdict: the verdict is computed from the expectation and the values whenever the record is read. The
expectation is written, with its digest, before the measurement starts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from alignlab.errors import DamagedError
from alignlab.integrity import read_sealed, write_sealed
from alignlab.papers.claim import Band, Claim, Curve, Paper, digest_of, expectation
from alignlab.papers.verdict import Decision, decide
from alignlab.runs.directory import git_revision, now, versions
from alignlab.runs.record import ListOf, Table, is_name, is_number, is_text, or_null, wrong_types

_OF_THE_EXPECTATION = ("version", "kind", "expected", "premises")

_NUMBERS = ListOf(is_number)
_BAND = Table({"quantity": is_text, "low": or_null(is_number), "high": or_null(is_number), "provenance": is_text})
_CURVE = Table({part.name: _NUMBERS for part in fields(Curve)})

# The types of a record. Anybody may have written it.
_TYPES = Table(
    {
        **dict.fromkeys(("paper", "claim", "kind", "digest", "status"), is_text),
        **dict.fromkeys(("expected", "premises"), ListOf(_BAND)),
        "command": ListOf(is_text),
        "measured": Table(others=_NUMBERS),
        "runs": ListOf(Table({"id": is_name})),
    }
)
_NULLABLE = Table(dict.fromkeys(("reason", "ended", "git"), or_null(is_text)))
_LATER_TYPES = Table({"commands": ListOf(is_text), "curves": Table(others=_CURVE)})


def _wrong_fields(record: Mapping[str, Any]) -> list[str]:
    wrong = [*wrong_types(record, _TYPES), *wrong_types(record, _NULLABLE), *wrong_types(record, _LATER_TYPES)]
    wrong += [key for key in (*_TYPES.fields, *_NULLABLE.fields) if key not in record]
    wrong += [key for key in _TYPES.fields if key in record and record[key] is None]
    return wrong or [key for key in ("expected", "premises") if not all(map(_is_band, record[key]))]


def _is_band(value: Mapping[str, Any]) -> bool:
    return value.keys() == _BAND.fields.keys() and (value["low"] is not None or value["high"] is not None)


@dataclass(frozen=True)
class ClaimFile:
    """`<folder>/<paper>/<claim>.json`."""

    folder: Path
    paper: str
    claim: str

    @property
    def path(self) -> Path:
        return self.folder / self.paper / f"{self.claim}.json"

    def read(self) -> dict[str, Any]:
        """The record; empty if there is none.

        Raises DamagedError if its checksum is wrong, if its expectation is not the one that its digest was made of, or
        if an entry has another type than `begin` and `end` write.
        """
        if not self.path.exists():
            return {}
        record = read_sealed(self.path)
        if digest_of({key: record.get(key) for key in _OF_THE_EXPECTATION}) != record.get("digest"):
            raise DamagedError(self.path, "is damaged (its expectation is not the one that was written first)")
        if wrong := _wrong_fields(record):
            raise DamagedError(self.path, f"is damaged (fields that lack or have a wrong type: {', '.join(wrong)})")
        return record

    def begin(self, paper: Paper, claim: Claim, command: Sequence[str]) -> None:
        """Write the expectation before anything is measured."""
        expected = expectation(claim)
        write_sealed(
            self.path,
            {
                "paper": paper.name,
                "claim": claim.name,
                "words": claim.words,
                "source": claim.source,
                "scale": claim.scale,
                "deviations": list(claim.deviations),
                **expected,
                "digest": digest_of(expected),
                "command": list(command),
                "status": "running",
                "reason": None,
                "started": now(),
                "ended": None,
                "git": git_revision(),
                "versions": versions(),
                "machine": {"cpus": os.cpu_count(), "threads": os.environ.get("OMP_NUM_THREADS")},
                "measured": {},
                "runs": [],
            },
        )

    def end(
        self,
        measured: Mapping[str, Sequence[float]],
        runs: Sequence[Mapping[str, Any]] = (),
        curves: Mapping[str, Curve] | None = None,
    ) -> None:
        """Add the measured values, one list for each quantity, the runs that they come from, and curves for figures."""
        values = {name: [float(value) for value in each] for name, each in measured.items()}
        drawn = {name: asdict(curve) for name, curve in (curves or {}).items()}
        self._update(status="done", measured=values, runs=list(runs), curves=drawn, ended=now())

    def note_commands(self, commands: Sequence[str]) -> None:
        """Record the commands of a claim that is measured by several."""
        self._update(commands=list(commands))

    def fail(self, reason: str) -> None:
        """Record that the measurement ended without a result, and why."""
        self._update(status="failed", reason=reason, ended=now())

    def _update(self, **values: Any) -> None:
        write_sealed(self.path, {**self.read(), **values})


def decision_of(record: Mapping[str, Any]) -> Decision:
    """The verdict that follows from a record alone."""
    if record.get("status") != "done":
        reason = record.get("reason") or "the measurement was not finished"
        return Decision("not-run", f"{record.get('status', 'no record')}: {reason}")
    bands, premises = ([Band(**band) for band in record[key]] for key in ("expected", "premises"))
    found = decide(bands, record["measured"], kind=record["kind"], premises=premises)
    if record.get("scale") == "middle":
        return Decision("needs-scale", "was measured with a smaller model than the paper's", found.results)
    return found


@dataclass(frozen=True)
class Row:
    """A claim with its record (empty if it has none) and its verdict."""

    paper: str
    claim: Claim
    decision: Decision
    record: Mapping[str, Any] = field(default_factory=dict)


def row_of(folder: Path, paper: Paper, claim: Claim) -> Row:
    """The verdict on a claim from its record in a folder.

    A record does not count if its expectation is not the claim's current one, because an expectation must be written
    before the measurement.
    """
    try:
        record = ClaimFile(folder, paper.name, claim.name).read()
    except DamagedError as error:
        return Row(paper.name, claim, Decision("not-run", str(error)))
    if not record:
        if claim.scale == "middle":
            return Row(paper.name, claim, Decision("needs-scale", "was not measured with a smaller model either"))
        if claim.scale == "full":
            return Row(paper.name, claim, Decision("needs-scale", "needs the models and data of the paper"))
        return Row(paper.name, claim, Decision("not-run", "there is no record"))
    if record["digest"] != digest_of(expectation(claim)):
        return Row(paper.name, claim, Decision("not-run", "the expectation has changed since the record was made"))
    return Row(paper.name, claim, decision_of(record), record)


def records_below(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(paper, claim) -> record, for every record in a folder. Raises DamagedError for a damaged one."""
    files = sorted(folder.glob("*/*.json"))
    return {(file.parent.name, file.stem): ClaimFile(folder, file.parent.name, file.stem).read() for file in files}
