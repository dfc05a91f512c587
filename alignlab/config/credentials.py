"""A config holds no keys and passwords: a run stores its config, shows it and sends it to trackers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alignlab.errors import Problem
from alignlab.redaction import HIDDEN, is_secret, secret_variables

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
    variables = secret_variables()
    for key, value in _secrets(plain, "", variables):
        text = (
            "is a key or a password, and a run stores its config; a config may only name the environment variable "
            "that holds it"
        )
        if variable := _variable_in(value, variables):
            text = f"contains the value of the environment variable {variable}, and a run stores its config"
        yield Problem(key, HIDDEN, text, next((fix for start, fix in _INSTEAD.items() if key.startswith(start)), ""))


def _variable_in(value: Any, variables: Mapping[str, str]) -> str:
    """The first of these environment variables whose value a text contains; empty if there is none."""
    found = (name for name, secret in variables.items() if secret in value) if isinstance(value, str) else ()
    return next(iter(found), "")


def _secrets(value: Any, key: str, variables: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """(key, value) of everything below `key` that is a secret."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _secrets(part, f"{key}.{name}".lstrip("."), variables)
    elif isinstance(value, list):
        for part in value:
            yield from _secrets(part, key, variables)
    elif is_secret(key, value) or _variable_in(value, variables):
        yield key, value
