"""What the server acknowledged, written down as it came, and held against its ledger.

The rule that lives here: the journal knows only what arrived over HTTP. It believes no
entry of the log and no balance; those are what it checks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bursar.core.entry import Entry
from bursar.core.state import Budget

EXPIRE = "Expire"
"""The one verb that the server executes by itself, so that nobody is answered."""

_LEASE = re.compile(rb',"remaining_ttl_ms":\d+\}$')

Place = tuple[str, str]  # (scope path, unit)


@dataclass(frozen=True, slots=True)
class Ack:
    """One answer with a 2xx status.

    Attributes:
        endpoint: the operation, as the log names it: `reserve`, `commit:{reservation_id}`.
        key: the idempotency key; None where the operation has none.
        request_id: of the response.
        status: of the response.
        body: as the ledger stores it, without `remaining_ttl_ms`; None for an answer that
            carries a secret, which is stored nowhere.
        reservation_id: of the reservation that was made, if one was.
        charged_amount: what the operation charged to each of `places`.
        places: the budgets that the answer showed.
    """

    endpoint: str
    key: str | None
    request_id: str
    status: int
    body: bytes | None
    reservation_id: str | None = None
    charged_amount: int = 0
    places: tuple[Place, ...] = ()

    @property
    def name(self) -> str:
        """The ack as a finding names it."""
        return f"{self.endpoint} {self.key or self.request_id}"


def stored_form(body: bytes) -> bytes:
    """Return a body without the one field that is computed anew for each answer."""
    return _LEASE.sub(b"}", body)


class Log:
    """The entries of one tenant, found by idempotency key or by request."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        """Index the entries."""
        self.entries = list(entries)
        self._by_key = {(entry.endpoint, entry.key): entry for entry in self.entries if entry.key}
        self._by_request = {entry.request_id: entry for entry in self.entries if entry.request_id}

    def find(self, ack: Ack) -> Entry | None:
        """Return the entry that an acknowledgement must have left."""
        if ack.key is not None:
            return self._by_key.get((ack.endpoint, ack.key))
        return self._by_request.get(ack.request_id)

    def has(self, endpoint: str, key: str) -> bool:
        """Return whether an operation was saved, whether or not anybody was told."""
        return (endpoint, key) in self._by_key


@dataclass(slots=True)
class Journal:
    """Every acknowledgement, once; asked again, an answer must be the same."""

    acks: list[Ack] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)
    _first: dict[tuple[str, str], Ack] = field(default_factory=dict)

    def record(self, ack: Ack) -> None:
        """Write an acknowledgement down, or compare it with the first one of its key."""
        if ack.key is not None:
            first = self._first.setdefault((ack.endpoint, ack.key), ack)
            if first is not ack:
                if (first.status, first.body) != (ack.status, ack.body):
                    self.contradictions.append(f"{ack.name}: asked again, answered differently")
                return
        self.acks.append(ack)

    def missing(self, log: Log, acks: Iterable[Ack] | None = None) -> list[str]:
        """Return what is wrong with acknowledgements (all by default), as findings."""
        findings: list[str] = []
        for ack in self.acks if acks is None else acks:
            entry = log.find(ack)
            if entry is None:
                findings.append(f"{ack.name}: acknowledged, but not in the log")
            elif entry.status != ack.status or (ack.body is not None and entry.body != ack.body):
                findings.append(f"{ack.name}: the log (entry {entry.seq}) stores another answer")
            elif ack.reservation_id is not None and entry.reservation_id != ack.reservation_id:
                findings.append(f"{ack.name}: the log (entry {entry.seq}) has another reservation")
        return findings

    def unasked(self, log: Log) -> list[str]:
        """Return entries that nobody was told about, leases that ended aside."""
        told = {entry.seq for ack in self.acks if (entry := log.find(ack)) is not None}
        return [
            f"entry {entry.seq} ({entry.verb}) was never acknowledged to anybody"
            for entry in log.entries
            if entry.seq not in told and entry.verb != EXPIRE
        ]

    def charged(self) -> dict[Place, int]:
        """Return what all acknowledged operations charged, by budget."""
        sums: dict[Place, int] = {}
        for ack in self.acks:
            for place in ack.places:
                sums[place] = sums.get(place, 0) + ack.charged_amount
        return sums

    def unbalanced(self, budgets: Iterable[Budget]) -> list[str]:
        """Return budgets whose charges are not the sum of what was acknowledged."""
        sums = self.charged()
        findings: list[str] = []
        for budget in budgets:
            told = sums.pop((budget.scope, budget.unit.value), 0)
            if told != budget.spent + budget.debt:
                findings.append(
                    f"budget {budget.scope}: {budget.spent + budget.debt} charged, but the "
                    f"answers add up to {told}"
                )
        findings += [
            f"{scope}: charged {told}, but there is no budget"
            for (scope, _), told in sums.items()
            if told
        ]
        return findings


def ack_of(
    endpoint: str, key: str | None, request_id: str, status: int, body: bytes, asked_amount: int
) -> Ack:
    """Return what an answer of the runtime plane acknowledged.

    Args:
        endpoint: the operation, as the log names it.
        key: its idempotency key.
        request_id: of the response.
        status: of the response.
        body: of the response.
        asked_amount: what an event asked to charge; its answer repeats only a lower charge.
    """
    said: dict[str, Any] = json.loads(body)
    if "charged" in said:
        charged = said["charged"]["amount"]
    else:
        charged = asked_amount if said.get("status") == "APPLIED" else 0
    places = tuple(
        (balance["scope_path"], balance["remaining"]["unit"]) for balance in said["balances"]
    )
    return Ack(
        endpoint=endpoint,
        key=key,
        request_id=request_id,
        status=status,
        body=stored_form(body),
        reservation_id=said.get("reservation_id"),
        charged_amount=charged,
        places=places,
    )
