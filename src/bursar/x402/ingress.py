"""What a request's body may not bring in: the names under which payments are kept.

The rule that lives here: a reserved name in a client's JSON is a forgery, on every method and
at any depth, so it is gone before anybody reads the body. A body that begins like JSON and is
none is refused, because a more lenient reader behind us might find the name in it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

RESERVED: Final = frozenset({"_payment_context"})
RESERVED_PREFIX: Final = "x402.payment."
BODY_BYTES_MAX: Final = 1024 * 1024


class BodyRefused(ValueError):
    """A body that is too large or no JSON; `status` is that of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        """Keep the status beside the sentence."""
        super().__init__(message)
        self.status = status


def is_reserved(name: str) -> bool:
    """Say whether a name in a body belongs to payments."""
    return name in RESERVED or name.startswith(RESERVED_PREFIX)


def looks_like_json(first: bytes) -> bool:
    """Say whether a body begins as an object or an array of JSON does, in any encoding of it."""
    return first.lstrip(b" \t\r\n\x00\xef\xbb\xbf\xff\xfe")[:1] in (b"{", b"[")


def stripped(body: bytes) -> bytes:
    """Return a body without reserved names; the very same bytes where it has none.

    Raises:
        BodyRefused: it begins like JSON, and is none.
    """
    if not looks_like_json(body):
        return body
    found = False

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal found
        found = found or any(is_reserved(name) for name, _ in pairs)
        return {name: value for name, value in pairs if not is_reserved(name)}

    try:
        text = body.decode(json.detect_encoding(body))
        read = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=keep)
    except (ValueError, RecursionError) as wrong:
        raise BodyRefused(400, "the body begins like JSON and is none; send valid JSON") from wrong
    return json.dumps(read, ensure_ascii=False).encode() if found else body


async def taken(receive: Receive, *, whole: bool, bytes_max: int) -> tuple[bytes | None, Receive]:
    """Return a request's body without reserved names, and a `receive` that gives it on.

    Args:
        receive: of the server.
        whole: whether a body that is no JSON is read as well; otherwise it passes as it comes.
        bytes_max: the largest body that is read.

    Raises:
        BodyRefused: it is too large to be read, or begins like JSON and is none.
        ClientGone: the client left before it had sent the body.
    """
    first = await _more(receive)
    while not first.get("body") and first.get("more_body"):
        first = await _more(receive)
    chunk = first.get("body", b"")
    if not whole and not looks_like_json(chunk) and chunk.strip():
        return None, _after([first], receive)
    parts, size = [chunk], len(chunk)
    while first.get("more_body"):
        if size > bytes_max:
            break
        first = await _more(receive)
        parts.append(first.get("body", b""))
        size += len(parts[-1])
    if size > bytes_max:
        raise BodyRefused(413, f"the body has more than {bytes_max} bytes; send less")
    body = stripped(b"".join(parts))
    again: Message = {"type": "http.request", "body": body, "more_body": False}
    return body, _after([again], receive)


class ClientGone(Exception):
    """The client left before its request was complete; there is nobody to answer."""


async def _more(receive: Receive) -> Message:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message


def _after(kept: list[Message], receive: Receive) -> Receive:
    """Return a `receive` that gives on what was taken, and then what comes."""

    async def given() -> Message:
        return kept.pop(0) if kept else await receive()

    return given
