"""A server on loopback that answers as the hub does, with what huggingface_hub asks: files, commits, uploads."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "1" * 40


class HubServer:
    """Repositories with one commit, and records of what was uploaded.

    files:   `models/<name>` or `datasets/<name>` -> file -> content.
    commit:  the commit of the branch main of all repositories.
    status:  status of all answers; 0 answers as usual.
    asked:   path of each request.
    created: bodies of requests for new repositories; commits: lines of each uploaded commit.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.commit, self.status = COMMIT, 0
        self.asked: list[str] = []
        self.created: list[dict[str, Any]] = []
        self.commits: list[list[dict[str, Any]]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> HubServer:
        return self

    def __exit__(self, *error: object) -> None:
        if self._server.socket.fileno() >= 0:
            self.close()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """(status, JSON value or content of a file)."""
        self.asked.append(f"{method} {path}")
        if self.status:
            return self.status, {"error": "no"}
        kind, name, rest = _parts(path)
        if path == "/api/validate-yaml":  # the metadata of a model card
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            self.files[f"models/me/{self.created[-1]['name']}"] = {}
            return 200, {"url": f"{self.address}/me/{self.created[-1]['name']}"}
        if rest.startswith("preupload/"):
            asked = json.loads(body)["files"]
            return 200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
        if rest.startswith("commit/"):
            self.commits.append([json.loads(line) for line in body.splitlines()])
            return 200, {"commitUrl": f"{self.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
        files = self.files.get(f"{kind}/{name}")
        if files is None:
            return 404, {"error": "Repository not found"}
        if rest.startswith("resolve/"):
            found = files.get(rest.split("/", 2)[2])
            return (404, {"error": "Entry not found"}) if found is None else (200, found)
        if rest.startswith("tree/"):
            return 200, [{"type": "file", "path": f, "size": len(c), "oid": "0" * 40} for f, c in files.items()]
        if rest.startswith("revision/") and rest.split("/")[1] not in ("main", self.commit):
            return 404, {"error": "Revision not found"}
        return 200, {"id": name, "sha": self.commit, "siblings": [{"rfilename": file} for file in files]}


def _parts(path: str) -> tuple[str, str, str]:
    """(models or datasets, name, what follows) of a path."""
    words = path.partition("?")[0].strip("/").split("/")
    words = words[1:] if words[0] == "api" else words
    kind = words.pop(0) if words[0] in ("models", "datasets") else "models"
    return kind, "/".join(words[:2]), "/".join(words[2:])


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply()

        do_HEAD = do_POST = do_GET  # noqa: N815  # names that the base class calls

        def _reply(self) -> None:
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, value = hub.answer(self.command, self.path, body)
            sent = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(sent)))
            self.send_header("Content-Type", "application/json")
            self.send_header("X-Repo-Commit", hub.commit)
            self.send_header("ETag", f'"{hash(sent) & 0xFFFFFFFF:08x}"')
            if status == 404:
                codes = {"Entry not found": "EntryNotFound", "Revision not found": "RevisionNotFound"}
                self.send_header("X-Error-Code", codes.get(value["error"], "RepoNotFound"))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(sent)

        def log_message(self, *args: Any) -> None:
            """Nothing is printed."""

    return Handler
