"""The terms a request runs under: overage, lease length, extensions, caps.

The rule that lives here (protocol 3.3, 4.2): the most specific source wins: the request,
then the matching policy, then the deepest budget that says so, then the tenant, then the
protocol's default. Terms are settled once, when a reservation is made, and stored with
it; later changes of a tenant do not reach back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bursar.core.state import Budget, Tenant
from bursar.vocabulary import (
    EXTENSIONS_MAX_DEFAULT,
    TTL_MS_CAP_DEFAULT,
    TTL_MS_DEFAULT,
    ExpiryPolicy,
    OveragePolicy,
)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a reservation or debit is bound by. `caps` is canonical JSON or None."""

    overage_policy: OveragePolicy
    ttl_ms: int
    extensions_max: int
    sweepable: bool
    caps: str | None = None


def terms(
    tenant: Tenant | None,
    budgets: Sequence[Budget],
    *,
    overage_policy: OveragePolicy | None = None,
    ttl_ms: int | None = None,
) -> Terms:
    """Return the terms for a request of `tenant` against `budgets` (outermost first).

    A requested lease longer than the tenant allows is shortened, not refused; the answer's
    expiry is what counts.
    """
    ttl_default_ms = tenant.ttl_default_ms if tenant else TTL_MS_DEFAULT
    ttl_max_ms = tenant.ttl_max_ms if tenant else TTL_MS_CAP_DEFAULT
    return Terms(
        overage_policy=overage_policy or _stored_overage(tenant, budgets),
        ttl_ms=min(ttl_ms if ttl_ms is not None else ttl_default_ms, ttl_max_ms),
        extensions_max=tenant.extensions_max if tenant else EXTENSIONS_MAX_DEFAULT,
        sweepable=tenant is None or tenant.expiry_policy is not ExpiryPolicy.MANUAL_CLEANUP,
    )


def _stored_overage(tenant: Tenant | None, budgets: Sequence[Budget]) -> OveragePolicy:
    for budget in reversed(budgets):
        if budget.overage_policy is not None:
            return budget.overage_policy
    if tenant is not None and tenant.overage_policy is not None:
        return tenant.overage_policy
    return OveragePolicy.ALLOW_IF_AVAILABLE
