"""What a heartbeat tells its owner when a lease could not be extended.

The rule that lives here: every failed extension is one of these, whether or not the guard
can go on, so that none is invisible.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HeartbeatFailure:
    """One extension that did not succeed.

    `disposition` says what the heartbeat does about it (such as `retrying` or `stopped`), and
    `reason` says in words what happened. `status` and `error_code` are those of the answer,
    where there was one.
    """

    reservation_id: str
    disposition: str
    reason: str
    status: int | None
    error_code: str | None
    at_ms: int
