"""A config holds no keys and passwords: a run stores its config, shows it and sends it to trackers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alignlab.errors import Problem
from alignlab.redaction import HIDDEN, is_secret

# Beginning of a key -> how the credential is given instead.
_INSTEAD = {
    "judge.": "export OPENAI_API_KEY=<your key>   (the judge's api_key_env names the variable)",
    "tracking.wandb": "wandb login   or   export WANDB_API_KEY=<your key>",
    "tracking.mlflow": "export MLFLOW_TRACKING_USERNAME=<name> MLFLOW_TRACKING_PASSWORD=<password>",
    "model.": "hf auth login   or   export HF_TOKEN=<your token>",
    "data.": "hf auth login   or   export HF_TOKEN=<your token>",
}


def problems_of_credentials(config: DictConfig) -> Iterator[Problem]:
    """Every value of a composed config that is a key, a token or a password. The problem does not repeat the value."""
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException:  # an interpolation that can't be resolved is a problem of its own
        plain = OmegaConf.to_container(config, resolve=False)
    for key in _secret_keys(plain, ""):
        text = (
            "is a key or a password, and a run stores its config; a config may only name the environment variable "
            "that holds it"
        )
        yield Problem(key, HIDDEN, text, next((fix for start, fix in _INSTEAD.items() if key.startswith(start)), ""))


def _secret_keys(value: Any, key: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _secret_keys(part, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for part in value:
            yield from _secret_keys(part, key)
    elif is_secret(key, value):
        yield key
