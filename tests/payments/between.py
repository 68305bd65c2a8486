"""A liar between us and a chain: it answers some questions itself."""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx2


class Between:
    """A liar between us and the chain: it answers one method itself, or changes the answer."""

    def __init__(self, url: str, change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> None:
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.asked.append(body["method"])
                answer = change(body, httpx2.post(url, json=body, timeout=60).json())
                sent = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def refused(method: str, message: str = "not here") -> Callable[[dict[str, Any], Any], Any]:
    def change(body: dict[str, Any], answer: Any) -> Any:
        if body["method"] != method:
            return answer
        return {"jsonrpc": "2.0", "id": body["id"], "error": {"code": -32000, "message": message}}

    return change


def answered(method: str, result: Any) -> Callable[[dict[str, Any], Any], Any]:
    def change(body: dict[str, Any], answer: Any) -> Any:
        return answer | {"result": result} if body["method"] == method else answer

    return change
