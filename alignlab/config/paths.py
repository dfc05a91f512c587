"""The folders `conf/` and `sweeps/`. In a checkout they are beside the package, in an installed wheel inside it."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def share_dir() -> Path:
    """The folder that holds `conf` and `sweeps`."""
    packed = _PACKAGE / "_share"
    return packed if packed.is_dir() else _PACKAGE.parent


def conf_dir() -> Path:
    """Hydra's primary config folder."""
    return share_dir() / "conf"


def sweep_dirs() -> list[Path]:
    """Folders with sweep presets: the project's own, then `./sweeps` of the working directory."""
    own, here = share_dir() / "sweeps", Path.cwd() / "sweeps"
    return [own] if here.resolve() == own.resolve() or not here.is_dir() else [own, here]
