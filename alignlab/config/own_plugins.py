"""Plug-ins of a command: which ones it loads, which parts of a run come from them, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from alignlab.config.paths import conf_dir
from alignlab.config.registry import GROUPS, fault_of_types, remove_plugin_schemas, schemas
from alignlab.config.schemas import Train
from alignlab.discovery import classes_by_module, faulty_classes, module_name
from alignlab.errors import ConfigError, Problem
from alignlab.objectives.mix import offline_objectives
from alignlab.optim.base import SCHEDULES, Schedule, schedules
from alignlab.plugins import Plugin, activate, active, how_to_name, load, plugins_of, registered


def problems_of_plugins(config: DictConfig) -> Iterator[Problem]:
    """The problem of a config file that sets `plugins`: only the command line may name code to run."""
    loaded = [plugin.source for plugin in active()]
    named = list(config.get("plugins") or [])
    if unloaded := [
        word for word in named if word not in loaded and str(Path(word).expanduser().resolve()) not in loaded
    ]:
        text = "is set by a config file; a plug-in is code, so it is loaded only if the command line names it"
        yield Problem("plugins", named, text, how_to_name(map(_short, unloaded)))


def plugins_of_run(train: Train) -> list[Plugin]:
    """Active plug-ins whose code can change the numbers of a run, by name."""
    deciding = [train.objective, train.model, train.peft, train.data, train.optim, train.reward]
    classes = {type(part) for part in _nested([*deciding, *train.callback.values()])}
    classes.add(schedules()[train.optim.schedule])
    named = [part.get("name") for part in getattr(train.objective, "parts", []) if isinstance(part, Mapping)]
    classes |= {cls for name, cls in offline_objectives().items() if name in named}
    return _sorted(classes)


def plugins_of_plan(train: Train) -> list[Plugin]:
    """Active plug-ins that a run needs to be trained or read again, by name: also those of its metrics and strategy."""
    return _sorted({type(part) for part in (train.strategy, *train.metric.values())}, plugins_of_run(train))


def _sorted(classes: Collection[type], more: Sequence[Plugin] = ()) -> list[Plugin]:
    found = {plugin.name: plugin for cls in classes for plugin in plugins_of(cls)}
    found |= {plugin.name: plugin for plugin in more}
    return [found[name] for name in sorted(found)]


def _nested(parts: Sequence[Any]) -> Iterator[Any]:
    """The parts, and the dataclasses in their fields (such as the sources of a mixture)."""
    for part in parts:
        if is_dataclass(part):
            yield part
            for f in fields(part):
                value = getattr(part, f.name)
                yield from _nested(list(value.values()) if isinstance(value, Mapping) else [value])


def record_of(plugins: Sequence[Plugin]) -> dict[str, Any]:
    """The plug-ins of a run for its record: name -> what loads it, version and digest."""
    return {
        plugin.name: {"source": plugin.source, "version": plugin.version, "digest": plugin.digest} for plugin in plugins
    }


def how_to_load(recorded: Mapping[str, Any]) -> str:
    """What to type so that the plug-ins that a record names are loaded."""
    sources = [_short(str(about.get("source", name))) for name, about in recorded.items()]
    return how_to_name(sources)


def _short(source: str) -> str:
    """A path below the working directory in its short form."""
    path = Path(source)
    if not path.is_absolute():
        return source
    here = Path.cwd().resolve()
    return f"./{path.relative_to(here).as_posix()}" if path.is_relative_to(here) else source


def load_plugins(words: Sequence[str], *, installed: bool = True, faulty_parts: bool = False) -> tuple[Plugin, ...]:
    """Load plug-ins for this command. Raises ConfigError with everything that is wrong with them and their parts.

    faulty_parts: allow parts that can't be used (`problems_of_parts`). They are no options then.
    """
    try:
        return _load_with_parts(words, installed, faulty_parts)
    except ConfigError as error:
        named = registered() if installed else {}
        unasked = {package: name for package, name in named.items() if package not in words}
        raise ConfigError(_with_cure(problem, unasked) for problem in error.problems) from error


def _with_cure(problem: Problem, unasked: Mapping[str, str]) -> Problem:
    """The problem of a plug-in that nobody typed (package -> its distribution) says why it is loaded."""
    if problem.type_this or problem.value not in unasked:
        return problem
    text = f"{problem.allowed}\nits package is installed, so it is loaded without being named"
    return replace(problem, allowed=text, type_this=f"pip uninstall {unasked[str(problem.value)]}")


def _load_with_parts(words: Sequence[str], installed: bool, faulty_parts: bool) -> tuple[Plugin, ...]:
    before = active()
    found = load(words, installed=installed)
    problems: list[Problem] = []
    for plugin in found:
        activate([plugin])  # one at a time, so that each one's problems are found
        try:
            problems += problems_of_files(plugin, found)
            if not faulty_parts:
                problems += [problem for part in problems_of_parts(plugin).values() for problem in part]
        except ConfigError as error:
            problems += error.problems
    activate(found)
    try:
        if problems:
            raise ConfigError(dict.fromkeys(problems))
        schemas()
    except ConfigError:
        activate(before)
        raise
    return found


def parts_of(plugin: Plugin) -> dict[str, list[str]]:
    """What a plug-in adds to the command line: key -> its values, such as {"objective": ["squared_hinge"]}."""
    conf = plugin.folder / "conf"
    found: dict[str, list[str]] = {}
    for file in sorted(conf.rglob("*.yaml")):
        group, _, name = file.relative_to(conf).with_suffix("").as_posix().partition("/")
        if name:
            found.setdefault(group, []).append(name)
    found["optim.schedule"] = [name for name, cls in schedules().items() if plugin.defines(cls)]
    found["sweep"] = sorted(file.stem for file in (plugin.folder / "sweeps").glob("*.yaml"))
    return {key: names for key, names in found.items() if names}


@contextmanager
def plugins_for(words: Sequence[str]) -> Iterator[None]:
    """Plug-ins for the `with` block. Hydra's config store does not keep their schemas."""
    before = active()
    load_plugins(words)
    try:
        yield
    finally:
        activate(before)
        remove_plugin_schemas()


