"""What a guarded action can see of its own reservation, wherever it runs.

The rule that lives here: the current reservation is a context variable that is set and
reset with a token, so a nested guard gives the outer one back, tasks see their own, and
`contextvars.copy_context` carries it into threads. The same holds for whether the code is
interruptible: cancelled by a deadline that does not ask what the code is doing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bursar.client.models import Amount, Balance, Caps, CyclesMetrics, ReservationCreateResponse
    from bursar.vocabulary import Decision


@dataclass
class CyclesContext:
    """The reservation of the guarded action that is running.

    `expires_at_ms` is the server's clock and follows the heartbeat. What is put into
    `metrics` and `commit_metadata` travels with the commit. Long actions look at `cancelled`.
    """

    reservation_id: str
    estimate: int
    decision: Decision
    caps: Caps | None = None
    expires_at_ms: int | None = None
    affected_scopes: list[str] | None = None
    scope_path: str | None = None
    reserved: Amount | None = None
    balances: list[Balance] | None = None
    metrics: CyclesMetrics | None = None
    commit_metadata: dict[str, Any] | None = None
    spent: int | None = field(default=None, repr=False)
    _cancelled: threading.Event | None = field(default=None, init=False, repr=False, compare=False)
    _changing: threading.Lock = field(
        default_factory=threading.Lock, init=False, repr=False, compare=False
    )

    @property
    def cancelled(self) -> threading.Event:
        """Set when the lease could not be kept and the policy is `cancel`; made when asked for."""
        with self._changing:
            if self._cancelled is None:
                self._cancelled = threading.Event()
            return self._cancelled

    def has_caps(self) -> bool:
        """Return whether the action has limits to keep within."""
        return self.caps is not None

    def update_expires_at_ms(self, new_expires_at_ms: int) -> None:
        """Note a new end of the lease (epoch milliseconds, the server's clock)."""
        self.expires_at_ms = new_expires_at_ms

    def record_spend(self, amount: int) -> None:
        """Add to what is known to be spent, in the unit of the estimate.

        If the action then fails or is cancelled, this much is committed instead of being
        released. An action that ends well commits its actual cost, as always.

        Raises:
            ValueError: `amount` is not a non-negative int64.
        """
        from bursar.client.validation import validate_non_negative

        validate_non_negative(amount, "amount")
        with self._changing:  # several threads may run the action
            self.spent = (self.spent or 0) + amount


_current: ContextVar[CyclesContext | None] = ContextVar("bursar_context", default=None)


def get_cycles_context() -> CyclesContext | None:
    """Return the reservation of the innermost guarded action around this code, or None."""
    return _current.get()


def enter(context: CyclesContext) -> Token[CyclesContext | None]:
    """Make `context` the current one and return what `leave` needs."""
    return _current.set(context)


def leave(token: Token[CyclesContext | None]) -> None:
    """Give the outer context back.

    A generator may be closed by another task or thread than the one that began it; there, the
    token means nothing and there is nothing to give back.
    """
    try:  # noqa: SIM105 - every call comes by here, and this costs nothing
        _current.reset(token)
    except ValueError:
        pass


_interruptible: ContextVar[bool] = ContextVar("bursar_interruptible", default=False)


def is_interruptible() -> bool:
    """Return whether a deadline may cancel this code anywhere, as it does a tool of an agent.

    Who is cancelled here may have acted and not heard of it.
    """
    return _interruptible.get()


@contextmanager
def interruptible() -> Iterator[None]:
    """Say so of the code in the block, and of what it starts."""
    token = _interruptible.set(True)
    try:
        yield
    finally:
        _interruptible.reset(token)


def from_answer(answer: ReservationCreateResponse, estimate: int) -> CyclesContext:
    """Return the context of a reservation from the answer that granted it."""
    return CyclesContext(
        reservation_id=answer.reservation_id or "",
        estimate=estimate,
        decision=answer.decision,
        caps=answer.caps,
        expires_at_ms=answer.expires_at_ms,
        affected_scopes=answer.affected_scopes,
        scope_path=answer.scope_path,
        reserved=answer.reserved,
        balances=answer.balances,
    )
