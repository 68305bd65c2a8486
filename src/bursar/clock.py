"""The only place that reads the time.

The rule that lives here: ledger time never goes backwards. A wall clock may be set back
by an operator or by NTP; leases and the entry log must not notice. Core code never
imports this module: time reaches it as an argument, in epoch milliseconds.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """A source of epoch milliseconds that never decreases."""

    def now_ms(self) -> int:
        """Return the current time in epoch milliseconds."""
        ...


class SystemClock:
    """Wall time, corrected by the monotonic clock so that it never runs backwards.

    A wall clock that jumps ahead is followed. One that jumps back is not: time then goes
    on at the monotonic clock's pace. `not_before_ms` seeds it with the newest time a
    ledger has stored, so that a restart after such a jump keeps the promise too.
    """

    def __init__(self, not_before_ms: int = 0) -> None:
        """Start at the wall clock, or at `not_before_ms` (epoch ms) if that is later."""
        self._lock = threading.Lock()
        self._base_ms = max(time.time_ns() // 1_000_000, not_before_ms)
        self._base_ns = time.monotonic_ns()

    def now_ms(self) -> int:
        """Return epoch milliseconds, never less than an earlier answer."""
        with self._lock:
            elapsed_ns = time.monotonic_ns()
            steady_ms = self._base_ms + (elapsed_ns - self._base_ns) // 1_000_000
            wall_ms = time.time_ns() // 1_000_000
            if wall_ms > steady_ms:
                self._base_ms, self._base_ns = wall_ms, elapsed_ns
                return wall_ms
            return steady_ms

    def behind_ms(self) -> int:
        """Return how far the wall clock lags ledger time, in milliseconds (0 is healthy)."""
        return max(0, self.now_ms() - time.time_ns() // 1_000_000)
