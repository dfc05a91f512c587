"""The papers: every module of this package whose name has a year, such as `ipo_2023`, and defines PAPER."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Sequence
from functools import lru_cache

from alignlab import papers
from alignlab.errors import ConfigError, Problem
from alignlab.papers.claim import Claim, Paper
from alignlab.spelling import correct_spelling

_WHERE = "this command; nothing was done"


@lru_cache(maxsize=1)
def library() -> dict[str, Paper]:
    """Name -> paper, by name. Other modules are not imported, because those of pages and figures take seconds."""
    names = [module.name for module in pkgutil.iter_modules(papers.__path__) if re.search(r"_\d{4}", module.name)]
    modules = (importlib.import_module(f"{papers.__name__}.{name}") for name in names)
    found = [module.PAPER for module in modules if hasattr(module, "PAPER")]
    return {paper.name: paper for paper in sorted(found, key=lambda paper: paper.name)}


def chosen(words: Sequence[str]) -> list[tuple[Paper, Claim]]:
    """The claims that the words of a command line name.

    A word is a paper or, after its paper, a claim: `ipo_2023 two-actions` names one claim, `ipo_2023 kto_2024` all
    claims of two papers. `all`, or no word, names every claim. Raises ConfigError with all words that name nothing.
    """
    every = library()
    if not words or list(words) == ["all"]:
        return [(paper, claim) for paper in every.values() for claim in paper.claims]
    picked: dict[str, list[str]] = {}
    problems, paper = [], None
    for word in words:
        if word in every:
            paper = every[word]
            picked.setdefault(word, [])
        elif paper is not None and word in paper.names:
            picked[paper.name].append(word)
        else:
            problems.append(_unknown(word, paper))
    if problems:
        raise ConfigError(problems, where=_WHERE)
    return [
        (every[name], claim)
        for name, claims in picked.items()
        for claim in every[name].claims
        if not claims or claim.name in claims
    ]


def _unknown(word: str, paper: Paper | None) -> Problem:
    owners = [other.name for other in library().values() if word in other.names]
    if owners:
        return Problem(word, None, f"is a claim of {', '.join(owners)}; type the paper first", f"{owners[0]} {word}")
    known = [*library(), *(paper.names if paper else ())]
    what = f"no such paper, and no such claim of {paper.name}" if paper else "no such paper"
    listed = f"; claims: {', '.join(paper.names)}" if paper else f"; papers: {', '.join(library())}"
    return Problem(word, None, what + listed, correct_spelling(word, known))
