"""An OpenAI-compatible completions endpoint over a tiny model, with faults on demand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch


@dataclass
class Endpoint:
    """What is served; `spoil` changes an answer before it is sent, by path. `asked` holds the bodies received."""

    model: Any
    tokenizer: Any
    name: str = "tiny"
    max_model_len: int | None = 128
    spoil: dict[str, Callable[[dict[str, Any]], tuple[int, Any]]] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/v1/models":
            found: dict[str, Any] = {"data": [{"id": self.name, "max_model_len": self.max_model_len}]}
        elif path == "/detokenize":
            found = {"prompt": self.tokenizer.decode(body["tokens"])}
        else:
            self.asked.append(body)
            prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
            found = {"choices": [self._choice(index, ids, body) for index, ids in enumerate(prompts)][::-1]}
        return self.spoil[path](found) if path in self.spoil else (200, found)

    def _choice(self, index: int, prompt: list[int], body: dict[str, Any]) -> dict[str, Any]:
        """Greedy output; with `echo` the prompt's own log-probabilities, one plain forward pass a token."""
        ids = list(prompt)
        for _ in range(body["max_tokens"]):
            ids.append(int(self._row(ids).argmax()))
        logprobs: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": []}
        for at, token in enumerate(ids) if body.get("echo") else ():
            row = self._row(ids[:at]) if at else None
            logprobs["tokens"].append(f"token_id:{token}")
            logprobs["token_logprobs"].append(None if row is None else float(row[token]))
            tops = None if row is None else {f"token_id:{i}": float(row[i]) for i in (token, int(row.argmax()))}
            logprobs["top_logprobs"].append(tops)
        text = self.tokenizer.decode(ids[len(prompt) :])
        return {"index": index, "text": text, "logprobs": logprobs if body.get("logprobs") else None}

    def _row(self, ids: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            row: torch.Tensor = self.model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(dim=0)
        return row


@contextmanager
def served(endpoint: Endpoint) -> Iterator[Endpoint]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(*endpoint.answer(self.path, {}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(*endpoint.answer(self.path, body))

        def _send(self, status: int, answer: Any) -> None:
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the test's output is enough."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        endpoint.url = f"http://127.0.0.1:{server.server_port}"
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