def problems_of_files(plugin: Plugin, plugins: Sequence[Plugin]) -> Iterator[Problem]:
    """Problems of the YAML files of a plug-in, and of its parts (which are imported for this)."""
    known = schemas()
    conf = plugin.folder / "conf"
    own = {file.relative_to(conf) for file in conf.rglob("*.yaml")} if conf.is_dir() else set()
    parts = [cls for group in known.values() for cls in group.values() if plugin.defines(cls)]
    parts += [cls for cls in schedules().values() if plugin.defines(cls)]
    if not (own or parts or problems_of_parts(plugin)):
        folders = ", ".join(sorted({_folder(group.package) for group in GROUPS.values()}))
        text = f"has no parts: it needs conf/ with YAML files, and classes in folders as in alignlab ({folders})"
        yield Problem("plugins", plugin.source, text)
    others = [("alignlab", conf_dir()), *((p.name, p.folder / "conf") for p in plugins if p.name < plugin.name)]
    for name, folder in others:
        for file in sorted(own):
            if (folder / file).is_file():
                text = f"conf/{file.as_posix()} has the name of an option of {name}; rename the file"
                yield Problem("plugins", plugin.source, text)


def problems_of_parts(plugin: Plugin) -> dict[str, list[Problem]]:
    """The problems of parts of an active plug-in that can't be used: file of the part in its folder -> problems.

    The file is the YAML file that names the part, or the Python file of a part that none names.
    """
    conf, known, faulty = plugin.folder / "conf", schemas(), _faulty_parts(plugin)
    found = {
        f"conf/{name}": list(_problems_of_yaml(plugin, conf / name, name, known, faulty))
        for name in sorted(file.relative_to(conf).as_posix() for file in conf.rglob("*.yaml"))
    }
    told = [problem for problems in found.values() for problem in problems]
    found |= {file: problems for file, problems in faulty.items() if problems[0] not in told}
    return {file: problems for file, problems in found.items() if problems}


def _faulty_parts(plugin: Plugin) -> dict[str, list[Problem]]:
    """Python file in the folder of a plug-in -> why the classes that it defines can't be parts."""
    bases = {group.package: group.base for name, group in GROUPS.items() if name != "reward"}
    found: dict[str, list[Problem]] = {}
    for package, base in {**bases, SCHEDULES: Schedule}.items():
        faulty = faulty_classes(plugin, package, base)
        for cls in classes_by_module(package, base).values():
            if plugin.defines(cls) and (fault := fault_of_types(cls)):
                faulty[cls] = [fault]
        for cls, faults in faulty.items():
            file = f"{_folder(package)}/{module_name(cls)}.py"
            for text, line in faults:
                problem = Problem(
                    "plugins", plugin.source, f"{file}: class {cls.__name__} {text}", f"{line}   in {file}"
                )
                found.setdefault(file, []).append(problem)
    return found


def _folder(package: str) -> str:
    """The folder of a plug-in that belongs to a package of alignlab."""
    return package.removeprefix("alignlab.").replace(".", "/")


def _problems_of_yaml(
    plugin: Plugin,
    file: Path,
    name: str,
    known: Mapping[str, Mapping[str, type]],
    faulty: Mapping[str, list[Problem]],
) -> Iterator[Problem]:
    """The problem of a file that is no YAML, or whose defaults list names a schema that there is not."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        yield Problem("plugins", plugin.source, f"conf/{name} can't be read: {' '.join(str(error).split())}")
        return
    defaults = content.get("defaults", []) if isinstance(content, dict) else []
    for entry in defaults if isinstance(defaults, list) else []:
        if not (isinstance(entry, str) and entry.startswith("/schema/")):
            continue
        group, _, option = entry.removeprefix("/schema/").partition("@")[0].rpartition("/")
        if group not in known or option in known[group]:
            continue
        part = f"{_folder(GROUPS[group].package)}/{option}.py"
        text = f"conf/{name} names {entry}, but {part} with a subclass of {GROUPS[group].base.__name__} is not there"
        yield from faulty.get(part, [Problem("plugins", plugin.source, text)])
