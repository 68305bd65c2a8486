"""API keys on the admin plane, and who the holder of one is (protocol 10.3, 6.7).

The rule that lives here: a secret leaves this server once, in the answer that makes the
key. Whatever else is told of a key is told without it.
"""

from __future__ import annotations

from dataclasses import replace

from bursar import ids
from bursar.authority import render
from bursar.authority.admin import maybe_json
from bursar.authority.authority import Authority, origin
from bursar.authority.call import Answer, Call, refuse
from bursar.authority.paging import SEARCH_LENGTH_MAX, Query
from bursar.authority.principal import capabilities, hash_secret
from bursar.core import scopes
from bursar.core.commands import CreateKey, KeyEdit, RevokeKey, UpdateKey
from bursar.core.outcomes import KeyAnswer
from bursar.core.state import ApiKey
from bursar.invariant import require
from bursar.ledger.ports import KeyQuery, KeySort
from bursar.vocabulary import DEFAULT_PERMISSIONS, ErrorCode, KeyStatus, TenantStatus
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
    _require_reachable(request.scope_filter, request.tenant_id)
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


async def list_keys(authority: Authority, call: Call) -> Answer:
    """`GET /v1/admin/api-keys`: filtered, sorted, paged; a status is that of this moment."""
    query, now_ms = Query(call.query), authority.clock.now_ms()
    wanted = KeyQuery(
        now_ms=now_ms,
        tenant=query.text("tenant_id"),
        status=query.choice("status", KeyStatus),
        search=query.text("search", SEARCH_LENGTH_MAX),
        sort_by=query.choice("sort_by", KeySort) or KeySort.CREATED_AT,
        descending=query.descending(),
        limit=query.limit(100),
        after=query.after("keys"),
    )
    page = authority.reader.keys(wanted)
    rows = [render.api_key(replace(row, status=row.status_at(now_ms))) for row in page.rows]
    return Answer(200, query.page("keys", rows, page))


async def update_key(authority: Authority, call: Call) -> Answer:
    """`PATCH /v1/admin/api-keys/{key_id}`; lists are replaced whole."""
    row = _known(authority, call)
    request = decode(wire.ApiKeyUpdateRequest, call.body)
    permissions, scope_filter = request.permissions, request.scope_filter
    _require_reachable(scope_filter, row.tenant)
    edit = KeyEdit(
        name=request.name,
        description=request.description,
        permissions=None if permissions is None else tuple(p.value for p in permissions),
        scope_filter=None if scope_filter is None else tuple(scope_filter),
        metadata=maybe_json(request.metadata),
    )
    command = UpdateKey(tenant=row.tenant, origin=origin(call), key_id=row.key_id, edit=edit)
    return await authority.answer(command)


async def revoke_key(authority: Authority, call: Call) -> Answer:
    """`DELETE /v1/admin/api-keys/{key_id}`: final."""
    reason = Query(call.query).text("reason", REASON_LENGTH_MAX)
    row = _known(authority, call)
    command = RevokeKey(tenant=row.tenant, origin=origin(call), key_id=row.key_id, reason=reason)
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


async def validate(authority: Authority, call: Call) -> Answer:
    """`POST /v1/auth/validate`: what a secret is good for, 200 whether it is or not."""
    request = decode(wire.ApiKeyValidationRequest, call.body)
    key = authority.reader.key_by_hash(hash_secret(authority.pepper, request.key_secret))
    if key is None:
        return _unusable(None, _unknown(authority, request.key_secret))
    reason = _why_unusable(authority, key)
    if reason is not None:
        return _unusable(key, reason)
    body: dict[str, object] = {
        "valid": True,
        "tenant_id": key.tenant,
        "key_id": key.key_id,
        "permissions": list(key.permissions),
        "expires_at": format_timestamp(key.expires_at_ms),
    }
    if key.scope_filter:
        body["scope_filter"] = list(key.scope_filter)
    return Answer(200, encode(body))


def _unknown(authority: Authority, secret: str) -> str:
    """Tell a secret that resembles a stored key's from one that resembles none."""
    if len(secret) < ids.KEY_PREFIX_LENGTH:
        return "KEY_NOT_FOUND"
    prefix = secret[: ids.KEY_PREFIX_LENGTH]
    query = KeyQuery(now_ms=authority.clock.now_ms(), key_prefix=prefix, limit=1)
    return "INVALID_KEY" if authority.reader.keys(query).rows else "KEY_NOT_FOUND"


def _why_unusable(authority: Authority, key: ApiKey) -> str | None:
    """Climb the checks of protocol 6.1 and 10.3; None if the key may be used for anything."""
    status = key.status_at(authority.clock.now_ms())
    if status is not KeyStatus.ACTIVE:
        return f"KEY_{status.value}"
    if not key.tenant:
        return "KEY_NOT_OWNED_BY_TENANT"
    tenant = authority.reader.tenant(key.tenant)
    if tenant is None:
        return "TENANT_NOT_FOUND"
    if tenant.status is None:
        return "INTERNAL_ERROR"
    return None if tenant.status is TenantStatus.ACTIVE else f"TENANT_{tenant.status.value}"


def _unusable(key: ApiKey | None, reason: str) -> Answer:
    body: dict[str, object] = {"valid": False, "tenant_id": "", "reason": reason}
    if key is not None:
        expires_at = format_timestamp(key.expires_at_ms)
        body |= {"tenant_id": key.tenant, "key_id": key.key_id, "expires_at": expires_at}
    return Answer(200, encode(body))


def _require_reachable(scope_filter: list[str] | None, tenant_id: str) -> None:
    """Refuse a filter with an entry that nothing of the tenant can ever fit."""
    for at, entry in enumerate(scope_filter or ()):
        wrong = scopes.filter_problem(entry, tenant_id)
        if wrong is not None:
            raise refuse(ErrorCode.INVALID_REQUEST, f"scope_filter[{at}]: {wrong}")


def _known(authority: Authority, call: Call) -> ApiKey:
    key_id = call.path["key_id"]
    row = authority.reader.key(key_id)
    if row is None:
        raise refuse(ErrorCode.NOT_FOUND, f"API key not found: {key_id[:80]}")
    return row
