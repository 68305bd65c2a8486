"""One gate per turn: the first who arrives decides whether the turn is part of the session.

The rule that lives here: `commit` and `close` take the session's lock, and the first caller
fixes the verdict; the other is told what it was. The session changes only inside a winning
`commit`, so what a caller was told and what the session says cannot disagree.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from bursar.agent.results import StopReason, TurnResult


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a turn, for good; `result` is there if it committed."""

    reason: StopReason
    result: TurnResult | None = None

    @property
    def committed(self) -> bool:
        """Whether the turn is part of the session."""
        return self.result is not None


class Gate:
    """The decision about one turn.

    The lock is the session's and reentrant: a signal handler may close a gate on the very
    thread that is committing. It is told `completed` then, because nothing can stop that
    commit any more but its own failure.
    """

    __slots__ = ("_lock", "_verdict")

    def __init__(self, lock: threading.RLock | None = None) -> None:
        """Open; nothing is decided."""
        self._lock = lock or threading.RLock()
        self._verdict: Verdict | None = None

    @property
    def decided(self) -> bool:
        """Whether there is a verdict."""
        return self._verdict is not None

    def commit(self, result: TurnResult, publish: Callable[[], None]) -> Verdict:
        """Make the turn part of the session, unless it was closed before.

        Args:
            result: what the caller will be told.
            publish: makes the new state durable and visible; it runs at most once.

        Returns:
            The verdict, whoever decided it. If `publish` raises, the gate is closed with
            `error`, the session is as it was, and the exception goes on.
        """
        with self._lock:
            if self._verdict is None:
                self._verdict = Verdict(StopReason.COMPLETED, result)
                try:
                    publish()
                except BaseException:
                    self._verdict = Verdict(StopReason.ERROR)
                    raise
            return self._verdict

    def close(self, reason: StopReason) -> Verdict:
        """Keep the turn out of the session, unless it committed before; return the verdict."""
        with self._lock:
            if self._verdict is None:
                self._verdict = Verdict(reason)
            return self._verdict
