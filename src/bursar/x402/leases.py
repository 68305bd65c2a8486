"""Keeps the reservations of open payments alive.

The rule that lives here: a reservation is held until the outcome of its payment is proved,
however long that takes. Extensions of a payment are numbered, so that a process that begins
anew, and two that run at once, ask for the same one; an answer says when the next is due.

| what the ledger says | what follows |
|---|---|
| extended | the next number, when half of what is left is over |
| the same number with another length | the next number, at once |
| no more extensions | an operator is told once; the lease ends when it ends |
| ended, or given back by somebody | kept in the record: proved spend becomes an event |
| nothing that can be understood | the same number again, in half a minute |
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from bursar.client.outcome import Expected, Verdict, classify
from bursar.client.response import CyclesResponse
from bursar.payments.book import Book
from bursar.payments.records import PaymentRecord
from bursar.payments.schedule import mandatory_ms
from bursar.vocabulary import ErrorCode
from bursar.x402.allowance import Allowance, key_of
from bursar.x402.buying import Hands, Terms

PAGE: Final = 200
AGAIN_MS: Final = 30_000
LEAST_MS: Final = 1_000
_log = logging.getLogger("bursar.x402")


@dataclass(slots=True)
class _Lease:
    """What is known of one reservation: its next extension, and when that is due."""

    known_ms: int
    due_ms: int
    number: int = 1
    told: bool = False


class Leases:
    """The reservations of one payer's open payments."""

    def __init__(self, hands: Hands, book: Book, terms: Terms, allowance: Allowance) -> None:
        """Take what they work with."""
        self._hands, self._book, self._terms, self._allowance = hands, book, terms, allowance
        self._leases: dict[str, _Lease] = {}

    async def renew(self) -> int:
        """Extend what is due, and return how many were extended."""
        store, whose = self._book.store, self._allowance.whose
        after, extended, seen = "", 0, dict[str, _Lease]()
        while page := await self._hands.write(
            lambda: store.held(whose, after, PAGE)  # noqa: B023 - it is awaited at once
        ):
            for record in page:
                lease = self._leases.get(record.payment_id) or self._first(record)
                seen[record.payment_id] = lease
                if self._is_due(lease):
                    extended += await self._extend(record, lease)
            after = page[-1].payment_id
        self._leases = seen
        return extended

    def _first(self, record: PaymentRecord) -> _Lease:
        """Return what is known of any lease: it was made to outlive its payment."""
        began_ms = record.created_at_ms
        sure_ms = (mandatory_ms(record, self._book.pace) or began_ms) - began_ms
        return _Lease(began_ms, began_ms + sure_ms // 2)

    def _is_due(self, lease: _Lease) -> bool:
        """Say whether it is time; a clock that was set back knows nothing, so it is."""
        return not lease.known_ms <= self._book.clock.now_ms() < lease.due_ms

    async def _extend(self, record: PaymentRecord, lease: _Lease) -> bool:
        body = {
            "idempotency_key": key_of(record, f"extend:{lease.number}"),
            "extend_by_ms": self._terms.ttl_ms,
        }
        said = await self._hands.ledger("extend_reservation", record.budget_ref, body)
        outcome = classify(said, Expected.EXTEND)
        lease.known_ms = now_ms = self._book.clock.now_ms()
        if outcome.settled:
            left_ms = self._allowance.left_ms(said.body or {})
            lease.number, lease.due_ms = lease.number + 1, now_ms + max(LEAST_MS, left_ms // 2)
            return True
        if said.error_code == ErrorCode.IDEMPOTENCY_MISMATCH:
            lease.number, lease.due_ms = lease.number + 1, now_ms
            return False
        lease.due_ms = now_ms + AGAIN_MS
        if said.error_code == ErrorCode.MAX_EXTENSIONS_EXCEEDED:
            self._tell(record, lease)
        elif outcome.verdict in (Verdict.EXPIRED, Verdict.FINAL) or said.status == 404:
            await self._allowance.standing(record, said)
        else:
            self._warn(record, said)
        return False

    def _tell(self, record: PaymentRecord, lease: _Lease) -> None:
        if not lease.told:
            lease.told = True
            _log.error(
                "payment %s: its reservation %s may not be extended any more, and its outcome is "
                "unknown; allow the tenant more extensions",
                record.payment_id,
                record.budget_ref,
            )

    def _warn(self, record: PaymentRecord, said: CyclesResponse) -> None:
        why = said.error_code or f"HTTP {said.status}"
        _log.warning("payment %s: its reservation was not extended: %s", record.payment_id, why)
