"""The audit holds each roll to the state before it, even in a log that was sealed again."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from bursar.authority.render import render
from bursar.core.commands import CreateBudget, CreateTenant, Debit
from bursar.core.entry import Entry, digest
from bursar.core.state import GENESIS, Budget, Head, Renewal, Tenant
from bursar.ledger.audit import audit
from bursar.ledger.service import Ledger
from bursar.testing import FakeClock, MemoryStore
from bursar.testing.clock import START_MS
from bursar.testing.memory_reader import MemoryReader
from bursar.vocabulary import BudgetStatus, Every, RolloverPolicy, TenantStatus, Unit

SCOPE, LENGTH_MS = "tenant:acme", 10_000
ALLOCATED, RESERVED, SPENT, DEBT, PERIOD = 3, 4, 5, 6, 9
Change = Callable[[dict[str, Any]], object]


def rolled() -> MemoryReader:
    """Return a ledger in which a budget spent 30 of 100, then carried 70 into its next period."""
    store, clock = MemoryStore(), FakeClock()
    ledger = Ledger(store, clock, render)
    made = Budget(
        tenant="acme",
        scope=SCOPE,
        unit=Unit.TOKENS,
        ledger_id="ldg_1",
        allocated=100,
        remaining=100,
        reserved=0,
        spent=0,
        debt=0,
        overdraft_limit=0,
        is_over_limit=False,
        status=BudgetStatus.ACTIVE,
        created_at_ms=0,
        updated_at_ms=0,
        rollover_policy=RolloverPolicy.CARRY_FORWARD,
        period_start_ms=START_MS,
        period_end_ms=START_MS + LENGTH_MS,
        renewal=Renewal(Every.ROLLING, None, 100),
    )
    owner = Tenant("acme", "Acme", TenantStatus.ACTIVE, 0)
    ledger.execute([CreateTenant(tenant="acme", record=owner)])
    ledger.execute([CreateBudget(tenant="acme", budget=made), debit("a", 30)])
    clock.advance_ms(LENGTH_MS)
    ledger.execute([debit("b", 1)])
    return store.reader


def debit(name: str, amount: int) -> Debit:
    return Debit(
        tenant="acme",
        event_id=name,
        unit=Unit.TOKENS,
        actual_amount=amount,
        scopes=(SCOPE,),
        subject="{}",
        action="{}",
    )


class Resealed:
    """A reader whose log says something else of the roll, with every hash made right again."""

    def __init__(self, sound: MemoryReader, change: Change) -> None:
        self._sound = sound
        self._log: list[Entry] = []
        head = GENESIS
        for entry in sound.entries("acme"):
            said = json.loads(entry.changes)
            if entry.verb == "Roll":
                change(said)
            again = replace(entry, prev_hash=head.entry_hash, changes=json.dumps(said))
            again = replace(again, entry_hash=digest(again))
            self._log.append(again)
            head = Head(again.seq, again.entry_hash, again.at_ms)
        self._heads = {"acme": head}

    def heads(self) -> dict[str, Head]:
        return self._heads

    def entries(self, tenant: str, after_seq: int = 0) -> Iterator[Entry]:
        return iter([entry for entry in self._log if entry.seq > after_seq])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sound, name)


def state(place: int, value: object) -> Change:
    return lambda said: said["budgets"][0].__setitem__(place, value)


def period(place: int, value: object) -> Change:
    return lambda said: said["budgets"][0][PERIOD].__setitem__(place, value)


FALSE: dict[str, tuple[Change, str]] = {
    "more was given": (state(ALLOCATED, 999), "does not follow from"),
    "a hold appeared": (state(RESERVED, 5), "does not follow from"),
    "spend was kept": (state(SPENT, 30), "does not follow from"),
    "a debt appeared": (state(DEBT, 5), "does not follow from"),
    "another allocation": (period(4, 5), "does not follow from"),
    "another policy": (period(5, "NONE"), "does not follow from"),
    "more periods": (lambda said: said["asked"].update(periods=2), "does not follow from"),
    "before its time": (period(0, START_MS + 1), "before the last one's end"),
    "no plan": (lambda said: said["budgets"][0].pop(), "has changes that cannot be read"),
}


def test_a_sound_roll_has_no_finding() -> None:
    """Sealing again by itself changes nothing, so what the cases find is the falsehood."""
    reader: Any = Resealed(rolled(), lambda said: None)
    assert [entry.verb for entry in reader.entries("acme")].count("Roll") == 1
    assert audit(reader).findings == ()


@pytest.mark.parametrize("case", FALSE)
def test_a_false_roll_is_found(case: str) -> None:
    """Its own entry is named, not only a state that comes after it."""
    change, expected = FALSE[case]
    reader: Any = Resealed(rolled(), change)
    found = audit(reader).findings
    assert any("entry 4 " in finding and expected in finding for finding in found), found
