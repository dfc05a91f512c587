"""Runs a verb as a Hydra application, and turns errors into messages and exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from alignlab.cli.config_help import config_help
from alignlab.cli.refusal import print_error
from alignlab.config.commas import problems_of_folders, with_commas_kept
from alignlab.config.composer import COMPOSE_ERRORS
from alignlab.config.diagnose import diagnose, diagnose_one
from alignlab.config.hydra_errors import rejoined
from alignlab.config.open_dicts import with_own_keys
from alignlab.config.own_plugins import load_plugins
from alignlab.config.paths import conf_dir, config_dir_named
from alignlab.config.preflight import to_evaluate, to_synthesize
from alignlab.config.references import problem_of_reference
from alignlab.config.registry import remove_plugin_schemas
from alignlab.config.remote_code import note_command_line
from alignlab.config.renamed import with_new_names
from alignlab.errors import AlignlabError, ConfigError, Problem
from alignlab.plugins import activate, active
from alignlab.spelling import as_typed

# Groups without a choice in the defaults list: `+experiment=x` and `experiment=x` mean the same. `stage=x` is rejected
# in both forms.
_OPTIONAL_GROUPS = ("experiment", "debug", "sweep", "stage")

# Hydra's flags that `_parser` leaves out.
_OTHER_FLAGS = ("--help", "--hydra-help", "--version", "--resolve", "--experimental-rerun")

log = logging.getLogger(__name__)

# Hydra's state belongs to the process, so threads take turns.
_ONE_AT_A_TIME = threading.RLock()

_PLUGINS = re.compile(r"\+{0,2}plugins=(.*)$", re.DOTALL)

# Checks of the configs that are not those of a run.
_CHECKS = {"evaluate": to_evaluate, "synthesize": to_synthesize}

# First words of Hydra's ValueErrors about flags that do not go together -> the problem.
_OF_FLAGS = {
    "The --resolve flag": Problem("--resolve", None, "changes what --cfg prints", "--cfg job --resolve"),
    "Only one of --run": Problem("--run, --multirun, --cfg, --info", None, "exclude each other; give one of them"),
}

# Hydra's own settings that have no effect here, or that name what Hydra calls -> what is wrong, what to type.
_NOT_SET = {
    "callbacks": ("can't be set: Hydra would call what it names", "plugins=<your folder> callback=<name>"),
    "run": ("can't be set: results go to output_root", "output_root=<folder>"),
    "sweep": ("can't be set: results go to output_root", "output_root=<folder>"),
    "output_subdir": ("can't be set: results go to output_root", "output_root=<folder>"),
}

# First words of the ValueErrors and the AssertionError that a wrong command line causes.
_OF_THE_COMMAND_LINE = ("Config group override", "Unexpected type for root", "invalid literal for int()")


def run_app(config_name: str, task: Callable[[DictConfig], Any], argv: Sequence[str]) -> int:
    """Run `task` for each composed config, as a verb of the command line does. Returns the exit code."""
    try:
        run_composed(config_name, task, argv)
    except AlignlabError as error:
        return print_error(error, argv)
    except SystemExit as stop:  # raised by Hydra's --help and by errors of its parser
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        print("\nstopped; the same command resumes", file=sys.stderr)
        return 130
    return 0


def run_composed(config_name: str, task: Callable[[DictConfig], Any], argv: Sequence[str]) -> None:
    """Run `task` for each composed config.

    Raises AlignlabError: ConfigError with all problems of the command line, or the error of the task.
    """
    own, argv = _config_dir(with_plugins(argv))
    with config_dir_named(own):
        _run_composed(config_name, task, argv, own)


def _run_composed(config_name: str, task: Callable[[DictConfig], Any], argv: Sequence[str], own: Path | None) -> None:
    """`run_composed`, with the folder of --config-dir already taken from the command line."""
    split, argv = rejoined(argv)
    words = [with_own_keys(with_new_names(_plain_group(with_commas_kept(arg)), own)) for arg in argv]
    args = _with_multirun(_flags_first(words))
    if {"--help", "-h"} & set(args):
        print(_help(config_name, args))
        return
    unknown, args = _without_unknown_flags(args)
    split += unknown
    if {"-m", "--multirun"} & set(argv):
        split += problems_of_folders(argv)
    if refused := {word: problem for word in argv if (problem := _refused_setting(word))}:
        split += refused.values()
    if split:
        raise ConfigError([*split, *_why(config_name, [arg for arg in args if arg not in refused])])
    # With this set Hydra lets exceptions through instead of printing them and exiting with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Hydra 1.3 needs version_base; 1.4 ignores it with a warning.
    warnings.filterwarnings("ignore", message="The version_base parameter is deprecated")
    sys.argv = [sys.argv[0], *args]
    note_command_line(args)
    failed: list[Exception] = []

    def quiet_task(config: DictConfig) -> Any:
        """Run the task, and store the error of a single run, because Hydra would print a line of its own about it.

        In a sweep the error is raised, so that the sweep records it.
        """
        try:
            _refuse_unused_preset()
            _warn_of_unused_launcher()
            return task(config)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            failed.append(error)
        except SystemExit as stop:  # 0 or None would look like success
            if not stop.code:
                raise AlignlabError("code that this command runs called exit; the command is not done") from stop
            raise

    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(quiet_task)()
        if failed:
            raise failed[0]
    except COMPOSE_ERRORS as error:
        if of_flags := [problem for words, problem in _OF_FLAGS.items() if str(error).startswith(words)]:
            raise ConfigError(of_flags) from error
        of_hydra = isinstance(error, HydraException | OmegaConfBaseException)
        if not of_hydra and not str(error).startswith(_OF_THE_COMMAND_LINE):
            raise
        problems = _why(config_name, args)
        if isinstance(error.__cause__, ConfigError):  # a launcher or sweeper rejected its options
            problems += error.__cause__.problems
        if not of_hydra and not problems:  # the command line did not cause it
            raise
        raise ConfigError(problems or _of_hydra_itself(args, error)) from error
    except TypeError as error:  # Hydra fails on a choice of options that are no names
        if traceback.extract_tb(error.__traceback__)[-1].name != "_create_defaults_tree_impl":
            raise
        raise ConfigError(_why(config_name, args) or [Problem("", None, str(error))]) from error
    except YAMLError as error:
        raise ConfigError([Problem("a YAML file", None, f"can't be read: {error}")]) from error


@contextmanager
def hydra_of_the_caller_kept() -> Iterator[None]:
    """Set aside what Hydra keeps for the whole process: a caller in Python may be a Hydra application too.

    Another thread waits meanwhile.
    """
    with _ONE_AT_A_TIME, _kept():
        yield


@contextmanager
def _kept() -> Iterator[None]:
    hydra, config = GlobalHydra.instance(), HydraConfig.instance()
    before, config_before, argv, full_error = hydra.hydra, config.cfg, sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    plugins = active()
    hydra.clear()
    sys.argv = ["alignlab"]
    try:
        yield
    finally:
        hydra.hydra, config.cfg, sys.argv = before, config_before, argv
        activate(plugins)
        remove_plugin_schemas()
        if full_error is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)


def with_plugins(argv: Sequence[str]) -> list[str]:
    """Load the plug-ins that a command line names, and those of installed packages.

    Returns the command line with them as one list. `plugins=` may be repeated, and brackets may be left out.
    Raises ConfigError with all of their problems.
    """
    words = [word for arg in argv if (found := _PLUGINS.match(arg)) for word in _listed(found[1])]
    load_plugins(list(dict.fromkeys(words)))
    rest = [arg for arg in argv if not _PLUGINS.match(arg)]
    return [*rest, f"plugins=[{','.join(map(_quoted, dict.fromkeys(words)))}]"] if words else rest


def _listed(text: str) -> list[str]:
    """The words of `a`, `a,b` and `[a,'b c']`."""
    if text in ("", "null", "[]"):
        return []
    try:
        value = OverridesParser.create().parse_override(f"plugins=[{text.removeprefix('[').removesuffix(']')}]").value()
    except HydraException:
        value = None
    if not isinstance(value, list) or not all(isinstance(word, str | QuotedString) for word in value):
        text_ = "must be a list of packages and folders"
        raise ConfigError([Problem("plugins", text, text_, "plugins=my_package,./my_parts")])
    return [word.text if isinstance(word, QuotedString) else str(word) for word in value]


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[\w./~-]+", word) else "'" + word.replace("'", "\\'") + "'"


def _refused_setting(word: str) -> Problem | None:
    """The problem of a word that sets one of Hydra's own settings that no command may set."""
    key, _, value = word.lstrip("+").partition("=")
    first, _, rest = key.partition(".")
    refused = _NOT_SET.get(rest.partition(".")[0]) if first == "hydra" else None
    return Problem(key, value, *refused) if refused else None


