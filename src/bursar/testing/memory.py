"""The ledger's store without a disk, for tests of whatever stands on a ledger.

The rule that lives here: it answers as a database does and adds nothing but faults to
order. It passes the contract suite of the real stores; it is not durable, and what it
holds is gone with the process.
"""

from __future__ import annotations

import secrets
from collections import deque
from dataclasses import dataclass

from bursar.core.reads import Reads
from bursar.core.trail import UNAUTHENTICATED
from bursar.ledger.ports import StoreError, StoreOutcomeUnknown, Work
from bursar.testing.memory_reader import MemoryReader
from bursar.testing.tables import Tables

PEPPER_BYTES = 32


@dataclass(frozen=True, slots=True)
class _Fault:
    """An error to come, and whether the transaction is saved in spite of it."""

    error: StoreError
    saved: bool


class MemoryStore:
    """A `Store` over dictionaries: thread-safe, atomic, with faults to order.

    >>> from bursar.ledger.ports import Saves
    >>> store = MemoryStore()
    >>> store.fail_next(StoreError("the disk is on fire"))
    >>> store.transact(Reads(), lambda snapshot: Saves())
    Traceback (most recent call last):
    bursar.ledger.ports.StoreError: the disk is on fire
    """

    def __init__(self) -> None:
        """Start empty."""
        self._tables = Tables()
        self._reader = MemoryReader(self._tables, secrets.token_bytes(PEPPER_BYTES))
        self._faults: deque[_Fault] = deque()
        self._reruns = 0

    @property
    def reader(self) -> MemoryReader:
        """Return the read side."""
        return self._reader

    def transact(self, reads: Reads, work: Work) -> None:
        """Load what `reads` names, run `work` on it, and save what it returns.

        Raises:
            StoreError: the store is closed, a fault was ordered, or an entry's place is
                taken; nothing was saved, unless the fault says so.
        """
        with self._tables.locked():
            while self._reruns:
                self._reruns -= 1
                work(self._tables.load(reads))
            saves = work(self._tables.load(reads))
            fault = self._faults.popleft() if self._faults else None
            if fault is None or fault.saved:
                self._tables.save(saves)
            if fault is not None:
                raise fault.error

    def forget_failures(self, *, of: str | None, before_ms: int, limit: int) -> int:
        """Delete old failures, a bounded number of them (see `ports.Store`)."""
        with self._tables.locked():
            old = sorted(
                (row.at_ms, where)
                for where, row in self._tables.failures.items()
                if row.at_ms < before_ms
                and (row.tenant == of if of is not None else row.tenant != UNAUTHENTICATED)
            )
            for _, where in old[:limit]:
                del self._tables.failures[where]
            return len(old[:limit])

    def close(self) -> None:
        """Refuse all further use; closing again does nothing."""
        self._tables.close()

    def fail_next(self, error: StoreError, *, saved: bool = False) -> None:
        """Make the next transaction raise `error` after its work has run.

        Calls add up: the second fault meets the transaction after the next.

        Args:
            error: what to raise.
            saved: save the transaction all the same, as when it reached the disk but the
                confirmation was lost. Only `StoreOutcomeUnknown` may hide that.

        Raises:
            ValueError: `saved` with an error that promises that nothing was saved.
        """
        if saved and not isinstance(error, StoreOutcomeUnknown):
            raise ValueError(
                f"{type(error).__name__} promises that nothing was saved; "
                "use StoreOutcomeUnknown with saved=True"
            )
        with self._tables.locked():
            self._faults.append(_Fault(error, saved))

    def rerun_next(self, times: int = 1) -> None:
        """Make the next transaction run its work `times` more and save the last run only.

        A database with many writers does so when it cannot serialize them.
        """
        with self._tables.locked():
            self._reruns += times
