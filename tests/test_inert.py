"""Text of others is made harmless: no control characters, no reordering marks, no markup."""

from __future__ import annotations

import logging
import re

import pytest

from alignlab.inert import fenced, formula_free, markdown, one_line, visible
from alignlab.progress import log_to_terminal


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x9b31m", r"\x9b31m"),
        ("a\x00b", r"a\x00b"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\u202eevil\u202c", r"\u202eevil\u202c"),
        ("\u2066x\u2069\u200f\u061c", r"\u2066x\u2069\u200f\u061c"),
        ("\u2028\ufeff\u200b", r"\u2028\ufeff\u200b"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("one\rtwo\r\nthree\tfour\n", "one\\x0dtwo\nthree\tfour\n"),
        ("Ünïcödé 漢字 👩\u200d🔬 می\u200cخواهم", "Ünïcödé 漢字 👩\u200d🔬 می\u200cخواهم"),
    ],
)
def test_unsafe_characters_become_visible_and_others_stay(text: str, shown: str) -> None:
    assert visible(text) == shown
    visible(text).encode()


def test_a_long_text_is_cut_and_the_rest_counted() -> None:
    assert visible("x" * 1_000_000, 10) == "xxxxxxxxxx [... 999,990 more characters]"
    assert len(visible("a" + "\u0301" * 500)) == 9, "a stack of marks covers the lines above"
    assert one_line("a\n\n b\t c") == "a b c"


def test_markdown_has_no_markup_left() -> None:
    text = "<script>|`x`|</script> **b** _i_ [a](http://b.c) # h &lt; $x$ www.d.e a@b.c\n| c |"
    shown = markdown(text)
    assert "\n" not in shown
    assert not re.search(r"(?<!\\)[<>|`*_\[\]#&$@]", shown), shown
    assert "http\\://" in shown
    assert "www\\.d" in shown


def test_no_text_ends_the_block_that_it_is_in() -> None:
    for text in ("```\n<b>", "````` x", "plain"):
        first, *_, last = fenced(text).splitlines()
        assert first.removesuffix("text") == last
        assert last not in text


def test_messages_in_the_terminal_are_visible(capsys: pytest.CaptureFixture[str]) -> None:
    root, ours = logging.getLogger(), logging.getLogger("alignlab")
    before = (root.handlers, root.level, ours.level)
    try:
        log_to_terminal()
        logging.getLogger("alignlab.test").info("row 3: %s", "\x1b[2Jgone\n  next line")
    finally:
        root.handlers = before[0]
        root.setLevel(before[1])
        ours.setLevel(before[2])
    assert capsys.readouterr().err.endswith("row 3: \\x1b[2Jgone\n  next line\n")


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1+1", "'+1+1"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        *((same, same) for same in ("-2", "+1.5e-3", "-.5", "-inf", "1=2", "", "a", -2.0, None)),
    ],
)
def test_no_text_is_a_formula_of_a_spreadsheet(value: object, cell: object) -> None:
    assert formula_free(value) == cell
