"""Writes the pages of docs/reference/ from the code: settings, objectives, metrics, commands. See `make reference`."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from alignlab.cli.main import EXIT_CODES, VERBS, main
from alignlab.config.catalogue import HEADER, NOTATION, catalogue, linked
from alignlab.config.documentation import Setting, parts_of_a_run, settings_of, summary
from alignlab.config.hints import EXPLANATIONS, GROUP_SYNONYMS, SYNONYMS
from alignlab.config.paths import conf_dir, share_dir
from alignlab.config.registry import GROUPS, schemas
from alignlab.config.schemas import Evaluate, Synthesize, Train
from alignlab.tracking import metrics

MADE = "<!-- written by `make reference` from the code -->"

# Groups whose options set keys of other groups, and are no dataclasses.
WHOLE_SETUPS = ("experiment", "stage", "debug", "sweep")


def settings_page() -> str:
    """Every key of a run's config with type, default and meaning, and every option of a group."""
    parts = [
        f"# Settings\n\n{MADE}\n",
        "Every key of the config of `alignlab train`. Type `<key>=<value>` on the command line, or write it in a file "
        "of `conf/` or `sweeps/`. The fields of the losses are in [objectives](objectives.md). A default in this page "
        "is that of the option that is named with it; `alignlab train --help` prints the config with all values.\n",
        "## Keys of a run\n",
        table(settings_of(Train), ""),
    ]
    for name, cls in parts_of_a_run():
        parts += [f"## {name}\n", summary(cls) + "\n", table(settings_of(cls), f"{name}.")]
    for group in GROUPS:
        if group != "objective":
            parts += list(_group(group))
    for group in WHOLE_SETUPS:
        parts += [f"## {group}=\n", _options(group)]
    for verb, cls in (("evaluate", Evaluate), ("synthesize", Synthesize)):
        parts += [f"## Keys of alignlab {verb}\n", table(settings_of(cls), "")]
    return "\n".join(parts)


def _group(group: str) -> Iterator[str]:
    """The options of a group, and the settings of the dataclasses behind them. Common settings come first."""
    yield f"## {group}=\n"
    yield _options(group)
    classes = schemas()[group]
    common = [s for s in settings_of(GROUPS[group].base) if s.comment]
    prefix = f"{group}.<name>." if group in ("tracking", "judge") else f"{group}."
    if common:
        yield f"Settings of every option of `{group}`:\n"
        yield table(common, prefix)
    names = {s.name for s in common}
    for name, cls in sorted(classes.items()):
        own = [s for s in settings_of(cls) if s.name not in names]
        if own:
            users = [option for option, file in options(group).items() if _schema_of(file) == name]
            yield f"### {group}: {name}\n"
            yield f"{summary(cls)}\n" + (f"\nUsed by {', '.join(f'`{group}={u}`' for u in users)}.\n" if users else "")
            yield table(own, prefix.replace("<name>", name))


def objectives_page() -> str:
    """Formula, source, needs and settings of each objective."""
    parts = [
        f"# Objectives\n\n{MADE}\n",
        "Each objective with its loss, its source, what it needs and its settings. [The guide](../objectives.md) says "
        f"how to choose one and how public code differs. Symbols: {NOTATION}.\n",
    ]
    for row in catalogue():
        name, cls = row[0], schemas()["objective"][row[0]]
        chosen = _values(conf_dir() / "objective" / f"{name}.yaml")
        settings = [s if s.name not in chosen else with_default(s, chosen[s.name]) for s in settings_of(cls)]
        facts = dict(zip(HEADER, row, strict=True))
        parts += [
            f"## {name}\n",
            f"{summary(cls)}\n",
            f"- loss of a row: {_escaped(facts['loss of a row'])}",
            f"- from: {linked(facts['from'])}",
            f"- needs: {facts['needs']}",
            f"- type: `alignlab train objective={name}`\n",
            table(settings, "objective.") if settings else "It has no settings.\n",
        ]
    return "\n".join(parts)


def metrics_page() -> str:
    """Every metric that can be logged, with its meaning and unit."""
    tables: Iterable[tuple[str, str, Mapping[str, str]]] = (
        (
            "Of a batch",
            "Logged as `train/<name>` at every step and as `eval/<name>` at every evaluation.",
            metrics.BATCH,
        ),
        ("Of sampled answers in online training", "Logged as `train/<name>` and `eval/<name>`.", metrics.ROLLOUTS),
        ("On held-out pairs", "Logged as `eval/<name>`, against the start: the policy before training.", metrics.PAIRS),
        ("On held-out labelled answers", "Logged as `eval/<name>` for data without pairs.", metrics.LABELS),
        ("Of a step", "Logged at training steps only.", metrics.STEP),
        ("Exact, in the lab", "Logged at every evaluation.", metrics.EXACT),
        ("Of the summary", "Written once, when a run ends.", metrics.SUMMARY),
        (
            "Of an evaluation",
            "Logged as `eval/<name>`, or as `questions/<file>/<name>` if the prompts come from a file.",
            metrics.SAMPLED,
        ),
    )
    parts = [
        f"# Metrics\n\n{MADE}\n",
        "Only these metrics can be logged. They are means over the examples of the global batch, or of the whole "
        "held-out split. The [glossary](../glossary.md) defines the words.\n",
    ]
    for title, text, rows in tables:
        lines = ["| name | meaning |", "|---|---|", *(f"| `{n}` | {_escaped(m)} |" for n, m in rows.items())]
        parts += [f"## {title}\n", f"{text}\n", "\n".join(lines) + "\n"]
    better = [f"| `{name}` | {direction} |" for name, direction in metrics.BETTER.items()]
    parts += ["## Better directions\n", "\n".join(["| name | better |", "|---|---|", *better]) + "\n"]
    return "\n".join(parts)