def _refuse_unused_preset() -> None:
    """Raise ConfigError for a sweep preset together with --run, which would ignore the preset's axes."""
    hydra_config = HydraConfig.get()
    preset = hydra_config.runtime.choices.get("sweep")
    if preset and hydra_config.mode != RunMode.MULTIRUN:
        raise ConfigError(
            [Problem("sweep", preset, "is a sweep, but --run asks for one run", "the same without --run")]
        )


def _warn_of_unused_launcher() -> None:
    """Say that a launcher that starts points elsewhere has no part in a single run."""
    hydra_config = HydraConfig.get()
    launcher = hydra_config.runtime.choices.get("hydra/launcher")
    if hydra_config.mode != RunMode.MULTIRUN and launcher in ("local", "ray", "slurm"):
        log.warning(
            "launcher=%s starts the points of a sweep (-m ... or sweep=<preset>); this is one run, which computes here",
            launcher,
        )


def _plain_group(arg: str) -> str:
    for group in ("launcher", "sweeper"):
        if arg.startswith((f"{group}=", f"{group}.")):
            return f"hydra{'/' if arg[len(group)] == '=' else '.'}{arg}"
    for group in _OPTIONAL_GROUPS:
        if arg.startswith(f"+{group}="):
            return arg[1:]
    return arg


