"""README, guides and log are easy to read: short sentences, and log entries of one form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
LOG = (ROOT / "docs" / "LOG.md").read_text(encoding="utf-8")

MOST_WORDS = 30
MOST_LINES = 15


def paragraphs(text: str) -> Iterator[str]:
    """Paragraphs and list items, with one word in place of code in backticks.

    Blocks of code, tables, headings, pictures and the generated texts of claims are left out.
    """
    lines: list[str] = []
    for line in [*re.sub(r"```.*?```", "", text, flags=re.S).splitlines(), ""]:
        skipped = not line.strip() or line.startswith(("|", "#", "![", "<!--", "**`"))
        if lines and (skipped or re.match(r"\s*([-*]|\d+\.) ", line)):
            yield re.sub(r"`[^`]*`", "CODE", " ".join(lines))
            lines = []
        if not skipped:
            lines.append(line.strip())


def sentences(text: str) -> Iterator[str]:
    for paragraph in paragraphs(text):
        yield from re.split(r"(?<=[.?!])[\")*]*\s+(?=[A-Z0-9\"*\[(À-Þ])", paragraph)


def words(sentence: str) -> int:
    """The number of words. Numbers and addresses of links do not count."""
    return sum(bool(re.search(r"[^\W\d_]", word)) for word in re.sub(r"\]\([^)]*\)", "]", sentence).split())


def entries(log: str) -> list[tuple[str, list[str]]]:
    """(title, lines) of each entry, without the blank lines around it."""
    found = [entry.strip().splitlines() for entry in log.split("\n## ")[1:]]
    return [(title, lines[1:]) for title, *lines in found]


def test_sentences_are_counted() -> None:
    text = "One two three. Four `a b. C`?\n\n- Five [six](https://x.y) 7.\n\n```sh\na b c\n```\n| a | b |\n"
    assert [words(s) for s in sentences(text)] == [3, 2, 2]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sentences_are_short(page: Path) -> None:
    long = [s for s in sentences(page.read_text(encoding="utf-8")) if words(s) > MOST_WORDS]
    assert long == [], f"{page.name}: more than {MOST_WORDS} words"


def test_entries_of_the_log_are_short() -> None:
    assert len(entries(LOG)) > 90
    assert [title for title, lines in entries(LOG) if len(lines) > MOST_LINES] == []


def test_entries_of_the_log_are_dated_newest_first() -> None:
    dates = [title.split(" ")[0] for title, _ in entries(LOG)]
    assert [date for date in dates if not re.fullmatch(r"\d{4}-\d\d-\d\d", date)] == []
    assert dates == sorted(dates, reverse=True)


def test_titles_of_the_log_say_outcomes() -> None:
    """Each title is a sentence of its own, and those of negative results say so."""
    titles = [title.split(" ", 1)[1] for title, _ in entries(LOG)]
    assert len(set(titles)) == len(titles)
    assert min(len(title.split()) for title in titles) >= 5
    assert sum(title.startswith("Negative: ") for title in titles) >= 25


GUIDES = [page for page in PAGES if page.parent.name == "docs" and page.stem not in ("CHANGELOG", "glossary")]


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_guides_link_to_the_glossary(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    beginning = text if page.stem == "index" else "\n".join(text.splitlines()[:15])
    assert re.search(r"\]\(glossary\.md[#)]", beginning), "a link near its beginning"


@pytest.mark.parametrize(
    "term", ["objective", "sweep", "parent", "reference", "lab", "KL", "gap", "seeds", "win-rates"]
)
def test_terms_of_the_readme_are_linked_at_their_first_use(term: str) -> None:
    text = " ".join(paragraphs((ROOT / "README.md").read_text(encoding="utf-8")))
    first = re.search(rf"(?<![\w/]){term}\b(?!\.)", text, re.I)
    assert first is not None
    assert re.match(rf"\[{term}\]\(docs/glossary\.md#", text[first.start() - 1 :], re.I), text[first.start() - 40 :][
        :80
    ]


# Term -> section of the glossary.
CORE_TERMS = {
    "sweeps?": "runs",
    "parents?": "runs",
    "seeds?": "runs",
    "stages?": "runs",
    "policy": "models-and-answers",
    "reference": "models-and-answers",
    "chat template": "models-and-answers",
    "KL": "measurements",
    "lab": "measurements",
    "frontier": "measurements",
    "win-rates?": "measurements",
    "judges?": "measurements",
}
# Links to other places, pictures, tags, and bold words that begin a paragraph as its heading.
ELSEWHERE = re.compile(r"!?\[[^\]]*\]\((?!glossary)[^)]*\)|\*\*[^*]*\*\*|<[^>]*>")
OTHER_PAGES = ("LOG", "curso", "benchmarks", "papers", "extending", "plugins")  # curso.md is in Spanish


@pytest.mark.parametrize("page", [page for page in GUIDES if page.stem not in OTHER_PAGES], ids=lambda page: page.name)
def test_core_terms_are_linked_at_their_first_use(page: Path) -> None:
    text = ELSEWHERE.sub("LINK", "\n".join(paragraphs(page.read_text(encoding="utf-8"))))
    firsts = {term: re.search(rf"(?<![\w/=.-]){term}(?![\w=-]|\.md)", text) for term in CORE_TERMS}
    assert [
        (term, text[max(0, first.start() - 30) : first.end() + 30])
        for term, first in firsts.items()
        if first and not text[: first.start()].endswith("[")
    ] == []
