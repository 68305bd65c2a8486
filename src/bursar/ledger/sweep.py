"""The expiry sweep: finds lapsed leases and asks the ledger to expire them.

The rule that lives here: the sweep decides nothing. It reads candidates, and every one of
them becomes an `Expire` command that looks again under the transaction (protocol 4.5), so
two sweeps, or a sweep and a late commit, can meet without harm.
"""

from __future__ import annotations

from collections.abc import Sequence

from bursar.core.commands import Expire, unasked
from bursar.ledger.ports import Reader

SWEEP_MAX = 1_000


def plan(reader: Reader, now_ms: int, trace_id: str, limit: int = SWEEP_MAX) -> Sequence[Expire]:
    """Return the commands that expire what is due at `now_ms`, oldest first, as one trace."""
    origin = unasked(trace_id)
    return [
        Expire(tenant=tenant, reservation_id=reservation_id, origin=origin)
        for tenant, reservation_id in reader.due(now_ms, limit)
    ]
