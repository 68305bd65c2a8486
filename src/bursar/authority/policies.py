"""Policies on the admin plane: create, list, change (protocol 10.3).

The rule that lives here: a policy is one tenant's. An operator names the tenant it creates
or lists for; a policy's id says whose it is. A key with a scope filter manages only policies
that cannot reach beyond the filter.
"""

from __future__ import annotations

from bursar import ids
from bursar.authority import render
from bursar.authority.admin import may, owner
from bursar.authority.authority import Authority, origin, require_reach
from bursar.authority.call import Answer, Call, refuse
from bursar.authority.paging import Query
from bursar.core import scopes
from bursar.core.commands import CreatePolicy, UpdatePolicy
from bursar.core.state import LeaseRule, Policy, RateLimits
from bursar.ledger.ports import PolicyQuery
from bursar.vocabulary import ErrorCode, Permission, PolicyStatus
from bursar.wire import policies as wire
from bursar.wire.codec import canonical, decode
from bursar.wire.runtime import Caps
from bursar.wire.timestamps import parse_timestamp

CAPS_BYTES_MAX = 16_384


async def create_policy(authority: Authority, call: Call) -> Answer:
    """`POST /v1/admin/policies`: the name is the tenant's own, its second use is 409."""
    may(call, Permission.POLICIES_WRITE)
    request = decode(wire.PolicyCreateRequest, call.body)
    record = record_of(request, owner(call, request.tenant_id), ids.prefixed_id("pol_"))
    require_reach(call.principal, record.scope_pattern)
    command = CreatePolicy(tenant=record.tenant, origin=origin(call, on_behalf=True), record=record)
    return await authority.answer(command)


def record_of(request: wire.PolicyCreateRequest, tenant: str, policy_id: str) -> Policy:
    """Return the policy that a request asks for; the ledger dates it.

    Raises:
        Refusal: its pattern or its caps cannot be used.
    """
    pattern = request.scope_pattern
    problem = scopes.pattern_problem(pattern, tenant)
    if problem is not None:
        raise refuse(ErrorCode.INVALID_REQUEST, f"scope_pattern: {problem}")
    return Policy(
        tenant=tenant,
        policy_id=policy_id,
        name=request.name,
        scope_pattern=pattern.lower(),
        status=PolicyStatus.ACTIVE,
        created_at_ms=0,
        updated_at_ms=0,
        priority=request.priority,
        description=request.description,
        caps=_caps(request.caps),
        overage_policy=request.commit_overage_policy,
        lease=_lease(request.reservation_ttl_override) or LeaseRule(),
        rates=_rates(request.rate_limits) or RateLimits(),
        effective_from_ms=_time(request.effective_from),
        effective_until_ms=_time(request.effective_until),
    )


async def list_policies(authority: Authority, call: Call) -> Answer:
    """`GET /v1/admin/policies`: a tenant's own, or those of the tenant the operator names."""
    may(call, Permission.POLICIES_READ)
    query = Query(call.query)
    tenant = call.principal.tenant or query.text("tenant_id")
    if tenant is None:
        raise refuse(
            ErrorCode.INVALID_REQUEST,
            "tenant_id: query parameter is required when using admin key authentication",
        )
    query.filters["tenant_id"] = tenant
    wanted = PolicyQuery(
        tenant=tenant,
        within=call.principal.scope_filter,
        scope_pattern=(query.text("scope_pattern") or "").lower() or None,
        status=query.choice("status", PolicyStatus),
        limit=query.limit(100),
        after=query.after("policies"),
    )
    page = authority.reader.policies(wanted)
    rows = [render.policy(row) for row in page.rows]
    return Answer(200, query.page("policies", rows, page))


async def update_policy(authority: Authority, call: Call) -> Answer:
    """`PATCH /v1/admin/policies/{policy_id}`: what is absent stays as it is."""
    may(call, Permission.POLICIES_WRITE)
    request = decode(wire.PolicyUpdateRequest, call.body)
    policy_id = call.path["policy_id"]
    row = authority.reader.policy(policy_id)
    if row is None:
        raise refuse(ErrorCode.NOT_FOUND, f"Policy not found: {policy_id[:80]}")
    if call.principal.tenant not in (None, row.tenant):
        raise refuse(ErrorCode.FORBIDDEN, f"Policy {policy_id} belongs to another tenant")
    require_reach(call.principal, row.scope_pattern)
    command = UpdatePolicy(
        tenant=row.tenant,
        origin=origin(call, on_behalf=True),
        policy_id=policy_id,
        name=request.name,
        description=request.description,
        status=request.status,
        priority=request.priority,
        caps=_caps(request.caps),
        overage_policy=request.commit_overage_policy,
        lease=_lease(request.reservation_ttl_override),
        rates=_rates(request.rate_limits),
        effective_from_ms=_time(request.effective_from),
        effective_until_ms=_time(request.effective_until),
    )
    return await authority.answer(command)


def _caps(caps: Caps | None) -> str | None:
    """Return caps as canonical JSON; they travel with, and are logged with, every reserve."""
    if caps is None:
        return None
    text = canonical(caps.model_dump(exclude_none=True)).decode()
    if len(text) > CAPS_BYTES_MAX:
        raise refuse(
            ErrorCode.INVALID_REQUEST,
            f"caps: must be at most {CAPS_BYTES_MAX} bytes as JSON, got {len(text)}; list fewer "
            "tools",
        )
    return text


def _lease(override: wire.ReservationTtlOverride | None) -> LeaseRule | None:
    if override is None:
        return None
    return LeaseRule(override.default_ttl_ms, override.max_ttl_ms, override.max_extensions)


def _rates(limits: wire.RateLimits | None) -> RateLimits | None:
    if limits is None:
        return None
    return RateLimits(limits.max_reservations_per_minute, limits.max_commits_per_minute)


def _time(text: str | None) -> int | None:
    return None if text is None else parse_timestamp(text)
