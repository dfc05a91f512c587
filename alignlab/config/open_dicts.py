"""Fields whose keys are the user's own, such as `data.columns`. Hydra accepts new keys only after `++`."""

from __future__ import annotations

import re

_OPEN = re.compile(r"(data(\.parts\.\w+)?\.(columns|labels)|data\.(weights|counts)|objective\.settings)(\.[^=]+)?=")


def with_own_keys(override: str) -> str:
    """An override such as `data.columns={prompt: question}` in the form that adds its keys."""
    return f"++{override}" if _OPEN.match(override) else override
