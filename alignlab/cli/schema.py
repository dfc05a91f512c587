"""`alignlab schema`: prints a JSON schema of experiments and sweep files, for editors."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_HELP = """usage: alignlab schema > alignlab.schema.json

Prints a JSON schema of the files that you write: experiments, sweep presets and stages. With it, an editor completes
the keys of these files, shows their comments, and marks keys that do not exist. For VS Code with the extension YAML,
put this into .vscode/settings.json:

  "yaml.schemas": {"./alignlab.schema.json": ["sweeps/*.yaml", "conf/experiment/*.yaml", "conf/stage/*.yaml"]}"""


def main(argv: Sequence[str]) -> int:
    """Print the schema. Returns the exit code, which is 2 if there are arguments."""
    if {"-h", "--help"} & set(argv):
        print(_HELP)
        return 0
    if argv:
        print(f"alignlab: schema takes no arguments, but got: {' '.join(argv)}\n\n{_HELP}", file=sys.stderr)
        return 2
    from alignlab.config.json_schema import as_text

    print(as_text(), end="")
    return 0
