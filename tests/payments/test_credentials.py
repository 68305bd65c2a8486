"""What requests to a facilitator carry: read whole or refused, renewed, and never shown."""

import asyncio
import json
import logging
import os
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bursar.x402.credentials import HeaderFile, read_headers
from bursar.x402.endpoints import open_facilitators, read_facilitators
from bursar.x402.reading import Question

SECRET = "TOPSECRET"
NAMED = ("cdp", "shop")


def bearer(token: str) -> str:
    return json.dumps({"shop": {"Authorization": f"Bearer {token}", "X-Trace": "1"}})


def test_headers_are_read_by_facilitator() -> None:
    assert read_headers(bearer(SECRET), NAMED)["shop"]["Authorization"] == f"Bearer {SECRET}"
    assert read_headers("{}", NAMED) == {}
    assert read_headers(bearer(SECRET), None).keys() == {"shop"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"Bearer {SECRET}", "it is not JSON; write it like"),
        (f'["{SECRET}"]', "it must be an object"),
        (
            f'{{"other": {{"A": "{SECRET}"}}}}',
            "no facilitator is named 'other'; there is: cdp, shop",
        ),
        (f'{{"shop": "{SECRET}"}}', "facilitator shop must have an object of headers"),
        (f'{{"shop": {{"A B": "{SECRET}"}}}}', "'A B' is no header that may be set"),
        (f'{{"shop": {{"": "{SECRET}"}}}}', "is no header that may be set"),
        (f'{{"shop": {{"Host": "{SECRET}"}}}}', "'Host' is no header that may be set"),
        (f'{{"shop": {{"Content-Length": "{SECRET}"}}}}', "is no header that may be set"),
        (f'{{"shop": {{"A": "{SECRET}\\n"}}}}', "the value of A must be printable ASCII"),
        (f'{{"shop": {{"A": " {SECRET}"}}}}', "the value of A must be printable ASCII"),
        (f'{{"shop": {{"A": "{SECRET}é"}}}}', "the value of A must be printable ASCII"),
        ('{"shop": {"A": ""}}', "the value of A must be printable ASCII"),
        ('{"shop": {"A": 1}}', "the value of A must be printable ASCII"),
        ("[" * 100_000, "above 65536 characters"),
        ("[" * 60_000, "it is not JSON"),
    ],
)
def test_anything_else_is_refused_and_not_shown(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_headers(text, NAMED)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def write(path: Path, text: str) -> None:
    """Replace a file as whoever renews a token does, whole and with a new time."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)


def test_a_file_is_read_again_when_it_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be read, or is half written, leaves the headers from before in use."""
    path = tmp_path / "headers.json"
    write(path, bearer("one"))
    file = HeaderFile(path, NAMED)
    headers = file.of("shop")
    assert headers("/verify")["Authorization"] == "Bearer one"
    assert file.of("cdp")("/verify") == {}
    write(path, bearer("two"))
    assert headers("/verify")["Authorization"] == "Bearer two"
    write(path, bearer(SECRET)[:-5])
    assert headers("/verify")["Authorization"] == "Bearer two"
    os.remove(path)
    assert headers("/verify")["Authorization"] == "Bearer two"
    write(path, bearer("three"))
    assert headers("/verify")["Authorization"] == "Bearer three"
    warned = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert len(warned) == 2
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file"), (b"\xff\xfe", "is not text"), (b"x", "is not JSON")],
)
def test_a_file_that_cannot_be_used_is_refused(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "headers.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        HeaderFile(path, NAMED)


@pytest.mark.parametrize("way", ["text", "file"])
def test_requests_carry_them_to_their_facilitator_alone(way: str, tmp_path: Path) -> None:
    seen = list[tuple[str, str | None]]()

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append((request.url.host, request.headers.get("authorization")))
        return httpx2.Response(200, json={"status": "pending"})

    path = tmp_path / "headers.json"
    write(path, bearer(SECRET))
    named = read_facilitators(
        ["shop:circle=https://shop.example", "other:circle=https://o.example"]
    )
    more: dict[str, Any] = (
        {"headers": read_headers(bearer(SECRET), named)}
        if way == "text"
        else {"header_file": HeaderFile(path, named)}
    )
    question = Question(1, "0xa", "0xb", "0xc", 1, "0xd", 1, 1)

    async def ask() -> None:
        for name, facilitator in open_facilitators(named, **more).items():
            async with aclosing(facilitator):
                transport = httpx2.MockTransport(answer)
                facilitator._http = httpx2.AsyncClient(transport=transport)
                assert await facilitator.status(question, "id") is not None, name

    asyncio.run(ask())
    assert seen == [("shop.example", f"Bearer {SECRET}"), ("o.example", None)]
