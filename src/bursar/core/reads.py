"""Which records a command needs: the prefetch plan of a batch.

The rule that lives here: a store loads, and on PostgreSQL locks, exactly what is named
here, sorted, in one order for everybody. Four things follow from what is loaded rather
than from the command and belong to every store: the reservation behind a recorded
answer, the budgets a loaded reservation holds, the active policies of a named tenant, and
the meters of a metered scope and of a loaded reservation's scope path.
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
    CreatePolicy,
    Debit,
    Decide,
    Expire,
    Extend,
    Release,
    Reserve,
    RevokeKey,
    UpdateKey,
    UpdatePolicy,
)


@dataclass(slots=True)
class Reads:
    """Keys to load. `whole_tenants` asks for everything live that these tenants own.

    Policies are named by (tenant, id) or (tenant, name), whatever their status. `metered`
    holds the scopes whose meters a command may move.
    """

    tenants: set[str] = field(default_factory=set)
    scopes: set[tuple[str, str]] = field(default_factory=set)
    reservations: set[tuple[str, str]] = field(default_factory=set)
    keys: set[tuple[str, str]] = field(default_factory=set)
    policies: set[tuple[str, str]] = field(default_factory=set)
    policy_names: set[tuple[str, str]] = field(default_factory=set)
    metered: set[tuple[str, str]] = field(default_factory=set)
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
                if isinstance(command, Reserve) and not command.dry_run:
                    reads.metered.add((tenant, command.scopes[-1]))
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
            case CreatePolicy():
                reads.policy_names.add((tenant, command.record.name))
            case UpdatePolicy():
                reads.policies.add((tenant, command.policy_id))
                if command.name is not None:
                    reads.policy_names.add((tenant, command.name))
            case CloseTenant():
                reads.whole_tenants.add(tenant)
            case _:
                pass
    return reads
