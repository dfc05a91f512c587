"""Which commit of a model or a data set of the hub is used: the one in this machine's cache, so that it never changes.

A branch of the hub moves. The first use of a name asks the hub for the commit, and huggingface_hub notes it in its
cache. Later uses take that commit, online and offline. HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE count, as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from alignlab.errors import Problem

Kind = Literal["model", "dataset"]

# Seconds to wait for an answer of the hub.
TIMEOUT = 5.0


@dataclass(frozen=True)
class Found:
    """The commit of a name; empty if it is unknown, and then why, and what to type."""

    commit: str = ""
    why: str = ""
    type_this: str = ""


def is_on_hub(name: str) -> bool:
    """Whether a name can mean a model or a data set of the hub: `organisation/name` or `name`, and no path here."""
    return bool(name) and not name.startswith((".", "/", "~")) and name.count("/") <= 1 and not Path(name).exists()


@lru_cache(maxsize=256)
def find(name: str, revision: str = "", kind: Kind = "model") -> Found:
    """The commit that a name stands for. The hub is asked at most once per process, and only if the cache lacks it.

    revision: branch, tag or commit; empty takes the default branch.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RevisionResolutionError

    api, what = HfApi(), f"{'model' if kind == 'model' else 'data set'} {name}"
    where = f"{what}{f', revision {revision}' if revision else ''}"
    try:
        return Found(
            api.resolve_revision(name, repo_type=kind, revision=revision or None, local_files_only=True).resolved
        )
    except RevisionResolutionError:
        pass
    except HFValidationError as error:
        return Found(why=str(error))
    try:
        api.repo_info(name, repo_type=kind, revision=revision or None, timeout=TIMEOUT)  # the next call has no timeout
        return Found(api.resolve_revision(name, repo_type=kind, revision=revision or None).resolved)
    except OfflineModeIsEnabled:
        return Found(
            why=f"HF_HUB_OFFLINE is set, and the cache of the hub has no {where}",
            type_this=_download(name, revision, kind),
        )
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        if status in (401, 403, 404):
            text = f"{api.endpoint} has no {where}, or does not show it to you (status {status})"
            return Found(why=text, type_this="hf auth login")
        return Found(why=f"{api.endpoint} answers with status {status}, and the cache has no {where}")
    except Exception as error:  # of the many libraries below: no connection, no name server, a broken proxy
        text = f"{api.endpoint} can't be reached ({type(error).__name__}), and the cache of the hub has no {where}"
        return Found(why=text, type_this=f"{_download(name, revision, kind)}   or   HF_ENDPOINT=<mirror>")


def named(name: str, revision: str = "", kind: Kind = "model") -> str:
    """`name@commit`, for digests. If the commit is unknown, `name@revision`, or the name alone without a revision."""
    known = find(name, revision, kind).commit or revision
    return f"{name}@{known}" if known else name


def pinned(name: str, revision: str = "", kind: Kind = "model") -> str:
    """The revision to load: the commit, or the given revision if the commit is unknown or the name is a path here."""
    return (is_on_hub(name) and find(name, revision, kind).commit) or revision


def problems(key: str, name: str, revision: str = "", kind: Kind = "model") -> Iterator[Problem]:
    """Yield a problem if a name of the hub has no known commit, so that nothing can be loaded."""
    if is_on_hub(name) and (found := find(name, revision, kind)).why:
        yield Problem(key, name, found.why, found.type_this)


def snapshot(name: str, commit: str, kind: Kind) -> str:
    """Folder of the files of a commit in the cache of the hub; empty if it is not there, or known to be incomplete."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        return str(snapshot_download(name, repo_type=kind, revision=commit, local_files_only=True))
    except (LocalEntryNotFoundError, IncompleteSnapshotError):
        return ""


def _download(name: str, revision: str, kind: Kind) -> str:
    """What brings the files of a name to a machine that can't reach the hub."""
    options = f"{' --repo-type dataset' if kind == 'dataset' else ''}{f' --revision {revision}' if revision else ''}"
    setting = "model.name" if kind == "model" else "data.path"
    return (
        f"hf download {name}{options}   (where the hub can be reached), then here HF_HUB_CACHE=<a copy of that cache>"
        f"   or   {setting}=<a folder>"
    )
