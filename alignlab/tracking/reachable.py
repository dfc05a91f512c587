"""Whether a server can be reached, found out within seconds."""

from __future__ import annotations

import socket
import threading
import time
from functools import lru_cache
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

_SECONDS = 3.0  # longest wait for a connection, the look-up of the name included
_KEPT = 300.0  # seconds for which an answer counts

_PORTS = {"http": 80, "https": 443}


def is_reachable(url: str) -> bool:
    """Whether the server of a URL, or the proxy to it, accepts a connection. An answer counts for some minutes."""
    return _asked(url, int(time.monotonic() // _KEPT))


@lru_cache
def _asked(url: str, when: int) -> bool:
    """`when` is part of the key only."""
    address = urlsplit(url)
    proxy = getproxies().get(address.scheme)
    if proxy and not proxy_bypass(address.hostname or ""):
        address = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    where = address.hostname or "", address.port or _PORTS.get(address.scheme, 443)
    answered = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection(where, timeout=_SECONDS).close()
        except OSError:
            return
        answered.set()

    # In a thread, because the look-up of a name has no time limit of its own.
    thread = threading.Thread(target=connect, name="reachable", daemon=True)
    thread.start()
    thread.join(_SECONDS)
    return answered.is_set()
