"""What comes in with a body: reserved names do not, and everything else does, to the byte."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bursar.x402.ingress import (
    TAIL_BYTES,
    BodyRefused,
    Headers,
    Message,
    passed,
    stripped,
    taken,
)

LIMIT = 4096
FORGED = b'{"_payment_context": 1}'


def sends(*chunks: bytes) -> Callable[[], Any]:
    messages = [
        {"type": "http.request", "body": chunk, "more_body": place < len(chunks) - 1}
        for place, chunk in enumerate(chunks)
    ]

    async def receive() -> Any:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    return receive


def arrives(*chunks: bytes, whole: bool = False) -> tuple[bytes, bool]:
    """Return what an application gets of a body, and whether it got all of it."""

    async def main() -> tuple[bytes, bool]:
        _, given = await taken(sends(*chunks), whole=whole, bytes_max=LIMIT)
        got = b""
        while (message := await given())["type"] == "http.request":
            got += message["body"]
            if not message.get("more_body"):
                return got, True
        return got, False

    return asyncio.run(main())


def cut(body: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(body), size):
        yield body[at : at + size]


LARGE = b'{"a": "' + b"x" * (3 * LIMIT) + b'", "b": "_payment_context"}'
HARMLESS = [
    b"",
    b'{"a":1}\n{"a":2}\n',
    b"[section]\nkey = 1\n",
    b"{oops",
    b"[" * 20_000,
    b'{"a": NaN, "b": 1e999, "c": "\\ud800"}',
    b'{"text": "write \\"_payment_context\\": 1 or x402.payment.status: 2"}',
    b'{"nothing": "x402"}' + b" " * (2 * LIMIT),
    LARGE,
    b"a: 1\n",
    b"\x89PNG" + b"\x00" * 3 * LIMIT,
    json.dumps({"a": "\u00e4" * LIMIT}).encode("utf-16"),
]


@pytest.mark.parametrize("body", HARMLESS)
@pytest.mark.parametrize("size", [1000, 10**9])
def test_what_names_nothing_comes_through_to_the_byte(body: bytes, size: int) -> None:
    assert arrives(*(list(cut(body, size)) or [b""])) == (body, True)


NAMES = [
    b'"_payment_context"',
    b'"\\u005fpayment\\u005Fcontext"',
    b'"x402.payment.status"',
    b'"x402\\u002epayment\\u002estatus"',
    b"'_payment_context'",
    b'"\\x5fpayment_context"',
]
LENIENT = [  # what JSON does not know, and lenient readers do
    b'{"a": 1}\n{%s: 1}\n',
    b"{%s: 1,}",
    b"{%s : 1 // so\n}",
    b"{%s\n:\t1",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", LENIENT)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32-be"])
def test_a_name_that_cannot_be_taken_out_is_refused(
    name: bytes, shape: bytes, encoding: str
) -> None:
    body = (shape % name).decode().encode(encoding)
    with pytest.raises(BodyRefused, match="reserved name") as refused:
        arrives(body)
    assert refused.value.status == 400


@pytest.mark.parametrize("name", NAMES[:4])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
@pytest.mark.parametrize("size", [7, 100, 10**9])
def test_a_large_body_breaks_off_before_it_names_anything(
    name: bytes, encoding: str, size: int
) -> None:
    """However it is cut: what the application has of it is never a whole body."""
    text = b'{"a": "' + b"x" * (2 * LIMIT) + b'", ' + name + b": 1}"
    chunks = list(cut(text.decode().encode(encoding), size))
    if size > 10**6:
        with pytest.raises(BodyRefused):
            arrives(*chunks)
        return
    got, complete = arrives(*chunks)
    assert not complete
    assert got


def test_the_tail_holds_a_name_spelled_as_long_as_can_be() -> None:
    escaped = "".join(f"\\u{ord(sign):04x}" for sign in "_payment_context")
    assert len(f'"{escaped}" :'.encode("utf-32")) < TAIL_BYTES


@pytest.mark.parametrize("first", [b"\xef", b"\xef\xbb", b"\x00\x00", b" ", b"\xff\xfe", b""])
def test_a_mark_that_comes_alone_hides_nothing(first: bytes) -> None:
    encoding = {b"\xff\xfe": "utf-16-le", b"\x00\x00": "utf-32-be"}.get(first, "utf-8")
    rest = FORGED.decode().encode(encoding)
    mark = {b"\xef": b"\xbb\xbf", b"\xef\xbb": b"\xbf"}.get(first, b"")
    if first == b"\x00\x00":
        rest = rest[2:]
    body, complete = arrives(first, mark + rest)
    assert (json.loads(body), complete) == ({}, True)


@pytest.mark.parametrize(
    "value", ['"\\ud800"', "NaN", "1e999", '{"_payment_context": {}}', "[" * 500 + "]" * 500]
)
def test_taking_a_name_out_never_fails(value: str) -> None:
    body = f'{{"_payment_context": 1, "a": {value}}}'.encode()
    assert b"_payment_context" not in stripped(body)
    assert json.loads(stripped(body)).keys() == {"a"}


def test_an_application_that_answers_late_is_not_heard() -> None:
    """It saw a client that left; the client is told why."""

    async def app(_: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] == "http.request":
            pass
        await send({"type": "http.response.start", "status": 500, "headers": []})
        raise RuntimeError("ClientDisconnect")

    async def main() -> list[Message]:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        chunks = [b'{"a": "' + b"x" * 2 * LIMIT + b'",', b'"_payment_context": 1}']
        _, given = await taken(sends(*chunks), whole=False, bytes_max=LIMIT)
        with pytest.raises(BodyRefused) as refused:
            await passed(app, {}, given, send)
        assert refused.value.status == 413
        return sent

    assert asyncio.run(main()) == []


def test_a_header_is_found_in_any_case() -> None:
    headers = Headers([(b"Host", b"a"), (b"X-PAYMENT", b"b")])
    assert (headers.get("HOST"), headers.of_payment().get("x-payment")) == ("a", "b")
