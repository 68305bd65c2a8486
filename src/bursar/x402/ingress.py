"""What a request may not bring in: names under which payments are kept, and a second payment.

The rule that lives here: a reserved name in a client's JSON is a forgery, on every method and
at any depth, so it is gone before anybody reads the body. Everything else comes through as it
is. Where a name cannot be taken out, because the body is no single JSON document or is too
large to be read whole, a body that has it is refused, and one that has not is not touched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final

from bursar.x402 import offers
from bursar.x402.answers import Send
from bursar.x402.presented import MalformedPayment
from bursar.x402.serving import Application

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

RESERVED: Final = frozenset({"_payment_context"})
RESERVED_PREFIX: Final = "x402.payment."
BODY_BYTES_MAX: Final = 1024 * 1024
TAIL_BYTES: Final = 2048
"""So much of a body is looked at again with what follows: a name may be cut, and is spelled with
at most six characters for one, each of at most four bytes."""

_SKIPPED: Final = b" \t\r\n\x00\xef\xbb\xbf\xff\xfe"
_ESCAPED: Final = re.compile(rb"\\(?:u00|x)([0-9a-fA-F]{2})")
_IN_NAMES: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._")
_NAMED: Final = re.compile(rb"""(["'])(?:_payment_context|x402\.payment\.[^"']*)\1\s*:""")


class BodyRefused(ValueError):
    """A body that is too large, or that brings in a name; `status` is that of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        """Keep the status beside the sentence."""
        super().__init__(message)
        self.status = status


class Headers(dict[str, str]):
    """Headers of a request, found in any case."""

    def __init__(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        super().__init__()
        self._payments = 0
        for name, value in raw:
            named = name.decode("latin-1").lower()
            self[named] = value.decode("latin-1")
            self._payments += named in _PAYMENT_NAMES

    def get(self, name: str, default: Any = None) -> Any:
        """Return a header, named in any case."""
        return super().get(name.lower(), default)

    def of_payment(self) -> Mapping[str, str]:
        """Return them with at most one payment.

        Raises:
            MalformedPayment: there are more, and nobody could say which one counts.
        """
        if self._payments > 1:
            raise MalformedPayment("a request brings one payment header; this one brings more")
        return self


_PAYMENT_NAMES: Final = frozenset({offers.PAYMENT_HEADER.lower(), offers.V1_PAYMENT_HEADER.lower()})


def is_reserved(name: str) -> bool:
    """Say whether a name in a body belongs to payments."""
    return name in RESERVED or name.startswith(RESERVED_PREFIX)


def looks_like_json(first: bytes) -> bool:
    """Say whether a body begins as an object or an array of JSON does, in any encoding of it."""
    return first.lstrip(_SKIPPED)[:1] in (b"{", b"[")


def names_reserved(body: bytes) -> bool:
    """Say whether a lenient reader may find a reserved name in a body, in any encoding of it."""
    plain = _ESCAPED.sub(_unescaped, body.replace(b"\x00", b""))
    return _NAMED.search(plain) is not None


def _unescaped(found: re.Match[bytes]) -> bytes:
    code = int(found[1], 16)
    return bytes([code]) if code in _IN_NAMES else found[0]


def stripped(body: bytes) -> bytes:
    """Return a body without reserved names; the very same bytes where it has none.

    Raises:
        BodyRefused: it has one that cannot be taken out, because it is no JSON as a whole.
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
        # Escaped, for half of a surrogate pair can be read and not be encoded.
        return json.dumps(read).encode() if found else body
    except (ValueError, RecursionError) as wrong:
        if found or names_reserved(body):
            raise _forged(400) from wrong
        return body


def _forged(status: int) -> BodyRefused:
    return BodyRefused(
        status,
        "the body holds a reserved name (_payment_context or x402.payment.*), which can be taken "
        "out of a single JSON document of moderate size alone; leave it out",
    )


async def taken(receive: Receive, *, whole: bool, bytes_max: int) -> tuple[bytes | None, Receive]:
    """Return a request's body without reserved names, and a `receive` that gives it on.

    Args:
        receive: of the server.
        whole: whether a body is read to its end whatever it is; otherwise what is no JSON passes
            as it comes (None is returned for it), and so does JSON that is too large to be read,
            up to where it names what is reserved.
        bytes_max: the largest body that is read.

    Raises:
        BodyRefused: it is too large and `whole`, or has a reserved name that cannot be taken out.
        ClientGone: the client left before it had sent so much of the body.
    """
    messages, begun, size, last = list[Message](), b"", 0, False
    while not last and size <= bytes_max:
        messages.append(message := await _more(receive))
        chunk, last = message.get("body", b""), not message.get("more_body")
        size += len(chunk)
        if not begun:
            begun = chunk.lstrip(_SKIPPED)[:1]
        if begun not in (b"", b"{", b"[") and not whole:
            return None, _after(messages, receive)
    body = b"".join(message.get("body", b"") for message in messages)
    if size <= bytes_max:
        body = stripped(body)
        again: Message = {"type": "http.request", "body": body, "more_body": False}
        return body, _after([again], receive)
    if whole:
        raise BodyRefused(413, f"the body has more than {bytes_max} bytes; send less")
    if names_reserved(body):
        raise _forged(413)
    return None, Watched(messages, body, receive)


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


class Watched:
    """A `receive` that gives on what was taken and what comes, until that names what is reserved.

    From there on the application sees a client that left: a body that never ends is never taken
    for a whole one.

    Args:
        kept: what was taken.
        body: all of it, which was looked at.
        receive: of the server.
    """

    def __init__(self, kept: list[Message], body: bytes, receive: Receive) -> None:
        self._kept, self._seen, self._receive = kept, body[-TAIL_BYTES:], receive
        self.forged = False

    async def __call__(self) -> Message:
        """Return the next message."""
        if self._kept:
            return self._kept.pop(0)
        message: Message = {"type": "http.disconnect"}
        if not self.forged:
            message = await self._receive()
            chunk: bytes = message.get("body", b"")
            seen, self._seen = self._seen + chunk, (self._seen + chunk)[-TAIL_BYTES:]
            self.forged = names_reserved(seen)
        return {"type": "http.disconnect"} if self.forged else message


async def passed(app: Application, scope: Any, given: Receive, send: Send) -> None:
    """Have an application answer what costs nothing.

    Raises:
        BodyRefused: the body had a reserved name in it, and no answer had begun.
    """
    if not isinstance(given, Watched):
        await app(scope, given, send)
        return
    begun = False

    async def sent(message: Message) -> None:
        nonlocal begun
        if begun or not given.forged:
            begun = True
            await send(message)

    try:
        await app(scope, given, sent)
    except Exception:
        if not given.forged or begun:
            raise
    if given.forged and not begun:
        raise _forged(413)


def sized(scope: Any, body: bytes | None) -> Any:
    """Return a scope whose length is that of the body, where something was taken out of it."""
    if body is None:
        return scope
    headers = [
        (name, str(len(body)).encode() if name.lower() == b"content-length" else value)
        for name, value in scope["headers"]
    ]
    return {**scope, "headers": headers}