def _flags_first(args: list[str]) -> list[str]:
    """The arguments with flags before overrides. Hydra's parser can't read overrides on both sides of a flag."""
    flags = [arg for arg in args if arg.startswith("-") or not re.search(r"[=~]", arg)]
    return flags + [arg for arg in args if arg not in flags]


def _no_names(overrides: Sequence[str]) -> dict[str, Problem]:
    """override -> problem, for choices of several options (`judge=[llm,1]`) with an entry that is no name.

    Needs an initialised GlobalHydra.
    """
    found = {}
    for text in overrides:
        key, _, value = text.lstrip("+~").partition("=")
        try:
            chosen = OverridesParser.create().parse_override(text).value() if value.startswith("[") else None
        except HydraException:  # `diagnose` reports it
            continue
        entries = chosen if isinstance(chosen, list) else []
        wrong = [entry for entry in entries if not isinstance(entry, str | QuotedString)]
        if wrong and GlobalHydra.instance().config_loader().get_group_options(key):
            said = f"must be a list of names of options; not {', '.join(map(as_typed, wrong))}"
            found[text] = Problem(key.removeprefix("hydra/"), value, said)
    return found


def _without_unknown_flags(args: Sequence[str]) -> tuple[list[Problem], list[str]]:
    """(a problem for each flag that Hydra does not know, the arguments without these flags and their values).

    Often such a flag is a setting with dashes, as other software has them.
    """
    unknown = [word for word in _parser().parse_known_args(args)[1] if word.startswith("--")]
    problems, rest = list[Problem](), list[str]()
    words = iter([*args, ""])
    word = next(words)
    for following in words:
        name, equals, value = word.partition("=")
        if word in unknown and not any(flag.startswith(name) for flag in _OTHER_FLAGS):
            if not equals and following and not following.startswith("-") and "=" not in following:
                value, following = following, next(words)
            text = "no such flag; a setting is typed as key=value, without dashes"
            problems.append(Problem(name, None, text, f"{name.lstrip('-').replace('-', '_')}={value or '...'}"))
        else:
            rest.append(word)
        word = following
    return problems, rest


