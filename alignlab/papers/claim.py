"""Claims of papers as data: what the paper says, what must be measured if it is right, and how it is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alignlab.integrity import json_digest

if TYPE_CHECKING:
    from alignlab.papers.finished import Finished

# Where an expected number comes from.
#   printed:              in the paper's text or tables, or in its authors' repository
#   printed-via-notes:    the same, as transcribed by a third party
#   derived:              computed from the paper's equations
#   eye-read-third-party: read from a figure by a third party
#   notes:                a third party's notes without a place in the paper
PROVENANCES = ("printed", "printed-via-notes", "derived", "eye-read-third-party", "notes")

Kind = Literal["closed form", "estimator", "trained", "small model", "full scale"]
Scale = Literal["mini", "middle", "full"]

# The smallest number of seeds that can decide a claim about a random quantity.
FEWEST_SEEDS = 5


@dataclass(frozen=True)
class Band:
    """An expectation: the quantity lies between two bounds. With one bound only, it must differ from the bound.

    quantity:   name of a measured number.
    low, high:  the bounds; None if there is no bound on that side.
    provenance: where the numbers come from, one of PROVENANCES.
    """

    quantity: str
    low: float | None
    high: float | None
    provenance: str

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
            return f"{middle:.6g} ± {half:.2g}" if half else f"{middle:.6g}"
        return f"> {self.low:.6g}" if self.low is not None else f"< {self.high:.6g}"


def near(quantity: str, value: float, tolerance: float, provenance: str) -> Band:
    """The quantity is `value`, up to `tolerance` on both sides."""
    return Band(quantity, value - tolerance, value + tolerance, provenance)


def above(quantity: str, bound: float, provenance: str) -> Band:
    """The quantity is larger than `bound`. An order A > B is the expectation that A - B is above 0."""
    return Band(quantity, bound, None, provenance)


def below(quantity: str, bound: float, provenance: str) -> Band:
    """The quantity is smaller than `bound`."""
    return Band(quantity, None, bound, provenance)


@dataclass(frozen=True)
class Curve:
    """Values along a run: the mean over seeds with its 95 % t interval at each x.

    left, right: ends of the intervals of x, if x is measured too.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    left: tuple[float, ...] = ()
    right: tuple[float, ...] = ()


@dataclass(frozen=True)
class Exact:
    """Numbers without randomness: `measure()` returns name -> value."""

    measure: Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Sampled:
    """Numbers that depend on random draws: `measure(seed)` returns name -> value, for the seeds 0 ... seeds - 1."""

    measure: Callable[[int], Mapping[str, float]]
    seeds: int = 10


@dataclass(frozen=True)
class Batched:
    """The same, computed for all seeds at once: `measure(seeds)` returns name -> one value for each seed."""

    measure: Callable[[int], Mapping[str, Sequence[float]]]
    seeds: int = 10


@dataclass(frozen=True)
class Trained:
    """Numbers of trained runs.

    overrides: the words of `alignlab train -m` that train them; `seed` is one of the axes.
    read:      the runs of that sweep -> name -> one value for each seed.
    launcher:  trains the points, unless the user chooses another one; "auto" if some of them can't be vectorized.
    online:    whether objectives sample answers while they train, which takes minutes.
    curves:    the same runs -> name -> a curve for the figure of the claim. No verdict depends on it.
    """

    overrides: tuple[str, ...]
    read: Callable[[Sequence[Finished]], Mapping[str, Sequence[float]]]
    launcher: str = "vectorized"
    online: bool = False
    curves: Callable[[Sequence[Finished]], Mapping[str, Curve]] | None = None


@dataclass(frozen=True)
class Workspace:
    """Where the commands of a claim work.

    output_root: of the runs.
    folder:      for files that one command writes and another one reads.
    data:        the file, folder or hub name of the data that the claim is about.
    """

    output_root: Path
    folder: Path
    data: str


@dataclass(frozen=True)
class Measured:
    """What the commands of a claim gave: name -> values, the runs, and curves for the figure."""

    values: Mapping[str, Sequence[float]]
    runs: Sequence[Mapping[str, Any]] = ()
    curves: Mapping[str, Curve] | None = None


@dataclass(frozen=True)
class Commands:
    """Numbers of a chain of commands, such as making pairs, training on them, and evaluating.

    run:  yields the words of one command after another (the first is the verb). When it is asked for the next one, the
          results of those before it are on the disk. A command that was stopped resumes when it is given again.
    read: the numbers, from what the commands wrote.
    data: hub name of the data, unless the user names another place.
    """

    run: Callable[[Workspace], Iterator[tuple[str, ...]]]
    read: Callable[[Workspace], Measured]
    data: str = ""


@dataclass(frozen=True)
class Claim:
    """One claim of a paper.

    name:        short, lower case, with hyphens.
    words:       the claim in words.
    source:      its place in the paper: section, equation, table or figure.
    expected:    what is measured if the claim is right. All of it must hold.
    measured_by: how it is measured; None for a claim that is only recorded, because it needs more hardware.
    premises:    what the set-up must satisfy so that the measurement can decide the claim at all.
    scale:       mini: minutes on a CPU. middle: a small language model in place of the paper's, up to hours on
                 a CPU; it is measured only if it is named, and its verdict is needs-scale, whatever is measured.
                 full: the paper's own models and data.
    version:     a number that is raised when the measurement or the expectation changes.
    deviations:  differences from the paper's set-up.
    note:        what a reader should know about the result.
    """

    name: str
    words: str
    source: str
    expected: tuple[Band, ...]
    measured_by: Exact | Sampled | Batched | Trained | Commands | None
    premises: tuple[Band, ...] = ()
    scale: Scale = "mini"
    version: int = 1
    deviations: tuple[str, ...] = ()
    note: str = ""

    @property
    def online(self) -> bool:
        """Whether it is measured by online training."""
        return isinstance(self.measured_by, Trained) and self.measured_by.online

    @property
    def kind(self) -> Kind:
        if self.scale == "middle":
            return "small model"
        kinds: dict[type, Kind] = {
            Exact: "closed form", Sampled: "estimator", Batched: "estimator", Trained: "trained",
        }  # fmt: skip
        return kinds.get(type(self.measured_by), "full scale")


@dataclass(frozen=True)
class Paper:
    """A paper and its claims.

    name:    as it is typed: `ipo_2023`.
    remarks: contradictions between the paper's versions, or between its text and its figures.
    """

    name: str
    title: str
    authors: str
    url: str
    claims: tuple[Claim, ...]
    remarks: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        return [claim.name for claim in self.claims]


def expectation(claim: Claim) -> dict[str, Any]:
    """The part of a claim that decides its verdict, as plain values for a record."""
    return {
        "version": claim.version,
        "kind": claim.kind,
        "expected": [asdict(band) for band in claim.expected],
        "premises": [asdict(band) for band in claim.premises],
    }


def digest_of(expected: Mapping[str, Any]) -> str:
    """12 hex digits that change whenever an expectation (as returned by `expectation`) changes."""
    return json_digest(dict(expected), 12)
