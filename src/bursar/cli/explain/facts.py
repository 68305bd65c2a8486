"""What the server shows of a path: its tenant, budgets and policies, as the core's records.

The rule that lives here: what a key may not read is missing, and said to be missing; it is
never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from bursar.cli.exits import EXIT_CREDENTIAL, EXIT_NOT_FOUND, CommandError
from bursar.cli.explain.question import Question
from bursar.cli.remote.caller import As, Caller, part
from bursar.core import throttle
from bursar.core.policy import governing
from bursar.core.snapshot import Snapshot
from bursar.core.state import Budget, LeaseRule, Policy, RateLimits, Tenant
from bursar.vocabulary import (
    SCOPE_KINDS,
    BudgetStatus,
    MeterKind,
    OveragePolicy,
    PolicyStatus,
    TenantStatus,
    Unit,
)
from bursar.wire.codec import canonical
from bursar.wire.timestamps import format_timestamp, parse_timestamp

Json = dict[str, Any]
POLICIES_READ_MAX = 10_000
PAGE_MAX = 100
COUNT_MAX = 10_000
COUNT_PAGE_MAX = 200


@dataclass(slots=True)
class Facts:
    """What could be read, and notes of what could not."""

    snapshot: Snapshot = field(default_factory=Snapshot)
    notes: list[str] = field(default_factory=list)
    tenant_is_unknown: bool = False


def gather(caller: Caller, question: Question, now_ms: int) -> Facts:
    """Read everything that the question depends on, with the operator's key if there is one."""
    facts = Facts()
    tenant = question.tenant
    if caller.is_operator():
        row = _maybe(caller, f"/v1/admin/tenants/{part(tenant)}", {}, As.OPERATOR)
        facts.tenant_is_unknown = row is None
        if row is not None:
            facts.snapshot.tenants[tenant] = _tenant(row)
    for scope in question.path:
        for budget in _at(caller, tenant, scope):
            facts.snapshot.budgets[tenant, budget.scope, budget.unit] = budget
    try:
        query = {"tenant_id": tenant if caller.is_operator() else None, "status": "ACTIVE"}
        rows = caller.pages(
            "/v1/admin/policies", query, "policies", at_most=POLICIES_READ_MAX, page_max=PAGE_MAX
        ).rows
        facts.snapshot.policies[tenant] = tuple(_policy(tenant, row) for row in rows)
    except CommandError as error:
        if error.code != EXIT_CREDENTIAL:
            raise
        facts.notes.append("policies are not shown: this key may not read them (policies:read)")
    _count(caller, question, facts, now_ms)
    return facts


def _count(caller: Caller, question: Question, facts: Facts, now_ms: int) -> None:
    """Count what a rate limit has counted this minute: the reservations made at this scope.

    No request tells what a limit has left, and a decision does not know limits, so the
    reservations that were accepted are counted as the ledger counted them.
    """
    policies = facts.snapshot.owned_policies(question.tenant)
    rules = governing(policies, question.path[-1], now_ms)
    limit = throttle.limit(facts.snapshot, rules, question.path[-1], MeterKind.RESERVE, now_ms)
    if limit is None:
        return
    # What was reserved before the policy existed was not counted.
    since_ms = max(limit.window_start_ms, limit.policy.created_at_ms)
    query = {kind: question.subject.get(kind) for kind in SCOPE_KINDS}
    query |= {"from": format_timestamp(since_ms)}
    try:
        rows = caller.pages(
            "/v1/reservations", query, "reservations", at_most=COUNT_MAX, page_max=COUNT_PAGE_MAX
        ).rows
    except CommandError as error:
        if error.code != EXIT_CREDENTIAL:
            raise
        facts.notes.append(
            f"policy {limit.policy.name} allows {limit.per_minute_max} reservations per minute; "
            "whether they are used up is not known: this key may not list reservations "
            "(reservations:list)"
        )
        return
    counted = sum(row.get("scope_path") == question.path[-1] for row in rows)
    meter = replace(limit, counted=counted - 1).counted_once_more()
    where = (meter.tenant, meter.scope_path, meter.policy_id, meter.kind)
    facts.snapshot.meters[where] = meter


def _at(caller: Caller, tenant: str, scope: str) -> Iterable[Budget]:
    """Return the budgets of one scope, in every unit: the first rows of those at and below it."""
    units = len(Unit)
    if caller.is_operator():
        query = {"tenant_id": tenant, "sort_by": "scope", "sort_dir": "asc"}
        page = caller.get("/v1/admin/budgets", {**query, "scope_prefix": scope, "limit": units})
        rows = page.get("ledgers", [])
    else:
        page = caller.get("/v1/balances", {"scope_prefix": scope, "limit": units}, who=As.TENANT)
        rows = page.get("ledgers", page.get("balances", []))
    return [_budget(tenant, row) for row in rows if row["scope_path"] == scope]


def _maybe(caller: Caller, path: str, query: Json, who: As) -> Json | None:
    try:
        return caller.get(path, query, who=who)
    except CommandError as error:
        if error.code != EXIT_NOT_FOUND:
            raise
        return None


def _tenant(row: Json) -> Tenant:
    overage = row.get("default_commit_overage_policy")
    return Tenant(
        tenant_id=row["tenant_id"],
        name=row.get("name", ""),
        status=TenantStatus(row["status"]),
        created_at_ms=0,
        overage_policy=OveragePolicy(overage) if overage else None,
    )


def _budget(tenant: str, row: Json) -> Budget:
    overage = row.get("commit_overage_policy")

    def of(name: str) -> int:
        return int(row[name]["amount"]) if name in row else 0

    return Budget(
        tenant=tenant,
        scope=row["scope_path"],
        unit=Unit(row["unit"]),
        ledger_id=row.get("ledger_id", ""),
        allocated=of("allocated"),
        remaining=of("remaining"),
        reserved=of("reserved"),
        spent=of("spent"),
        debt=of("debt"),
        overdraft_limit=of("overdraft_limit"),
        is_over_limit=bool(row.get("is_over_limit", False)),
        status=BudgetStatus(row["status"]),
        created_at_ms=0,
        updated_at_ms=0,
        overage_policy=OveragePolicy(overage) if overage else None,
    )


def _policy(tenant: str, row: Json) -> Policy:
    lease, rates = row.get("reservation_ttl_override", {}), row.get("rate_limits", {})
    overage = row.get("commit_overage_policy")
    caps = row.get("caps")

    def time_of(name: str) -> int | None:
        return parse_timestamp(row[name]) if row.get(name) else None

    return Policy(
        tenant=tenant,
        policy_id=row["policy_id"],
        name=row.get("name", ""),
        scope_pattern=row["scope_pattern"],
        status=PolicyStatus(row["status"]),
        created_at_ms=time_of("created_at") or 0,
        updated_at_ms=0,
        priority=row.get("priority", 0),
        caps=canonical(caps).decode() if caps else None,
        overage_policy=OveragePolicy(overage) if overage else None,
        lease=LeaseRule(
            lease.get("default_ttl_ms"), lease.get("max_ttl_ms"), lease.get("max_extensions")
        ),
        rates=RateLimits(
            rates.get("max_reservations_per_minute"), rates.get("max_commits_per_minute")
        ),
        effective_from_ms=time_of("effective_from"),
        effective_until_ms=time_of("effective_until"),
    )
