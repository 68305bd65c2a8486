"""The demo's client: the protocol over HTTP, with every acknowledgement written down.

The rule that lives here: a lost answer is not a failure. It is raised as `AnswerLost`, and
the one thing to do about it is to send the same request again, with the same key.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import httpx2

from bursar.cli.demo.balances import Balances
from bursar.cli.demo.journal import Ack, Journal, ack_of
from bursar.vocabulary import ErrorCode, Unit

TIMEOUT_S: Final = 10.0
RETRY_FIRST_S: Final = 0.05
RETRY_MAX_S: Final = 0.4
RETRY_FOR_S: Final = 30.0

_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody

Json = dict[str, Any]
Done = TypeVar("Done")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the server, and how long it took."""

    method: str
    path: str
    status: int
    said: Json
    took_s: float

    @property
    def code(self) -> str:
        """The protocol's error code; empty for a success."""
        return str(self.said.get("error", ""))

    @property
    def deny_detail(self) -> Json:
        """What a denial tells: what blocked, the numbers, and what would pass."""
        detail: Json = self.said.get("details", {}).get("deny_detail", {})
        return detail


class AnswerLost(Exception):
    """No answer arrived: the request may or may not have happened."""


class Unexpected(Exception):
    """An answer that no scene foresees; the message shows it."""

    def __init__(self, answer: Answer) -> None:
        """Show what was asked and what came back."""
        shown = json.dumps(answer.said)[:500]
        super().__init__(f"{answer.method} {answer.path} answered {answer.status}: {shown}")


