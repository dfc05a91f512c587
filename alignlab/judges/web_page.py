"""The page on which a person judges, one pair at a time. A small web server on this machine serves it.

Every verdict is saved at once. The page does not reveal which answer is whose. Texts and seed decide the sides and the
order of the rows, so they stay the same when a session is resumed. Answers are shown as text, never as markup.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from alignlab.errors import OutputError, UnsavedError
from alignlab.integrity import json_digest
from alignlab.judges.base import Comparison, Verdict

_PAGE = Path(__file__).with_name("web_page.html")
_MOST_BYTES = 10_000


class Session:
    """Rows to judge, and the file of verdicts. Thread-safe. `over` is set when the person finishes.

    The file has a line of JSON per verdict. The last verdict on a row counts. Verdicts belong to the texts of a row,
    not to its id. Raises UnsavedError if the file can't be written.
    """

    def __init__(self, rows: Sequence[Comparison], file: Path, *, seed: int) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.over = threading.Event()
        self._stopped = False
        self._rows = {row_key(row): row for row in rows}
        self._order = sorted(self._rows, key=lambda key: json_digest([seed, "order", key], 40))
        self._left_is_b = {key: int(json_digest([seed, "side", key], 40), 16) % 2 == 1 for key in self._rows}
        self._given: list[str] = []  # keys in the order of their verdicts
        self._verdicts: dict[str, Verdict] = {}
        for line in self._read():
            self._take(line["key"], Verdict(line["verdict"]) if line["verdict"] else None)

    def verdict(self, row: Comparison) -> Verdict:
        """The verdict on a row; UNJUDGED if there is none yet."""
        return self._verdicts.get(row_key(row), Verdict.UNJUDGED)

    def state(self) -> dict[str, Any]:
        """What the page shows: the first row without a verdict (or None), and the numbers of done and of all rows."""
        with self._lock:
            waiting = [key for key in self._order if key not in self._verdicts]
            shown = None if self._stopped or not waiting else self._shown(waiting[0])
            done = len(self._order) - len(waiting)
            return {"row": shown, "done": done, "total": len(self._order), "stopped": self._stopped}

    def say(self, key: str, choice: str) -> None:
        """Save the person's choice for a row: left, right, tie or invalid. Raises ValueError for anything else."""
        if key not in self._rows or choice not in ("left", "right", "tie", "invalid"):
            raise ValueError("no such row or verdict")
        sides = {"left": Verdict.A, "right": Verdict.B}
        if self._left_is_b[key]:
            sides = {"left": Verdict.B, "right": Verdict.A}
        self._save(key, sides.get(choice) or Verdict(choice))

    def undo(self) -> None:
        """Remove the latest verdict on one of these rows."""
        with self._lock:
            last = next((key for key in reversed(self._given) if key in self._rows), None)
        if last is not None:
            self._save(last, None)

    def stop(self) -> None:
        """Show no more rows. Saved verdicts stay."""
        self._stopped = True

    def _shown(self, key: str) -> dict[str, Any]:
        row = self._rows[key]
        left, right = (row.b, row.a) if self._left_is_b[key] else (row.a, row.b)
        return {"key": key, "prompt": row.prompt, "left": left, "right": right}

    def _save(self, key: str, verdict: Verdict | None) -> None:
        line = {
            "key": key,
            "id": self._rows[key].id,
            "verdict": verdict.value if verdict else None,
            "left": "b" if self._left_is_b[key] else "a",
            "time": time.time(),
        }
        with self._lock:
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with self._file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(line) + "\n")
                    lines.flush()
                    os.fsync(lines.fileno())
            except OSError as error:
                raise UnsavedError(f"the verdict can't be saved in {self._file}: {error}") from error
            self._take(key, verdict)

    def _take(self, key: str, verdict: Verdict | None) -> None:
        self._given = [given for given in self._given if given != key]
        self._verdicts.pop(key, None)
        if verdict is not None:
            self._given.append(key)
            self._verdicts[key] = verdict

    def _read(self) -> Iterator[dict[str, Any]]:
        """Verdicts in the file. A line that a crash cut off is skipped, and gets a line end for the next verdict."""
        if not self._file.exists():
            return
        text = self._file.read_text(encoding="utf-8", errors="replace")
        if text and not text.endswith("\n"):
            with self._file.open("a", encoding="utf-8") as lines:
                lines.write("\n")
        for line in text.split("\n"):
            try:
                row = json.loads(line)
                yield {"key": str(row["key"]), "verdict": row["verdict"] and Verdict(row["verdict"]).value}
            except (ValueError, KeyError, TypeError):
                continue


