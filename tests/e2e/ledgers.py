"""A ledger in this process, and the commands that tests give it.

The rule that lives here: commands are made as the server makes them, with the same renderer,
so that a file written here is a file that a server would have written.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bursar.authority.render import render
from bursar.clock import Clock
from bursar.core.commands import (
    AnyCommand,
    Commit,
    CreateBudget,
    CreateTenant,
    Debit,
    Expire,
    Extend,
    Idempotency,
    Release,
    Reserve,
)
from bursar.core.state import Budget, Tenant
from bursar.ids import new_id
from bursar.ledger.service import Accepted, Ledger, Outcome
from bursar.storage.sqlite.store import SqliteStore
from bursar.testing import FakeClock
from bursar.vocabulary import BudgetStatus, OveragePolicy, TenantStatus, Unit

UNIT = Unit.TOKENS
TENANT = "acme"
TOP, BOT = "tenant:acme", "tenant:acme/agent:bot"
_numbers = itertools.count(1)


@contextmanager
def opened(path: Path, clock: Clock | None = None) -> Iterator[Ledger]:
    """Open a ledger file as an embedding program does."""
    store = SqliteStore.open(path)
    try:
        yield Ledger(store, clock or FakeClock(), render)
    finally:
        store.close()


def run(ledger: Ledger, command: AnyCommand) -> Accepted:
    """Execute one command that must be accepted."""
    outcome = attempt(ledger, command)
    assert isinstance(outcome, Accepted), outcome
    return outcome


def attempt(ledger: Ledger, command: AnyCommand) -> Outcome:
    """Execute one command and return whatever becomes of it."""
    [outcome] = ledger.execute([command])
    return outcome


def found(ledger: Ledger, allocated: int = 1_000_000) -> None:
    """Create the tenant and a budget at each of its two levels."""
    run(ledger, CreateTenant(tenant=TENANT, record=new_tenant()))
    for scope in (TOP, BOT):
        run(ledger, CreateBudget(tenant=TENANT, budget=new_budget(scope, allocated)))


def write_ledger(path: Path, clock: Clock | None = None, operations: int = 50) -> None:
    """Write a ledger with a bit of everything in it; some reservations stay open."""
    with opened(path, clock) as ledger:
        found(ledger)
        for number in range(operations):
            held = run(ledger, reserve(100)).reply.reservation_id
            assert held is not None
            if number % 4 == 0:
                run(ledger, release(held))
            elif number % 4 == 1:
                run(ledger, commit(held, 90))
            run(ledger, debit(7))


def reserve(
    estimate: int, key: str | None = None, *, ttl_ms: int = 60_000, grace_ms: int = 0
) -> Reserve:
    return Reserve(
        tenant=TENANT,
        idempotency=_identity("reserve", key),
        reservation_id=new_id(0),
        unit=UNIT,
        estimate_amount=estimate,
        scopes=(TOP, BOT),
        subject='{"agent":"bot","tenant":"acme"}',
        action='{"kind":"llm","name":"m"}',
        grace_ms=grace_ms,
        ttl_ms=ttl_ms,
        overage_policy=OveragePolicy.REJECT,
    )


def commit(reservation_id: str, actual: int, key: str | None = None) -> Commit:
    return Commit(
        tenant=TENANT,
        idempotency=_identity(f"commit:{reservation_id}", key),
        reservation_id=reservation_id,
        unit=UNIT,
        actual_amount=actual,
    )


def release(reservation_id: str, key: str | None = None) -> Release:
    identity = _identity(f"release:{reservation_id}", key)
    return Release(tenant=TENANT, idempotency=identity, reservation_id=reservation_id)


def extend(reservation_id: str, by_ms: int, key: str | None = None) -> Extend:
    identity = _identity(f"extend:{reservation_id}", key)
    return Extend(
        tenant=TENANT, idempotency=identity, reservation_id=reservation_id, extend_by_ms=by_ms
    )


def expire(reservation_id: str) -> Expire:
    return Expire(tenant=TENANT, reservation_id=reservation_id)


def debit(actual: int, key: str | None = None) -> Debit:
    return Debit(
        tenant=TENANT,
        idempotency=_identity("event", key),
        event_id=new_id(0),
        unit=UNIT,
        actual_amount=actual,
        scopes=(TOP, BOT),
        subject='{"agent":"bot","tenant":"acme"}',
        action='{"kind":"llm","name":"m"}',
    )


def _identity(endpoint: str, key: str | None) -> Idempotency:
    return Idempotency(endpoint, key or f"key-{next(_numbers)}", "f" * 64)


def new_tenant() -> Tenant:
    return Tenant(TENANT, "Acme", TenantStatus.ACTIVE, created_at_ms=0)


def new_budget(scope: str, allocated: int) -> Budget:
    return Budget(
        tenant=TENANT,
        scope=scope,
        unit=UNIT,
        ledger_id=f"ldg_{scope}",
        allocated=allocated,
        remaining=allocated,
        reserved=0,
        spent=0,
        debt=0,
        overdraft_limit=0,
        is_over_limit=False,
        status=BudgetStatus.ACTIVE,
        created_at_ms=0,
        updated_at_ms=0,
    )
