"""One connection to a server, and exactly how each request on it ended.

The rule that lives here: a request ends answered, unanswered or torn, and nothing else.
Unanswered means that not one byte of an answer came; torn means that some did and the rest
did not. Nothing is sent again behind the caller's back.
"""

import http.client
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import schemas

TIMEOUT_S = 30.0  # far above anything that is waited for; a hang must end as a failure
_LEFT_OF_LEASE = re.compile(rb',"remaining_ttl_ms":\d+(?=\}$)')


class Unanswered(Exception):
    """The connection ended before any answer; the request may have happened or not."""


class Torn(Exception):
    """The connection ended in the middle of an answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as a value; integers are exact."""
        return json.loads(self.body)

    @property
    def lasting(self) -> bytes:
        """The body without the one member that a replay computes anew."""
        return _LEFT_OF_LEASE.sub(b"", self.body)


class Connection:
    """A keep-alive connection; it is made when the first request is sent.

    Every answer is checked against the published schemas, unless the caller does that later.
    """

    def __init__(self, port: int, headers: Mapping[str, str], *, checked: bool = True) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        self._headers = dict(headers)
        self._checked = checked

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        self._http.close()

    def get(self, path: str) -> Reply:
        """Send a GET and return its answer (see `send`)."""
        return self.send("GET", path)

    def post(self, path: str, body: Any) -> Reply:
        """Send a value as JSON and return the answer (see `send`)."""
        return self.send("POST", path, json.dumps(body).encode())

    def send(self, method: str, path: str, body: bytes | None = None) -> Reply:
        """Send one request and return its whole answer.

        Raises:
            Unanswered: no answer came.
            Torn: a part of an answer came.
        """
        try:
            self._http.request(method, path, body, self._headers)
            response = self._http.getresponse()
        except (http.client.RemoteDisconnected, OSError) as error:
            self.close()
            raise Unanswered(f"{method} {path}: {error!r}") from error
        except http.client.HTTPException as error:
            self.close()
            raise Torn(f"{method} {path}: {error!r}") from error
        try:
            content = response.read()
        except (http.client.HTTPException, OSError) as error:
            self.close()
            raise Torn(f"{method} {path}: {error!r}") from error
        headers = {name.lower(): value for name, value in response.getheaders()}
        # A header block that was cut off looks complete to the parser; ours always has these.
        if not headers.keys() >= {"content-length", "x-request-id", "x-cycles-trace-id"}:
            self.close()
            raise Torn(f"{method} {path}: headers end after {sorted(headers)}")
        reply = Reply(response.status, headers, content)
        if self._checked:
            schemas.check(method, path, reply.status, reply.headers, reply.body)
        return reply
