"""A client that answers as it is told, in the words of either package, and remembers its calls.

The rule that lives here: an answer is plain data, so the very same script is played to our guard
and to the official one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import runcycles.response

import bursar
from ap2.mandates import MICROS

USD = "USD_MICROCENTS"
CREATE, COMMIT, RELEASE = "create_reservation", "commit_reservation", "release_reservation"
EXTEND, LIST, GET = "extend_reservation", "list_reservations", "get_reservation"
LOST = ConnectionError("connection reset")

Answer = tuple[int, Any] | BaseException
"""A status and a body, or what is raised; `LOST` is returned as a transport error instead."""

ALLOW: Answer = (200, {
    "decision": "ALLOW", "reservation_id": "rsv_1", "affected_scopes": ["tenant:acme"],
    "expires_at_ms": 1, "remaining_ttl_ms": 60_000,
})  # fmt: skip
DENY: Answer = (200, {
    "decision": "DENY", "affected_scopes": ["tenant:acme"], "reason_code": "BUDGET_EXCEEDED",
})  # fmt: skip
PLAIN: Mapping[str, Answer] = {
    CREATE: ALLOW,
    COMMIT: (200, {"status": "COMMITTED", "charged": {"unit": USD, "amount": MICROS}}),
    RELEASE: (200, {"status": "RELEASED", "released": {"unit": USD, "amount": MICROS}}),
    EXTEND: (200, {"status": "ACTIVE", "expires_at_ms": 5_000, "remaining_ttl_ms": 4_000}),
    LIST: (501, None),
    GET: (501, None),
}


def refusal(status: int, code: str, **more: Any) -> Answer:
    """Return a refusal as every ledger words it."""
    return status, {"error": code, "message": code.lower(), "request_id": "req_1", **more}


class ScriptedClient:
    """Answers each method from its script, and plainly once that is used up."""

    asynchronous = False

    def __init__(self, script: Mapping[str, list[Answer]] | None = None) -> None:
        self.script = {method: list(answers) for method, answers in (script or {}).items()}
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.words: Any = bursar.CyclesResponse

    @property
    def made(self) -> list[str]:
        """The methods that were called, in order."""
        return [method for method, _ in self.calls]

    def bodies(self, method: str) -> list[dict[str, Any]]:
        """The bodies of the calls of a method."""
        return [arguments[-1] for called, arguments in self.calls if called == method]

    def official(self) -> ScriptedClient:
        """Answer in the words of the official package from here on."""
        self.words = runcycles.response.CyclesResponse
        return self

    def answer(self, method: str, *arguments: Any, **query: Any) -> Any:
        """Note a call and return or raise what it meets."""
        self.calls.append((method, arguments or (query,)))
        waiting = self.script.get(method)
        found = waiting.pop(0) if waiting else PLAIN[method]
        if found is LOST:
            return self.words.transport_error(LOST)
        if isinstance(found, BaseException):
            raise found
        status, body = found
        if 200 <= status < 300:
            return self.words.success(status, body)
        return self.words.http_error(status, f"status {status}", body)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method not in PLAIN:
            raise AttributeError(method)
        return lambda *arguments, **query: self.answer(method, *arguments, **query)


class AsyncScriptedClient(ScriptedClient):
    """The same, to be awaited; `before` runs before each answer."""

    asynchronous = True

    def __init__(self, script: Mapping[str, list[Answer]] | None = None) -> None:
        super().__init__(script)
        self.before: dict[str, Callable[[], Any]] = {}

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method not in PLAIN:
            raise AttributeError(method)

        async def answered(*arguments: Any, **query: Any) -> Any:
            await asyncio.sleep(0)
            if method in self.before:
                await self.before[method]()
            return self.answer(method, *arguments, **query)

        return answered
