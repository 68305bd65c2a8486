"""Create and change policies (protocol 10.3).

The rule that lives here: a name belongs to one policy of a tenant, whatever its status, and
a tenant has at most `POLICIES_ACTIVE_MAX` active policies, because every reservation looks
at all of them. There is no delete: a policy that was counted under stays in the log, and
DISABLED is how it ends.

| guard                                | create             | update          |
|--------------------------------------|--------------------|-----------------|
| tenant readable, not closed          | INTERNAL_ERROR, TENANT_CLOSED (both)  ||
| tenant, or policy, known             | TENANT_NOT_FOUND   | NOT_FOUND       |
| name not another policy's            | DUPLICATE_RESOURCE (both)             ||
| the window does not end before it begins | INVALID_REQUEST (both)            ||
| room for one more active policy      | INVALID_REQUEST (both)                ||
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bursar.core import guards
from bursar.core.commands import CreatePolicy, UpdatePolicy
from bursar.core.outcomes import Changes, PolicyAnswer, Refused
from bursar.core.snapshot import Snapshot
from bursar.core.state import Policy
from bursar.vocabulary import POLICIES_ACTIVE_MAX, ErrorCode, PolicyStatus

NO_CAPS = "{}"


@dataclass(frozen=True, slots=True)
class Rules:
    """A policy as the command will leave it, and whether that differs from what is stored."""

    policy: Policy
    changed: bool = True


def evaluate_create(snapshot: Snapshot, command: CreatePolicy, now_ms: int) -> Rules | Refused:
    """Decide whether the tenant may have the policy."""
    refusal = guards.tenant_closed(snapshot, command.tenant)
    if refusal is not None:
        return refusal
    if snapshot.tenant(command.tenant) is None:
        return Refused(ErrorCode.TENANT_NOT_FOUND, f"Tenant not found: {command.tenant}")
    new = replace(
        command.record,
        caps=_present(command.record.caps),
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
    )
    return _unfit(snapshot, new, None) or Rules(new)


def apply_create(command: CreatePolicy, rules: Rules, now_ms: int) -> Changes:
    """Save the policy."""
    del command, now_ms
    return Changes(PolicyAnswer(rules.policy, created=True), policies=(rules.policy,))


def evaluate_update(snapshot: Snapshot, command: UpdatePolicy, now_ms: int) -> Rules | Refused:
    """Decide what the policy becomes."""
    refusal = guards.tenant_closed(snapshot, command.tenant)
    if refusal is not None:
        return refusal
    owned = snapshot.owned_policies(command.tenant)
    before = next((row for row in owned if row.policy_id == command.policy_id), None)
    if before is None:
        return Refused(ErrorCode.NOT_FOUND, f"Policy not found: {command.policy_id}")
    after = _patched(before, command)
    if after == before:
        return Rules(before, changed=False)
    after = replace(after, updated_at_ms=now_ms)
    return _unfit(snapshot, after, before) or Rules(after)


def apply_update(command: UpdatePolicy, rules: Rules, now_ms: int) -> Changes:
    """Save the policy; a change to what it already says needs no log entry."""
    del command, now_ms
    if not rules.changed:
        return Changes(PolicyAnswer(rules.policy), recorded=False)
    return Changes(PolicyAnswer(rules.policy), policies=(rules.policy,))


def _patched(row: Policy, command: UpdatePolicy) -> Policy:
    return replace(
        row,
        name=row.name if command.name is None else command.name,
        description=row.description if command.description is None else command.description,
        status=command.status or row.status,
        priority=row.priority if command.priority is None else command.priority,
        caps=row.caps if command.caps is None else _present(command.caps),
        overage_policy=command.overage_policy or row.overage_policy,
        lease=command.lease or row.lease,
        rates=command.rates or row.rates,
        effective_from_ms=row.effective_from_ms
        if command.effective_from_ms is None
        else command.effective_from_ms,
        effective_until_ms=row.effective_until_ms
        if command.effective_until_ms is None
        else command.effective_until_ms,
    )


def _present(caps: str | None) -> str | None:
    return None if caps == NO_CAPS else caps


def _unfit(snapshot: Snapshot, row: Policy, before: Policy | None) -> Refused | None:
    """Say why a policy cannot be as `row` says, or None."""
    others = [
        known for known in snapshot.owned_policies(row.tenant) if known.policy_id != row.policy_id
    ]
    if any(known.name == row.name for known in others):
        return Refused(
            ErrorCode.DUPLICATE_RESOURCE,
            f"Policy already exists: name {row.name!r}; change it, or choose another name",
        )
    first, last = row.effective_from_ms, row.effective_until_ms
    if first is not None and last is not None and last < first:
        return Refused(
            ErrorCode.INVALID_REQUEST, "effective_until: must not be earlier than effective_from"
        )
    was_active = before is not None and before.status is PolicyStatus.ACTIVE
    if row.status is PolicyStatus.ACTIVE and not was_active:
        active = sum(known.status is PolicyStatus.ACTIVE for known in others)
        if active >= POLICIES_ACTIVE_MAX:
            return Refused(
                ErrorCode.INVALID_REQUEST,
                f"status: tenant {row.tenant} has {active} active policies, the most that one may "
                "have; disable one first",
                in_conflict=True,
            )
    return None
