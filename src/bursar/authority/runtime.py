"""The runtime plane: decide, reserve, commit, release, extend, debit (protocol 1).

The rule that lives here is the order in front of the ledger's own ladder (protocol 1.4):
the body's schema, the idempotency header, then the tenant and the key's reach; for an
operation on an id, unknown is 404 and another tenant's is 403, before any state.
"""

from __future__ import annotations

from bursar import ids
from bursar.authority.authority import (
    Authority,
    idempotency,
    origin,
    require_permission,
    require_reach,
    tenant_of,
)
from bursar.authority.call import Answer, Call, Refusal, refuse
from bursar.core import scopes
from bursar.core.commands import AnyCommand, Commit, Debit, Decide, Extend, Release, Reserve
from bursar.vocabulary import SCOPE_KINDS, ErrorCode, Permission
from bursar.wire import runtime as wire
from bursar.wire.codec import canonical, decode

RESERVATION_ID_LENGTH_MAX = 128


async def decide(authority: Authority, call: Call) -> Answer:
    """`POST /v1/decide`: what a reserve would answer, holding nothing."""
    require_permission(call.principal, Permission.RESERVATIONS_CREATE)
    request = decode(wire.DecisionRequest, call.body)
    identity = idempotency(call, "decide", request, request.idempotency_key)
    tenant, path = _admitted(call, request.subject)
    return await authority.answer(
        Decide(
            tenant=tenant,
            origin=origin(call),
            idempotency=identity,
            unit=request.estimate.unit,
            estimate_amount=request.estimate.amount,
            scopes=path,
        )
    )


async def reserve(authority: Authority, call: Call) -> Answer:
    """`POST /v1/reservations`: hold an estimate, or evaluate a dry run."""
    require_permission(call.principal, Permission.RESERVATIONS_CREATE)
    request = decode(wire.ReservationCreateRequest, call.body)
    identity = idempotency(call, "reserve", request, request.idempotency_key)
    tenant, path = _admitted(call, request.subject)
    return await authority.answer(
        Reserve(
            tenant=tenant,
            origin=origin(call),
            idempotency=identity,
            reservation_id=ids.new_id(authority.clock.now_ms()),
            unit=request.estimate.unit,
            estimate_amount=request.estimate.amount,
            scopes=path,
            subject=_text(request.subject.model_dump(exclude_none=True)),
            action=_text(request.action.model_dump(exclude_none=True)),
            grace_ms=request.grace_period_ms,
            ttl_ms=request.ttl_ms,
            overage_policy=request.overage_policy,
            dry_run=request.dry_run,
            metadata=_maybe(request.metadata),
        )
    )


async def commit(authority: Authority, call: Call) -> Answer:
    """`POST /v1/reservations/{id}/commit`: settle with the actual cost."""
    require_permission(call.principal, Permission.RESERVATIONS_COMMIT)
    request = decode(wire.CommitRequest, call.body)
    reservation_id = reservation_id_of(call)
    identity = idempotency(call, f"commit:{reservation_id}", request, request.idempotency_key)
    command = Commit(
        tenant=tenant_of(call.principal),
        origin=origin(call),
        idempotency=identity,
        reservation_id=reservation_id,
        unit=request.actual.unit,
        actual_amount=request.actual.amount,
        metrics=None
        if request.metrics is None
        else _text(request.metrics.model_dump(exclude_none=True)),
        metadata=_maybe(request.metadata),
    )
    return await _on_reservation(authority, call, command, reservation_id)


async def release(authority: Authority, call: Call) -> Answer:
    """`POST /v1/reservations/{id}/release`: give the hold back; open to the operator."""
    require_permission(call.principal, Permission.RESERVATIONS_RELEASE)
    request = decode(wire.ReleaseRequest, call.body)
    reservation_id = reservation_id_of(call)
    identity = idempotency(call, f"release:{reservation_id}", request, request.idempotency_key)
    command = Release(
        tenant=call.principal.tenant or owner_of(authority, reservation_id),
        origin=origin(call, on_behalf=True),
        idempotency=identity,
        reservation_id=reservation_id,
        reason=request.reason,
    )
    return await _on_reservation(authority, call, command, reservation_id)


