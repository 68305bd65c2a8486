"""A ledger for one test: real, in memory, with a client of each kind and faults by script.

The rule that lives here: what a test asks of this object (budgets, charges, what is held)
goes to the ledger itself. Only what the clients send can be made to fail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from bursar.client.aio import AsyncCyclesClient
from bursar.client.embedded import MEMORY, AsyncEmbeddedLedger, EmbeddedLedger
from bursar.client.local import embedded_config
from bursar.client.models import Balance, ReservationSummary
from bursar.client.sync import CyclesClient
from bursar.client.typed import TypedCalls
from bursar.testing.faults import AsyncFaultyTransport, Faults, FaultyTransport
from bursar.vocabulary import Unit

TENANT = "default"
FAST: dict[str, Any] = {"retry_initial_delay": 0.02, "retry_max_delay": 0.2}
"""Tests wait for what is asked again; so it is asked again soon."""

CHARGES = {"Commit": "commit", "Debit": "event"}


@dataclass(frozen=True, slots=True)
class Charge:
    """One settlement that the ledger applied.

    Attributes:
        kind: `commit`, or `event`, which also stands for a commit that came too late.
        reservation_id: of a commit; None of an event.
        key: the idempotency key under which it was sent.
    """

    kind: str
    reservation_id: str | None
    key: str | None


class ScriptedLedger(Faults):
    """A fresh ledger in memory, its clients, and the script of what will go wrong.

    Attributes:
        client: a `CyclesClient` on the ledger.
        async_client: an `AsyncCyclesClient` on the same ledger.
        tenant: who spends.
    """

    def __init__(self, *, tenant: str = TENANT, **config: Any) -> None:
        """Open a ledger.

        Args:
            tenant: who spends.
            config: fields of `CyclesConfig` for both clients, such as `agent="bot"`.

        Raises:
            ValueError: a field is out of its range.
            TypeError: a field is unknown.
        """
        super().__init__()
        fields = embedded_config(MEMORY, tenant, {**FAST, **config})
        self.tenant = tenant
        self._ledger = ledger = EmbeddedLedger(MEMORY, tenant)
        blocking = FaultyTransport(ledger, self, owned=False)
        looping = AsyncFaultyTransport(AsyncEmbeddedLedger(ledger), self, owned=False)
        self.client = CyclesClient(fields, transport=blocking)
        self.async_client = AsyncCyclesClient(fields, transport=looping)

    def budget(
        self, allocated: str | int, scope: str | None = None, *, unit: Unit | str | None = None
    ) -> dict[str, Any]:
        """Create a budget and return it.

        Args:
            allocated: how much, as people write it (`20USD`, `1.5M tokens`), or an int64 of
                `unit`.
            scope: the path it limits, such as `tenant:default/agent:bot`; None is the tenant.
            unit: the unit of an int; None is USD_MICROCENTS.

        Raises:
            AmountError: the amount cannot be understood.
            CyclesProtocolError: it exists already (DUPLICATE_RESOURCE), or was refused.
        """
        return self._ledger.create_budget(allocated, scope=scope, unit=unit)

    def spent(self, scope: str | None = None, unit: Unit | str | None = None) -> int:
        """Return what was charged to a budget.

        Args:
            scope: the path that the budget limits; None is the tenant.
            unit: its unit; None is the unit of the only budget there.

        Raises:
            LookupError: there is no such budget, or there are several.
        """
        path = scope or f"tenant:{self.tenant}"
        all_of_them = self.balances()
        found = [
            one
            for one in all_of_them
            if one.scope_path == path and unit in (None, one.remaining.unit)
        ]
        if len(found) == 1:
            return found[0].spent.amount if found[0].spent else 0
        there = ", ".join(f"{one.scope_path} in {one.remaining.unit}" for one in all_of_them)
        asked = path if unit is None else f"{path} in {unit}"
        problem = "names several budgets; name the unit" if found else "has no budget"
        raise LookupError(f"{asked} {problem}; there are: {there or 'none'}")

    def reservations(self) -> list[ReservationSummary]:
        """Return all reservations of the tenant, in whatever state."""
        return list(self._calls.iter_reservations(tenant=self.tenant))

    def balances(self) -> list[Balance]:
        """Return the balances of all budgets of the tenant."""
        return list(self._calls.iter_balances(tenant=self.tenant))

    def charges(self) -> list[Charge]:
        """Return every settlement that the ledger applied, oldest first; a replay is none."""
        return [
            Charge(CHARGES[entry.verb], (entry.endpoint or "").partition(":")[2] or None, entry.key)
            for entry in self._ledger.reader.entries(self.tenant)
            if entry.verb in CHARGES
        ]

    def close(self) -> None:
        """Let go of the ledger; what the async client still asks about is forgotten with it."""
        self.clear()
        self.client.close()
        self.async_client._engine.settler.close()  # its event loop may be gone: nothing to await
        self._ledger.close()

    def __enter__(self) -> Self:
        """Return the ledger."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self.close()

    @property
    def _calls(self) -> TypedCalls:
        return TypedCalls(self._ledger.send)
