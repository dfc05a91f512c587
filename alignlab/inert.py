"""Makes text that others wrote harmless to show: answers of models, rows of data sets, reasons of errors.

A terminal obeys control characters, and a reader is misled by characters that reorder text or can't be seen. Here they
become visible escapes such as `\\x1b`. HTML needs escaping of its markup as well, which templates do by themselves.
"""

from __future__ import annotations

import re
from typing import Any

# Most characters of one text that is shown. The rest is counted.
MOST = 20_000

# Most characters of a text that a command prints: a table, a message, a log.
MOST_OF_OUTPUT = 10_000_000

# Control characters but tab and line feed; marks that reorder text; characters without a width; line separators that
# are not line feeds; halves of surrogate pairs, which no encoding can write. The two joiners stay,
# because scripts and emoji need them.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)
_MOST_MARKS = 8  # combining marks on one character; more of them cover the lines around it
_MARKS = re.compile(
    rf"[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]{{{_MOST_MARKS + 1},}}"
)

# Characters that are markup in Markdown or in the HTML that Markdown may hold.
_MARKUP = re.compile(r"[\\`*_\[\]#!|<>~&$@]|:(?=//)|(?<=www)\.")

# First characters of a formula. A number may begin with two of them.
_BEGINS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-](inf|nan)")


def visible(text: object, most: int = MOST) -> str:
    """The text with visible escapes in place of unsafe characters.

    most: characters that are kept. A longer text ends with the number of characters that are not shown.
    """
    whole = text if isinstance(text, str) else str(text)
    shown = _UNSAFE.sub(_escape, whole[:most].replace("\r\n", "\n"))
    shown = _MARKS.sub(lambda found: found.group()[:_MOST_MARKS], shown)
    left = len(whole) - most
    return f"{shown} [... {left:,} more characters]" if left > 0 else shown


def one_line(text: object, most: int = 300) -> str:
    """The visible text in one line: a line feed becomes a space."""
    return " ".join(visible(text, most).split())


def markdown(text: object, most: int = 300) -> str:
    """The text as one line of Markdown without markup, for a paragraph or the cell of a table."""
    return _MARKUP.sub(r"\\\g<0>", one_line(text, most))


def fenced(text: object, most: int = MOST) -> str:
    """The text as a block of code in Markdown. No run of backticks in the text can end the block."""
    shown = visible(text, most)
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shown}\n{fence}"


def formula_free(value: Any) -> Any:
    """A value for a cell of a CSV file. A text that spreadsheets take for a formula gets an apostrophe in front."""
    if isinstance(value, str) and value.startswith(_BEGINS_A_FORMULA) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def _escape(found: re.Match[str]) -> str:
    number = ord(found.group())
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
