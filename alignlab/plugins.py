"""Plug-ins: packages or folders with a user's own parts. A plug-in has the folders of alignlab, and its own `conf/`:

    my_parts/objectives/squared_hinge.py           as in alignlab/objectives
    my_parts/conf/objective/squared_hinge.yaml     as in conf/objective

A plug-in is loaded if an installed package registers it (entry points of the group `alignlab.plugins`), or if the user
names it: `plugins=my_package,./my_parts`. Nothing else loads one: no record, no config file, no working directory.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import itertools
import os
import pickle
import re
import shlex
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, entry_points, packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any

from alignlab.errors import ConfigError, Problem
from alignlab.integrity import sha256_of

GROUP = "alignlab.plugins"

# Folders whose files are no code of a plug-in. What its YAML files choose is in the config of a run.
_NO_CODE = ("conf", "sweeps", "__pycache__")

_IS_FILE = "is a file; a plug-in is a folder, or an installed package, with the folders of alignlab"

_numbers = itertools.count()


@dataclass(frozen=True)
class Plugin:
    """A loaded plug-in.

    name:    name of its Python package.
    source:  what loads it: the name of the package, or the absolute path of a folder.
    folder:  the package's folder.
    version: of the installed distribution; empty for a folder.
    digest:  of all files of the package but those in `conf` and `sweeps`.
    typed:   whether the user named it. Others were registered by an installed package.
    number:  differs whenever its code was imported anew.
    """

    name: str
    source: str
    folder: Path
    version: str
    digest: str
    typed: bool
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def identity(self) -> str:
        """Version and digest: the part of a plug-in that decides the numbers of a run."""
        return f"{self.version} {self.digest}".strip()

    def defines(self, cls: type) -> bool:
        """Whether a class is defined in this plug-in."""
        return cls.__module__ == self.name or cls.__module__.startswith(f"{self.name}.")


_active: tuple[Plugin, ...] = ()
_loaded: dict[str, Plugin] = {}  # name -> the plug-in whose modules were imported


def active() -> tuple[Plugin, ...]:
    """The plug-ins of the current command."""
    return _active


def activate(plugins: Sequence[Plugin]) -> None:
    """Make these the plug-ins of the current command."""
    global _active
    _active = tuple(plugins)


def plugins_of(cls: type) -> list[Plugin]:
    """Active plug-ins that define a class or one of its bases."""
    return [plugin for plugin in _active if any(plugin.defines(base) for base in cls.__mro__)]


def code_of(cls: type) -> str:
    """Versions and digests of the plug-ins that define a class; empty for a class of alignlab."""
    return ", ".join(plugin.identity for plugin in plugins_of(cls))


def load(words: Sequence[str], *, installed: bool = True) -> tuple[Plugin, ...]:
    """Import plug-ins and make them the active ones.

    words:     names of packages, and folders (with a slash, or beginning with a dot).
    installed: also load those that installed packages register.
    Raises ConfigError with the problems of all of them; the active ones are unchanged then.
    """
    found: dict[str, Plugin] = {}
    problems: list[Problem] = []
    registered = entry_points(group=GROUP) if installed else []
    versions = {entry.module: entry.dist.version if entry.dist else "" for entry in registered}
    for word, typed in [*((word, True) for word in words), *((word, False) for word in versions)]:
        try:
            plugin = _load(word, versions.get(word), typed=typed)
        except ConfigError as error:
            problems += error.problems
            continue
        except OSError as error:  # such as a name that is too long for a file
            problems.append(Problem("plugins", word, f"can't be looked for: {error.strerror}"))
            continue
        before = found.setdefault(plugin.name, plugin)
        if before.folder != plugin.folder:
            problems.append(Problem("plugins", word, f"has the name of another plug-in ({before.folder})"))
    if problems:
        raise ConfigError(problems)
    activate(list(found.values()))
    return _active


def packed(task: Any) -> bytes:
    """A task for another process as bytes, with the names of the plug-ins whose classes it may have."""
    return pickle.dumps(([plugin.source for plugin in active() if plugin.typed], pickle.dumps(task)))


def unpacked(content: bytes) -> Any:
    """The task of `packed`, after its plug-ins, and those of installed packages, were loaded in this process."""
    plugins, task = pickle.loads(content)
    load(plugins)
    return pickle.loads(task)


def registered() -> dict[str, str]:
    """Packages that installed distributions register as plug-ins -> name of the distribution."""
    return {entry.module: entry.dist.name if entry.dist else entry.module for entry in entry_points(group=GROUP)}


def how_to_name(words: Iterable[str]) -> str:
    """What to type to load plug-ins. Names with spaces or signs of the shell are in quotes."""
    known = list(words)
    if all(re.fullmatch(r"[\w./~-]+", word) for word in known):
        return f"plugins={','.join(known)}"
    entries = ",".join('"' + word.replace("\\", r"\\").replace('"', r"\"") + '"' for word in known)
    return shlex.quote(f"plugins=[{entries}]")


def is_folder(word: str) -> bool:
    """Whether a word means a folder and not the name of a package."""
    return word.startswith((".", "~")) or "/" in word or os.sep in word


def modules_of(plugin: Plugin, package: str) -> list[ModuleType]:
    """The modules in a folder of a plug-in, such as `objectives`.

    Raises ConfigError with the problems of all modules that can't be imported.
    """
    found, problems = [], []
    for file in sorted(plugin.folder.joinpath(*package.split(".")).glob("*.py")):
        if file.stem != "__init__" and file.stem.isidentifier():
            try:
                found.append(_imported(f"{plugin.name}.{package}.{file.stem}", plugin.source))
            except ConfigError as error:
                problems += error.problems
    if problems:
        raise ConfigError(problems)
    return found


def _load(word: str, number: str | None, *, typed: bool) -> Plugin:
    """number: version of the distribution, if it is known already."""
    name, folder = _folder_named(word) if is_folder(word) else _package_named(word)
    source = str(folder) if is_folder(word) else word
    digest = _digest(folder)
    if number is None:
        number = "" if is_folder(word) else _version(name)
    known = _loaded.get(name)
    if known and (known.folder, known.digest, known.source) == (folder, digest, source) and name in sys.modules:
        return known if known.typed == typed else Plugin(name, source, folder, number, digest, typed, known.number)
    if known:  # edited, or another folder of the same name: its code is imported anew
        _forget(name)
    if is_folder(word):
        _import_folder(name, folder)
    else:
        _imported(name, source)
    _loaded[name] = Plugin(name, source, folder, number, digest, typed)
    return _loaded[name]


def _forget(name: str) -> None:
    """Remove the modules of a plug-in from this process, so that they are imported anew."""
    _loaded.pop(name, None)
    for module in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
        del sys.modules[module]
    importlib.invalidate_caches()


def _folder_named(word: str) -> tuple[str, Path]:
    folder = Path(word).expanduser().resolve()
    if folder.exists() and not folder.is_dir():
        raise _problem(word, _IS_FILE, how_to_name(["./my_parts"]))
    if not folder.is_dir():
        raise _problem(word, f"there is no such folder ({folder})")
    if Path.cwd().resolve().is_relative_to(folder):
        text = "must be a folder of its own: all of its files count in the ids of runs"
        raise _problem(word, text, how_to_name(["./my_parts"]))
    if not folder.name.isidentifier():
        text = "must have a name that can be imported: letters, digits and _"
        raise _problem(word, text, how_to_name([f"./{''.join(c if c.isalnum() else '_' for c in folder.name)}"]))
    spec = None if folder.name in _loaded else _spec(folder.name)
    if spec is not None and folder not in [Path(place).resolve() for place in spec.submodule_search_locations or ()]:
        raise _problem(word, f"has the name of another Python module ({folder.name}); rename the folder")
    return folder.name, folder


def _package_named(word: str) -> tuple[str, Path]:
    if word in _loaded and is_folder(_loaded[word].source):
        _forget(word)
    spec = _spec(word)
    if spec is None:
        if Path(word).is_dir():
            text = "there is a folder of this name; a folder is written with ./"
            raise _problem(word, text, how_to_name([f"./{word}"]))
        if Path(word).exists():
            raise _problem(word, _IS_FILE, how_to_name(["./my_parts"]))
        raise _problem(word, "no such package is installed", f"pip install {word}")
    if not spec.submodule_search_locations:
        raise _problem(word, "is a single module; a plug-in is a package with the folders of alignlab")
    return word, Path(next(iter(spec.submodule_search_locations))).resolve()


def _spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):  # of a package above it, or of a half-made module
        return None


def _import_folder(name: str, folder: Path) -> None:
    """Import a folder as a package, without the folder above it becoming importable."""
    init = folder / "__init__.py"
    if init.is_file():
        spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(folder)])
    else:
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if init.is_file():
        assert spec.loader is not None
        try:
            with _no_bytecode(), redirect_stdout(sys.stderr):
                spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise _import_problem(str(folder), name, error) from error


def _imported(name: str, source: str) -> ModuleType:
    try:
        with _no_bytecode(), redirect_stdout(sys.stderr):  # the output of a verb may be read by a program
            return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise _import_problem(source, name, error) from error


class _no_bytecode:  # noqa: N801 - used like a function
    """No .pyc files: a file that was edited twice within a second could be taken for its earlier version."""

    def __enter__(self) -> None:
        self._before, sys.dont_write_bytecode = sys.dont_write_bytecode, True

    def __exit__(self, *error: object) -> None:
        sys.dont_write_bytecode = self._before


def _import_problem(source: str, name: str, error: BaseException) -> ConfigError:
    where = place_of(error, name)
    text = f"{name} can't be imported: {type(error).__name__}: {getattr(error, 'msg', '') or error}{where}"
    return _problem(source, text)


def place_of(error: BaseException, module: str) -> str:
    """' (file, line n)' of an error in the code of a module or of its package; empty if it is unknown."""
    if isinstance(error, SyntaxError):
        return f" ({error.filename}, line {error.lineno})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    package = module.partition(".")[0]  # the last frame may be of a library that has wrapped sys.exit
    own = [frame for frame in frames if package in (Path(frame.filename).stem, *Path(frame.filename).parts)]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


def _problem(word: str, text: str, fix: str = "") -> ConfigError:
    return ConfigError([Problem("plugins", word, text, fix)])


def _version(name: str) -> str:
    """Version of the distribution that installed a package; empty if it is unknown."""
    top = name.partition(".")[0]
    try:
        return version(packages_distributions().get(top, [top])[0])
    except PackageNotFoundError:
        return ""


def _digest(folder: Path) -> str:
    """Digest of the names and contents of all files of a package, without hidden ones and those of _NO_CODE."""
    state = hashlib.sha256()
    for file in _files(folder):
        state.update(f"{file.relative_to(folder).as_posix()}\0{sha256_of(file)}\n".encode())
    return state.hexdigest()[:16]


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in _NO_CODE:
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.is_file() and path.suffix != ".pyc":
            yield path
