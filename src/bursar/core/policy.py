"""The terms a request runs under: overage, lease length, extensions, caps.

The rule that lives here (protocol 3.3, 4.2): the most specific source wins: the request,
then the matching policy, then the deepest budget that says so, then the tenant, then the
protocol's default. Terms are settled once, when a reservation is made, and stored with
it; later changes of a policy or a tenant do not reach back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bursar.core import scopes
from bursar.core.state import Budget, Policy, Tenant
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


def governing(policies: Iterable[Policy], scope_path: str, now_ms: int) -> Policy | None:
    """Return the one policy that counts for a subject's deepest scope now, or None.

    The highest priority wins, then the longer pattern, then the smaller id. Policies are not
    merged: what the one that counts does not say, the budgets and the tenant say.
    """
    chosen: Policy | None = None
    for policy in policies:
        if chosen is not None and policy.priority < chosen.priority:
            continue  # the cheapest question first: this runs for every policy of every reserve
        if policy.acts_at(now_ms) and scopes.matches(policy.scope_pattern, scope_path):
            chosen = policy if chosen is None else min(chosen, policy, key=_rank)
    return chosen


def _rank(policy: Policy) -> tuple[int, int, str]:
    return -policy.priority, -len(policy.scope_pattern), policy.policy_id


def terms(
    tenant: Tenant | None,
    budgets: Sequence[Budget],
    policy: Policy | None = None,
    *,
    overage_policy: OveragePolicy | None = None,
    ttl_ms: int | None = None,
) -> Terms:
    """Return the terms for a request of `tenant` against `budgets` (outermost first).

    A requested lease longer than policy or tenant allow is shortened, not refused; the
    answer's expiry is what counts.
    """
    ttl_default_ms = tenant.ttl_default_ms if tenant else TTL_MS_DEFAULT
    ttl_max_ms = tenant.ttl_max_ms if tenant else TTL_MS_CAP_DEFAULT
    extensions_max = tenant.extensions_max if tenant else EXTENSIONS_MAX_DEFAULT
    if policy is not None:
        lease = policy.lease
        ttl_default_ms = _first(lease.ttl_default_ms, ttl_default_ms)
        ttl_max_ms = _first(lease.ttl_max_ms, ttl_max_ms)
        extensions_max = _first(lease.extensions_max, extensions_max)
        overage_policy = overage_policy or policy.overage_policy
    return Terms(
        overage_policy=overage_policy or _stored_overage(tenant, budgets),
        ttl_ms=min(_first(ttl_ms, ttl_default_ms), ttl_max_ms),
        extensions_max=extensions_max,
        sweepable=tenant is None or tenant.expiry_policy is not ExpiryPolicy.MANUAL_CLEANUP,
        caps=policy.caps if policy is not None else None,
    )


def _first(said: int | None, otherwise: int) -> int:
    return otherwise if said is None else said


def _stored_overage(tenant: Tenant | None, budgets: Sequence[Budget]) -> OveragePolicy:
    for budget in reversed(budgets):
        if budget.overage_policy is not None:
            return budget.overage_policy
    if tenant is not None and tenant.overage_policy is not None:
        return tenant.overage_policy
    return OveragePolicy.ALLOW_IF_AVAILABLE
