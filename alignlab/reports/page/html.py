"""Writes the content of a report as one HTML file that needs nothing else: no network, no server, no other file.

Its content security policy lists the digests of the page's own scripts, and only these can run. So a text that got
past the escaping would still not run. The policy allows no evaluation of text as code and no connection.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from alignlab.reports.page.content import Content
from alignlab.reports.page.words import WORDS
from alignlab.reports.series import MOST_BANDS, MOST_POINTS

_FOLDER = Path(__file__).parent
PLOTLY, COMMON = "plotly-basic.min.js", "common.js"
_MOST_COMMANDS = 20


def html_page(page: Content) -> str:
    """The page of a sweep as text."""
    return rendered(
        "page.html",
        (PLOTLY, COMMON, "page.js"),
        page.figures,
        kind="report",
        page=page,
        words=WORDS,
        sections=_sections(page),
        few_curves=len(page.figures["curves"]["settings"]) <= MOST_BANDS,
        most_points=MOST_POINTS,
        most_commands=_MOST_COMMANDS,
    )


def rendered(template: str, scripts: Sequence[str], data: Mapping[str, Any], **values: Any) -> str:
    """A page that needs nothing else.

    template: a file of this folder that extends base.html.
    scripts:  files of this folder that the page runs, in this order. No other script can run.
    data:     what `alignlab.data` is for the scripts.
    values:   for the template; `kind` and `sections` (links and titles) are for base.html.
    """
    texts = [_file(name) for name in scripts]
    return str(
        _template(template).render(
            script_hashes=Markup(" ".join(f"'sha256-{_digest(text)}'" for text in texts)),
            style=Markup(_file("page.css")),
            data=_inside_script(data),
            scripts=[Markup(text) for text in texts],
            **values,
        )
    )


def _sections(page: Content) -> list[tuple[str, str]]:
    """(link, title) of each section that the page links to."""
    sections = [
        ("settings", "Settings"),
        *([("against", "Against the older sweep")] if page.against else []),
        ("frontier", "Reward and KL"),
        *([("gap", "Gap")] if "gap" in page.figure_tables else []),
        ("strength", "Strength"), ("curves", "Curves"), ("forest", "Win-rates"), ("displacement", "Displacement"),
        ("completions", "Answers"), ("differences", "Two runs"),
        ("failed", f"Not done ({len(page.failed.rows)})" if page.failed.rows else "Not done"), ("data", "Data"),
        ("provenance", "Provenance"), ("runs", "All runs"),
    ]  # fmt: skip
    return [(f"#{id}", title) for id, title in sections]


def _inside_script(value: Mapping[str, Any]) -> Markup:
    """JSON for the content of a script element, which no text in it can end."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _file(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


@cache
def _template(name: str) -> Any:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
