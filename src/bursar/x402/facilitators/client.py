"""One facilitator over HTTP: verify, settle once, ask for the status.

The rule that lives here: settle is a payment, not a question. It is sent once for each call,
never retried here, never by a redirect (whatever the client given would do), and whatever
happens to it comes back as a `SettleAnswer`; only a request that provably never left is a
refusal. Questions that move nothing are answered too, by "nobody can tell" if need be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2

from bursar.payments.outcome import Trigger
from bursar.x402.facilitators import answer
from bursar.x402.facilitators.answer import SettleAnswer, StatusAnswer, VerifyAnswer
from bursar.x402.facilitators.dialects import DIALECTS, Dialect
from bursar.x402.reading import Question
from bursar.x402.strangers import read_json

VERIFY_TIMEOUT_S = 10.0
SETTLE_TIMEOUT_S = 60.0
STATUS_TIMEOUT_S = 10.0
CONNECTIONS_MAX = 50
BODY_BYTES_MAX = 1024 * 1024


class NotAuthenticated(Exception):
    """The headers of a request could not be made, so it was not sent; says what was raised."""


UNSENT: Final = (
    # No connection, or not even headers: not a byte of the request has left.
    *(httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout),
    NotAuthenticated,
)


class Facilitator:
    """A facilitator with one long-lived connection pool.

    Args:
        url: Its address, such as `https://facilitator.example/v1`.
        dialect: The name of a dialect in `DIALECTS`, or one of your own.
        headers: Called for each request with its path; returns what authenticates it.
        settle_timeout_s: How long a settlement may take before it is unknown, in seconds.
        http: A client to use instead of one of its own; then `aclose` leaves it open.
    """

    def __init__(
        self,
        url: str,
        *,
        dialect: str | Dialect = "reference",
        headers: Callable[[str], Mapping[str, str]] | None = None,
        settle_timeout_s: float = SETTLE_TIMEOUT_S,
        http: httpx2.AsyncClient | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("a facilitator's url begins with http:// or https://")
        if isinstance(dialect, str) and dialect not in DIALECTS:
            raise ValueError(f"dialect must be one of {', '.join(DIALECTS)}; got {dialect!r}")
        self.url = url.rstrip("/")
        self.dialect = DIALECTS[dialect] if isinstance(dialect, str) else dialect
        self._headers = headers or (lambda _: {})
        self._settle_timeout_s = settle_timeout_s
        self._mine = http is None
        limits = httpx2.Limits(max_connections=CONNECTIONS_MAX)
        self._http = http or httpx2.AsyncClient(follow_redirects=False, limits=limits)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._mine:
            await self._http.aclose()

    async def verify(
        self, payload: Mapping[str, Any], requirements: Mapping[str, Any]
    ) -> VerifyAnswer:
        """Ask whether a payment would be accepted; moves nothing."""
        body = _request(payload, requirements)
        try:
            status, _, read, _ = await self._send("POST", "/verify", VERIFY_TIMEOUT_S, body)
        except Exception as wrong:  # noqa: BLE001  # whatever it was, nobody can tell
            return VerifyAnswer(None, type(wrong).__name__)
        return answer.read_verify(status, read)

    async def settle(
        self, payload: Mapping[str, Any], requirements: Mapping[str, Any]
    ) -> SettleAnswer:
        """Have a payment submitted, once. The caller has stored that it does so."""
        body = _request(payload, requirements)
        try:
            said = await self._send("POST", "/settle", self._settle_timeout_s, body)
        except UNSENT as wrong:
            return SettleAnswer(Trigger.REFUSED, _reason(wrong))
        except Exception as wrong:  # noqa: BLE001  # the request may have left before it
            return SettleAnswer(Trigger.LOST, type(wrong).__name__)
        try:
            return self.dialect.settle(*said)
        except Exception as wrong:  # noqa: BLE001  # it paid or not; this answer is not read
            return SettleAnswer(Trigger.LOST, type(wrong).__name__)

    async def status(self, question: Question, payment_id: str | None) -> StatusAnswer | None:
        """Ask what its books say of a payment; None where it keeps none."""
        path = self.dialect.status_path(question, payment_id)
        if path is None:
            return None
        try:
            status, _, read, _ = await self._send("GET", path, STATUS_TIMEOUT_S)
        except Exception as wrong:  # noqa: BLE001  # its books are only a hint where to look
            return StatusAnswer(Trigger.UNDECIDED, _reason(wrong))
        return self.dialect.status(status, read)

    async def supports(self, scheme: str, network: str) -> bool:
        """Say whether it settles this scheme on this network (`GET /supported`).

        Raises:
            httpx2.HTTPError: it did not answer.
            TimeoutError: it did not answer in time.
            ValueError: its answer is no list of kinds.
            NotAuthenticated: the headers that it wants could not be made.
        """
        status, _, read, _ = await self._send("GET", "/supported", VERIFY_TIMEOUT_S)
        kinds = read.get("kinds") if isinstance(read, Mapping) else None
        if status != 200 or not isinstance(kinds, list):
            raise ValueError(f"{self.url}/supported answered {status} and no list of kinds")
        return any(
            isinstance(kind, Mapping)
            and (kind.get("scheme"), kind.get("network")) == (scheme, network)
            for kind in kinds
        )

    async def _send(
        self, method: str, path: str, timeout_s: float, body: object = None
    ) -> tuple[int, Mapping[str, str], object, str]:
        """Return status, headers in lower case, JSON or None, and text.

        The client's own timeout is for each read, and a body may come byte by byte, so the
        whole exchange has one too.
        """
        try:
            headers = dict(self._headers(path))
        except Exception as wrong:  # it is the caller's own, and may fail in any way
            raise NotAuthenticated(type(wrong).__name__) from wrong
        async with asyncio.timeout(timeout_s):
            answered = await self._http.request(
                *(method, self.url + path),
                json=body,
                headers=headers,
                timeout=timeout_s,
                follow_redirects=False,
            )
        raw = answered.content[:BODY_BYTES_MAX].decode(errors="replace")
        try:
            read = read_json(raw)
        except ValueError:
            read = None
        return answered.status_code, answered.headers, read, raw


def _reason(wrong: Exception) -> str:
    """Return what went wrong by its type: the text may quote a key or a signature."""
    about = f": {wrong}" if isinstance(wrong, NotAuthenticated) else ""
    return f"{type(wrong).__name__}{about}"


def _request(payload: Mapping[str, Any], requirements: Mapping[str, Any]) -> dict[str, Any]:
    version = payload.get("x402Version", 2)
    wrapped = {"paymentPayload": dict(payload), "paymentRequirements": dict(requirements)}
    return {"x402Version": version, **wrapped}
