"""One deadline for a whole blocking attempt, however slowly its answer drips in.

The rule that lives here: every wait on a socket ends when the attempt that waits is out of
time. A timeout of the HTTP client is for one read; a server that sends a byte now and then,
of the headers even, would hold a thread for ever. What cannot be bounded is the resolver of
the operating system, which takes no deadline.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import httpcore2

if TYPE_CHECKING:
    import httpx2

_attempt = threading.local()


class until:
    """Bound what this thread waits for on a socket; `give_up` is monotonic seconds."""

    __slots__ = ("_give_up",)

    def __init__(self, give_up: float) -> None:
        """Bound nothing yet."""
        self._give_up = give_up

    def __enter__(self) -> None:
        """Bound it from now on."""
        _attempt.give_up = self._give_up

    def __exit__(self, *error: object) -> None:
        """Bound it no longer."""
        _attempt.give_up = None


def bind(http: httpx2.Client) -> None:
    """Let every connection of a client keep to `until`.

    The client has no public place for a network backend, and one with a transport of its own
    would no longer see the proxies of the environment. Where a later version keeps it
    elsewhere, the timeouts of single reads are what is left, and `tests` tell.
    """
    transports = [http._transport, *http._mounts.values()]
    for pool in (getattr(one, "_pool", None) for one in transports):
        backend = getattr(pool, "_network_backend", None)
        if pool is not None and isinstance(backend, httpcore2.NetworkBackend):
            pool._network_backend = _Backend(backend)


class _Backend(httpcore2.NetworkBackend):
    """Connects, and hands out streams that keep to the attempt's time."""

    def __init__(self, inner: httpcore2.NetworkBackend) -> None:
        self._inner = inner

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        left = _left(timeout, httpcore2.ConnectTimeout)
        return _Stream(self._inner.connect_tcp(host, port, left, local_address, socket_options))

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.NetworkStream:
        left = _left(timeout, httpcore2.ConnectTimeout)
        return _Stream(self._inner.connect_unix_socket(path, left, socket_options))

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(_left(seconds, httpcore2.ConnectTimeout) or 0.0)


class _Stream(httpcore2.NetworkStream):
    """A connection of which each wait is as long as allowed and as the attempt has left."""

    def __init__(self, inner: httpcore2.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout, httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _left(timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        left = _left(timeout, httpcore2.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _left(timeout: float | None, late: type[Exception]) -> float | None:
    """Return how long to wait; raise `late` if the attempt has no time left."""
    give_up: float | None = getattr(_attempt, "give_up", None)
    if give_up is None:
        return timeout
    left = give_up - time.monotonic()
    if left <= 0:
        raise late("the whole attempt is out of time")
    return left if timeout is None else min(timeout, left)
