"""Where requests are watched: the one place between HTTP and whoever observes it.

The rule that lives here: an observer sees each request twice, when it came and when it is
over, on the event loop. It must be quick, it must not raise, and it changes nothing but
entries of its own in the request's facts.
"""

from __future__ import annotations

from typing import Protocol

from starlette.types import Scope


class RequestObserver(Protocol):
    """Is told of every request of one server.

    `scope["bursar"]` holds the request's facts: `request_id`, `trace_id`, `headers`,
    `operation` and `principal` once the request has come as far as that, and `refused`, the
    answer, where the protocol's error body was sent.
    """

    def began(self, scope: Scope) -> None:
        """Take note of a request that came in."""
        ...

    def ended(self, scope: Scope, status: int, took_s: float) -> None:
        """Take note of its end; status 0 means that nothing could be sent."""
        ...
