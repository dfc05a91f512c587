"""Stored replies. A reply is found by the content of its request, so that nothing is asked twice."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alignlab.errors import DamagedError, UnsavedError
from alignlab.integrity import DAMAGE_EXTRA, json_digest, read_sealed, set_aside, write_sealed

log = logging.getLogger(__name__)


class Store:
    """A folder of replies, one file each, named by the digest of the whole request.

    Each file is written as soon as its reply arrives, and as a whole. So a run that is stopped loses nothing, and
    several processes may share a folder.

    then: what happens if a file is damaged. It ends a sentence of the log.
    """

    def __init__(self, folder: Path, then: str = "the judge is asked again") -> None:
        self._folder = folder
        self._then = then

    def get(self, request: Mapping[str, Any], fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
        """The stored reply to a request; None if there is none or if its file is damaged. Damage is logged.

        fits: whether a reply has the form that the caller expects.
        """
        file = self._file(request)
        try:
            kept = read_sealed(file)
            if kept.keys() != {"request", "reply"} or not isinstance(kept["reply"], dict):
                raise DamagedError(file, "is damaged (it holds no reply)")
            if kept["request"] != json.loads(json.dumps(request)):
                raise DamagedError(file, "is the reply to another request")
            if not fits(kept["reply"]):
                raise DamagedError(file, "is damaged (its reply has another form)")
        except OSError:
            return None
        except DamagedError as error:
            log.warning("%s", set_aside(error, self._then), extra=DAMAGE_EXTRA)
            return None
        return dict(kept["reply"])

    def put(self, request: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
        """Store a reply. Raises UnsavedError if the folder can't be written."""
        file = self._file(request)
        try:
            write_sealed(file, {"request": request, "reply": reply})
        except OSError as error:
            raise UnsavedError(f"nothing can be stored in {self._folder}: {error}") from error

    def _file(self, request: Mapping[str, Any]) -> Path:
        key = json_digest(request, 40)
        return self._folder / key[:2] / f"{key}.json"
