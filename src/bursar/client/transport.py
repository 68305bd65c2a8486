"""HTTP to a server: the two transports, and how an answer is read.

The rule that lives here: whatever happens on the way, a caller gets a `CyclesResponse`. A
connection that fails, a body that never ends and a page that is not JSON are answers too,
because after a request has left nobody may say that it did not arrive.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from bursar.client import validation
from bursar.client.calls import Call
from bursar.client.config import CyclesConfig
from bursar.client.exceptions import ClientClosed
from bursar.client.response import CyclesResponse

if TYPE_CHECKING:
    import httpx2

WRITE_TIMEOUT_S = 5.0
POOL_TIMEOUT_S = 5.0
_KEPT_NAMES = (
    *("x-request-id", "x-cycles-trace-id", "x-cycles-tenant", "retry-after", "date"),
    *("x-ratelimit-remaining", "x-ratelimit-reset"),
)
CLOSED = "the client of {url} is closed and sent nothing; open another one"
KEPT_HEADERS = {name.encode(): name for name in _KEPT_NAMES}
BODY_BYTES_MAX = 16 * 1024 * 1024


class Transport(Protocol):
    """Something that answers calls, blocking."""

    def send(self, call: Call) -> CyclesResponse:
        """Return the answer to a call; never raises `Exception`."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class AsyncTransport(Protocol):
    """Something that answers calls, from an event loop."""

    async def send(self, call: Call) -> CyclesResponse:
        """Return the answer to a call; never raises `Exception`."""
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...

    def blocking(self) -> Transport:
        """Return a blocking transport to the same server, for the end of the process."""
        ...


class HttpTransport:
    """Calls over one pooled HTTP client; safe to use from many threads."""

    def __init__(self, config: CyclesConfig, http: httpx2.Client | None = None) -> None:
        """Open a client for `config`, or use `http`, whose owner closes it."""
        self._config = config
        self._deadline_s = deadline_s(config)
        self._owned = http is None
        self._closed = False
        if http is None:
            self._open()
        else:
            self._http = http

    def _open(self) -> None:
        self._http, self._process = _client(self._config), os.getpid()
        self._closing = weakref.finalize(self, _close, self._http, self._process)
        self._closing.atexit = False  # settlements come first then: `ending` closes afterwards
        _opened.add(self)

    def send(self, call: Call) -> CyclesResponse:
        """Return the answer to a call; never raises `Exception`."""
        give_up = time.monotonic() + self._deadline_s
        try:
            http = self._client()
            with _until()(give_up), http.stream(**_arguments(call)) as answer:
                body = bytearray()
                for chunk in answer.iter_bytes():
                    body += chunk
                    _check_size(body)
                return read(answer, bytes(body))
        except Exception as error:  # noqa: BLE001 - nobody knows whether the request arrived
            if time.monotonic() >= give_up:
                error = _late(self._deadline_s, error)
            return _unanswered(error, self._config)

    def close(self) -> None:
        """Close the client, if it was opened here; nothing is sent afterwards."""
        self._closed = True
        if self._owned and self._closing.detach():  # at exit a finalizer is no longer callable
            _close(self._http, self._process)

    def _client(self) -> httpx2.Client:
        """Return the client; a forked child must not talk on its parent's connections.

        Raises:
            ClientClosed: it was closed.
        """
        if self._closed:
            raise ClientClosed(CLOSED.format(url=self._config.base_url))
        if self._owned and self._process != os.getpid():
            self._open()
        return self._http


class AsyncHttpTransport:
    """Calls over one pooled HTTP client for each event loop that is used."""

    def __init__(self, config: CyclesConfig, http: httpx2.AsyncClient | None = None) -> None:
        """Open a client when a loop first sends; or use `http`, whose owner closes it."""
        self._config = config
        self._deadline_s = deadline_s(config)
        self._given = http
        self._closed = False
        self._twin: HttpTransport | None = None
        self._by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx2.AsyncClient] = (
            weakref.WeakKeyDictionary()
        )

    async def send(self, call: Call) -> CyclesResponse:
        """Return the answer to a call; never raises `Exception`."""
        try:
            async with (
                asyncio.timeout(self._deadline_s),
                self._client().stream(**_arguments(call)) as answer,
            ):
                body = bytearray()
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    _check_size(body)
                return read(answer, bytes(body))
        except TimeoutError as error:
            return _unanswered(_late(self._deadline_s, error), self._config)
        except Exception as error:  # noqa: BLE001 - nobody knows whether the request arrived
            return _unanswered(error, self._config)

    async def aclose(self) -> None:
        """Close the running loop's client, and the one for threads if there is one.

        Nothing is sent afterwards, on no loop.
        """
        self._closed = True
        http = self._by_loop.pop(asyncio.get_running_loop(), None)
        if http is not None:
            await http.aclose()
        if self._twin is not None:
            self._twin.close()

    def blocking(self) -> Transport:
        """Return the blocking transport to the same server, for the end of the process."""
        if self._twin is None:
            self._twin = HttpTransport(self._config)
            if self._closed:
                self._twin.close()
        return self._twin

    def _client(self) -> httpx2.AsyncClient:
        if self._closed:
            raise ClientClosed(CLOSED.format(url=self._config.base_url))
        if self._given is not None:
            return self._given
        loop = asyncio.get_running_loop()
        http = self._by_loop.get(loop)
        if http is None:
            import httpx2

            http = self._by_loop[loop] = httpx2.AsyncClient(**_how(self._config))
        return http


