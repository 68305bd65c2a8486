"""What one unit of work can see: loaded records, overlaid with the changes made so far.

The rule that lives here: a verb reads the world only through a snapshot, and a snapshot
holds everything that `reads` named. Asking for a record that was not loaded is a bug, not
an absence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bursar.core.outcomes import Changes
from bursar.core.state import (
    GENESIS,
    ApiKey,
    Budget,
    Head,
    Meter,
    Policy,
    Recorded,
    Reservation,
    Tenant,
)
from bursar.vocabulary import MeterKind, Unit

BudgetKey = tuple[str, str, Unit]
RecordKey = tuple[str, str, str]
MeterKey = tuple[str, str, str, MeterKind]


@dataclass(slots=True)
class Snapshot:
    """Records by key. Built by a store, merged into by the service, read by the verbs."""

    tenants: dict[str, Tenant] = field(default_factory=dict)
    budgets: dict[BudgetKey, Budget] = field(default_factory=dict)
    reservations: dict[tuple[str, str], Reservation] = field(default_factory=dict)
    keys: dict[tuple[str, str], ApiKey] = field(default_factory=dict)
    policies: dict[str, tuple[Policy, ...]] = field(default_factory=dict)
    meters: dict[MeterKey, Meter] = field(default_factory=dict)
    recorded: dict[RecordKey, Recorded] = field(default_factory=dict)
    heads: dict[str, Head] = field(default_factory=dict)

    def tenant(self, tenant_id: str) -> Tenant | None:
        """Return the tenant's record, or None if it has none."""
        return self.tenants.get(tenant_id)

    def budget(self, tenant: str, scope: str, unit: Unit) -> Budget | None:
        """Return one budget, or None."""
        return self.budgets.get((tenant, scope, unit))

    def along(self, tenant: str, scopes: Iterable[str], unit: Unit) -> tuple[Budget, ...]:
        """Return the budgets in `unit` along `scopes`, outermost first, skipping gaps."""
        found = (self.budgets.get((tenant, scope, unit)) for scope in scopes)
        return tuple(budget for budget in found if budget is not None)

    def units_at(self, tenant: str, scope: str) -> tuple[Unit, ...]:
        """Return the units that a scope has budgets in, in the protocol's order."""
        return tuple(unit for unit in Unit if (tenant, scope, unit) in self.budgets)

    def reservation(self, tenant: str, reservation_id: str) -> Reservation | None:
        """Return the tenant's reservation, or None."""
        return self.reservations.get((tenant, reservation_id))

    def key(self, tenant: str, key_id: str) -> ApiKey | None:
        """Return the tenant's API key, or None."""
        return self.keys.get((tenant, key_id))

    def owned_policies(self, tenant: str) -> tuple[Policy, ...]:
        """Return the tenant's active policies, and others that a command named."""
        return self.policies.get(tenant, ())

    def meter(self, tenant: str, scope_path: str, policy_id: str, kind: MeterKind) -> Meter | None:
        """Return what was counted last for a scope under a policy, or None."""
        return self.meters.get((tenant, scope_path, policy_id, kind))

    def head(self, tenant: str) -> Head:
        """Return the end of the tenant's log."""
        return self.heads.get(tenant, GENESIS)

    def owned_budgets(self, tenant: str) -> Sequence[Budget]:
        """Return every loaded budget of a tenant, by scope and unit."""
        mine = [budget for key, budget in self.budgets.items() if key[0] == tenant]
        return sorted(mine, key=lambda budget: (budget.scope, budget.unit))

    def owned_reservations(self, tenant: str) -> Sequence[Reservation]:
        """Return every loaded reservation of a tenant, by id."""
        mine = [row for key, row in self.reservations.items() if key[0] == tenant]
        return sorted(mine, key=lambda row: row.reservation_id)

    def owned_keys(self, tenant: str) -> Sequence[ApiKey]:
        """Return every loaded API key of a tenant, by id."""
        mine = [row for key, row in self.keys.items() if key[0] == tenant]
        return sorted(mine, key=lambda row: row.key_id)

    def merge(self, changes: Changes) -> None:
        """Overlay what a command changed, so that the next command sees it."""
        for tenant in changes.tenants:
            self.tenants[tenant.tenant_id] = tenant
        for budget in changes.budgets:
            self.budgets[budget.tenant, budget.scope, budget.unit] = budget
        for row in changes.reservations:
            self.reservations[row.tenant, row.reservation_id] = row
        for key in changes.keys:
            self.keys[key.tenant, key.key_id] = key
        for policy in changes.policies:
            others = self.owned_policies(policy.tenant)
            kept = (known for known in others if known.policy_id != policy.policy_id)
            self.policies[policy.tenant] = (*kept, policy)
        for meter in changes.meters:
            where = (meter.tenant, meter.scope_path, meter.policy_id, meter.kind)
            self.meters[where] = meter
