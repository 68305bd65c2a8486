"""One entry of the outbox as one HTTP request, and what its answer means.

The rule that lives here: a receiver is told the same thing under the same id, however often,
and only a 2xx means that it took it. Redirects are not followed: a signed alert is for the
address that the operator named. Nothing of the address but its host, and nothing of the secret,
is in any message.

Headers and signature are those of the protocol's webhooks. The signature covers the raw body,
and the body holds two times: `timestamp`, when it happened, and `sent_at`, when this request
was made, by which a receiver refuses what somebody has recorded and plays again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2

from bursar.payments.ports import Posted
from bursar.payments.records import Notice
from bursar.version import __version__
from bursar.wire import signature
from bursar.wire.timestamps import format_timestamp

TIMEOUT_S: Final = 10.0
SECRET_LENGTH_MIN: Final = 16
SOURCE: Final = "bursar-payments"
CATEGORY: Final = "payment"


class WebhookError(ValueError):
    """A webhook that cannot be used; the message says what is wrong and never shows it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        accepted: the receiver has it.
        is_down: nobody can say anything about this entry: the receiver itself does not work.
        reason: the status, or what kind of failure it was.
        retry_after_s: how long it asked to be left alone.
    """

    accepted: bool
    is_down: bool
    reason: str
    retry_after_s: int | None = None


class Webhook:
    """A receiver of alerts, with one long-lived connection pool.

    Args:
        url: its address; http or https.
        secret: what bodies are signed with, at least 16 characters, shared with the receiver.
        timeout_s: how long one request may take as a whole.
        http: a client to use instead of one of its own; then `aclose` leaves it open.

    Raises:
        WebhookError: the address or the secret cannot be used.
    """

    def __init__(
        self,
        url: str,
        secret: str,
        *,
        timeout_s: float = TIMEOUT_S,
        http: httpx2.AsyncClient | None = None,
    ) -> None:
        self.name = name_of(url)
        check_secret(secret)
        if not timeout_s > 0:
            raise WebhookError(f"timeout_s must be above 0; got {timeout_s}")
        self.timeout_s = timeout_s
        self._url, self._secret = url, secret
        self._mine = http is None
        self._http = http or httpx2.AsyncClient(follow_redirects=False)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._mine:
            await self._http.aclose()

    async def deliver(self, posted: Posted, now_ms: int) -> Answer:
        """Tell the receiver of an entry, once; whatever goes wrong is an answer too."""
        body = body_of(posted.notice, now_ms)
        headers = headers_of(posted.notice, self._secret, body)
        try:
            # A client's own timeout is for each read, and an answer may come byte by byte.
            async with (
                asyncio.timeout(self.timeout_s),
                self._http.stream(
                    *("POST", self._url),
                    content=body,
                    headers=headers,
                    timeout=self.timeout_s,
                    follow_redirects=False,
                ) as response,
            ):
                return _read(response)
        except TimeoutError:
            return Answer(False, True, f"no answer within {self.timeout_s:g} s")
        except httpx2.HTTPError as error:
            return Answer(False, True, type(error).__name__)


def event_id(notice: Notice) -> str:
    """Return the id that a receiver tells repetitions by: the same in every process, for ever."""
    key = json.dumps([notice.tenant, notice.topic.value, notice.dedupe_key])
    return "evt_" + hashlib.sha256(key.encode()).hexdigest()[:32]


def body_of(notice: Notice, now_ms: int) -> bytes:
    """Return the event that a receiver gets for an entry."""
    facts: dict[str, Any] = json.loads(notice.payload)
    name, at_ms = facts.pop("event", notice.topic.value), facts.pop("at_ms", now_ms)
    facts.pop("tenant", None)
    event = {
        "event_id": event_id(notice),
        "event_type": name,
        "category": CATEGORY,
        "timestamp": format_timestamp(at_ms),
        "sent_at": format_timestamp(now_ms),
        "tenant_id": notice.tenant,
        "source": SOURCE,
        "data": facts,
        "trace_id": _trace_id(notice),
    }
    return json.dumps(event, separators=(",", ":")).encode()


def headers_of(notice: Notice, secret: str, body: bytes) -> dict[str, str]:
    """Return what the protocol wants a delivery to carry."""
    trace_id = _trace_id(notice)
    return {
        "Content-Type": "application/json",
        signature.EVENT_ID_HEADER: event_id(notice),
        signature.EVENT_TYPE_HEADER: str(json.loads(body)["event_type"]),
        signature.SIGNATURE_HEADER: signature.sign(secret, body),
        signature.TRACE_ID_HEADER: trace_id,
        "traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01",
        "User-Agent": f"bursar/{__version__}",
    }


def name_of(url: str) -> str:
    """Return what a receiver is called: host and port, never the rest, which may hold a key.

    Raises:
        WebhookError: it is no address that alerts can be posted to.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise WebhookError(
            "the address is no URL; write it like https://host.example/path"
        ) from None
    if parts.scheme not in ("http", "https") or not host:
        raise WebhookError("the address must begin with http:// or https:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise WebhookError("the address must not hold a user or a password; bodies are signed")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise WebhookError("the address must be printable ASCII without spaces")
    return host + (f":{port}" if port else "")


def check_secret(secret: str) -> None:
    """Refuse a secret that signs nothing worth trusting.

    Raises:
        WebhookError: it is too short, or has spaces around it.
    """
    if len(secret) < SECRET_LENGTH_MIN or secret != secret.strip():
        raise WebhookError(
            f"the secret must have at least {SECRET_LENGTH_MIN} characters and no spaces around "
            "it; make one with: openssl rand -hex 32"
        )


def _read(response: httpx2.Response) -> Answer:
    status, said = response.status_code, response.headers.get("retry-after", "").strip()
    wait_s = int(said) if said.isascii() and said.isdigit() and len(said) < 10 else None
    reason = f"HTTP {status}" + (", redirects are not followed" if 300 <= status < 400 else "")
    return Answer(200 <= status < 300, status >= 500 or status == 429, reason, wait_s)


def _trace_id(notice: Notice) -> str:
    """Return the trace of what is told: no request caused it, so it is its own."""
    return hashlib.sha256(event_id(notice).encode()).hexdigest()[:32]
