"""Payments in memory, for tests: the same promises as the store on disk, but for durability.

The rule that lives here: this is a fake that users test with, so it keeps the contract of
`payments.ports` line by line and is held to the same suite.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from bursar.payments.outcome import OPEN, BudgetState
from bursar.payments.ports import (
    PaymentConflict,
    PaymentQuery,
    PaymentStoreError,
    Result,
    Saved,
    Tally,
    Whose,
)
from bursar.payments.records import Change, Notice, PaymentEvent, PaymentRecord, Transfer
from bursar.testing.memory_outbox import MemoryOutbox


class MemoryPayments(MemoryOutbox):
    """A payment store that forgets everything when it is dropped."""

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
        self._records: dict[str, PaymentRecord] = {}
        self._events: dict[str, list[PaymentEvent]] = {}
        self._refunds: dict[Transfer, str] = {}
        self._closed = False

    def add(
        self, record: PaymentRecord, event: PaymentEvent, notices: Sequence[Notice] = ()
    ) -> tuple[PaymentRecord, bool]:
        """Keep a new payment, or return the one that is there."""
        with self._lock:
            self._check_open()
            existing = self._existing(record)
            if existing is not None:
                if existing.tenant != record.tenant or not existing.same_purchase(record):
                    raise PaymentConflict(existing)
                return existing, False
            self._records[record.payment_id] = record
            self._events[record.payment_id] = [event]
            self._post(notices)
            return record, True

    def _existing(self, record: PaymentRecord) -> PaymentRecord | None:
        key = record.authorization()
        for each in self._records.values():
            if key is not None and each.authorization() == key:
                return each
        for each in self._records.values():
            attempt = (each.tenant, each.intent_id, each.attempt_no)
            if attempt == (record.tenant, record.intent_id, record.attempt_no):
                if key is not None:
                    raise PaymentConflict(each)
                return each
        return None

    def get(self, payment_id: str) -> PaymentRecord | None:
        """Return a payment."""
        with self._lock:
            self._check_open()
            return self._records.get(payment_id)

    def attempts(self, tenant: str, intent_id: str) -> Sequence[PaymentRecord]:
        """Return every attempt of an intent, in order."""
        with self._lock:
            found = [
                record
                for record in self._records.values()
                if (record.tenant, record.intent_id) == (tenant, intent_id)
            ]
        return sorted(found, key=lambda record: record.attempt_no)

    def presented(self, network: str, payer: str, nonce: str) -> Sequence[PaymentRecord]:
        """Return the payments that a payer authorized with a nonce."""
        with self._lock:
            self._check_open()
            found = [
                record
                for record in self._records.values()
                if (key := record.authorization()) is not None
                and (key[0], *key[2:]) == (network, payer.lower(), nonce.lower())
            ]
        return sorted(found, key=lambda record: record.payment_id)

    def claim(
        self, owner: str, now_ms: int, lease_ms: int, limit: int, whose: Whose | None = None
    ) -> Sequence[PaymentRecord]:
        """Lease what is due, the longest due first."""
        with self._lock:
            self._check_open()
            due = sorted(
                (record.next_check_at_ms, record.payment_id)
                for record in self._records.values()
                if record.next_check_at_ms is not None
                and record.next_check_at_ms <= now_ms
                and record.lease_until_ms <= now_ms
                and self._is_of(record.payment_id, whose)
            )
            claimed: list[PaymentRecord] = []
            for _, payment_id in due[:limit]:
                record = self._records[payment_id]
                leased = replace(
                    record,
                    lease_owner=owner,
                    lease_until_ms=now_ms + lease_ms,
                    fence=record.fence + 1,
                )
                self._records[payment_id] = leased
                claimed.append(leased)
            return claimed

    def save(self, changes: Sequence[Change]) -> Sequence[Result]:
        """Save what still holds, refuse the rest."""
        with self._lock:
            self._check_open()
            return [self._save(change) for change in changes]

    def _save(self, change: Change) -> Result:
        now = self._records[change.after.payment_id]
        if change.fence is not None and now.fence != change.fence:
            return Result(Saved.FENCED)
        if now.version != change.version:
            return Result(Saved.STALE)
        mine = (None, now.payment_id)
        free = [each for each in change.refunds if self._refunds.get(each) in mine]
        if change.refunds and not free:
            return Result(Saved.TAKEN)
        for each in free[:1]:
            self._refunds[each] = now.payment_id
        kept = change.fence is None
        self._records[now.payment_id] = replace(
            change.after,
            lease_owner=now.lease_owner if kept else None,
            lease_until_ms=now.lease_until_ms if kept else 0,
            fence=now.fence,
        )
        self._events[now.payment_id] += change.events
        return Result(Saved.SAVED, self._post(change.notices))

    def give_back(self, leases: Sequence[tuple[str, int]]) -> None:
        """End leases, by payment and fence."""
        with self._lock:
            for payment_id, fence in leases:
                record = self._records[payment_id]
                if record.fence == fence:
                    ended = replace(record, lease_owner=None, lease_until_ms=0)
                    self._records[payment_id] = ended

    def events(self, payment_id: str) -> Sequence[PaymentEvent]:
        """Return a payment's history, oldest first."""
        with self._lock:
            return list(self._events.get(payment_id, []))

    def page(self, query: PaymentQuery) -> Sequence[PaymentRecord]:
        """Return a page of payments, the newest first."""
        with self._lock:
            records = [*self._records.values()]
        found = [
            record
            for record in records
            if query.tenant in (None, record.tenant)
            and query.money in (None, record.money)
            and query.disposition in (None, record.disposition)
            and (query.before is None or _place(record) < query.before)
        ]
        return sorted(found, key=_place, reverse=True)[: query.limit]

    def held(self, whose: Whose, after: str, limit: int) -> Sequence[PaymentRecord]:
        """Return a payer's open payments that hold a reservation."""
        with self._lock:
            found = [
                record
                for record in self._records.values()
                if record.money in OPEN
                and record.budget_state is BudgetState.RESERVED
                and record.payment_id > after
                and self._is_of(record.payment_id, whose)
            ]
        return sorted(found, key=lambda record: record.payment_id)[:limit]

    def _is_of(self, payment_id: str, whose: Whose | None) -> bool:
        record = self._records[payment_id]
        return whose is None or (record.tenant, record.payer) == (whose.tenant, whose.payer)

    def tallies(self) -> Sequence[Tally]:
        """Count payments by their states."""
        with self._lock:
            counts = Counter((each.money, each.disposition) for each in self._records.values())
        return [Tally(*states, count) for states, count in counts.items()]

    def close(self) -> None:
        """Refuse everything from now on."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise PaymentStoreError("this payment store is closed")


def _place(record: PaymentRecord) -> tuple[int, str]:
    return record.created_at_ms, record.payment_id
