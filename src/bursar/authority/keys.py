"""API keys on the admin plane, and who the holder of one is (protocol 10.3, 6.7).

The rule that lives here: a secret leaves this server once, in the answer that makes the
key. Whatever else is told of a key is told without it.
"""

from __future__ import annotations

from bursar import ids
from bursar.authority.admin import maybe_json
from bursar.authority.authority import Authority, origin
from bursar.authority.call import Answer, Call, refuse
from bursar.authority.paging import Query
from bursar.authority.principal import capabilities, hash_secret
from bursar.core.commands import CreateKey, RevokeKey
from bursar.core.outcomes import KeyAnswer
from bursar.core.state import ApiKey
from bursar.invariant import require
from bursar.vocabulary import DEFAULT_PERMISSIONS, ErrorCode, KeyStatus
from bursar.wire import admin as wire
from bursar.wire.codec import decode, encode
from bursar.wire.timestamps import format_timestamp, parse_timestamp

KEY_LIFETIME_MS = 90 * 86_400_000
REASON_LENGTH_MAX = 512


async def create_key(authority: Authority, call: Call) -> Answer:
    """`POST /v1/admin/api-keys`: the one answer that ever contains the secret."""
    request = decode(wire.ApiKeyCreateRequest, call.body)
    now_ms = authority.clock.now_ms()
    secret = ids.new_secret()
    permissions = request.permissions if request.permissions is not None else DEFAULT_PERMISSIONS
    record = ApiKey(
        tenant=request.tenant_id,
        key_id=ids.prefixed_id("key_"),
        key_prefix=secret[: ids.KEY_PREFIX_LENGTH],
        secret_hash=hash_secret(authority.pepper, secret),
        name=request.name,
        status=KeyStatus.ACTIVE,
        permissions=tuple(permission.value for permission in permissions),
        scope_filter=tuple(request.scope_filter or ()),
        created_at_ms=now_ms,
        expires_at_ms=parse_timestamp(request.expires_at)
        if request.expires_at
        else now_ms + KEY_LIFETIME_MS,
        description=request.description,
        metadata=maybe_json(request.metadata),
    )
    command = CreateKey(tenant=request.tenant_id, origin=origin(call), record=record)
    sent, answer = await authority.perform(command)
    require(isinstance(answer, KeyAnswer), "creating a key answers with the key")
    body = {
        "key_id": record.key_id,
        "key_secret": secret,
        "key_prefix": record.key_prefix,
        "tenant_id": record.tenant,
        "permissions": list(record.permissions),
        "created_at": format_timestamp(
            answer.key.created_at_ms if isinstance(answer, KeyAnswer) else now_ms
        ),
        "expires_at": format_timestamp(record.expires_at_ms),
    }
    return Answer(sent.status, encode(body))


async def revoke_key(authority: Authority, call: Call) -> Answer:
    """`DELETE /v1/admin/api-keys/{key_id}`: final."""
    key_id = call.path["key_id"]
    reason = Query(call.query).text("reason", REASON_LENGTH_MAX)
    row = authority.reader.key(key_id)
    if row is None:
        raise refuse(ErrorCode.NOT_FOUND, f"API key not found: {key_id[:80]}")
    command = RevokeKey(tenant=row.tenant, origin=origin(call), key_id=key_id, reason=reason)
    return await authority.answer(command)


async def introspect(authority: Authority, call: Call) -> Answer:
    """`GET /v1/auth/introspect`: who is asking, and what they may do."""
    del authority
    principal = call.principal
    body: dict[str, object] = {
        "authenticated": True,
        "auth_type": "admin" if principal.is_operator else "tenant",
        "permissions": sorted(principal.permissions),
        "capabilities": capabilities(principal),
    }
    if principal.tenant is not None:
        body["tenant_id"] = principal.tenant
        if principal.scope_filter:
            body["scope_filter"] = list(principal.scope_filter)
    return Answer(200, encode(body))
