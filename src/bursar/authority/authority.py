"""The authority: one ledger, its time and its randomness, behind every operation.

The rule that lives here: operations get what they need from one object, so that an
embedded client and a server differ in nothing but who calls them.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from bursar import ids
from bursar.authority import render
from bursar.authority.call import Answer, Call, Refusal, refuse
from bursar.authority.principal import Principal
from bursar.clock import Clock
from bursar.core.commands import AnyCommand, Idempotency, Origin
from bursar.core.outcomes import Answer as LedgerAnswer
from bursar.core.outcomes import Refused
from bursar.ledger import periods
from bursar.ledger.batcher import Batcher, Closed, Overloaded
from bursar.ledger.ports import Reader
from bursar.ledger.service import Accepted
from bursar.vocabulary import ActorType, ErrorCode, Permission
from bursar.wire.codec import fingerprint, payload_of
from bursar.wire.fields import Request

HEADER_MISMATCH = "X-Idempotency-Key: must equal idempotency_key in the body, or be left out"


@dataclass(frozen=True, slots=True)
class Authority:
    """What operations work with.

    Attributes:
        batcher: the write path.
        reader: the read side of the same store.
        clock: the ledger's time; ids are drawn from it too.
        pepper: keys the hashes of API secrets.
        one_bulk: held by the bulk action that runs. They run one at a time, so that the same
            one sent twice at once waits and gets the answer of the first.
    """

    batcher: Batcher
    reader: Reader
    clock: Clock
    pepper: bytes
    one_bulk: asyncio.Lock = field(default_factory=asyncio.Lock)

    def begin_periods(self, tenant: str | None) -> None:
        """Begin the periods that are due, so that a read sees none that is over.

        Blocks while the ledger writes; where nothing is due, as nearly always, that is one
        look into an index. A ledger that cannot write now answers reads as it is.

        Args:
            tenant: whose budgets will be read; None for everybody's.
        """
        due = periods.plan(self.reader, self.clock.now_ms(), ids.new_trace_id(), tenant)
        with contextlib.suppress(Overloaded, Closed):
            for waiting in [self.batcher.submit(roll) for roll in due]:
                waiting.result()

    async def perform(self, command: AnyCommand) -> tuple[Answer, LedgerAnswer | None]:
        """Execute a command and return its answer to send, and the ledger's own.

        The second is None for a replay.

        Raises:
            Refusal: the ledger said no.
            Exception: the ledger could not say; nothing of the command was saved, or that
                is unknown (`StoreOutcomeUnknown`).
        """
        outcome = await self.batcher.execute(command)
        if isinstance(outcome, Accepted):
            sent = Answer(outcome.reply.status, render.body_of(outcome))
            return sent, outcome.answer
        if isinstance(outcome, Refused):
            raise Refusal(outcome)
        raise outcome.error

    async def answer(self, command: AnyCommand) -> Answer:
        """Execute a command and return its answer to send (see `perform`)."""
        sent, _ = await self.perform(command)
        return sent


def idempotency(
    call: Call, endpoint: str, request: Request, key: str, **more: object
) -> Idempotency:
    """Return the identity of a request: endpoint, key, and the digest of what it says.

    Args:
        call: the request's call; its idempotency header must agree with the body.
        endpoint: the operation, with the id it is about if it has one.
        request: the decoded body, digested after defaults.
        key: the body's idempotency key.
        more: parts of the request that travel outside the body (scope and unit of a fund).

    Raises:
        Refusal: header and body name different keys.
    """
    header = call.idempotency_header
    if header is not None and header != key:
        raise refuse(ErrorCode.INVALID_REQUEST, HEADER_MISMATCH)
    payload = payload_of(request)
    del payload["idempotency_key"]
    return Idempotency(endpoint, key, fingerprint([payload, more] if more else payload))


def origin(call: Call, *, on_behalf: bool = False) -> Origin:
    """Return who asked, for the log; `on_behalf` marks an operator acting for a tenant."""
    actor = call.principal.actor
    if on_behalf and call.principal.is_operator:
        actor = ActorType.ADMIN_ON_BEHALF_OF
    return Origin(actor, call.principal.key_id, call.request_id, call.trace_id)


def require_permission(
    principal: Principal,
    permission: Permission,
    code: ErrorCode = ErrorCode.FORBIDDEN,
) -> None:
    """Refuse a caller that does not hold `permission`."""
    if not principal.may(permission):
        raise refuse(
            code,
            f"This API key lacks the permission {permission.value}; create a key that has it",
        )


def require_reach(principal: Principal, scope: str) -> None:
    """Refuse a caller whose key's scope filter does not admit `scope`."""
    if not principal.reaches(scope):
        raise refuse(
            ErrorCode.FORBIDDEN,
            f"{scope} is outside this API key's scope filter: {', '.join(principal.scope_filter)}",
        )


def tenant_of(principal: Principal) -> str:
    """Return the caller's tenant; operations that call this are not open to the operator."""
    if principal.tenant is None:
        raise refuse(
            ErrorCode.UNAUTHORIZED, "This operation needs a tenant's key in X-Cycles-API-Key"
        )
    return principal.tenant