_opened: weakref.WeakSet[HttpTransport] = weakref.WeakSet()


def close_all() -> None:
    """Close what nobody closed: the last thing that the process does."""
    for one in list(_opened):
        one.close()


def _close(http: httpx2.Client, process: int) -> None:
    if process == os.getpid():  # a child must not say goodbye on its parent's connections
        http.close()


def _client(config: CyclesConfig) -> httpx2.Client:
    import httpx2

    from bursar.client import bounded

    http = httpx2.Client(**_how(config))
    bounded.bind(http)
    return http


def _how(config: CyclesConfig) -> dict[str, Any]:
    """Return what both kinds of HTTP client are opened with."""
    return {
        "base_url": config.base_url,
        "headers": _credential(config),
        "timeout": _timeout(config),
    }


def _unanswered(error: Exception, config: CyclesConfig) -> CyclesResponse:
    """Return the lack of an answer; its message says which server was asked."""
    response = CyclesResponse.transport_error(error)
    if not isinstance(error, ClientClosed):  # whose message names it
        said = response.error_message or type(error).__name__
        response.error_message = f"{said} (server {_shown(config.base_url)})"
    return response


def _shown(base_url: str) -> str:
    """Return where a server is, without a user or password that its address may hold."""
    parts = urlsplit(base_url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _late(deadline_s: float, cause: Exception) -> TimeoutError:
    error = TimeoutError(f"the answer took longer than {deadline_s:g} s")
    error.__cause__ = cause
    return error


def _check_size(body: bytearray) -> None:
    if len(body) > BODY_BYTES_MAX:
        raise ValueError(f"the answer is larger than {BODY_BYTES_MAX} bytes")


def deadline_s(config: CyclesConfig) -> float:
    """Return the bound of one whole attempt in seconds: connect, read, and five to write."""
    return config.connect_timeout + config.read_timeout + WRITE_TIMEOUT_S


def read(answer: httpx2.Response, content: bytes) -> CyclesResponse:
    """Return an HTTP answer as the SDK shows it: body as JSON values, few headers."""
    headers = _kept(answer.headers.raw)
    body = _json(content)
    if answer.is_success:
        return CyclesResponse.success(
            answer.status_code, body if isinstance(body, dict) else {}, headers
        )
    known: Mapping[str, Any] = body if isinstance(body, dict) else {}
    message = known.get("message") or known.get("error") or answer.reason_phrase or "Unknown error"
    return CyclesResponse.http_error(
        answer.status_code, str(message), body if isinstance(body, dict) else None, headers
    )


def _kept(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the headers that the SDK shows, in lower case; one that is repeated is a list."""
    kept: dict[str, str] = {}
    for field, value in raw:
        name = KEPT_HEADERS.get(field.lower())
        if name is not None:
            text = value.decode("latin-1")
            kept[name] = f"{kept[name]}, {text}" if name in kept else text
    return kept


def _json(content: bytes) -> Any:
    try:
        return _reader()(content, cache_strings="keys")
    except ValueError:
        pass  # half of a surrogate pair, for instance, which only Python's own reader takes
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


@functools.cache
def _until() -> Callable[[float], AbstractContextManager[None]]:
    """Return what bounds an attempt; loaded with the first request, as all of HTTP is."""
    from bursar.client.bounded import until

    return until


@functools.cache
def _reader() -> Callable[..., Any]:
    """Return what reads JSON; pydantic is loaded with the first answer, not with the SDK."""
    from pydantic_core import from_json

    return from_json


def _arguments(call: Call) -> dict[str, Any]:
    arguments: dict[str, Any] = {"method": call.method, "url": call.path, "headers": call.headers}
    if call.content is not None:
        arguments["content"] = call.content
        arguments["headers"]["Content-Type"] = "application/json"
    if call.query:
        arguments["params"] = dict(call.query)
    return arguments


def _credential(config: CyclesConfig) -> dict[str, str]:
    return {"X-Cycles-API-Key": validation.header_value(config.api_key, "api_key", secret=True)}


def _timeout(config: CyclesConfig) -> httpx2.Timeout:
    import httpx2

    return httpx2.Timeout(
        connect=config.connect_timeout,
        read=config.read_timeout,
        write=WRITE_TIMEOUT_S,
        pool=POOL_TIMEOUT_S,
    )
