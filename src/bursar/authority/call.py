"""What a caller asked, and what it is told: the two records every operation works with.

The rule that lives here: an operation gets one `Call` and returns one `Answer`, or raises
one `Refusal`. Where the call came from is not its business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bursar.authority.principal import Principal
from bursar.core.outcomes import Refused
from bursar.vocabulary import ErrorCode


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated request.

    Attributes:
        principal: who asks.
        request_id: of this one request.
        trace_id: of the logical operation it belongs to (32 hex digits).
        body: the JSON text sent, empty if none.
        idempotency_header: `X-Idempotency-Key`, if sent.
        query: query parameters, the last of a repeated one.
        path: parameters from the path.
    """

    principal: Principal
    request_id: str
    trace_id: str
    body: bytes = b""
    idempotency_header: str | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    path: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a JSON body, ready to travel."""

    status: int
    body: bytes


class Refusal(Exception):
    """An answer of no that was found before, after or beside the ledger's own ladder."""

    def __init__(self, refused: Refused) -> None:
        """Carry the refusal as the ledger would have given it."""
        super().__init__(refused.message)
        self.refused = refused


def refuse(code: ErrorCode, message: str, **facts: Any) -> Refusal:
    """Return a `Refusal` to raise."""
    return Refusal(Refused(code, message, **facts))