async def extend(authority: Authority, call: Call) -> Answer:
    """`POST /v1/reservations/{id}/extend`: move the lease's expiry out."""
    require_permission(call.principal, Permission.RESERVATIONS_EXTEND)
    request = decode(wire.ReservationExtendRequest, call.body)
    reservation_id = reservation_id_of(call)
    identity = idempotency(call, f"extend:{reservation_id}", request, request.idempotency_key)
    command = Extend(
        tenant=tenant_of(call.principal),
        origin=origin(call),
        idempotency=identity,
        reservation_id=reservation_id,
        extend_by_ms=request.extend_by_ms,
        metadata=_maybe(request.metadata),
    )
    return await _on_reservation(authority, call, command, reservation_id)


async def debit(authority: Authority, call: Call) -> Answer:
    """`POST /v1/events`: account for a cost that already happened."""
    require_permission(call.principal, Permission.RESERVATIONS_CREATE)
    request = decode(wire.EventCreateRequest, call.body)
    identity = idempotency(call, "event", request, request.idempotency_key)
    tenant, path = _admitted(call, request.subject)
    return await authority.answer(
        Debit(
            tenant=tenant,
            origin=origin(call),
            idempotency=identity,
            event_id=ids.new_id(authority.clock.now_ms()),
            unit=request.actual.unit,
            actual_amount=request.actual.amount,
            scopes=path,
            subject=_text(request.subject.model_dump(exclude_none=True)),
            action=_text(request.action.model_dump(exclude_none=True)),
            overage_policy=request.overage_policy,
            metrics=None
            if request.metrics is None
            else _text(request.metrics.model_dump(exclude_none=True)),
            metadata=_maybe(request.metadata),
            client_time_ms=request.client_time_ms,
        )
    )


def owner_of(authority: Authority, reservation_id: str) -> str:
    """Return the tenant that owns a reservation; an owner never changes.

    Raises:
        Refusal: nobody owns it (NOT_FOUND).
    """
    owner = authority.reader.owner_of(reservation_id)
    if owner is None:
        raise refuse(ErrorCode.NOT_FOUND, f"Reservation not found: {reservation_id}")
    return owner


def foreign(reservation_id: str) -> Refusal:
    """Return the refusal for a reservation that belongs to another tenant."""
    return refuse(ErrorCode.FORBIDDEN, f"Reservation {reservation_id} belongs to another tenant")


async def _on_reservation(
    authority: Authority, call: Call, command: AnyCommand, reservation_id: str
) -> Answer:
    """Execute a command on a reservation; one that is another tenant's is 403, not 404."""
    if call.principal.scope_filter:  # the scope of a reservation never changes: read it ahead
        row = authority.reader.reservation(command.tenant, reservation_id)
        if row is not None:
            require_reach(call.principal, row.scope_path)
    try:
        return await authority.answer(command)
    except Refusal as refusal:
        if refusal.refused.code is ErrorCode.NOT_FOUND:
            owner = authority.reader.owner_of(reservation_id)
            if owner is not None and owner != command.tenant:
                raise foreign(reservation_id) from None
        raise


def _admitted(call: Call, subject: wire.Subject) -> tuple[str, tuple[str, ...]]:
    """Return the caller's tenant and the subject's scopes, if the caller reaches them."""
    tenant = tenant_of(call.principal)
    if subject.tenant is not None and subject.tenant != tenant:
        raise refuse(
            ErrorCode.FORBIDDEN,
            f"subject.tenant is {subject.tenant!r} but this API key belongs to {tenant!r}",
        )
    named = {kind: getattr(subject, kind) for kind in SCOPE_KINDS}
    path = scopes.derive({kind: value for kind, value in named.items() if value is not None})
    require_reach(call.principal, path[-1])
    return tenant, path


def reservation_id_of(call: Call) -> str:
    """Return the reservation id of the path, if it could be one."""
    reservation_id = call.path["reservation_id"]
    if not 1 <= len(reservation_id) <= RESERVATION_ID_LENGTH_MAX:
        raise refuse(
            ErrorCode.INVALID_REQUEST,
            f"reservation_id: must be 1 to {RESERVATION_ID_LENGTH_MAX} characters, got "
            f"{len(reservation_id)}",
        )
    return reservation_id


def _text(value: object) -> str:
    return canonical(value).decode()


def _maybe(value: object | None) -> str | None:
    return None if value is None else _text(value)
