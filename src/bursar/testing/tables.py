"""What a `MemoryStore` holds, how it is loaded and saved, and the lock around both.

The rule that lives here: `save` checks everything before it changes anything, so a save
that fails leaves the tables as they were. Records are frozen, so handing them out is safe;
the dictionaries that hold them never leave this module.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from bursar.core.entry import Entry
from bursar.core.reads import Reads
from bursar.core.snapshot import BudgetKey, MeterKey, RecordKey, Snapshot
from bursar.core.state import (
    ApiKey,
    Budget,
    Head,
    Meter,
    Policy,
    Recorded,
    Reservation,
    Tenant,
    check,
)
from bursar.core.trail import Failure
from bursar.ledger.ports import Saves, StoreError
from bursar.vocabulary import KeyStatus, PolicyStatus, ReservationStatus, Unit

K = TypeVar("K")
V = TypeVar("V")


class Tables:
    """Every record by its key, behind one lock."""

    def __init__(self) -> None:
        """Start empty and open."""
        # Reentrant, so that `work` may ask the reader what is committed.
        self._lock = threading.RLock()
        self._open = True
        self.tenants: dict[str, Tenant] = {}
        self.budgets: dict[BudgetKey, Budget] = {}
        self.reservations: dict[tuple[str, str], Reservation] = {}
        self.keys: dict[tuple[str, str], ApiKey] = {}
        self.policies: dict[tuple[str, str], Policy] = {}
        self.meters: dict[MeterKey, Meter] = {}
        self.recorded: dict[RecordKey, Recorded] = {}
        self.heads: dict[str, Head] = {}
        self.entries: dict[str, dict[int, Entry]] = {}
        self.failures: dict[tuple[str, str], Failure] = {}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep everybody else out.

        Raises:
            StoreError: the store was closed.
        """
        with self._lock:
            if not self._open:
                raise StoreError("this MemoryStore is closed; make a new one")
            yield

    def close(self) -> None:
        """Refuse all further use."""
        with self._lock:
            self._open = False

    def load(self, reads: Reads) -> Snapshot:
        """Return a new snapshot of what `reads` names and of what follows from it."""
        snapshot = Snapshot(
            tenants=_pick(self.tenants, reads.tenants),
            keys=_pick(self.keys, reads.keys),
            recorded=_pick(self.recorded, reads.recorded),
            heads=_pick(self.heads, reads.tenants),
        )
        answered = {
            (where[0], answer.reservation_id)
            for where, answer in snapshot.recorded.items()
            if answer.reservation_id is not None
        }
        snapshot.reservations = _pick(self.reservations, reads.reservations | answered)
        if reads.whole_tenants:
            self._load_live(snapshot, reads.whole_tenants)
        scopes = reads.scopes | {
            (row.tenant, scope)
            for row in snapshot.reservations.values()
            for scope in row.budgeted_scopes
        }
        every_unit = ((tenant, scope, unit) for tenant, scope in scopes for unit in Unit)
        snapshot.budgets |= _pick(self.budgets, every_unit)
        snapshot.policies = self._load_policies(reads)
        metered = reads.metered | {
            (row.tenant, row.scope_path) for row in snapshot.reservations.values()
        }
        snapshot.meters = {
            where: meter for where, meter in self.meters.items() if where[:2] in metered
        }
        return snapshot

    def _load_policies(self, reads: Reads) -> dict[str, tuple[Policy, ...]]:
        """Return the active policies of the named tenants, and those that are named."""
        owned: dict[str, tuple[Policy, ...]] = {}
        for row in self.policies.values():
            if (
                (row.tenant in reads.tenants and row.status is PolicyStatus.ACTIVE)
                or (row.tenant, row.policy_id) in reads.policies
                or (row.tenant, row.name) in reads.policy_names
            ):
                owned[row.tenant] = (*owned.get(row.tenant, ()), row)
        return owned

    def _load_live(self, snapshot: Snapshot, tenants: set[str]) -> None:
        """Add all budgets of `tenants` and their active reservations and keys."""
        for row in self.reservations.values():
            if row.tenant in tenants and row.status is ReservationStatus.ACTIVE:
                snapshot.reservations[row.tenant, row.reservation_id] = row
        for key in self.keys.values():
            if key.tenant in tenants and key.status is KeyStatus.ACTIVE:
                snapshot.keys[key.tenant, key.key_id] = key
        for budget in self.budgets.values():
            if budget.tenant in tenants:
                snapshot.budgets[budget.tenant, budget.scope, budget.unit] = budget

    def save(self, saves: Saves) -> None:
        """Put every record of `saves` in its place, or none of them.

        Raises:
            StoreError: an entry's place in its tenant's log is taken.
            InvariantBroken: a budget contradicts itself.
        """
        fresh: dict[str, dict[int, Entry]] = {}
        for entry in saves.entries:
            log = fresh.setdefault(entry.tenant, {})
            if entry.seq in log or entry.seq in self.entries.get(entry.tenant, {}):
                raise StoreError(f"tenant {entry.tenant} already has an entry {entry.seq}")
            log[entry.seq] = entry
        for budget in saves.budgets.values():
            check(budget)
        # From here nothing fails.
        self.tenants |= saves.tenants
        self.budgets |= saves.budgets
        self.reservations |= saves.reservations
        self.keys |= saves.keys
        self.policies |= saves.policies
        self._forget_meters(saves.meters_from_ms)
        self.meters |= saves.meters
        self.heads |= saves.heads
        self.recorded |= {where: answer for where, (answer, _) in saves.recorded.items()}
        for failure in saves.failures:
            where = (failure.tenant, failure.request_id)
            known = self.failures.get(where, failure)
            self.failures[where] = replace(known, repeated=failure.repeated)
        for tenant, log in fresh.items():
            self.entries.setdefault(tenant, {}).update(log)

    def _forget_meters(self, from_ms: Mapping[str, int]) -> None:
        """Drop meters of windows that are over."""
        if from_ms:
            self.meters = {
                where: meter
                for where, meter in self.meters.items()
                if meter.window_start_ms >= from_ms.get(meter.tenant, 0)
            }


def _pick(table: Mapping[K, V], keys: Iterable[K]) -> dict[K, V]:
    return {key: table[key] for key in keys if key in table}
