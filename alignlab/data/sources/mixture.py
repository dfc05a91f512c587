"""Several data sets as one, in chosen shares."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from itertools import chain, zip_longest
from typing import Any, ClassVar, TypeVar

import numpy as np

from alignlab.checks import untouched_later_settings
from alignlab.data.conversations import prompt_key
from alignlab.data.filters import read_split
from alignlab.data.fingerprint import digest
from alignlab.data.noise import Noise
from alignlab.data.rows import Completion, Labelled, LeftOut, Loaded, Pair, Ranking, Split
from alignlab.data.sources.base import ReferenceTable, Source
from alignlab.discovery import classes_by_module, module_name
from alignlab.errors import DataError, Problem, UnreachableError
from alignlab.types import DataShape

Row = TypeVar("Row", Pair, Completion, Labelled, Ranking)


@dataclass(kw_only=True)
class Mixture(Source):
    """The rows of several sources, mixed. Each part holds out rows as it does on its own.

    A training row whose prompt is held out in another part is left out and counted. max_length and max_prompt_length of
    the mixture hold for all parts; those of the parts are not used. train_limit, eval_limit and drop of a part are
    applied to the part, and those of the mixture to the mixed rows. template and noise are settings of the mixture; a
    part that has its own is refused.

    parts:   name -> source.
    weights: name -> share of a part in the training rows, relative to the others. Each row is used at most once, so the
             part that is the first to run out decides the number of rows. Empty: all rows of all parts.
    counts:  name -> number of training rows of a part, in place of weights. Of other parts, all rows are used.
    seed:    of the choice of rows and of their order.
    """

    parts: dict[str, Source] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seed: int = 0

    # `fingerprint` covers the settings of all parts.
    content_fields: ClassVar[tuple[str, ...]] = ("parts",)

    def __post_init__(self) -> None:
        # The record of a run holds parts as mappings with the name of their source.
        self.parts = {n: part if isinstance(part, Source) else _from_mapping(part) for n, part in self.parts.items()}
        super().__post_init__()

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        names = ", ".join(self.parts) or "none"
        if len(self.parts) < 2:
            yield Problem("parts", names, "must be at least two sources", "data.parts.hh=hh_rlhf data.parts.own=pairs")
        for name, part in self.parts.items():
            if part.world is not None:
                yield Problem(f"parts.{name}", module_name(type(part)), "is a lab, which can't be mixed with others")
            if part.template != "auto":
                text = "is not used: the template of a mixture holds for all parts"
                yield Problem(f"parts.{name}.template", part.template, text, f"data.template={part.template}")
            if Noise(**vars(part.noise) if isinstance(part.noise, Noise) else part.noise) != Noise():
                text = "is not used: the noise is a setting of the mixture, not of its parts"
                yield Problem(f"parts.{name}.noise", part.noise, text, "data.noise.flipped=0.1")
        if self.weights and self.counts:
            yield Problem("counts", self.counts, "can't be combined with weights: leave one of the two out")
        for key, numbers, least in (("weights", self.weights, 0.0), ("counts", self.counts, 0)):
            for name, number in numbers.items():
                if name not in self.parts:
                    yield Problem(f"{key}.{name}", number, f"no such part; there are: {names}")
                elif not least < number < math.inf:
                    yield Problem(f"{key}.{name}", number, f"must be greater than {least}", f"{key}.{name}=1")
        if self.weights and (without := [name for name in self.parts if name not in self.weights]):
            yield Problem("weights", self.weights, f"must be given for all parts; missing: {', '.join(without)}")

    @property
    def shapes(self) -> tuple[DataShape, ...]:
        """The kinds of rows that all parts provide."""
        first, *others = [part.shapes for part in self.parts.values()] or [()]
        return tuple(shape for shape in first if all(shape in other for other in others))

    def unreachable(self) -> Iterator[Problem]:
        for name, part in self.parts.items():
            yield from (problem.under(f"parts.{name}") for problem in part.unreachable())

    def fingerprint(self) -> str:
        return digest(
            json.dumps([name, module_name(type(part)), _settings(part), part.fingerprint()], sort_keys=True).encode()
            for name, part in sorted(self.parts.items())
        )

    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        return self._mixed(lambda part, which: part.pairs(which, reference), split)

    def completions(self, split: Split) -> Loaded[Completion]:
        return self._mixed(lambda part, which: part.completions(which), split)

    def labelled(self, split: Split, reference: ReferenceTable | None) -> Loaded[Labelled]:
        return self._mixed(lambda part, which: part.labelled(which, reference), split)

    def rankings(self, split: Split, reference: ReferenceTable | None) -> Loaded[Ranking]:
        return self._mixed(lambda part, which: part.rankings(which, reference), split)

    def _mixed(self, read_all: Callable[[Source, Split], Loaded[Row]], split: Split) -> Loaded[Row]:
        def read(name: str, which: Split) -> Loaded[Row]:
            part = self.parts[name]
            try:
                return read_split(partial(read_all, part), which, part.drop)
            except DataError as error:
                kind = UnreachableError if isinstance(error, UnreachableError) else DataError
                raise kind(with_keys_of_part(str(error), f"data.parts.{name}", part)) from error

        held_out = [read(name, "eval") for name in self.parts]
        if split == "eval":
            in_turn = chain.from_iterable(zip_longest(*(part.rows for part in held_out)))
            rows = [row for row in in_turn if row is not None]
            return _joined(held_out).with_rows(rows).first(self.limited("eval"))
        known = {prompt_key(row.prompt) for part in held_out for row in part.rows}
        loaded = {name: _without(known, read(name, "train")) for name in self.parts}
        return self._chosen(loaded)

    def _chosen(self, loaded: Mapping[str, Loaded[Row]]) -> Loaded[Row]:
        """The training rows that `weights` or `counts` choose from the rows of the parts, in mixed order."""
        sizes = self._sizes({name: len(found.rows) for name, found in loaded.items()})
        rng = np.random.default_rng(self.seed)
        rows: list[Row] = []
        unused: list[LeftOut] = []
        for name, found in loaded.items():
            order = rng.permutation(len(found.rows))
            rows += [found.rows[i] for i in sorted(order[: sizes[name]])]
            reason = f"more than the mixture takes of {name}"
            unused += [LeftOut(reason, found.rows[i].place) for i in sorted(order[sizes[name] :])]
        mixed = [rows[i] for i in rng.permutation(len(rows))]
        return _joined(loaded.values()).with_rows(mixed, unused).first(self.limited("train"))

    def _sizes(self, rows: Mapping[str, int]) -> dict[str, int]:
        """The number of training rows of each part. Raises DataError if a part has fewer rows than it should give."""
        if self.weights:
            scarce = min(self.weights, key=lambda name: rows[name] / self.weights[name])
            sizes = {name: round(weight * rows[scarce] / self.weights[scarce]) for name, weight in self.weights.items()}
            if without := [name for name, size in sizes.items() if not size and rows[scarce]]:
                text = f"all {rows[scarce]} training rows of {scarce} leave no row for {', '.join(without)}"
                raise DataError(f"data.weights: {text}\n  type: a smaller data.weights.{scarce}, or data.counts")
            return sizes
        if short := [name for name, count in self.counts.items() if count > rows[name]]:
            found = ", ".join(f"{name} has {rows[name]} training rows, not {self.counts[name]}" for name in short)
            fix = ",".join(f"{name}:{rows[name]}" for name in short)
            raise DataError(f"data.counts: {found}\n  type: 'data.counts={{{fix}}}'")
        return {**rows, **self.counts}


def with_keys_of_part(text: str, key: str, part: Source) -> str:
    """A message about the data of a part, with the keys of the part: `data.columns` becomes `data.parts.own.columns`.

    key: of the part, such as `data.parts.own`.
    """
    names = "|".join(field.name for field in fields(part))
    return re.sub(rf"(?<![\w.])data\.({names})(?![\w.])", rf"{key}.\1", text)


def _joined(parts: Iterable[Loaded[Row]]) -> Loaded[Row]:
    """What was left out of all parts, without rows."""
    found = list(parts)
    dropped = sum((part.dropped for part in found), Counter())
    left_out = tuple(row for part in found for row in part.left_out)
    return Loaded([], dropped, left_out, sum(part.beyond for part in found))


def _without(prompts: set[str], loaded: Loaded[Row]) -> Loaded[Row]:
    """The rows whose prompt is none of `prompts`."""
    shared = [prompt_key(row.prompt) in prompts for row in loaded.rows]
    rows = [row for row, is_shared in zip(loaded.rows, shared, strict=True) if not is_shared]
    reason = "prompt is held out in another part"
    left_out = [LeftOut(reason, row.place) for row, is_shared in zip(loaded.rows, shared, strict=True) if is_shared]
    return loaded.with_rows(rows, left_out)


def _settings(part: Source) -> dict[str, Any]:
    """The fields of a part that decide its rows, without places and settings that are not used."""
    unused = {*part.content_fields, *untouched_later_settings(part), "max_length", "max_prompt_length"}
    return {name: value for name, value in asdict(part).items() if name not in unused}


def _from_mapping(part: Mapping[str, Any]) -> Source:
    fields = dict(part)
    return classes_by_module("alignlab.data.sources", Source)[fields.pop("source")](**fields)
