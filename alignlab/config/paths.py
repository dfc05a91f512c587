"""The folders `conf/`, `sweeps/` and `starter/`: beside the package in a checkout, inside it in an installed wheel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_named: Path | None = None

_PACKAGE = Path(__file__).resolve().parents[1]


def share_dir() -> Path:
    """The folder that holds `conf`, `sweeps` and `starter`."""
    packed = _PACKAGE / "_share"
    return packed if packed.is_dir() else _PACKAGE.parent


def conf_dir() -> Path:
    """Hydra's primary config folder."""
    return share_dir() / "conf"


def own_conf_dir() -> Path | None:
    """The folder `conf` of the working directory, if there is one and it is not alignlab's own."""
    here = Path.cwd() / "conf"
    return here if here.is_dir() and here.resolve() != conf_dir().resolve() else None


@contextmanager
def config_dir_named(folder: Path | None) -> Iterator[None]:
    """Make a folder the one that this command names with --config-dir."""
    global _named
    before, _named = _named, folder
    try:
        yield
    finally:
        _named = before


def named_config_dir() -> Path | None:
    """The folder of options that this command names with --config-dir."""
    return _named


def sweep_dirs(plugins: Sequence[Path] = ()) -> list[Path]:
    """Folders with sweep presets: the project's own, those of plug-ins, then `./sweeps` of the working directory.

    plugins: folders of the plug-ins.
    """
    own, here = share_dir() / "sweeps", Path.cwd() / "sweeps"
    found = [own, *(folder / "sweeps" for folder in plugins if (folder / "sweeps").is_dir())]
    known = {folder.resolve() for folder in found}
    return [*found, here] if here.is_dir() and here.resolve() not in known else found
