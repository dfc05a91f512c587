"""A server with the routes of `vllm serve` that the engine uses, which samples with a Hugging Face model."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from transformers import AutoModelForCausalLM

from alignlab.rollout.sampling import draw, uniforms
from alignlab.rollout.settings import Sampling


@dataclass
class Served:
    """What the server got and what it has.

    routes: those that were asked for, in order.
    open:   whether weights can be updated (VLLM_SERVER_DEV_MODE=1).
    ids:    whether completions have token ids.
    busy:   whether its cache can't be emptied, because others use it.
    """

    url: str = ""
    open: bool = True
    ids: bool = True
    busy: bool = False
    model: Any = None
    routes: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, route: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """The reply to a request; None if there is no such route."""
        self.routes.append(route)
        if route == "/v1/models":
            about = {"id": "m", "object": "model", "created": 1, "max_model_len": self.positions}
            return {"object": "list", "data": [about]}
        if route == "/v1/completions":
            return self._completion(body)
        if route == "/v1/chat/completions":
            return _chat(body)
        if route == "/collective_rpc" and self.open:
            assert body["method"] == "reload_weights"
            self.model = AutoModelForCausalLM.from_pretrained(body["kwargs"]["weights_path"])
            return {"results": [None]}
        return {"success": not self.busy} if route == "/reset_prefix_cache" and self.open else None

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        assert (body["model"], body["ignore_eos"], body["return_token_ids"]) == ("m", True, True)
        how = Sampling(max_new_tokens=body["max_tokens"], temperature=body["temperature"])
        numbers = [uniforms(body["seed"], "", 0, how.max_new_tokens)]
        with self.lock:
            (sample,) = draw(self.model, [body["prompt"]], numbers, how, body["stop_token_ids"])
        choice = {
            "index": 0,
            "text": "",
            "finish_reason": "stop" if sample.ended else "length",
            "logprobs": {"token_logprobs": sample.logps, "tokens": [], "top_logprobs": [], "text_offset": []},
            **({"token_ids": sample.ids} if self.ids else {}),
        }
        return {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}

    @property
    def positions(self) -> int:
        return 64 if self.model is None else int(self.model.config.max_position_embeddings)


def _chat(body: dict[str, Any]) -> dict[str, Any]:
    """The only reply that the request allows."""
    (text,) = body["structured_outputs"]["choice"]
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


@contextmanager
def serving(served: Served) -> Iterator[Served]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send(served.reply(self.path, {}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.send(served.reply(self.path, body))

        def send(self, content: dict[str, Any] | None) -> None:
            data = json.dumps({"error": "not found"} if content is None else content).encode()
            self.send_response(404 if content is None else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