def row_key(row: Comparison) -> str:
    """Digest of a row's texts."""
    return json_digest([row.prompt, row.a, row.b], 20)


@contextmanager
def serve(session: Session, *, port: int = 0) -> Iterator[str]:
    """Serve a session on 127.0.0.1 and yield the address of its page, which contains a secret word.

    Requests without the word get status 404. So do requests that name another host, because a foreign page can point
    its own name at this machine (DNS rebinding), and requests that a page of another origin makes. Raises OutputError
    if the port is taken.
    """
    try:
        server = _Server(("127.0.0.1", port), _handler(session, word := secrets.token_urlsafe(12)))
    except OSError as error:
        raise OutputError(f"port {port} can't be used: {error}\n  type: judge.port=0") from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/{word}/"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    """Threads do not keep the process alive."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print errors, but none if the person has closed the page while a reply was sent."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def _handler(session: Session, word: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            what = self._resource()
            if what == "":
                nonce = secrets.token_urlsafe(12)
                page = _PAGE.read_text(encoding="utf-8").replace("NONCE", nonce)
                self._send(200, page, "text/html; charset=utf-8", nonce)
            elif what == "state":
                self._send_state()
            else:
                self._send(404, "nothing here")

        def do_POST(self) -> None:
            what, content = self._resource(), self._content()
            try:
                if content is None or what not in ("verdict", "undo", "stop"):
                    self._send(404, "nothing here")
                    return
                if what == "verdict":
                    session.say(str(content.get("key")), str(content.get("say")))
                elif what == "undo":
                    session.undo()
                else:
                    session.stop()
                self._send_state()
                if what == "stop":
                    session.over.set()  # after the reply, so that the page still gets it
            except ValueError as error:
                self._send(400, str(error))
            except OutputError as error:
                self._send(500, str(error))

        def _resource(self) -> str | None:
            """The part of the path after the secret word; None if the word, the host or the origin is wrong."""
            address = self.headers.get("host", "")
            host, origin = address.rpartition(":")[0], self.headers.get("origin")
            given, _, what = self.path.removeprefix("/").partition("/")
            known = hmac.compare_digest(given.encode(), word.encode()) and host in ("127.0.0.1", "localhost")
            return what if known and origin in (None, f"http://{address}") else None

        def _content(self) -> dict[str, Any] | None:
            try:
                length = int(self.headers.get("content-length", ""))
                raw = self.rfile.read(length) if 0 <= length <= _MOST_BYTES else b""
                found = json.loads(raw)
            except (ValueError, RecursionError):
                return None
            is_json = self.headers.get("content-type", "").startswith("application/json")
            return found if is_json and isinstance(found, dict) else None

        def _send_state(self) -> None:
            self._send(200, json.dumps(session.state()), "application/json")

        def _send(self, code: int, text: str, kind: str = "text/plain; charset=utf-8", nonce: str = "") -> None:
            data = text.encode()
            self.close_connection = code >= 400  # otherwise an unread body would be parsed as the next request
            self.send_response(code)
            allowed = f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'" if nonce else ""
            policy = f"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; {allowed}"
            for name, value in (
                ("Content-Type", kind),
                ("Content-Length", str(len(data))),
                ("Content-Security-Policy", policy),
                ("Cache-Control", "no-store"),
                ("Referrer-Policy", "no-referrer"),
                ("X-Content-Type-Options", "nosniff"),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            """Do not log requests."""

    return Handler
