"""Cancellation that is passed down: a scope knows its deadline, its parent and its turn.

The rule that lives here: a scope fires once and never again becomes quiet; the next loop
gets a scope of its own. Firing closes the gate of the turn that runs under it before `cancel`
returns, so that whoever cancels knows what the verdict is.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
import weakref
from collections.abc import Callable

from bursar.agent.gate import Gate
from bursar.agent.results import StopReason, TurnResult

Clock = Callable[[], float]

GRACE_SECONDS = 0.01
"""How long somebody who was told to stop may take to say that it has stopped."""


class ScopeFired(RuntimeError):
    """A scope that fired was to be used again; make a new one."""


class CancelScope(threading.Event):
    """A `threading.Event` that is set by `cancel`, by its parent, or when its time is over.

    It can be handed to anything that takes an event. `set` is `cancel`.

    >>> scope = CancelScope(timeout_seconds=60)
    >>> child = CancelScope(parent=scope)
    >>> child.deadline == scope.deadline
    True
    >>> scope.cancel()
    True
    >>> child.is_set(), child.reason
    (True, <StopReason.CANCELLED: 'cancelled'>)
    """

    def __init__(
        self,
        timeout_seconds: float | None = None,
        *,
        parent: CancelScope | None = None,
        now: Clock = time.monotonic,
    ) -> None:
        """Begin; the deadline is the earlier one of the parent's and one's own.

        Args:
            timeout_seconds: from now; 0 or less is over at once, None never.
            parent: whose cancellation and deadline hold here as well.
            now: the monotonic clock.

        Raises:
            ValueError: `timeout_seconds` is not a number.
        """
        super().__init__()
        self.now = now
        self._guard = threading.RLock()
        self._order = itertools.count()
        self._listeners: dict[int, Callable[[], object]] = {}
        self._children: weakref.WeakSet[CancelScope] = weakref.WeakSet()
        self.parent = parent
        self.reason: StopReason | None = None
        self._latest: Gate | None = None
        self._gates: tuple[Gate, ...] = ()
        self.deadline = _deadline(timeout_seconds, now())
        if parent is not None:
            self.join(parent)

    def join(self, other: CancelScope) -> None:
        """Fire with another scope, and end no later than it does."""
        self.deadline = earlier(other.deadline, self.deadline)
        other._adopt(self)

    def cancel(self, reason: StopReason = StopReason.CANCELLED) -> bool:
        """Fire, and close the turns under this scope; return whether this was the first call."""
        with self._guard:
            if self.reason is not None:
                return False
            self.reason = reason
            listeners, self._listeners = list(self._listeners.values()), {}
            children = list(self._children)
            super().set()
        for gate in self._gates:
            gate.close(reason)
        for child in children:
            child.cancel(reason)
        for listener in listeners:
            listener()
        return True

    def set(self) -> None:
        """Cancel; the name is what an event calls it."""
        self.cancel()

    def clear(self) -> None:
        """Refuse: a scope that fired is never used again.

        Raises:
            ScopeFired: always.
        """
        raise ScopeFired("a cancel scope cannot be cleared; make a new CancelScope")

    def is_set(self) -> bool:
        """Return whether it fired; a deadline that has passed fires it now.

        A parent that fired may still be closing another turn before it comes to tell of it here.
        """
        if self.reason is None and self.parent is not None and self.parent.is_set():
            self.cancel(self.parent.reason or StopReason.CANCELLED)
        if self.reason is None and self.deadline is not None and self.now() >= self.deadline:
            self.cancel(StopReason.TIMEOUT)
        return self.reason is not None

    def remaining(self) -> float | None:
        """Return the seconds until the deadline, at least 0, or None."""
        return None if self.deadline is None else max(0.0, self.deadline - self.now())

    def enter(self, gate: Gate) -> None:
        """Put a turn under this scope and those above; it is closed when one of them fires."""
        with self._guard:
            self._gates = (*(one for one in self._gates if not one.decided), gate)
        self._latest = gate
        if self.parent is not None:
            self.parent.enter(gate)
        if self.reason is not None:
            gate.close(self.reason)

    def next_turn(self) -> None:
        """Forget the turn before, so that `closed_turn` cannot mean it."""
        self._latest = None

    def closed_turn(self) -> TurnResult | None:
        """Return the result of the latest turn if it had committed before this fired.

        A turn that is open is closed; None also means that there was none.
        """
        if self._latest is None:
            return None
        return self._latest.close(self.reason or StopReason.CANCELLED).result

    def listen(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Call `listener` once when this fires, or now if it has; return how to stop that.

        It is called on the thread that cancels, and must not block.
        """
        number = next(self._order)
        # Added before the question is asked: a signal handler may cancel in between.
        self._listeners[number] = listener
        if self.reason is not None and self._listeners.pop(number, None) is not None:
            listener()

        def stop() -> None:
            self._listeners.pop(number, None)

        return stop

    def _adopt(self, child: CancelScope) -> None:
        with self._guard:
            self._children.add(child)
        if self.reason is not None:
            child.cancel(self.reason)


def earlier(one: float | None, other: float | None) -> float | None:
    """Return the smaller of two deadlines; None is never."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _deadline(timeout_seconds: float | None, now: float) -> float | None:
    if timeout_seconds is None or timeout_seconds == math.inf:
        return None
    if math.isnan(timeout_seconds):
        raise ValueError("timeout_seconds is not a number; give seconds, or None for no deadline")
    return now + timeout_seconds
