"""The summary of preference data that was made, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignlab.spelling import counted


def synthesis_text(file: Path, provenance: Mapping[str, Any]) -> str:
    """What was made, what was left out, and how to train on it.

    provenance: the content of `<name>.provenance.json`.
    """
    prompts, settings, cut = provenance["prompts"], provenance["settings"], provenance["cut_prompts"]
    lines = [
        f"{file}: {counted(provenance['rows'], 'row')} from {counted(provenance['samples'], 'sample')} of "
        f"{provenance['names']['policy']} for {counted(prompts['number'], 'prompt')} (the data has {prompts['of']})"
    ]
    if provenance["cut_off"]:
        lines.append(f"  samples cut off at {settings['max_new_tokens']} tokens: {provenance['cut_off']}")
    if cut:
        lines.append(f"  prompts cut on the left to {prompts['longest']} tokens: {cut}")
    lines += [f"  left out: {reason}: {number}" for reason, number in provenance["left_out"].items()]
    if provenance["unjudged"]:
        lines.append(f"  not judged: {provenance['unjudged']}; the same command asks the judge for them again")
    objective = " objective=kto" if provenance["read_by"] == "unpaired" else ""
    lines.append(f"  train on it: alignlab train model=... data={provenance['read_by']} data.path={file}{objective}")
    return "\n".join(lines)
