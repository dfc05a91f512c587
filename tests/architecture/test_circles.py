"""There are no import circles, even through imports inside functions, and each import in a function has a reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("alignlab", "hydra_plugins")

# Reasons to import inside a function: libraries that are slow to import, and optional extras.
HEAVY = {
    "torch", "lightning", "transformers", "tokenizers", "peft", "trl", "datasets", "hydra", "omegaconf", "scipy",
    "pandas", "pyarrow", "matplotlib", "plotly", "rich", "wandb",
    "bitsandbytes", "ray", "submitit", "optuna", "openai", "gguf", "lm_eval", "playwright", "vllm", "xllamacpp",
}  # fmt: skip


@dataclass(frozen=True)
class Import:
    """An import of the module `target` in the module `source`, at this line. late: whether it is inside a function."""

    source: str
    target: str
    line: int
    late: bool

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}{' inside a function' if self.late else ''}"


def module_name(file: Path, root: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def statements(node: ast.AST, late: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import below a node and whether it is inside a function; `if TYPE_CHECKING:` blocks are left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, late
        elif isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in child.orelse:
                yield from statements(ast.Module([other], []), late)
        else:
            yield from statements(child, late or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def imports_of(file: Path, name: str, modules: set[str]) -> Iterator[Import]:
    """The imports of a file. `from package import module` imports the module, not the package."""
    for statement, late in statements(ast.parse(file.read_text())):
        if isinstance(statement, ast.Import):
            targets = [alias.name for alias in statement.names]
        else:
            package = name.split(".") if file.stem == "__init__" else name.split(".")[:-1]
            above = package[: len(package) - statement.level + 1] if statement.level else []
            base = ".".join([*above, *([statement.module] if statement.module else [])])
            inner = [f"{base}.{alias.name}" for alias in statement.names]
            targets = [found if found in modules else base for found in inner]
        for target in dict.fromkeys(targets):
            yield Import(name, target, statement.lineno, late)


def read(root: Path, packages: tuple[str, ...]) -> list[Import]:
    files = {module_name(f, root): f for package in packages for f in sorted((root / package).rglob("*.py"))}
    return [found for name, file in files.items() for found in imports_of(file, name, set(files))]


@cache
def tree() -> list[Import]:
    return read(ROOT, PACKAGES)


def circles(imports: list[Import]) -> list[list[Import]]:
    """The imports of each circle: those between modules that reach each other."""
    names = sorted({i.source for i in imports})
    number = {name: k for k, name in enumerate(names)}
    ours = [i for i in imports if i.target in number and i.target != i.source]
    edges = np.zeros((len(names), len(names)), dtype=bool)
    for i in ours:
        edges[number[i.source], number[i.target]] = True
    _, group = connected_components(edges, connection="strong")
    tied: dict[int, list[Import]] = {}
    for i in ours:
        if group[number[i.source]] == group[number[i.target]]:
            tied.setdefault(int(group[number[i.source]]), []).append(i)
    return list(tied.values())


def room(name: str) -> str:
    return ".".join(name.split(".")[:2])


def between_rooms(imports: list[Import]) -> list[Import]:
    return [Import(room(i.source), room(i.target), i.line, i.late) for i in imports]


def told(found: list[list[Import]]) -> str:
    return "\n\n".join(
        f"a circle of {', '.join(sorted({i.source for i in circle}))}:\n  " + "\n  ".join(map(str, circle))
        for circle in found
    )


def test_no_import_circles() -> None:
    if found := told(circles(tree())):
        pytest.fail(found, pytrace=False)


def test_no_circles_between_rooms() -> None:
    """A room is a module or a folder directly below a package, with everything in it."""
    if found := told(circles(between_rooms(tree()))):
        pytest.fail(found, pytrace=False)


def heavy_libraries(imports: list[Import]) -> dict[str, set[str]]:
    """Module -> the heavy libraries that are loaded when it is imported, by itself or by what it imports."""
    at_once: dict[str, set[str]] = {}
    for i in imports:
        at_once.setdefault(i.source, set())
        if not i.late:
            at_once[i.source].add(i.target)

    def loaded(name: str, seen: set[str]) -> set[str]:
        if name not in at_once:
            return {name.split(".")[0]} & HEAVY
        seen.add(name)
        return set().union(*(loaded(target, seen) for target in at_once[name] if target not in seen))

    return {name: loaded(name, set()) for name in at_once}


def late_without_a_reason(imports: list[Import]) -> list[Import]:
    """Imports of our own modules inside functions that delay no heavy library."""
    heavy = heavy_libraries(imports)
    return [i for i in imports if i.late and i.target in heavy and not heavy[i.target]]


def test_imports_inside_functions_delay_heavy_libraries() -> None:
    if found := late_without_a_reason(tree()):
        pytest.fail("\n".join(map(str, found)), pytrace=False)


SMALL = {
    "alignlab/__init__.py": "",
    "alignlab/light.py": "from __future__ import annotations",
    "alignlab/heavy/__init__.py": "",
    "alignlab/heavy/model.py": "import torch\nfrom . import words",
    "alignlab/heavy/words.py": "import typing\nif typing.TYPE_CHECKING:\n    from alignlab.heavy import model",
    "alignlab/cli/__init__.py": "",
    "alignlab/cli/train.py": """
from alignlab import light
class Trainer:
    def fit(self):
        from alignlab.heavy import model
        from alignlab.heavy.words import said
    async def stop(self):
        import alignlab.cli.stop
""",
    "alignlab/cli/stop.py": "import alignlab.light, alignlab.cli.train",
}


@pytest.fixture
def small(tmp_path: Path) -> list[Import]:
    for name, text in SMALL.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return read(tmp_path, ("alignlab",))


def test_the_finder_sees_late_imports_and_no_type_checking(small: list[Import]) -> None:
    assert told(circles(small)) == (
        "a circle of alignlab.cli.stop, alignlab.cli.train:\n"
        "  alignlab.cli.stop:1 imports alignlab.cli.train\n"
        "  alignlab.cli.train:8 imports alignlab.cli.stop inside a function"
    )
    assert circles(between_rooms(small)) == []
    back = Import("alignlab.heavy.words", "alignlab.cli.train", 9, late=True)
    assert len(circles([*small, back])[0]) == 6, "one circle, with all imports between its modules"
    assert {(i.source, i.target) for i in circles(between_rooms([*small, back]))[0]} == {
        ("alignlab.cli", "alignlab.heavy"),
        ("alignlab.heavy", "alignlab.cli"),
    }


def test_the_finder_knows_which_late_imports_delay_a_library(small: list[Import]) -> None:
    assert heavy_libraries(small)["alignlab.heavy.model"] == {"torch"}
    assert heavy_libraries(small)["alignlab.cli.train"] == set(), "torch is imported later"
    assert [str(i) for i in late_without_a_reason(small)] == [
        "alignlab.cli.train:6 imports alignlab.heavy.words inside a function",
        "alignlab.cli.train:8 imports alignlab.cli.stop inside a function",
    ]
