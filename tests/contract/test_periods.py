"""Budgets whose period is over, on every store: who is due, and that each period ends once."""

import contextlib
import sqlite3
import threading
from dataclasses import replace
from typing import Any

from bursar.authority.render import render
from bursar.core.commands import CreateBudget, CreateTenant, Debit
from bursar.core.state import Budget, Renewal
from bursar.ledger import periods
from bursar.ledger.audit import audit
from bursar.ledger.ports import Store
from bursar.ledger.service import Accepted, Ledger
from bursar.testing import FakeClock
from bursar.vocabulary import BudgetStatus, Every, RolloverPolicy
from contract.backends import Backend, Sqlite
from contract.records import NOW_MS, TOKENS, budget, put, tenant

SCOPE = "tenant:acme"
LENGTH_MS = 10_000
BOUNDARIES = 20
ROLLERS = 6


def renewing(scope: str = SCOPE, ends_in_ms: int = LENGTH_MS, **changes: Any) -> Budget:
    """Return a budget of 1000 in a rolling period that began now."""
    return budget(
        scope,
        **{
            "rollover_policy": RolloverPolicy.CARRY_FORWARD,
            "period_start_ms": NOW_MS,
            "period_end_ms": NOW_MS + ends_in_ms,
            "renewal": Renewal(Every.ROLLING, None, 1_000),
        }
        | changes,
    )


def debit(name: str) -> Debit:
    return Debit(
        tenant="acme",
        event_id=name,
        unit=TOKENS,
        actual_amount=1,
        scopes=(SCOPE,),
        subject="{}",
        action="{}",
    )


def rolls(store: Store) -> int:
    return [entry.verb for entry in store.reader.entries("acme")].count("Roll")


def test_who_is_due(store: Store) -> None:
    """Earliest end first, from the last millisecond on, open ones that renew themselves alone."""
    put(
        store,
        tenant(),
        renewing(),
        renewing(f"{SCOPE}/agent:early", 5_000),
        renewing(f"{SCOPE}/agent:closed", 1, status=BudgetStatus.CLOSED),
        replace(renewing(f"{SCOPE}/agent:plain", 1), renewal=None),
        renewing("tenant:other", 7_000, tenant="other"),
    )

    def due(after_ms: int, limit: int = 9, owner: str | None = None) -> list[str]:
        found = store.reader.ended(NOW_MS + after_ms, limit, owner)
        return [row.scope for row in found]

    assert due(4_999) == []
    assert due(5_000) == [f"{SCOPE}/agent:early"]
    assert due(LENGTH_MS) == [f"{SCOPE}/agent:early", "tenant:other", SCOPE]
    assert due(LENGTH_MS, limit=1) == [f"{SCOPE}/agent:early"]
    assert due(LENGTH_MS, owner="acme") == [f"{SCOPE}/agent:early", SCOPE]
    assert due(LENGTH_MS, owner="nobody") == []


def test_sqlite_finds_them_by_their_index(durable: Backend) -> None:
    """A read of one tenant with many budgets that never renew must not look at each of them."""
    assert isinstance(durable, Sqlite), "how another database finds them is for it to show"
    store = durable.new()
    asked: list[str] = []
    connection = store.reader._connection()  # type: ignore[attr-defined] # its plan, not its rows
    connection.set_trace_callback(asked.append)
    store.reader.ended(NOW_MS, 9)
    store.reader.ended(NOW_MS, 9, "acme")
    connection.set_trace_callback(None)
    with contextlib.closing(sqlite3.connect(durable.path(durable.name_of(store)))) as beside:
        for sql in asked:
            plan = beside.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall()
            assert "USING INDEX budget_ended" in plan[0][-1], (sql, plan)
    assert len(asked) == 2


def test_rollers_that_meet_roll_once(backend: Backend) -> None:
    """Jobs and late commands race over each boundary: one roll each, and nothing is lost."""
    store = backend.new()
    clock = FakeClock(NOW_MS)
    ledger = Ledger(store, clock, render)
    put(store, tenant(), renewing())
    meet = threading.Barrier(ROLLERS, lambda: clock.advance_ms(LENGTH_MS))
    part = threading.Barrier(ROLLERS)
    wrong: list[object] = []

    def work(number: int) -> None:
        for boundary in range(BOUNDARIES):
            meet.wait(30)
            if number % 2:
                ledger.execute(periods.plan(store.reader, clock.now_ms(), "t" * 32))
            else:
                [outcome] = ledger.execute([debit(f"{number}-{boundary}")])
                if not isinstance(outcome, Accepted):
                    wrong.append(outcome)
            part.wait(30)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(ROLLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert rolls(store) == BOUNDARIES
    row = store.reader.budget("acme", SCOPE, TOKENS)
    assert row is not None
    spent_before = (BOUNDARIES - 1) * (ROLLERS // 2)
    assert (row.allocated, row.spent) == (1_000 * (BOUNDARIES + 1) - spent_before, ROLLERS // 2)


def test_the_audit_follows_a_budget_through_its_periods(store: Store) -> None:
    """A budget that was made by command and rolled over ten periods at once has no finding."""
    clock = FakeClock(NOW_MS)
    ledger = Ledger(store, clock, render)
    ledger.execute([CreateTenant(tenant="acme", record=tenant())])
    ledger.execute([CreateBudget(tenant="acme", budget=renewing()), debit("a")])
    clock.advance_ms(10 * LENGTH_MS)
    ledger.execute([debit("b")])
    assert rolls(store) == 1
    assert audit(store.reader).findings == ()
