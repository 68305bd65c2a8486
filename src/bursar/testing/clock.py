"""A clock that stands still until a test moves it.

The rule that lives here: time in a test is data. Nothing sleeps and nothing reads the
machine's clock.
"""

from __future__ import annotations

import threading

START_MS = 1_750_000_000_000  # 2025-06-15T15:06:40Z


class FakeClock:
    """A `Clock` that shows what it was set to.

    Unlike a real clock it can be set back, so that a test may show what happens then.

    >>> clock = FakeClock(1_000)
    >>> clock.advance_ms(250)
    >>> clock.now_ms()
    1250
    """

    def __init__(self, at_ms: int = START_MS) -> None:
        """Start at `at_ms`, in epoch milliseconds."""
        self._lock = threading.Lock()
        self._at_ms = at_ms

    def now_ms(self) -> int:
        """Return the time that the clock was set to, in epoch milliseconds."""
        with self._lock:
            return self._at_ms

    def set_ms(self, at_ms: int) -> None:
        """Jump to `at_ms`, forwards or back."""
        with self._lock:
            self._at_ms = at_ms

    def advance_ms(self, by_ms: int) -> None:
        """Let `by_ms` milliseconds pass.

        Raises:
            ValueError: `by_ms` is negative.
        """
        if by_ms < 0:
            raise ValueError(f"by_ms must be at least 0, not {by_ms}; use set_ms to go back")
        with self._lock:
            self._at_ms += by_ms
