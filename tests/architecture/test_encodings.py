"""Text files are read and written as UTF-8, whatever the language of the machine is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import alignlab


def calls_without_encoding(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls of `read_text`, `write_text` and `open` as methods, and of `open`, that open a text file."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or any(word.arg in ("encoding", None) for word in call.keywords):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if isinstance(call.func, ast.Attribute) and name in ("read_text", "write_text"):
            yield call
        modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        is_archive = isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") == "tarfile"
        if name == "open" and modes and set(modes[-1]) <= set("rwaxt+") and not is_archive:
            yield call


def test_every_text_file_has_an_encoding() -> None:
    package = Path(alignlab.__file__).parent
    texts = {file: file.read_text(encoding="utf-8") for file in sorted(package.rglob("*.py"))}
    found = [
        f"{file.relative_to(package)}:{call.lineno}"
        for file, text in texts.items()
        if "_text(" in text or "open(" in text  # parsing all files takes seconds
        for call in calls_without_encoding(ast.parse(text))
    ]
    assert found == []
    bad = "p.read_text(); p.write_text('x'); p.open('a'); open(p, 'w')"
    good = "p.read_text(encoding='utf-8'); p.open('rb'); write_text(p, 'x'); tracker.open(identity); os.open(p, 1)"
    assert [len(list(calls_without_encoding(ast.parse(text)))) for text in (bad, good)] == [4, 0]
