"""A run is a directory. Every file in it is written whole or not at all, except the logs that grow."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from alignlab.errors import OutputError

Status = Literal["running", "done", "failed", "interrupted"]

_PACKAGES = ("alignlab", "torch", "lightning", "transformers", "peft", "datasets", "hydra-core", "omegaconf", "wandb")


@dataclass(frozen=True)
class RunDir:
    """`<output_root>/runs/<id>/` and the names of what is in it."""

    path: Path

    @classmethod
    def of(cls, output_root: str | Path, run_id: str) -> RunDir:
        return cls(Path(output_root) / "runs" / run_id)

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def config(self) -> Path:
        """Effective config, YAML."""
        return self.path / "config.yaml"

    @property
    def record_file(self) -> Path:
        """Status, versions, fingerprints and summary, JSON."""
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def frontier(self) -> Path:
        """Exact reward-KL frontier of the reference, JSON; lab runs only."""
        return self.path / "frontier.json"

    @property
    def log(self) -> Path:
        return self.path / "train.log"

    @property
    def policy(self) -> Path:
        """The trained policy in Hugging Face format (full model or adapter) with its tokenizer."""
        return self.path / "policy"

    @property
    def base(self) -> Path:
        """What the adapter in `policy` was trained on, where that came from no folder or hub."""
        return self.path / "base"

    @property
    def merged(self) -> Path:
        """The policy as a full model where `policy` is an adapter; made when another run starts from it."""
        return self.path / "merged"

    @property
    def checkpoint(self) -> Path:
        """Last training state."""
        return self.path / "checkpoints" / "last.ckpt"

    def lock(self) -> FileLock:
        """Held by the one process that works on this run."""
        folder = self.path.parent / ".locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"output_root can't be written: {error}\n  type: output_root=<another folder>") from error
        return FileLock(folder / self.id)

    def record(self) -> dict[str, Any]:
        """Contents of run.json; empty where there is none."""
        return json.loads(self.record_file.read_text()) if self.record_file.is_file() else {}

    def status(self) -> Status | None:
        return self.record().get("status")

    def update(self, **values: Any) -> None:
        """Change fields of run.json, atomically."""
        write_json(self.record_file, {**self.record(), **values})

    def start(self, config_yaml: str, *, fresh: bool, **values: Any) -> None:
        """Make the directory (anew where `fresh`) and say that this process runs it."""
        before = self.record()
        if fresh and self.path.exists():
            shutil.rmtree(self.path)
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.config, config_yaml)
        self.update(
            id=self.id,
            status="running",
            attempt=before.get("attempt", 0) + 1,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=now(),
            ended=None,
            reason=None,
            versions=versions(),
            git=git_revision(),
            machine={"platform": platform.platform(), "cpus": os.cpu_count()},
            **values,
        )

    def end(self, status: Status, reason: str | None = None, **values: Any) -> None:
        """Final status with its reason."""
        self.update(status=status, reason=reason, ended=now(), **values)


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Installed versions of what decides numbers."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_revision() -> str | None:
    """Commit of alignlab's own checkout, `+dirty` where it has changes; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+dirty" if dirty.stdout.strip() else "")


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Pretty JSON, atomically."""
    write_text(file, json.dumps(value, indent=2, default=str) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write beside the target and rename: a reader sees the old file or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, suffix=".tmp", delete=False) as handle:
        handle.write(text)
    os.chmod(handle.name, 0o644)
    os.replace(handle.name, file)
