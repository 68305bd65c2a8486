"""What others must be told of payments, in memory, for tests.

The rule that lives here: it keeps the contract of `payments.ports.Outbox` line by line; what
was accepted or dismissed is forgotten, but never its key.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bursar.payments.ports import NoticeQuery, Posted, Whose
from bursar.payments.records import Notice, Topic


@dataclass(slots=True)
class _Entry:
    posted: Posted
    owner: str | None = None
    until_ms: int = 0

    def is_due(self, topic: Topic, now_ms: int) -> bool:
        notice = self.posted.notice
        waits = notice.available_at_ms > now_ms or self.until_ms > now_ms
        return notice.topic is topic and self.posted.parked_at_ms is None and not waits


class MemoryOutbox:
    """The outbox of `MemoryPayments`."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._keys: dict[tuple[str, Topic, str], int] = {}
        self._entries: dict[int, _Entry] = {}

    def _is_of(self, payment_id: str, whose: Whose | None) -> bool:
        """Say whether a payment is one payer's; everybody's are nobody's in particular."""
        raise NotImplementedError

    def outbox(
        self, topic: Topic, now_ms: int, limit: int, whose: Whose | None = None
    ) -> Sequence[Posted]:
        """Return what is to be told now, oldest first."""
        with self._lock:
            due = [each.posted for each in self._due(topic, now_ms)]
            return [each for each in due if self._is_of(each.notice.payment_id, whose)][:limit]

    def lease_notices(
        self, topic: Topic, owner: str, now_ms: int, lease_ms: int, limit: int
    ) -> Sequence[Posted]:
        """Lease what is to be told now, the first open entry of each payment."""
        with self._lock:
            firsts = dict[str, int]()
            for number, entry in sorted(self._entries.items()):
                notice = entry.posted.notice
                if notice.topic is topic and entry.posted.parked_at_ms is None:
                    firsts.setdefault(notice.payment_id, number)
            due = [
                each for each in self._due(topic, now_ms) if each.posted.number in firsts.values()
            ]
            for entry in due[:limit]:
                entry.owner, entry.until_ms = owner, now_ms + lease_ms
            return [each.posted for each in due[:limit]]

    def mark_sent(self, number: int, now_ms: int) -> None:
        """Note that a notice was accepted."""
        del now_ms
        with self._lock:
            self._entries.pop(number, None)

    def put_off(self, number: int, until_ms: int, reason: str | None = None) -> None:
        """Note that a notice was not accepted, why, and when to try again."""
        with self._lock:
            if (entry := self._entries.get(number)) is not None:
                later = replace(entry.posted.notice, available_at_ms=until_ms)
                tried = entry.posted.attempts + 1
                now = replace(entry.posted, notice=later, attempts=tried, reason=reason)
                self._entries[number] = _Entry(now)

    def park(
        self, number: int, now_ms: int, reason: str, notices: Sequence[Notice] = ()
    ) -> Sequence[Notice]:
        """Give a notice up until somebody revives it."""
        with self._lock:
            entry = self._entries.get(number)
            if entry is None or entry.posted.parked_at_ms is not None:
                return ()
            tried = entry.posted.attempts + 1
            now = replace(entry.posted, parked_at_ms=now_ms, reason=reason, attempts=tried)
            self._entries[number] = _Entry(now)
            return self._post(notices)

    def give_back_notices(self, owner: str) -> None:
        """End the leases that somebody holds."""
        with self._lock:
            for entry in self._entries.values():
                if entry.owner == owner:
                    entry.owner, entry.until_ms = None, 0

    def notices(self, query: NoticeQuery) -> Sequence[Posted]:
        """Return open entries, oldest first."""
        with self._lock:
            found = [
                entry.posted
                for number, entry in sorted(self._entries.items())
                if number > query.after
                and query.topic in (None, entry.posted.notice.topic)
                and query.payment_id in (None, entry.posted.notice.payment_id)
                and query.parked in (None, entry.posted.parked_at_ms is not None)
            ]
        return found[: query.limit]

    def revive(self, number: int, now_ms: int) -> bool:
        """Have an open entry tried again from now on."""
        with self._lock:
            if (entry := self._entries.get(number)) is None:
                return False
            now = replace(entry.posted.notice, available_at_ms=now_ms)
            entry.posted = replace(entry.posted, notice=now, attempts=0, parked_at_ms=None)
            return True

    def dismiss(self, number: int, now_ms: int, reason: str) -> bool:
        """Close an open entry without telling it."""
        del now_ms, reason
        with self._lock:
            return self._entries.pop(number, None) is not None

    def _due(self, topic: Topic, now_ms: int) -> list[_Entry]:
        due = [entry for entry in self._entries.values() if entry.is_due(topic, now_ms)]
        return sorted(due, key=lambda e: (e.posted.notice.available_at_ms, e.posted.number))

    def _post(self, notices: Sequence[Notice]) -> tuple[Notice, ...]:
        new: list[Notice] = []
        for notice in notices:
            key = (notice.tenant, notice.topic, notice.dedupe_key)
            if key not in self._keys:
                number = self._keys[key] = len(self._keys) + 1
                self._entries[number] = _Entry(Posted(number, notice, 0))
                new.append(notice)
        return tuple(new)
