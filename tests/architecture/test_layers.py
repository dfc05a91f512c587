"""Imports between rooms go one way only, and each library is imported only in its rooms."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import alignlab
from alignlab.config.registry import schemas

PACKAGE = Path(alignlab.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# room -> rooms it may import from (itself always)
BASE = {
    "types",
    "errors",
    "checks",
    "integrity",
    "spelling",
    "progress",
    "inert",
    "plugins",
    "redaction",
    "locks",
    "hub",
    "targets",
}
MODELS_AND_DATA = BASE | {"lab", "data", "models", "rollout"}
FIT = MODELS_AND_DATA | {
    "objectives",
    "optim",
    "strategies",
    "tracking",
    "runs",
    "judges",
    "evaluation",
    "statistics",
    "modules",
    "config",
}
ALLOWED = {
    "errors": {"spelling"},
    "types": set(),
    "spelling": set(),
    "progress": {"inert"},
    "integrity": {"errors"},
    "targets": {"errors", "integrity"},
    "locks": set(),
    "hub": {"errors"},
    "checks": {"errors", "spelling"},
    "plugins": {"errors", "integrity"},
    "discovery": {"errors", "plugins"},
    "metrics": BASE,
    "callbacks": BASE,
    "inert": set(),
    "redaction": set(),
    "lab": set(),
    "statistics": set(),
    "runs": {"errors", "inert", "integrity", "spelling", "locks", "targets"},
    "objectives": BASE | {"discovery"},
    "optim": BASE | {"discovery"},
    "strategies": BASE | {"models"},
    "tracking": BASE,
    "data": BASE | {"lab", "discovery", "statistics"},
    "models": BASE | {"data", "lab"},
    "judges": BASE | {"lab", "data", "models", "statistics"},
    "rollout": BASE | {"data", "models"},
    "modules": BASE | {"objectives", "metrics", "data", "models", "optim", "rollout"},
    "evaluation": MODELS_AND_DATA | {"statistics", "judges"},
    "synthesis": MODELS_AND_DATA | {"judges", "evaluation"},
    "config": MODELS_AND_DATA
    | {"discovery", "objectives", "optim", "strategies", "tracking", "metrics", "callbacks"}
    | {"runs", "judges", "evaluation", "synthesis"},
    "resources": BASE | {"data", "models", "optim", "config", "strategies"},
    "reports": {
        "errors",
        "integrity",
        "spelling",
        "inert",
        "redaction",
        "runs",
        "tracking",
        "statistics",
        "evaluation",
        "judges",
    },
    "papers": MODELS_AND_DATA | {"statistics", "runs", "objectives", "judges", "evaluation", "tracking", "reports"},
    "training": FIT | {"reports"},
    "vectorized": FIT | {"training"},
    "pipeline": FIT | {"training", "vectorized", "reports", "synthesis", "discovery"},
    "sweep": FIT | {"training", "vectorized", "pipeline", "reports"},
    "contracts": MODELS_AND_DATA
    | {"objectives", "optim", "strategies", "tracking", "judges", "evaluation", "metrics", "callbacks", "config"},
    "cli": BASE
    | {
        "contracts",
        "optim",
        "rollout",
        "synthesis",
        "config",
        "resources",
        "training",
        "pipeline",
        "sweep",
        "reports",
        "papers",
    }
    | {"runs", "evaluation", "strategies", "tracking"},
    "__main__": {"cli"},
    "plot": {"reports"},
    "api": {"errors", "spelling", "progress", "runs", "config", "pipeline", "sweep", "reports", "cli"},
}

# library -> rooms that may import it; imports inside functions count too
HOME = {
    "hydra": {"config", "cli", "sweep"},
    "omegaconf": {"config", "cli", "training", "sweep"},
    "lightning": {"contracts", "modules", "data", "strategies", "training", "vectorized", "tracking"},
    "wandb": {"tracking", "reports"},
    "wandb_workspaces": {"reports"},
    "tensorboardX": {"tracking"},
    "trackio": {"tracking"},
    "mlflow": {"tracking"},
    "transformers": {"models", "training"},
    "peft": {"models"},
    "bitsandbytes": {"optim"},
    "datasets": {"data"},
    "matplotlib": {"reports", "plot"},
    "pandas": {"reports", "api"},
    "scipy": {"statistics", "evaluation", "reports"},
    "openai": {"judges", "rollout"},
    "vllm": {"rollout"},
    "lm_eval": {"evaluation"},
    "jinja2": {"reports", "data"},
    "pyarrow": {"evaluation", "data", "synthesis"},
}
# modules without torch in rooms whose other modules may use it
NO_TORCH_MODULES = sorted(
    f
    for room in ("statistics", "judges", "evaluation")
    for f in (PACKAGE / room).rglob("*.py")
    if f.name not in ("__init__.py", "exact.py", "suite.py")
)
NO_TORCH = {
    "errors",
    "checks",
    "integrity",
    "spelling",
    "inert",
    "progress",
    "locks",
    "targets",
    "lab",
    "statistics",
    "tracking",
    "runs",
    "reports",
}


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def broken_rules(file: Path) -> Iterator[str]:
    """The imports of a file that its room must not have."""
    here = room(file)
    if here == "__init__":
        return
    for name in sorted(imports(file)):
        top, *rest = name.split(".")
        if top == "alignlab" and rest and rest[0] != here and rest[0] not in ALLOWED[here]:
            yield f"{file.relative_to(PACKAGE)}: {here} must not import {name}"
        elif top in HOME and here not in HOME[top]:
            yield f"{file.relative_to(PACKAGE)}: {top} does not live in {here}"
        elif top == "torch" and here in NO_TORCH:
            yield f"{file.relative_to(PACKAGE)}: {here} works without torch"


def test_imports() -> None:
    assert len(MODULES) > 200
    found = [broken for file in MODULES for broken in broken_rules(file)]
    assert not found, "\n".join(found)


def test_every_room_has_rules_and_every_rule_a_room() -> None:
    assert {room(f) for f in MODULES} - {"__init__"} == set(ALLOWED)


def test_every_module_imports() -> None:
    names = [m.name for m in pkgutil.walk_packages([str(PACKAGE)], "alignlab.")]
    assert len(names) > 60
    for name in names:
        importlib.import_module(name)


def test_package_inits_are_empty() -> None:
    for file in PACKAGE.rglob("__init__.py"):
        assert file.read_text() == "" or file.parent == PACKAGE, file


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["nonsense"]])
def test_commands_that_need_no_torch_do_not_import_it(words: list[str]) -> None:
    code = (
        "import sys; from alignlab.cli.main import main; main(sys.argv[1:]);"
        "assert not {'torch', 'hydra', 'lightning', 'numpy'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)


def test_reports_work_without_torch() -> None:
    code = "import sys, alignlab.reports.sweep; assert not {'torch', 'lightning', 'hydra'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_statistics_benchmarks_and_judges_work_without_torch_and_without_a_client() -> None:
    names = ["alignlab." + ".".join(f.relative_to(PACKAGE).with_suffix("").parts) for f in NO_TORCH_MODULES]
    assert len(names) > 15
    code = f"import importlib, sys; [importlib.import_module(n) for n in {names}]; " + (
        "assert not {'torch', 'lightning', 'hydra', 'pandas', 'openai', 'scipy.stats'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_no_code_asks_for_an_objective_by_name() -> None:
    names = "|".join(schemas()["objective"])
    classes = "|".join(cls.__name__ for cls in schemas()["objective"].values())
    ask = re.compile(rf"""(==|!=|\bin\b)\s*[\[({{]?\s*["']({names})["']|isinstance\([^)]*\b({classes})\b""")
    assert ask.search('if objective.name == "kto":')
    assert ask.search("isinstance(objective, (IPO, KTO))")
    for file in [*MODULES, *(PACKAGE.parent / "hydra_plugins").rglob("*.py")]:
        found = ask.search(file.read_text())
        assert found is None, f"{file}: {found and found.group()}"
