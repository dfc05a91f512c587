"""Prints an error for people. Keys and passwords are hidden, and control characters are visible escapes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from alignlab.errors import AlignlabError
from alignlab.inert import MOST_OF_OUTPUT, visible
from alignlab.redaction import HIDDEN, redacted, secrets_of


def print_error(error: AlignlabError, argv: Sequence[str] = ()) -> int:
    """Print an error to standard error. Returns its exit code.

    argv: the command line. Values of secret keys in it are hidden wherever the message repeats them.
    """
    text = visible(f"alignlab: {error}", MOST_OF_OUTPUT)
    for secret in secrets_of(argv):
        text = text.replace(secret, HIDDEN)
    print(redacted(text), file=sys.stderr)
    return error.exit_code
