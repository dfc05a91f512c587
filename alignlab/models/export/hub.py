"""Uploads an exported folder to the hub, or to the mirror that HF_ENDPOINT names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alignlab.errors import ConfigError, OutputError, Problem


def check_name(repo: str) -> None:
    """Raise ConfigError unless a name can be that of a repository: `<user or organisation>/<name>`."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
        fault = "" if repo.count("/") == 1 else "must be <user or organisation>/<name>"
    except HFValidationError as error:
        fault = str(error).rstrip(".")
    if fault:
        raise ConfigError([Problem("--repo", repo, fault, "--repo my_name/my_model")])


def endpoint() -> str:
    """Address of the hub, or of the mirror that HF_ENDPOINT names."""
    from huggingface_hub import HfApi

    return str(HfApi().endpoint)


def upload(folder: Path, names: Sequence[str], repo: str, *, public: bool, message: str) -> str:
    """Create the repository if it does not exist, and upload these files of a folder as one commit.

    Nothing else in the repository changes. Returns the address of the commit.

    public: whether a new repository is public. One that exists stays as it is.
    Raises OutputError if the hub can't be reached or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi()
    try:
        made = api.create_repo(repo, private=not public, exist_ok=True)
        files = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names]
        return str(api.create_commit(repo_id=made.repo_id, operations=files, commit_message=message).commit_url)
    except OfflineModeIsEnabled as error:
        text = f"nothing was uploaded to {repo}: HF_HUB_OFFLINE is set\n  type: --dry-run, or unset HF_HUB_OFFLINE"
        raise OutputError(text) from error
    except LocalTokenNotFoundError as error:
        raise OutputError(f"nothing was uploaded to {repo}: there is no token\n  type: hf auth login") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        fix = "\n  type: hf auth login   (with a token that may write there)" if status in (401, 403) else ""
        raise OutputError(f"{api.endpoint} refused the upload to {repo}: {_first_line(error)}{fix}") from error
    except Exception as error:  # of the libraries below: no connection, no name server, a broken proxy
        raise OutputError(f"{api.endpoint} can't be reached: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
