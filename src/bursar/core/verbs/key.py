"""Register, change and revoke API keys.

The rule that lives here: a key never outlives its tenant's say. Closed tenants get no
keys, revoking is final, and a second revoke is told so (KEY_REVOKED). What has ended is
not changed any more.

| # | guard                       | create           | update         | revoke         |
|---|-----------------------------|------------------|----------------|----------------|
| 1 | tenant readable, not closed | INTERNAL_ERROR, TENANT_CLOSED | same | same       |
| 2 | tenant or key known         | TENANT_NOT_FOUND | NOT_FOUND      | NOT_FOUND      |
| 3 | not revoked                 | -                | KEY_REVOKED    | KEY_REVOKED    |
| 4 | not expired                 | INVALID_REQUEST  | KEY_EXPIRED    | -              |
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bursar.core import guards
from bursar.core.commands import CreateKey, RevokeKey, UpdateKey, edited
from bursar.core.outcomes import Changes, KeyAnswer, Refused
from bursar.core.snapshot import Snapshot
from bursar.core.state import ApiKey
from bursar.vocabulary import ErrorCode, KeyStatus


@dataclass(frozen=True, slots=True)
class Credential:
    """A key as the command will leave it."""

    key: ApiKey


@dataclass(frozen=True, slots=True)
class Update:
    """New properties that a key can take; equal ones where nothing changes."""

    before: ApiKey
    after: ApiKey


def evaluate_create(snapshot: Snapshot, command: CreateKey, now_ms: int) -> Credential | Refused:
    """Decide whether the tenant may have the key."""
    refusal = guards.tenant_closed(snapshot, command.tenant)
    if refusal is not None:
        return refusal
    if snapshot.tenant(command.tenant) is None:
        return Refused(ErrorCode.TENANT_NOT_FOUND, f"Tenant not found: {command.tenant}")
    if command.record.expires_at_ms <= now_ms:
        return Refused(
            ErrorCode.INVALID_REQUEST, "expires_at: must lie in the future, or be left out"
        )
    return Credential(replace(command.record, created_at_ms=now_ms))


def apply_create(command: CreateKey, plan: Credential, now_ms: int) -> Changes:
    """Save the key."""
    del command, now_ms
    return Changes(KeyAnswer(plan.key, created=True), keys=(plan.key,))


def evaluate_update(snapshot: Snapshot, command: UpdateKey, now_ms: int) -> Update | Refused:
    """Decide whether the key can be changed."""
    key = _unrevoked(snapshot, command.tenant, command.key_id)
    if isinstance(key, Refused):
        return key
    if key.status_at(now_ms) is KeyStatus.EXPIRED:
        return Refused(
            ErrorCode.KEY_EXPIRED,
            f"API key {command.key_id} has expired and cannot be changed; create a new one",
        )
    return Update(key, replace(key, **edited(command.edit)))


def apply_update(command: UpdateKey, plan: Update, now_ms: int) -> Changes:
    """Save the key; one that stays as it was needs no log entry."""
    del command, now_ms
    if plan.after == plan.before:
        return Changes(KeyAnswer(plan.before), recorded=False)
    return Changes(KeyAnswer(plan.after), keys=(plan.after,))


def evaluate_revoke(snapshot: Snapshot, command: RevokeKey, now_ms: int) -> Credential | Refused:
    """Decide whether the key can be revoked."""
    key = _unrevoked(snapshot, command.tenant, command.key_id)
    if isinstance(key, Refused):
        return key
    return Credential(
        replace(
            key,
            status=KeyStatus.REVOKED,
            revoked_at_ms=now_ms,
            revoked_reason=command.reason,
        )
    )


def apply_revoke(command: RevokeKey, plan: Credential, now_ms: int) -> Changes:
    """Save the key as revoked."""
    del command, now_ms
    return Changes(KeyAnswer(plan.key), keys=(plan.key,))


def _unrevoked(snapshot: Snapshot, tenant: str, key_id: str) -> ApiKey | Refused:
    refusal = guards.tenant_closed(snapshot, tenant)
    if refusal is not None:
        return refusal
    key = snapshot.key(tenant, key_id)
    if key is None:
        return Refused(ErrorCode.NOT_FOUND, f"API key not found: {key_id}")
    if key.status is KeyStatus.REVOKED:
        return Refused(ErrorCode.KEY_REVOKED, f"API key {key_id} is already revoked")
    return key
