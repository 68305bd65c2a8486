"""Which records a command needs: the prefetch plan of a batch.

The rule that lives here: a store loads, and on PostgreSQL locks, exactly what is named
here, sorted, in one order for everybody. Two things follow from what is loaded rather
than from the command and belong to every store: the reservation behind a recorded
answer, and the budgets a loaded reservation holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from bursar.core.commands import (
    AnyCommand,
    BudgetCommand,
    CloseTenant,
    Commit,
    CreateBudget,
    CreateKey,
    Debit,
    Decide,
    Expire,
    Extend,
    Release,
    Reserve,
    RevokeKey,
    UpdateKey,
)


@dataclass(slots=True)
class Reads:
    """Keys to load. `whole_tenants` asks for everything live that these tenants own."""

    tenants: set[str] = field(default_factory=set)
    scopes: set[tuple[str, str]] = field(default_factory=set)
    reservations: set[tuple[str, str]] = field(default_factory=set)
    keys: set[tuple[str, str]] = field(default_factory=set)
    recorded: set[tuple[str, str, str]] = field(default_factory=set)
    whole_tenants: set[str] = field(default_factory=set)


def plan(commands: Iterable[AnyCommand]) -> Reads:
    """Return the union of what `commands` read."""
    reads = Reads()
    for command in commands:
        tenant = command.tenant
        reads.tenants.add(tenant)
        if command.idempotency is not None:
            identity = command.idempotency
            reads.recorded.add((tenant, identity.endpoint, identity.key))
        match command:
            case Reserve() | Decide() | Debit():
                reads.scopes.update((tenant, scope) for scope in command.scopes)
            case Commit() | Release() | Extend() | Expire():
                reads.reservations.add((tenant, command.reservation_id))
            case BudgetCommand():
                reads.scopes.add((tenant, command.scope))
            case CreateBudget():
                reads.scopes.add((tenant, command.budget.scope))
            case CreateKey():
                reads.keys.add((tenant, command.record.key_id))
            case UpdateKey() | RevokeKey():
                reads.keys.add((tenant, command.key_id))
            case CloseTenant():
                reads.whole_tenants.add(tenant)
            case _:
                pass
    return reads
