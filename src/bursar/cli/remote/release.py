"""`bursar release`: give a reservation's hold back.

The rule that lives here: a release says why, because somebody will ask.
"""

from __future__ import annotations

from uuid import uuid4

from bursar.cli.remote.caller import part
from bursar.cli.remote.options import HERE, Remote
from bursar.cli.remote.show import Facts, amount


def release(
    reservation_id: str,
    /,
    *,
    reason: str,
    idempotency_key: str | None = None,
    remote: Remote = HERE,
) -> None:
    """Give back what a reservation holds: its action will not happen.

    With the admin key it works for any tenant, and the log says that it was the operator. If the
    action may have happened, do not release: its cost would be lost. Wait for the lease to end.

    Example: bursar release 01a1fbb9-1350-75df-9985-94342bf6c3c8 --reason "the agent died"

    Parameters
    ----------
    reservation_id
        The reservation.
    reason
        Why; it stays in the log.
    idempotency_key
        Key of an earlier attempt: then it happens once. By default a new one, which is shown.
    """
    key = idempotency_key or f"cli-{uuid4()}"
    body = {"idempotency_key": key, "reason": reason}
    with remote.connected() as caller:
        path = f"/v1/reservations/{part(reservation_id)}/release"
        done = caller.call("POST", path, body=body, key=key)
    facts: Facts = [("given back", amount(done.get("released"))), ("idempotency key", key)]
    said = f"reservation {reservation_id} is released"
    remote.show.result({"idempotency_key": key} | done, said, facts)
