"""Overrides that Hydra can't read: what is wrong, and an override that it can read, as a shell takes it."""

from __future__ import annotations

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException

from alignlab.config.hydra_errors import unreadable
from tests.fuzz.command_lines import KEYS, VALUES

parser = OverridesParser.create()


@pytest.mark.parametrize(
    ("override", "why", "fix"),
    [
        ("objective.beta=[", "[ is not closed", "'objective.beta=[]'"),
        ("seed=[1,2", "[ is not closed", "'seed=[1,2]'"),
        ("data.columns={prompt: q", "{ is not closed", "'data.columns={prompt: q}'"),
        ("seed=range(1,5", "( is not closed", "'seed=range(1,5)'"),
        ("seed=1)", ") closes nothing", "'seed=\"1)\"'"),
        ("seed=[1)", ") closes nothing", "'seed=\"[1)\"'"),
        ("a=b=c", "a value with = needs quotes", "'a=\"b=c\"'"),
        ("data.path=a&b.jsonl", "a value with & needs quotes", "'data.path=\"a&b.jsonl\"'"),
        ("data.path=é.jsonl", "a value with é needs quotes", "'data.path=\"é.jsonl\"'"),
        ("data.path='a.jsonl", "the quote ' is not closed", "'data.path=\"'\"'\"'a.jsonl\"'"),
        ('data.path="', 'the quote " is not closed', '\'data.path="\\""\''),
        ("data.path=[a=b]", "entries that hold = need quotes", "'data.path=[\"a=b\"]'"),
        ("seed=[1,,2]", "a value is missing beside a comma", "'seed=[1,2]'"),
        ("objective beta=1", 'no key has the character " "', "key=value"),
        ("run=<run>", "<run> stands for a value of yours; type the value in its place", "run=..."),
        ("a={<word>: true}", "<word> stands for a value of yours; type the value in its place", "a=..."),
        ("=1", "can't be read", "key=value, without spaces around ="),
    ],
)
def test_what_is_wrong_and_what_to_type(override: str, why: str, fix: str) -> None:
    problem = unreadable(override)
    assert problem.allowed.removeprefix("can't be read: ") == why
    assert problem.type_this == fix


def test_what_to_type_can_be_read_and_has_the_same_text() -> None:
    """For each value of the corpus of wrong command lines that Hydra can't read, and for odd texts besides."""
    odd = ["a'b", "\\", "a\\'", 'x"y"=', "$[", "{a:", "((", "'a' b", "a,b=c", "#", ";", "`", "\x00", "\n=", "[[1]"]
    seen = 0
    for value in (*VALUES, *odd):
        override = f"{KEYS[0]}={value}"
        try:
            parser.parse_override(override)
        except HydraException:
            seen += 1
            problem = unreadable(override)
            (typed,) = shlex.split(problem.type_this)
            read = parser.parse_override(typed).value()
            if not typed.startswith(override):  # otherwise a bracket was closed
                assert (read.text if isinstance(read, QuotedString) else read) == value
            assert problem.allowed.isprintable()
    assert seen >= 15
