"""Values in which a comma is no separator of axis values: questions, folders and lists of trackers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from alignlab.config.axes import ONE_FOLDER
from alignlab.errors import Problem

# A text that is one value, whatever signs it has. Texts that begin with a quote, a bracket or a reference, and texts
# with a backslash, are written in Hydra's grammar already.
_TEXT = re.compile(r"(sweep\.question|output_root)=(?![\s'\"\[{$])([^\\]*[,(){}\[\]:=][^\\]*)$", re.DOTALL)

# A folder whose name has a comma, or several folders.
_FOLDERS = re.compile(r"output_root=(?![\s'\"\[{$])[^\\]*,[^\\]*$", re.DOTALL)

# Several trackers: `tracking=wandb,csv` is `tracking=[wandb,csv]`, one run with both.
_TRACKERS = re.compile(r"tracking=(\w+(?:,\w+)+)$")


def problems_of_folders(words: Sequence[str]) -> list[Problem]:
    """Problems of words of a sweep that may mean several output folders. Quotes make a name with a comma one folder."""
    found = [word.partition("=")[::2] for word in words if _FOLDERS.match(word)]
    return [Problem(key, value, ONE_FOLDER, f"{key}=<one folder>") for key, value in found]


def with_commas_kept(override: str) -> str:
    """An override whose value would be split at its commas, in the form in which it is one value."""
    if trackers := _TRACKERS.match(override):
        return f"tracking=[{trackers[1]}]"
    if text := _TEXT.match(override):
        quoted = text[2].replace("'", "\\'")
        return f"{text[1]}='{quoted}'"
    return override
