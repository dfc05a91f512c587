"""Uploads the offline files of runs to W&B, with W&B's own command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from alignlab.errors import TrackingError
from alignlab.tracking.sinks.wandb import has_key


def offline_folder(run: Path) -> Path | None:
    """The folder of a run's offline W&B files that is not uploaded yet; None if there is none.

    A run has one such folder, with its whole curve. Older versions left several; then the newest one counts.

    run: the run directory.
    """
    found = sorted(run.glob("wandb/offline-run-*"))
    return found[-1] if found and not list(found[-1].glob("*.wandb.synced")) else None


def check_login() -> None:
    """Raise TrackingError if there is no login."""
    if not has_key():
        raise TrackingError("W&B has no key, so nothing was uploaded\n  type: wandb login")


def upload(folders: Sequence[Path]) -> int:
    """Upload offline folders. Returns the exit code of `wandb sync`."""
    return subprocess.run([sys.executable, "-m", "wandb", "sync", *map(str, folders)]).returncode
