"""A chat endpoint on this machine that replies by a rule and fails on demand. The prompt decides its verdict."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("none", "429", "500", "400", "401", "hang", "truncated", "disconnect", "garbage", "empty", "not a completion")


def longer(user: str) -> str:
    """The verdict of a judge that prefers the longer answer. It parses prompts of the built-in template."""
    a, b = (re.search(rf"\[start of answer {x}\]\n(.*?)\n\[end of answer {x}\]", user, re.DOTALL) for x in "AB")
    assert a is not None
    assert b is not None
    return "C" if len(a[1]) == len(b[1]) else "A" if len(a[1]) > len(b[1]) else "B"


@dataclass
class Served:
    """The requests that the server got, and its settings.

    fault: (prompt, how often this prompt came before) -> one of FAULTS.
    say:   prompt -> text of the reply.
    """

    url: str = ""
    fault: Callable[[str, int], str] = lambda user, before: "none"
    say: Callable[[str], str] = lambda user: f"Because. [[{longer(user)}]]"
    bodies: list[dict[str, Any]] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)
    most_at_once: int = 0
    now: int = 0
    delay: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    choice: dict[str, Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    over: threading.Event = field(default_factory=threading.Event)


def completion(text: str, **more: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "rule",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}, **more}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }


@contextmanager
def serving(served: Served) -> Iterator[Served]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            user = body["messages"][-1]["content"]
            with served.lock:
                served.bodies.append(body)
                before = served.seen.get(user, 0)
                served.seen[user] = before + 1
                served.now += 1
                served.most_at_once = max(served.most_at_once, served.now)
            try:
                time.sleep(served.delay)
                self.answer(user, served.fault(user, before))
            finally:
                with served.lock:
                    served.now -= 1

        def answer(self, user: str, fault: str) -> None:
            assert fault in FAULTS
            if fault.isdigit():
                self.send(int(fault), {"error": {"message": f"fault {fault}"}})
            elif fault == "hang":
                served.over.wait(30)
                self.close_connection = True
            elif fault == "disconnect":
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            elif fault == "truncated":
                self.send(200, completion(served.say(user), **served.choice), cut=40)
            elif fault == "not a completion":
                self.send(200, {"status": "fine"})
            elif fault in ("garbage", "empty"):
                self.send(200, completion("I like both, [[A]] as well as [[B]]." if fault == "garbage" else ""))
            else:
                self.send(200, completion(served.say(user), **served.choice))

        def send(self, code: int, content: dict[str, Any], cut: int | None = None) -> None:
            data = json.dumps(content).encode()[:cut]
            self.send_response(code)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            for name, value in served.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.over.set()
        server.shutdown()
        server.server_close()
