"""Register and revoke API keys.

The rule that lives here: a key never outlives its tenant's say. Closed tenants get no
keys, revoking is final, and a second revoke is told so (KEY_REVOKED).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bursar.core import guards
from bursar.core.commands import CreateKey, RevokeKey
from bursar.core.outcomes import Changes, KeyAnswer, Refused
from bursar.core.snapshot import Snapshot
from bursar.core.state import ApiKey
from bursar.vocabulary import ErrorCode, KeyStatus


@dataclass(frozen=True, slots=True)
class Credential:
    """A key as the command will leave it."""

    key: ApiKey


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


def evaluate_revoke(snapshot: Snapshot, command: RevokeKey, now_ms: int) -> Credential | Refused:
    """Decide whether the key can be revoked."""
    refusal = guards.tenant_closed(snapshot, command.tenant)
    if refusal is not None:
        return refusal
    key = snapshot.key(command.tenant, command.key_id)
    if key is None:
        return Refused(ErrorCode.NOT_FOUND, f"API key not found: {command.key_id}")
    if key.status is KeyStatus.REVOKED:
        return Refused(ErrorCode.KEY_REVOKED, f"API key {command.key_id} is already revoked")
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
