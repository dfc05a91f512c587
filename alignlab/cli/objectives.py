"""`alignlab objectives`: lists the objectives."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from alignlab.cli.refusal import print_error
from alignlab.errors import AlignlabError


def main(argv: Sequence[str]) -> int:
    """Print all objectives, or those whose names are given. Returns the exit code, which is 2 for an unknown name.

    `plugins=...` adds the objectives of plug-ins.
    """
    from alignlab.cli.hydra_app import with_plugins
    from alignlab.config.catalogue import HEADER, NOTATION, catalogue

    try:
        argv = [word for word in with_plugins(argv) if not word.startswith("plugins=")]
    except AlignlabError as error:
        return print_error(error, argv)
    rows = {row[0]: row for row in catalogue()}
    unknown = [name for name in argv if name not in rows]
    if unknown:
        print(f"alignlab: no such objective: {', '.join(unknown)}\n  there are: {', '.join(rows)}", file=sys.stderr)
        return 2
    for name in argv or rows:
        print(name)
        for title, text in zip(HEADER[1:], rows[name][1:], strict=True):
            if text:
                print(f"    {title}: {text}")
    print(f"\n{NOTATION}")
    return 0
