"""HH-RLHF, Bai et al. 2022, https://arxiv.org/abs/2204.05862: pairs of transcripts that differ in the last answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from alignlab import hub
from alignlab.checks import later_setting, within
from alignlab.data.conversations import UnusableRowError
from alignlab.data.files import read_records, unusable_rows
from alignlab.data.filters import drop_unusable
from alignlab.data.fingerprint import digest, path_digest
from alignlab.data.held_out import divided
from alignlab.data.rows import LeftOut, Loaded, Message, Pair, Place, Split
from alignlab.data.sources.base import ReferenceTable, Source, load_rows
from alignlab.data.transcripts import transcript_turns
from alignlab.errors import DataError, Problem
from alignlab.spelling import quoted


@dataclass(kw_only=True)
class HHRLHF(Source):
    """Preference pairs of HH-RLHF.

    path:         hub name, or a folder with `<subset>/<split>.jsonl.gz` (as on the hub) or `<subset>.<split>.jsonl.gz`.
    subsets:      subsets to train on.
    eval_subsets: subsets whose official test split is held out for evaluation. If there are none, `eval_fraction` of
                  the rows of `subsets` is held out, by prompt. Of several subsets, `eval_limit` takes rows of all.
    eval_fraction: share of the rows that is held out if `eval_subsets` is empty.
    revision:     branch, tag or commit of a hub set; empty takes the default.
    """

    path: str = "Anthropic/hh-rlhf"
    subsets: list[str] = field(default_factory=lambda: ["helpful-rejection-sampled", "helpful-online"])
    eval_subsets: list[str] = field(default_factory=lambda: ["helpful-base"])

    eval_fraction: float = later_setting(default=0.1)
    revision: str = later_setting(default="")

    content_fields: ClassVar[tuple[str, ...]] = ("path", "revision")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if not self.subsets:
            yield Problem("subsets", "[]", "must name at least one subset", "subsets=[helpful-base]")
        if not self.eval_subsets:
            yield from within("eval_fraction", self.eval_fraction, 0.01, 0.9, example=0.1)

    def missing(self) -> Iterator[Problem]:
        folder = Path(self.path)
        if folder.is_dir() and self.revision:
            yield Problem("revision", self.revision, "works only with hub sets, and path is a folder", "revision=")
        if not folder.is_dir():
            looks_local = self.path.startswith((".", "/", "~")) or self.path.count("/") != 1
            if folder.is_file():
                text = "is a file; name a folder with <subset>.train.jsonl.gz and <subset>.test.jsonl.gz"
                yield Problem("path", self.path, text, f"path={quoted(str(folder.parent))}")
            elif looks_local:
                yield Problem("path", self.path, "is neither a folder nor a hub name", "path=Anthropic/hh-rlhf")
            return
        for key, split in (("subsets", "train"), ("eval_subsets", "eval")):
            for subset in getattr(self, key):
                if not self._files(subset):
                    known = sorted(
                        {re.split(r"[./]", str(f.relative_to(folder)))[0] for f in folder.rglob("*.jsonl.gz")}
                    )
                    yield Problem(
                        key, subset, f"no such subset below {self.path}; there are: {', '.join(known) or 'none'}"
                    )
                elif split == "train" and subset in self.eval_subsets and "train" not in self._files(subset):
                    yield Problem(
                        key,
                        subset,
                        "has no train split here, and its test split is held out for evaluation",
                        f"{key}=[{', '.join(s for s in self.subsets if s != subset) or 'another-subset'}]",
                    )

    def unreachable(self) -> Iterator[Problem]:
        yield from hub.problems("path", self.path, self.revision, "dataset")

    def fingerprint(self) -> str:
        if not Path(self.path).is_dir():
            return hub.named(self.path, self.revision, "dataset")
        files = [self._file(subset, "train") for subset in self.subsets]
        files += [self._file(subset, "eval") for subset in self.eval_subsets]
        return digest(path_digest(file).encode() for file in files)

    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        if self.eval_subsets:
            loaded = self._read(self.subsets if split == "train" else self.eval_subsets, split)
        else:
            loaded = divided(self._read(self.subsets, "train"), self.eval_fraction, self.path)[split]
        loaded = drop_unusable(loaded)
        several = split == "eval" and len(self.eval_subsets or self.subsets) > 1
        return loaded.spread(self.limited(split)) if several else loaded.first(self.limited(split))

    def _read(self, subsets: Sequence[str], split: Split) -> Loaded[Pair]:
        """The pairs of some subsets, with counts of the transcripts that are none."""
        pairs: list[Pair] = []
        left_out = []
        for subset in subsets:
            for place, chosen, rejected in self._transcripts(subset, split):
                try:
                    pairs.append(replace(parse_transcripts(chosen, rejected), place=place))
                except UnusableRowError as error:
                    left_out.append(LeftOut(error.faults[0], place))
        return Loaded(pairs).with_rows(pairs, left_out)

    def _transcripts(self, subset: str, split: Split) -> list[tuple[Place, str, str]]:
        """(place, chosen, rejected) of all rows. Raises DataError that lists the rows in which one is not a text."""
        if Path(self.path).is_dir():
            where = str(self._file(subset, split))
            rows = read_records(where)
        else:
            where = f"{self.path}, {subset}"
            rows = list(
                load_rows(self.path, self.revision, data_dir=subset, split="train" if split == "train" else "test")
            )
        sides = ("chosen", "rejected")
        faults = [
            (f"row {number}", f"{side} must be text, not {row.get(side)!r:.80}")
            for number, row in enumerate(rows, 1)
            for side in sides
            if not isinstance(row.get(side), str)
        ]
        if faults:
            raise unusable_rows(where, faults)
        return [(Place(where, number), row["chosen"], row["rejected"]) for number, row in enumerate(rows, 1)]

    def _files(self, subset: str) -> dict[str, Path]:
        """Split name -> file of a subset in a local folder."""
        folder = Path(self.path)
        found = [*folder.glob(f"{subset}/*.jsonl.gz"), *folder.glob(f"{subset}.*.jsonl.gz")]
        return {f.name.removesuffix(".jsonl.gz").removeprefix(f"{subset}."): f for f in sorted(found)}

    def _file(self, subset: str, split: Split) -> Path:
        """The file of one split of a subset.

        Training rows come from the train split. If there is none, they come from the test split, which is then not held
        out. Raises DataError if there is no test split to hold out.
        """
        files = self._files(subset)
        file = files.get("train", files.get("test")) if split == "train" else files.get("test")
        if file is None:
            raise DataError(
                f"data.path={self.path}: subset {subset} has no test split to hold out; found {sorted(files)}"
            )
        return file


def parse_transcripts(chosen: str, rejected: str) -> Pair:
    """The common turns as prompt, and the last turn of each transcript as answer.

    Raises UnusableRowError with the first fault.
    """
    turns, other = _turns(chosen), _turns(rejected)
    if turns[:-1] != other[:-1]:
        raise UnusableRowError("transcripts differ before the last answer")
    *prompt, answer = turns
    if not prompt:
        raise UnusableRowError("no turn before the answer")
    if prompt[-1]["role"] == "assistant":
        raise UnusableRowError("two turns of the assistant in a row before the end")
    return Pair(prompt, answer["content"], other[-1]["content"])


def _turns(transcript: str) -> list[Message]:
    """All turns of a transcript. Raises UnusableRowError unless the last turn is the assistant's."""
    turns = transcript_turns(transcript)
    if not any(turn["role"] == "assistant" for turn in turns):
        raise UnusableRowError("no answer")
    if turns[-1]["role"] != "assistant":
        raise UnusableRowError("the last turn is not the assistant's")
    return turns
