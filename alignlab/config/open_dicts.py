"""Fields whose keys are the user's own, such as `data.columns`: Hydra's signs for new keys need not be typed."""

from __future__ import annotations

import re

_OPEN = re.compile(
    r"(data(\.parts\.\w+)?\.(columns|labels)|data\.(weights|counts|settings)|(objective|model)\.settings"
    r"|(judge\.\w+|reward)\.(columns|options))(\.[^=]+)?="
)


# `data.parts.hh=hh_rlhf`: the source of a part is an option of the group `data`.
_PART = re.compile(r"(data\.parts\.\w+)=(\w+)$")


def with_own_keys(override: str) -> str:
    """An override such as `data.columns={prompt: question}` in the form that adds its keys."""
    if part := _PART.match(override):
        return f"+data@{part[1]}={part[2]}"
    return f"++{override}" if _OPEN.match(override) else override