class Api:
    """A client of one server. `secret` is the API key; the admin key provisions."""

    def __init__(self, url: str, admin_key: str, journal: Journal) -> None:
        """Talk to `url`; proxies of the environment are none of this server's business."""
        self.journal = journal
        self.balances = Balances()
        self.secret = ""
        self.requests = 0
        self._admin = {"X-Admin-API-Key": admin_key}
        self._url = url
        self._in_flight: set[asyncio.Future[httpx2.Response]] = set()
        # A pool looks at each of its connections for each request. With one connection per
        # client, and as many clients as there are requests at once, that costs nothing.
        self._clients: list[httpx2.AsyncClient] = []
        self._free: list[httpx2.AsyncClient] = []

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            await client.aclose()

    # --- the runtime plane: what agents call ---------------------------------------------

    async def reserve(
        self,
        subject: Mapping[str, str],
        action: str,
        estimate_microcents: int,
        key: str,
        *,
        ttl_ms: int = 60_000,
        grace_ms: int = 5_000,
        secret: str | None = None,
    ) -> Answer:
        """Ask to hold an estimate, in US dollars."""
        body = {
            "idempotency_key": key,
            "subject": subject,
            "action": {"kind": "llm.completion", "name": action},
            "estimate": _usd(estimate_microcents),
            "ttl_ms": ttl_ms,
            "grace_period_ms": grace_ms,
        }
        return await self._act("/v1/reservations", "reserve", key, body, 0, secret)

    async def commit(self, reservation_id: str, actual_microcents: int, key: str) -> Answer:
        """Settle a reservation with what the action really cost."""
        body = {"idempotency_key": key, "actual": _usd(actual_microcents)}
        path = f"/v1/reservations/{reservation_id}/commit"
        return await self._act(path, f"commit:{reservation_id}", key, body, 0)

    async def settle(self, reserved: Answer, actual_microcents: int, key: str) -> Answer:
        """Commit what an answer to `reserve` holds; it must succeed.

        Raises:
            Unexpected: it did not.
        """
        answer = await self.commit(reserved.said["reservation_id"], actual_microcents, key)
        return expect(answer, 200)

    async def event(
        self, subject: Mapping[str, str], action: str, actual_microcents: int, key: str
    ) -> Answer:
        """Account for a cost that has already happened."""
        body = {
            "idempotency_key": key,
            "subject": subject,
            "action": {"kind": "llm.completion", "name": action},
            "actual": _usd(actual_microcents),
        }
        return await self._act("/v1/events", "event", key, body, actual_microcents)

    async def _act(
        self,
        path: str,
        endpoint: str,
        key: str,
        body: Json,
        asked_microcents: int,
        secret: str | None = None,
    ) -> Answer:
        headers = {"X-Cycles-API-Key": secret or self.secret}
        answer, response = await self._send("POST", path, headers, body)
        if response.is_success:
            request_id = response.headers["x-request-id"]
            self.journal.record(
                ack_of(endpoint, key, request_id, answer.status, response.content, asked_microcents)
            )
        return answer

    async def get(self, path: str) -> Answer:
        """Read something as the tenant."""
        answer, _ = await self._send("GET", path, {"X-Cycles-API-Key": self.secret}, None)
        return answer

    # --- provisioning: what the operator calls --------------------------------------------

    async def provision(
        self, path: str, body: Json | None = None, *, secret: bool = False
    ) -> Answer:
        """Call the admin plane, which must agree.

        Args:
            path: with its query.
            body: of the request.
            secret: the answer carries a secret, so that the ledger stores another one.

        Raises:
            Unexpected: it did not agree.
        """
        answer, response = await self._send("POST", path, self._admin, body)
        if not response.is_success:
            raise Unexpected(answer)
        said = None if secret else response.content
        request_id = response.headers["x-request-id"]
        self.journal.record(Ack(path, None, request_id, answer.status, said))
        return answer

    async def _send(
        self, method: str, path: str, headers: Mapping[str, str], body: Json | None
    ) -> tuple[Answer, httpx2.Response]:
        content = None if body is None else json.dumps(body)
        began = time.perf_counter()
        self.requests += 1
        client = self._free.pop() if self._free else self._new_client()
        try:
            request = client.request(method, path, headers=headers, content=content)
            response = await self._exchange(request, f"{method} {path}")
        finally:
            self._free.append(client)
        answer = Answer(
            method, path, response.status_code, response.json(), time.perf_counter() - began
        )
        self.balances.see(answer.said)
        return answer, response

    def _new_client(self) -> httpx2.AsyncClient:
        # A context of its own for TLS, which is not used here, would take milliseconds to make.
        client = httpx2.AsyncClient(
            base_url=self._url, trust_env=False, timeout=TIMEOUT_S, verify=_NO_TLS
        )
        self._clients.append(client)
        return client

    async def _exchange(
        self, request: Coroutine[Any, Any, httpx2.Response], what: str
    ) -> httpx2.Response:
        """Send a request in a task of its own, which `cut` can reach."""
        task = asyncio.ensure_future(request)
        self._in_flight.add(task)
        try:
            await asyncio.wait({task})
            if task.cancelled():
                raise AnswerLost(f"{what}: the connection was cut")
            return task.result()
        except httpx2.TransportError as error:
            raise AnswerLost(f"{what}: {str(error) or type(error).__name__}") from error
        finally:
            self._in_flight.discard(task)
            task.cancel()

    def cut(self) -> int:
        """Break every connection that waits for an answer; return how many there were."""
        broken = [task for task in self._in_flight if not task.done()]
        for task in broken:
            task.cancel()
        return len(broken)


def expect(answer: Answer, status: int, code: str = "") -> Answer:
    """Return an answer that must be this one.

    Raises:
        Unexpected: it is another one.
    """
    if (answer.status, answer.code) != (status, code):
        raise Unexpected(answer)
    return answer


def denied(answer: Answer, *codes: ErrorCode) -> bool:
    """Return whether an answer is a denial with one of the codes; else it must be a success.

    Raises:
        Unexpected: it is neither.
    """
    if answer.status == 409 and answer.code in codes:
        return True
    if answer.code:
        raise Unexpected(answer)
    return False


async def until_answered(send: Callable[[], Awaitable[Done]], lost: Callable[[], None]) -> Done:
    """Send again, with the same key, for as long as no answer comes; count each loss.

    Raises:
        AnswerLost: nobody has answered for `RETRY_FOR_S` seconds.
    """
    deadline, pause_s = time.monotonic() + RETRY_FOR_S, RETRY_FIRST_S
    while True:
        try:
            return await send()
        except AnswerLost:
            lost()
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)


async def together(jobs: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run jobs at once; the first failure ends the others and is raised."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _usd(amount_microcents: int) -> Json:
    return {"unit": Unit.USD_MICROCENTS.value, "amount": amount_microcents}