def _parse(args: Sequence[str]) -> argparse.Namespace:
    """The overrides, and Hydra's flags that take a value or ask for something else than one run."""
    return _parser().parse_known_args(args)[0]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--multirun", "-m", action="store_true")
    for flags in (("--run", "-r"), ("--shell-completion", "-sc")):
        parser.add_argument(*flags, action="store_true", dest="other")
    parser.add_argument("--cfg", "-c", nargs="?", const=True)
    parser.add_argument("--info", "-i", nargs="?", const=True, dest="other")
    for flags in (("--package", "-p"), ("--config-path", "-cp"), ("--config-name", "-cn"), ("--config-dir", "-cd")):
        parser.add_argument(*flags)
    return parser


def _config_dir(args: Sequence[str]) -> tuple[Path | None, list[str]]:
    """(the folder of a user's own options, the arguments without --config-dir).

    Raises ConfigError if there is no such folder, and for flags that would replace configs of alignlab or do nothing.
    """
    rest, folders, words = [], [], iter(args)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            folders.append(value if equals else next(words, ""))
        else:
            rest.append(word)
    problems = [Problem("--config-dir", folder, "no such folder") for folder in folders if not Path(folder).is_dir()]
    if len(folders) > 1:
        problems.append(Problem("--config-dir", ", ".join(folders), "must be one folder"))
    if problems:
        raise ConfigError(problems)
    left = _parse(rest)
    if left.config_dir is not None:
        raise ConfigError([Problem("--config-dir", left.config_dir, "must be written in full")])
    if left.config_path is not None:
        text = "can't be replaced: all commands read alignlab's own configs"
        fix = f"--config-dir {left.config_path}"
        raise ConfigError([Problem("--config-path", left.config_path, text, fix)])
    if left.config_name is not None:
        text = "can't be replaced: each command has its own config"
        raise ConfigError([Problem("--config-name", left.config_name, text, f"experiment={left.config_name}")])
    if left.package is not None and not left.cfg:
        raise ConfigError(
            [Problem("--package", left.package, "changes what --cfg prints", f"--cfg job --package {left.package}")]
        )
    return (Path(folders[0]).absolute() if folders else None), rest


def _with_multirun(args: list[str]) -> list[str]:
    """The arguments with --multirun if they choose a sweep preset (`sweep=<preset>`)."""
    parsed = _parse(args)
    chosen = any(re.match("sweep=(?!null$).", text) for text in parsed.overrides)
    return ["--multirun", *args] if chosen and not (parsed.multirun or parsed.cfg or parsed.other) else args


def _why(config_name: str, args: list[str]) -> list[Problem]:
    """All problems of the command line, which is composed again piece by piece."""
    parsed = _parse(args)
    with _initialised():
        no_names = _no_names(parsed.overrides)
        rest = [text for text in parsed.overrides if text not in no_names]
        if config_name in _CHECKS:
            return [*no_names.values(), *diagnose_one(config_name, rest, _CHECKS[config_name])]
        return [*no_names.values(), *diagnose(config_name, rest, many=parsed.multirun)]


def _of_hydra_itself(args: list[str], error: Exception) -> list[Problem]:
    """The problem of an error that is not due to the config of a run, but to Hydra's own settings."""
    words = [arg.lstrip("+").partition("=") for arg in args]
    settings = [(key, value) for key, _, value in words if key.startswith("hydra.") and "${" in value]
    if isinstance(error, OmegaConfBaseException) and settings:
        return [problem_of_reference(re.sub(r"^hydra\.(?=launcher|sweeper)", "", k), v, error) for k, v in settings]
    return [Problem("", None, str(error))]


def _help(config_name: str, args: list[str]) -> str:
    """The text of `alignlab <verb> --help`. Raises ConfigError if the overrides beside it are wrong."""
    overrides = _parse(args).overrides
    try:
        with _initialised():
            return config_help(GlobalHydra.instance().config_loader(), config_name, overrides)
    except COMPOSE_ERRORS as error:
        raise ConfigError(_why(config_name, args) or [Problem("", None, str(error))]) from error


@contextmanager
def _initialised() -> Iterator[None]:
    """Hydra with alignlab's config folder, and those that the search path adds."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield
