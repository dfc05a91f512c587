"""A table of all objectives, generated from the code and the YAML files."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from alignlab.config.paths import conf_dir
from alignlab.config.registry import schemas
from alignlab.errors import ConfigError
from alignlab.objectives.base import Objective
from alignlab.plugins import plugins_of
from alignlab.types import Requires

BEGIN, END = "<!-- objectives: written by `make readme` -->", "<!-- end of objectives -->"
HEADER = ("objective", "loss of a row", "from", "needs", "defaults")

NOTATION = (
    "ρ: log-ratio of an answer to the reference, h = ρ_w - ρ_l, lp: log-probability, lr: the same under the reference, "
    "n: tokens, w and l: preferred and dispreferred, ℓ(z) = -log σ(z)"
)

# "text, address": in Markdown the text before an address becomes a link to it.
_ADDRESS = re.compile(r"^(.*?),? (https://[^\s,]+)")

_SHAPES = {
    "completions": "answers",
    "pairs": "pairs",
    "labelled": "labelled answers (or pairs, split)",
    "rankings": "graded answers (or pairs), scalar head",
}


def catalogue() -> list[tuple[str, ...]]:
    """One row for each objective, sorted by name. The columns are those of HEADER."""
    return [_row(name, cls) for name, cls in sorted(schemas()["objective"].items())]


def markdown_table() -> str:
    """The catalogue as Markdown, for docs/objectives.md."""
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    for name, loss, source, *rest in catalogue():
        cells = (f"`{name}`", loss.replace("|", "\\|"), linked(source), *rest)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def linked(source: str) -> str:
    """A source as Markdown: the text before an address is a link to it."""
    return _ADDRESS.sub(r"[\1](\2)", source)


def update(file: Path) -> None:
    """Replace the table between the markers BEGIN and END of a Markdown file."""
    text = file.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    file.write_text(f"{before}{BEGIN}\n{markdown_table()}\n{END}{after}", encoding="utf-8")


def formula(objective: type[Objective]) -> str:
    """The formula of an objective's loss: the first line of the docstring of `<module>_loss`."""
    module = sys.modules[objective.__module__]
    function = getattr(module, f"{objective.__module__.rpartition('.')[2]}_loss")
    return (inspect.getdoc(function) or "").partition("\n")[0]


def _row(name: str, cls: type[Objective]) -> tuple[str, ...]:
    folders = [conf_dir(), *(plugin.folder / "conf" for plugin in plugins_of(cls))]
    files = [file for folder in folders if (file := folder / "objective" / f"{name}.yaml").is_file()]
    chosen = yaml.safe_load(files[0].read_text(encoding="utf-8")) if files else {}
    chosen.pop("defaults", None)
    defaults = ", ".join(f"{key} {_word(value)}" for key, value in chosen.items() if _worth_showing(key, value))
    try:
        needs = ", ".join(_needs(cls(**chosen).requires))
    except (ConfigError, TypeError):  # `mix`, which has no parts by default; or no YAML file
        needs = "what its parts need"
    return name, formula(cls), _source(cls), needs, defaults


def _source(cls: type[Objective]) -> str:
    """The first line of the module's docstring: the method, its authors and its address."""
    return (sys.modules[cls.__module__].__doc__ or "").partition("\n")[0].rstrip(".")


def _worth_showing(key: str, value: Any) -> bool:
    """Whether a default belongs in the table.

    The divergence does not, because it is the reverse KL for all objectives. Neither do empty lists, nor "dialect",
    which stands for the value of the chosen dialect.
    """
    return not key.startswith("divergence") and value not in ([], "dialect")


def _needs(needs: Requires) -> Iterator[str]:
    yield "prompts" if needs.online else _SHAPES[needs.data]
    if needs.reference:
        yield "reference" + (" model at hand" if needs.live_reference else "")
    if needs.mismatched:
        yield "mismatched answers"
    if needs.couples_batch:
        yield "whole batch"


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    update(Path(sys.argv[1]))
