"""The lease of a payment that takes long, kept by the SDK's heartbeat.

The rule that lives here: only the lease is kept. Who may pay, and how the payment ends, is not
the heartbeat's to say, so whoever ends the payment claims the lease first, and it beats no more.
"""

from __future__ import annotations

from typing import Any

from bursar.ap2.enter import Granted
from bursar.client.held import Engine, Held
from bursar.client.models import ReservationCreateResponse
from bursar.client.opening import Opened, Plan


def keep(
    engine: Engine, body: dict[str, Any], granted: Granted, sent_ms: int, received_ms: int
) -> Held:
    """Extend the lease until it is claimed, and return it.

    Args:
        engine: of the client that reserved.
        body: the one that reserved.
        granted: what was granted for it.
        sent_ms: when that was asked for, by a clock that only measures.
        received_ms: when it was answered.
    """
    key = str(body["idempotency_key"])
    estimate = body["estimate"]
    # The keys of the ends are not sent from here: the guard ends the payment with its own.
    subject, action, unit = body["subject"], body["action"], estimate["unit"]
    plan = Plan(subject, action, unit, estimate["amount"], key, key, key, ttl_ms=body["ttl_ms"])
    answer = ReservationCreateResponse.model_validate(
        {
            "decision": granted.decision,
            "reservation_id": granted.reservation_id,
            "affected_scopes": [],
            "expires_at_ms": granted.expires_at_ms,
            "remaining_ttl_ms": granted.remaining_ttl_ms,
        }
    )
    held = Held(engine, plan, Opened(answer, body, sent_ms, received_ms))
    held.keep_alive()
    return held
