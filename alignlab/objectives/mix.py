"""A weighted sum of objectives; of three in MPO, Wang et al. 2024, https://arxiv.org/abs/2411.10442."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

import torch

from alignlab.discovery import classes_by_module
from alignlab.errors import ConfigError, Problem
from alignlab.objectives.base import Objective
from alignlab.objectives.online import Online
from alignlab.types import LabelledLogps, Logps, PairLogps, Requires, join

EXAMPLE = "parts=[{name:dpo,beta:0.1},{name:sft,weight:0.2}]"

# Keys of a part that are not fields of its objective.
_OWN = ("name", "weight")

_WORDS = {"float": "number", "bool": "true or false", "str": "word"}


def mix_loss(losses: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
    """Σ_k w_k L_k

    losses: [B] each.
    Returns [B].
    """
    return torch.stack([weight * loss for loss, weight in zip(losses, weights, strict=True)]).sum(dim=0)


@dataclass
class Mix(Objective):
    """A weighted sum of objectives on the same pairs, or on the same rows of another kind.

    If the rows are pairs, an objective on single answers is applied to the preferred answers. An objective on labelled
    answers is applied to both answers, and the mean of the two losses is taken. The rewards of the mix are those of the
    first part that is not on single answers.

    parts: a list of mappings. Each has the `name` of an objective, that objective's fields, and a `weight` (default 1).
    """

    parts: list[Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        # Replace the parts by their effective values, so that the config shows them and equal mixes are the same run.
        self.parts = [
            {"name": part["name"], "weight": weight, **asdict(made)}
            for part, weight, made in zip(self.parts, self._weights, self._objectives.values(), strict=True)
        ]

    def reward(self, answers: Logps) -> torch.Tensor:
        return self._leading.reward(answers)

    strength: ClassVar[str | None] = None
    monotone: ClassVar[bool] = False
    declares_traits: ClassVar[bool] = False

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if not self.parts:
            yield Problem("parts", "[]", "must name at least one objective", EXAMPLE)
        found = [problem for i, part in enumerate(self.parts) for problem in part_problems(f"parts.{i}", part)]
        yield from found
        if self.parts and not found:
            yield from self._shape_problems()

    @property
    def requires(self) -> Requires:  # type: ignore[override]
        """The union of the needs of all parts."""
        needs = [part.requires for part in self._objectives.values()]
        flags: dict[str, Any] = {
            f.name: any(getattr(n, f.name) for n in needs) for f in fields(Requires) if f.type == "bool"
        }
        return Requires(data=self._shape, length=self._leading.requires.length, **flags)

    @property
    def reward_scale(self) -> float:
        return self._leading.reward_scale

    @property
    def nondifferentiable_at_reference(self) -> bool:
        return any(part.nondifferentiable_at_reference for part in self._objectives.values())

    @property
    def loss_at_reference(self) -> float | None:
        known = [part.loss_at_reference for part in self._objectives.values()]
        if any(value is None for value in known):
            return None
        return math.fsum(w * v for w, v in zip(self._weights, known, strict=True) if v is not None)

    def __call__(self, batch: Any) -> torch.Tensor:
        return mix_loss([_apply(part, batch) for part in self._objectives.values()], self._weights)

    def metrics(self, batch: Any) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for name, part in self._objectives.items():
            for key, value in part.metrics(_seen_by(part, batch)).items():
                found[key if key not in found else f"parts/{name}/{key}"] = value
            found[f"parts/{name}"] = _apply(part, batch).mean()
        return found

    def data_warnings(self, counts: Mapping[str, int]) -> Iterator[str]:
        for part in self._objectives.values():
            yield from part.data_warnings(counts)

    @cached_property
    def _objectives(self) -> dict[str, Objective]:
        made: dict[str, Objective] = {}
        for part in self.parts:
            name = part["name"] if part["name"] not in made else f"{part['name']}_{len(made) + 1}"
            made[name] = make_part(part)
        return made

    @property
    def _weights(self) -> list[float]:
        return [float(part.get("weight", 1.0)) for part in self.parts]

    @property
    def _leading(self) -> Objective:
        parts = list(self._objectives.values())
        return next((part for part in parts if part.requires.data != "completions"), parts[0])

    @property
    def _shape(self) -> Any:
        shapes = {part.requires.data for part in self._objectives.values()}
        return "pairs" if "pairs" in shapes else self._leading.requires.data

    def _shape_problems(self) -> Iterator[Problem]:
        shape = self._shape
        for i, (name, part) in enumerate(self._objectives.items()):
            key, needs = f"parts.{i}", part.requires
            fits = needs.data == shape or (shape == "pairs" and needs.data in ("completions", "labelled"))
            if not fits or (shape == "pairs" and needs.mismatched):
                yield Problem(key, name, f"works on {needs.data} and can't be mixed with {shape}")
            elif part.initial_state() is not None:
                yield Problem(key, name, "can't be part of a mix, because it keeps a state between steps")


def make_part(part: Mapping[str, Any]) -> Objective:
    """The objective of a part. The part must have no problems."""
    cls = offline_objectives()[part["name"]]
    kinds = {f.name: str(f.type) for f in fields(cls)}
    return cls(**{k: float(v) if kinds[k] == "float" else v for k, v in part.items() if k not in _OWN})


def part_problems(key: str, part: Any) -> Iterator[Problem]:
    """Yield every problem of one part, looked at on its own."""
    if not isinstance(part, Mapping) or not isinstance(part.get("name"), str):
        yield Problem(key, part, "must hold an objective's name and fields", f"objective.{EXAMPLE}")
        return
    known = offline_objectives()
    if part["name"] not in known:
        yield Problem(f"{key}.name", part["name"], f"no such objective; there are: {', '.join(known)}")
        return
    weight = part.get("weight", 1.0)
    if not _is_a("float", weight) or not math.isfinite(weight) or weight < 0:
        yield Problem(f"{key}.weight", weight, "must be a number of at least 0", f"{key}.weight=1.0")
    cls, given = known[part["name"]], {k: v for k, v in part.items() if k not in _OWN}
    schema = {f.name: f for f in fields(cls)}
    unknown = [name for name in given if name not in schema]
    for name in unknown:
        has = ", ".join([*schema, *_OWN])
        yield Problem(f"{key}.{name}", given[name], f"no such key; {part['name']} has: {has}")
    unfit = [name for name, value in given.items() if name in schema and not _is_a(str(schema[name].type), value)]
    for name in unfit:
        yield Problem(f"{key}.{name}", given[name], f"must be a {_WORDS[str(schema[name].type)]}")
    lacking = [n for n, f in schema.items() if n not in given and f.default is f.default_factory is MISSING]
    for name in lacking:
        yield Problem(f"{key}.{name}", None, "needs a value", f"objective.{EXAMPLE}")
    if not unknown and not unfit and not lacking:
        try:
            cls(**given)
        except ConfigError as error:
            yield from (problem.under(key) for problem in error.problems)


def _is_a(kind: str, value: Any) -> bool:
    """Whether a value fits a field declared as float, bool or str. An integer is a float; true and false are not."""
    if kind not in _WORDS:
        return True
    if kind == "bool" or isinstance(value, bool):
        return kind == "bool" and isinstance(value, bool)
    return isinstance(value, str if kind == "str" else int | float)


def offline_objectives() -> dict[str, type[Objective]]:
    """Module name -> class of all objectives that can be a part: all offline ones except Mix."""
    found = classes_by_module("alignlab.objectives", Objective)
    return {name: cls for name, cls in found.items() if cls is not Mix and not issubclass(cls, Online)}


def _seen_by(part: Objective, batch: Any) -> Any:
    """The batch in the shape that the part works on."""
    if not isinstance(batch, PairLogps) or part.requires.data == "pairs":
        return batch
    if part.requires.data == "completions":
        return batch.chosen
    answers = join([batch.chosen, batch.rejected])
    good = torch.arange(len(answers.mask), device=answers.mask.device) < len(batch.chosen.mask)
    return LabelledLogps(answers, good)


def _apply(part: Objective, batch: Any) -> torch.Tensor:
    """[B] loss of a part. If the part splits a pair into two rows, it is the mean of their losses."""
    seen = _seen_by(part, batch)
    loss = part(seen)
    return loss if not (isinstance(seen, LabelledLogps) and seen is not batch) else loss.view(2, -1).mean(dim=0)
