"""Rate limits: how many fresh commands of a kind a scope may have accepted per minute.

The rule that lives here (protocol 5.2): a window is one minute of the ledger's own time,
and it counts what was accepted. Replays, refusals, decisions and dry runs neither count nor
are limited. Throttling is never a budget outcome: the same request passes once the minute
is over, without anybody's help.
"""

from __future__ import annotations

from dataclasses import dataclass

from bursar.core import scopes
from bursar.core.outcomes import Refused
from bursar.core.snapshot import Snapshot
from bursar.core.state import Meter, Policy
from bursar.vocabulary import ErrorCode, MeterKind

WINDOW_MS = 60_000


@dataclass(frozen=True, slots=True)
class Limit:
    """What a policy allows a scope of one kind of command in the current window."""

    policy: Policy
    kind: MeterKind
    per_minute_max: int
    scope_path: str
    window_start_ms: int
    counted: int

    @property
    def reached(self) -> bool:
        """Whether one more command would be too many."""
        return self.counted >= self.per_minute_max

    def wait_ms(self, now_ms: int) -> int:
        """Return how long it is until the next window begins."""
        return self.window_start_ms + WINDOW_MS - now_ms

    def retry_at_ms(self, now_ms: int) -> int:
        """Return when a caller who waits as told comes back: whole seconds, rounded up."""
        return now_ms + 1_000 * seconds(self.wait_ms(now_ms))

    def counted_once_more(self) -> Meter:
        """Return the meter after one more accepted command."""
        return Meter(
            self.policy.tenant,
            self.scope_path,
            self.policy.policy_id,
            self.kind,
            self.window_start_ms,
            self.counted + 1,
        )

    def refusal(self, now_ms: int) -> Refused:
        """Say that the limit is reached, and when to ask again."""
        wait_ms = self.wait_ms(now_ms)
        return Refused(
            ErrorCode.LIMIT_EXCEEDED,
            f"Policy {self.policy.policy_id} allows {self.per_minute_max} {self.kind} requests per "
            f"minute at {scopes.shown(self.scope_path)}; send the same request again in "
            f"{seconds(wait_ms)} s",
            details={
                "policy_id": self.policy.policy_id,
                "scope": self.scope_path,
                "limit": self.per_minute_max,
                "window_ms": WINDOW_MS,
                "retry_after_ms": wait_ms,
            },
            retry_after_ms=wait_ms,
        )


def limit(
    snapshot: Snapshot, policy: Policy | None, scope_path: str, kind: MeterKind, now_ms: int
) -> Limit | None:
    """Return the limit that counts for a command now, or None if there is none."""
    if policy is None:
        return None
    rates = policy.rates
    most = (
        rates.reservations_per_minute_max
        if kind is MeterKind.RESERVE
        else rates.commits_per_minute_max
    )
    if most is None:
        return None
    start_ms = now_ms - now_ms % WINDOW_MS
    meter = snapshot.meter(policy.tenant, scope_path, policy.policy_id, kind)
    counted = meter.count if meter is not None and meter.window_start_ms == start_ms else 0
    return Limit(policy, kind, most, scope_path, start_ms, counted)


def seconds(wait_ms: int) -> int:
    """Return a wait in whole seconds, rounded up, at least 1: what Retry-After says."""
    return max(1, -(-wait_ms // 1_000))