def commands_page() -> str:
    """Verbs, exit codes, and the help of verbs that are no Hydra applications."""
    parts = [
        f"# Commands\n\n{MADE}\n",
        "`alignlab <verb> [key=value ...]`. `python -m alignlab` is the same.\n",
        "\n".join(["| verb | what it does |", "|---|---|", *(f"| `{v}` | {_escaped(t)} |" for v, t in VERBS.items())])
        + "\n",
        "## Exit codes\n",
        "\n".join(["| code | meaning |", "|---|---|", *(f"| {c} | {t} |" for c, t in EXIT_CODES.items())]) + "\n",
        "`train`, `evaluate` and `synthesize` take [settings](settings.md) as `key=value`. `--help` prints them with "
        "their meaning, `--cfg job` prints the config, and `-m` takes several values for a key (`train` only).\n",
    ]
    for verb in VERBS:
        if verb not in ("train", "evaluate", "synthesize", "objectives"):
            parts += [f"## alignlab {verb}\n", f"```text\n{_help(verb)}\n```\n"]
    return "\n".join(parts)


def names_page() -> str:
    """Names of settings in other software, with the same setting here."""
    rows = {**SYNONYMS, **{f"{name}=<option>": f"{group}=<option>" for name, group in GROUP_SYNONYMS.items()}}
    lines = ["| there | here |", "|---|---|", *(f"| `{there}` | `{here}` |" for there, here in rows.items())]
    words: dict[str, list[str]] = {}
    for name, text in EXPLANATIONS.items():
        words.setdefault(text, []).append(f"`{name}`")
    differs = ["| there | here |", "|---|---|", *(f"| {', '.join(n)} | {_escaped(t)} |" for t, n in words.items())]
    return "\n".join(
        [
            f"# Names in other software\n\n{MADE}\n",
            "TRL, transformers, axolotl, verl, Lightning and others have these names. If you type one, alignlab "
            "answers with the key of this table and the value that you typed. [Coming from TRL](../trl.md) says what "
            "is equal and what is not.\n",
            "## The same setting in the same unit\n",
            "\n".join(lines) + "\n",
            "## Settings that work differently\n",
            "\n".join(differs) + "\n",
        ]
    )


PAGES = {
    "settings.md": settings_page,
    "objectives.md": objectives_page,
    "metrics.md": metrics_page,
    "commands.md": commands_page,
    "names.md": names_page,
}


def write(folder: Path) -> None:
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


def table(settings: Sequence[Setting], prefix: str) -> str:
    """A Markdown table of settings."""
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for s in settings:
        default = "required" if s.required else f"`{_shown(s.default)}`"
        lines.append(f"| `{prefix}{s.name}` | {s.type} | {default} | {_escaped(s.comment)} |")
    return "\n".join(lines) + "\n"


def with_default(setting: Setting, value: Any) -> Setting:
    return Setting(setting.name, setting.type, value, value == "???", setting.comment)


def options(group: str) -> dict[str, Path]:
    """Option -> its YAML file. Files for parts of other files, whose names start with _, are left out."""
    folder = share_dir() / "sweeps" if group == "sweep" else conf_dir() / group
    return {file.stem: file for file in sorted(folder.glob("*.yaml")) if not file.stem.startswith("_")}


def _options(group: str) -> str:
    """A table of the options of a group, with the comment and the values of each."""
    whole = group in WHOLE_SETUPS
    lines = [f"| option | what it is |{'' if whole else ' sets |'}", "|---|---|" + ("" if whole else "---|")]
    for option, file in options(group).items():
        sets = ", ".join(f"`{key}={_shown(value)}`" for key, value in _values(file).items())
        lines.append(f"| `{group}={option}` | {_escaped(_comment(file))} |" + ("" if whole else f" {sets} |"))
    return "\n".join(lines) + "\n"


def _comment(file: Path) -> str:
    """The comment at the top of a config file."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.lstrip("# "))
    return " ".join(lines)


@cache
def _loaded(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {}


def _values(file: Path) -> dict[str, Any]:
    values = _loaded(file)
    return {str(key): value for key, value in values.items() if key not in ("defaults", "hydra")}


def _schema_of(file: Path) -> str:
    """The name of the schema that a config file selects; empty if there is none."""
    chosen = [
        entry for entry in _loaded(file).get("defaults", []) if isinstance(entry, str) and entry.startswith("/schema/")
    ]
    return chosen[0].split("/")[-1].split("@")[0] if chosen else ""


def _help(verb: str) -> str:
    printed, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "110"  # not the width of this terminal
    try:
        with contextlib.redirect_stdout(printed):
            main([verb, "--help"])
    finally:
        os.environ.pop("COLUMNS")
        os.environ |= {"COLUMNS": columns} if columns else {}
    return printed.getvalue().strip()


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _escaped(text: str) -> str:
    """Text for the cell of a Markdown table. `<name>` must not be read as HTML."""
    pieces = text.replace("|", "\\|").split("`")
    return "`".join(p if i % 2 else p.replace("<", "&lt;").replace("*", "\\*") for i, p in enumerate(pieces))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
