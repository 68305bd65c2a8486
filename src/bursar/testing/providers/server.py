"""The HTTP server of a scripted provider, on a free port of the loopback.

The rule that lives here: a request is written down, answered with the next reply of the
script, and never with one that was made up; when the script is over, it is refused.
"""

from __future__ import annotations

import itertools
import json
import select
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import Any, Self

from bursar.testing.providers import anthropic, openai
from bursar.testing.providers.openai import Event
from bursar.testing.providers.script import Reply

DIALECTS: dict[str, ModuleType] = {openai.PATH: openai, anthropic.PATH: anthropic}
OVER = Reply(status=400, text="the script of this provider has no more replies")
KEY = "scripted"
STALL_S = 0.05


class ScriptedProvider:
    """An endpoint that speaks OpenAI's chat completions and Anthropic's messages.

    ```python
    import openai
    from bursar.testing import Reply, ScriptedProvider

    with ScriptedProvider([Reply("Hello there.")]) as provider:
        client = openai.OpenAI(base_url=provider.openai_url, api_key="any")
    ```

    `requests` holds every body that was received, in order, and `times` when (monotonic
    seconds). A stream that its reader gave up counts in `cut_off`.
    """

    def __init__(self, replies: Iterable[Reply]) -> None:
        """Prepare to say `replies`, one for each request; an endless iterator never ends."""
        self._replies = iter(replies)
        self._lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.cut_off = 0
        self.stopping = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    @property
    def anthropic_url(self) -> str:
        """The base URL for the `anthropic` package."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def openai_url(self) -> str:
        """The base URL for the `openai` package."""
        return f"{self.anthropic_url}/v1"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that both packages read, for a program in a process of its own."""
        return {
            "OPENAI_BASE_URL": self.openai_url,
            "OPENAI_API_KEY": KEY,
            "ANTHROPIC_BASE_URL": self.anthropic_url,
            "ANTHROPIC_API_KEY": KEY,
        }

    def __enter__(self) -> Self:
        """Start to answer."""
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop; streams that are running are left to end by themselves."""
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def take(self, request: dict[str, Any]) -> Reply:
        """Write a request down and return what is said to it."""
        with self._lock:
            self.requests.append(request)
            self.times.append(time.monotonic())
            return next(self._replies, OVER)

    def gave_up(self) -> None:
        """Count a stream whose reader went away."""
        with self._lock:
            self.cut_off += 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(_Handler):
            PROVIDER = provider

        return Handler


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    PROVIDER: ScriptedProvider
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer a request."""
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:  # whoever asked was killed meanwhile
            self.close_connection = True
            return None
        request = json.loads(body)
        dialect = DIALECTS.get(self.path.partition("?")[0])
        if dialect is None:
            return self._json(404, openai.error(404, f"no {self.path} here"))
        said = self.PROVIDER.take(request)
        if said.status != 200:
            return self._json(said.status, dialect.error(said.status, said.text))
        if said.silent:
            return self._stall()
        reply, cut = said.within(dialect.limit_of(request))
        if request.get("stream"):
            events = dialect.stream(request, reply, cut)
            if reply.ends_after is not None:
                events = itertools.islice(events, dialect.HEAD + reply.ends_after)
            if reply.fails_after is not None:
                events = itertools.chain(events, [dialect.failed()])
            return self._stream(events, reply)
        time.sleep(reply.pause_s)
        return self._json(200, dialect.whole(request, reply, cut))

    def _json(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, events: Iterator[Event], reply: Reply) -> None:
        self.close_connection = True
        try:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for name, data in events:
                time.sleep(reply.pause_s)
                text = data if isinstance(data, str) else json.dumps(data)
                named = f"event: {name}\n" if name else ""
                self._chunk(f"{named}data: {text}\n\n".encode())
            if reply.stalls_after is not None:
                self._stall()
            elif reply.breaks_after is None:
                self._chunk(b"")  # without this the body has no end, and the reader is told
        except ConnectionError:
            self.PROVIDER.gave_up()

    def _stall(self) -> None:
        """Say nothing until the reader goes away or the provider stops."""
        self.close_connection = True
        while not self.PROVIDER.stopping.is_set():
            readable, _, _ = select.select([self.connection], [], [], STALL_S)
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                return self.PROVIDER.gave_up()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what was asked is in `requests`."""
